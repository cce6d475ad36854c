"""Real processes, really killed: what was acknowledged is there, and nothing else half."""

from __future__ import annotations

import random
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from stageflow.journal.sqlite import SQLiteStore
from stageflow.journal.store import Append, Owner
from stageflow.model.errors import JournalError
from stageflow.model.record import Record, RecordType

KILLS = 12
WRITERS = 4
APPENDS = 100

WRITER = """
import asyncio, os, sys
from dataclasses import replace
from stageflow.journal.journal import GroupCommit
from stageflow.journal.sqlite import SQLiteStore
from stageflow.journal.store import Owner, RunHeader
from stageflow.model.record import Record, RecordType

path, run, appends, first = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

def pair(seq):
    large = bytes([seq % 256]) * (70_000 if seq % 9 == 1 else 50)
    return (
        Record(RecordType.OUTCOME, seq, f"n{seq}", data={"accepted": True}, payload=large),
        Record(RecordType.INTENT, seq + 1, f"n{seq + 1}"),
    )

async def main():
    owner = Owner.this_process()
    if sys.argv[5] == "looks dead":
        owner = replace(owner, boot="an earlier one")
    journal = GroupCommit(SQLiteStore(path, busy_s=60), owner=owner)
    if first == 1:
        header = RunHeader(run, "default", "desk", None, None, None, None, 0.0, {}, 0)
        epoch = await journal.create(header, (Record(RecordType.RUN_STARTED, 1),))
        seq = 2
    else:
        loaded = await journal.claim(run)
        epoch, seq = loaded.epoch, len(loaded.records) + 1
    os.write(1, b"%d\\n" % (seq - 1))
    for _ in range(appends):
        await journal.append(run, epoch, pair(seq))
        seq += 2
        os.write(1, b"%d\\n" % (seq - 1))
    sys.stdin.read()
    await journal.close()

asyncio.run(main())
"""


@contextmanager
def writer(
    path: Path,
    run: str,
    *,
    appends: int = 1_000_000,
    is_new: bool = True,
    looks_dead: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that appends, and writes to stdout each seq that was acknowledged."""
    arguments: list[str | Path] = [sys.executable, "-c", WRITER, path, run, str(appends)]
    arguments += ["1" if is_new else "0", "looks dead" if looks_dead else "looks alive"]
    with subprocess.Popen(
        arguments,
        bufsize=0,  # what is buffered here would be invisible to select
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def next_seq(process: subprocess.Popen[bytes]) -> int:
    """The next acknowledged seq; fails after 30 s without one."""
    assert process.stdout is not None and process.stderr is not None
    ready, _, _ = select.select([process.stdout], [], [], 30.0)
    line = process.stdout.readline() if ready else b""
    assert line, process.stderr.read() if process.poll() is not None else "no answer for 30 s"
    return int(line)


def rest(process: subprocess.Popen[bytes], *, so_far: int) -> int:
    """The last seq that a killed process had acknowledged."""
    assert process.stdout is not None
    lines = process.stdout.read().split(b"\n")[:-1]  # a last line without its end does not count
    return int(lines[-1]) if lines else so_far


def test_an_acknowledged_append_survives_any_kill(tmp_path: Path) -> None:
    """Twelve times: claim or create, append, die at a random moment, look."""
    path, chance = tmp_path / "runs.db", random.Random(7)
    for epoch in range(1, KILLS + 1):
        with writer(path, "run", is_new=epoch == 1) as process:
            seen = [next_seq(process) for _ in range(chance.randrange(1, 40))][-1]
            process.kill()
            process.wait()
            acknowledged = rest(process, so_far=seen)
        with closing(SQLiteStore(path)) as store:
            loaded = store.load("run")
        assert loaded.epoch == epoch
        assert len(loaded.records) >= acknowledged, "an acknowledged append is lost"
        whole = len(loaded.records) - epoch  # RUN_STARTED, and one CLAIMED for each later owner
        assert whole % 2 == 0, "half an append is visible"
        assert len(loaded.records) - acknowledged in (0, 2), "at most the one in flight is extra"


def test_a_run_is_handed_over_only_when_its_owner_has_died(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with writer(path, "run") as process, closing(SQLiteStore(path)) as store:
        next_seq(process)
        for _ in range(20):
            with pytest.raises(JournalError) as caught:
                store.claim("run", Owner.this_process())
            assert caught.value.code == "journal.run_is_live"
        assert [line.live for line in store.runs()] == [True]
        process.kill()
        process.wait()
        assert [line.live for line in store.runs()] == [False]
        assert store.claim("run", Owner.this_process()).epoch == 2


def test_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    """They also make the file at once, in a folder that does not exist yet."""
    path = tmp_path / "new" / "runs.db"
    runs = [f"run{number}" for number in range(WRITERS)]
    processes = []
    try:
        for run in runs:
            context = writer(path, run, appends=APPENDS)
            processes.append((context, context.__enter__()))
        for _, process in processes:
            seqs = [next_seq(process) for _ in range(APPENDS + 1)]
            assert seqs == list(range(1, 2 * APPENDS + 2, 2))
            process.communicate(b"", timeout=30)
            assert process.returncode == 0
    finally:
        for context, _ in processes:
            context.__exit__(None, None, None)
    with closing(SQLiteStore(path)) as store:
        for run in runs:
            assert len(store.load(run).records) == 2 * APPENDS + 1
        assert {line.header.run for line in store.runs()} == set(runs)
    assert [left.name for left in path.parent.iterdir()] == ["runs.db"]


def test_of_two_owners_the_stale_one_is_refused(tmp_path: Path) -> None:
    """
    1. A process that looks dead to us, as after a wrong verdict, goes on appending.
    2. We claim its run.
    3. Whatever it appends from then on is refused, and it is told so.
    """
    path = tmp_path / "runs.db"
    with writer(path, "run", looks_dead=True) as process, closing(SQLiteStore(path)) as store:
        for _ in range(5):
            next_seq(process)
        before = store.claim("run", Owner.this_process())
        assert before.epoch == 2
        _, stderr = process.communicate(b"", timeout=30)
        assert process.returncode != 0 and b"journal.stale_owner" in stderr
        assert store.load("run") == before, "nothing of it came after the claim"
        ours = Record(RecordType.STEP, len(before.records) + 1)
        assert store.commit([Append("run", 2, (ours,))]) == [None]
