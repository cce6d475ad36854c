"""A callback between two steps: the run up to it is the run without it."""

from __future__ import annotations

import asyncio

from stageflow.sim import Sim, simulate


async def two_workers(sim: Sim) -> list[tuple[int, str]]:
    seen: list[tuple[int, str]] = []

    async def work(name: str) -> None:
        for _ in range(5):
            seen.append((sim.loop.steps, name))
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        group.create_task(work("a"))
        group.create_task(work("b"))
    return seen


def test_the_run_before_an_interrupt_is_the_run_without_it() -> None:
    plain = simulate(two_workers, seed=3)
    for step in range(plain.steps):
        met: list[int] = []

        async def main(sim: Sim, step: int = step, met: list[int] = met) -> list[tuple[int, str]]:
            sim.at_step(step, lambda: met.append(sim.loop.steps))
            return await two_workers(sim)

        result = simulate(main, seed=3)
        assert met == [max(step, 1)], "main's own first step registers it"
        assert (result.value, result.trace_hash) == (plain.value, plain.trace_hash)


def test_interrupts_of_one_step_come_in_the_order_of_registration() -> None:
    async def main(sim: Sim) -> list[str]:
        order: list[str] = []
        sim.at_step(4, lambda: order.append("second step, first"))
        sim.at_step(2, lambda: order.append("first step"))
        sim.at_step(4, lambda: order.append("second step, second"))
        await two_workers(sim)
        return order

    assert simulate(main, seed=1).value == [
        "first step",
        "second step, first",
        "second step, second",
    ]


def test_a_task_can_be_cancelled_while_everything_waits_for_time() -> None:
    async def main(sim: Sim) -> float:
        sleeper = asyncio.create_task(asyncio.sleep(100))
        sim.at_step(2, sleeper.cancel)
        await asyncio.wait([sleeper])
        return sim.now()

    assert simulate(main, seed=0).value == 0.0
