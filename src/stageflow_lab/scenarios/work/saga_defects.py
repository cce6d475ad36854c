"""What an engine of sagas gets wrong, as sabotages of WORK-003."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from stageflow.model.record import Record
from stageflow.runtime import recovery
from stageflow.runtime.locks import Locks
from stageflow.scheduler import Move, Scheduler, undoing
from stageflow.scheduler import next_move as next_move_in_order
from stageflow.scheduler import replay as replay_of_records

from ...sabotage import Sabotage, patched, sabotage


@sabotage(metric="illegal_ends")
def undo_list_in_memory() -> Iterator[None]:
    """What a run has done, and owes an undo, is known to the process that did it, and to nobody
    after it."""

    def replay(scheduler: Scheduler, records: Sequence[Record]) -> list[Record]:
        written = replay_of_records(scheduler, records)
        if scheduler.undoing is None:
            scheduler.effects.clear()
        return written

    with patched(recovery, "replay", replay):
        yield


@sabotage(metric="compensated_once_in_order")
def compensation_repeated_after_crash() -> Iterator[None]:
    """An undo that was cut off is simply done again, whether it had happened or not."""
    original = Scheduler._may_repeat_effect

    def may_repeat_effect(self: Scheduler, node: int) -> bool:
        return self.nodes[node].undoes is None and original(self, node)

    with patched(Scheduler, "_may_repeat_effect", may_repeat_effect):
        yield


@sabotage(metric="compensated_once_in_order")
def undone_in_any_order() -> Iterator[None]:
    """An undo waits for no other one."""

    def next_move(stands: Mapping[int, Any], later: Mapping[int, Any]) -> Move:
        return next_move_in_order(stands, dict.fromkeys(later, frozenset()))

    with patched(undoing, "next_move", next_move):
        yield


@sabotage(metric="dirty_reads")
def locks_end_with_their_step() -> Iterator[None]:
    """What a step holds is given back when it has ended, and not when its saga has."""
    original = Locks.hold

    async def hold(self: Locks, driver: Any, names: Sequence[str], *, wait_s: float) -> None:
        await original(self, driver, names, wait_s=wait_s)
        await self.give_back(driver.identity.run)

    with patched(Locks, "hold", hold):
        yield


@sabotage(metric="conservation_violated")
def doubts_are_dropped() -> Iterator[None]:
    """A step that was cut off counts as one that did nothing: no undo is owed for it."""

    def in_doubt(machine: Any) -> set[int]:
        return set()

    with patched(undoing, "in_doubt", in_doubt):
        yield


DEFECTS: Final[tuple[Sabotage, ...]] = (
    undo_list_in_memory,
    compensation_repeated_after_crash,
    undone_in_any_order,
    locks_end_with_their_step,
    doubts_are_dropped,
)


def applied(name: str | None) -> AbstractContextManager[None]:
    """The defect `name` while entered, in a process of the load; nothing for None."""
    by_name = {each.name: each for each in DEFECTS}
    return nullcontext() if name is None else by_name[name].apply()
