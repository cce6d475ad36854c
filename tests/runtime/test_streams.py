"""Items that come while a run goes on: their order, their pace, and what guards do to them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from stageflow import (
    Allow,
    Block,
    Context,
    Decision,
    Limits,
    Pipeline,
    Redact,
    Runtime,
    Stream,
    agent,
    guard,
    transform,
)


@agent
async def words(text: str) -> Stream[str]:
    for word in text.split():
        yield word


def desk(*more: Any, first: Any = words) -> Pipeline[Any]:
    return Pipeline("desk", [first, *more], inputs={"text": str}, outputs=first)


async def collected(pipeline: Pipeline[Any], text: str) -> tuple[list[Any], Any]:
    async with pipeline.stream(text=text) as stream:
        items = [emitted.item async for emitted in stream]
        return items, await stream.result()


async def test_items_come_in_order_and_the_value_is_all_of_them() -> None:
    items, run = await collected(desk(), "a b c")
    assert items == run.output == ["a", "b", "c"] and run.status == "ok"
    assert (await desk().run(text="a b")).output == ["a", "b"]


async def test_a_sync_generator_streams_from_its_thread() -> None:
    @agent
    def words(text: str) -> Iterator[str]:
        yield from text.split()

    for stage in (words, agent(place="loop")(words.function)):
        items, run = await collected(desk(first=stage), "a b c")
        assert items == run.output == ["a", "b", "c"]


async def test_ctx_emit_names_its_node() -> None:
    @agent
    async def speaks(text: str, ctx: Context) -> str:
        await ctx.emit({"part": 1})
        return text

    @agent
    def calls(text: str, ctx: Context) -> str:
        ctx.emit_from_thread("from a thread")
        return text

    pipeline = Pipeline("e", [speaks, calls], inputs={"text": str})
    async with pipeline.stream(text="a") as stream:
        got = {emitted.node: emitted.item async for emitted in stream}
    assert got == {"speaks": {"part": 1}, "calls": "from a thread"}


async def test_a_fast_producer_runs_at_the_pace_of_its_reader() -> None:
    made = 0

    @agent
    async def many(text: str) -> Stream[int]:
        nonlocal made
        for number in range(100):
            made += 1
            yield number

    runtime = Runtime(limits=Limits(stream_items=4))
    async with desk(first=many).using(runtime=runtime).stream(text="") as stream:
        for expected in range(20):
            assert (await anext(stream)).item == expected
            await asyncio.sleep(0)
            assert made <= expected + 4 + 2


async def test_a_reader_that_stops_early_ends_the_run() -> None:
    ended: list[str] = []

    @agent
    async def endless(text: str) -> Stream[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
        finally:
            ended.append("closed")

    async with desk(first=endless).stream(text="") as stream:
        assert (await anext(stream)).item == 0
    run = await stream.result()
    assert (run.status, run.reason, ended) == ("cancelled", "stream_closed", ["closed"])


async def test_items_of_a_guarded_node_wait_for_its_guards() -> None:
    @guard
    async def judge(words: list[str]) -> Decision:
        if "bad" in words:
            return Block("bad")
        return Redact(["x"]) if "secret" in words else Allow()

    assert (await collected(desk(judge), "a b"))[0] == ["a", "b"]
    items, run = await collected(desk(judge), "a bad b")
    assert items == [] and run.status == "blocked"
    items, run = await collected(desk(judge), "a secret")
    assert items == [] and run.output == ["x"]


async def test_more_items_than_guards_may_hold_back_fail_the_stage() -> None:
    @guard
    async def judge(words: list[str]) -> Decision:
        return Allow()

    runtime = Runtime(limits=Limits(held_items=2))
    items, run = await collected(desk(judge).using(runtime=runtime), "a b c")
    assert items == [] and run.failure is not None
    assert run.failure.reason == "stream.held_full"


async def test_a_failing_stream_gives_what_it_had_and_then_ends() -> None:
    @agent
    async def breaks(text: str) -> Stream[str]:
        yield "a"
        raise ValueError

    items, run = await collected(desk(first=breaks), "")
    assert items == ["a"] and run.status == "failed"


async def test_a_changed_item_changes_nobody_elses() -> None:
    kept: list[list[int]] = []

    @agent
    async def boxes(text: str) -> Stream[list[int]]:
        box = [1]
        kept.append(box)
        yield box
        box.append(2)

    async with desk(first=boxes).stream(text="") as stream:
        (item,) = [emitted.item async for emitted in stream]
        assert item == [1]


async def test_streams_of_a_cancelled_caller_leave_nothing() -> None:
    @agent
    async def slow(text: str) -> Stream[str]:
        yield "a"
        await asyncio.sleep(30)
        yield "b"

    async def read() -> None:
        async with desk(first=slow).stream(text="") as stream:
            async for _ in stream:
                pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.002)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_run_that_nobody_streams_drops_what_it_emits() -> None:
    @transform
    async def talks(text: str, ctx: Context) -> str:
        for number in range(1_000):
            await ctx.emit(number)
        return text

    assert (await desk(first=talks).run(text="a")).output == "a"
