"""Cancellation and timeouts: 200 generated pipelines, cancelled everywhere they can be suspended.

What real systems get wrong: `asyncio.wait_for` before Python 3.12 loses a cancellation that meets
a result (CPython gh-86296); a cancelled parent does not wait for what it started; an async
generator's cleanup runs elsewhere, later or never (PEP 789); a second cancellation cuts the
cleanup of the first.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from stageflow.runtime import attempt, driver
from stageflow.scheduler import Action, scheduler
from stageflow_lab import (
    History,
    Judgement,
    Measured,
    Metric,
    Scenario,
    Sizes,
    World,
    counted,
    patched,
    sabotage,
    share,
)

from .cancellable_pipelines import REAL_SHAPES, Blueprint, blueprint
from .cancellation_facts import MODES, Sums
from .real_cancellations import planned, run_all
from .simulated_cancellations import SimulatedPipeline

PROCESS_SHARE: Final = 0.1
"""Of the real pipelines: child processes start slowly, and their start is not what is measured."""
JOURNALLED_EVERY: Final = 4
COLLECT_EVERY: Final = 4


def load(world: World) -> History:
    """Injects into simulated runs first, then into real ones."""
    history = History(world.size)
    with _quiet_loops():
        _simulate(world, history)
        _run_real(world, history)
    return history


def _simulate(world: World, history: History) -> None:
    pipelines, schedules, points = (
        world.size[name] for name in ("pipelines", "schedules", "points")
    )
    sums = Sums("sim", history)
    total = pipelines * schedules * points
    for number in range(pipelines):
        plan = blueprint(random.Random(world.seed_for("plan", number)), f"p{number}")
        for schedule in range(schedules):
            seed = world.seed_for("sim", number, schedule)
            under_test = SimulatedPipeline(
                plan, seed=seed, journalled=(number + schedule) % JOURNALLED_EVERY == 0
            )
            rng = random.Random(world.seed_for("points", number, schedule))
            for injection in under_test.injections(rng, points):
                story = f"{plan.name}, schedule {schedule}, {injection}"
                sums.add(injection.mode, under_test.facts(injection), story)
        if number % COLLECT_EVERY == 0:
            # Simulations collect only what they made themselves, and asyncio walks all tasks.
            gc.collect()
        world.progress((number + 1) * schedules * points, total, "simulated injections")
    sums.write()


def _run_real(world: World, history: History) -> None:
    rng = random.Random(world.seed_for("real"))
    count = world.size["real"]
    plans = [_real_plan(rng, number) for number in range(min(count, world.size["real_pipelines"]))]
    sums = Sums("real", history)
    folder = world.scratch / "real"
    folder.mkdir()
    made = 0

    def done(each: Any, facts: Any) -> None:
        nonlocal made
        made += 1
        sums.add(each.mode, facts, each.story)
        world.progress(made, count, "real injections")

    injections = list(planned(plans, count, rng))
    run_all(injections, lanes=world.size["lanes"], folder=folder, done=done)
    sums.write()


def _real_plan(rng: random.Random, number: int) -> Blueprint:
    """Every tenth pipeline has a stage in a child process, the others have none."""
    wanted = number % round(1 / PROCESS_SHARE) == 0
    while True:
        plan = blueprint(rng, f"r{number}", shapes=REAL_SHAPES)
        if plan.uses("crunches") == wanted:
            return plan


@contextmanager
def _quiet_loops() -> Iterator[None]:
    """Tasks that stages leave behind fail unheard, and asyncio would log each."""
    logger = logging.getLogger("asyncio")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


# -- check ---------------------------------------------------------------------------------------


def check(history: History) -> Judgement:
    """Sums over both engines; overshoot in virtual time at most, on the real loop as P99."""
    sums = {
        (event.data["engine"], event.data["mode"]): event.data for event in history.of("injections")
    }
    idle = [
        f"{engine} {mode}"
        for engine in ("sim", "real")
        for mode in MODES
        if not sums.get((engine, mode), {}).get("fired")
    ]

    def total(name: str, engine: str | None = None) -> int:
        return int(sum(each[name] for (of, _), each in sums.items() if engine in (None, of)))

    fired = total("fired")
    scopes, siblings = total("scopes"), total("siblings")
    finished, ignoring = total("finished"), total("ignoring")
    ratios = [ratio for event in history.of("overshoots") for ratio in event.data["ratios"]]
    latest = max((each["overshoot"] for (of, _), each in sums.items() if of == "sim"), default=0.0)
    return Judgement(
        {
            "orphans": counted(total("orphans"), fired),
            "cleanups_once": share(scopes - total("miscleaned"), scopes),
            "swallowed": counted(total("swallowed"), fired),
            "virtual_overshoot": Measured(latest, n=total("fired", "sim")),
            "real_p99": _p99(ratios),
            "siblings_intact": share(siblings - total("harmed"), siblings),
            "finished_kept": share(finished - total("lost"), finished),
            "ignoring_named": share(ignoring - total("unnamed"), ignoring),
            "injected_sim": total("injected", "sim"),
            "injected_real": total("injected", "real"),
        },
        unknown=f"no injection fired: {', '.join(idle)}" if idle else None,
        notes=tuple(_told(event.data) for event in history.of("example")),
    )


def _p99(ratios: list[float]) -> Measured:
    """The 99th percentile by nearest rank."""
    if not ratios:
        return Measured(0.0, n=0)
    ordered = sorted(ratios)
    rank = -(-99 * len(ordered) // 100)
    return Measured(ordered[rank - 1], n=len(ordered), note=f"highest {ordered[-1]:.3f}")


def _told(example: Mapping[str, Any]) -> str:
    wrong = "; ".join(f"{kind}: {', '.join(what)}" for kind, what in example["wrong"].items())
    return f"{example['engine']} {example['story']}: {wrong or 'late'} (overshoot " + (
        f"{example['overshoot']:.3f})"
    )


# -- sabotages -----------------------------------------------------------------------------------


@sabotage(metric="swallowed")
def wait_for_of_python_3_11() -> Iterator[None]:
    """The driver waits for the end of a run as asyncio.wait_for did before Python 3.12: when the
    end and the caller's cancellation meet, the result is returned and the cancellation is lost."""

    async def woken(self: driver.Driver) -> None:
        self.waiter = inner = self.loop.create_future()
        outer = self.loop.create_future()
        inner.add_done_callback(lambda _: None if outer.done() else outer.set_result(None))
        try:
            await outer
        except asyncio.CancelledError:
            if not inner.done():
                raise

    with patched(driver.Driver, "_woken", woken):
        yield


