"""Priorities where stages wait: pools, threads, ready nodes; lent along chains of holders, also
through child runs; and waits that are told when they are too long."""

from __future__ import annotations

import asyncio
import math
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stageflow import (
    BuildError,
    Context,
    Event,
    EventType,
    Limits,
    Pipeline,
    Runtime,
    Stage,
    Subscription,
    transform,
)
from stageflow.runtime.pools import Precedence
from stageflow.sim import Sim, simulate


def one(body: Any, **options: Any) -> Pipeline[Any]:
    stage = transform(body, **options)
    return Pipeline(stage.name, [stage], outputs=stage)


def takes(log: list[str], pool: str = "a", hold_s: float = 1.0) -> Pipeline[Any]:
    """A run that notes its id when it has the pool's unit."""

    async def takes_it(ctx: Context) -> None:
        async with ctx.pool(pool):
            log.append(ctx.identity.run)
            await asyncio.sleep(hold_s)

    return one(takes_it)


async def started(handles: list[Any], pipeline: Pipeline[Any], **options: Any) -> None:
    """Starts a run, and lets it come to its first wait."""
    handles.append(pipeline.using(**options).start())
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("seed", range(5))
def test_runs_are_served_by_priority_and_in_order_within_it(seed: int) -> None:
    async def main(sim: Sim) -> None:
        runtime, log, handles = Runtime(pools={"a": 1}), list[str](), list[Any]()
        pipeline = takes(log).using(runtime=runtime)
        for number, priority in enumerate([0, 0, 5, -1, 5, 0]):
            await started(handles, pipeline, priority=priority, run_id=f"{priority}/{number}")
        for handle in handles:
            assert (await handle).status == "ok"
        assert log == ["0/0", "5/2", "5/4", "0/1", "0/5", "-1/3"]

    simulate(main, seed=seed)


@pytest.mark.parametrize("through", ["itself", "run", "map", "grandchild"])
def test_who_holds_what_an_urgent_one_wants_is_as_urgent(through: str) -> None:
    """
    1. low holds a and waits for b, behind three others of medium priority
    2. high asks for a: low goes before the three
    3. low has given back a and asks for b again: it comes last
    """

    async def main(sim: Sim) -> None:
        runtime, log, handles = Runtime(pools={"a": 1, "b": 1}), list[str](), list[Any]()

        async def wants_b(ctx: Context) -> None:
            async with ctx.pool("b"):
                log.append("low")
                await asyncio.sleep(1)

        child = one(wants_b)

        async def between(ctx: Context) -> None:
            await ctx.run(child, key="c")

        async def low(ctx: Context) -> None:
            async with ctx.pool("a"):
                await asyncio.sleep(0.02)
                if through == "itself":
                    await wants_b(ctx)
                elif through == "map":
                    await ctx.map(child, [{}])
                else:
                    await ctx.run(child if through == "run" else one(between), key="c")
            await wants_b(ctx)

        medium = takes(log, "b").using(runtime=runtime)
        await started(handles, one(low), runtime=runtime)
        await started(handles, medium, priority=1, run_id="m1")
        for name in ("m2", "m3"):
            await started(handles, medium, priority=1, run_id=name)
        await started(handles, takes(log), runtime=runtime, priority=2, run_id="high")
        for handle in handles:
            assert (await handle).status == "ok"
        assert log[:2] == ["m1", "low"]
        assert log[-1] == "low"

    simulate(main, seed=2)


def test_a_stage_has_a_priority_of_its_own_on_top_of_its_runs() -> None:
    async def main(sim: Sim) -> None:
        runtime, log = Runtime(pools={"a": 1}), list[str]()

        async def takes_it(ctx: Context) -> None:
            async with ctx.pool("a"):
                log.append(ctx.node)
                await asyncio.sleep(1)

        stage = transform(takes_it, name="plain")
        stages = [
            stage,
            stage.named("late", priority=-1),
            transform(takes_it, name="soon", priority=3),
            stage.named("more", priority=1),
        ]

        async def holds(ctx: Context) -> None:
            async with ctx.pool("a"):
                await asyncio.sleep(1)

        first = one(holds).using(runtime=runtime).start()
        await asyncio.sleep(0.1)
        run = await Pipeline("p", stages).using(runtime=runtime, priority=7).run()
        assert run.status == "ok"
        assert log == ["soon", "more", "plain", "late"]
        assert (await first).status == "ok"

    simulate(main, seed=4)


