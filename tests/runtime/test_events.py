"""What subscribers are told: one start and one end per attempt, and what was dropped."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from stageflow import (
    Block,
    Decision,
    Event,
    EventType,
    Pipeline,
    Retry,
    Runtime,
    StageOutput,
    Subscription,
    enrich,
    guard,
    transform,
)


def paired(events: list[Event]) -> None:
    started = [(e.run, e.node, e.attempt) for e in events if e.type is EventType.STAGE_STARTED]
    ended = [(e.run, e.node, e.attempt) for e in events if e.type is EventType.STAGE_ENDED]
    assert Counter(started) == Counter(ended) and set(Counter(started).values()) <= {1}
    assert all(event.duration_s >= 0 for event in events)
    types = [event.type for event in events]
    assert types[0] is EventType.RUN_STARTED and types[-1] is EventType.RUN_ENDED


def mixed(tries: list[int]) -> Pipeline[Any]:
    @transform
    async def fine(x: int) -> int:
        return x

    @transform
    def threaded(x: int) -> int:
        return x

    @transform
    async def skips(x: int) -> int | StageOutput:
        return StageOutput.skip()

    @enrich(retry=Retry(attempts=3, base_s=0.0))
    async def flaky(x: int) -> int:
        tries.append(x)
        if len(tries) % 3:
            raise OSError
        return x

    @transform(on_failure="isolate")
    async def breaks(x: int) -> int:
        raise LookupError

    @guard
    async def judge(fine: int) -> Decision:
        return Block("no")

    @enrich(timeout=0.002, on_failure="isolate")
    async def slow(x: int) -> int:
        await asyncio.sleep(30)
        return x

    return Pipeline(
        "m",
        [fine, threaded, skips, flaky, breaks, judge, slow],
        inputs={"x": int},
        outputs=[flaky, threaded],
    )


async def test_each_attempt_has_one_start_and_one_end() -> None:
    events = Subscription()
    run = await mixed([]).using(events=events, tenant="t").run(x=1)
    told = events.drain()
    paired(told)
    ends = {(e.node, e.attempt): e.status for e in told if e.type is EventType.STAGE_ENDED}
    assert ends == {
        ("fine", 1): "ok",
        ("threaded", 1): "ok",
        ("skips", 1): "skip",
        ("flaky", 1): "failed",
        ("flaky", 2): "failed",
        ("flaky", 3): "ok",
        ("breaks", 1): "failed",
        ("judge", 1): "ok",
        ("slow", 1): "failed",
    }
    assert told[-1].status == run.status == "partial"
    assert {event.tenant for event in told} == {"t"} and events.dropped == 0


async def test_a_cancelled_run_ends_what_it_started() -> None:
    for turns in range(12):
        events = Subscription()
        handle = mixed([]).using(events=events).start(x=1)
        for _ in range(turns):
            await asyncio.sleep(0)
        handle.cancel()
        await handle
        paired(events.drain())


async def test_a_slow_subscriber_drops_and_is_told_how_many() -> None:
    small, large = Subscription(queue_max=3), Subscription()
    run = await mixed([]).using(events=[small, large]).run(x=1)
    assert run.status == "partial"
    kept, everything = small.drain(), large.drain()
    assert kept == everything[:3] and small.dropped == len(everything) - 3


async def test_subscribers_of_the_runtime_hear_every_run() -> None:
    @transform
    async def fine(x: int) -> int:
        return x

    events = Subscription()
    runtime = Runtime(events=[events])
    desk = Pipeline("f", [fine], inputs={"x": int}).using(runtime=runtime)
    runs = {(await desk.run(x=n)).id for n in range(3)}
    assert {event.run for event in events.drain()} == runs


async def test_a_subscription_is_read_while_runs_go_on_and_ends_when_closed() -> None:
    events = Subscription()
    heard: list[Event] = []

    async def listen() -> None:
        async for event in events:
            heard.append(event)

    task = asyncio.create_task(listen())
    await mixed([]).using(events=events).run(x=1)
    events.close()
    await task
    paired(heard)
