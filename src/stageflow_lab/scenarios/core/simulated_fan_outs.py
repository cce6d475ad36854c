"""One fan-out under one schedule of the simulation: run, disturbed, and told as lines.

`python -m stageflow_lab.scenarios.core.simulated_fan_outs WIDTH SEED` shows one again.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from math import isclose
from typing import Any, Final

from stageflow import JournalError, Limits, Pipeline, Run, Runtime
from stageflow.model.marks import MarkCounts, counting
from stageflow.sim import Pct, RandomWalk, Sim, SimJournal, SimResult, trial

from .bag_defects import applied
from .fan_out import (
    CANCELLED_AT_COMPLETION,
    OWNED_TWICE,
    VIRTUAL,
    KeyLog,
    Told,
    claims,
    fan_out,
    had_ended,
    told_to,
)
from .second_writers import append_again, put_again

RUN: Final = "r"
TARGET: Final = "none:none"
"""Of the pipeline: a run's header looks for none."""
JOURNALLED_SHARE: Final = 0.35
SPAN_S: Final = 0.002
STEPS_PER_NODE: Final = 6
"""About how many choices a run makes for each of its nodes."""
STEPS_MAX_PER_NODE: Final = 2_000


@dataclass(frozen=True, slots=True)
class Order:
    """Schedules that one process has to explore: `count` of them, from seed `first` on."""

    width: int
    first: int
    count: int
    sabotage: str | None


@dataclass(slots=True)
class Explored:
    """What the schedules of one order showed."""

    lines: Counter[str] = field(default_factory=Counter)
    """How many keys had each line."""
    seeds: dict[str, int] = field(default_factory=dict)
    """Line to the first seed that showed it."""
    facts: Counter[str] = field(default_factory=Counter)
    marks: dict[str, int] = field(default_factory=dict)
    broken: list[tuple[int, str]] = field(default_factory=list)
    """(seed, what happened) of schedules that no run may end in."""


def carried_out(order: Order) -> Explored:
    """All schedules of the order."""
    found, marks = Explored(), MarkCounts()
    with applied(order.sabotage), counting(marks):
        pipeline = fan_out(order.width, VIRTUAL)
        for seed in range(order.first, order.first + order.count):
            result = explored(order.width, seed, pipeline)
            _add(found, seed, result)
    found.marks = marks.all()
    return found


def _add(found: Explored, seed: int, result: SimResult[Told]) -> None:
    found.facts["schedules"] += 1
    if result.error is not None:
        found.broken.append((seed, f"{type(result.error).__name__}: {result.error}"[:300]))
    elif result.leftover or result.unhandled:
        found.broken.append((seed, "; ".join((*result.leftover, *result.unhandled))[:300]))
    if result.returned is not None:
        found.facts += result.returned.facts
        found.lines.update(result.returned.lines)
        for line in result.returned.lines:
            found.seeds.setdefault(line, seed)


def explored(width: int, seed: int, pipeline: Pipeline[Any]) -> SimResult[Told]:
    """One schedule: seeds take turns between random walks and priority schedules of depth 3."""
    steps = STEPS_PER_NODE * width
    schedule = Pct(seed, depth=3, steps=steps) if seed % 2 else RandomWalk(seed)
    return trial(
        partial(disturbed, width=width, pipeline=pipeline),
        seed=seed,
        schedule=schedule,
        steps_max=STEPS_MAX_PER_NODE * width,
        reproduce=f"python -m {__spec__.name} {width} {{seed}}",
    )