async def test_ready_nodes_start_by_priority() -> None:
    log: list[str] = []

    def noting(name: str) -> Stage[..., None]:
        async def note(ctx: Context) -> None:
            log.append(ctx.node)

        return transform(note, name=name, priority=int(name.removeprefix("p")))

    run = await Pipeline("p", [noting(f"p{n}") for n in (1, 4, 2, 3)]).run()
    assert run.status == "ok"
    assert log == ["p4", "p3", "p2", "p1"]


def test_who_waited_long_goes_before_who_is_more_urgent() -> None:
    """A step of priority is worth aging_s of waiting: low is passed by who asks within 3 s only."""

    async def main(sim: Sim) -> None:
        runtime = Runtime(pools={"a": 1}, limits=Limits(aging_s=1.0))
        log, handles = list[str](), list[Any]()
        pipeline = takes(log, hold_s=1.5).using(runtime=runtime)
        await started(handles, pipeline, run_id="first", priority=3)
        await started(handles, pipeline, run_id="low")
        for number in range(8):
            await started(handles, pipeline, run_id=f"high{number}", priority=3)
            await asyncio.sleep(0.99)
        for handle in handles:
            await handle
        assert log.index("low") == 4
        assert log[1:4] == ["high0", "high1", "high2"]

    simulate(main, seed=1)


def test_tenants_share_a_pool_by_their_weights() -> None:
    async def main(sim: Sim) -> None:
        runtime = Runtime(pools={"a": 1}, weights={"acme": 2}, limits=Limits(aging_s=math.inf))
        log, handles = list[str](), list[Any]()
        pipeline = takes(log).using(runtime=runtime)
        await started(handles, pipeline, run_id="first")
        for number in range(12):
            for tenant in ("acme", "globex"):
                run = f"{tenant}{number}"
                priority = 100 if tenant == "globex" else 0
                await started(handles, pipeline, tenant=tenant, run_id=run, priority=priority)
        for handle in handles:
            await handle
        assert sum(run.startswith("acme") for run in log[1:16]) == 10

    simulate(main, seed=1)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a pool of threads tells nobody of its queue
            await asyncio.sleep(0.001)


async def test_threads_go_to_the_most_urgent_and_to_those_they_wait_for() -> None:
    """One thread, held by a gate. Behind it wait a low stage's child, whose caller holds a pool's
    unit, and others of medium priority; then somebody urgent asks for that unit."""
    runtime = Runtime(pools={"a": 1}, limits=Limits(threads=1))
    began, gate, log = threading.Event(), threading.Event(), list[str]()

    def waits_at_the_gate() -> None:
        began.set()
        assert gate.wait(10)

    def notes(ctx: Context) -> None:
        log.append(ctx.identity.run)

    def inside(ctx: Context) -> None:
        log.append("low's child")

    child = one(inside)

    async def low(ctx: Context) -> None:
        async with ctx.pool("a"):
            await ctx.run(child, key="c")
        await ctx.run(child, key="d")

    handles = [one(waits_at_the_gate).using(runtime=runtime).start()]
    await until(began.is_set)
    handles.append(one(low).using(runtime=runtime).start())
    await until(lambda: len(runtime.threads._jobs) == 1)
    for number, priority in enumerate((1, 2, 1)):
        pipeline = one(notes).using(runtime=runtime, priority=priority)
        await started(handles, pipeline, run_id=f"{priority}/{number}")
    await until(lambda: len(runtime.threads._jobs) == 4)

    async def high(ctx: Context) -> None:
        async with ctx.pool("a"):
            log.append("high")

    handles.append(one(high).using(runtime=runtime, priority=9).start())
    await asyncio.sleep(0.01)
    gate.set()
    for handle in handles:
        assert (await handle).status == "ok"
    log.remove("high")
    assert log == ["low's child", "2/1", "1/0", "1/2", "low's child"]


