"""Cancellations and timeouts of generated pipelines on ordinary event loops, threads, processes.

Several lanes run side by side, each a thread with an event loop of its own, so that the tasks a
run leaves behind are told apart from those of other runs. The floor of every duration is a bare
timer, set at the same moment on a loop that runs nothing else.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stageflow import Dep, Event, Limits, Pipeline, Run, Runtime, Subscription

from .cancellable_pipelines import Blueprint, Ledger, build, desk
from .cancellation_facts import (
    HUNG,
    MODES,
    Facts,
    Mode,
    Timeline,
    miscleaned,
    open_handles,
    unnamed,
)

GRACE_S: Final = 0.5
DELAY_S: Final = (0.005, 0.06)
"""When the injection comes, in seconds after the start: most pipelines take about as long."""
AGAIN_S: Final = 0.003
"""caller_twice: the time between the two cancellations."""
END_S: Final = 20.0
"""A run that is not over so long after its injection never will be."""
BACK_S: Final = 2.0
"""By when a thread that ignored its cancellation must have given its place back."""
PART: Final = (0.1, 0.45)
"""A timeout of a stage, as a part of what the stage waits: every shape waits at least half."""
SLOW_S: Final = (0.02, 0.6)
"""The same for pipelines that start a child process, which takes its time."""
_RUN: Final = "root"


@dataclass(frozen=True, slots=True)
class Planned:
    """One injection to be made."""

    number: int
    plan: Blueprint
    mode: Mode
    delay_s: float
    target: str
    """branch: the stage whose timeout `delay_s` is."""

    @property
    def story(self) -> str:
        """Which injection it was."""
        return f"{self.plan.name}, {self.mode} after {self.delay_s:.4f} s {self.target}".rstrip()


def planned(plans: Sequence[Blueprint], count: int, rng: random.Random) -> Iterator[Planned]:
    """`count` injections over the pipelines, modes in turn."""
    for number in range(count):
        plan = plans[number % len(plans)]
        mode = MODES[(number + number // len(plans)) % len(MODES)]
        delay_s = rng.uniform(*(SLOW_S if plan.uses("crunches") else DELAY_S))
        target = ""
        lasting = [placed for placed in plan.stages if sum(placed.waits_s) > 0]
        if mode == "branch" and lasting:
            placed = rng.choice(lasting)
            target, delay_s = placed.name, sum(placed.waits_s) * rng.uniform(*PART)
        yield Planned(number, plan, mode, delay_s, target)


def run_all(
    injections: Sequence[Planned],
    *,
    lanes: int,
    folder: Path,
    done: Callable[[Planned, Facts], None],
) -> None:
    """Makes the injections on `lanes` event loops; `done` is called as each is judged.

    After a run that does not end there are no further ones: it has decided, and costs its lane.
    """
    waiting = list(reversed(injections))
    lock = threading.Lock()

    async def lane(timers: BareTimers) -> None:
        while True:
            with lock:
                if not waiting:
                    return
                each = waiting.pop()
            own = folder / str(each.number)
            own.mkdir()
            facts = await _facts(each, own, timers)
            with lock:
                done(each, facts)
                if facts.overshoot >= HUNG:
                    waiting.clear()

    with BareTimers() as timers, ThreadPoolExecutor(lanes, thread_name_prefix="lane") as pool:
        for ended in [pool.submit(_on_a_loop, lane(timers)) for _ in range(lanes)]:
            ended.result()


def _on_a_loop(lane: Coroutine[Any, Any, None]) -> None:
    # Not asyncio.run, which waits for every task: one that never ends is what may be found here.
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(lane)
    finally:
        loop.close()


class BareTimers:
    """An event loop in a thread of its own on which timers run, and nothing else."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bare timers")

    def __enter__(self) -> BareTimers:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def begin(self, wait_s: float) -> Future[float]:
        """Sets a timer; the future tells how many seconds it really took."""
        began_s = time.monotonic()
        took: Future[float] = Future()

        def due() -> None:
            took.set_result(time.monotonic() - began_s)

        self._loop.call_soon_threadsafe(self._loop.call_later, wait_s, due)
        return took


async def _facts(each: Planned, folder: Path, timers: BareTimers) -> Facts:
    ledger, events = Ledger(is_real=True), Subscription()
    runtime = Runtime(
        deps={"ledger": ledger, "desk": Dep(lambda: desk(ledger), scope="run")},
        limits=Limits(grace_s=GRACE_S),
    )
    timeouts_s = {each.target: each.delay_s} if each.target else None
    pipeline = build(each.plan, timeouts_s=timeouts_s).using(
        runtime=runtime,
        events=events,
        run_id=_RUN,
        deadline=each.delay_s if each.mode == "deadline" else None,
    )
    bare = timers.begin(each.delay_s + GRACE_S)
    seen = _Seen(started_s=time.monotonic())
    own = {asyncio.current_task()}
    inputs = {"start": "start", "folder": str(folder)}
    watched = asyncio.create_task(seen.watch(each, pipeline, inputs, events))
    await asyncio.wait([watched], timeout=each.delay_s + END_S)
    if not watched.done():
        return Facts(fired=True, swallowed=("the run never ended",), overshoot=HUNG)
    watched.result()
    seen.took_s = time.monotonic() - seen.started_s
    seen.bare_s = await asyncio.wrap_future(bare) if seen.took_s > each.delay_s + GRACE_S else 0.0
    tasks = [f"task {task.get_name()}" for task in asyncio.all_tasks() - own]
    quarantined = [name for _, name in runtime.quarantined]
    orphans = (*tasks, *_silent(open_handles(ledger), quarantined))
    late = await _never_back(runtime, ledger)
    await runtime.aclose()
    timeline = Timeline.of([*seen.events, *events.drain()], _RUN)
    names = frozenset(placed.name for placed in each.plan.stages)
    siblings = names - each.plan.dependants(each.target) if each.target else frozenset[str]()
    if each.mode == "deadline":
        seen.before = timeline.ok_before(seen.started_s + each.delay_s)
    return Facts(
        fired=seen.fired(each, timeline, names),
        orphans=(*orphans, *late, *_processes(folder)),
        scopes=len(ledger.scopes),
        miscleaned=miscleaned(ledger),
        swallowed=tuple(seen.swallowed(each, timeline, names)),
        overshoot=seen.overshoot(each, timeline),
        finished=len(seen.before) if seen.run is not None else 0,
        lost=seen.missing(seen.before),
        siblings=len(siblings),
        harmed=seen.missing(siblings),
        ignoring=len({who.partition(".")[0] for who in ledger.ignoring}),
        unnamed=unnamed(ledger, quarantined),
    )


