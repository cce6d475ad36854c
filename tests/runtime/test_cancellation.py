"""Who may end a run, and that nothing of it goes on."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from stageflow import EventType, Limits, Pipeline, Runtime, Subscription, enrich, transform
from stageflow.sim import Sim, simulate


def waiting(log: list[str]) -> Pipeline[Any]:
    @enrich
    async def left(x: int) -> int:
        log.append("begun")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            log.append("cleaned")
            raise
        return x

    @transform
    async def after(left: int) -> int:
        log.append("after")
        return left

    return Pipeline("w", [left, left.named("right"), after], inputs={"x": int}, outputs=after)


async def settled(log: list[str], words: int = 2) -> None:
    while len(log) < words:  # noqa: ASYNC110  (the log is no event)
        await asyncio.sleep(0)


async def test_a_handle_cancels_its_run() -> None:
    log: list[str] = []
    handle = waiting(log).start(x=1)
    await settled(log)
    handle.cancel()
    handle.cancel("twice")
    run = await handle
    assert (run.status, run.reason) == ("cancelled", "by_handle")
    assert log == ["begun", "begun", "cleaned", "cleaned"] and handle.done
    handle.cancel()  # nothing happens any more
    assert (await handle) is run


async def test_a_run_cancelled_before_its_start_runs_nothing() -> None:
    log: list[str] = []
    handle = waiting(log).start(x=1)
    handle.cancel("never mind")
    run = await handle
    assert (run.status, run.reason, log) == ("cancelled", "never mind", [])


async def test_cancelling_the_awaiting_task_ends_the_run_and_is_raised_again() -> None:
    log: list[str] = []
    events = Subscription()
    task = asyncio.create_task(waiting(log).using(events=events).run(x=1))
    await settled(log)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["begun", "begun", "cleaned", "cleaned"]
    assert task.cancelled()


async def test_a_caller_that_is_cancelled_twice_still_leaves_nothing_behind() -> None:
    log: list[str] = []

    @enrich
    async def slow_to_clean(x: int) -> int:
        log.append("begun")
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.003)
            log.append("cleaned")
        return x

    task = asyncio.create_task(Pipeline("s", [slow_to_clean], inputs={"x": int}).run(x=1))
    await settled(log, 1)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["begun", "cleaned"]


async def test_a_timeout_around_a_run_ends_it() -> None:
    log: list[str] = []
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.005):
            await waiting(log).run(x=1)
    assert log[2:] == ["cleaned", "cleaned"]


async def test_a_task_group_that_fails_ends_its_runs() -> None:
    log: list[str] = []

    async def fails() -> None:
        await settled(log)
        raise LookupError

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(waiting(log).run(x=1))
            group.create_task(fails())
    assert log[2:] == ["cleaned", "cleaned"]


async def test_a_run_is_cancelled_during_a_commit(tmp_path: Path) -> None:
    """
    1. a run with a journal is cancelled at every turn of the loop, from its start on
    2. it ends as cancelled or ok, and the journal says the same
    """

    @transform
    async def one(x: int) -> int:
        return x

    two = one.named("two", x=one)
    desk = Pipeline("c", [one, two], inputs={"x": int}, outputs=two)
    seen = set()
    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        for turns in range(40):
            handle = desk.using(runtime=runtime).start(x=1)
            for _ in range(turns):
                await asyncio.sleep(0.0002)
            handle.cancel()
            run = await handle
            assert run.status in ("ok", "cancelled")
            loaded = await runtime.load(run.id)
            assert (loaded.status, loaded.reason) == (run.status, run.reason)
            seen.add(run.status)
    assert seen == {"ok", "cancelled"}


async def test_the_journal_says_cancelled_when_the_caller_was(tmp_path: Path) -> None:
    log: list[str] = []
    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        task = asyncio.create_task(waiting(log).using(runtime=runtime, run_id="r").run(x=1))
        await settled(log)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        loaded = await runtime.load("r")
    assert (loaded.status, loaded.reason) == ("cancelled", "caller_cancelled")


async def test_a_stage_that_ignores_its_cancellation_is_named_and_killed() -> None:
    """
    1. the stage swallows the cancellation and waits again
    2. after the grace period it is closed where it waits
    """
    log: list[str] = []

    @enrich
    async def deaf(x: int) -> int:
        log.append("begun")
        while True:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                log.append("ignored")

    events = Subscription()
    runtime = Runtime(limits=Limits(grace_s=0.005))
    handle = (
        Pipeline("d", [deaf], inputs={"x": int}).using(runtime=runtime, events=events).start(x=1)
    )
    await settled(log, 1)
    handle.cancel()
    run = await handle
    assert run.status == "cancelled" and run.quarantined == ("deaf",)
    assert runtime.quarantined == [(run.id, "deaf")] and log[:2] == ["begun", "ignored"]
    assert EventType.QUARANTINED in {event.type for event in events.drain()}


# Python itself tells of a coroutine that goes on when it is freed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_stage_that_swallows_even_its_closing_can_not_hold_the_run() -> None:
    log: list[str] = []

    @enrich
    async def undying(x: int) -> int:
        log.append("begun")
        while True:
            with contextlib.suppress(BaseException):
                await asyncio.sleep(30)

    runtime = Runtime(limits=Limits(grace_s=0.005))
    handle = Pipeline("u", [undying], inputs={"x": int}).using(runtime=runtime).start(x=1)
    await settled(log, 1)
    handle.cancel()
    run = await handle
    assert run.status == "cancelled" and "undying" in run.quarantined


async def test_tasks_that_a_cancelled_stage_left_are_ended() -> None:
    log: list[str] = []
    kept: list[asyncio.Task[None]] = []

    async def behind() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            log.append("ended")

    @enrich
    async def careless(x: int) -> int:
        kept.append(asyncio.create_task(behind()))
        log.append("begun")
        await asyncio.sleep(30)
        return x

    handle = Pipeline("c", [careless], inputs={"x": int}).start(x=1)
    await settled(log, 1)
    await asyncio.sleep(0)
    handle.cancel()
    run = await handle
    assert run.status == "cancelled" and log == ["begun", "ended"] and kept[0].done()


def test_a_cancellation_is_answered_at_once_in_every_schedule() -> None:
    async def main(sim: Sim) -> Any:
        log: list[str] = []
        handle = waiting(log).start(x=1)
        for _ in range(sim.rng.randrange(6)):
            await asyncio.sleep(0)
        handle.cancel()
        run = await handle
        assert sim.now() == 0 and "after" not in log
        assert log.count("begun") == log.count("cleaned")
        return run.status

    results = [simulate(main, seed=seed) for seed in range(150)]
    assert {result.value for result in results} == {"cancelled"}
    assert all(result.leftover == () for result in results)


@pytest.mark.parametrize("steps", range(8))
def test_a_loop_that_is_torn_down_ends_its_runs_wherever_they_are(steps: int) -> None:
    """
    1. runs are started, and the loop makes some steps
    2. the main task fails: asyncio cancels every task there is, those before their first step too
    3. nothing hangs, and no stage runs to its end
    """
    ran: list[int] = []

    @enrich
    async def stage(x: int) -> int:
        await asyncio.sleep(0.01 if x == 9 else 60.0)
        ran.append(x)
        return x

    pipeline = Pipeline("torn", [stage], inputs={"x": int}, outputs=stage)
    drivers: list[Any] = []

    async def main() -> None:
        for x in range(3):
            drivers.append(pipeline.using(session="s" if x else None).start(x=x)._driver)
        for _ in range(steps):
            await asyncio.sleep(0)
        raise ValueError

    with pytest.raises(ValueError):
        asyncio.run(main())
    assert not ran
    for driver in drivers:
        assert not driver.workers and not driver.attempts
        assert driver.end is None or driver.end.status == "cancelled"
    assert asyncio.run(pipeline.using(session="s").run(x=9)).output == 9
