"""One process that lives a part of a story: it changes, undoes, and dies where it is to.

The same for simulated and real processes: what differs is how one dies, and the world it acts on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

from stageflow import EffectError, EffectUnknown
from stageflow.stages.work import (
    Irreversible,
    Resource,
    Restored,
    State,
    StepStanding,
    TimelineStep,
    UndoLog,
    UndoRules,
)
from stageflow.stages.work.undo import records as on_record
from stageflow.stages.work.undo.store import Change, Decide, TimelineHead, UndoStore

from .undo_stories import PLACES, VALUES, Act, Place, Story
from .undo_truth import Fact, Permit, Sent, StepSeen, UndoSeen, plain

RULES: Final = UndoRules(lease_s=60.0, act_s=20.0, wait_s=30.0, skew_s=10.0)
LETTERS: Final = 2
ANSWER_LOST: Final = 52
"""A letter's value from which on its sender hears nothing."""

T = TypeVar("T")


class World(Protocol):
    """Places, whoever writes there, and what really happened to them."""

    @property
    def resources(self) -> Sequence[Resource]:
        """In the order of RESOURCES."""
        ...

    async def edit(self, place: Place, value: str | None) -> None:
        """Somebody else's write."""
        ...

    def fresh(self) -> str:
        """A text that nobody has written anywhere."""
        ...

    async def text(self, place: Place) -> str | None:
        """What is there, as others see it."""
        ...

    async def change_form(self) -> None:
        """Adds the column, or drops it."""
        ...

    def tell(self, fact: Fact | Permit | Sent | UndoSeen) -> None:
        """Notes what happened; it outlives the process."""
        ...

    def facts_count(self) -> int:
        """Facts that were told so far."""
        ...

    def was_sent(self, step: int) -> bool:
        """Whether this step's letter arrived."""
        ...


@dataclass(frozen=True, slots=True)
class Pending:
    """An undo that was asked for."""

    target: int
    begin: int
    upto: int
    deaths: int = 0


@dataclass
class Progress:
    """How far a story has come; outlives the processes."""

    next: int = 0
    """The first act that nobody has begun."""
    undos: int = 0
    """That have ended and were told."""
    pending: Pending | None = None
    refused: int = 0


class Process(ABC):
    """What a process reaches its world through, and where it dies."""

    def __init__(self, world: World, story: Story, life: int) -> None:
        self.world = world
        self.left = story.deaths[life] if life < len(story.deaths) else None
        """Points until it dies; None for ever."""
        self.race: tuple[int, Place] | None = None
        self.step = 0
        """Whose intent stood last on record."""
        self.is_undo = False
        self.doing = ""

    @abstractmethod
    def die(self) -> None:
        """The end; does not return."""

    async def living(self) -> None:
        """Does not return in a dead process. One that is really killed needs nothing for that."""
        return

    async def at(self, what: str) -> None:
        """A point: dies here when it is its turn to; others may write here."""
        await self.living()
        self.pass_by(what)
        if self.race is not None:
            points, place = self.race
            self.race = (points - 1, place) if points else None
            if not points:
                await self.world.edit(place, self.world.fresh())

    def pass_by(self, what: str) -> None:
        """A point at which nobody else writes; of any thread."""
        if self.left is None:
            return
        if self.left == 0:
            self.doing = what
            self.die()
        self.left -= 1

    def note(self, record: on_record.Record) -> None:
        """One of its log's records, on its way into the store."""
        if isinstance(record, (on_record.Intended, on_record.Sending)):
            self.step = record.step
            self.is_undo = isinstance(record, on_record.Intended) and record.undo > 0

    async def send(self, payload: bytes, key: str) -> None:
        """The post office."""
        await self.at("write")
        self.world.tell(Sent(self.step, payload.decode()))
        await self.at("write")
        if payload.endswith(b"!"):
            raise TimeoutError


class ReachedStore:
    """The log's store, as a process reaches it. Implements UndoStore."""

    def __init__(self, inner: UndoStore, process: Process) -> None:
        self._inner = inner
        self._process = process

    async def change(self, timeline: str, decide: Decide[T]) -> T:
        process, written = self._process, False

        def seen(head: TimelineHead, now_s: float) -> tuple[Change | None, T]:
            nonlocal written
            change, answer = decide(head, now_s)
            written = change is not None and bool(change.records)
            for data in () if change is None else change.records:
                process.note(on_record.decoded(data, timeline, 0))
            return change, answer

        await process.at("record")
        answer = await self._inner.change(timeline, seen)
        if written:
            await process.at("record")
        return answer

    async def read(self, timeline: str, since: int) -> list[bytes]:
        await self._process.living()
        return await self._inner.read(timeline, since)

    async def unfinished(self) -> list[str]:
        await self._process.living()
        return await self._inner.unfinished()

    async def latest(self, count: int) -> list[tuple[str, TimelineHead]]:
        await self._process.living()
        return await self._inner.latest(count)

    async def idle(self, for_s: float) -> list[str]:
        await self._process.living()
        return await self._inner.idle(for_s)

    async def close(self) -> None:
        await self._inner.close()


