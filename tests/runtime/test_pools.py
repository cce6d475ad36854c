"""Pools: units are given in order, never twice, and given back; stages that wait for one another
are found when the last of them begins to wait."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from stageflow import (
    BuildError,
    Context,
    Deadlocked,
    Limits,
    Pipeline,
    Run,
    Runtime,
    transform,
)
from stageflow.runtime.waits import WaitGraph
from stageflow.sim import Sim, simulate


def one(body: Any, **options: Any) -> Pipeline[Any]:
    stage = transform(body, **options)
    return Pipeline(stage.name, [stage], outputs=stage)


def both(first: str, second: str, log: list[str] | None = None) -> Pipeline[Any]:
    """A pipeline that takes two pools in that order, with time to meet others in between."""

    async def takes(ctx: Context) -> str:
        async with ctx.pool(first):
            await asyncio.sleep(1)
            async with ctx.pool(second):
                if log is not None:
                    log.append(ctx.identity.run)
                return f"{first}{second}"

    return one(takes, name=f"{first}{second}")


async def settled(*runs: Any) -> list[Run[Any]]:
    return list(await asyncio.gather(*runs))


@pytest.mark.parametrize("seed", range(20))
def test_no_more_units_are_out_than_there_are_and_all_come_back(seed: int) -> None:
    async def main(sim: Sim) -> None:
        rng = random.Random(seed)
        out = 0

        async def uses(ctx: Context) -> None:
            nonlocal out
            units = rng.randint(1, 3)
            async with ctx.pool("gpu", units):
                out += units
                assert out <= 3
                try:
                    await asyncio.sleep(rng.random())
                finally:
                    out -= units

        runtime = Runtime(pools={"gpu": 3})
        pipeline = one(uses, timeout=5.0).using(runtime=runtime)
        handles = [pipeline.start() for _ in range(12)]
        await asyncio.sleep(1)
        for handle in rng.sample(handles, 4):
            handle.cancel()
        runs = [await handle for handle in handles]
        assert {run.status for run in runs} <= {"ok", "cancelled", "failed"}
        assert all(run.reason == "timeout" for run in runs if run.status == "failed")
        assert out == 0

        async def all_of_it(ctx: Context) -> str:
            async with ctx.pool("gpu", 3):
                return "there"

        assert (await one(all_of_it).using(runtime=runtime).run()).output == "there"
        assert not runtime.pools.deadlocks

    simulate(main, seed=seed)


@pytest.mark.parametrize("seed", range(10))
def test_two_that_take_two_pools_crosswise(seed: int) -> None:
    """
    1. one run takes a, the other b
    2. one asks for the other's and waits; the second to do so fails as `deadlock`
    3. it gives back what it held, and the first goes on
    """

    async def main(sim: Sim) -> None:
        runtime, began = Runtime(pools={"a": 1, "b": 1}), asyncio.get_running_loop().time()
        runs = await settled(
            both("a", "b").using(runtime=runtime, run_id="r1").run(),
            both("b", "a").using(runtime=runtime, run_id="r2").run(),
        )
        assert sorted(run.status for run in runs) == ["failed", "ok"]
        (failed,) = [run for run in runs if run.status == "failed"]
        assert failed.reason == "deadlock"
        (found,) = runtime.pools.deadlocks
        assert found.victim.run == failed.id
        assert {(m.run, *m.holds, m.awaits) for m in found.members} == {
            ("r1", "a", "1 of pool 'b'"),
            ("r2", "b", "1 of pool 'a'"),
        }
        assert asyncio.get_running_loop().time() - began == 1.0, "it is found at once"

    simulate(main, seed=seed)


@pytest.mark.parametrize("length", [2, 3, 7, 20])
def test_a_ring_loses_one_and_the_others_end(length: int) -> None:
    async def main(sim: Sim) -> None:
        names = [f"p{n}" for n in range(length)]
        runtime = Runtime(pools=dict.fromkeys(names, 1))
        pipelines = [both(names[n - 1], names[n]) for n in range(length)]
        runs = await settled(*(each.using(runtime=runtime).run() for each in pipelines))
        assert sorted(run.reason for run in runs) == [""] * (length - 1) + ["deadlock"]
        (found,) = runtime.pools.deadlocks
        assert {m.run for m in found.members} == {run.id for run in runs}

    simulate(main, seed=length)


def test_a_ring_that_is_not_closed_is_no_deadlock() -> None:
    async def main(sim: Sim) -> None:
        names = [f"p{n}" for n in range(9)]
        runtime = Runtime(pools=dict.fromkeys(names, 1))
        pipelines = [both(names[n], names[n + 1]) for n in range(8)] * 2
        runs = await settled(*(each.using(runtime=runtime).run() for each in pipelines))
        assert {run.status for run in runs} == {"ok"}
        assert not runtime.pools.deadlocks

    simulate(main, seed=3)


def test_any_unit_will_do_while_one_holder_can_go_on() -> None:
    """Two units: the holder of one waits crosswise, the other only sleeps."""

    async def main(sim: Sim) -> None:
        runtime = Runtime(pools={"a": 2, "b": 1})

        async def sleeps(ctx: Context) -> None:
            async with ctx.pool("a"):
                await asyncio.sleep(10)

        runs = await settled(
            one(sleeps).using(runtime=runtime).run(),
            both("a", "b").using(runtime=runtime).run(),
            both("b", "a").using(runtime=runtime).run(),
        )
        assert {run.status for run in runs} == {"ok"}

    simulate(main, seed=3)


@pytest.mark.parametrize("through", ["run", "map", "grandchild"])
def test_a_child_that_needs_what_its_parent_holds(through: str) -> None:
    async def main(sim: Sim) -> None:
        runtime, began = Runtime(pools={"a": 1}), asyncio.get_running_loop().time()

        async def inside(ctx: Context) -> str:
            await asyncio.sleep(1)
            async with ctx.pool("a"):
                return "in"

        child = one(inside)

        async def between(ctx: Context) -> str:
            return await ctx.run(child, key="child")

        async def outside(ctx: Context) -> Any:
            async with ctx.pool("a"):
                if through == "map":
                    return await ctx.map(child, [{}, {}])
                return await ctx.run(child if through == "run" else one(between), key="child")

        run = await one(outside).using(runtime=runtime, run_id="parent").run()
        assert (run.status, run.reason) == ("failed", "deadlock")
        (found, *_) = runtime.pools.deadlocks
        nodes = {m.node for m in found.members}
        assert nodes == {"inside", "outside"} | ({"between"} if through == "grandchild" else set())
        assert found.victim.node == "inside"
        assert asyncio.get_running_loop().time() - began == 1.0

    simulate(main, seed=1)


def test_a_stage_whose_other_task_will_give_back_is_not_deadlocked() -> None:
    """One task of the stage waits for b while another, which holds a, goes on by itself."""

    async def main(sim: Sim) -> None:
        runtime = Runtime(pools={"a": 1, "b": 1})

        async def holds(ctx: Context) -> None:
            async with ctx.pool("a"):
                await asyncio.sleep(5)

        async def asks(ctx: Context) -> None:
            await asyncio.sleep(1)
            async with ctx.pool("b"):
                pass

        async def two_tasks(ctx: Context) -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(holds(ctx))
                group.create_task(asks(ctx))

        runs = await settled(
            one(two_tasks).using(runtime=runtime).run(),
            both("b", "a").using(runtime=runtime).run(),
        )
        assert {run.status for run in runs} == {"ok"}

    simulate(main, seed=1)


async def test_a_stage_may_heed_the_error_give_back_and_try_again() -> None:
    tries = 0

    async def patient(ctx: Context) -> str:
        nonlocal tries
        while True:
            tries += 1
            try:
                async with ctx.pool("b"):
                    await asyncio.sleep(0.01)
                    async with ctx.pool("a"):
                        return "both"
            except Deadlocked:
                await asyncio.sleep(0)

    async def other(ctx: Context) -> str:
        async with ctx.pool("a"):
            await asyncio.sleep(0.005)
            async with ctx.pool("b"):
                return "both"

    runtime = Runtime(pools={"a": 1, "b": 1})
    runs = await settled(
        one(patient).using(runtime=runtime).run(), one(other).using(runtime=runtime).run()
    )
    assert [run.output for run in runs] == ["both", "both"]
    assert tries == 2


async def test_the_same_pool_twice_in_one_task_is_a_deadlock_of_one() -> None:
    runtime = Runtime(pools={"a": 1})
    run = await both("a", "a").using(runtime=runtime).run()
    assert run.reason == "deadlock"


async def test_other_tenants_are_not_named() -> None:
    runtime = Runtime(pools={"a": 1, "b": 1})

    def crosswise(first: str, second: str, tenant: str) -> Any:
        return both(first, second).using(runtime=runtime, tenant=tenant, run_id=f"run-of-{tenant}")

    runs = await settled(crosswise("a", "b", "acme").run(), crosswise("b", "a", "globex").run())
    (failed,) = [run for run in runs if run.status == "failed"]
    other = "globex" if failed.identity.tenant == "acme" else "acme"
    assert "and others" in str(failed.failure)
    assert other not in str(failed.failure)
    assert {m.tenant for m in runtime.pools.deadlocks[0].members} == {"acme", "globex"}


@pytest.mark.parametrize(
    ("name", "units", "code"),
    [("gpo", 1, "pool.unknown"), ("gpu", 3, "pool.request"), ("gpu", 0, "pool.request")],
)
async def test_what_can_never_be_had_is_refused_at_once(name: str, units: int, code: str) -> None:
    async def asks(ctx: Context) -> None:
        async with ctx.pool(name, units):
            pass

    run = await one(asks).using(runtime=Runtime(pools={"gpu": 2})).run()
    assert run.reason == code


async def test_a_queue_has_a_bound() -> None:
    runtime = Runtime(pools={"a": 1}, limits=Limits(pool_waiters=1))

    async def holds(ctx: Context) -> None:
        async with ctx.pool("a"):
            await asyncio.sleep(0.01)

    runs = await settled(*(one(holds).using(runtime=runtime).run() for _ in range(4)))
    assert sorted(run.reason for run in runs) == ["", "", "pool.full", "pool.full"]


@pytest.mark.parametrize("seed", range(30))
def test_a_task_cancelled_in_the_very_moment_it_is_served_keeps_nothing(seed: int) -> None:
    async def main(sim: Sim) -> None:
        runtime = Runtime(pools={"a": 1})

        async def turns(ctx: Context) -> str:
            async def waits() -> None:
                async with ctx.pool("a"):
                    await asyncio.sleep(1)

            first, second, third = (asyncio.create_task(waits()) for _ in range(3))
            await asyncio.sleep(0.5)
            asyncio.get_running_loop().call_later(0.5, second.cancel)
            await asyncio.wait([first, second, third])
            async with ctx.pool("a"):
                return f"{second.cancelled()} {third.cancelled()}"

        run = await one(turns).using(runtime=runtime).run()
        assert run.output in ("True False", "False False")

    simulate(main, seed=seed)


@pytest.mark.parametrize("units", [0, True, 1.5])
def test_a_pool_has_a_number_of_units(units: Any) -> None:
    with pytest.raises(BuildError, match=r"pool\.units"):
        Runtime(pools={"gpu": units})


async def test_a_run_that_is_killed_gives_back_what_it_held() -> None:
    async def stubborn(ctx: Context) -> None:
        async with ctx.pool("a"):
            while True:
                try:
                    await asyncio.sleep(1)
                except asyncio.CancelledError:
                    continue

    runtime = Runtime(pools={"a": 1}, limits=Limits(grace_s=0.01))
    handle = one(stubborn).using(runtime=runtime).start()
    await asyncio.sleep(0.01)
    handle.cancel()
    run: Run[Any] = await handle
    assert run.quarantined == ("stubborn",)
    assert (await both("a", "a").using(runtime=runtime).run()).reason == "deadlock", "a is free"


@pytest.mark.parametrize("seed", range(60))
def test_a_planted_ring_is_named_exactly_among_others_that_wait(seed: int) -> None:
    """A ring of 2 to 20 runs; others queue for its locks, or take shared pools in one order; some
    of both hold a lock through a child run. In every third system the ring is not closed."""

    async def main(sim: Sim) -> None:
        rng = random.Random(seed)
        length, is_closed = rng.randint(2, 20), seed % 3 != 0
        locks = [f"l{n}" for n in range(length + 1)]
        shared = [f"s{n}" for n in range(4)]
        runtime = Runtime(
            pools={**dict.fromkeys(locks, 1), **{name: rng.randint(1, 3) for name in shared}}
        )

        async def take(ctx: Context, *names: str) -> str:
            for name in names:
                async with ctx.pool(name):
                    await asyncio.sleep(rng.random())
            return "taken"

        def ring(n: int) -> Pipeline[Any]:
            wanted = locks[(n + 1) % length] if is_closed else locks[n + 1]

            async def inner(ctx: Context) -> str:
                return await take(ctx, wanted)

            child, nests = one(inner, name=f"inner{n}"), rng.random() < 0.5

            async def member(ctx: Context) -> str:
                async with ctx.pool(locks[n]):
                    await asyncio.sleep(1)
                    return await (ctx.run(child, key="c") if nests else take(ctx, wanted))

            return one(member, name=f"member{n}")

        def bystander(n: int) -> Pipeline[Any]:
            own = sorted(rng.sample(shared, 2))
            last = rng.choice(locks)

            async def stands(ctx: Context) -> str:
                await asyncio.sleep(0.5 + rng.random())
                async with ctx.pool(own[0]), ctx.pool(own[1]):
                    return await take(ctx, last)

            return one(stands, name=f"bystander{n}")

        members = [ring(n).using(runtime=runtime, run_id=f"m{n}") for n in range(length)]
        others = [bystander(n).using(runtime=runtime) for n in range(rng.randint(0, 10))]
        runs = await settled(*(each.run() for each in members + others))
        if not is_closed:
            assert not runtime.pools.deadlocks
            assert {run.status for run in runs} == {"ok"}
            return
        (found,) = runtime.pools.deadlocks
        named = {m.node.removeprefix("inner").removeprefix("member") for m in found.members}
        assert named == {str(n) for n in range(length)}
        failed = [run for run in runs if run.status != "ok"]
        assert [run.reason for run in failed] == ["deadlock"]
        assert failed[0] in runs[:length]

    simulate(main, seed=seed)


async def test_who_waits_without_holding_anything_is_no_reason_to_look_for_deadlocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many runs wait in child runs: each look reads everybody who waits."""
    looks = [0]
    state = WaitGraph.state

    def counted(graph: WaitGraph) -> Any:
        looks[0] += 1
        return state(graph)

    monkeypatch.setattr(WaitGraph, "state", counted)

    @transform
    async def slow(ctx: Context) -> None:
        async with ctx.pool("gpu"):
            await asyncio.sleep(0)

    @transform
    async def calls(ctx: Context) -> None:
        await ctx.run(Pipeline("below", [slow]), key="k")

    async with Runtime(pools={"gpu": 2}) as runtime:
        pipeline = Pipeline("above", [calls]).using(runtime=runtime)
        runs = await asyncio.gather(*(pipeline.run() for _ in range(20)))
    assert all(run.is_ok for run in runs) and looks[0] == 0