def test_a_wait_above_its_bound_is_told_once_with_the_chain_of_holders() -> None:
    async def main(sim: Sim) -> None:
        runtime = Runtime(pools={"a": 1, "b": 2}, limits=Limits(pool_wait_s=100.0))
        seen, handles = Subscription(), list[Any]()

        async def holds_a(ctx: Context) -> None:
            async with ctx.pool("a"):
                await asyncio.sleep(1)
                async with ctx.pool("b", 2):
                    await asyncio.sleep(1)

        async def waits(ctx: Context) -> None:
            async with ctx.pool("a", bound_s=0.5):
                pass

        b = takes([], "b", hold_s=5).using(runtime=runtime)
        await started(handles, b, run_id="rb")
        await started(handles, b, run_id="other", tenant="globex")
        await started(handles, one(holds_a), run_id="ra", runtime=runtime)
        await asyncio.sleep(2)
        await started(handles, one(waits), run_id="rw", runtime=runtime, events=seen)
        for handle in handles:
            assert (await handle).status == "ok"
        (told,) = [each for each in seen.drain() if each.type is EventType.WAIT_EXCEEDED]
        assert (told.run, told.node, told.status, told.duration_s) == ("rw", "waits", "a", 0.5)
        assert told.reason == (
            "1 of 'a' held by holds_a of run ra, which awaits 'b';"
            " 1 of 'b' held by takes_it of run rb; 1 of 'b' held by another tenant"
        )

    simulate(main, seed=1)


async def test_a_chain_that_leads_to_a_child_process_ends_there() -> None:
    """The holder's child run waits for the only process, of which no stage is known that has it."""
    runtime, seen = Runtime(pools={"a": 1}, limits=Limits(processes=1)), Subscription()
    task = await runtime.pools.slot(runtime.processes.supply, Precedence())
    child = Pipeline("c", [transform(textwrap.dedent, place="process")], inputs={"text": str})

    async def holds(ctx: Context) -> None:
        async with ctx.pool("a"):
            await ctx.run(child, key="c", text="x")

    async def waits(ctx: Context) -> None:
        async with ctx.pool("a", bound_s=0.001):
            pass

    handles: list[Any] = []
    await started(handles, one(holds), runtime=runtime, run_id="r")
    await started(handles, one(waits), runtime=runtime, events=seen)
    events: list[Event] = []
    async with asyncio.timeout(10):
        while not any(each.type is EventType.WAIT_EXCEEDED for each in events):
            events.append(await anext(seen))
    for handle in handles:
        handle.cancel()
        await handle
    runtime.pools.give_back(runtime.processes.supply, task)
    assert events[-1].reason == "1 of 'a' held by holds of run r, which awaits 'processes'"


async def test_a_run_that_is_taken_up_again_has_the_priority_it_was_started_with(
    tmp_path: Path,
) -> None:
    seen: list[int] = []

    async def body(ctx: Context) -> None:
        seen.append(ctx._driver.precedence(0).priority)
        if len(seen) == 1:
            raise ValueError("once")

    async with Runtime.local(tmp_path) as runtime:
        pipeline = one(body).using(runtime=runtime)
        run = await pipeline.using(priority=4).run()
        assert run.status == "failed"
        again = await runtime.resume(run.id, pipeline=pipeline)
        assert again.status == "ok"
    assert seen == [4, 4]


@pytest.mark.parametrize("priority", [True, 1.5, "high", 10**7])
def test_a_priority_is_an_integer(priority: Any) -> None:
    def body() -> None: ...

    with pytest.raises(BuildError, match=r"policy\.priority"):
        transform(body, priority=priority)
    with pytest.raises(BuildError, match=r"policy\.priority"):
        transform(body).named(priority=priority)
    with pytest.raises(BuildError, match=r"policy\.priority"):
        one(body).using(priority=priority)


@pytest.mark.parametrize("weight", [0, -1, math.inf, True, "2"])
def test_a_weight_is_a_positive_number(weight: Any) -> None:
    with pytest.raises(BuildError, match=r"pool\.weight"):
        Runtime(weights={"acme": weight})
