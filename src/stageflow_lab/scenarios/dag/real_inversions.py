"""Mars Pathfinder on a real loop and a real thread: what a high stage waits for the bus."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stageflow import Context, Limits, Pipeline, Runtime, transform

SECTION_S: Final = 0.2
"""What the low stage computes while it holds the bus: the longest critical section."""
PIECES: Final = 2
"""In as many calls of a thread, so that others can come between."""
MEDIUM_S: Final = (0.006, 0.010)
MEDIUMS: Final = (25, 40)
THREADS: Final = 1


@dataclass(frozen=True, slots=True)
class Shape:
    """One run: when the high stage arrives, and how long each medium one computes. Seconds."""

    high_after_s: float
    mediums_s: tuple[float, ...]


def shape(seed: int) -> Shape:
    """Together the medium stages compute for about as long as the critical section, or longer."""
    rng = random.Random(seed)
    return Shape(
        rng.uniform(0.002, 0.010),
        tuple(rng.uniform(*MEDIUM_S) for _ in range(rng.randint(*MEDIUMS))),
    )


def computes(seconds: float) -> Pipeline[Any]:
    """A run whose only stage keeps a thread for so long."""

    def compute() -> None:
        time.sleep(seconds)

    stage = transform(compute, place="thread")
    return Pipeline(stage.name, [stage], outputs=stage)


async def wait_for_the_bus(planned: Shape) -> float | None:
    """Seconds that the high stage waits; None when it found the bus free, or a run failed."""
    runtime = Runtime(pools={"bus": 1}, limits=Limits(threads=THREADS))
    piece, began = computes(SECTION_S / PIECES), asyncio.Event()
    is_held = False
    waited: list[float] = []

    async def low(ctx: Context) -> None:
        nonlocal is_held
        async with ctx.pool("bus"):
            is_held = True
            began.set()
            for number in range(PIECES):
                await ctx.run(piece, key=f"piece-{number}")
            is_held = False

    async def high(ctx: Context) -> None:
        loop = asyncio.get_running_loop()
        asked_s, must_wait = loop.time(), is_held
        async with ctx.pool("bus"):
            if must_wait:
                waited.append(loop.time() - asked_s)

    low_stage, high_stage = transform(low), transform(high)
    handles = [Pipeline("low", [low_stage], outputs=low_stage).using(runtime=runtime).start()]
    await began.wait()
    for seconds in planned.mediums_s:
        handles.append(computes(seconds).using(runtime=runtime, priority=1).start())
    await asyncio.sleep(planned.high_after_s)
    urgent = Pipeline("high", [high_stage], outputs=high_stage)
    handles.append(urgent.using(runtime=runtime, priority=2).start())
    statuses = [(await handle).status for handle in handles]
    return waited[0] if waited and set(statuses) == {"ok"} else None


def wait_all(seeds: Sequence[int], *, lanes: int, done: Callable[[], None]) -> list[float | None]:
    """What each seed's high stage waited, `lanes` side by side on one loop."""
    waits: dict[int, float | None] = {}
    left = iter(seeds)

    async def lane() -> None:
        for seed in left:
            waits[seed] = await wait_for_the_bus(shape(seed))
            done()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(lanes):
                group.create_task(lane())

    asyncio.run(main())
    return [waits[seed] for seed in seeds]
