"""What keeps undo logs: for each timeline a head and records that are only ever appended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec

from stageflow.model.errors import EffectError

T = TypeVar("T")


class TimelineHead(msgspec.Struct, frozen=True):
    """Where a timeline stands, and who changes it. Immutable."""

    length: int = 0
    """Records."""
    fence: int = 0
    """Counts the turns: what an earlier one wants to append is refused."""
    holder: str = ""
    """Whose turn it is; "" when it is nobody's."""
    until_s: float = 0.0
    """By the store's clock: when the turn is over, should nothing more be heard."""
    is_unfinished: bool = False
    """Whether somebody was cut off in a step or an undo, unless the holder lives."""
    used_s: float = 0.0
    """By the store's clock: when a record was last appended; 0 when it has none."""
    erased: int = 0
    """How often all its records were removed."""


class Change(NamedTuple):
    """What to make of a head: another one, and the records that make it longer."""

    head: TimelineHead
    records: Sequence[bytes] = ()
    erases: bool = False
    """Removes the records that there are; `head.length` is 0 then, and no record comes with it."""


Decide: TypeAlias = Callable[[TimelineHead, float], tuple[Change | None, T]]
"""The head and the store's time to a change, or None for none, and an answer. Pure; may be called
several times."""


class UndoStore(Protocol):
    """Shared by tasks, and by processes where it lies outside of them.

    `stageflow.stages.work.undo.conformance.check_undo_store` executes what is promised here.
    """

    async def change(self, timeline: str, decide: Decide[T]) -> T:
        """Reads the head, decides, and writes head and records in one atomic step, durably.

        When the awaiting task is cancelled it may happen or not. EffectError `undo.store` when the
        store can't be reached; it may have happened then, too.
        """
        ...

    async def read(self, timeline: str, since: int) -> list[bytes]:
        """The records from place `since` on, in order."""
        ...

    async def unfinished(self) -> list[str]:
        """Timelines whose head says so."""
        ...

    async def latest(self, count: int) -> list[tuple[str, TimelineHead]]:
        """Timelines that have records, the one used last first; at most so many."""
        ...

    async def idle(self, for_s: float) -> list[str]:
        """Timelines whose last record is older than that, and that are not unfinished."""
        ...

    async def close(self) -> None:
        """Releases everything; a second close does nothing."""
        ...


def unreachable(store: str, error: BaseException) -> EffectError:
    """The store's own error, as a coded one without its text, which may quote values."""
    return EffectError(
        "undo.store",
        f"the undo log in {store} did not answer",
        expected="a store that can be read and written",
        got=type(error).__name__,
        fix="look at the store; what was cut off is found and finished when it is back",
    )


def closed() -> EffectError:
    """What a store says when it is used after its end."""
    return EffectError(
        "undo.closed",
        "this undo log is closed",
        expected="a log that lives as long as the runtime that uses it",
        fix="Runtime(deps={'undo': lambda: UndoLog('undo.db')}) closes it in the end",
    )
