"""A run killed half-way and taken up again, watched from outside through its command line.

The example's stages write a line into a diary as their bodies start. The process is killed with
SIGKILL while its author writes the answer that a guard has asked for again; `stageflow resume` in a
second process brings the run to its editor, `stageflow signal` in a third gives the editor's word.
What the journal accepted and what the diary counts then show whether finished work was repeated.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stageflow import Runtime
from stageflow.cli import WAITS
from stageflow.model.record import Record, RecordType

from .errors import LabError

TARGET: Final = "examples.answer_desk:desk"
KILL_AT: Final = "explanation"
KILL_IN: Final = 2
"""The revision of KILL_AT that is cut off."""
_STEP: Final = "draft"
"""The step of KILL_AT in which its author is at work."""
EDITOR: Final = "make lab"
_APPROVAL: Final = "release"
_WORD: Final = '{"approved": true, "note": "unattended"}'
_STARTED_WITHIN_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.01
_PACE_S: Final = 3.0
"""How long the first process's author takes over each draft: it never gets to the end of the
second."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What diary and journal say at one moment."""

    started: Counter[str]
    """How often each body started: of stages, and of the steps inside them."""
    finished: Counter[tuple[str, int]]
    """Outcomes on record, by stage or step and revision."""

    def count(self, name: str) -> int:
        """Outcomes of all revisions."""
        return sum(n for (node, _), n in self.finished.items() if node == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """What was seen. The `problems` are empty when the run was taken up as promised."""

    run: str
    before: Seen
    """When the process had been killed."""
    after: Seen
    """When the run had ended."""
    letters: int
    """Answers in the outbox."""
    answer: str
    problems: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Stages and steps, in order of their outcomes."""
        return tuple(dict.fromkeys(name for name, _ in self.after.finished))


def available(root: Path) -> bool:
    """Whether the example is here: it is part of the source checkout, not of the wheel."""
    return (root / "examples" / "answer_desk" / "desk.py").is_file()


def stage_outage(
    root: Path, folder: Path, *, question: str, tell: Callable[[str], None] | None = None
) -> Outage:
    """Runs the example in `folder`, kills it in its author, resumes it, releases the answer, and
    compares.

    Progress of the processes goes to standard error; `tell` is told what happens in between.
    Raises LabError `lab.outage` when the run could not be brought to the point where it should be
    killed, or not be resumed, or its question not be answered.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tell = tell or (lambda line: None)
    diary = folder / "diary.txt"
    environment = {
        **os.environ,
        "ANSWER_DESK_DIARY": str(diary.absolute()),
        "ANSWER_DESK_OUTBOX": str((folder / "outbox").absolute()),
        "ANSWER_DESK_PACE_S": str(_PACE_S),
    }
    environment.pop("ANSWER_DESK_MODEL", None)
    journal = ("--root", str(folder.absolute()))
    first = subprocess.Popen(
        [*_COMMAND, "run", TARGET, "--input", f"text={question}", *journal],
        cwd=root,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_for(diary, first)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    tell(f"SIGKILL to process {first.pid}, in revision {KILL_IN} of {KILL_AT}")
    run, before = _seen(folder)
    environment["ANSWER_DESK_PACE_S"] = "0"
    _go_on(("resume", run, *journal), root, environment, expected=WAITS)
    tell(f"{EDITOR} approves, in a third process")
    answer = ("--by", EDITOR, "--value", _WORD)
    output = _go_on(("signal", run, _APPROVAL, *answer, *journal), root, environment, expected=0)
    _, after = _seen(folder)
    return compared(folder, run=run, before=before, after=after, output=output)


_COMMAND: Final = (sys.executable, "-m", "stageflow.cli")


def _go_on(
    arguments: Sequence[str], root: Path, environment: Mapping[str, str], *, expected: int
) -> str:
    """Standard output of a command that has to end with this status."""
    ended = subprocess.run(
        [*_COMMAND, *arguments],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ended.returncode != expected:
        raise LabError(
            "lab.outage",
            f"the killed run could not go on: {arguments[0]} ended with {ended.returncode}.",
            expected=f"status {expected}",
            fix=shlex.join(["stageflow", *arguments]),
        )
    return ended.stdout


def _wait_for(diary: Path, process: subprocess.Popen[bytes]) -> None:
    """Returns when the author of KILL_AT is at work on its revision KILL_IN."""
    ends_at = time.monotonic() + _STARTED_WITHIN_S
    while time.monotonic() < ends_at and process.poll() is None:
        if diary.exists() and _bodies(diary)[_STEP] >= KILL_IN:
            return
        time.sleep(_LOOK_EVERY_S)
    raise LabError(
        "lab.outage",
        f"the example never came to revision {KILL_IN} of its stage {KILL_AT!r}.",
        expected=f"it to start within {_STARTED_WITHIN_S:.0f} s",
        got=f"exit status {process.poll()}" if process.poll() is not None else "no such line",
        fix=f"stageflow run {TARGET} --input text='Can I delete a file?'",
    )


def _bodies(diary: Path) -> Counter[str]:
    """How often each body started."""
    return Counter(line.split()[-1] for line in diary.read_text("utf-8").splitlines())


def _seen(folder: Path) -> tuple[str, Seen]:
    """The folder's one run, and what diary and journal say of it now."""

    async def read() -> tuple[str, Seen]:
        async with Runtime.local(folder) as runtime:
            (summary,) = await runtime.runs()
            loaded = await runtime.load(summary.header.run)
        finished = Counter(
            (name, record.revision) for record in loaded.records if (name := _finished(record))
        )
        return summary.header.run, Seen(_bodies(folder / "diary.txt"), finished)

    return asyncio.run(read())


def _finished(record: Record) -> str:
    """The stage or step that the record gives a result; "" for other records."""
    if record.type is RecordType.STEP:
        return str(record.data["key"])
    return record.node or "" if record.is_accepted else ""


def compared(folder: Path, *, run: str, before: Seen, after: Seen, output: str) -> Outage:
    """What the diary and the journal said before and after, and the folder's outbox, together."""
    letters = len(list((folder / "outbox").glob("*.json")))
    problems = [
        f"revision {revision} of {name} was accepted {n} times"
        for (name, revision), n in after.finished.items()
        if n > 1
    ]
    for name, started in after.started.items():
        again, owed = started - before.started[name], after.count(name) - before.count(name)
        if again > owed:
            problems.append(f"{name} ran {again} times after the kill, {owed} were left to do")
    if not before.finished:
        problems.append("nothing had finished when the process was killed")
    if before.started[KILL_AT] - before.count(KILL_AT) != 1:
        problems.append(f"{KILL_AT} was not cut off by the kill")
    if letters != 1:
        problems.append(f"{letters} answers were filed, not one")
    return Outage(
        run=run,
        before=before,
        after=after,
        letters=letters,
        answer=str(json.loads(output)["text"]),
        problems=tuple(problems),
    )
