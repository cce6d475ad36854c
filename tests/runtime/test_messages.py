"""Messages between stages: each is had by whoever asks, is there after a crash, and a wait for one
that can't come ends; stages that wait for each other's messages are found at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stageflow import (
    Block,
    Context,
    Decision,
    Pipeline,
    RunError,
    Runtime,
    agent,
    any_of,
    guard,
    n_of,
)
from stageflow.model.record import RecordType
from stageflow.sim import Sim, simulate
from stageflow.testing import crash_at_every_record


def asks(name: str, *of: str, key: str = "m", need: int | None = None, after: float = 0.0) -> Any:
    """A stage that receives, and only then sends its own."""

    async def body(ctx: Context) -> Any:
        if after:
            await asyncio.sleep(after)
        got = await ctx.receive(key, *of, need=need)
        await ctx.send(key, name)
        return sorted(got)

    return agent(body, name=name)


def tells(name: str, *, key: str = "m", after: float = 0.0) -> Any:
    async def body(ctx: Context) -> str:
        await asyncio.sleep(after)
        await ctx.send(key, name)
        return name

    return agent(body, name=name)


def silent(name: str, after: float = 0.0) -> Any:
    async def body(ctx: Context) -> str:
        await asyncio.sleep(after)
        return name

    return agent(body, name=name)


def ended(runtime: Runtime, *stages: Any, seed: int = 0, **inputs: Any) -> Any:
    async def main(sim: Sim) -> Any:
        pipeline = Pipeline("p", stages, outputs=list(stages))
        return await pipeline.using(runtime=runtime).run()

    return simulate(main, seed=seed).value


def members(runtime: Runtime) -> set[tuple[str, str]]:
    (found,) = runtime.pools.deadlocks
    return {(each.node, each.awaits) for each in found.members}


@pytest.mark.parametrize("seed", range(10))
def test_whoever_asks_has_it_before_or_after_it_was_sent(seed: int) -> None:
    run = ended(
        Runtime(),
        asks("early", "a"),
        asks("late", "a", after=2.0),
        tells("a", after=1.0),
        seed=seed,
    )
    assert run.status == "ok"
    assert run["early"] == run["late"] == ["a"]


@pytest.mark.parametrize("seed", range(10))
def test_as_many_as_are_needed_and_those_that_were_first(seed: int) -> None:
    run = ended(
        Runtime(),
        asks("voter", "a", "b", "c", need=2),
        tells("a", after=3.0),
        tells("b", after=1.0),
        tells("c", after=2.0),
        seed=seed,
    )
    assert run["voter"] == ["b", "c"]


def test_a_sender_that_ends_in_silence_is_waited_for_no_more() -> None:
    run = ended(Runtime(), asks("asker", "mute"), silent("mute", after=1.0))
    assert (run.status, run.reason) == ("failed", "message.never")


def test_another_may_send_in_its_place() -> None:
    run = ended(
        Runtime(),
        asks("asker", "mute", "a", need=1),
        silent("mute", after=1.0),
        tells("a", after=2.0),
    )
    assert run["asker"] == ["a"]


@pytest.mark.parametrize("seed", range(10))
def test_two_that_wait_for_each_other(seed: int) -> None:
    runtime = Runtime()
    run = ended(runtime, asks("a", "b"), asks("b", "a", after=1.0), seed=seed)
    assert (run.status, run.reason) == ("failed", "deadlock")
    assert members(runtime) == {("a", "message 'm' of b"), ("b", "message 'm' of a")}
    assert runtime.pools.deadlocks[0].victim.node == "b"


def test_a_stage_that_waits_for_itself() -> None:
    assert ended(Runtime(), asks("a", "a")).reason == "deadlock"


@pytest.mark.parametrize("seed", range(10))
def test_two_that_have_never_waited_before(seed: int) -> None:
    runtime = Runtime()
    run = ended(runtime, asks("a", "b"), asks("b", "a"), seed=seed)
    assert (run.status, run.reason) == ("failed", "deadlock")
    assert len(members(runtime)) == 2


@pytest.mark.parametrize("seed", range(10))
def test_a_wait_for_any_of_several_is_none_while_one_may_send(seed: int) -> None:
    runtime = Runtime()
    run = ended(
        runtime,
        asks("a", "b", "free", need=1),
        asks("b", "a", after=1.0),
        tells("free", after=5.0),
        seed=seed,
    )
    assert run.status == "ok" and not runtime.pools.deadlocks


@pytest.mark.parametrize("seed", range(10))
def test_the_end_of_the_last_who_could_have_sent_closes_the_cycle(seed: int) -> None:
    """
    1. a waits for b or free, b for a: free may still send
    2. free ends without a word: now a and b wait for each other
    """
    runtime = Runtime()
    run = ended(
        runtime,
        asks("a", "b", "free", need=1),
        asks("b", "a", after=1.0),
        silent("free", after=5.0),
        seed=seed,
    )
    assert run.reason == "deadlock"
    assert members(runtime) == {("a", "message 'm' of b"), ("b", "message 'm' of a")}


def test_a_stage_that_waits_for_its_own_consumer() -> None:
    runtime = Runtime()
    first = asks("first", "second")

    async def second(ctx: Context, first: Any) -> None:
        await ctx.send("m", 1)

    run = ended(runtime, first, agent(second))
    assert run.reason == "deadlock"
    assert members(runtime) == {
        ("first", "message 'm' of second"),
        ("second", "the end of first"),
    }


@pytest.mark.parametrize(("need", "found"), [(1, False), (2, True)])
def test_a_join_waits_for_as_many_branches_as_it_needs(need: int, found: bool) -> None:
    """`asker` waits for what stands behind a join of itself and a stage that is free."""
    runtime = Runtime()
    asker, free = asks("asker", "behind"), silent("free", after=1.0)
    join = any_of(asker, free, name="join") if need == 1 else n_of(2, asker, free, name="join")

    async def behind(ctx: Context, join: Any) -> None:
        await ctx.send("m", 1)

    run = ended(runtime, asker, free, join, agent(behind))
    assert (run.reason == "deadlock") is found
    assert (run.status == "ok") is not found
    assert bool(runtime.pools.deadlocks) is found


def test_messages_pools_and_child_runs_in_one_cycle() -> None:
    """`outer` awaits a child that wants a unit; who holds it waits for a message of `outer`."""
    runtime = Runtime(pools={"gpu": 1})

    async def inner(ctx: Context) -> str:
        async with ctx.pool("gpu"):
            return "there"

    child = Pipeline("c", [agent(inner)], outputs="inner")

    async def outer(ctx: Context) -> None:
        await asyncio.sleep(1)
        await ctx.run(child, key="k")
        await ctx.send("m", 1)

    async def holder(ctx: Context) -> Any:
        async with ctx.pool("gpu"):
            return await ctx.receive("m", "outer")

    run = ended(runtime, agent(outer), agent(holder))
    assert run.reason == "deadlock"
    (found,) = runtime.pools.deadlocks
    assert {each.node for each in found.members} == {"outer", "holder", "inner"}
    assert {each.node: dict(each.holds) for each in found.members}["holder"] == {"gpu": 1}


@pytest.mark.parametrize("seed", range(10))
def test_who_was_sent_a_message_and_has_not_run_since_waits_no_more(seed: int) -> None:
    """
    1. `holder` has the unit and waits for a message
    2. `sender` sends it, and in the same step waits for the unit: `holder` is about to go on
    """
    runtime = Runtime(pools={"gpu": 1})

    async def holder(ctx: Context) -> Any:
        async with ctx.pool("gpu"):
            return await ctx.receive("m", "sender")

    async def sender(ctx: Context) -> None:
        await asyncio.sleep(1)
        await ctx.send("m", 1)
        async with ctx.pool("gpu"):
            pass

    run = ended(runtime, agent(holder), agent(sender), seed=seed)
    assert run.status == "ok" and not runtime.pools.deadlocks


def test_a_guard_that_may_block_is_a_way_out() -> None:
    """`asker` waits for what takes its value and a guarded one, which is blocked in the end."""
    runtime = Runtime()

    async def slow() -> str:
        return "x"

    async def judge(slow: str) -> Decision:
        await asyncio.sleep(2)
        return Block("no")

    async def both(ctx: Context, asker: Any, slow: str) -> None:
        await ctx.send("m", 1)

    async def asker(ctx: Context) -> str:
        try:
            await ctx.receive("m", "both")
        except RunError as error:
            return error.code
        return "?"

    stages = [agent(asker), agent(slow), guard(judge), agent(both)]

    async def main(sim: Sim) -> Any:
        return await Pipeline("p", stages, outputs="asker").using(runtime=runtime).run()

    run = simulate(main, seed=0).value
    assert run["asker"] == "message.never"
    assert not runtime.pools.deadlocks


def test_who_waits_for_nobody_or_for_somebody_unknown() -> None:
    for stage, code in (
        (asks("a"), "message.senders"),
        (asks("a", "b", "b"), "message.senders"),
        (asks("a", "b", need=2), "message.senders"),
        (asks("a", "c"), "run.unknown_node"),
    ):
        assert ended(Runtime(), stage, silent("b")).reason == code


def test_a_guarded_stage_may_not_send_past_its_guards() -> None:
    async def judge(a: Any) -> Decision:
        return Block("no")

    run = ended(Runtime(), tells("a"), guard(judge))
    assert run.reason == "message.guarded"


def test_another_value_under_the_same_key_is_refused() -> None:
    async def twice(ctx: Context) -> None:
        await ctx.send("m", 1)
        await ctx.send("m", 1)
        await ctx.send("m", 2)

    assert ended(Runtime(), agent(twice)).reason == "resume.diverged"


def test_after_a_crash_at_any_record_the_first_stay_first() -> None:
    pipeline = Pipeline(
        "p",
        [
            asks("voter", "a", "b", "c", need=2),
            tells("a", after=3.0),
            tells("b", after=1.0),
            tells("c", after=2.0),
        ],
        outputs="voter",
    )
    crashes = crash_at_every_record(pipeline, {})
    assert len(crashes) > 10
    for crash in crashes:
        assert crash.run.status == "ok"
        steps = [
            record
            for record in crash.history.records
            if record.type is RecordType.STEP and record.node == "voter"
        ]
        assert [record.data["key"].partition(" ")[0] for record in steps] == ["first", "message"]
        assert len(crash.run.output) == 2
