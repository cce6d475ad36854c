"""Shrinking: the deviations that matter stay, all others go, and the run is shown by one line."""

from __future__ import annotations

import asyncio

import pytest

from stageflow.model.errors import SimulationError
from stageflow.sim import Fifo, Pct, RandomWalk, Sim, SimResult, simulate, trial
from stageflow.sim.shrink import Deviations, shrink


async def lost_update(sim: Sim) -> int:
    """Two tasks that read, yield and write; beside them five that only make choices.

    1. the counter is 0; `left` reads 0 and lets others run
    2. `right`, behind by four turns, has to catch up and read 0 as well
    3. both write 1
    """
    counter = 0

    async def add(turns: int) -> None:
        nonlocal counter
        for _ in range(turns):
            await asyncio.sleep(0)
        read = counter
        await asyncio.sleep(0)
        counter = read + 1

    async def idle() -> None:
        for _ in range(40):
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(add(1))
        group.create_task(add(5))
        for _ in range(5):
            group.create_task(idle())
    assert counter == 2, "an update was lost"
    return counter


def failing_seed() -> int:
    return next(seed for seed in range(500) if trial(lost_update, seed=seed).error is not None)


def test_few_deviations_remain_and_none_can_be_left_out() -> None:
    seed = failing_seed()
    assert simulate(lost_update, seed=seed, schedule=Fifo()).value == 2
    shrunk = shrink(lost_update, seed=seed)
    assert shrunk.is_minimal and 1 <= len(shrunk.deviations) <= 8 < shrunk.deviations_before
    assert isinstance(shrunk.result.error, AssertionError)
    for left_out in shrunk.deviations:
        rest = tuple(each for each in shrunk.deviations if each != left_out)
        assert trial(lost_update, seed=seed, schedule=Deviations(rest)).error is None


def test_the_line_makes_the_run_again() -> None:
    shrunk = shrink(lost_update, seed=failing_seed())
    name = f"{lost_update.__module__}.lost_update"
    assert shrunk.reproduce.startswith(f"simulate({name}, seed=")
    names = {"simulate": trial, "Deviations": Deviations}
    again = eval(shrunk.reproduce.replace(name, "main"), {**names, "main": lost_update})
    assert again.trace_hash == shrunk.result.trace_hash
    assert shrunk.reproduce in str(shrunk) and "deviations from Fifo" in str(shrunk)


@pytest.mark.parametrize("make", [RandomWalk, lambda seed: Pct(seed, depth=2, steps=200)])
def test_a_schedule_of_any_kind_is_shrunk(make: object) -> None:
    def main_fails(seed: int) -> bool:
        return trial(lost_update, seed=seed, schedule=make(seed)).error is not None  # type: ignore[operator]

    seed = next(seed for seed in range(2_000) if main_fails(seed))
    shrunk = shrink(lost_update, seed=seed, schedule=make(seed))  # type: ignore[operator]
    assert len(shrunk.deviations) < shrunk.deviations_before


def test_what_failing_means_is_the_callers() -> None:
    async def order(sim: Sim) -> str:
        done: list[str] = []

        async def work(name: str) -> None:
            await asyncio.sleep(0)
            done.append(name)

        async with asyncio.TaskGroup() as group:
            for name in "abcd":
                group.create_task(work(name))
        return "".join(done)

    def b_ends(result: SimResult[str]) -> bool:
        return result.value.endswith("b")

    seed = next(seed for seed in range(500) if b_ends(simulate(order, seed=seed)))
    shrunk = shrink(order, seed=seed, failing=b_ends)
    assert shrunk.result.value.endswith("b") and len(shrunk.deviations) <= 2


def test_a_failure_of_every_schedule_needs_no_deviation() -> None:
    async def broken(sim: Sim) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(asyncio.sleep(0))
        raise LookupError("always")

    shrunk = shrink(broken, seed=1)
    assert (shrunk.deviations, shrunk.tries) == ((), 1)
    assert shrunk.result.recorded == trial(broken, seed=1, schedule=Fifo()).recorded


def test_another_error_is_another_failure() -> None:
    """Fifo gives a ValueError: it must not pass for the LookupError that is being shrunk."""

    async def main(sim: Sim) -> None:
        done: list[str] = []

        async def work(name: str) -> None:
            await asyncio.sleep(0)
            done.append(name)

        async with asyncio.TaskGroup() as group:
            for name in "abc":
                group.create_task(work(name))
        raise LookupError("reversed") if done == ["c", "b", "a"] else ValueError("".join(done))

    seed = next(s for s in range(500) if isinstance(trial(main, seed=s).error, LookupError))
    shrunk = shrink(main, seed=seed)
    assert isinstance(shrunk.result.error, LookupError) and shrunk.deviations


def test_the_search_is_bounded_and_says_so() -> None:
    shrunk = shrink(lost_update, seed=failing_seed(), tries_max=3)
    assert shrunk.tries == 3 and not shrunk.is_minimal
    assert "not yet minimal" in str(shrunk)
    assert isinstance(shrunk.result.error, AssertionError)


def test_a_run_that_holds_has_nothing_to_shrink() -> None:
    seed = next(seed for seed in range(100) if trial(lost_update, seed=seed).error is None)
    with pytest.raises(SimulationError) as caught:
        shrink(lost_update, seed=seed)
    assert caught.value.code == "sim.not_failing"


def test_a_deviation_that_is_too_far_takes_the_last_source() -> None:
    pick = Deviations(((1, 5),)).begin()
    assert [pick(2, (1, 2)), pick(3, (1, 2, 3)), pick(3, (1, 2, 3))] == [0, 2, 0]
