"""Running one coroutine under the seeded loop: `simulate`, and `trial` for those who judge.

Equal seeds give equal runs, so what the process brought along must not matter: tasks and futures
hash by creation, the garbage collector runs only at fixed steps and over what the simulation made,
clocks and entropy come from the seed (`stageflow.sim.fence`).
"""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from stageflow.model.errors import SimulationError
from stageflow.sim.disk import DiskFaults, SimDisk
from stageflow.sim.ending import abandon, cancelled, settled
from stageflow.sim.fence import fence
from stageflow.sim.loop import SimLoop
from stageflow.sim.schedule import RandomWalk, Replay, Schedule
from stageflow.sim.trace import Trace

T = TypeVar("T")

START_WALL_S = 1_893_456_000
"""Unix time at which every simulation begins: 2030-01-01T00:00:00Z."""
VIRTUAL_S_MAX = 90 * 86_400.0
"""90 days: doubles of seconds are exact to the nanosecond up to 104 days."""
RECORDED_MAX = 1_000_000
"""Choices kept for `SimResult.replay()`."""

_ONE_AT_A_TIME = threading.Lock()
"""Keeps what the fence saves and restores paired: two fences must not interleave."""


class SimClock:
    """Virtual time, in the shape in which the runtime asks for it."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def wall_s(self) -> float:
        """Unix time in seconds."""
        return START_WALL_S + self._loop.time()

    def wall_ns(self) -> int:
        """Unix time in nanoseconds, exact."""
        return START_WALL_S * 1_000_000_000 + self._loop.now_ns

    def monotonic_s(self) -> float:
        """Seconds since the simulation began."""
        return self._loop.time()


class Sim:
    """What `main` gets: the seed's randomness, virtual time, and simulated devices."""

    def __init__(self, *, seed: int, loop: SimLoop, trace: Trace) -> None:
        self.seed = seed
        self.rng = random.Random(f"sim:{seed}")
        """For the caller's own draws; the schedule draws from another generator."""
        self.loop = loop
        self.clock = SimClock(loop)
        self._trace = trace
        self._disks: dict[str, SimDisk] = {}

    def now(self) -> float:
        """Virtual seconds since the simulation began."""
        return self.loop.time()

    def wall(self) -> float:
        """Virtual unix time in seconds."""
        return self.clock.wall_s()

    def note(self, text: str) -> None:
        """Make `text` part of the trace hash: runs that differ in it then differ in their hash."""
        self._trace.note(text)

    def at_step(self, step: int, callback: Callable[[], object]) -> None:
        """Call `callback` between two steps, as soon as `step` of them (as counted by
        `SimResult.steps`) have run.

        Until it acts, the run is the one without it: with one seed and `step` going from 0 to the
        last, a fault is put at every point of a run.
        """
        self.loop.call_at_step(step, callback)

    def disk(self, name: str = "disk", *, faults: DiskFaults | None = None) -> SimDisk:
        """The disk called `name`: made at the first call (when `faults` counts), then the same."""
        if name not in self._disks:
            self._disks[name] = SimDisk(
                seed=f"{self.seed}:{name}", faults=DiskFaults() if faults is None else faults
            )
        return self._disks[name]


@dataclass(frozen=True, slots=True)
class SimResult(Generic[T]):
    """What one simulated run did. Equal in every process for equal code, seed and schedule."""

    seed: int
    returned: T | None
    """What `main` returned; None when `error` is set. `value` is the typed way to read it."""
    error: BaseException | None
    trace_hash: str
    """32 hexadecimal digits over every decision, virtual time and note."""
    steps: int
    """Callbacks and task steps run until `main` ended."""
    choices: int
    """Decisions among more than one ready source."""
    virtual_s: float
    """Virtual seconds until `main` ended."""
    leftover: tuple[str, ...]
    """Tasks that were still alive when `main` ended, each with what it awaited. They were
    cancelled; one that would not end says so."""
    unhandled: tuple[str, ...]
    """Errors that nobody awaited, as asyncio's default exception handler was told them."""
    recorded: tuple[int, ...]
    """The first `RECORDED_MAX` choices."""

    @property
    def value(self) -> T:
        """What `main` returned; raises `error` when it did not return."""
        if self.error is not None:
            raise self.error
        return cast(T, self.returned)

    def replay(self) -> Replay:
        """The schedule that makes this run again. SimulationError `sim.unrecorded` when the run
        made more choices than are kept."""
        if self.choices > len(self.recorded):
            raise SimulationError(
                "sim.unrecorded",
                "the run made more choices than are recorded",
                expected=f"at most {len(self.recorded)} choices",
                got=str(self.choices),
                fix="run again with the same seed and schedule, which is exact at any length",
            )
        return Replay(self.recorded)


