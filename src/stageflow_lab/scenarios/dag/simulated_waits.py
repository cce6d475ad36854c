"""Plans of waits in simulation: each process a runtime, and one store between them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Final

from stageflow.journal.pools import MemoryPools
from stageflow.sim import RandomWalk, Sim, trial

from ...history import History
from ...world import World
from .forked import spread
from .wait_facts import facts_of
from .wait_graphs import plan_of
from .wait_worlds import Facts, Host, Seen

SCAN_S: Final = 1.0
CHUNK: Final = 20
SHARE_PLANTED: Final = 0.6


def run_plans(world: World, history: History) -> None:
    """One `world` event for each seed."""
    count = world.size["sim"]
    planted = round(count * SHARE_PLANTED)
    asked = [(world.seed_for("sim", number), number < planted) for number in range(count)]
    found = spread(simulate_all, asked, workers=world.size["workers"], chunk=CHUNK)
    for done, facts in enumerate(found):
        history.record("world", **facts)
        world.progress(done + 1, count, "simulated plans")


def simulate_all(asked: Sequence[tuple[int, bool]]) -> list[Facts]:
    """The facts of each seed, with a planted cycle or without."""
    return [simulate(seed, is_planted=is_planted) for seed, is_planted in asked]


def simulate(seed: int, *, is_planted: bool) -> Facts:
    """One plan to its end."""
    plan = plan_of(seed, is_planted=is_planted)

    async def main(sim: Sim) -> list[Seen]:
        loop, rng = asyncio.get_running_loop(), random.Random(seed)
        store = MemoryPools()
        numbers = sorted(set(plan.hosts))
        ready = asyncio.Barrier(len(numbers))

        async def all_hold() -> float:
            await ready.wait()
            return loop.time()

        hosts = [
            Host(
                plan,
                number,
                time=loop.time,
                all_hold=all_hold,
                shared_pools=store,
                scan_s=SCAN_S,
            )
            for number in numbers
        ]

        async def started(host: Host) -> Seen:
            # Processes look at one another each at its own time.
            await asyncio.sleep(rng.uniform(0.0, SCAN_S))
            return await host.run()

        return list(await asyncio.gather(*(started(each) for each in hosts)))

    result: Any = trial(main, seed=seed, schedule=RandomWalk(seed))
    if result.returned is None:
        story = f"{type(result.error).__name__}: {result.error}".splitlines()[0]
        return {"engine": "sim", "seed": seed, "planted": is_planted, "broke": story}
    return facts_of(plan, result.returned, engine="sim", scan_s=SCAN_S)
