"""Coverage marks: rare places of the engine that a stress test must show it came through.

`reached(name)` stands where something rare was handled: a late write refused, a dead owner's
attempt closed. A test that meant to provoke it and never got there proves nothing, and says so.
While nobody counts, a mark costs one look at a context variable (tens of nanoseconds), and marks
stand off the path that every stage takes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context, ContextVar
from types import MappingProxyType
from typing import Final

MARKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "access_refused": "a tenant asked for a run that it has not, and was told there is none",
        "attempt_abandoned": "an attempt of a dead owner was closed",
        "attempt_killed": "a stage that ignored its stop was ended without its consent",
        "attempt_quarantined": "a stage or a task of it could not be ended, and was named",
        "batch_of_several": "one commit of the journal carried appends of several requests",
        "circuit_opened": "a dependency failed so often that it was left alone",
        "circuit_refused": "an attempt was kept back by an open circuit",
        "commit_decided_again": "an append did not follow what its store believed, and was decided"
        " under a lock",
        "connection_lost": "the connection to the journal's database was lost during a write",
        "connection_discarded": "a connection was closed because something may be left on it",
        "damage_found": "a stored record was not what was written, and was refused",
        "effect_replayed": "a duplicate of an effect was given the recorded result",
        "effect_unknown": "an effect was cut off by a crash, stop or timeout, and was not repeated",
        "chunks_kept": "what a stage had produced was kept as it was cut off",
        "grant_returned": "a stage was stopped as a pool served it, and the next was served",
        "guard_blocked": "a guard blocked a value",
        "heartbeat_missed": "a stage was stopped because it had given no sign of life",
        "journal_queue_full": "a request waited outside the journal's full queue",
        "late_write": "the outcome of an attempt that no longer counts was refused",
        "process_tree_ended": "processes that a child process had started were ended with it",
        "redaction_released": "a value was released as a guard had replaced it",
        "request_repeated": "a request came again under its key, and was given its run",
        "result_reused": "a stage was not executed, for the tenant has its value already",
        "retry_budget_spent": "a further attempt was not made, the budget was used",
        "retry_handed_out": "an attempt failed and another one was planned",
        "run_cancelled": "somebody asked a run to end before it was over",
        "run_lost": "a process learned from its lease that a run of it is another's",
        "run_reopened": "a run that had ended without success was taken up again",
        "run_taken_over": "a run was recovered from the journal by a new owner",
        "second_run_refused": "a run was refused because its id was taken",
        "second_value_refused": "a second value for one node and revision was refused",
        "session_forgotten": "a session that had no turn was forgotten for one that has",
        "stale_owner_refused": "an append of an owner that has been replaced was refused",
        "stream_waited": "a producer waited for room in its reader's stream",
        "thread_refused": "a call was refused because too many threads were stuck",
        "turn_made_to_wait": "a turn of a session was not let begin before its time",
        "thread_stuck": "a thread outlived the attempt it was working for",
        "unknown_append_found": "an append whose connection was lost turned out to be written",
        "undo_conflict": "an undo met what somebody else had changed since, and left it as it was",
        "undo_finished_for_another": "an undo that a dead process had begun was finished",
        "undo_step_recovered": "a change that a dead process had begun was found out",
    }
)
"""Every mark, and what having reached it means."""


class MarkCounts:
    """How often each mark was reached. Any thread may add."""

    __slots__ = ("_counts", "_lock")

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, name: str, times: int = 1) -> None:
        """Count `name`; `times` for one who passes on what another process counted."""
        assert name in MARKS, f"{name!r} is no mark"
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + times

    def all(self) -> dict[str, int]:
        """The marks that were reached, by name, and how often."""
        with self._lock:
            return dict(sorted(self._counts.items()))


_COUNTED: ContextVar[MarkCounts | None] = ContextVar("stageflow_marks", default=None)
"""Who counts, None for nobody. A context variable and not an argument, because marks stand in
every room of the house; its value is owned by whoever entered `counting`, not by this module."""


def reached(name: str) -> None:
    """The place called `name` was come through. Does nothing while nobody counts."""
    counts = _COUNTED.get()
    if counts is not None:
        counts.add(name)


def passed_on(counts: Mapping[str, int]) -> None:
    """What another process has counted is counted here, too."""
    here = _COUNTED.get()
    if here is not None:
        for name, times in counts.items():
            here.add(name, times)


@contextmanager
def counting(counts: MarkCounts) -> Iterator[MarkCounts]:
    """Count into `counts` what is reached here and in tasks made from here.

    Threads do not inherit it, unless what they run went through `carrying`.
    """
    token = _COUNTED.set(counts)
    try:
        yield counts
    finally:
        _COUNTED.reset(token)


def carrying(target: Callable[[], None]) -> Callable[[], None]:
    """`target` for a new thread: it counts where this code counts, and inherits nothing else."""
    counts = _COUNTED.get()
    if counts is None:
        return target

    def carried() -> None:
        # A fresh context: a copy of this one would hold the run that happened to start the thread.
        context = Context()
        context.run(_COUNTED.set, counts)
        context.run(target)

    return carried
