"""Processes that a finished run left behind, found by a mark in their environment (Linux)."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path
from typing import Final

MARK: Final = "STAGEFLOW_LAB_RUN"
END_WAIT_S: Final = 5.0


def end_stragglers(mark: str) -> int:
    """Kill every process whose environment carries `mark`, and wait for the end; returns how many.

    A load may put its children into sessions of their own, out of reach of a group kill.
    """
    wanted = f"{MARK}={mark}".encode()
    ended = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended by itself, or belongs to somebody else
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                _end(int(folder.name))
                ended += 1
    return ended


def _end(pid: int) -> None:
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        select.select([descriptor], [], [], END_WAIT_S)
    finally:
        os.close(descriptor)