@sabotage(metric="orphans")
def children_not_awaited() -> Iterator[None]:
    """A cancelled run asks its child runs to end and does not wait until they have."""

    async def settled(self: driver.Driver, tasks: Collection[asyncio.Task[Any]]) -> None:
        return None

    with patched(driver.Driver, "settled", settled):
        yield


@sabotage(metric="virtual_overshoot")
def grace_without_end() -> Iterator[None]:
    """A stage that ignores its cancellation is waited for as long as it likes."""
    with patched(attempt.Attempt, "kill", lambda self: None):
        yield


@sabotage(metric="cleanups_once")
def killed_without_cleanup() -> Iterator[None]:
    """What does not end in time is dropped where it stands, and its cleanup never runs."""
    with patched(attempt.Attempt, "close", lambda self: None):
        yield


@sabotage(metric="siblings_intact")
def isolation_ignored() -> Iterator[None]:
    """A stage that fails ends the whole run although it is isolated."""
    original = scheduler.Scheduler._fail

    def fail(self: scheduler.Scheduler, node: int, reason: str, actions: list[Action]) -> None:
        original(self, node, reason, actions)
        self._stop("failed", reason, actions)

    with patched(scheduler.Scheduler, "_fail", fail):
        yield


SCENARIO = Scenario(
    row="DAG-009",
    claim="cancelling at any suspension point leaves no orphan task, thread, process or handle, "
    "runs each cleanup once, and keeps finished results.",
    sizes=Sizes(
        quick={
            "pipelines": 200,
            "schedules": 1,
            "points": 25,
            "real": 200,
            "real_pipelines": 40,
            "lanes": 8,
        },
        full={
            "pipelines": 200,
            "schedules": 100,
            "points": 25,
            "real": 2_000,
            "real_pipelines": 200,
            "lanes": 8,
        },
        fixed=("schedules", "points", "lanes", "real_pipelines"),
        totals={"injections": "pipelines * schedules * points"},
    ),
    metrics=(
        Metric(
            "orphans",
            "==",
            0,
            "tasks, threads, processes, handles",
            doc="what is alive when the cancelled run has returned",
        ),
        Metric(
            "cleanups_once",
            "==",
            1.0,
            doc="scopes entered whose cleanup began exactly once, and was not cut off by a second "
            "cancellation; all is 100%",
        ),
        Metric(
            "swallowed",
            "==",
            0,
            "cancellations",
            doc="a run, a caller, a journal or a stage that ended as if nothing had happened",
        ),
        Metric(
            "virtual_overshoot",
            "<=",
            1.0,
            "of the grace period",
            doc="longest virtual time from the cancellation or deadline to the end",
        ),
        Metric(
            "real_p99",
            "<=",
            1.2,
            "of (deadline + grace)",
            doc="99th percentile of the time from start to end on a real loop; the floor is a bare "
            "timer of that length, set at the same moment",
        ),
        Metric(
            "siblings_intact",
            "==",
            1.0,
            doc="stages that do not depend on a branch that timed out, with their own value",
        ),
        Metric(
            "finished_kept",
            "==",
            1.0,
            doc="results that were there before the injection and are there afterwards",
        ),
        Metric(
            "ignoring_named",
            "==",
            1.0,
            doc="stages that ignored their cancellation and are named as quarantined",
        ),
        Metric("injected_sim", ">=", 5_000, "injections", gate=False),
        Metric("injected_real", ">=", 200, "injections", gate=False),
    ),
    faults=MODES,
    marks=("attempt_killed", "attempt_quarantined", "run_cancelled"),
    sabotages=(
        wait_for_of_python_3_11,
        children_not_awaited,
        grace_without_end,
        killed_without_cleanup,
        isolation_ignored,
    ),
    load=load,
    check=check,
)
