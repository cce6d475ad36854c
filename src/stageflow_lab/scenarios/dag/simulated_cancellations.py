"""Cancellations and timeouts at every step of generated pipelines, in virtual time.

A pipeline first runs undisturbed under a seed, which gives its steps, their times and its values.
The same seed then makes the same run up to the step where the injection comes: between two steps
everything is suspended somewhere, so all steps together are all suspension points.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from stageflow import Dep, Event, JournalError, Limits, Pipeline, Run, Runtime, Subscription
from stageflow.sim import DiskFaults, Pct, RandomWalk, Schedule, Sim, SimJournal, trial

from .cancellable_pipelines import Blueprint, Ledger, build, desk
from .cancellation_facts import (
    HUNG,
    MODES,
    Facts,
    Mode,
    Timeline,
    changed,
    miscleaned,
    open_handles,
    unnamed,
)

GRACE_S: Final = 0.25
SOON_S: Final = 0.000_25
"""A deadline before anything else takes time."""
LAST_STEPS: Final = 8
PCT_DEPTH: Final = 3
INPUTS: Final = {"start": "start", "folder": ""}
_RUN: Final = "root"
_AGAIN_STEPS: Final = 12
"""A second cancellation comes at most so many steps after the first."""


@dataclass(frozen=True, slots=True)
class Injection:
    """What is done to a run, and when."""

    mode: Mode
    step: int
    again_steps: int = 0
    """caller_twice: steps between the two cancellations."""
    after_s: float = 0.0
    """deadline, branch: seconds from the start of the run or the stage."""
    target: str = ""
    """branch: the stage that times out."""


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """A run without injection: what others of the same seed are compared with."""

    times_s: tuple[float, ...]
    """Virtual time at each step."""
    timeline: Timeline
    values: dict[str, Any]


class SimulatedPipeline:
    """One blueprint under one seed, with or without a journal on a simulated disk."""

    def __init__(self, plan: Blueprint, *, seed: int, journalled: bool) -> None:
        self.plan = plan
        self.seed = seed
        self.journalled = journalled
        self._pipeline = build(plan)
        self._names = frozenset(placed.name for placed in plan.stages)
        steps = len(self._undisturbed(RandomWalk(seed)).times_s)
        self._schedule: Schedule = (
            Pct(seed, depth=PCT_DEPTH, steps=steps) if seed % 2 else RandomWalk(seed)
        )
        self.undisturbed = self._undisturbed(self._schedule)

    def injections(self, rng: random.Random, count: int) -> Iterator[Injection]:
        """`count` injections, modes in turn, steps spread evenly over the run."""
        strata = -(-count // len(MODES))
        moments_s = sorted({s for s in self.undisturbed.times_s if s > 0}) or [SOON_S]
        for number in range(count):
            mode, stratum = MODES[number % len(MODES)], number // len(MODES)
            step = self._step(rng, stratum, strata)
            if mode == "deadline":
                after_s = SOON_S if stratum == 0 else rng.choice(moments_s)
                yield Injection(mode, step, after_s=after_s)
            elif mode == "branch":
                yield self._branch(rng, step)
            else:
                again = rng.randint(1, _AGAIN_STEPS) if mode == "caller_twice" else 0
                yield Injection(mode, step, again_steps=again)

    def _step(self, rng: random.Random, stratum: int, strata: int) -> int:
        """A step out of the given stratum; out of the run's last steps for the last stratum, since
        ends are where cancellations get lost."""
        steps = len(self.undisturbed.times_s)
        if stratum == strata - 1:
            return rng.randint(max(0, steps - LAST_STEPS), steps)
        low = steps * stratum // strata
        return rng.randint(low, max(low, steps * (stratum + 1) // strata - 1))

    def _branch(self, rng: random.Random, step: int) -> Injection:
        """A timeout at a time at which something happens while the stage waits."""
        timeline = self.undisturbed.timeline
        lasting = [
            name
            for name in sorted(self._names)
            if timeline.ended_s[name] > timeline.started_s[name]
        ]
        if not lasting:
            return Injection("branch", step)
        target = rng.choice(lasting)
        start_s, end_s = timeline.started_s[target], timeline.ended_s[target]
        moments_s = sorted({s for s in self.undisturbed.times_s if start_s < s <= end_s})
        # Most often, between what happens: at the very end the stage may be in time after all.
        moments_s = moments_s[:-1] or moments_s
        after_s = (rng.choice(moments_s) - start_s) * rng.choice((1.0, 1.0, 0.5))
        return Injection("branch", step, after_s=after_s, target=target)

    def _undisturbed(self, schedule: Schedule) -> Undisturbed:
        times_s: list[float] = []

        async def main(sim: Sim) -> Undisturbed:
            def tick() -> None:
                times_s.append(sim.now())
                sim.at_step(len(times_s), tick)

            tick()
            async with self._runtime(sim, Ledger()) as runtime:
                events = Subscription()
                run = await self._with_options(self._pipeline, runtime, events).run(**INPUTS)
                steps = len(times_s)
                values = {name: run[name] for name in sorted(self._names)}
                timeline = Timeline.of(events.drain(), _RUN)
                return Undisturbed(tuple(times_s[:steps]), timeline, values)

        return trial(main, seed=self.seed, schedule=schedule).value

    def _runtime(self, sim: Sim, ledger: Ledger) -> Runtime:
        # The disk takes steps, not time: the row's bound is on the grace, not on a disk.
        disk = sim.disk(faults=DiskFaults(fsync_s=(0.0, 0.0)))
        return Runtime(
            journal=SimJournal(sim, disk) if self.journalled else None,
            deps={"ledger": ledger, "desk": Dep(lambda: desk(ledger), scope="run")},
            limits=Limits(grace_s=GRACE_S),
            clock=sim.clock,
        )

    def _with_options(
        self,
        pipeline: Pipeline[Any],
        runtime: Runtime,
        events: Subscription,
        deadline_s: float | None = None,
    ) -> Pipeline[Any]:
        return pipeline.using(
            runtime=runtime, events=events, run_id=_RUN, seed=self.seed, deadline=deadline_s
        )

    # -- one injection -----------------------------------------------------------------------

    def facts(self, injection: Injection) -> Facts:
        """Runs the pipeline once more with the injection and reads what it showed."""
        if injection.mode == "branch" and not injection.target:
            return Facts(fired=False)

        async def main(sim: Sim) -> Facts:
            ledger, events = Ledger(), Subscription()
            async with self._runtime(sim, ledger) as runtime:
                seen = await self._disturbed(sim, injection, runtime, events)
                alive = asyncio.all_tasks() - {asyncio.current_task()}
                seen.tasks = tuple(sorted(f"task {task.get_name()}" for task in alive))
                seen.ended_s = sim.now()
                seen.events += events.drain()
                if self.journalled:
                    await seen.load(runtime)
            return self._read(injection, seen, ledger, [name for _, name in runtime.quarantined])

        result = trial(main, seed=self.seed, schedule=self._schedule)
        if result.error is not None:
            # Stuck, endless, or the engine's own failure: nothing of the run can be trusted.
            said = f"{type(result.error).__name__}: {result.error}".splitlines()[0]
            return Facts(fired=True, swallowed=(said,), overshoot=HUNG)
        return result.value

    async def _disturbed(
        self, sim: Sim, injection: Injection, runtime: Runtime, events: Subscription
    ) -> _Seen:
        seen = _Seen()
        if injection.mode == "branch":
            limited = build(self.plan, timeouts_s={injection.target: injection.after_s})
            seen.run = await self._with_options(limited, runtime, events).run(**INPUTS)
            return seen
        if injection.mode == "deadline":
            limited = self._with_options(self._pipeline, runtime, events, injection.after_s)
            seen.run = await limited.run(**INPUTS)
            return seen

        pipeline = self._with_options(self._pipeline, runtime, events)
        if injection.mode == "handle":
            handle = pipeline.start(**INPUTS)

            def inject_by_handle() -> None:
                seen.inject(handle.done, handle.cancel, sim, events)

            sim.at_step(injection.step, inject_by_handle)
            seen.run = await handle
            return seen
        task = asyncio.create_task(pipeline.run(**INPUTS))

        def inject() -> None:
            seen.inject(task.done(), task.cancel, sim, events)

        sim.at_step(injection.step, inject)
        if injection.mode == "caller_twice":
            sim.at_step(injection.step + injection.again_steps, inject)
        await asyncio.wait([task])
        seen.was_cancelled = task.cancelled()
        seen.run = None if task.cancelled() else task.result()
        return seen

    def _read(
        self, injection: Injection, seen: _Seen, ledger: Ledger, quarantined: list[str]
    ) -> Facts:
        timeline = Timeline.of(seen.events, _RUN)
        siblings = self._names - self.plan.dependants(injection.target) if injection.target else ()
        if injection.mode == "deadline":
            seen.before = timeline.ok_before(injection.after_s)
        finished = siblings or seen.before
        lost = seen.missing(finished, self.undisturbed.values)
        return Facts(
            fired=self._fired(injection, seen, timeline),
            orphans=(*seen.tasks, *open_handles(ledger)),
            scopes=len(ledger.scopes),
            miscleaned=miscleaned(ledger),
            swallowed=tuple(self._swallowed(injection, seen, timeline)),
            overshoot=_overshoot(injection, seen, timeline),
            finished=len(finished) if lost is not None and not siblings else 0,
            lost=lost or () if not siblings else (),
            siblings=len(siblings),
            harmed=lost or () if siblings else (),
            ignoring=len({who.partition(".")[0] for who in ledger.ignoring}),
            unnamed=unnamed(ledger, quarantined),
        )

    def _fired(self, injection: Injection, seen: _Seen, timeline: Timeline) -> bool:
        """Whether there was something left to cancel, or to time out."""
        match injection.mode:
            case "branch":
                return timeline.duration_s(injection.target) > injection.after_s
            case "deadline":
                return timeline.last_s > injection.after_s or timeline.ok != self._names
            case "handle":
                return seen.injected_s is not None and seen.before != self._names
            case _:  # a caller must hear of its cancellation even when the run is over
                return seen.injected_s is not None

    def _swallowed(self, injection: Injection, seen: _Seen, timeline: Timeline) -> Iterator[str]:
        """Every trace of a cancellation or a timeout that somebody took for something else."""
        status = None if seen.run is None else seen.run.status
        if injection.mode == "branch":
            if injection.target in timeline.ok:
                yield f"{injection.target} is ok after its timeout"
            return
        if injection.mode.startswith("caller"):
            if seen.injected_s is not None and not seen.was_cancelled:
                yield f"run() returned {status} to a caller that was cancelled"
            expected = "cancelled"
            if timeline.ok == self._names and timeline.last_s <= (seen.injected_s or 0.0):
                return  # the run was done before the caller heard of its cancellation
        else:
            expected = "failed" if injection.mode == "deadline" else "cancelled"
            if status != expected:
                yield f"the run is {status}, not {expected}"
        if seen.journal_status not in (None, expected):
            yield f"the journal says {seen.journal_status}, not {expected}"


@dataclass(slots=True)
class _Seen:
    """What one disturbed run left to be read."""

    run: Run[Any] | None = None
    was_cancelled: bool = False
    """The task that awaited `run()` ended with CancelledError."""
    injected_s: float | None = None
    """Virtual time of the first cancellation; None when the run was over before it."""
    before: frozenset[str] = frozenset()
    """Stages that had ended well by then."""
    ended_s: float = 0.0
    tasks: tuple[str, ...] = ()
    events: list[Event] = field(default_factory=list)
    journal_status: str | None = None
    """None without a journal, or when the run never got into it."""
    journal_ok: frozenset[str] | None = None
    """Stages whose accepted value the journal holds."""

    def inject(
        self, is_done: bool, cancel: Callable[[], object], sim: Sim, events: Subscription
    ) -> None:
        """Cancels what is not done, and keeps what had happened until then."""
        if is_done:
            return
        if self.injected_s is None:
            self.injected_s = sim.now()
            self.events += events.drain()
            self.before = Timeline.of(self.events, _RUN).ok
        cancel()

    async def load(self, runtime: Runtime) -> None:
        """Reads what the journal holds of the run."""
        try:
            loaded = await runtime.load(_RUN)
        except JournalError as error:
            if error.code != "journal.unknown_run":
                raise
            return
        self.journal_status = loaded.status
        self.journal_ok = frozenset(
            record.node
            for record in loaded.records
            if record.node is not None and record.data.get("accepted")
        )

    def missing(self, names: Collection[str], values: Mapping[str, Any]) -> tuple[str, ...] | None:
        """Those of `names` without their value, in the run or the journal; None: neither is there
        to be looked at, because a cancelled caller gets no run."""
        if self.run is not None:
            return changed(self.run, values, names)
        if self.journal_ok is not None:
            return tuple(sorted(frozenset(names) - self.journal_ok))
        return None


def _overshoot(injection: Injection, seen: _Seen, timeline: Timeline) -> float:
    """From the cancellation, deadline or timeout to the end, as a multiple of the grace period."""
    if injection.mode == "branch":
        late_s = timeline.duration_s(injection.target) - injection.after_s
        # What the stage left behind is ended with the run, once the other stages are done.
        late_s = max(late_s, seen.ended_s - timeline.last_s)
    elif injection.mode == "deadline":
        late_s = seen.ended_s - injection.after_s
    else:
        late_s = 0.0 if seen.injected_s is None else seen.ended_s - seen.injected_s
    return round(late_s / GRACE_S, 6)
