"""Pipelines inside stages: values, failures, cancellation, depth."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stageflow import Context, Limits, Pipeline, Runtime, StageFailed, enrich, transform


@transform
async def half(x: int) -> int:
    if x % 2:
        raise ValueError("odd")
    return x // 2


HALF = Pipeline("half", [half], inputs={"x": int}, outputs=half)


def outer(body: Any, **options: Any) -> Pipeline[Any]:
    stage = transform(body, name="outer")
    return Pipeline("outer", [stage], inputs={"x": int}, outputs=stage, **options)


async def test_a_child_gives_its_output_and_carries_the_identity() -> None:
    seen: list[Any] = []

    @transform
    async def inner(x: int, ctx: Context) -> int:
        seen.append(ctx.identity)
        return x + 1

    child = Pipeline("child", [inner], inputs={"x": int}, outputs=inner)

    async def body(x: int, ctx: Context) -> int:
        return await ctx.run(child, key="a", x=x)

    run = await outer(body).using(tenant="t", session="s").run(x=1)
    (identity,) = seen
    assert run.output == 2 and identity.parent == run.id
    assert (identity.tenant, identity.session) == ("t", "s")
    assert identity.correlation == run.identity.correlation == run.id


async def test_a_childs_failure_is_raised_with_its_path() -> None:
    async def body(x: int, ctx: Context) -> int:
        return await ctx.run(HALF, key="a", x=x)

    run = await outer(body).run(x=3)
    assert run.failure is not None and run.failure.path == ("outer", "half")
    assert run.reason == "error:ValueError"

    async def caught(x: int, ctx: Context) -> int:
        try:
            return await ctx.run(HALF, key="a", x=x)
        except StageFailed as failed:
            assert isinstance(failed.original, ValueError)
            return -1

    assert (await outer(caught).run(x=3)).output == -1


async def test_cancelling_the_parent_ends_its_children() -> None:
    log: list[str] = []

    @enrich
    async def slow(x: int) -> int:
        log.append("begun")
        try:
            await asyncio.sleep(30)
        finally:
            log.append("ended")
        return x

    child = Pipeline("child", [slow], inputs={"x": int}, outputs=slow)

    async def body(x: int, ctx: Context) -> int:
        async with asyncio.TaskGroup() as group:
            for key in "ab":
                group.create_task(ctx.run(child, key=key, x=x))
        return x

    handle = outer(body).start(x=1)
    while len(log) < 2:  # noqa: ASYNC110  (the log is no event)
        await asyncio.sleep(0)
    handle.cancel()
    assert (await handle).status == "cancelled"
    assert sorted(log) == ["begun", "begun", "ended", "ended"]


async def test_a_child_has_no_more_time_than_its_stage() -> None:
    @enrich
    async def slow(x: int) -> int:
        await asyncio.sleep(30)
        return x

    child = Pipeline("child", [slow], inputs={"x": int}, outputs=slow)

    @transform(timeout=0.005)
    async def body(x: int, ctx: Context) -> int:
        return await ctx.run(child, key="a", x=x)

    run = await Pipeline("p", [body], inputs={"x": int}).run(x=1)
    assert (run.status, run.reason) == ("failed", "timeout")


async def test_nesting_is_bounded_and_costs_no_stack() -> None:
    deepest = 0

    async def body(x: int, ctx: Context) -> int:
        nonlocal deepest
        deepest = max(deepest, x)
        return await ctx.run(endless, key="a", x=x + 1)

    endless = outer(body)
    run = await endless.using(runtime=Runtime(limits=Limits(depth=200))).run(x=1)
    assert run.failure is not None and run.failure.reason == "run.too_deep"
    assert deepest == 200 and len(run.failure.path) == 200
    assert len(str(run.failure).splitlines()) < 25


async def test_a_child_may_be_asked_for_from_a_task_of_the_stage() -> None:
    async def body(x: int, ctx: Context) -> list[int]:
        return list(await asyncio.gather(*(ctx.run(HALF, key=str(n), x=2 * n) for n in range(20))))

    assert (await outer(body).run(x=1)).output == list(range(20))


async def test_inputs_of_a_child_are_checked() -> None:
    async def body(x: int, ctx: Context) -> int:
        return await ctx.run(HALF, key="a", y=x)

    run = await outer(body).run(x=1)
    assert (run.status, run.reason) == ("failed", "run.unknown_input")
    with pytest.raises(StageFailed):
        run.value_or_raise()