def simulate(
    main: Callable[[Sim], Coroutine[Any, Any, T]],
    *,
    seed: int,
    schedule: Schedule | None = None,
    steps_max: int = 5_000_000,
    virtual_s_max: float = VIRTUAL_S_MAX,
    reproduce: str | None = None,
) -> SimResult[T]:
    """Run `main(sim)` to its end under virtual time and return what happened.

    Whatever `main` raises is raised here, with a note that holds the line which reproduces it:
    `reproduce` with `{seed}` filled in, else a call of `simulate`. `schedule` is by default
    `RandomWalk(seed)`. Besides, SimulationError: `sim.stuck` (nothing can ever happen again),
    `sim.endless` (past `steps_max` or `virtual_s_max`), `sim.nested` (a loop runs in this thread).
    """
    result = trial(
        main,
        seed=seed,
        schedule=schedule,
        steps_max=steps_max,
        virtual_s_max=virtual_s_max,
        reproduce=reproduce,
    )
    try:
        if result.error is not None:
            raise result.error
        return result
    finally:
        # Else the error's traceback would hold this frame and the frame the error.
        del result


def trial(
    main: Callable[[Sim], Coroutine[Any, Any, T]],
    *,
    seed: int,
    schedule: Schedule | None = None,
    steps_max: int = 5_000_000,
    virtual_s_max: float = VIRTUAL_S_MAX,
    reproduce: str | None = None,
) -> SimResult[T]:
    """As `simulate`, but an error of the run is `SimResult.error` instead of being raised."""
    if asyncio._get_running_loop() is not None:
        raise SimulationError(
            "sim.nested",
            "a simulation was started while an event loop runs in this thread",
            fix="call simulate() from plain code, such as a test that is not async",
        )
    trace = Trace(recorded_max=RECORDED_MAX)
    picked = RandomWalk(seed) if schedule is None else schedule
    with _ONE_AT_A_TIME, _still_heap():
        loop = SimLoop(
            pick=picked.begin(), trace=trace, steps_max=steps_max, virtual_s_max=virtual_s_max
        )
        sim = Sim(seed=seed, loop=loop, trace=trace)
        with fence(now_ns=lambda: loop.now_ns, wall_ns=sim.clock.wall_ns, seed=seed):
            result = _run(main, sim=sim, trace=trace)
    if result.error is not None:
        line = _line(main, seed, schedule) if reproduce is None else reproduce.format(seed=seed)
        result.error.add_note(f"reproduce: {line}")
    return result


def _run(main: Callable[[Sim], Coroutine[Any, Any, T]], *, sim: Sim, trace: Trace) -> SimResult[T]:
    loop = sim.loop
    try:
        coro = main(sim)
        if not asyncio.iscoroutine(coro):
            raise SimulationError(
                "sim.main",
                "main did not give a coroutine",
                expected="an `async def` that takes the Sim",
                got=type(coro).__name__,
                fix="write `async def main(sim): ...`",
            )
        task = loop.create_task(coro, name="main")
        del coro
        ended: SimulationError | None = None
        try:
            loop.run_until(task.done)
        except SimulationError as stopped:
            ended = stopped
        except (KeyboardInterrupt, SystemExit):
            _error_of(task)
            raise
        steps, virtual_s = loop.steps, loop.time()
        leftover = cancelled(loop, task)
        # A run that was ended from outside keeps that error: main only saw the cancellation.
        met = _error_of(task)
        error = met if ended is None else ended
        returned = task.result() if error is None else None
        del task
        leftover = settled(loop, leftover)
    finally:
        abandon(loop)
    return SimResult(
        seed=sim.seed,
        returned=returned,
        error=error,
        trace_hash=trace.hexdigest(),
        steps=steps,
        choices=trace.choices,
        virtual_s=virtual_s,
        leftover=tuple(leftover.values()),
        unhandled=tuple(loop.unhandled),
        recorded=tuple(trace.recorded),
    )


def _error_of(task: asyncio.Task[Any]) -> BaseException | None:
    """What `task` ended with, read so that it is not reported as an error nobody awaited."""
    if not task.done():
        return None
    return asyncio.CancelledError(task.get_name()) if task.cancelled() else task.exception()


@contextmanager
def _still_heap() -> Iterator[None]:
    """No collection but those the loop makes at fixed steps, over what is made from here on.

    Collection closes lost async generators and reports lost tasks, which are steps of the run:
    when it happened by itself, it would depend on what else lives in the process.
    """
    enabled, frozen = gc.isenabled(), gc.get_freeze_count() > 0
    gc.disable()
    if not frozen:
        gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()
        if enabled:
            gc.enable()


def _line(main: Callable[..., Any], seed: int, schedule: Schedule | None) -> str:
    name = f"{getattr(main, '__module__', '?')}.{getattr(main, '__qualname__', 'main')}"
    chosen = "" if schedule is None else f", schedule={schedule!r}"
    return f"simulate({name}, seed={seed}{chosen})"
