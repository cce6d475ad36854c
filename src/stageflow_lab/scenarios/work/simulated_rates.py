"""Simulated processes that share the pace of services; their store and network take time."""

from __future__ import annotations

import asyncio
import math
import random
from typing import Any, Final

from stageflow.sim import RandomWalk, Sim, trial
from stageflow.stages.work.rate import Rate, RateLimiter
from stageflow.stages.work.rate.meter import Lesson, Slot
from stageflow.stages.work.rate.store import MemoryRates

from .quotas import KINDS, Kind, Service
from .rated_clients import Reply, Seen, clients_of, work_all

START_S: Final = 1_700_000_000.0
LATENCY_S: Final = 0.01
STORE_S: Final = 0.002
GRACE_S: Final = 0.05
"""What is said travels to a client, from it to the store, and from there to who waits."""


class SlowRates(MemoryRates):
    """A store that takes time for every answer."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    async def _travel(self) -> None:
        await asyncio.sleep(self._rng.random() * STORE_S)

    async def reserve(self, key: str, rate: Rate, *, wait_max_s: float = math.inf) -> Slot:
        await self._travel()
        slot = await super().reserve(key, rate, wait_max_s=wait_max_s)
        await self._travel()
        return slot

    async def learn(self, key: str, rate: Rate, lesson: Lesson) -> None:
        await self._travel()
        await super().learn(key, rate, lesson)
        await self._travel()


def simulate(seed: int, *, clients: int, processes: int, seconds: float) -> list[dict[str, Any]]:
    """What services and clients saw, by service."""

    async def main(sim: Sim) -> list[dict[str, Any]]:
        loop, rng = asyncio.get_running_loop(), random.Random(seed)
        services = {
            kind.name: Service(
                kind, loop.time(), seconds, GRACE_S, random.Random(rng.random()), START_S
            )
            for kind in KINDS
        }
        begin_s = loop.time()

        async def send(kind: Kind, identity: str) -> Reply:
            await asyncio.sleep(rng.random() * LATENCY_S / 2)
            reply = Reply(*services[kind.name].answer(loop.time(), identity))
            await asyncio.sleep(rng.random() * LATENCY_S / 2)
            return reply

        store, found = SlowRates(rng), []
        async with asyncio.TaskGroup() as group:
            for process in range(processes):
                limiters = {
                    kind.name: RateLimiter(
                        kind.rate,
                        key=kind.name,
                        store=store,
                        wall_s=lambda: START_S + loop.time() - begin_s,
                    )
                    for kind in KINDS
                }
                seen = Seen(grace_s=2 * STORE_S)
                mine = [each for each in clients_of(clients, processes) if each.process == process]
                found.append(seen)
                group.create_task(
                    work_all(mine, limiters, send, seen, seed=seed, until_s=begin_s + seconds)
                )
        return together([each.facts() for each in services.values()], [s.plain() for s in found])

    result: Any = trial(main, seed=seed, schedule=RandomWalk(seed), steps_max=50_000_000)
    if result.error is not None:
        raise result.error
    rows: list[dict[str, Any]] = result.returned
    return rows


def together(services: list[Any], processes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By service: what it saw, and what its clients did."""
    rows = []
    for facts in services:
        row = {**facts}
        served: dict[str, int] = {}
        for each in processes:
            for name, value in each[facts["kind"]].items():
                if name == "served" and isinstance(value, dict):
                    served |= value
                else:
                    row[f"client_{name}"] = row.get(f"client_{name}", 0) + value
        row["served_by_client"] = served
        rows.append(row)
    return rows
