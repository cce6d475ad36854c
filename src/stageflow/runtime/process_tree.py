"""A child process and all that it started: found, told to end, and killed.

A process that starts a session of its own, or whose parent has died, is in no process group of
ours any more. Three things find it all the same: the child is the reaper of its orphans
(`become_reaper`), so that they stay below it while it lives; its session, which most of them
share; and a mark in the environment, which only a process that was given a fresh one lacks.

Where there is no /proc, only the child's process group is reached.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

MARK: Final = "STAGEFLOW_CHILD"
"""Environment variable by which processes of one child are known."""
_PROC: Final = Path("/proc")
_SET_CHILD_SUBREAPER: Final = 36
"""Of prctl(2)."""


class _Row(NamedTuple):
    pid: int
    state: str
    parent: int
    session: int
    started: int
    """In ticks since the machine's start."""


def become_reaper() -> None:
    """From now on the orphans of this process become its children, and not those of process 1."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class ProcessTree:
    """All processes that come from `root`, which leads a session and has `mark` in its
    environment."""

    def __init__(self, root: int, mark: str) -> None:
        self._root = root
        self._mark = f"{MARK}={mark}".encode()
        row = _row(str(root))
        self._since = 0 if row is None else row.started
        """Nothing older than the root comes from it, and so need not be looked at closely."""

    def members(self) -> set[int]:
        """Those that live, `root` itself left out."""
        rows = [row for row in _rows() if row.started >= self._since]
        found = {self._root}
        found.update(row.pid for row in rows if row.session == self._root)
        found.update(row.pid for row in rows if self._is_marked(row.pid))
        grown = True
        while grown:
            below = {row.pid for row in rows if row.parent in found} - found
            found |= below
            grown = bool(below)
        living = {row.pid for row in rows if row.state not in "ZX"}
        return (found & living) - {self._root, os.getpid()}

    def has_children(self) -> bool:
        """Whether the root has any, without a look at every process of the machine."""
        try:
            tasks = list((_PROC / str(self._root) / "task").iterdir())
            return any((task / "children").read_bytes().strip() for task in tasks)
        except OSError:
            return bool(self.members())

    def tell(self, number: signal.Signals) -> int:
        """Sends a signal to every member; how many there were."""
        if not _PROC.is_dir():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._root, number)
            return 0
        members = self.members()
        for pid in members:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        return len(members)

    def _is_marked(self, pid: int) -> bool:
        try:
            environment = (_PROC / str(pid) / "environ").read_bytes()
        except OSError:
            return False  # another user's, or gone
        return self._mark in environment.split(b"\0")


def _rows() -> list[_Row]:
    try:
        names = os.listdir(_PROC)  # noqa: PTH208  (it is quick)
    except OSError:
        return []
    return [row for row in map(_row, filter(str.isdigit, names)) if row is not None]


def _row(pid: str) -> _Row | None:
    """None of a process that is gone."""
    try:
        with open(f"{_PROC}/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123  (it is quick)
            said = file.read(4_096)
    except OSError:
        return None
    # The name stands in brackets, and may hold any character.
    fields = said.rpartition(b")")[2].split()
    return _Row(int(pid), fields[0].decode(), int(fields[1]), int(fields[3]), int(fields[19]))
