"""The seeded event loop: virtual time, and every choice among ready sources made by a schedule.

What asyncio promises is kept: plain callbacks run in the order of `call_soon`, timers in the order
of their due times, a task's steps one after another. What it does not promise is chosen: which
task steps next, how tasks interleave with plain callbacks, which of several timers due at one
moment fires first. Each task and each due timer is a source of its own; all plain callbacks
together are source 0.

The running code takes no virtual time: time moves only when nothing is ready, straight to the next
timer. It is kept in whole nanoseconds, so adding many short sleeps is exact.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import logging
import math
import sys
import threading
import weakref
from asyncio import Handle, TimerHandle
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

from stageflow.model.errors import SimulationError
from stageflow.sim.pending import stuck
from stageflow.sim.refusals import NoOutsideWorld, refusal
from stageflow.sim.schedule import Pick
from stageflow.sim.trace import Trace

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_CALLBACKS = 0
_NEVER_NS = 2**62
_COLLECT_EVERY = 65_536
"""Steps between garbage collections; see `stageflow.sim.run` for why they are not automatic."""

_log = logging.getLogger("asyncio")


class SimTask(asyncio.Task[T]):
    """A task whose hash is its label: sets of tasks iterate alike in every process."""

    __slots__ = ("label",)

    def __init__(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        label: int,
        loop: asyncio.AbstractEventLoop,
        name: str,
        context: Context | None,
    ) -> None:
        self.label = label
        super().__init__(coro, loop=loop, name=name, context=context)

    def __hash__(self) -> int:
        return self.label


class SimFuture(asyncio.Future[Any]):
    """A future whose hash is the number of its creation, for the same reason."""

    __slots__ = ("number",)

    def __init__(self, *, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class SimLoop(NoOutsideWorld):
    """One run's event loop. Used by one thread, closed by whoever made it."""

    def __init__(self, *, pick: Pick, trace: Trace, steps_max: int, virtual_s_max: float) -> None:
        self.pick = pick
        """Asked when several sources are ready; whoever owns the loop may exchange it."""
        self.steps = 0
        """Callbacks and task steps run so far."""
        self.steps_max = steps_max
        self.now_ns = 0
        self.ns_max = _ns(virtual_s_max)
        self.unhandled: list[str] = []
        """What went to the default exception handler, one line each."""
        self._trace = trace
        self._thread = threading.get_ident()
        self._sources = 0
        self._futures = 0
        self._order: list[int] = []
        """Labels of ready sources, oldest readiness first, without repetition."""
        self._fresh: list[int] = []
        """Labels made ready since the last decision; sorted when they join `_order`, so that the
        order in which one step wakes several (the iteration of a set, say) cannot matter."""
        self._callbacks: deque[Handle] = deque()
        """Invariant: non-empty exactly when label 0 is in `_order` or `_fresh`."""
        self._ready: dict[int, Handle] = {}
        """The one queued step of each ready task, and each due timer."""
        self._timers: list[tuple[int, int, TimerHandle]] = []
        """A heap of (due ns > now_ns, label, timer); cancelled ones are dropped late."""
        self._timers_cancelled = 0
        self._strangers: weakref.WeakKeyDictionary[asyncio.Task[Any], int] = (
            weakref.WeakKeyDictionary()
        )
        """Labels of tasks that this loop did not create itself."""
        self._generators: dict[int, weakref.ref[AsyncGenerator[Any, Any]]] = {}
        """Begun and still alive, by number of beginning; never by id, which is reused."""
        self._closing: set[int] = set()
        """Labels of tasks that close a lost generator: the loop's own, nobody's leftovers."""
        self._generators_begun = 0
        self._interrupts: list[tuple[int, int, Callable[[], object]]] = []
        """A heap of (step, number of registration, callback) for `call_at_step`."""
        self._interrupt_at: float = math.inf
        """The first step of `_interrupts`."""
        self._interrupts_made = 0
        self._task_factory: Any = None
        self._exception_handler: Any = None
        self._stopping = False
        self._closed = False

    # Running

    def run_until(self, done: Callable[[], bool]) -> None:
        """Take steps until `done()`, asked before each.

        SimulationError `sim.stuck` when nothing can ever happen again, `sim.endless` past
        `steps_max` steps or `ns_max`; whatever the schedule raises. After an error the loop is
        whole: it may be run on.
        """
        self._check_open()
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("an event loop is already running in this thread")
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._generator_begun, finalizer=self._generator_lost)
        asyncio._set_running_loop(self)
        try:
            while not done():
                self._step()
        finally:
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def is_idle(self) -> bool:
        """True when nothing is ready at this moment; timers may be waiting."""
        return not self._order and not self._fresh

    def _step(self) -> None:
        if self.steps >= self._interrupt_at:
            self._interrupt()
        fresh, order = self._fresh, self._order
        if fresh:
            if len(fresh) > 1:
                fresh.sort()
            order += fresh
            fresh.clear()
        n = len(order)
        if n == 0:
            self._advance()
            return
        if self.steps >= self.steps_max:
            raise _endless(f"{self.steps_max} steps", "steps_max")
        index = 0
        if n > 1:
            index = self.pick(n, order)
            if not 0 <= index < n:
                raise SimulationError(
                    "sim.schedule",
                    "the schedule picked a source that is not there",
                    expected=f"an index from 0 to {n - 1}",
                    got=str(index),
                    fix="return an index below n from the schedule's picker",
                )
        label = order.pop(index)
        self._trace.step(index, n, label, self.now_ns)
        if label == _CALLBACKS:
            handle = self._callbacks.popleft()
            if self._callbacks:
                fresh.append(_CALLBACKS)
        else:
            handle = self._ready.pop(label)
        if handle._cancelled:
            return
        self.steps += 1
        if self.steps % _COLLECT_EVERY == 0 and not gc.isenabled():
            gc.collect()
        handle._run()

    def call_at_step(self, step: int, callback: Callable[[], object]) -> None:
        """Call `callback` once, as soon as `steps` is `step` or more, before anything else runs.

        It is no step and no source: until it acts, the run is the one without it.
        """
        self._interrupts_made = number = self._interrupts_made + 1
        heapq.heappush(self._interrupts, (step, number, callback))
        self._interrupt_at = self._interrupts[0][0]

    def _interrupt(self) -> None:
        interrupts = self._interrupts
        while interrupts and interrupts[0][0] <= self.steps:
            callback = heapq.heappop(interrupts)[2]
            self._interrupt_at = interrupts[0][0] if interrupts else math.inf
            callback()

    def _advance(self) -> None:
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
            self._timers_cancelled -= 1
        if not timers or timers[0][0] >= _NEVER_NS:
            raise stuck(self.pending())
        due = timers[0][0]
        if due > self.ns_max:
            raise _endless(f"{self.ns_max / 1e9:g} virtual seconds", "virtual_s_max")
        self.now_ns = due
        while timers and timers[0][0] == due:
            _, label, timer = heapq.heappop(timers)
            timer._scheduled = False  # type: ignore[attr-defined]
            if timer._cancelled:
                self._timers_cancelled -= 1
            else:
                self._ready[label] = timer
                self._fresh.append(label)

    # Scheduling

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self.now_ns / 1e9

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> Handle:
        if self._closed:
            self._check_open()
        handle = Handle(callback, args, self, context)
        owner = getattr(callback, "__self__", None)
        if isinstance(owner, asyncio.Task) and not hasattr(
            # A task's step and wake-up are private; task.cancel and the like are plain callbacks.
            asyncio.Task,
            getattr(callback, "__name__", ""),
        ):
            label = owner.label if owner.__class__ is SimTask else self.label_of(owner)
            assert label not in self._ready, "a task has one step queued at most"
            self._ready[label] = handle
            self._fresh.append(label)
        else:
            if not self._callbacks:
                self._fresh.append(_CALLBACKS)
            self._callbacks.append(handle)
        return handle

    def call_soon_threadsafe(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> Handle:
        """As `call_soon`; from another thread SimulationError `sim.thread`, as nothing would say
        when the callback arrives."""
        if threading.get_ident() != self._thread:
            raise refusal("sim.thread", "loop.call_soon_threadsafe() from another thread")
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> TimerHandle:
        due = self.now_ns + _ns(delay)
        return self._call_at_ns(due, callback, args, context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> TimerHandle:
        due = _ns(when)
        return self._call_at_ns(due, callback, args, context)

    def _call_at_ns(
        self, due: int, callback: Callable[..., object], args: Any, context: Context | None
    ) -> TimerHandle:
        self._check_open()
        timer = TimerHandle(due / 1e9, callback, args, self, context)
        self._sources = label = self._sources + 1
        if due <= self.now_ns:
            self._ready[label] = timer
            self._fresh.append(label)
        else:
            timer._scheduled = True  # type: ignore[attr-defined]
            heapq.heappush(self._timers, (due, label, timer))
        return timer

    def _timer_handle_cancelled(self, handle: TimerHandle) -> None:
        # Called by TimerHandle.cancel. Without the sweep a run that arms and cancels a timeout per
        # stage would keep them all until their time comes.
        self._timers_cancelled += 1
        if self._timers_cancelled > 100 and self._timers_cancelled * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if not entry[2]._cancelled]
            heapq.heapify(self._timers)
            self._timers_cancelled = 0

    # Tasks and futures

    def create_future(self) -> asyncio.Future[Any]:
        self._futures = number = self._futures + 1
        return SimFuture(number=number, loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
        **options: Any,
    ) -> asyncio.Task[T]:
        """As asyncio's; unnamed tasks are called `sim-1`, `sim-2`, ... instead of by a count of
        the whole process. Tasks never start eagerly: the schedule says when."""
        self._check_open()
        if self._task_factory is not None:
            made: asyncio.Task[T] = self._task_factory(self, coro, context=context)
            if name is not None:
                made.set_name(name)
            return made
        self._sources = label = self._sources + 1
        return SimTask(
            coro,
            label=label,
            loop=self,
            name=f"sim-{label}" if name is None else name,
            context=context,
        )

    def set_task_factory(self, factory: Any) -> None:
        self._task_factory = factory

    def get_task_factory(self) -> Any:
        return self._task_factory

    def label_of(self, task: asyncio.Task[Any]) -> int:
        """The label of `task` in traces and schedules."""
        if isinstance(task, SimTask):
            return task.label
        label = self._strangers.get(task)
        if label is None:
            self._sources = label = self._sources + 1
            self._strangers[task] = label
        return label

    def is_own(self, task: asyncio.Task[Any]) -> bool:
        """True for a task that the loop started itself, to close a lost async generator."""
        return self.label_of(task) in self._closing

    def pending(self) -> list[asyncio.Task[Any]]:
        """Tasks of this loop that are not done, oldest first."""
        return sorted(asyncio.all_tasks(self), key=self.label_of)

    # Async generators

    def _generator_begun(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._generators_begun = number = self._generators_begun + 1

        def forget(_: object, number: int = number) -> None:
            self._generators.pop(number, None)

        self._generators[number] = weakref.ref(generator, forget)

    def _generator_lost(self, generator: AsyncGenerator[Any, Any]) -> None:
        # The weak reference is dead already: `forget` has run.
        if not self._closed:
            task = self.create_task(generator.aclose(), name="close async generator")
            label = self.label_of(task)
            self._closing.add(label)
            task.add_done_callback(lambda _: self._closing.discard(label))

    async def shutdown_asyncgens(self) -> None:
        """Close every async generator that is still open, in the order in which they began."""
        while self._generators:
            reference = self._generators.pop(next(iter(self._generators)))
            generator = reference()
            if generator is None:
                continue
            try:
                await generator.aclose()
            except Exception as error:
                # One generator's failing cleanup must not leave the others open.
                self.call_exception_handler(
                    {"message": "an async generator failed to close", "exception": error}
                )

    # Life

    def run_forever(self) -> None:
        """Take steps until `stop()`."""
        self._stopping = False
        self.run_until(lambda: self._stopping)

    def run_until_complete(self, future: Any) -> Any:
        """Take steps until `future` (or a coroutine, made a task) is done; its result."""
        task = asyncio.ensure_future(future, loop=self)
        self.run_until(task.done)
        return task.result()

    def stop(self) -> None:
        self._stopping = True

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Drop whatever is queued. Idempotent."""
        if self.is_running():
            raise RuntimeError("a running event loop cannot be closed")
        self._closed = True
        for queue in (self._order, self._fresh, self._callbacks, self._ready, self._timers):
            queue.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("Event loop is closed")

    # Errors nobody awaits

    def set_exception_handler(self, handler: Any) -> None:
        self._exception_handler = handler

    def get_exception_handler(self) -> Any:
        return self._exception_handler

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self._exception_handler is None:
            self.default_exception_handler(context)
            return
        try:
            self._exception_handler(self, context)
        except Exception as error:
            # As in asyncio: a failing handler must not take the loop down with it.
            self.default_exception_handler({"message": "exception handler", "exception": error})

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep the error in `unhandled` and log it as asyncio does."""
        exception = context.get("exception")
        task = context.get("task") or context.get("future")
        line = str(context.get("message", "unhandled error"))
        if isinstance(task, asyncio.Task):
            line += f" (task {task.get_name()!r})"
        if exception is not None:
            line += f": {type(exception).__name__}: {exception}"
        self.unhandled.append(line)
        _log.error(line, exc_info=exception)

    def get_debug(self) -> bool:
        """Always False: asyncio's debug mode measures real time."""
        return False

    def set_debug(self, enabled: bool) -> None:
        """Ignored; see `get_debug`."""


def _ns(seconds: float) -> int:
    """Whole nanoseconds, never earlier than asked: at the due time, `time()` >= `seconds`."""
    if math.isnan(seconds):
        raise ValueError("a delay or due time is not a number")
    if seconds >= _NEVER_NS / 1e9:
        return _NEVER_NS
    if seconds <= 0:
        return 0
    ns = round(seconds * 1e9)
    # Exact below 2**53 ns (104 days); beyond, doubles lie further apart than one nanosecond.
    while ns / 1e9 < seconds:
        ns += max(1, ns >> 53)
    return ns


def _endless(what: str, limit: str) -> SimulationError:
    return SimulationError(
        "sim.endless",
        f"the simulation did not end within {what}",
        expected=f"main returns within {what}",
        fix=f"look for a loop that polls or retries without end, or raise {limit}=",
    )
