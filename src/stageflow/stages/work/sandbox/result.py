"""What came of one sandboxed run."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any


class ExitReason(enum.StrEnum):
    """Why a sandboxed program ended."""

    OK = "ok"
    """It ended by itself with status 0."""
    ERROR = "error"
    """It ended by itself with another status, or by a signal of its own."""
    MEMORY = "memory"
    """It asked for more memory than `memory_bytes`."""
    CPU = "cpu"
    """It used `cpu_s` of processor time."""
    WALL = "wall"
    """It was still there after `wall_s`."""
    OUTPUT = "output"
    """It wrote more than `output_bytes`."""
    DENIED = "denied"
    """It made a system call that no ordinary program makes, and was ended by it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run used. `cpu_s` and `memory_bytes` are None where this machine can't tell."""

    wall_s: float
    cpu_s: float | None
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """How a run ended, what it wrote and what it used.

    `stdout` and `stderr` hold at most `output_bytes` together. `exit_code` is negative for the
    signal that ended the program, as subprocess has it; None when the sandbox ended it. `value` is
    what a Python program left in its global `output`, as JSON carries it; None without one. All
    of it was made by the program: none of it is more trustworthy than the program is.
    """

    reason: ExitReason
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    usage: Usage
    value: Any = None

    @property
    def ok(self) -> bool:
        """Whether the program ended by itself with status 0."""
        return self.reason is ExitReason.OK
