"""What a cut-off stage leaves: its chunks are kept, its signs of life count, its threads too."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Iterator

import pytest

from stageflow import (
    BuildError,
    Chunks,
    Context,
    Decision,
    Limits,
    Pipeline,
    Retry,
    Runtime,
    Stream,
    guard,
    transform,
)
from stageflow.sim import Sim, SimJournal, simulate


def test_what_a_generator_yielded_before_its_timeout_is_kept_and_read_back() -> None:
    @transform(timeout=1.05)
    async def endless(x: int) -> Stream[int]:
        for number in range(1_000):
            yield number
            await asyncio.sleep(0.1)

    pipeline = Pipeline("p", [endless], inputs={"x": int}, outputs=endless)

    async def main(sim: Sim) -> tuple[Chunks, Chunks]:
        async with Runtime(journal=SimJournal(sim)) as runtime:
            run = await pipeline.using(runtime=runtime).run(x=1)
            assert run.failures["endless"].reason == "timeout"
            again = await runtime.result(run.id, pipeline=pipeline)
            return run.chunks(endless), again.chunks("endless")

    live, read = simulate(main, seed=1).value
    assert live.items == tuple(range(11)) and live.left_out == 0
    assert read == live


def test_what_was_emitted_before_the_runs_deadline_is_kept_of_a_cancelled_stage() -> None:
    @transform
    async def talks(x: int, ctx: Context) -> int:
        for number in range(1_000):
            await ctx.emit({"n": number})
            await asyncio.sleep(0.1)
        return x

    pipeline = Pipeline("p", [talks], inputs={"x": int}, outputs=talks)

    async def main(sim: Sim) -> tuple[Chunks, Chunks]:
        limits = Limits(kept_items=3)
        async with Runtime(journal=SimJournal(sim), limits=limits) as runtime:
            run = await pipeline.using(runtime=runtime, deadline=0.55).run(x=1)
            again = await runtime.result(run.id, pipeline=pipeline)
            return run.chunks(talks), again.chunks(talks)

    live, read = simulate(main, seed=1).value
    assert live == Chunks(({"n": 0}, {"n": 1}, {"n": 2}), left_out=3)
    assert read == live


async def test_of_a_guarded_stage_nothing_is_told_that_its_guards_have_not_seen() -> None:
    @transform(timeout=0.05)
    async def endless(x: int) -> Stream[str]:
        yield "secret"
        await asyncio.sleep(10)

    @guard
    async def polite(endless: list[str]) -> Decision:
        raise AssertionError("it has no value")

    run = await Pipeline("p", [endless, polite], inputs={"x": int}, outputs=endless).run(x=1)
    assert run.failures["endless"].reason == "timeout"
    assert run.chunks(endless) == Chunks(())


async def test_a_sync_generator_keeps_what_it_yielded() -> None:
    @transform(timeout=0.2)
    def endless(x: int) -> Iterator[int]:
        for number in range(10_000):
            yield number
            time.sleep(0.01)

    run = await Pipeline("p", [endless], inputs={"x": int}, outputs=endless).run(x=1)
    items = run.chunks(endless).items
    assert items and items == tuple(range(len(items)))


async def test_a_value_leaves_no_chunks() -> None:
    @transform
    async def ends(x: int) -> Stream[int]:
        yield x

    run = await Pipeline("p", [ends], inputs={"x": int}, outputs=ends).run(x=1)
    assert run[ends] == [1] and run.chunks(ends) == Chunks(())


def beating(every_s: float, times: int) -> Pipeline[int]:
    @transform(timeout=100.0, heartbeat=1.0)
    async def beats(x: int, ctx: Context) -> int:
        for done in range(times):
            ctx.heartbeat(done)
            await asyncio.sleep(every_s)
        return x

    return Pipeline("p", [beats], inputs={"x": int}, outputs=beats)


@pytest.mark.parametrize("seed", range(5))
def test_who_gives_signs_of_life_in_time_is_let_work(seed: int) -> None:
    async def main(_: object) -> bool:
        return (await beating(0.9, 50).run(x=1)).is_ok

    assert simulate(main, seed=seed).value


@pytest.mark.parametrize("seed", range(5))
def test_silence_is_a_failure_long_before_the_timeout(seed: int) -> None:
    async def main(_: object) -> tuple[str, str, float]:
        begun_s = asyncio.get_running_loop().time()
        run = await beating(1.5, 50).run(x=1)
        took_s = asyncio.get_running_loop().time() - begun_s
        return run.failures["beats"].reason, run.failures["beats"].message, took_s

    reason, message, took_s = simulate(main, seed=seed).value
    assert reason == "heartbeat" and "no sign of life for 1 s" in message
    assert took_s == pytest.approx(1.0, abs=0.01)


def test_signs_of_life_do_not_move_the_timeout() -> None:
    @transform(timeout=3.0, heartbeat=1.0)
    async def beats(x: int, ctx: Context) -> int:
        while True:
            ctx.heartbeat()
            await asyncio.sleep(0.5)

    async def main(_: object) -> str:
        run = await Pipeline("p", [beats], inputs={"x": int}, outputs=beats).run(x=1)
        return run.failures["beats"].reason

    assert simulate(main, seed=1).value == "timeout"


def test_the_next_attempt_goes_on_from_the_details_of_the_last_heartbeat() -> None:
    @transform(timeout=100.0, heartbeat=1.0, retry=Retry(attempts=2))
    async def counts(x: int, ctx: Context) -> int:
        begun = ctx.heartbeat_details or 0
        for done in range(begun, begun + 5):
            ctx.heartbeat(done + 1)
            await asyncio.sleep(0.5)
        if ctx.attempt == 1:
            await asyncio.sleep(50)
        return begun

    async def main(_: object) -> int:
        return (await Pipeline("p", [counts], inputs={"x": int}, outputs=counts).run(x=1)).output

    assert simulate(main, seed=1).value == 5


async def test_a_heartbeat_that_nobody_waits_for_is_refused() -> None:
    @transform
    async def beats(x: int, ctx: Context) -> int:
        ctx.heartbeat()
        return x

    run = await Pipeline("p", [beats], inputs={"x": int}, outputs=beats).run(x=1)
    assert run.failures["beats"].reason == "stage.no_heartbeat"


@pytest.mark.parametrize("heartbeat", [0, -1.0, math.nan, True, "1"])
def test_a_heartbeat_is_a_positive_number(heartbeat: float) -> None:
    with pytest.raises(BuildError) as caught:

        @transform(heartbeat=heartbeat)
        async def beats(x: int) -> int:
            return x

    assert caught.value.code == "policy.heartbeat"


async def test_at_the_limit_of_stuck_threads_a_further_one_is_refused() -> None:
    free = threading.Event()

    @transform(timeout=0.05)
    def blocks(x: int) -> int:
        free.wait(10)
        return x

    pipeline = Pipeline("p", [blocks], inputs={"x": int}, outputs=blocks)
    limits = Limits(threads=4, stuck_threads=2, grace_s=0.05)
    async with Runtime(limits=limits) as runtime:
        desk = pipeline.using(runtime=runtime)
        reasons = [(await desk.run(x=1)).failures["blocks"].reason for _ in range(3)]
        assert reasons == ["timeout", "timeout", "stage.threads_stuck"]
        free.set()
        for _ in range(500):
            if not runtime.threads.stuck:
                break
            await asyncio.sleep(0.01)
        assert (await desk.run(x=1)).is_ok
