"""Durable steps and children: called once per key, remembered for the next attempt."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from stageflow import Context, Pipeline, Retry, Runtime, StageFailed, agent, transform
from stageflow.testing import crash_at_every_record, memory_journal


async def test_a_completed_step_is_not_called_again_by_the_next_attempt() -> None:
    calls: list[int] = []

    def effect(x: int) -> int:
        calls.append(x)
        return x * 2

    @agent(retry=Retry(attempts=3, base_s=0.0))
    async def stage(ctx: Context) -> int:
        first = await ctx.step("double", effect, 3)
        if ctx.attempt < 3:
            raise OSError("again")
        return first

    for runtime in (Runtime(), Runtime(journal=memory_journal())):
        calls.clear()
        async with runtime:
            run = await Pipeline("p", [stage], outputs=stage).using(runtime=runtime).run()
        assert (run.output, calls) == (6, [3])


async def test_what_a_stage_does_has_the_same_numbers_in_every_attempt() -> None:
    seen: list[list[int]] = []

    @agent(retry=Retry(attempts=2, base_s=0.0))
    async def stage(ctx: Context) -> int:
        seen.append([ctx.number("a"), ctx.number("a"), ctx.number("b")])
        if ctx.attempt == 1:
            raise OSError("again")
        return 0

    assert (await Pipeline("p", [stage]).run()).status == "ok"
    assert seen == [[1, 2, 1]] * 2


async def test_another_call_under_the_same_key_has_diverged() -> None:
    async def effect(x: int) -> int:
        return x

    @agent
    async def stage(ctx: Context) -> int:
        await ctx.step("key", effect, 1)
        return await ctx.step("key", effect, 2)

    run = await Pipeline("p", [stage], outputs=stage).run()
    assert run.failure is not None
    assert run.failure.reason == "resume.diverged"


async def test_what_a_partial_binds_is_part_of_the_call_and_its_function_says_the_type() -> None:
    def effect(x: int, y: int) -> tuple[int, int]:
        return x, y

    first = functools.partial(functools.partial(effect, 1), y=2)
    later = functools.partial(effect, 1, y=3)

    @agent
    async def stage(ctx: Context) -> bool:
        made = await ctx.step("key", first)
        assert made == await ctx.step("key", effect, 1, y=2) == (1, 2)
        await ctx.step("key", later)
        return True

    async with Runtime(journal=memory_journal()) as runtime:
        run = await Pipeline("p", [stage], outputs=stage).using(runtime=runtime).run()
    assert run.failure is not None
    assert run.failure.reason == "resume.diverged"


async def test_a_step_that_raises_is_called_again() -> None:
    answers = iter([OSError("no"), 7])

    def effect() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @agent(retry=Retry(attempts=2, base_s=0.0))
    async def stage(ctx: Context) -> int:
        return await ctx.step("key", effect)

    assert (await Pipeline("p", [stage], outputs=stage).run()).output == 7


async def test_the_result_of_a_step_is_private() -> None:
    def effect() -> list[int]:
        return [1]

    @agent
    async def stage(ctx: Context) -> list[int]:
        (await ctx.step("key", effect)).append(2)
        return await ctx.step("key", effect)

    assert (await Pipeline("p", [stage], outputs=stage).run()).output == [1]


def test_after_a_crash_at_every_record_no_recorded_step_is_called_again() -> None:
    calls: list[str] = []

    async def effect(name: str) -> str:
        calls.append(name)
        return name.upper()

    @agent
    async def stage(ctx: Context) -> str:
        first = await ctx.step("a", effect, "a")
        second = await ctx.step("b", effect, "b")
        return first + second + await ctx.step("c", effect, "c")

    pipeline = Pipeline("p", [stage], outputs=stage)
    crashes = crash_at_every_record(pipeline, {}, before_each=calls.clear)
    assert len(crashes) == 7, "start, intent, three steps, outcome, end"
    for crash in crashes:
        assert crash.run.output == "ABC"
        steps = [r.data["key"] for r in crash.history.records if r.type.value == "step"]
        assert steps == ["a", "b", "c"], "one record per step, whatever the crash"


@transform
async def squared(i: int) -> int:
    return i * i


square = Pipeline("square", [squared], inputs={"i": int}, outputs=squared)


async def test_map_gives_outputs_in_the_order_of_a_lazy_source() -> None:
    taken = 0

    def items() -> Iterator[Mapping[str, Any]]:
        nonlocal taken
        for i in range(100):
            taken += 1
            yield {"i": i}

    @agent
    async def total(ctx: Context) -> list[int]:
        return await ctx.map(square, items(), at_once=4)

    run = await Pipeline("p", [total], outputs=total).run()
    assert run.output == [i * i for i in range(100)]
    assert taken == 100


async def test_the_first_child_of_a_map_that_fails_ends_the_others() -> None:
    @transform
    async def picky(i: int) -> int:
        if i == 3:
            raise KeyError("three")
        return i

    child = Pipeline("picky", [picky], inputs={"i": int}, outputs=picky)

    @agent
    async def total(ctx: Context) -> list[int]:
        return await ctx.map(child, ({"i": i} for i in range(10)), at_once=2)

    run = await Pipeline("p", [total], outputs=total).run()
    assert run.status == "failed"
    assert run.failure is not None and run.failure.type == "KeyError"
    with pytest.raises(StageFailed) as failed:
        _ = run.output
    assert isinstance(failed.value.__cause__, KeyError)
