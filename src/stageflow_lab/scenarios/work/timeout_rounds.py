"""Rounds of thirty slow tools at once, simulated and under a real clock, and what was seen."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stageflow import Limits, Pipeline, Run, Runtime, work
from stageflow.journal.opening import opened
from stageflow.sim import RandomWalk, Sim, SimJournal, trial

from ...heap import still_heap
from .timeout_case import Case, Tool
from .timeout_hosts import CLEANED, HOST_TOOLS, PROCESS_TOOLS, is_alive, pids_of
from .timeout_journal import Waited, WatchedJournal
from .timeout_tools import LOOP_TOOLS, Make

KINDS: Final[Mapping[str, Make]] = {**LOOP_TOOLS, **HOST_TOOLS}
ROUND: Final = 30
REAL_TIMEOUT_S: Final = 1.5
REAL_GRACE_S: Final = 1.5
STUCK_MAX: Final = 2
STUCK_S: Final = 60.0
END_S: Final = 5.0
"""Within which an end that was told too early is written."""
LOOK_EVERY_S: Final = 0.02


@dataclass
class Seen:
    """Of one call. Times in seconds."""

    kind: str
    took_s: float
    limit_s: float
    """Deadline and grace period."""
    is_cleaned: bool
    produced: int
    kept: int
    """Of these, those that the account has, and the account read from the journal, too."""
    is_fine: bool
    """It was to end ok."""
    is_ok: bool
    over_budget: int
    """Tools below it that were given more time than what was left of its own."""
    budgets: int
    started: int = 0
    """Processes."""
    survived: int = 0
    told: str = ""
    opened_s: float = 0.0
    """Of `took_s`, until the run's beginning was durable and its stage could begin."""
    ends: list[tuple[float, float]] = field(default_factory=list)
    """From when until when the end of the run, and of each run below it, was written; on the clock
    of `took_s`."""
    is_durable: bool = False
    """The run's end was, when the caller had its answer."""


def simulated(seed: int) -> list[Seen] | str:
    """One round in virtual time; what broke it is told, not raised."""

    async def main(sim: Sim) -> list[Seen]:
        rng = random.Random(seed)
        names = [*LOOP_TOOLS, *rng.choices(list(LOOP_TOOLS), k=ROUND - len(LOOP_TOOLS))]
        rng.shuffle(names)
        grace_s = rng.uniform(0.5, 10.0)
        cases = [(name, Case(rng.uniform(0.5, 60.0), grace_s)) for name in names]
        journal = WatchedJournal(SimJournal(sim))
        async with Runtime(journal=journal, limits=_limits(grace_s)) as runtime:
            return await _round(runtime, journal, cases)

    result: Any = trial(main, seed=seed, schedule=RandomWalk(seed))
    if result.returned is None:
        return f"{type(result.error).__name__}: {result.error}".splitlines()[0]
    seen: list[Seen] = result.returned
    return seen


def real(seed: int, scratch: Path) -> list[Seen]:
    """One round under a real clock, with threads and child processes."""

    async def main() -> list[Seen]:
        names = list(KINDS)
        random.Random(seed).shuffle(names)
        cases = []
        for name in names:
            place = scratch / f"{seed}_{name}"
            place.mkdir()
            cases.append((name, Case(REAL_TIMEOUT_S, REAL_GRACE_S, place)))
        journal = WatchedJournal(opened(scratch / "runs.db"))
        async with Runtime(journal=journal, limits=_limits(REAL_GRACE_S)) as runtime:
            return await _round(runtime, journal, cases)

    with still_heap():  # what simulations left behind would be looked through at a bad moment
        return asyncio.run(main())


def _limits(grace_s: float) -> Limits:
    return Limits(grace_s=grace_s, threads=16, processes=len(PROCESS_TOOLS))


