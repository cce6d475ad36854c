"""Processes that a finished run left behind, found by a mark in their environment (Linux)."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Final

MARK: Final = "STAGEFLOW_LAB_RUN"


def end_stragglers(mark: str) -> int:
    """Kill every process whose environment carries `mark`; returns how many there were.

    A load may put its children into sessions of their own, out of reach of a group kill.
    """
    wanted = f"{MARK}={mark}".encode()
    ended = 0
    for folder in Path("/proc").glob("[0-9]*"):
        number = int(folder.name)
        with contextlib.suppress(OSError):
            if number != os.getpid() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(number, signal.SIGKILL)
                ended += 1
    return ended
