"""A service that is away for a while, its clients, and three layers that could each try again.

Open load: requests come when they come, whether or not earlier ones have ended, as those of many
users do. So an outage does not thin them out, and attempts come on top.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from stageflow import (
    Context,
    Dependency,
    Pipeline,
    Retry,
    RetryBudget,
    Runtime,
    StageFailed,
    agent,
    enrich,
)
from stageflow.sim import Sim

LATENCY_S: Final = 0.05
"""What an attempt takes, whether or not it succeeds."""
BEFORE_S: Final = 10.0
AFTER_S: Final = 15.0
EVERY_S: Final = 30.0
"""Between two requests of a client."""
SHORT_S: Final = 2.0
LONG_S: Final = 120.0
SHORT_SHARE: Final = 0.2
"""Requests with a deadline that waits would outlast."""
BUDGET: Final = RetryBudget(ratio=0.1, window_s=10.0, reserve=0)
CALL: Final = Retry(
    attempts=3, base_s=1.0, factor=2.0, max_s=8.0, dependency="service", least_s=LATENCY_S
)
ABOVE: Final = Retry(attempts=3, base_s=1.0, max_s=8.0)
NAIVE_BASE_S: Final = 0.1


class Unhappy(Exception):
    """What a layer makes of a failure below it."""


@dataclass(slots=True)
class Service:
    """Counts what arrives. Away from `away_s` to `back_s`, on the simulation's clock."""

    now: Callable[[], float]
    away_s: float
    back_s: float
    arrivals: Counter[int] = field(default_factory=Counter)
    """By second."""
    attempts: int = 0
    """While it was away."""
    hopeless: int = 0
    """Attempts that could not end before their deadline."""

    async def call(self, deadline_s: float) -> str:
        """One attempt. ConnectionRefusedError while it is away."""
        begun_s = self.now()
        self.arrivals[int(begun_s)] += 1
        is_away = self.away_s <= begun_s < self.back_s
        self.attempts += is_away
        self.hopeless += begun_s + LATENCY_S > deadline_s + 1e-6
        await asyncio.sleep(LATENCY_S)
        if is_away:
            raise ConnectionRefusedError("nobody listens")
        return "answer"


@dataclass(slots=True)
class Story:
    """What one simulation saw."""

    service: Service
    requests: int = 0
    """While the service was away."""
    all_requests: int = 0
    answered: int = 0
    finals: Counter[str] = field(default_factory=Counter)
    """Why requests that failed were not tried again, in the layer next to the service."""
    units: list[float] = field(default_factory=list)
    """Waits, each divided by the longest that its attempt may have; of long deadlines only, for a
    deadline cuts off the longer ones."""


def _layers(story: Story, limits: dict[str, float]) -> Pipeline[Any]:
    """Three pipelines, one in another, each of which has a policy of its own."""
    ended: dict[str, float] = {}

    @enrich(retry=CALL)
    async def call(request: str, ctx: Context) -> str:
        now_s = story.service.now()
        if ctx.attempt > 1 and request.startswith("long"):
            most_s = min(CALL.max_s, CALL.base_s * CALL.factor ** (ctx.attempt - 2))
            story.units.append((now_s - ended[request]) / most_s)
        try:
            return await story.service.call(limits[request])
        finally:
            ended[request] = story.service.now()

    inner = Pipeline("inner", [call], inputs={"request": str}, outputs=call)

    @agent(retry=ABOVE)
    async def asks(request: str, ctx: Context) -> str:
        return await ctx.run(inner, key="inner", request=request)

    middle = Pipeline("middle", [asks], inputs={"request": str}, outputs=asks)

    @agent(retry=ABOVE)
    async def serves(request: str, ctx: Context) -> str:
        try:
            return await ctx.run(middle, key="middle", request=request)
        except StageFailed as failed:
            story.finals[failed.failure.final or "used up"] += 1
            raise Unhappy(request) from failed

    return Pipeline("outer", [serves], inputs={"request": str}, outputs=serves)


async def storm(sim: Sim, clients: int, outage_s: float, rng: random.Random) -> Story:
    """The framework's layers under an outage."""
    service = Service(sim.now, BEFORE_S, BEFORE_S + outage_s)
    story = Story(service)
    limits: dict[str, float] = {}
    pipeline = _layers(story, limits)
    async with Runtime(
        clock=sim.clock, dependencies={"service": Dependency(budget=BUDGET)}
    ) as runtime:

        async def one(request: str, deadline_s: float) -> None:
            limits[request] = sim.now() + deadline_s
            run = await pipeline.using(runtime=runtime, deadline=deadline_s).run(request=request)
            story.answered += run.status == "ok"

        await _requests(story, clients, outage_s, rng, one)
    return story


async def naive(sim: Sim, clients: int, outage_s: float, rng: random.Random) -> Story:
    """The control: the same load on three loops, one in another, each for itself."""
    service = Service(sim.now, BEFORE_S, BEFORE_S + outage_s)
    story = Story(service)

    async def again(call: Callable[[], Awaitable[str]]) -> str:
        for attempt in range(3):
            try:
                return await call()
            except ConnectionRefusedError:
                if attempt == 2:
                    raise
                await asyncio.sleep(rng.random() * NAIVE_BASE_S * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    async def one(request: str, deadline_s: float) -> None:
        async def inner() -> str:
            return await again(lambda: service.call(float("inf")))

        async def middle() -> str:
            return await again(inner)

        try:
            await again(middle)
            story.answered += 1
        except ConnectionRefusedError:
            story.finals["used up"] += 1

    await _requests(story, clients, outage_s, rng, one)
    return story


async def _requests(
    story: Story,
    clients: int,
    outage_s: float,
    rng: random.Random,
    one: Callable[[str, float], Awaitable[None]],
) -> None:
    """Every client's requests, each begun at its time."""
    end_s = BEFORE_S + outage_s + AFTER_S
    starts: list[tuple[float, str, float]] = []
    for client in range(clients):
        at_s, number = rng.random() * EVERY_S, 0
        while at_s < end_s:
            is_short = rng.random() < SHORT_SHARE
            name = f"{'short' if is_short else 'long'}/{client}/{number}"
            starts.append((at_s, name, SHORT_S if is_short else LONG_S))
            at_s += EVERY_S
            number += 1
    starts.sort()
    async with asyncio.TaskGroup() as group:
        for at_s, name, deadline_s in starts:
            await asyncio.sleep(max(0.0, at_s - story.service.now()))
            now_s = story.service.now()
            story.all_requests += 1
            story.requests += story.service.away_s <= now_s < story.service.back_s
            group.create_task(_as_coroutine(one(name, deadline_s)))


async def _as_coroutine(given: Awaitable[None]) -> None:
    await given
