"""Where a node can stand."""

from __future__ import annotations

import enum


class NodeState(enum.IntEnum):
    """State of one node in one run; only the scheduler changes it."""

    WAITING = 0
    """Some parent has not ended."""
    RUNNING = 1
    """An attempt is handed out to the driver."""
    RETRYING = 2
    """Between two attempts."""
    HELD = 3
    """It has a raw value, and guards have yet to decide."""
    JUDGED = 4
    """A guard has decided, and some value that it gates is still open."""
    PARKED = 5
    """Waits for a person."""
    UNKNOWN = 6
    """An attempt with effects was cut off, by a crash, a stop or its timeout; nobody knows whether
    they happened."""
    FALLING_BACK = 7
    """It has failed, and its fallback has yet to end."""
    OK = 8
    """Its value is released."""
    SKIPPED = 9
    """No value, rightly: not chosen, skipped itself, or behind something that was."""
    FAILED = 10
    BLOCKED = 11
    """A guard blocked it, or something it needs."""
    CANCELLED = 12
    """Never ran, or was stopped, because the run ended."""

    @property
    def is_terminal(self) -> bool:
        """True when the node will not change any more."""
        return self >= NodeState.OK


class Cause(enum.Enum):
    """Why a node has no value."""

    NONE = "none"
    OWN = "own"
    """The stage said so itself: it skipped, failed or cancelled."""
    BRANCH = "branch_not_taken"
    PARENT_SKIPPED = "parent_skipped"
    PARENT_FAILED = "parent_failed"
    BLOCKED = "blocked"
    TOO_FEW = "too_few_values"
    """A join got fewer values than it needs."""
    NOT_NEEDED = "not_needed"
    """A fallback whose node did not fail."""
    RUN_ENDED = "run_ended"
