"""Pools of several processes: units are given in order and never twice, a silent process loses
them, and stages of several processes that wait for one another are found, once, and told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stageflow import (
    BuildError,
    Context,
    JournalError,
    Limits,
    Pipeline,
    RunError,
    Runtime,
    SharedPool,
    agent,
)
from stageflow.journal.pools import MemoryPools
from stageflow.runtime.pools import Asker, Precedence
from stageflow.sim import Sim, simulate

SCAN_S = 1.0


def host(store: MemoryPools, *names: str, units: int = 1, **own: int) -> Runtime:
    """Stands for a process: nothing joins it with another but the store."""
    pools: dict[str, Any] = {name: SharedPool(units) for name in names}
    return Runtime(pools=pools | own, shared_pools=store, limits=Limits(scan_s=SCAN_S))


def taking(*names: str, pause_s: float = 1.0, log: list[Any] | None = None) -> Pipeline[Any]:
    """Takes one pool after another, keeps all, and gives back in the end."""

    async def takes(ctx: Context, left: list[str]) -> str:
        if not left:
            return "done"
        async with ctx.pool(left[0]) as fence:
            if log is not None:
                log.append((left[0], fence))
            await asyncio.sleep(pause_s)
            return await takes(ctx, left[1:])

    async def body(ctx: Context) -> str:
        return await takes(ctx, list(names))

    stage = agent(body, name="takes_" + "_".join(names))
    return Pipeline(stage.name, [stage], outputs=stage)


async def both(*runs: Any) -> list[Any]:
    return list(await asyncio.gather(*runs))


@pytest.mark.parametrize("seed", range(10))
def test_units_are_given_in_order_and_each_grant_has_a_greater_fence(seed: int) -> None:
    async def main(sim: Sim) -> None:
        store, log = MemoryPools(), list[Any]()
        hosts = [host(store, "gpu") for _ in range(4)]
        pipelines = [taking("gpu", log=log).using(runtime=each) for each in hosts]
        started = asyncio.get_running_loop().time()
        runs = await both(*(each.run() for each in pipelines))
        assert [run.status for run in runs] == ["ok"] * 4
        fences = [fence for _, fence in log]
        assert fences == sorted(set(fences)) and len(fences) == 4
        assert asyncio.get_running_loop().time() - started >= 4.0, "one at a time"
        for each in hosts:
            await each.aclose()
        book, _ = await store.read()
        assert not book.leases and not book.pools["gpu"].holds

    simulate(main, seed=seed)


@pytest.mark.parametrize("length", [2, 3, 7, 20])
@pytest.mark.parametrize("seed", range(3))
def test_a_ring_of_processes_loses_one_within_two_scans(seed: int, length: int) -> None:
    async def main(sim: Sim) -> None:
        store = MemoryPools()
        names = [f"p{n}" for n in range(length)]
        hosts = [host(store, *names) for _ in range(length)]
        loop = asyncio.get_running_loop()
        began = loop.time()
        handles = [
            taking(names[n], names[(n + 1) % length]).using(runtime=hosts[n]).start()
            for n in range(length)
        ]
        while not any(each.pools.deadlocks for each in hosts):
            await asyncio.sleep(0.05)
            assert loop.time() - began < 1.0 + 2 * SCAN_S
        runs = await both(*handles)
        assert sorted(run.status for run in runs) == ["failed"] + ["ok"] * (length - 1)
        found = [each for one in hosts for each in one.pools.deadlocks]
        assert len(found) == 1, "one victim, though all look"
        assert {each.run for each in found[0].members} == {run.id for run in runs}
        assert all(len(each.holds) == 1 for each in found[0].members)
        (failed,) = [run for run in runs if run.status == "failed"]
        assert failed.reason == "deadlock" and found[0].victim.run == failed.id
        assert found[0].policy == "the last to ask for a shared pool"

    simulate(main, seed=seed)


@pytest.mark.parametrize("seed", range(5))
def test_a_cycle_through_messages_and_children_of_two_processes(seed: int) -> None:
    """
    1. in one process `holder` has x and waits for a message of `sender`, whose child wants y
    2. in the other a stage has y and wants x
    """

    async def main(sim: Sim) -> None:
        store = MemoryPools()
        one, two = host(store, "x", "y"), host(store, "x", "y")
        child = taking("y")

        async def sender(ctx: Context) -> None:
            await asyncio.sleep(1)
            await ctx.run(child, key="c")
            await ctx.send("m", 1)

        async def holder(ctx: Context) -> None:
            async with ctx.pool("x"):
                await ctx.receive("m", "sender")

        pipeline = Pipeline("p", [agent(sender), agent(holder)], outputs=[])
        runs = await both(
            pipeline.using(runtime=one).run(), taking("y", "x").using(runtime=two).run()
        )
        found = [each for where in (one, two) for each in where.pools.deadlocks]
        assert len(found) == 1
        told = {each.node: each.awaits.partition(" ")[0] for each in found[0].members}
        assert told == {
            "sender": "run",
            "takes_y": "1",
            "holder": "message",
            "takes_y_x": "1",
        }
        assert sorted(run.reason for run in runs) in (["", "deadlock"], ["deadlock", "ok"])

    simulate(main, seed=seed)


@pytest.mark.parametrize("seed", range(5))
def test_a_free_unit_of_several_is_no_deadlock(seed: int) -> None:
    """A third process holds the other unit of each pool, and gives them back in the end."""

    async def main(sim: Sim) -> None:
        store = MemoryPools()
        hosts = [host(store, "x", "y", units=2) for _ in range(3)]
        third = taking("x", "y", pause_s=4.0).using(runtime=hosts[2]).start()
        fourth = taking("y", "x", pause_s=4.0).using(runtime=hosts[2]).start()
        await asyncio.sleep(0.5)
        runs = await both(
            taking("x", "y").using(runtime=hosts[0]).run(),
            taking("y", "x").using(runtime=hosts[1]).run(),
            third,
            fourth,
        )
        found = [each for one in hosts for each in one.pools.deadlocks]
        # Held: x by the first and third, y by the second and fourth, and each asks for the other.
        assert len(found) == sum(run.status != "ok" for run in runs)
        assert len(found) >= 1, "with all units held crosswise it is one"

    simulate(main, seed=seed)


@pytest.mark.parametrize("seed", range(5))
def test_a_slow_holder_is_no_deadlock(seed: int) -> None:
    async def main(sim: Sim) -> None:
        store = MemoryPools()
        hosts = [host(store, "x", "y") for _ in range(3)]
        runs = await both(
            taking("x", "y", pause_s=7.0).using(runtime=hosts[0]).run(),
            taking("y", pause_s=9.0).using(runtime=hosts[1]).run(),
            taking("x").using(runtime=hosts[2]).run(),
        )
        assert [run.status for run in runs] == ["ok"] * 3
        assert not any(each.pools.deadlocks for each in hosts)

    simulate(main, seed=seed)


def test_a_silent_process_loses_its_units_and_is_told() -> None:
    """
    1. one holds the unit, and its process falls silent for longer than its lease
    2. another is given the unit, with a greater fence
    3. the first leaves its `async with`, and gets `pool.lease_lost`
    """

    async def main(sim: Sim) -> None:
        store, log = MemoryPools(lease_s=5.0), list[Any]()
        one, two = host(store, "gpu"), host(store, "gpu")
        first = taking("gpu", pause_s=20.0, log=log).using(runtime=one).start()
        await asyncio.sleep(0.5)
        shared = one.pools.shared
        assert shared is not None and shared._keeper is not None
        shared._keeper.cancel()  # as good as stopped
        second = await taking("gpu", log=log).using(runtime=two).run()
        assert second.status == "ok"
        assert 5.0 <= asyncio.get_running_loop().time() <= 8.0
        assert log[0][1] < log[1][1]
        shared._keep()  # it goes on
        run = await first
        assert run.reason == "pool.lease_lost"

    simulate(main, seed=0)


@pytest.mark.parametrize("seed", range(10))
def test_who_is_cancelled_while_it_waits_or_holds_leaves_nothing(seed: int) -> None:
    async def main(sim: Sim) -> None:
        store = MemoryPools()
        one, two = host(store, "gpu"), host(store, "gpu")
        held = taking("gpu", pause_s=60.0).using(runtime=one).start()
        await asyncio.sleep(0.5)
        waits = taking("gpu").using(runtime=two).start()
        await asyncio.sleep(0.5)
        waits.cancel()
        assert (await waits).status == "cancelled"
        held.cancel()
        assert (await held).status == "cancelled"
        assert (await taking("gpu").using(runtime=two).run()).status == "ok"
        await two.aclose()
        book, _ = await store.read()
        assert not book.leases

    simulate(main, seed=seed)


def test_closing_ends_although_the_store_is_away() -> None:
    class Away(MemoryPools):
        is_away = False

        async def change(self, decide: Any) -> Any:
            if self.is_away:
                raise JournalError("journal.unreachable", "away")
            return await super().change(decide)

    async def main(sim: Sim) -> None:
        store = Away()
        one = host(store, "gpu")
        held = taking("gpu", pause_s=1.0).using(runtime=one).start()
        await asyncio.sleep(0.5)
        store.is_away = True
        assert (await held).status == "ok"
        await one.aclose()
        assert asyncio.get_running_loop().time() <= 1.5 + one.limits.close_s

    simulate(main, seed=0)


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(BuildError, match=r"pool\.units"):
        Runtime(pools={"gpu": SharedPool(0)}, shared_pools=MemoryPools())
    with pytest.raises(BuildError, match=r"pool\.shared_store"):
        Runtime(pools={"gpu": SharedPool(1)})
    pytest.importorskip("psycopg")
    with pytest.raises(BuildError, match=r"pool\.shared_scope"):
        Runtime(pools={"gpu": SharedPool(1)}, shared_pools="postgresql://h/d?tenant=acme")


def test_other_units_than_the_others_have() -> None:
    async def main(sim: Sim) -> None:
        store = MemoryPools()
        one, two = host(store, "gpu"), host(store, "gpu", units=2)
        runs = await both(
            taking("gpu").using(runtime=one).run(), taking("gpu").using(runtime=two).run()
        )
        assert [run.status for run in runs] == ["ok", "failed"]
        assert runs[1].reason == "pool.units_differ"
        with pytest.raises(RunError, match=r"did you mean 'gpu'"):
            one.pools.lease(Asker(None, "n", Precedence()), "gpus", 1)  # type: ignore[arg-type]

    simulate(main, seed=0)
