"""The bounds of a runtime. Every one has a default; none can be switched off by accident."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Any, Final

from stageflow.model.errors import BuildError
from stageflow.model.forms import is_count, is_number

_LEAST: Final = {"threads": 1, "processes": 1, "depth": 1, "stream_items": 1, "owners": 1}
"""Counts that can't be 0: nothing would ever run."""
_ABOVE_0: Final = ("aging_s", "scan_s")


def _threads() -> int:
    return min(32, (os.cpu_count() or 1) + 4)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one Runtime. Counts are whole numbers, times seconds. BuildError `runtime.limits`
    for one that is neither."""

    grace_s: float = 5.0
    """How long a cancelled stage may clean up before it is killed or quarantined."""
    threads: int = field(default_factory=_threads)
    """Sync stages that run at once."""
    stuck_threads: int | None = None
    """Threads that may be held by stages whose time is over before further sync stages are refused
    (`stage.threads_stuck`); None: all of `threads`."""
    processes: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Stages with place="process" that run at once."""
    pool_waiters: int = 10_000
    """Stages that may wait for one pool; past it a stage that asks fails."""
    pool_wait_s: float = 10.0
    """How long a stage should wait for a pool at most: a longer wait is told as an event that names
    who holds what it waits for."""
    aging_s: float = 60.0
    """Seconds of waiting, for a pool or a thread, that outweigh one step of priority; math.inf
    lets priorities decide alone, and low ones starve."""
    scan_s: float = 1.0
    """How often waits for pools that processes share are looked at: stages of several processes
    that wait for one another are found within two of these."""
    depth: int = 256
    """How deep pipelines may be nested by ctx.run."""
    stream_items: int = 64
    """Items a stream holds before its producer waits."""
    kept_items: int = 10_000
    """Items that are kept of what a stage produces, should it be cut off; `run.chunks` says how
    many it had produced past these."""
    held_items: int = 10_000
    """Items of a guarded node that wait for its guards; past it the stage fails."""
    slice_s: float = 0.005
    """Longest a run keeps the event loop when its stages never wait."""
    queued: int = 10_000
    """Runs that may wait in the journal's queue; a further one is refused."""
    queued_per_tenant: int = 1_000
    owners: int = 10
    """Owners a run may have had and still be taken by a worker: it may be what ends them."""
    close_s: float = 10.0
    """How long closing one dep may take."""
    cache_entries: int = 10_000
    """Values of stages with `cache=` that are kept for later runs; 0 keeps none."""
    cache_bytes: int = 64 * 1024 * 1024
    """Encoded size of these, of all tenants."""
    sessions: int = 1_000
    """Sessions that a runtime keeps at hand. With a journal the others are read from it when they
    are used again; without one they begin anew."""
    turns_waiting: int = 1_000
    """Turns of one session that are not over; one more is refused."""
    requests: int = 1_000
    """Without a journal: requests whose finished runs are remembered by their key."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name.endswith("_s"):
                _check_seconds(each.name, value)
            elif not (each.name == "stuck_threads" and value is None):
                _check_count(each.name, value)


def _check_seconds(name: str, value: Any) -> None:
    if not is_number(value) or not (value > 0 if name in _ABOVE_0 else value >= 0):
        expected = "seconds above 0" if name in _ABOVE_0 else "seconds, 0 or more"
        raise _out_of_range(name, value, expected, f"{name}=1.0")


def _check_count(name: str, value: Any) -> None:
    least = _LEAST.get(name, 0)
    if not is_count(value, least=least):
        raise _out_of_range(name, value, f"a whole number, {least} or more", f"{name}={least + 1}")


def _out_of_range(name: str, value: Any, expected: str, example: str) -> BuildError:
    return BuildError(
        "runtime.limits",
        f"{name} can't be a limit of this size",
        field=name,
        expected=expected,
        got=repr(value)[:80],
        fix=f"Limits({example}), or leave it out",
    )
