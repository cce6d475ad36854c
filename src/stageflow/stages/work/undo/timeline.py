"""One timeline in use: turns, changes, acts that are final, and undos.

Every change is an intent on record, an act under a condition, and a record of what came of it.
Whoever has the next turn finds out about what was cut off before doing anything else.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from stageflow.model.errors import EffectError, EffectUnknown
from stageflow.model.marks import reached
from stageflow.stages.work.unbroken import to_its_end, unbroken
from stageflow.stages.work.undo import records as on_record
from stageflow.stages.work.undo.log import (
    Conflict,
    Log,
    Place,
    PlacePlan,
    Restore,
    Restored,
    StepStanding,
    TimelineStep,
    difference,
    judged,
    kept,
    plan,
)
from stageflow.stages.work.undo.records import Record, State
from stageflow.stages.work.undo.resource import (
    Changed,
    FormLost,
    Irreversible,
    Resource,
    WriteRefused,
)
from stageflow.stages.work.undo.sealing import TimelineSeal, new_seal, seal_of
from stageflow.stages.work.undo.store import Change, TimelineHead

if TYPE_CHECKING:  # it makes timelines
    from stageflow.stages.work.undo.undo_log import UndoLog

T = TypeVar("T")
CONTENTIONS_MAX: Final = 16
"""How often somebody else may come between the read and the write of one change."""
PAUSE_S, PAUSE_MAX_S = 0.005, 0.1
"""First and longest pause of who waits for a turn."""
UNKNOWN_ON: Final = (TimeoutError, ConnectionError, EffectUnknown)
"""What a `send` raises when it can't know; anything else is its word that nothing happened."""


@dataclass(frozen=True, slots=True)
class TimelineLook:
    """A timeline at one moment."""

    steps: tuple[TimelineStep, ...]
    """In order. One that is open is being made, or was cut off."""
    standing: frozenset[int]
    """Numbers of those that happened and were not taken back since."""