class ReachedResource:
    """A resource, as a process reaches it. Implements Resource."""

    def __init__(self, inner: Resource, process: Process) -> None:
        self.name = inner.name
        self.in_flight_s = inner.in_flight_s
        self._inner = inner
        self._process = process

    async def read(self, key: str) -> State:
        await self._process.living()
        return await self._inner.read(key)

    async def write(self, key: str, content: bytes | None, expected: State) -> State:
        process = self._process
        await process.at("write")
        value = plain(self._inner.value(content))
        fact = Fact("ours", (self.name, key), value, process.step, process.is_undo)
        after = await self.wrote(key, content, expected, fact)
        await process.at("write")
        return after

    async def wrote(self, key: str, content: bytes | None, expected: State, fact: Fact) -> State:
        """Writes, and tells."""
        after = await self._inner.write(key, content, expected)
        self._process.world.tell(fact)
        return after

    async def encoded(self, value: Any, before: State) -> bytes | None:
        return await self._inner.encoded(value, before)

    def value(self, content: bytes | None) -> Any:
        return self._inner.value(content)

    def adapted(self, content: bytes | None, then: str, now: str) -> bytes | None:
        return self._inner.adapted(content, then, now)


class Life:
    """A process at work on a story."""

    def __init__(
        self,
        process: Process,
        undo: UndoLog,
        story: Story,
        progress: Progress,
        *,
        save: Callable[[Progress], None],
    ) -> None:
        self._process = process
        self._world = process.world
        self._undo = undo
        self._story = story
        self._progress = progress
        self._save = save
        """Called before each act, and after each undo."""
        self._line = undo.timeline("story", by="agent")
        self._letter = Irreversible("letters", process.send)

    async def live(self) -> None:
        """Takes up what was cut off, then goes on to the story's end."""
        await self._undo.recover()
        await self._take_up()
        for act in self._story.acts[self._progress.next :]:
            self._progress.next += 1
            self._save(self._progress)
            await self._do(act)

    async def steps(self) -> tuple[list[StepSeen], bool]:
        """All steps in the end, and whether anything is half done."""
        steps = [self._seen(step) for step in await self._line.steps()]
        return steps, bool(await self._undo.store.unfinished())

    async def _take_up(self) -> None:
        """Tells of an undo that was finished meanwhile; says how letters in doubt stand."""
        undos = await self._line.undos()
        pending = self._progress.pending
        if len(undos) > self._progress.undos and pending is not None:
            self._told(replace(pending, deaths=pending.deaths + 1), undos[-1])
        self._progress.pending = None
        for step in await self._line.steps():
            if step.is_final and step.standing is StepStanding.DOUBTED:
                happened = self._world.was_sent(step.number)
                await self._line.settle(step.number, happened=happened, by="ann")

    def _told(self, pending: Pending, restored: Restored) -> None:
        """One undo more has ended."""
        self._world.tell(
            UndoSeen(
                target=pending.target,
                begin=pending.begin,
                end=self._world.facts_count(),
                upto=pending.upto,
                last=restored.last_step,
                steps=restored.steps,
                conflicts=tuple((each.resource, each.key) for each in restored.conflicts),
                kept=restored.kept,
                deaths=pending.deaths,
            )
        )
        self._progress.undos += 1
        self._progress.pending = None
        self._save(self._progress)

    # -- acts --------------------------------------------------------------------------------

    async def _do(self, act: Act) -> None:
        place = PLACES[act.place % len(PLACES)]
        value = VALUES[act.value % len(VALUES)]
        self._process.race = None if act.race is None else (act.race, place)
        match act.kind:
            case "change":
                await self._line.change(*place, _value(place, value))
            case "append":
                await self._line.change(*place, lambda there: _value(place, _longer(there)))
            case "edit":
                await self._world.edit(place, value and self._world.fresh())
            case "back":
                there = await self._world.text(place)
                await self._world.edit(place, self._world.fresh())
                await self._world.edit(place, there)
            case "undo":
                await self._undo_to(act)
            case "form":
                await self._world.change_form()
            case "send":
                await self._send(act)
        self._process.race = None

    async def _undo_to(self, act: Act) -> None:
        upto = len(await self._line.steps())
        pending = Pending(act.value % (upto + 1), self._world.facts_count(), upto)
        self._progress.pending = pending
        self._save(self._progress)
        self._told(pending, await self._line.undo_to(pending.target))

    async def _send(self, act: Act) -> None:
        payload = f"letter {act.value % LETTERS}{'!' if act.value >= ANSWER_LOST else ''}"
        if act.is_permitted:
            self._world.tell(Permit(payload))
            await self._line.permit(self._letter, payload, by="ann")
        try:
            await self._line.send(self._letter, payload)
        except EffectUnknown:
            await self._take_up()
        except EffectError as error:
            if error.code != "undo.not_permitted":
                raise
            self._progress.refused += 1

    def _seen(self, step: TimelineStep) -> StepSeen:
        value = before = None
        if not step.is_final and step.before is not None:
            resource = self._undo.resource(step.resource)
            value = plain(resource.value(step.intended))
            before = plain(resource.value(step.before.content))
        return StepSeen(
            number=step.number,
            standing=step.standing.value,
            place=step.place,
            value=value,
            before=before,
            is_final=step.is_final,
            undoes=step.undoes,
            permitted_by=step.permitted_by,
        )


def _value(place: Place, text: str | None) -> Any:
    return {"text": text} if place[0] == "rows" and text is not None else text


def _longer(there: Any) -> str:
    text = plain(there)
    return f"{text['text'] if isinstance(text, dict) else text or ''}+"
