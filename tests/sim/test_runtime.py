"""The real runtime under simulation: one answer under every schedule and after every crash."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from stageflow import Pipeline, Runtime, enrich, transform
from stageflow.sim import Sim, SimJournal, simulate

SEEDS = range(300)


@transform
async def head(text: str) -> str:
    await asyncio.sleep(0.001)
    return text.upper()


@enrich
async def left(head: str) -> str:
    await asyncio.sleep(0.002)
    return head + "l"


@enrich
async def right(head: str) -> str:
    await asyncio.sleep(0.002)
    return head + "r"


@transform
def tail(left: str, right: str) -> str:
    return left + right


DESK = Pipeline("desk", [head, left, right, tail], inputs={"text": str}, outputs=tail)


async def uninterrupted(sim: Sim) -> tuple[object, ...]:
    journal = SimJournal(sim)
    async with Runtime(journal=journal, clock=sim.clock) as runtime:
        run = await DESK.using(runtime=runtime, run_id="r").run(text="a")
        (listed,) = await runtime.runs()
    return run.status, run.output, listed.status


async def crashed(sim: Sim) -> tuple[str, str]:
    """
    1. a run works; the machine loses power at some moment of it, perhaps within an fsync
    2. another process resumes what is on the disk, if anything is
    """
    journal = SimJournal(sim)

    async def work() -> None:
        async with Runtime(journal=journal, clock=sim.clock) as runtime:
            await DESK.using(runtime=runtime, run_id="r").run(text="a")

    working = asyncio.create_task(work())
    await asyncio.sleep(sim.rng.random() * 0.015)
    journal.crash()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    survivor = journal.as_owner("survivor")
    async with Runtime(journal=survivor, clock=sim.clock) as runtime:
        found = await runtime.runs()
        if not found:
            return "nothing", "nothing"
        run = await runtime.resume("r", pipeline=DESK)
        assert run.output == "AlAr"
        return found[0].status, run.status


def test_a_run_gives_one_answer_under_every_schedule() -> None:
    results = [simulate(uninterrupted, seed=seed) for seed in SEEDS]
    assert {result.value for result in results} == {("ok", "AlAr", "ok")}
    assert all(result.leftover == () and result.unhandled == () for result in results)
    assert len({result.trace_hash for result in results}) > len(SEEDS) / 2


def test_a_crashed_run_is_resumed_to_the_same_answer() -> None:
    results = [simulate(crashed, seed=seed) for seed in SEEDS]
    assert all(result.leftover == () and result.unhandled == () for result in results)
    statuses = {result.value for result in results}
    assert statuses >= {("running", "ok"), ("ok", "ok"), ("nothing", "nothing")}
    assert {after for before, after in statuses if before != "nothing"} == {"ok"}


def test_the_runtime_is_deterministic_in_every_process() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_runtime import crashed, uninterrupted\n"
        "from stageflow.sim import trial\n"
        "for seed in range(20):\n"
        "    print(*(trial(main, seed=seed).trace_hash for main in (crashed, uninterrupted)))\n"
    )

    def traces(hash_seed: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert traces("0") == traces("1") == traces("random")
