"""The real part of WORK-005: a process is killed while its runs wait, and another goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from . import retry_worker

LOOK_EVERY_S: Final = 0.05
SETTLE_S: Final = 0.5
"""Between the last first attempt and the kill: the plans for the next one are on disk by then."""
WORK_MAX_S: Final = 90.0
EARLY_S: Final = 0.1
"""Clocks of two processes are read at different moments; earlier than this is early."""


def restart(folder: Path, clients: int, sabotage: str | None) -> dict[str, Any]:
    """Counts of timers that were waiting at the kill, and what became of them."""
    killed_s = _begin_and_kill(folder, clients, sabotage)
    process = _process(folder, clients, sabotage)
    try:
        process.wait(WORK_MAX_S)
    except subprocess.TimeoutExpired:
        process.kill()
    finally:
        process.wait()
    return judged(list(_lines(folder)), killed_s)


def _begin_and_kill(folder: Path, clients: int, sabotage: str | None) -> float:
    process = _process(folder, clients, sabotage)
    try:
        limit_s = time.monotonic() + WORK_MAX_S
        while time.monotonic() < limit_s and process.poll() is None:
            begun = sum(line["kind"] == "attempt" for line in _lines(folder))
            if begun >= clients:
                time.sleep(SETTLE_S)
                break
            time.sleep(LOOK_EVERY_S)
    finally:
        process.kill()
        process.wait()
    return time.time()


def _process(folder: Path, clients: int, sabotage: str | None) -> subprocess.Popen[bytes]:
    with (folder / "errors").open("ab") as errors:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                retry_worker.__name__,
                str(folder),
                str(clients),
                sabotage or "",
            ],
            stderr=errors,
        )


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    path = folder / "told"
    if path.exists():
        for line in path.read_text("utf-8").split("\n")[:-1]:
            yield json.loads(line)


def judged(lines: list[dict[str, Any]], killed_s: float) -> dict[str, Any]:
    """Of runs whose next attempt was planned for after the kill: whether it came, and when."""
    due = {
        line["number"]: line["due_wall_s"]
        for line in lines
        if line["kind"] == "due" and line["due_wall_s"] is not None
    }
    up_s = min((line["wall_s"] for line in lines if line["kind"] == "due"), default=killed_s)
    seconds: dict[int, list[float]] = {}
    for line in lines:
        if line["kind"] == "attempt" and line["attempt"] == 2:
            seconds.setdefault(line["number"], []).append(line["wall_s"])
    waiting = {number: at_s for number, at_s in due.items() if at_s > killed_s}
    early, lost = 0, 0
    most_s = 0.0
    for number, at_s in waiting.items():
        came = seconds.get(number, [])
        if len(came) != 1:
            lost += 1
            continue
        delay_s = came[0] - max(at_s, up_s)
        most_s = max(most_s, delay_s)
        early += came[0] < at_s - EARLY_S
    statuses = [line["status"] for line in lines if line["kind"] == "ended"]
    return {
        "planned": len(due),
        "waiting": len(waiting),
        "lost": lost,
        "early": early,
        "most_late_s": round(most_s, 3),
        "ok": statuses.count("ok"),
    }