@dataclass(slots=True)
class _Seen:
    """What one disturbed run left to be read. Times are `time.monotonic()`."""

    started_s: float
    took_s: float = 0.0
    bare_s: float = 0.0
    """What a bare timer of the same deadline and grace took; 0 when the run was over before."""
    run: Run[Any] | None = None
    was_cancelled: bool = False
    was_injected: bool = False
    before: frozenset[str] = frozenset()
    """Stages that had ended well when the injection came."""
    events: list[Event] = field(default_factory=list)

    async def watch(
        self,
        each: Planned,
        pipeline: Pipeline[Any],
        inputs: Mapping[str, Any],
        events: Subscription,
    ) -> None:
        """Runs the pipeline to its end, with the injection on the way."""
        if each.mode in ("deadline", "branch"):
            self.run = await pipeline.run(**inputs)
            return
        loop = asyncio.get_running_loop()

        def inject(is_done: Callable[[], bool], cancel: Callable[[], object]) -> None:
            if is_done():
                return
            if not self.was_injected:
                self.was_injected = True
                self.events += events.drain()
                self.before = Timeline.of(self.events, _RUN).ok
            cancel()

        if each.mode == "handle":
            handle = pipeline.start(**inputs)
            timer = loop.call_later(each.delay_s, inject, lambda: handle.done, handle.cancel)
            self.run = await handle
            timer.cancel()
            return
        task = asyncio.create_task(pipeline.run(**inputs))
        timers = [loop.call_later(each.delay_s, inject, task.done, task.cancel)]
        if each.mode == "caller_twice":
            timers.append(loop.call_later(each.delay_s + AGAIN_S, inject, task.done, task.cancel))
        await asyncio.wait([task])
        for timer in timers:
            timer.cancel()
        self.was_cancelled = task.cancelled()
        self.run = None if task.cancelled() else task.result()

    def fired(self, each: Planned, timeline: Timeline, names: frozenset[str]) -> bool:
        """Whether there was something left to cancel, or to time out."""
        match each.mode:
            case "branch":
                return timeline.duration_s(each.target) > each.delay_s and each.target != ""
            case "deadline":
                return timeline.ok != names
            case "handle":
                return self.was_injected and self.before != names
            case _:
                return self.was_injected

    def swallowed(self, each: Planned, timeline: Timeline, names: frozenset[str]) -> Iterator[str]:
        """Every trace of a cancellation or a timeout that somebody took for something else."""
        if not self.fired(each, timeline, names):
            return
        status = None if self.run is None else self.run.status
        match each.mode:
            case "branch":
                if each.target in timeline.ok:
                    yield f"{each.target} is ok after its timeout"
            case "deadline" | "handle":
                expected = "failed" if each.mode == "deadline" else "cancelled"
                if status != expected:
                    yield f"the run is {status}, not {expected}"
            case _:
                if not self.was_cancelled:
                    yield f"run() returned {status} to a caller that was cancelled"

    def overshoot(self, each: Planned, timeline: Timeline) -> float:
        """From the start of the run or the stage to its end, over (deadline + grace) as a bare
        timer keeps it."""
        took_s = timeline.duration_s(each.target) if each.target else self.took_s
        return took_s / max(each.delay_s + GRACE_S, self.bare_s)

    def missing(self, names: Collection[str]) -> tuple[str, ...]:
        """Those of `names` that have no value in the run; none when the caller got no run."""
        run = self.run
        return () if run is None else tuple(sorted(name for name in names if name not in run))


def _silent(handles: Sequence[str], quarantined: Sequence[str]) -> list[str]:
    """Open handles of stages that nobody has named: a thread that was named may hold its own."""
    named = {name.partition(".")[0] for name in quarantined}
    return [handle for handle in handles if handle.split()[-1].partition(".")[0] not in named]


async def _never_back(runtime: Runtime, ledger: Ledger) -> list[str]:
    """Threads and handles that are still held when every sleeping stage must have woken."""
    until_s = time.monotonic() + BACK_S
    while (runtime.threads.stuck or ledger.open) and time.monotonic() < until_s:  # noqa: ASYNC110
        # Threads give no sign when they return; nothing but looking tells.
        await asyncio.sleep(0.005)
    return [*open_handles(ledger), *["a stuck thread"] * runtime.threads.stuck]


def _processes(folder: Path) -> list[str]:
    """Child processes that left their id in `folder` and are alive."""
    return [f"process {file.name}" for file in folder.iterdir() if _is_alive(int(file.name))]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
