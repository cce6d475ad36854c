"""Sagas in simulation: processes that die at any record or request, others that take over, readers
beside them, and a person at the end."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

from stageflow import Runtime
from stageflow.journal.locks import MemoryLocks
from stageflow.sim import Sim, SimJournal

from .saga_books import Followed, MemoryBooks
from .saga_life import LATENCY_S, Mortal, lived, read_on
from .saga_pipelines import pipelines_of
from .saga_specs import Death, Saga


class SimProcess(Mortal):
    """One process of one saga. Once it is dead, neither journal, locks nor receivers answer it."""

    def __init__(
        self,
        journal: SimJournal,
        locks: MemoryLocks,
        rng: random.Random,
        death: Death | None,
    ) -> None:
        super().__init__(journal, locks, death)
        self._rng = rng
        self.died = asyncio.Event()

    async def die(self) -> None:
        self.died.set()

    async def living(self) -> None:
        if self.died.is_set():
            await asyncio.get_running_loop().create_future()

    async def travel(self) -> None:
        await self.living()
        await asyncio.sleep(self._rng.random() * LATENCY_S)
        await self.living()


async def branch_story(
    sim: Sim, sagas: Sequence[Saga], rng: random.Random, readers: int
) -> tuple[list[Followed], MemoryBooks, Counter[str]]:
    """The sagas of one branch, side by side, and what readers saw of its accounts meanwhile."""
    books, locks, journal = MemoryBooks(), MemoryLocks(), SimJournal(sim)
    reads: Counter[str] = Counter()
    following = [
        asyncio.ensure_future(
            _followed(sim, saga, books, locks, journal, random.Random(rng.random()))
        )
        for saga in sagas
    ]
    reading = [
        asyncio.ensure_future(read_on(Runtime(locks=locks), sagas[0].branch, books, rng, reads))
        for _ in range(readers)
    ]
    found = await asyncio.gather(*following)
    for each in reading:
        each.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    return found, books, reads


async def _followed(
    sim: Sim,
    saga: Saga,
    books: MemoryBooks,
    locks: MemoryLocks,
    journal: SimJournal,
    rng: random.Random,
) -> Followed:
    followed = Followed(saga)
    pipelines = pipelines_of(saga)
    await asyncio.sleep(rng.random())
    deaths: list[Death | None] = [*saga.deaths, None]
    for number, death in enumerate(deaths):
        name = f"{saga.name}/{number}"
        process = SimProcess(journal.as_owner(name), locks, rng, death)
        runtime = Runtime(journal=process, clock=sim.clock, locks=process)
        living = asyncio.ensure_future(lived(runtime, process, books, followed, pipelines))
        dying = asyncio.ensure_future(process.died.wait())
        await asyncio.wait([living, dying], return_when="FIRST_COMPLETED")
        if not process.died.is_set():
            dying.cancel()
            living.result()
            return followed
        followed.died.append(death.point if death is not None else "")
        journal.kill(name)
    raise AssertionError("the last process does not die")
