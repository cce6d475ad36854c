"""A lost update, found by seed and shown again by it.

1. the counter is 0; `left` and `right` each want to add one
2. left reads 0 and lets others run (it awaits a lock, a queue, the network)
3. right reads 0, adds, writes 1
4. left adds to what it read, writes 1: right's update is lost
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from stageflow.sim import Fifo, Pct, RandomWalk, Schedule, Sim, SimResult, simulate, trial

SEEDS = range(200)


async def racing(sim: Sim) -> int:
    """Reads, yields once, writes; on the ordinary order of a loop the two never overlap."""
    counter = 0

    async def add(yields: int) -> None:
        nonlocal counter
        for _ in range(yields):
            await asyncio.sleep(0)
        read = counter
        await asyncio.sleep(0)
        counter = read + 1

    async with asyncio.TaskGroup() as group:
        group.create_task(add(1), name="left")
        group.create_task(add(5), name="right")
    assert counter == 2, "an update was lost"
    return counter


async def careful(sim: Sim) -> int:
    """The same under a lock, which protects the counter across the await between read and write."""
    lock = asyncio.Lock()
    counter = 0

    async def add(yields: int) -> None:
        nonlocal counter
        for _ in range(yields):
            await asyncio.sleep(0)
        async with lock:
            read = counter
            await asyncio.sleep(0)
            counter = read + 1

    async with asyncio.TaskGroup() as group:
        group.create_task(add(1), name="left")
        group.create_task(add(5), name="right")
    assert counter == 2, "an update was lost"
    return counter


@pytest.mark.parametrize("schedule", [RandomWalk, lambda seed: Pct(seed, depth=2, steps=20)])
def test_a_lost_update_is_found_and_its_seed_shows_it_again(
    schedule: Callable[[int], Schedule],
) -> None:
    # In the order in which an ordinary loop would serve them, the bug does not show.
    assert simulate(racing, seed=0, schedule=Fifo()).value == 2

    def first() -> SimResult[int]:
        runs = (trial(racing, seed=seed, schedule=schedule(seed)) for seed in SEEDS)
        return next(run for run in runs if run.error is not None)

    found = first()
    assert isinstance(found.error, AssertionError)
    assert f"seed={found.seed}" in found.error.__notes__[0]
    for _ in range(3):
        again = trial(racing, seed=found.seed, schedule=schedule(found.seed))
        assert isinstance(again.error, AssertionError)
        assert (again.trace_hash, again.recorded) == (found.trace_hash, found.recorded)
    replayed = trial(racing, seed=found.seed, schedule=found.replay())
    assert replayed.trace_hash == found.trace_hash
    with pytest.raises(AssertionError, match="lost"):
        simulate(racing, seed=found.seed, schedule=schedule(found.seed))


def test_the_mended_program_holds_under_every_seed() -> None:
    assert all(simulate(careful, seed=seed).value == 2 for seed in SEEDS)