async def disturbed(sim: Sim, *, width: int, pipeline: Pipeline[Any]) -> Told:
    """A run that is cancelled, times out, meets second writers, or loses its owner; or none of
    these."""
    told = Told()
    rng = sim.rng
    journal = SimJournal(sim) if rng.random() < JOURNALLED_SHARE else None
    kinds, weights = ("none", "handle", "caller", "deadline"), (6, 2, 1, 1)
    (ending,) = rng.choices(kinds, weights)
    taken_over = journal is not None and ending == "none" and rng.random() < 0.6
    log = KeyLog(width, owner="a", rng=rng, pace=VIRTUAL, now=sim.now)
    instant = _instant(rng)
    used = pipeline.using(
        run_id=RUN,
        target=TARGET,
        events=log,
        deadline=instant if ending == "deadline" else None,
    )
    async with _runtime(sim, journal, rng) as runtime:
        driver = runtime.begin(used, {"x": 1})
        task = asyncio.create_task(told_to(log, driver.execute()))
        if ending == "handle":
            sim.loop.call_later(instant, driver.cancel, "by_handle")
        elif ending == "caller":
            sim.loop.call_later(instant, task.cancel)
        second = asyncio.create_task(_second_writer(sim, driver, journal, log))
        other: Told | None = None
        if journal is not None and taken_over:
            await asyncio.sleep(_instant(rng) * 4)
            other = await _taken_over(sim, journal, log, pipeline)
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        await second
        await _threads_back(runtime)
        run = result if isinstance(result, Run) else None
        status = _status(result)
        log.end(driver.snapshot(), run)
        told.facts[f"ended {status}"] += 1
        told.facts += log.befell
        if status in ("cancelled", "failed") and ending != "none":
            told.facts[f"cancelled by {ending}"] += 1
            told.facts[CANCELLED_AT_COMPLETION] += any(
                isclose(at, instant, abs_tol=1e-9) for at in log.times
            )
        if journal is None and status == "ok":
            told.facts["timed"] += 1
            told.facts["within_2ms"] += log.times[-1] - log.times[0] <= SPAN_S
            told.facts["ties"] += len(log.times) - len(set(log.times))
    if other is not None:
        told.facts += other.facts
        told.lines += other.lines
        # Told by its journal, a run that lost its owner has ended there; here it is over.
        told.facts["stale_raised"] += status == "dead"
        told.lines += log.lines(f"{status}/{'journal' if status == 'dead' else 'memory'}")
    elif journal is None:
        told.lines += log.lines(f"{status}/memory")
    else:
        log.keep(await journal.load(RUN))
        told.lines += log.lines(f"{status}/journal")
    return told


async def _second_writer(sim: Sim, driver: Any, journal: SimJournal | None, log: KeyLog) -> None:
    """Tries the bag once, and the journal when there is one."""
    await asyncio.sleep(_instant(sim.rng) * (1 if journal is None else 3))
    put_again(driver, log, sim.rng)
    if journal is not None:
        await append_again(journal, RUN, driver.bag.epoch, log, sim.rng)


async def _taken_over(
    sim: Sim, journal: SimJournal, first: KeyLog, pipeline: Pipeline[Any]
) -> Told | None:
    """The run's owner looks dead, and another process goes on with the run. None when there was
    nothing to take over yet."""
    log = KeyLog(len(first.written), owner="b", rng=sim.rng, pace=VIRTUAL, now=sim.now)
    journal.kill("main")
    survivor = journal.as_owner("survivor")
    told = Told()
    async with _runtime(sim, survivor, sim.rng) as runtime:
        try:
            run = await told_to(log, runtime.resume(RUN, pipeline=pipeline, events=[log]))
        except JournalError as error:
            if error.code != "journal.unknown_run":
                raise
            return None
        await _threads_back(runtime)
    loaded = await survivor.load(RUN)
    claimed = claims(loaded)
    log.inherit(loaded, until=claimed[0].seq if claimed else len(loaded.records))
    log.end(run.snapshot, run)
    log.keep(loaded)
    told.facts += log.befell
    told.facts[OWNED_TWICE] += bool(claimed) and not had_ended(loaded, claimed[0])
    told.lines += log.lines(f"{run.status}/journal")
    return told


async def _threads_back(runtime: Runtime) -> None:
    """Waits until the threads that attempts left behind are back and told what they gave."""
    while runtime.threads.stuck:  # noqa: ASYNC110 - a pool tells nobody of its idle threads
        await asyncio.sleep(VIRTUAL.unit_s)
    await asyncio.sleep(VIRTUAL.unit_s)


def _runtime(sim: Sim, journal: SimJournal | None, rng: random.Random) -> Runtime:
    runtime = Runtime(
        journal=journal, clock=sim.clock, limits=Limits(grace_s=VIRTUAL.grace_s, threads=1_000)
    )
    runtime.threads.simulated_s = partial(VIRTUAL.thread_s, rng)
    return runtime


def _instant(rng: random.Random) -> float:
    """A moment at which stages end as well."""
    return rng.randint(1, VIRTUAL.calm_units) * VIRTUAL.unit_s


def _status(result: object) -> str:
    """How a run ended: `dead` when it lost its owner. Raises what is no ending."""
    if isinstance(result, Run):
        return result.status
    if isinstance(result, asyncio.CancelledError):
        return "cancelled"
    if isinstance(result, JournalError) and result.code == "journal.stale_owner":
        return "dead"
    assert isinstance(result, BaseException)
    raise result


def main(arguments: list[str]) -> int:
    """Show the lines of one schedule, and its trace hash."""
    width, seed = (int(each) for each in arguments)
    result = explored(width, seed, fan_out(width, VIRTUAL))
    lines: Iterable[str] = result.returned.lines if result.returned is not None else ()
    sys.stdout.writelines(f"{line}\n" for line in (*lines, f"trace {result.trace_hash}"))
    if result.error is not None:
        raise result.error
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
