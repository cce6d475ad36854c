"""Threads in a simulation may take virtual time, and are left behind as real ones are."""

from __future__ import annotations

import asyncio

from stageflow import Context, Limits, Pipeline, Retry, Runtime, enrich
from stageflow.model.record import RecordType
from stageflow.sim import Sim, SimJournal, simulate


@enrich(timeout=0.001, retry=Retry(attempts=2, base_s=0.0))
def found(ctx: Context, x: int) -> list[int]:
    return [x, ctx.attempt]


DESK = Pipeline("desk", [found], inputs={"x": int}, outputs=found)


async def overtaken(sim: Sim) -> tuple[list[int], int, list[int], int]:
    """
    1. attempt 1 times out at 1 ms; its thread goes on for 50 ms, past its grace
    2. attempt 2 takes 0.5 ms and succeeds; the run ends
    3. the thread of attempt 1 is back: late
    """
    takes = iter((0.05, 0.0005))
    journal = SimJournal(sim)
    async with Runtime(journal=journal, clock=sim.clock, limits=Limits(grace_s=0.0005)) as runtime:
        runtime.threads.simulated_s = lambda: next(takes)
        run = await DESK.using(runtime=runtime, run_id="r").run(x=7)
        stuck = runtime.threads.stuck
        await asyncio.sleep(0.1)
    records = (await journal.load("r")).records
    late = [record.attempt for record in records if record.type is RecordType.LATE]
    return run.output, stuck, late, runtime.threads.stuck


def test_a_simulated_thread_takes_virtual_time_and_outlives_its_attempt() -> None:
    for seed in range(20):
        assert simulate(overtaken, seed=seed).value == ([7, 2], 1, [1], 0)


def test_simulated_threads_take_no_time_unless_asked_to() -> None:
    async def at_once(sim: Sim) -> float:
        await DESK.run(x=1)
        return sim.now()

    assert simulate(at_once, seed=0).value == 0.0