class Timeline:
    """Changes in order; `undo_to` brings any of its states back. From `UndoLog.timeline` or `of`.

    One turn at a time: changes wait for one another, in other processes too, for
    `UndoRules(wait_s=...)`, and are then refused as `undo.busy`.
    """

    def __init__(
        self, undo: UndoLog, name: str, *, by: str, next_op: Callable[[], str] = str
    ) -> None:
        self._undo = undo
        self._name = name
        self._by = by
        self._next_op = next_op
        self._forget()

    def _forget(self) -> None:
        """The next turn reads all records anew."""
        self._log = Log()
        self._erased = 0
        self._seal: TimelineSeal | None = None

    # -- changing ----------------------------------------------------------------------------

    async def change(
        self, resource: Resource | str, key: str, to: Any, *, op: str | None = None
    ) -> int:
        """Makes `to` what is at `key`; the number of the step.

        `to` is a value of the resource, None for nothing, or a function from the value that is
        there to the new one. A change that changes nothing is no step. Whoever else writes in
        between is not overwritten: the change is made anew, from what is there then.

        `op` names this change of the timeline: who makes it again under that name is given the
        step that was made. In a stage each call has a name by its order.

        EffectError `undo.contended` when that happens again and again, `undo.busy`,
        `undo.unknown_resource`, `undo.other_op` when the name stands for a change elsewhere, and
        what the resource says that will not have it (WriteRefused); EffectUnknown `undo.unknown`
        when this change was cut off in an earlier life and nobody can say whether it happened.
        """
        op = self._next_op() if op is None else op
        known = self._known(resource)
        async with self._turn() as turn:
            made = self._made(turn.log, op, (known.name, key))
            if made is not None and made.standing is StepStanding.DOUBTED:
                raise self._unknown(made)
            if made is not None:
                return made.number
            return await self._changed(turn, known, key, to, op)

    async def _changed(self, turn: _Turn, resource: Resource, key: str, to: Any, op: str) -> int:
        """Makes a change from what is there, anew whenever somebody else comes in between."""
        for _ in range(CONTENTIONS_MAX):
            before = await self._act(resource.read(key))
            value = to(resource.value(before.content)) if callable(to) else to
            after = await self._act(resource.encoded(value, before))
            if after == before.content:
                return turn.log.last_step
            step = turn.log.last_step + 1
            await turn.append(self._intent(turn, resource.name, key, before, after, op=op))
            try:
                await turn.write(resource, key, after, before)
            except Changed:
                await turn.append(on_record.Voided(step, "changed by somebody else"))
            except WriteRefused as refused:
                await turn.append(on_record.Voided(step, refused.code))
                raise
            else:
                return step
        raise EffectError(
            "undo.contended",
            f"{key!r} of {resource.name!r} changed each time it was to be changed",
            expected=f"a moment without other writers within {CONTENTIONS_MAX} tries",
            fix="try again when whoever writes there is done",
        )

    def _intent(
        self, turn: _Turn, resource: str, key: str, before: State, after: bytes | None, **more: Any
    ) -> on_record.Intended:
        step = turn.log.last_step + 1
        return on_record.Intended(
            step, resource, key, before, after, self._by, at_s=turn.now_s, **more
        )

    # -- acts that are final ------------------------------------------------------------------

    async def permit(
        self,
        act: Irreversible,
        payload: bytes | str,
        *,
        by: str,
        for_s: float = 86_400.0,
        op: str | None = None,
    ) -> None:
        """A person's leave to do this act with this payload, once, within `for_s`.

        Who may give it is for your application to decide: `by` is recorded, not checked. `op` as
        for `change`: leave that is given again under one name is given once.
        """
        op = self._next_op() if op is None else op
        digest = _digest(act, _payload(payload))
        async with self._turn() as turn:
            if not turn.log.is_permitted(op):
                await turn.append(on_record.Permitted(digest, by, turn.now_s + for_s, op))

    async def send(self, act: Irreversible, payload: bytes | str, *, op: str | None = None) -> int:
        """Does an act that nobody can take back, if it was permitted; the number of the step.

        The leave is used up by it; one that fails gives it back. `op` as for `change`: what was
        sent under a name is not sent again. EffectError `undo.not_permitted`; EffectUnknown
        `undo.unknown` when nobody knows whether it happened, unless the receiver recognises keys:
        then a second `send` under the same `op` asks it once more.
        """
        op = self._next_op() if op is None else op
        data = _payload(payload)
        digest = _digest(act, data)
        async with self._turn() as turn:
            made = self._made(turn.log, op, (act.name, digest))
            if made is not None and made.standing is StepStanding.DOUBTED:
                if not act.keyed:
                    raise self._unknown(made)
                await self._act(act.send(data, self._key(made.number)))
                await turn.append(on_record.Settled(made.number, True, act.name))
            if made is not None:
                return made.number
            permit = turn.log.permit(digest, turn.now_s)
            if permit is None:
                raise _not_permitted(act, digest)
            step = turn.log.last_step + 1
            await turn.append(
                on_record.Sending(step, act.name, digest, self._by, permit.by, op, turn.now_s)
            )
            await self._sent(turn, act, data, step)
            return step

    async def _sent(self, turn: _Turn, act: Irreversible, data: bytes, step: int) -> None:
        try:
            await self._act(act.send(data, self._key(step)))
        except UNKNOWN_ON as error:
            await turn.append(on_record.Doubted(step, None))
            if act.keyed:
                raise  # whoever tries again asks under the same key
            raise self._unknown(turn.log.step(step)) from error
        except Exception as error:
            await turn.append(on_record.Voided(step, type(error).__name__))
            raise
        await turn.append(on_record.Acted(step, None))

    async def settle(self, step: int, *, happened: bool, by: str) -> None:
        """A person's word on a step of which nobody knew whether it happened.

        Of one that did, what was found at its place counts as what it left there. EffectError
        `undo.not_in_doubt` for any other step.
        """
        async with self._turn() as turn:
            is_known = 0 < step <= turn.log.last_step
            if not is_known or turn.log.step(step).standing is not StepStanding.DOUBTED:
                raise EffectError(
                    "undo.not_in_doubt",
                    f"step {step} of this timeline is not in doubt",
                    expected="a step that is",
                    got=turn.log.step(step).standing.value if is_known else "no step",
                    fix="await timeline.steps() tells how each step stands",
                )
            await turn.append(on_record.Settled(step, happened, by))

    # -- undoing -----------------------------------------------------------------------------

    async def undo_to(self, step: int, *, op: str | None = None) -> Restored:
        """Takes back all steps after this one, undos among them; 0 is the beginning.

        Each place gets what it had then, if it is still as the timeline's last step left it;
        whatever somebody else has changed is left as it is, and reported. Takes steps of its own:
        `undo_to` a later number brings them back. What a resource refuses to take back is left and
        reported, too. `op` as for `change`. EffectError `undo.unknown_step`.
        """
        op = self._next_op() if op is None else op
        async with self._turn() as turn:
            self._check_step(turn.log, step)
            return await self._undone(turn, to_step=step, node="", op=op)

    async def put_back(self, node: str, *, op: str | None = None) -> Restored:
        """Takes back what this node, or whoever is named so in `by`, has changed and what stands.

        What others have changed since at the same place is left as it is, and reported.
        """
        op = self._next_op() if op is None else op
        async with self._turn() as turn:
            return await self._undone(turn, to_step=-1, node=node, op=op)

    async def preview(self, step: int) -> Restored:
        """What `undo_to(step)` would do now; changes nothing."""
        async with self._turn() as turn:
            self._check_step(turn.log, step)
            begun = on_record.Begun(0, step, "", turn.log.last_step, self._by)
            steps: list[int] = []
            conflicts = []
            for place in plan(turn.log, begun, self._adapted):
                restore, conflict = place.restore, place.conflict
                if restore is not None:
                    now = await self._act(self._known(restore.place[0]).read(restore.place[1]))
                    why = difference(restore.place[0], restore.expected, now, self._adapted)
                    if why is None:
                        steps += restore.undoes
                    else:
                        conflict = _conflict(restore, why)
                if conflict is not None:
                    conflicts.append(conflict)
            return Restored(
                0,
                tuple(sorted(steps, reverse=True)),
                tuple(conflicts),
                kept(turn.log, begun),
                turn.log.last_step,
            )

    async def steps(self) -> tuple[TimelineStep, ...]:
        """All steps, in order, as they stand."""
        async with self._turn() as turn:
            return tuple(turn.log.steps)

    async def peek(self) -> TimelineLook:
        """What the log tells now: no turn is waited for, and nothing recovered."""
        alone = Timeline(self._undo, self._name, by=self._by)
        await alone._read_on()
        log = alone._log
        return TimelineLook(tuple(log.steps), frozenset(log.standing_steps(log.last_step)))

    async def undos(self) -> tuple[Restored, ...]:
        """What came of each undo, in order."""
        async with self._turn() as turn:
            return tuple(turn.log.report(begun) for begun in turn.log.undos)

    async def recover(self) -> Restored | None:
        """Finishes what was cut off, as the next use would; the undo that it ended."""
        async with self._turn() as turn:
            return turn.recovered

    async def erase(self) -> None:
        """Removes all that the log holds of this timeline, a person's leaves among them.

        What was cut off is finished first, and the key is needed for that alone; then nothing
        before can be taken back, or known again when a run is executed again. A database's files
        and backups may hold deleted rows for a while: keep the key of a sealed log
        (`UndoLog(keys=...)`) apart from them.
        """
        await self._erase_if(lambda turn: True)

    async def erase_if_idle(self, for_s: float) -> bool:
        """Erases it when its last record is older than that; whether it is."""
        return await self._erase_if(lambda turn: 0 < turn.before.used_s < turn.now_s - for_s)

    async def _erase_if(self, is_wanted: Callable[[_Turn], bool]) -> bool:
        """Nothing is read that needn't be finished: what can't be read any more can be erased."""
        turn = await self._claimed()
        try:
            if turn.before.is_unfinished:
                await self._read(turn)
                await self._recover(turn)
            if not is_wanted(turn):
                return False
            await turn.erase()
            return True
        finally:
            await turn.end()

    async def _undone(self, turn: _Turn, *, to_step: int, node: str, op: str) -> Restored:
        log = turn.log
        known = log.undo_of_op(op)
        if known is not None:
            return log.report(known)
        begun = on_record.Begun(
            log.last_undo + 1, to_step, node, log.last_step, self._by, op, turn.now_s
        )
        await turn.append(begun)
        return await self._finished(turn)

    async def _finished(self, turn: _Turn) -> Restored:
        """Does what is left of the undo that is begun, be it by this process or by a dead one."""
        begun = turn.log.undo
        assert begun is not None
        # Each place comes once: what the dead process left is all there is to leave out.
        restored, reported = turn.log.places_done(begun.undo)
        for each in plan(turn.log, begun, self._adapted):
            if each.restore is not None and each.place not in restored | reported:
                await self._restored(turn, begun.undo, each, each.restore)
            elif each.conflict is not None and each.place not in reported:
                await turn.append(_conflicted(begun.undo, each.conflict))
        await turn.append(on_record.Ended(begun.undo))
        return turn.log.report(begun)

    async def _restored(self, turn: _Turn, undo: int, place: PlacePlan, restore: Restore) -> None:
        """One place: written, or left as somebody else has made it."""
        name, key = restore.place
        resource = self._known(name)
        also = [] if place.conflict is None else [_conflicted(undo, place.conflict)]
        try:
            now = await self._act(resource.read(key))
            why = difference(name, restore.expected, now, self._adapted)
        except WriteRefused as refused:
            now, why = restore.expected, _refusal(refused)
        if why is None:
            try:
                target = self._adapted(name, restore.target.content, restore.target.form, now.form)
            except FormLost as lost:
                why = f"its form changed: {lost}"
        if why is not None:
            reached("undo_conflict")
            await turn.append(_conflicted(undo, _conflict(restore, why)))
            return
        if target == now.content:
            await turn.append(on_record.Matched(undo, restore.undoes), *also)
            return
        step = turn.log.last_step + 1
        intent = self._intent(turn, name, key, now, target, undoes=restore.undoes, undo=undo)
        await turn.append(intent)
        try:
            await turn.write(resource, key, target, now, *also)
        except (Changed, WriteRefused) as error:
            reached("undo_conflict")
            why = _refusal(error) if isinstance(error, WriteRefused) else "changed by somebody else"
            await turn.append(
                on_record.Voided(step, why), _conflicted(undo, _conflict(restore, why))
            )

    # -- turns -------------------------------------------------------------------------------

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[_Turn]:
        """The timeline is this task's alone, and nothing in it is cut off."""
        turn = await self._claimed()
        try:
            await self._read(turn)
            await self._recover(turn)
            yield turn
        finally:
            await turn.end()

    async def _claimed(self) -> _Turn:
        undo, loop = self._undo, asyncio.get_running_loop()
        holder = undo.holders.new()
        until_s, pause_s = loop.time() + undo.rules.wait_s, PAUSE_S
        while True:
            turn = _Turn(self, holder)
            if await turn.claim():
                return turn
            if loop.time() >= until_s:
                raise EffectError(
                    "undo.busy",
                    "somebody else is changing this timeline",
                    expected=f"a turn within {undo.rules.wait_s:g} s",
                    fix="try again later, or UndoRules(wait_s=...) for longer",
                )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    async def _read(self, turn: _Turn) -> None:
        """What was appended since this object's last turn."""
        if turn.before.erased != self._erased:
            self._forget()
            self._erased = turn.before.erased
        await self._read_on()
        turn.log = self._log

    async def _read_on(self) -> None:
        known = self._log.length
        for place, data in enumerate(await self._undo.store.read(self._name, known), known):
            self._log.apply(await self._opened(data, place))

    async def _opened(self, data: bytes, place: int) -> Record:
        record = on_record.decoded(data, self._name, place)
        if isinstance(record, on_record.Keyed):
            self._seal = await seal_of(self._undo.keys, self._name, record)
        elif isinstance(record, on_record.Sealed):
            if self._seal is None:  # the record with its key is gone
                raise on_record.damaged(data, self._name, place)
            return self._seal.opened(record, place)
        return record

    async def _recover(self, turn: _Turn) -> None:
        """What a dead process left open is found out, what it began is finished."""
        step = turn.log.open
        if step is not None:
            reached("undo_step_recovered")
            await turn.append(*await self._found_out(step, turn.now_s))
        if turn.log.undo is not None:
            reached("undo_finished_for_another")
            turn.recovered = await self._finished(turn)

    async def _found_out(self, step: TimelineStep, now_s: float) -> list[Record]:
        """What became of an open step."""
        if step.is_final:
            return [on_record.Doubted(step.number, None)]
        resource = self._known(step.resource)
        await asyncio.sleep(max(0.0, step.at_s + resource.in_flight_s - now_s))
        try:
            now = await self._act(resource.read(step.key))
            found = judged(step, now, self._adapted)
        except WriteRefused:  # the place itself is gone
            found = on_record.Doubted(step.number, State(None))
        if step.undo and isinstance(found, on_record.Doubted):
            why = f"nobody knows whether step {step.number} happened"
            return [found, on_record.Conflicted(step.undo, step.undoes[0], why)]
        return [found]

    async def _act(self, act: Awaitable[T]) -> T:
        """One use of a resource, within its time."""
        async with asyncio.timeout(self._undo.rules.act_s):
            return await act

    # -- names -------------------------------------------------------------------------------

    def _known(self, resource: Resource | str) -> Resource:
        return self._undo.resource(resource if isinstance(resource, str) else resource.name)

    def _adapted(self, resource: str, content: bytes | None, then: str, now: str) -> bytes | None:
        return content if then == now else self._known(resource).adapted(content, then, now)

    def _made(self, log: Log, op: str, place: Place) -> TimelineStep | None:
        """The step under this name, unless it did not happen."""
        made = log.of_op(op)
        if made is None or made.standing is StepStanding.DROPPED:
            return None
        if made.place != place:
            raise EffectError(
                "undo.other_op",
                f"{op!r} is step {made.number} of this timeline, at {made.key!r} of "
                f"{made.resource!r}",
                expected="the change that was made first under this name",
                got=f"one at {place[1]!r} of {place[0]!r}",
                fix="let the stage do the same in the same order each time, or give op=",
            )
        return made

    def _key(self, step: int) -> str:
        """Of an act, for receivers that recognise one."""
        return hashlib.blake2b(f"{self._name}/{step}".encode(), digest_size=16).hexdigest()

    def _check_step(self, log: Log, step: int) -> None:
        if not 0 <= step <= log.last_step:
            raise EffectError(
                "undo.unknown_step",
                f"this timeline has no step {step}",
                expected=f"0, which is its beginning, to {log.last_step}",
                fix="await timeline.steps() tells what there is",
            )

    def _unknown(self, step: TimelineStep) -> EffectUnknown:
        return EffectUnknown(
            "undo.unknown",
            f"nobody knows whether step {step.number}, {step.key!r} of {step.resource!r}, happened",
            expected="what was there before it, or what it was to leave there",
            fix="look; then await timeline.settle(step, happened=..., by=...)",
        )


