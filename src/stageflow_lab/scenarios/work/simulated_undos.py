"""Stories of changes and undos in simulation: a table, files, a service, and processes that die.

A request to the service that its sender has let go arrives all the same, for a while.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from stageflow.sim import Sim
from stageflow.stages.work import Changed, FormLost, MemoryUndo, State, UndoLog

from .undo_facts import Seen
from .undo_life import RULES, Life, Process, Progress, ReachedResource, ReachedStore
from .undo_stories import PLACES, RESOURCES, Place, Story
from .undo_truth import COLUMN, COLUMN_DEFAULT, Fact, Permit, Sent, UndoSeen

LATENCY_S: Final = 0.05
FLIGHT_S: Final = 2.0
"""How long a request may be on its way."""
IN_FLIGHT_S: Final = 5.0
"""How long the service's resource says that it may be."""
START_S: Final = 1_700_000_000.0


class Died(BaseException):
    """What a dead process meets wherever it turns."""


class SimPlaces:
    """Texts by key, with versions. Implements Resource."""

    in_flight_s = 0.0

    def __init__(self, name: str) -> None:
        self.name = name
        self.texts: dict[str, Any] = {}
        self._versions: dict[str, int] = {}
        self._count = 0

    def set(self, key: str, value: Any) -> None:
        """A write, whoever's it be."""
        self._count += 1
        if value is None:
            self.texts.pop(key, None)
            self._versions.pop(key, None)
        else:
            self.texts[key] = value
            self._versions[key] = self._count

    def state(self, key: str) -> State:
        """What is there."""
        value = self.texts.get(key)
        content = None if value is None else _packed(value)
        return State(content, str(self._versions.get(key, "")), self.form())

    def form(self) -> str:
        """Of all contents."""
        return ""

    async def read(self, key: str) -> State:
        return self.state(key)

    async def write(self, key: str, content: bytes | None, expected: State) -> State:
        if self.state(key) != expected:
            raise Changed
        self.set(key, self.value(content))
        return self.state(key)

    async def encoded(self, value: Any, before: State) -> bytes | None:
        return None if value is None else _packed(value)

    def value(self, content: bytes | None) -> Any:
        return None if content is None else msgspec.json.decode(content)

    def adapted(self, content: bytes | None, then: str, now: str) -> bytes | None:
        raise FormLost("there is one form only")


def _packed(value: Any) -> bytes:
    return msgspec.json.encode(dict(sorted(value.items())) if isinstance(value, dict) else value)


