"""The simulation is fast enough to be run by the thousand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from stageflow.sim import Sim, simulate

TASKS, SLEEPS = 50, 400


async def work(wait_s: int) -> None:
    for number in range(SLEEPS):
        await asyncio.sleep(number % 2 * wait_s)


async def work_side_by_side(wait_s: int) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(TASKS):
            group.create_task(work(wait_s))


def seconds(run: Callable[[], object]) -> float:
    before = time.process_time()
    run()
    return time.process_time() - before


def test_a_simulated_step_costs_at_most_eight_steps_of_asyncio() -> None:
    """The floor waits for nothing: a real loop would have to sleep for as long as it is told."""

    async def simulated(sim: Sim) -> None:
        await work_side_by_side(1)

    def simulation() -> None:
        assert simulate(simulated, seed=1).steps >= TASKS * SLEEPS

    def floor() -> None:
        asyncio.run(work_side_by_side(0))

    assert min(seconds(simulation) / seconds(floor) for _ in range(5)) <= 8
