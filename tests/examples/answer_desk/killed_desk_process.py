"""A program that a test runs: the answer desk, killed at each of its records, then taken up.

`python killed_desk_process.py FOLDER MOMENT` prints one JSON line per kill; the last line is of a
run that nobody killed. MOMENT is `after` (the record is on disk, and nothing has followed from it)
or `before` (what the record tells has happened, and it is not on disk). Each process is a fork of
this one, which has read the documents already.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent.parent
sys.path.insert(0, str(ROOT))  # where the example is; a program's path begins with its own folder

from examples.answer_desk.desk import Release, desk, library  # noqa: E402
from stageflow import Run, Runtime  # noqa: E402
from stageflow.journal.journal import GroupCommit  # noqa: E402
from stageflow.journal.sqlite import SQLiteStore  # noqa: E402
from stageflow.journal.store import LoadedRun, RunHeader  # noqa: E402
from stageflow.model.record import Record, RecordType  # noqa: E402

QUESTION = "Why are default values shared between objects?"
"""Its first answer is sent back: the desk's loop is part of what is killed."""

FIRST_WRITE = 2
"""Records that are written together when a run is made."""

RUN = "r"
WORD = Release(approved=True)


MOMENT = sys.argv[2]


class Killing(GroupCommit):
    """A journal whose process dies by SIGKILL at record `last` of the run."""

    def __init__(self, path: Path, last: int) -> None:
        super().__init__(SQLiteStore(path))
        self._last = last

    def _passes(self, seq: int, moment: str) -> None:
        if moment == MOMENT and seq >= self._last:
            os.kill(os.getpid(), signal.SIGKILL)

    async def create(self, header: RunHeader, records: tuple[Record, ...]) -> int:
        epoch = await super().create(header, records)  # one write, of all of them
        self._passes(records[-1].seq, "after")
        return epoch

    async def append(self, run: str, epoch: int, records: tuple[Record, ...]) -> None:
        for record in records:  # one at a time, so that the kill may fall between any two
            self._passes(record.seq, "before")
            await super().append(run, epoch, (record,))
            self._passes(record.seq, "after")

    async def claim(self, run: str, *, rerun: Sequence[str] | None = None) -> LoadedRun:
        loaded = await super().claim(run, rerun=rerun)
        self._passes(loaded.records[-1].seq, "after")
        return loaded


async def asked(folder: Path, last: int) -> None:
    """The first process: the run, up to its editor."""
    async with Runtime(journal=Killing(folder / "journal.db", last)) as runtime:
        run = await desk.using(runtime=runtime, run_id=RUN).run(text=QUESTION)
        assert (run.status, run.reason) == ("suspended", "waiting")


async def released(folder: Path, last: int) -> None:
    """The second process: the editor's word, up to the end."""
    async with Runtime(journal=Killing(folder / "journal.db", last)) as runtime:
        run = await (await runtime.signal(RUN, "release", WORD, by="first", pipeline=desk))
        assert run.status == "ok", run


async def taken_up(folder: Path) -> dict[str, Any]:
    """The process after the kill: what it found, what it did, and what came of it."""
    started = bodies(folder)
    async with Runtime(journal=folder / "journal.db") as runtime:
        before = await runtime.load(RUN)
        run: Run[Any] = await runtime.resume(RUN, pipeline=desk)
        waited = run.status == "suspended"
        if waited:
            (question,) = await runtime.waiting(RUN, pipeline=desk)
            seen = question.shown_hash
            word = runtime.signal(RUN, "release", WORD, by="second", shown=seen, pipeline=desk)
            run = await (await word)
        after = await runtime.load(RUN)
    return {
        "records": len(before.records),
        "last": before.records[-1].type.value,
        "status": run.status,
        "output": run.output.model_dump(),
        "waited": waited,
        "answered_before": any(name == "release" for name, _ in results(before)),
        "started": dict(bodies(folder) - started),
        "finished": dict(by_name(results(after) - results(before))),
        "lost": sorted(map(str, results(before) - results(after))),
        "twice": sorted(name for (name, _), n in results(after).items() if n > 1),
        "cut_off": sorted(started - by_name(results(before))),
        "letters": len(list((folder / "outbox").iterdir())),
        "revisions": run.nodes["explanation"].revision,
    }


def bodies(folder: Path) -> Counter[str]:
    """How often each stage's or step's body has started, by the desk's diary."""
    diary = folder / "diary.txt"
    lines = diary.read_text().splitlines() if diary.exists() else []
    return Counter(line.split()[1] for line in lines)


def results(loaded: LoadedRun) -> Counter[tuple[str, int]]:
    """Accepted outcomes of nodes and results of steps, by name and revision."""
    return Counter(
        (record.node if record.is_accepted else record.data["key"], record.revision)
        for record in loaded.records
        if record.is_accepted or record.type is RecordType.STEP
    )


def by_name(found: Counter[tuple[str, int]]) -> Counter[str]:
    return sum((Counter({name: n}) for (name, _), n in found.items()), Counter())


def forked(main: Callable[[], Any], folder: Path) -> tuple[int, Any]:
    """(wait status, what `main` gave) of a child process in `folder`."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        status = 1
        try:
            os.environ["ANSWER_DESK_DIARY"] = str(folder / "diary.txt")
            os.environ["ANSWER_DESK_OUTBOX"] = str(folder / "outbox")
            os.write(writing, json.dumps(asyncio.run(main())).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    return status, json.loads(text) if text else None


def killed(folder: Path, last: int) -> bool:
    """Runs the desk until record `last`; False when it has no such record."""
    for process in (asked, released):
        status, _ = forked(functools.partial(process, folder, last), folder)
        if os.WIFSIGNALED(status):
            return True
        assert status == 0, f"{process.__name__} failed by itself, before record {last}"
    return False


def main() -> None:
    library()
    os.environ.pop("ANSWER_DESK_MODEL", None)
    # Before the first write there is no run that could be taken up.
    was_killed, last = True, 0 if MOMENT == "after" else FIRST_WRITE
    while was_killed:
        last += 1
        folder = Path(sys.argv[1]) / str(last)
        folder.mkdir()
        was_killed = killed(folder, last)
        status, told = forked(functools.partial(taken_up, folder), folder)
        assert status == 0, f"the next process could not go on, {MOMENT} record {last}"
        sys.stdout.write(json.dumps({"at": last, **told}) + "\n")


if __name__ == "__main__":
    main()