class SimTable(SimPlaces):
    """Rows, with a column that comes and goes."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.has_column = False

    def form(self) -> str:
        return f"text,{COLUMN}" if self.has_column else "text"

    def change_form(self) -> None:
        """Adds the column to all rows, or drops it from them."""
        self.has_column = not self.has_column
        for row in self.texts.values():
            row.pop(COLUMN, None)
            if self.has_column:
                row[COLUMN] = COLUMN_DEFAULT

    def set(self, key: str, value: Any) -> None:
        if value is not None and self.has_column:
            value = {COLUMN: COLUMN_DEFAULT, **(self.texts.get(key) or {}), **value}
        super().set(key, value)

    async def encoded(self, value: Any, before: State) -> bytes | None:
        if value is None:
            return None
        there = self.value(before.content)
        if there is None:
            there = {COLUMN: COLUMN_DEFAULT} if COLUMN in before.form else {}
        return _packed({**there, **value})

    def adapted(self, content: bytes | None, then: str, now: str) -> bytes | None:
        if content is None:
            return None
        row = self.value(content)
        if COLUMN in row and COLUMN not in now:
            raise FormLost(f"column {COLUMN!r} is gone")
        return _packed({COLUMN: COLUMN_DEFAULT, **row})


class SimWorld:
    """Implements World."""

    def __init__(self) -> None:
        self.table = SimTable(RESOURCES[0])
        self.files = SimPlaces(RESOURCES[1])
        self.pages = SimPlaces(RESOURCES[2])
        self.pages.in_flight_s = IN_FLIGHT_S
        self.resources = (self.table, self.files, self.pages)
        self.seen = Seen("")

    def _of(self, place: Place) -> SimPlaces:
        return self.resources[RESOURCES.index(place[0])]

    async def edit(self, place: Place, value: str | None) -> None:
        places, key = self._of(place), place[1]
        if value is None and key not in places.texts:
            return
        is_row = places is self.table and value is not None
        places.set(key, {"text": value} if is_row else value)
        self.tell(Fact("theirs", place, places.texts.get(key)))

    def fresh(self) -> str:
        return f"theirs {len(self.seen.facts)}"

    async def text(self, place: Place) -> str | None:
        there = self._of(place).texts.get(place[1])
        return there["text"] if isinstance(there, dict) else there

    async def change_form(self) -> None:
        self.table.change_form()
        self.tell(Fact("form", ("rows", ""), self.table.has_column))

    def tell(self, fact: Fact | Permit | Sent | UndoSeen) -> None:
        if isinstance(fact, Fact):
            value = dict(fact.value) if isinstance(fact.value, dict) else fact.value
            self.seen.facts.append(Fact(fact.who, fact.place, value, fact.step, fact.is_undo))
        elif isinstance(fact, UndoSeen):
            self.seen.undos.append(fact)
        else:
            self.seen.letters.append(fact)

    def facts_count(self) -> int:
        return len(self.seen.facts)

    def was_sent(self, step: int) -> bool:
        return any(isinstance(each, Sent) and each.step == step for each in self.seen.letters)


class SimProcess(Process):
    """Once it is dead, nothing answers it."""

    is_dead = False

    def die(self) -> None:
        self.is_dead = True
        raise Died

    async def living(self) -> None:
        if self.is_dead:
            raise Died


@dataclass
class Flying:
    """Requests to the service, of one process."""

    process: SimProcess
    rng: random.Random


class SimService(ReachedResource):
    """The service, as a process reaches it: what is sent arrives, though its sender die."""

    def __init__(self, inner: SimPlaces, flying: Flying) -> None:
        super().__init__(inner, flying.process)
        self._places = inner
        self._flying = flying

    async def wrote(self, key: str, content: bytes | None, expected: State, fact: Fact) -> State:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[State | None] = loop.create_future()

        def arrives() -> None:
            made = None
            if self._places.state(key) == expected:
                self._places.set(key, self.value(content))
                self._flying.process.world.tell(fact)
                made = self._places.state(key)
            if not answer.done():
                answer.set_result(made)

        loop.call_later(self._flying.rng.random() * FLIGHT_S, arrives)
        await self._flying.process.at("write")
        made = await answer
        if made is None:
            raise Changed
        return made


class _Holders:
    """Each life of a story has one name, and is dead when the next one lives."""

    def __init__(self, life: int) -> None:
        self.life = life

    def new(self) -> str:
        return str(self.life)

    def is_alive(self, holder: str) -> bool:
        return int(holder) >= self.life


async def story_seen(sim: Sim, story: Story, name: str, rng: random.Random) -> Seen:
    """A story from its first process to its last, and what was seen of it."""
    world = SimWorld()
    world.seen.name = name
    store = MemoryUndo(wall_s=lambda: START_S + sim.now())
    progress = Progress()
    for life in range(len(story.deaths) + 1):
        process = SimProcess(world, story, life)
        service = SimService(world.pages, Flying(process, rng))
        resources = [ReachedResource(each, process) for each in (world.table, world.files)]
        undo = UndoLog(
            ReachedStore(store, process), *resources, service, rules=RULES, holders=_Holders(life)
        )
        living = Life(process, undo, story, progress, save=lambda _: None)
        try:
            await living.live()
        except Died:
            world.seen.deaths.append(process.doing)
            await asyncio.sleep(rng.random() * LATENCY_S)
            await _meanwhile(world, story, life)
            continue
        process.left = None
        await asyncio.sleep(FLIGHT_S)
        world.seen.steps, world.seen.is_unfinished = await living.steps()
        break
    world.seen.refused = progress.refused
    return world.seen


async def _meanwhile(world: SimWorld, story: Story, life: int) -> None:
    place = story.meanwhile[life]
    if place is not None:
        await world.edit(PLACES[place], world.fresh())
