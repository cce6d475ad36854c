"""Children of a journalled run are found again by their key when their stage is executed again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from stageflow import Context, Pipeline, Retry, Runtime, StageFailed, StageflowError, transform
from stageflow.journal.journal import GroupCommit
from stageflow.journal.memory import MemoryStore
from stageflow.sim import Sim, SimJournal, simulate


class Inner:
    """A child of three stages, the second of which fails while it is told to."""

    def __init__(self) -> None:
        self.executed: list[str] = []
        self.fails = True

        @transform
        async def first(x: int) -> int:
            self.executed.append("first")
            return x + 1

        @transform
        async def second(first: int) -> int:
            self.executed.append("second")
            if self.fails:
                raise ValueError("not yet")
            return first + 1

        @transform
        async def third(second: int) -> int:
            self.executed.append("third")
            return second + 1

        self.pipeline = Pipeline("inner", [first, second, third], inputs={"x": int}, outputs=third)

    def outer(self) -> Pipeline[int]:
        @transform
        async def call(x: int, ctx: Context) -> int:
            return await ctx.run(self.pipeline, key="inner", x=x)

        return Pipeline("outer", [call], inputs={"x": int}, outputs=call)


@pytest_asyncio.fixture
async def runtime() -> AsyncIterator[Runtime]:
    async with Runtime(journal=GroupCommit(MemoryStore())) as journalled:
        yield journalled


async def test_a_resumed_run_goes_on_inside_its_child(runtime: Runtime) -> None:
    inner = Inner()
    outer = inner.outer()
    broken = await outer.using(runtime=runtime).run(x=0)
    assert broken.status == "failed"
    inner.fails = False
    mended = await runtime.resume(broken.id, pipeline=outer)
    assert mended.is_ok and mended.output == 3
    assert inner.executed == ["first", "second", "second", "third"]
    statuses = {run.header.pipeline: run.status for run in await runtime.runs()}
    assert statuses == {"outer": "ok", "inner": "ok"}, "one run each, and both ended"


async def test_a_child_that_ended_ok_gives_its_recorded_output(runtime: Runtime) -> None:
    inner, fails = Inner(), True
    inner.fails = False

    @transform
    async def call(x: int, ctx: Context) -> int:
        found = await ctx.run(inner.pipeline, key="inner", x=x)
        if fails:
            raise ValueError("after the child")
        return found

    outer = Pipeline("outer", [call], inputs={"x": int}, outputs=call)
    broken = await outer.using(runtime=runtime).run(x=0)
    fails = False
    mended = await runtime.resume(broken.id, pipeline=outer)
    assert mended.output == 3
    assert inner.executed == ["first", "second", "third"]


async def test_a_changed_input_under_the_same_key_is_refused(runtime: Runtime) -> None:
    inner, asked = Inner(), [1, 2]
    inner.fails = False

    @transform
    async def call(x: int, ctx: Context) -> int:
        found = [await ctx.run(inner.pipeline, key="inner", x=at) for at in asked]
        return sum(found)

    run = await Pipeline("outer", [call], inputs={"x": int}).using(runtime=runtime).run(x=0)
    assert run.failure is not None
    assert run.failure.reason == "resume.diverged"


@pytest.mark.parametrize("journalled", [True, False])
async def test_two_children_under_one_key_at_a_time_are_refused(
    runtime: Runtime, journalled: bool
) -> None:
    @transform
    async def slow(x: int) -> int:
        await asyncio.sleep(0)
        return x

    inner = Pipeline("inner", [slow], inputs={"x": int}, outputs=slow)

    @transform
    async def call(x: int, ctx: Context) -> str:
        met: list[str] = []

        async def one() -> None:
            try:
                await ctx.run(inner, key="same", x=x)
            except StageflowError as error:
                met.append(error.code)

        await asyncio.gather(one(), one())
        return ",".join(met)

    outer = Pipeline("outer", [call], inputs={"x": int}, outputs=call)
    run = await (outer.using(runtime=runtime) if journalled else outer).run(x=0)
    assert run.output == "run.key_in_use"


async def test_the_next_attempt_of_a_stage_goes_on_in_its_child(runtime: Runtime) -> None:
    inner, attempts = Inner(), 0

    @transform(retry=Retry(attempts=2, base_s=0.0))
    async def call(x: int, ctx: Context) -> int:
        nonlocal attempts
        attempts += 1
        inner.fails = attempts == 1
        try:
            return await ctx.run(inner.pipeline, key="inner", x=x)
        except StageFailed as failed:
            raise ConnectionError("again") from failed

    outer = Pipeline("outer", [call], inputs={"x": int}, outputs=call)
    run = await outer.using(runtime=runtime).run(x=0)
    assert run.output == 3
    assert inner.executed == ["first", "second", "second", "third"]


async def crashed_inside(sim: Sim) -> tuple[list[str], int]:
    """
    1. a child is at work; at some moment the machine loses power
    2. another process resumes the parent, which finds its child
    """
    inner = Inner()
    inner.fails = False
    outer, journal = inner.outer(), SimJournal(sim)
    first = Runtime(journal=journal, clock=sim.clock)
    handle = outer.using(runtime=first, run_id="outer").start(x=0)
    await asyncio.sleep(sim.rng.uniform(0.003, 0.012))
    journal.crash()
    before = list(inner.executed)
    async with Runtime(journal=journal.as_owner("second"), clock=sim.clock) as second:
        run = await second.resume("outer", pipeline=outer)
    executed = inner.executed[len(before) :]
    await asyncio.gather(handle, return_exceptions=True)
    assert run.output == 3
    return [name for name in executed if name in before], len(before)


def test_a_crash_inside_a_child_repeats_at_most_the_stage_that_was_cut_off() -> None:
    depths = set()
    for seed in range(200):
        again, depth = simulate(crashed_inside, seed=seed).value
        assert len(again) <= 1, f"seed {seed} executed {again} again"
        depths.add(depth)
    assert depths >= {0, 1, 2, 3}, "the power failed before, inside and after every stage"
