"""What running a stage costs beside hand-written asyncio, in one process, turn about.

    python benchmarks/stages.py [--repeats 9]

Typed contracts, a subscriber to events, and fencing tokens are on; nothing is journalled. All is
CPU time, so that other programs disturb less.

- chain: n stages one behind the other. Floor: one awaited task per stage. Goal 0.8.
- fan-out: n stages side by side and one that waits for all. Floor: asyncio.gather. Goal 2.5.
- diamond: 100 runs of six stages, two of them side by side, one that waits. Floor: by hand. Goal 5.

The gate, exit status 1: a chain's time grows with its length to a power of at most 1.05 between
1,000 and 10,000 stages, by the least time of each. Goals are told, and nothing hangs on them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from stageflow import (
    Allow,
    Decision,
    Pipeline,
    Stage,
    Subscription,
    agent,
    enrich,
    guard,
    transform,
    work,
)

SLOPE_MAX = 1.05
DIAMONDS = 100
Value = dict[str, int]
Body = Callable[[], Awaitable[Any]]


async def plain() -> Value:
    """What every stage does."""
    return {"v": 1}


async def yielding() -> Value:
    """As `plain`, after one turn of the loop."""
    await asyncio.sleep(0)
    return {"v": 1}


def stage_of_chain(name: str, parent: Stage[..., Any] | None) -> Stage[..., Any]:
    async def first() -> Value:
        return {"v": 1}

    async def later(before: Value) -> Value:
        return {"v": 1}

    if parent is None:
        return transform(first, name=name)
    return transform(later, name=name).named(before=parent)


def chain(length: int) -> Pipeline[Any]:
    """`length` stages, each of which takes the value of the one before."""
    stages: list[Stage[..., Any]] = []
    for number in range(length):
        stages.append(stage_of_chain(f"s{number}", stages[-1] if stages else None))
    return Pipeline("chain", stages, outputs=stages[-1])


def fan_out(width: int) -> Pipeline[Any]:
    """`width` stages, and one that runs when all have ended."""
    side = transform(plain, name="s0")
    stages = [side.named(f"s{number}") for number in range(width)]
    last = transform(plain, name="last", after=stages)
    return Pipeline("fan_out", [*stages, last], outputs=last)


@transform
async def parsed() -> Value:
    return {"v": 1}


@enrich
async def left(parsed: Value) -> Value:
    return {"v": 1}


@enrich
async def right(parsed: Value) -> Value:
    return {"v": 1}


@guard
async def sound(left: Value) -> Decision:
    return Allow()


@agent
async def answer(left: Value, right: Value) -> Value:
    await asyncio.sleep(0)
    return {"v": 1}


@work
async def sent(answer: Value) -> Value:
    return {"v": 1}


DIAMOND = Pipeline("diamond", [parsed, left, right, sound, answer, sent], outputs=sent)


def watched(pipeline: Pipeline[Any]) -> Body:
    """Runs it once with a subscriber, which is told everything and reads later."""

    async def once() -> None:
        events = Subscription(queue_max=100_000)
        run = await pipeline.using(events=events).run()
        assert run.status == "ok" and events.dropped == 0

    return once


def chain_floor(length: int) -> Body:
    async def once() -> None:
        values = {}
        for number in range(length):
            values[number] = await asyncio.create_task(plain())

    return once


def fan_out_floor(width: int) -> Body:
    async def once() -> None:
        await asyncio.gather(*(plain() for _ in range(width)))
        await plain()

    return once


async def diamonds() -> None:
    """100 runs, one after another."""
    once = watched(DIAMOND)
    for _ in range(DIAMONDS):
        await once()


async def diamonds_floor() -> None:
    """The same stages by hand."""
    for _ in range(DIAMONDS):
        values = {"parsed": await plain()}
        values["left"], values["right"] = await asyncio.gather(plain(), plain())
        values["sound"] = await plain()
        values["answer"] = await yielding()
        values["sent"] = await plain()


def seconds(body: Body) -> float:
    """CPU seconds of one call in a fresh loop, without the loop's own beginning and end."""

    async def timed() -> float:
        gc.collect()
        begun = time.process_time()
        await body()
        return time.process_time() - begun

    return asyncio.run(timed())


def compared(ours: Body, floor: Body, *, repeats: int) -> tuple[list[float], list[float]]:
    """CPU seconds of either, taken in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        order = (0, 1) if repeat % 2 else (1, 0)
        for which in order:
            taken = seconds((ours, floor)[which])
            if repeat:  # the first round warms
                times[which].append(taken)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    subjects: list[tuple[str, int, Body, Body, float]] = [
        ("chain", 1_000, watched(chain(1_000)), chain_floor(1_000), 0.8),
        ("chain", 10_000, watched(chain(10_000)), chain_floor(10_000), 0.8),
        ("fan-out", 500, watched(fan_out(500)), fan_out_floor(500), 2.5),
        ("fan-out", 5_000, watched(fan_out(5_000)), fan_out_floor(5_000), 2.5),
        ("diamond", 6 * DIAMONDS, diamonds, diamonds_floor, 5.0),
    ]
    print(f"{'':<10}{'stages':>8}{'us/stage':>10}{'floor':>8}{'ratio':>8}{'goal':>7}")
    chains = {}
    for name, stages, ours, floor, goal in subjects:
        times, floors = compared(ours, floor, repeats=options.repeats)
        taken, bare = statistics.median(times), statistics.median(floors)
        ratio = statistics.median(a / b for a, b in zip(times, floors, strict=True))
        if name == "chain":
            chains[stages] = min(times)
        print(
            f"{name:<10}{stages:>8,}{taken / stages * 1e6:>10.2f}{bare / stages * 1e6:>8.2f}"
            f"{ratio:>8.2f}{goal:>7.1f}  {'met' if ratio <= goal else 'missed'}"
        )
    slope = math.log10(chains[10_000] / chains[1_000])
    print(f"chain grows with its length to the power of {slope:.3f}; at most {SLOPE_MAX}")
    return 0 if slope <= SLOPE_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
