"""A run killed half-way and taken up again, watched from outside through its command line.

The example's stages write a line into a diary as their bodies start. The process is killed with
SIGKILL when the diary says so; `stageflow resume` in a second process ends the run. What the
journal accepted and what the diary counts then show whether finished work was repeated.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stageflow import Runtime

from .errors import LabError

TARGET: Final = "examples.answer_desk:desk"
KILL_AT: Final = "explanation"
_STARTED_WITHIN_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.01
_PACE_S: Final = 30.0
"""How long the first process's author takes: it never gets to the end of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """What was seen. The `problems` are empty when the run was taken up as promised."""

    run: str
    finished_before: tuple[str, ...]
    """Nodes whose outcome was accepted when the process was killed."""
    accepted: Mapping[str, int]
    """Accepted outcomes by node, after the resume."""
    started: Mapping[str, int]
    """How often the diary saw each body start, over both processes."""
    letters: int
    """Answers in the outbox."""
    answer: str
    problems: tuple[str, ...]


def available(root: Path) -> bool:
    """Whether the example is here: it is part of the source checkout, not of the wheel."""
    return (root / "examples" / "answer_desk" / "desk.py").is_file()


def stage_outage(
    root: Path, folder: Path, *, question: str, tell: Callable[[str], None] | None = None
) -> Outage:
    """Runs the example in `folder`, kills it in its author, resumes it, and compares.

    Progress of both processes goes to standard error; `tell` is told of the kill in between.
    Raises LabError `lab.outage` when the run could not be brought to the point where it should be
    killed, or not be resumed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
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
    if tell is not None:
        tell(f"SIGKILL to process {first.pid}, in {KILL_AT}")
    run, before = _journalled(folder)
    second = subprocess.run(
        [*_COMMAND, "resume", run, *journal],
        cwd=root,
        env={**environment, "ANSWER_DESK_PACE_S": "0"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if second.returncode != 0:
        raise LabError(
            "lab.outage",
            f"the killed run {run} could not be resumed: status {second.returncode}.",
            expected="a resumed run that ends ok",
            fix=f"stageflow resume {run} --root {folder}",
        )
    _, after = _journalled(folder)
    return compared(folder, run=run, before=before, after=after, output=second.stdout)


_COMMAND: Final = (sys.executable, "-m", "stageflow.cli")


def _wait_for(diary: Path, process: subprocess.Popen[bytes]) -> None:
    """Returns when the body of KILL_AT has started."""
    ends_at = time.monotonic() + _STARTED_WITHIN_S
    while time.monotonic() < ends_at and process.poll() is None:
        if diary.exists() and KILL_AT in _bodies(diary):
            return
        time.sleep(_LOOK_EVERY_S)
    raise LabError(
        "lab.outage",
        f"the example never came to its stage {KILL_AT!r}.",
        expected=f"{KILL_AT} to start within {_STARTED_WITHIN_S:.0f} s",
        got=f"exit status {process.poll()}" if process.poll() is not None else "no such line",
        fix=f"stageflow run {TARGET} --input text='How do I copy an object?'",
    )


def _bodies(diary: Path) -> Counter[str]:
    """How often each stage's body started."""
    return Counter(line.split()[-1] for line in diary.read_text("utf-8").splitlines())


def _journalled(folder: Path) -> tuple[str, Counter[str]]:
    """The folder's one run, and its accepted outcomes by node."""

    async def read() -> tuple[str, Counter[str]]:
        async with Runtime.local(folder) as runtime:
            (summary,) = await runtime.runs()
            loaded = await runtime.load(summary.header.run)
        nodes = (record.node or "" for record in loaded.records if record.is_accepted)
        return summary.header.run, Counter(nodes)

    return asyncio.run(read())


def compared(
    folder: Path, *, run: str, before: Counter[str], after: Counter[str], output: str
) -> Outage:
    """What the folder's diary and outbox, and the journal before and after, say together."""
    started = _bodies(folder / "diary.txt")
    letters = len(list((folder / "outbox").glob("*.json")))
    problems = [f"{node} was accepted {n} times" for node, n in after.items() if n > 1]
    problems += [
        f"{node} had finished and ran again" for node in before if started.get(node, 0) > 1
    ]
    if not before:
        problems.append("nothing had finished when the process was killed")
    if started[KILL_AT] != 2:
        problems.append(f"{KILL_AT}, cut off by the kill, ran {started[KILL_AT]} times, not twice")
    if letters != 1:
        problems.append(f"{letters} answers were filed, not one")
    return Outage(
        run=run,
        finished_before=tuple(before),
        accepted=after,
        started=started,
        letters=letters,
        answer=str(json.loads(output)["text"]),
        problems=tuple(problems),
    )
