"""How stages run: in which task, in which context, and with whose values."""

from __future__ import annotations

import asyncio
import contextvars
import time
from dataclasses import dataclass, field
from typing import Any, NotRequired

import pytest

from stageflow import (
    Allow,
    Context,
    Decision,
    Pipeline,
    Redact,
    Stage,
    agent,
    enrich,
    guard,
    transform,
)

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


def chain(length: int, seen: list[Any]) -> Pipeline[Any]:
    async def body(x: int) -> int:
        seen.append(asyncio.current_task())
        return x + 1

    first = transform(body, name="s0")
    stages: list[Stage[..., Any]] = [first]
    for number in range(1, length):
        stages.append(first.named(f"s{number}", x=stages[-1]))
    return Pipeline("chain", stages, inputs={"x": int}, outputs=stages[-1])


async def test_a_ready_chain_runs_in_one_task() -> None:
    seen: list[Any] = []
    run = await chain(50, seen).run(x=0)
    assert run.output == 50 and len(set(seen)) == 1


async def test_a_stage_keeps_its_task_from_its_first_line_to_its_last() -> None:
    tasks: dict[str, set[Any]] = {}

    @enrich
    async def left(x: int, ctx: Context) -> int:
        for _ in range(3):
            tasks.setdefault(ctx.node, set()).add(asyncio.current_task())
            await asyncio.sleep(0.001)
        return x

    run = await Pipeline(
        "wide", [left, left.named("right"), left.named("third")], inputs={"x": int}
    ).run(x=1)
    assert run.status == "ok" and all(len(one) == 1 for one in tasks.values())
    assert len(set.union(*tasks.values())) == 3, "stages that wait do so side by side"


async def test_timeouts_and_task_groups_work_inside_stages() -> None:
    @transform
    async def careful(x: int) -> list[str]:
        said = []
        try:
            async with asyncio.timeout(0.002):
                await asyncio.sleep(10)
        except TimeoutError:
            said.append("timeout")
        async with asyncio.TaskGroup() as group:
            parts = [group.create_task(asyncio.sleep(0, word)) for word in ("a", "b")]
        said += [part.result() for part in parts]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                await asyncio.sleep(10)
        except* LookupError:
            said.append("group")
        await asyncio.sleep(0)
        return said

    async def fails() -> None:
        raise LookupError

    run = await Pipeline("one", [careful], inputs={"x": int}, outputs=careful).run(x=1)
    assert run.output == ["timeout", "a", "b", "group"]


async def test_context_variables_reach_stages_and_never_leave_them() -> None:
    seen: dict[str, str] = {}

    @transform
    async def first(x: int, ctx: Context) -> int:
        seen[ctx.node] = WHO.get()
        WHO.set(ctx.node)
        await asyncio.sleep(0)
        assert WHO.get() == ctx.node
        return x

    @transform
    def threaded(x: int) -> int:
        seen["threaded"] = WHO.get()
        WHO.set("threaded")
        return x

    WHO.set("caller")
    second = first.named("second", x=first)
    run = await Pipeline("p", [first, second, threaded], inputs={"x": int}).run(x=1)
    assert run.status == "ok" and WHO.get() == "caller"
    assert seen == {"first": "caller", "second": "caller", "threaded": "caller"}


