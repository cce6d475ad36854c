"""What an undo log gets wrong, as sabotages of WORK-010."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Final

import msgspec

from stageflow.stages.work import MemoryUndo, Restored
from stageflow.stages.work.undo import log as machine
from stageflow.stages.work.undo import records as on_record
from stageflow.stages.work.undo import timeline
from stageflow.stages.work.undo.log import Log
from stageflow.stages.work.undo.postgres import PostgresUndo
from stageflow.stages.work.undo.sqlite import SQLiteUndo
from stageflow.stages.work.undo.store import Change, Decide, TimelineHead
from stageflow.stages.work.undo.timeline import Timeline

from ...sabotage import Sabotage, patched, sabotage


@sabotage(metric="clobbered_edits")
def blind_restore_of_old_snapshot() -> Iterator[None]:
    """What was there before is written back, whatever is there now."""
    with patched(timeline, "difference", lambda *_: None):
        yield


@sabotage(metric="half_undone_after_restart")
def undo_record_after_the_act() -> Iterator[None]:
    """What is about to be done is written down together with what came of it."""
    with (
        patched(MemoryUndo, "change", _late(MemoryUndo.change)),
        patched(SQLiteUndo, "change", _late(SQLiteUndo.change)),
        patched(PostgresUndo, "change", _late(PostgresUndo.change)),
    ):
        yield


def _late(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A store's `change` that holds intents back until the next record of their turn."""

    async def change(self: Any, name: str, decide: Decide[Any]) -> Any:
        held: dict[str, tuple[int, list[bytes]]] = self.__dict__.setdefault("held", {})

        def lately(head: TimelineHead, now_s: float) -> tuple[Change | None, Any]:
            fence, late = held.get(name, (head.fence, []))
            late = late if fence == head.fence else []
            longer = msgspec.structs.replace(head, length=head.length + len(late))
            made, answer = decide(longer, now_s)
            if made is None:
                return None, answer
            if not made.records:  # a turn begins or ends: what is held is lost
                held.pop(name, None)
                return Change(msgspec.structs.replace(made.head, length=head.length)), answer
            if all(_is_intent(data) for data in made.records):
                held[name] = (head.fence, [*late, *made.records])
                return None, answer
            held.pop(name, None)
            return Change(made.head, [*late, *made.records]), answer

        return await original(self, name, lately)

    return change


def _is_intent(data: bytes) -> bool:
    record = on_record.decoded(data, "", 0)
    return isinstance(record, (on_record.Intended, on_record.Sending))


@sabotage(metric="half_undone_after_restart")
def begun_undo_forgotten() -> Iterator[None]:
    """Whoever comes after a dead process ends its undo without doing the rest of it."""
    original = Timeline._recover

    async def recover(self: Timeline, turn: Any) -> None:
        step = turn.log.open
        if step is not None:
            await turn.append(*await self._found_out(step, turn.now_s))
        if turn.log.undo is not None:
            await turn.append(on_record.Ended(turn.log.undo.undo))
        await original(self, turn)

    with patched(Timeline, "_recover", recover):
        yield


@sabotage(metric="conflicts_detected")
def conflicts_left_and_not_told() -> Iterator[None]:
    """Whatever somebody else has changed is left as it is, in silence."""
    original = Log.report

    def report(self: Log, begun: on_record.Begun) -> Restored:
        return replace(original(self, begun), conflicts=())

    with patched(Log, "report", report):
        yield


@sabotage(metric="conflicts_detected")
def versions_not_compared() -> Iterator[None]:
    """Equal contents are taken for a place that nobody has touched."""
    original = machine.difference

    def difference(resource: str, then: Any, now: Any, adapted: Any) -> str | None:
        return original(resource, msgspec.structs.replace(then, version=""), now, adapted)

    with patched(machine, "difference", difference), patched(timeline, "difference", difference):
        yield


@sabotage(metric="unapproved_irreversible")
def leave_not_used_up() -> Iterator[None]:
    """A person's leave for one letter holds for all that are like it."""
    original = Log.apply

    def apply(self: Log, record: Any) -> None:
        given = None
        if isinstance(record, on_record.Sending):
            given = self._permits.get(record.digest)
        original(self, record)
        if given is not None:
            self._permits[given.digest] = given

    with patched(Log, "apply", apply):
        yield


@sabotage(metric="audit_matches")
def doubts_taken_for_done() -> Iterator[None]:
    """A change that was cut off counts as made."""

    def judged(step: Any, now: Any, adapted: Any) -> Any:
        return on_record.Acted(step.number, now)

    with patched(timeline, "judged", judged):
        yield


DEFECTS: Final[tuple[Sabotage, ...]] = (
    blind_restore_of_old_snapshot,
    undo_record_after_the_act,
    begun_undo_forgotten,
    conflicts_left_and_not_told,
    versions_not_compared,
    leave_not_used_up,
    doubts_taken_for_done,
)


def applied(name: str | None) -> AbstractContextManager[None]:
    """The defect `name` while entered, in a process of the load; nothing for None."""
    by_name = {each.name: each for each in DEFECTS}
    return nullcontext() if name is None else by_name[name].apply()
