"""Limits per tool, per tenant and over all: never exceeded, never leaked, and kept busy."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from stageflow import (
    BuildError,
    Context,
    Limits,
    Pipeline,
    Pool,
    RunError,
    Runtime,
    SharedPool,
    agent,
)
from stageflow.journal.pools import MemoryPools, PoolEntry
from stageflow.sim import Sim, simulate


class Meter:
    """Units in use, by whatever they count against, and the most there ever were."""

    def __init__(self) -> None:
        self.now: Counter[Any] = Counter()
        self.most: Counter[Any] = Counter()

    @contextlib.contextmanager
    def using(self, units: int, *keys: Any) -> Any:
        for key in keys:
            self.now[key] += units
            self.most[key] = max(self.most[key], self.now[key])
        try:
            yield
        finally:
            for key in keys:
                self.now[key] -= units


def calling(meter: Meter) -> Pipeline[str]:
    """A tool that is called with so many units for so long."""

    @agent(timeout=1_000.0)
    async def calls(ctx: Context, tool: str, units: int, length_s: float) -> str:
        tenant = ctx.identity.tenant
        async with ctx.pool(tool, units):
            with meter.using(units, "tools", tool, (tool, tenant)):
                await asyncio.sleep(length_s)
        return tool

    return Pipeline(
        "p", [calls], inputs={"tool": str, "units": int, "length_s": float}, outputs=calls
    )


POOLS: Mapping[str, Pool] = {
    "tools": Pool(4),
    "search": Pool(3, per_tenant=2, within="tools"),
    "print": Pool(1, within="tools"),
}


def shared(pools: Mapping[str, Pool]) -> dict[str, Pool]:
    return {n: SharedPool(p.units, p.per_tenant, p.within) for n, p in pools.items()}


async def under_cancellations(rng: random.Random, runtimes: list[Runtime], meter: Meter) -> None:
    pipeline, handles = calling(meter), []
    loop = asyncio.get_running_loop()
    for _ in range(24):
        tool = rng.choice(["search", "search", "print"])
        units = rng.randint(1, 2) if tool == "search" else 1
        bound = pipeline.using(runtime=rng.choice(runtimes), tenant=rng.choice("ab"))
        handle = bound.start(tool=tool, units=units, length_s=rng.random())
        handles.append(handle)
        if rng.random() < 0.5:
            loop.call_later(rng.random() * 3, handle.cancel)
        await asyncio.sleep(rng.random() * 0.1)
    for handle in handles:
        assert (await handle).status in ("ok", "cancelled")


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("is_shared", [False, True])
def test_no_limit_is_exceeded_and_none_leaks_wherever_it_is_cancelled(
    seed: int, is_shared: bool
) -> None:
    async def main(sim: Sim) -> None:
        meter, store = Meter(), MemoryPools()
        if is_shared:
            runtimes = [Runtime(pools=shared(POOLS), shared_pools=store) for _ in range(3)]
        else:
            runtimes = [Runtime(pools=POOLS)]
        await under_cancellations(random.Random(seed), runtimes, meter)
        for runtime in runtimes:
            await runtime.aclose()
        assert meter.most["tools"] <= 4 and meter.most["search"] <= 3 and meter.most["print"] <= 1
        assert all(meter.most["search", tenant] <= 2 for tenant in "ab")
        assert meter.most["tools"] >= 3, "with requests of two the fourth need not fit"
        usage = await runtimes[0].pools.usage()
        assert all(not each.held and not each.waiting for each in usage.values())
        assert usage["search"].by_tenant == {}

    simulate(main, seed=seed)


def test_a_tenant_at_its_limit_keeps_nobody_else_waiting() -> None:
    async def main(sim: Sim) -> list[tuple[str, float]]:
        runtime, meter = Runtime(pools=POOLS), Meter()
        started, ends = asyncio.get_running_loop().time(), []

        async def one(tenant: str) -> None:
            bound = calling(meter).using(runtime=runtime, tenant=tenant)
            await bound.run(tool="search", units=1, length_s=1.0)
            ends.append((tenant, asyncio.get_running_loop().time() - started))

        async with asyncio.TaskGroup() as group:
            for tenant in "aaaab":
                group.create_task(one(tenant))
        return sorted(ends)

    ends = simulate(main, seed=1).value
    assert [(tenant, round(at_s)) for tenant, at_s in ends] == [
        ("a", 1),
        ("a", 1),
        ("a", 2),
        ("a", 2),
        ("b", 1),
    ]


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_tool_that_calls_itself_at_its_limit_is_refused_with_the_chain(is_shared: bool) -> None:
    @agent
    async def inner(ctx: Context) -> str:
        async with ctx.pool("print"):
            return "never"

    child = Pipeline("child", [inner], outputs=inner)

    @agent
    async def outer(ctx: Context) -> str:
        async with ctx.pool("search"), ctx.pool("print"):
            return await ctx.run(child, key="k")

    async def main(sim: Sim) -> Any:
        pools = shared(POOLS) if is_shared else dict(POOLS)
        runtime = Runtime(pools=pools, shared_pools=MemoryPools() if is_shared else None)
        run = await Pipeline("p", [outer], outputs=outer).using(runtime=runtime, run_id="r").run()
        await runtime.aclose()
        assert (run.status, run.reason) == ("failed", "deadlock")
        (found,) = runtime.pools.deadlocks
        assert found.victim.node == "inner"
        usage = await runtime.pools.usage()
        assert not any(each.held for each in usage.values())
        return {each.node: dict(each.holds) for each in found.members}

    members = simulate(main, seed=1).value
    assert set(members) == {"inner", "outer"}
    assert members["outer"]["print"] == 1 and members["outer"]["tools"] == 2


def test_asking_again_is_fine_while_units_are_left() -> None:
    @agent
    async def twice(ctx: Context) -> str:
        async with ctx.pool("gpu"), ctx.pool("gpu"):
            return "both"

    async def main(sim: Sim) -> Any:
        async with Runtime(pools={"gpu": SharedPool(2)}, shared_pools=MemoryPools()) as runtime:
            return (await Pipeline("p", [twice], outputs=twice).using(runtime=runtime).run()).output

    assert simulate(main, seed=1).value == "both"


def test_units_of_a_dead_process_are_back_within_its_term() -> None:
    async def main(sim: Sim) -> float:
        store = MemoryPools(lease_s=6.0)
        await store.change(lambda book, now_s: book.begin("dead", now_s=now_s, lease_s=6.0))
        entry = PoolEntry("dead/1", "dead", "t", 1, 0)
        await store.change(lambda book, _: book.ask("gpu", 1, entry, waiters_max=9))
        loop = asyncio.get_running_loop()
        died_s = loop.time()

        @agent
        async def next_one(ctx: Context) -> float:
            async with ctx.pool("gpu"):
                return loop.time() - died_s

        runtime = Runtime(pools={"gpu": SharedPool(1)}, shared_pools=store)
        run = await Pipeline("p", [next_one], outputs=next_one).using(runtime=runtime).run()
        await runtime.aclose()
        return float(run.output)

    assert 6.0 <= simulate(main, seed=1).value <= 6.1


@pytest.mark.parametrize(
    ("pools", "code", "field"),
    [
        ({"a": Pool(0)}, "pool.units", "a"),
        ({"a": SharedPool(True)}, "pool.units", "a"),
        ({"a": Pool(2, per_tenant=3)}, "pool.per_tenant", "a"),
        ({"a": Pool(2, per_tenant=0)}, "pool.per_tenant", "a"),
        ({"a": Pool(2, within="b")}, "pool.within", "a"),
        ({"a": Pool(2, within="a")}, "pool.within", "a"),
        ({"a": Pool(2, within="b"), "b": Pool(2, within="a")}, "pool.within", "a"),
    ],
)
def test_limits_that_cannot_be_are_refused(pools: Any, code: str, field: str) -> None:
    with pytest.raises(BuildError) as caught:
        Runtime(pools=pools)
    assert (caught.value.code, caught.value.field) == (code, field)


def test_nobody_can_ask_for_more_than_the_narrowest_limit() -> None:
    @agent
    async def asks(ctx: Context) -> str:
        with pytest.raises(RunError) as caught:
            ctx.pool("search", 3)
        assert caught.value.code == "pool.request"
        return str(caught.value.expected)

    async def main(sim: Sim) -> Any:
        runtime = Runtime(pools=POOLS, limits=Limits())
        return (await Pipeline("p", [asks], outputs=asks).using(runtime=runtime).run()).output

    assert simulate(main, seed=1).value == "between 1 and 2"
