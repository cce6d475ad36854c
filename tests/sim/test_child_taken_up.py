"""A child that its stage runs again: late threads, and a stop while it is being taken up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stageflow import Context, Limits, Pipeline, Retry, Run, Runtime, enrich
from stageflow.contracts import contract_of
from stageflow.journal.store import LoadedRun, RunSummary
from stageflow.model.record import RecordType
from stageflow.model.values import thaw
from stageflow.sim import Sim, SimJournal, simulate

UNIT_S = 0.01


def late_values(loaded: LoadedRun) -> list[tuple[int, Any]]:
    return [
        (record.attempt, thaw(contract_of(int).decode(record.payload)))
        for record in loaded.records
        if record.type is RecordType.LATE and record.payload is not None
    ]


def outer_of(child: Pipeline[int], *, timeout: float) -> Pipeline[int]:
    review = child.as_stage("review").named(
        timeout=timeout, retry=Retry(attempts=2, base_s=UNIT_S, jitter="none"), on_failure="isolate"
    )
    return Pipeline("outer", [review], inputs={"x": int}, outputs=review)


@pytest.mark.parametrize("back_after", [5.0, 9.5, 60.0], ids=["running", "between", "over"])
def test_a_thread_of_the_first_take_is_journalled_by_the_second(back_after: float) -> None:
    """
    1. the stage's time is over while its child's thread works; the child is cancelled
    2. the stage's next attempt claims the child again: the first driver may write no more
    3. the thread comes back while the second driver works, or when all is over
    """
    takes = iter((back_after * UNIT_S, 0.0))

    @enrich(place="thread")
    def slow(x: int, ctx: Context) -> int:
        return 100 + ctx.attempt

    child = Pipeline("child", [slow], inputs={"x": int}, outputs=slow)

    async def main(sim: Sim) -> tuple[Run[int], list[LoadedRun]]:
        journal = SimJournal(sim)
        limits = Limits(grace_s=UNIT_S)
        async with Runtime(journal=journal, clock=sim.clock, limits=limits) as runtime:
            runtime.threads.simulated_s = lambda: next(takes)
            run = await outer_of(child, timeout=4 * UNIT_S).using(runtime=runtime).run(x=1)
            await asyncio.sleep(100 * UNIT_S)
        found = [await journal.load(s.header.run) for s in await journal.runs()]
        return run, [each for each in found if each.header.parent is not None]

    run, (inner,) = simulate(main, seed=3).value
    assert run.is_ok and run.output == 102
    assert late_values(inner) == [(1, 101)]


def test_a_stage_that_is_stopped_while_it_takes_its_child_up_leaves_no_run_behind() -> None:
    """
    1. the first attempt's child is cancelled by the stage's timeout
    2. the second attempt claims the child; the run is cancelled before the claim is answered
    3. the child was claimed: it is ended, and not left as running for ever
    """

    @enrich
    async def slow(x: int) -> int:
        await asyncio.sleep(100 * UNIT_S)
        return x

    child = Pipeline("child", [slow], inputs={"x": int}, outputs=slow)

    async def main(sim: Sim) -> list[RunSummary]:
        journal = SimJournal(sim)
        claimed = asyncio.Event()
        claim = journal.claim

        async def slowly(*given: Any, **named: Any) -> LoadedRun:
            loaded = await claim(*given, **named)
            claimed.set()
            await asyncio.sleep(UNIT_S / 2)
            return loaded

        journal.claim = slowly  # type: ignore[method-assign]
        limits = Limits(grace_s=UNIT_S)
        async with Runtime(journal=journal, clock=sim.clock, limits=limits) as runtime:
            handle = outer_of(child, timeout=4 * UNIT_S).using(runtime=runtime).start(x=1)
            await claimed.wait()
            handle.cancel()
            run = await handle
            assert run.status == "cancelled"
        return await journal.runs()

    result = simulate(main, seed=5)
    assert not result.leftover and not result.unhandled
    statuses = {summary.header.pipeline: summary.status for summary in result.value}
    assert statuses == {"outer": "cancelled", "child": "cancelled"}


def test_what_is_still_being_journalled_is_not_ended_with_the_parents_stray_tasks() -> None:
    """
    1. a child is given up; two threads of it work on when its run is over
    2. both are back; one late value is being written, the other waits for that
    3. the parent ends meanwhile, and ends whatever its stages left behind
    """

    @enrich(place="thread")
    def slow(x: int) -> int:
        return 7

    @enrich
    async def meanwhile(x: int) -> int:
        await asyncio.sleep(20 * UNIT_S)
        return x

    child = Pipeline("child", [slow, slow.named("slower")], inputs={"x": int}, outputs=[slow])
    review = child.as_stage("review").named(timeout=4 * UNIT_S, on_failure="isolate")
    outer = Pipeline("outer", [review, meanwhile], inputs={"x": int}, outputs=meanwhile)

    async def main(sim: Sim) -> LoadedRun:
        journal = SimJournal(sim)
        limits = Limits(grace_s=UNIT_S)
        takes = [20 * UNIT_S - 1e-3, 20 * UNIT_S - 8e-4]
        async with Runtime(journal=journal, clock=sim.clock, limits=limits) as runtime:
            runtime.threads.simulated_s = takes.pop
            await outer.using(runtime=runtime).run(x=1)
            await asyncio.sleep(UNIT_S)
        (inner,) = [s for s in await journal.runs() if s.header.parent is not None]
        return await journal.load(inner.header.run)

    for seed in range(40):
        assert late_values(simulate(main, seed=seed).value) == [(1, 7), (1, 7)], seed
