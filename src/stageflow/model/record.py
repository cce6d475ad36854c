"""One line of a run's history: metadata that anyone may read, and a payload kept apart."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, NamedTuple


class RecordType(enum.Enum):
    """What happened. The value is what a journal stores."""

    RUN_STARTED = "run_started"
    """Payload: the inputs."""
    INTENT = "intent"
    """An attempt is about to start. No payload."""
    OUTCOME = "outcome"
    """An attempt ended. data: status, reason, control; payload: the value, when there is one."""
    RETRY_DUE = "retry_due"
    """Another attempt is owed. data: due_wall_s."""
    ABANDONED = "abandoned"
    """A dead owner's attempt, closed by recovery."""
    LATE = "late"
    """A write with an old fencing token, refused. data: status."""
    ASKED = "asked"
    """A node waits for a person. data: shown (content hash), expires_wall_s or None."""
    STEP = "step"
    """A durable step inside a stage. data: key, call; payload: its result."""
    CANCEL = "cancel"
    """Somebody asked the run to end. data: reason."""
    TURN = "turn"
    """A turn of a session begins. data: turn, its number in order of beginning (0 when the run
    ended while it waited); sees, how many of the turns that ended ok before it are in its window.
    """
    CLAIMED = "claimed"
    """A new owner took the run over. data: pid."""
    RUN_ENDED = "run_ended"
    """data: status, reason."""


UNDO_RUN = "<undo>"
"""Among `rerun` of a claim: the run, however it ended, is to be taken back. No node's name."""
SETTLE_RUN = "<settle>"
"""Among `rerun` of a claim: a person says how a stuck step stands, and nothing is tried again."""


class Record(NamedTuple):
    """Immutable. (run, seq) is unique; (run, node, revision) is unique among accepted outcomes."""

    type: RecordType
    seq: int
    """1, 2, 3, ... within the run, given by the run's owner."""
    node: str | None = None
    """Node name; None for records about the whole run."""
    revision: int = 0
    attempt: int = 0
    """1, 2, ... within the revision; 0 when not about an attempt."""
    token: int = 0
    """Fencing token of the attempt: grows with every attempt of the run."""
    wall_s: float = 0.0
    """Unix time; for people and for timers that survive a restart, never for order."""
    data: Mapping[str, Any] = {}
    """Small, plain, free of user values: str, int, float, bool, None, lists and maps of them."""
    contract: str = ""
    """Hash of the contract the payload was admitted through."""
    labels: tuple[str, ...] = ()
    """Sorted information-flow labels of the payload."""
    key_id: str = ""
    """Key of the run that seals the payload; "" when it is not sealed."""
    payload: bytes | None = None
    """The encoded value; a store may keep it elsewhere by its hash, and gives it back whole."""
    keys: tuple[tuple[str, bytes], ...] = ()
    """Ids and wrapped keys that the run needs from this record on. No part of the record on disk:
    a store keeps them apart, where they can be destroyed, and gives them back as LoadedRun.keys."""

    @property
    def is_accepted(self) -> bool:
        """True for the one outcome of its (node, revision) that others may see."""
        return self.type is RecordType.OUTCOME and self.data.get("accepted") is True