class _Turn:
    """One holder's turn: what it appends is refused once the turn is another's."""

    def __init__(self, timeline: Timeline, holder: str) -> None:
        self._timeline = timeline
        self._store = timeline._undo.store
        self._rules = timeline._undo.rules
        self._holders = timeline._undo.holders
        self._holder = holder
        self._fence = 0
        self.log = Log()
        self.now_s = 0.0
        """By the store's clock, when it was last asked."""
        self.before = TimelineHead()
        """When the turn began."""
        self.recovered: Restored | None = None
        """The undo of a dead process that this turn ended first."""

    async def claim(self) -> bool:
        """Takes the turn, when it is nobody's or its holder is gone."""

        def decide(head: TimelineHead, now_s: float) -> tuple[Change | None, int]:
            self.now_s, self.before = now_s, head
            is_late = now_s > head.until_s + self._rules.skew_s
            if head.holder not in ("", self._holder) and not (
                is_late or self._holders.is_alive(head.holder) is False
            ):
                return None, 0
            taken = msgspec.structs.replace(
                head,
                fence=head.fence + 1,
                holder=self._holder,
                until_s=now_s + self._rules.lease_s,
            )
            return Change(taken), taken.fence

        claiming = self._store.change(self._timeline._name, decide)
        self._fence, is_cancelled = await unbroken(claiming)
        if is_cancelled:
            if self._fence:
                await self.end()
            raise asyncio.CancelledError
        return self._fence > 0

    async def append(self, *records: Record) -> None:
        """Writes them, durably and together, and reads them into the log."""
        place = self.log.length
        data = on_record.encoded(await self._sealed(records))
        for record in records:
            self.log.apply(record)
        is_unfinished = self.log.is_unfinished

        def decide(head: TimelineHead, now_s: float) -> tuple[Change | None, bool]:
            self.now_s = now_s
            if (head.fence, head.length) != (self._fence, place):
                return None, False
            longer = msgspec.structs.replace(
                head,
                length=place + len(data),
                until_s=now_s + self._rules.lease_s,
                is_unfinished=is_unfinished,
                used_s=now_s,
            )
            return Change(longer, data), True

        await self._decided(decide)

    async def _sealed(self, records: Sequence[Record]) -> Sequence[Record]:
        """As they are to be kept; in a log with keys the first brings the timeline's own."""
        timeline, keys = self._timeline, self._timeline._undo.keys
        place = self.log.length
        if keys is None and timeline._seal is None:
            return records
        first: list[Record] = []
        if timeline._seal is None:
            assert keys is not None
            keyed, timeline._seal = await new_seal(keys, timeline._name)
            self.log.apply(keyed)
            first.append(keyed)
        begin = place + len(first)
        return [*first, *(timeline._seal.closed(each, n) for n, each in enumerate(records, begin))]

    async def erase(self) -> None:
        """Removes all records."""

        def decide(head: TimelineHead, now_s: float) -> tuple[Change | None, bool]:
            if head.fence != self._fence:
                return None, False
            emptied = msgspec.structs.replace(
                head, length=0, used_s=0.0, erased=head.erased + 1, is_unfinished=False
            )
            return Change(emptied, erases=True), True

        await self._decided(decide)
        self._timeline._forget()

    async def _decided(self, decide: Callable[[TimelineHead, float], Any]) -> None:
        """A change by whoever has the turn: EffectError `undo.fenced` when that is another."""
        try:
            is_ours = await to_its_end(self._store.change(self._timeline._name, decide))
        except BaseException:
            self._timeline._forget()  # it may have happened or not: the next turn reads anew
            raise
        if not is_ours:
            self._timeline._forget()
            raise EffectError(
                "undo.fenced",
                "this turn has passed to somebody else",
                expected=f"a record within {self._rules.lease_s:g} s of the one before",
                fix="try again: what was cut off is found out first",
            )

    async def write(
        self,
        resource: Resource,
        key: str,
        content: bytes | None,
        expected: State,
        *also: Record,
    ) -> None:
        """The act of the step that is open, and the record that it happened. Raises Changed."""
        step = self.log.last_step
        after = await self._timeline._act(resource.write(key, content, expected))
        await self.append(on_record.Acted(step, after), *also)

    async def end(self) -> None:
        """Lets the turn go; also when the task is being cancelled."""

        def decide(head: TimelineHead, now_s: float) -> tuple[Change | None, None]:
            if head.fence != self._fence:
                return None, None
            return Change(msgspec.structs.replace(head, holder="", until_s=0.0)), None

        await to_its_end(self._store.change(self._timeline._name, decide))


def _conflict(restore: Restore, why: str) -> Conflict:
    return Conflict(restore.undoes[0], *restore.place, why)


def _conflicted(undo: int, conflict: Conflict) -> on_record.Conflicted:
    return on_record.Conflicted(undo, conflict.step, conflict.why)


def _refusal(refused: WriteRefused) -> str:
    return f"its resource refuses it: {refused.code}"


def _payload(payload: bytes | str) -> bytes:
    return payload.encode() if isinstance(payload, str) else payload


def _digest(act: Irreversible, payload: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in (act.name.encode(), payload):
        digest.update(len(part).to_bytes(8, "big") + part)  # no two pairs read alike
    return digest.hexdigest()


def _not_permitted(act: Irreversible, digest: str) -> EffectError:
    return EffectError(
        "undo.not_permitted",
        f"{act.name!r} can't be taken back, and nobody has permitted it with this payload",
        field=f"payload {digest[:16]}",
        expected="a person's leave that is neither used nor has run out",
        fix="await timeline.permit(act, payload, by=...) once a person has said yes",
    )
