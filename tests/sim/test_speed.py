"""The simulation is fast enough to be run by the thousand."""

from __future__ import annotations

import asyncio
import time

from stageflow.sim import Sim, simulate


def test_at_least_100_000_steps_run_in_a_second_of_processor_time() -> None:
    async def main(sim: Sim) -> None:
        async def work() -> None:
            for number in range(400):
                await asyncio.sleep(number % 2)

        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(work())

    def speed() -> float:
        before = time.process_time()
        result = simulate(main, seed=1)
        assert result.steps >= 20_000
        return result.steps / (time.process_time() - before)

    assert max(speed() for _ in range(3)) >= 100_000
