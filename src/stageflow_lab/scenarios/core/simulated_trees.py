"""One tree of runs under one schedule of the simulation: run, disturbed, and told as lines.

`python -m stageflow_lab.scenarios.core.simulated_trees CASE SEED` shows one again.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from stageflow import JournalError, Limits, Pipeline, Run, Runtime
from stageflow.journal.store import RUNNING, LoadedRun
from stageflow.model.marks import MarkCounts, counting
from stageflow.sim import Pct, RandomWalk, Sim, SimJournal, SimResult, trial

from .child_defects import applied
from .miswired_trees import miswired
from .pipeline_trees import Case, case_of
from .tree_log import TAKEN_OVER, Told, TreeLog, told_to
from .tree_machine import grown
from .tree_pipelines import INPUT, VIRTUAL, pipeline_of

RUN: Final = "root"
TARGET: Final = "none:none"
"""Of the pipeline: a run's header looks for none."""
STEPS_PER_STAGE: Final = 12
"""About how many choices a run makes for each of its stages."""
STEPS_MAX: Final = 200_000
BACK_S: Final = 0.1
"""Longer than any thread takes."""


@dataclass(frozen=True, slots=True)
class Order:
    """Trees that one process has to grow and run: `count` of them, from seed `first` on."""

    first: int
    count: int
    sabotage: str | None


@dataclass(slots=True)
class Explored:
    """What the trees of one order showed."""

    lines: Counter[str] = field(default_factory=Counter)
    shown_by: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Line to the first case and seed that showed it."""
    facts: Counter[str] = field(default_factory=Counter)
    marks: dict[str, int] = field(default_factory=dict)
    broken: list[tuple[str, int, str]] = field(default_factory=list)
    """(case, seed, what happened) of runs that no run may end in."""


def carried_out(order: Order) -> Explored:
    """All trees of the order."""
    found, marks = Explored(), MarkCounts()
    cases = grown(order.first, order.count)
    with applied(order.sabotage), counting(marks):
        for number, case in enumerate(cases):
            seed = order.first + number
            _add(found, case, seed, explored(case, seed))
            found.facts += miswired(case.tree, random.Random(seed))
    found.marks = marks.all()
    return found


def _add(found: Explored, case: Case, seed: int, result: SimResult[Told]) -> None:
    found.facts["trees"] += 1
    found.facts[f"{case.tree.depth} deep"] += 1
    text = case.text()
    if result.error is not None:
        error = f"{type(result.error).__name__}: {result.error}"
        found.broken.append((text, seed, error[:300]))
    elif result.leftover or result.unhandled:
        left = "; ".join((*result.leftover, *result.unhandled))
        found.broken.append((text, seed, left[:300]))
    if result.returned is not None:
        found.facts += result.returned.facts
        found.lines += result.returned.lines
        for line in result.returned.lines:
            found.shown_by.setdefault(line, (text, seed))


def explored(case: Case, seed: int) -> SimResult[Told]:
    """One schedule: seeds take turns between random walks and priority schedules of depth 3."""
    stages = sum(len(tree.nodes) for _, tree in case.tree.below())
    steps = STEPS_PER_STAGE * stages
    schedule = Pct(seed, depth=3, steps=steps) if seed % 2 else RandomWalk(seed)
    text = case.text().replace("{", "{{").replace("}", "}}")
    return trial(
        partial(disturbed, case=case, pipeline=pipeline_of(case.tree, VIRTUAL)),
        seed=seed,
        schedule=schedule,
        steps_max=STEPS_MAX,
        reproduce=f"python -m {__spec__.name} '{text}' {{seed}}",
    )


async def disturbed(sim: Sim, *, case: Case, pipeline: Pipeline[Any]) -> Told:
    """The run of a case, with its ending."""
    journal = SimJournal(sim) if case.journalled else None
    log = TreeLog(case.tree, owner="a")
    at_s = case.at * VIRTUAL.unit_s
    used = pipeline.using(
        run_id=RUN,
        target=TARGET,
        events=log,
        deadline=at_s if case.ending == "deadline" else None,
    )
    other: tuple[TreeLog, int] | None = None
    async with _runtime(sim, journal) as runtime:
        driver = runtime.begin(used, {"given": list(INPUT)})
        task = asyncio.create_task(told_to(log, driver.execute()))
        if case.ending == "handle":
            sim.loop.call_later(at_s, driver.cancel, "by_handle")
        elif case.ending == "caller":
            sim.loop.call_later(at_s, task.cancel)
        if journal is not None and case.taken_over:
            await asyncio.sleep(at_s)
            other = await _taken_over(sim, journal, case, pipeline)
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        await _threads_back(runtime)
    _end(log, result)
    kept = None if journal is None else await _loaded(journal, log, *(other or ())[:1])
    told = log.told(kept, pid=0 if journal is None else journal.owner.pid)
    if other is not None:
        told.facts[TAKEN_OVER] += 1
        survived, pid = other
        again = survived.told(kept, pid=pid)
        told.lines += again.lines
        told.facts += again.facts
    return told


async def _taken_over(
    sim: Sim, journal: SimJournal, case: Case, pipeline: Pipeline[Any]
) -> tuple[TreeLog, int] | None:
    """The owner looks dead, and another process goes on with the tree: its log and pid. None when
    it was over, or had not begun."""
    journal.kill("main")
    survivor = journal.as_owner("survivor")
    log = TreeLog(case.tree, owner="b")
    async with _runtime(sim, survivor) as runtime:
        try:
            before = await survivor.load(RUN)
            if before.status != RUNNING:
                return None
            run = await told_to(log, runtime.resume(RUN, pipeline=pipeline, events=[log]))
        except JournalError as error:
            if error.code != "journal.unknown_run":
                raise
            return None
        await _threads_back(runtime)
    log.end(run)
    return log, survivor.owner.pid


async def _loaded(journal: SimJournal, *logs: TreeLog) -> dict[str, LoadedRun]:
    runs = {run for log in logs for run in log.runs}
    return {run: await journal.load(run) for run in sorted(runs)}


async def _threads_back(runtime: Runtime) -> None:
    """Waits until the threads that attempts left behind are back and told what they gave."""
    while runtime.threads.stuck:  # noqa: ASYNC110 - a pool tells nobody of its idle threads
        await asyncio.sleep(VIRTUAL.unit_s)
    await asyncio.sleep(VIRTUAL.unit_s)


def _runtime(sim: Sim, journal: SimJournal | None) -> Runtime:
    runtime = Runtime(
        journal=journal, clock=sim.clock, limits=Limits(grace_s=VIRTUAL.grace_s, threads=1_000)
    )
    runtime.threads.simulated_s = partial(VIRTUAL.thread_s, sim.rng)
    return runtime


def _end(log: TreeLog, result: object) -> None:
    """Tells the log what the root's run shows. Raises what is no ending of a run."""
    if isinstance(result, Run):
        log.end(result)
    elif isinstance(result, JournalError) and result.code == "journal.stale_owner":
        return  # another owner has it
    elif not isinstance(result, asyncio.CancelledError):
        assert isinstance(result, BaseException)
        raise result


def main(arguments: list[str]) -> int:
    """Show the lines of one tree, and its trace hash."""
    text, seed = arguments
    result = explored(case_of(text), int(seed))
    lines = result.returned.lines if result.returned is not None else Counter[str]()
    shown = [f"{count} {line}\n" for line, count in sorted(lines.items())]
    sys.stdout.writelines([*shown, f"trace {result.trace_hash}\n"])
    if result.error is not None:
        raise result.error
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