async def _round(
    runtime: Runtime, journal: WatchedJournal, cases: Sequence[tuple[str, Case]]
) -> list[Seen]:
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(_call(runtime, journal, name, case)) for name, case in cases]
    seen = [call.result() for call in calls]
    await _threads_back(runtime, max(case.hang_s for _, case in cases))
    for (_, case), each in zip(cases, seen, strict=True):
        each.is_cleaned = case.cleaned >= case.due
    return seen


async def _threads_back(runtime: Runtime, patience_s: float) -> None:
    """A thread cleans up when it comes back, and no sooner."""
    for _ in range(round(patience_s / LOOK_EVERY_S)):
        if not runtime.threads.stuck:
            return
        await asyncio.sleep(LOOK_EVERY_S)


async def _call(runtime: Runtime, journal: WatchedJournal, name: str, case: Case) -> Seen:
    tool = KINDS[name](case)
    is_process = name in PROCESS_TOOLS
    pipeline = Pipeline(
        "calls",
        [tool.stage],
        inputs={"place": str} if is_process else {},
        outputs=tool.stage,
    ).using(runtime=runtime)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    run = await pipeline.run(**({"place": str(case.place)} if is_process else {}))
    took_s = loop.time() - began_s
    is_durable = run.id in journal.waited(run.id).ends
    produced = tuple(case.produced)
    again = await runtime.result(run.id, pipeline=pipeline, wait_s=END_S)
    seen = _seen(name, case, tool, run, took_s)
    seen.is_durable = is_durable
    _tell_writing(seen, journal.waited(run.id), began_s)
    seen.produced = len(produced)
    seen.kept = min(_kept(produced, of.chunks(tool.stage).items) for of in (run, again))
    if is_process:
        _look_for_processes(case, seen)
    return seen


def _seen(name: str, case: Case, tool: Tool, run: Run[Any], took_s: float) -> Seen:
    pairs = list(itertools.pairwise(case.deadlines))
    return Seen(
        kind=name,
        took_s=took_s,
        limit_s=tool.limit_s + case.grace_s,
        is_cleaned=False,
        produced=0,
        kept=0,
        is_fine=tool.is_fine,
        is_ok=run.is_ok,
        over_budget=sum(inner > outer for outer, inner in pairs),
        budgets=len(pairs),
        told=f"{run.status} {run.reason}",
    )


def _tell_writing(seen: Seen, waited: Waited, began_s: float) -> None:
    given_s, durable_s = waited.opened
    seen.opened_s = durable_s - given_s
    seen.ends = [(start_s - began_s, end_s - began_s) for start_s, end_s in waited.ends.values()]


def _kept(produced: Sequence[int], items: Sequence[Any]) -> int:
    """How many are there, in their place."""
    return sum(one == other for one, other in zip(produced, items, strict=False))


def _look_for_processes(case: Case, seen: Seen) -> None:
    assert case.place is not None
    pids = pids_of(case.place)
    alive = [pid for pid in pids if is_alive(pid)]
    seen.started, seen.survived = len(pids), len(alive)
    if (case.place / CLEANED).exists():
        case.clean()
    for pid in alive:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


async def _stuck(seed: int) -> list[str]:
    """Why each of some calls failed, that one after another hold a thread for ever."""
    wait_s = 0.02 + random.Random(seed).random() / 50

    free = threading.Event()

    def body() -> str:
        free.wait(STUCK_S)
        return "late"

    made = work(name="tool", timeout=wait_s, keyed=True)(body)
    limits = Limits(threads=2 * STUCK_MAX, stuck_threads=STUCK_MAX, grace_s=wait_s)
    async with Runtime(limits=limits) as runtime:
        pipeline = Pipeline("blocks", [made], outputs=made).using(runtime=runtime)
        try:
            runs = [await pipeline.run() for _ in range(STUCK_MAX + 2)]
        finally:
            free.set()
    return [run.failures["tool"].reason for run in runs]


def stuck(seed: int) -> list[str]:
    """See `_stuck`; the first STUCK_MAX run out of time, the others are to be refused."""
    return asyncio.run(_stuck(seed))
