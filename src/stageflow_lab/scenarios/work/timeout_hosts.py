"""Tools of threads and of child processes that are not over in time. They need a real clock.

The functions of child processes stand here, at the top of a module, since a child finds them by
name. What they start is small: a process that sleeps, told apart by where it stands.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from stageflow import Context, work

from .timeout_case import Case, Tool
from .timeout_tools import Make

SLEEP_S: Final = 120
SPAWN_S: Final = 6.0
"""A new interpreter must have begun its work before its time is over, on a slow machine too."""
CLEANED: Final = "cleaned"


def blocks_in_c(case: Case) -> Tool:
    """A call that no exception reaches, past the grace period."""

    def body() -> str:
        try:
            time.sleep(1.5 * (case.timeout_s + case.grace_s))
        finally:
            case.clean()
        return "late"

    return Tool(work(name="tool", timeout=case.timeout_s, keyed=True)(body), case.timeout_s)


def looks_when_asked(case: Case) -> Tool:
    """A loop in a thread that looks whether it should stop."""

    def body(ctx: Context) -> str:
        until_s = time.monotonic() + case.hang_s
        try:
            while not ctx.cancelled and time.monotonic() < until_s:
                time.sleep(0.005)
        finally:
            case.clean()
        return "late"

    return Tool(work(name="tool", timeout=case.timeout_s, keyed=True)(body), case.timeout_s)


def stream_in_thread(case: Case) -> Tool:
    """Yields and yields, in a thread."""

    def body() -> Iterator[int]:
        until_s = time.monotonic() + case.hang_s
        try:
            while time.monotonic() < until_s:
                case.produced.append(len(case.produced))
                yield case.produced[-1]
                time.sleep(case.step_s)
        finally:
            case.clean()

    return Tool(work(name="tool", timeout=case.timeout_s, keyed=True)(body), case.timeout_s)


def _note(place: str, pid: int) -> None:
    (Path(place) / str(pid)).touch()


def _sleeper(place: str, *, deaf: bool = False, apart: bool = False, bare: bool = False) -> None:
    """Starts one: `deaf` to being told to end, in a session of its own, without our environment."""
    command = f"trap '' TERM; sleep {SLEEP_S} & wait" if deaf else f"exec sleep {SLEEP_S}"
    started = subprocess.Popen(
        ["/bin/sh", "-c", command],
        start_new_session=apart,
        env={"PATH": os.environ.get("PATH", "")} if bare else None,
    )
    _note(place, started.pid)


def _wait(place: str) -> str:
    _note(place, os.getpid())
    try:
        time.sleep(SLEEP_S)
    finally:
        (Path(place) / CLEANED).touch()
    return "late"


def alone(place: str) -> str:
    """A process that sleeps."""
    return _wait(place)


def family(place: str) -> str:
    """It has started three, in its own session."""
    for deaf in (False, False, True):
        _sleeper(place, deaf=deaf)
    return _wait(place)


def families_apart(place: str) -> str:
    """It has started some in sessions of their own, one of them with a fresh environment."""
    _sleeper(place, apart=True)
    _sleeper(place, apart=True, deaf=True)
    _sleeper(place, apart=True, deaf=True, bare=True)
    return _wait(place)


def _in_process(function: Any) -> Make:
    def make(case: Case) -> Tool:
        case.timeout_s = SPAWN_S
        made = work(name="tool", timeout=SPAWN_S, keyed=True, place="process")(function)
        return Tool(made, SPAWN_S)

    return make


PROCESS_TOOLS: Final[Mapping[str, Make]] = MappingProxyType(
    {
        "process_alone": _in_process(alone),
        "process_family": _in_process(family),
        "process_families_apart": _in_process(families_apart),
    }
)
HOST_TOOLS: Final[Mapping[str, Make]] = MappingProxyType(
    {
        "blocks_in_c": blocks_in_c,
        "looks_when_asked": looks_when_asked,
        "stream_in_thread": stream_in_thread,
        **PROCESS_TOOLS,
    }
)
"""By name; only under a real clock."""


def pids_of(place: Path) -> list[int]:
    """Processes that the tool has told of."""
    return [int(each.name) for each in place.iterdir() if each.name.isdigit()]


def is_alive(pid: int) -> bool:
    """A dead one that nobody has waited for is dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