async def test_stages_that_never_wait_leave_the_loop_its_turns() -> None:
    """
    1. a run of 400 stages that each take a millisecond and never wait
    2. another task of the loop gets a turn again and again meanwhile
    """
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def body(x: int) -> int:
        time.sleep(0.0005)  # noqa: ASYNC251  (a stage that computes)
        return x

    first = transform(body, name="s0")
    stages: list[Stage[..., Any]] = [first]
    for number in range(1, 100):
        stages.append(first.named(f"s{number}", x=stages[-1]))
    task = asyncio.create_task(other())
    await Pipeline("busy", stages, inputs={"x": int}).run(x=1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert turns >= 5


@dataclass
class Box:
    items: list[int] = field(default_factory=list)


async def test_nobody_sees_what_another_does_to_a_value() -> None:
    given = Box([1])
    kept: list[Box] = []

    @transform
    async def make(box: Box) -> Box:
        box.items.append(2)
        kept.append(box)
        return box

    @transform
    async def spoil(make: Box) -> Box:
        make.items.clear()
        return make

    @transform
    async def count(make: Box, spoil: Box) -> int:
        return len(make.items)

    @guard
    async def meddle(make: Box) -> Decision:
        make.items.append(99)
        return Allow()

    run = await Pipeline(
        "values", [make, spoil, count, meddle], inputs={"box": Box}, outputs=count
    ).run(box=given)
    assert run.output == 2 and given.items == [1]
    kept[0].items.append(7)
    run[make].items.append(8)
    assert run[make].items == [1, 2] and run[spoil].items == []
    assert run.snapshot["make"].items == [1, 2] and run.snapshot.inputs["box"].items == [1]


async def test_what_a_caller_does_to_its_input_afterwards_is_not_seen() -> None:
    @enrich
    async def slow(box: Box) -> int:
        await asyncio.sleep(0.002)
        return len(box.items)

    box = Box([1])
    handle = Pipeline("late", [slow], inputs={"box": Box}, outputs=slow).start(box=box)
    box.items.append(2)
    await asyncio.sleep(0)
    box.items.append(3)
    assert (await handle).output == 1


async def test_a_redacted_value_is_the_same_private_copy_for_everyone() -> None:
    replacement = Box([5])

    @transform
    async def make(box: Box) -> Box:
        return box

    @guard
    async def redact(make: Box) -> Decision:
        return Redact(replacement)

    @transform
    async def take(make: Box) -> Box:
        replacement.items.append(6)
        return make

    run = await Pipeline("r", [make, redact, take], inputs={"box": Box}).run(box=Box([1]))
    assert run[take].items == run[make].items == [5]


async def test_the_snapshot_is_what_was_accepted_when_the_attempt_began() -> None:
    seen: dict[str, list[str]] = {}

    @transform
    async def first(x: int, ctx: Context) -> int:
        seen[ctx.node] = list(ctx.snapshot)
        return x

    second = first.named("second", x=first)
    await Pipeline("s", [first, second], inputs={"x": int}).run(x=1)
    assert seen == {"first": [], "second": ["first"]}


async def test_an_optional_input_that_is_absent_leaves_the_default() -> None:
    @transform
    async def greet(name: str = "you") -> str:
        return f"hello {name}"

    desk = Pipeline("o", [greet], inputs={"name": NotRequired[str]}, outputs=greet)
    assert (await desk.run()).output == "hello you"
    assert (await desk.run(name="Ada")).output == "hello Ada"


async def test_none_is_a_value_and_no_skip() -> None:
    @transform
    async def nothing(x: int) -> str | None:
        return None

    @transform
    async def told(nothing: str | None = "default") -> str:
        return repr(nothing)

    run = await Pipeline("n", [nothing, told], inputs={"x": int}, outputs=told).run(x=1)
    assert run.output == "None" and run[nothing] is None and nothing in run


async def test_thousands_of_runs_side_by_side_do_not_mix() -> None:
    @agent
    async def echo(x: int) -> int:
        await asyncio.sleep(0)
        return x

    desk = Pipeline("echo", [echo], inputs={"x": int}, outputs=echo)
    handles = [desk.start(x=number) for number in range(2_000)]
    assert [(await handle).output for handle in handles] == list(range(2_000))


async def test_map_keeps_order_and_bound_and_ends_what_it_started() -> None:
    alive = most = 0

    @enrich
    async def slow(x: int) -> int:
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        try:
            await asyncio.sleep(0.001 * (5 - x % 5))
        finally:
            alive -= 1
        return x

    desk = Pipeline("m", [slow], inputs={"x": int}, outputs=slow)
    got = [run.output async for run in desk.map(({"x": n} for n in range(12)), at_once=4)]
    assert got == list(range(12)) and most == 4
    stream = desk.map(({"x": n} for n in range(12)), at_once=4)
    assert (await anext(stream)).output == 0
    await stream.aclose()
    assert alive == 0
    with pytest.raises(Exception, match=r"run\.argument"):
        await anext(desk.map([], at_once=0))
