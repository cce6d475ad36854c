"""Tasks that a stage started and left behind: found, cancelled, and counted.

Read only when a run did not end well. A task belongs to a run when its context does; contexts of
tasks are public from Python 3.12 on, and before that are found among what the task refers to.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref
from collections.abc import Callable, Collection
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from stageflow.runtime.attempt import kill
from stageflow.runtime.simulated import is_simulated

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver


class Kin:
    """What a context says of the run that it belongs to.

    Contexts outlive runs: whatever a stage leaves open, be it a connection or a child process, has
    a copy of the stage's. So the run itself is let go of when it is over, with all its values.
    """

    __slots__ = ("__weakref__", "driver", "parent", "tenant")

    def __init__(self, driver: Driver, parent: Kin | None) -> None:
        self.driver: Driver | None = driver
        """None once the run has ended all that it started itself."""
        self.parent = parent
        """Of the run whose stage started it."""
        self.tenant = driver.tenant


RUN: ContextVar[Kin | None] = ContextVar("stageflow_run", default=None)
"""The run in whose context code runs; set once per run, inherited by tasks made there."""


async def end_lingering(
    owner: Kin, *, workers: Collection[asyncio.Task[Any]], over_by_s: float
) -> list[str]:
    """Ends the tasks of `owner`'s stages, and those that child runs which are over left behind.

    They are cancelled, and killed at `over_by_s`; returns the names of those that had to be.
    `workers` are the engine's own.
    """
    loop = asyncio.get_running_loop()
    if owner.driver is not None and not await _census(loop).counts(owner, workers):
        return []
    while (left := _tasks_of(owner, workers)) and loop.time() < over_by_s:
        for task in left:
            # Not twice: a second cancellation would cut off the cleanup of the first.
            if not task.cancelling():
                task.cancel()
        await asyncio.wait(left, timeout=over_by_s - loop.time())
    # All are held before the first is killed: its cleanup may end what others await.
    sleeps = [_held(task) for task in left]
    over = [kill(task.get_coro(), _context_of(task)) for task in left]  # type: ignore[arg-type]
    for task, sleep, is_over in zip(left, sleeps, over, strict=True):
        if is_over:
            _end(task, sleep)
        elif sleep is not None:
            sleep.go_on()
    ended = [task for task in left if _is_over(task)]
    if ended:
        await asyncio.wait(ended)
    return sorted(task.get_name() for task in left)


class _Census:
    """The tasks of one event loop, by run.

    A look at all tasks costs as much as there are, and when a service is away thousands of runs end
    badly at one time: they share a look, and looks take a fifth of the loop's time at most.
    """

    def __init__(self) -> None:
        self._stamps = itertools.count(1)
        self._taken = 0
        """The stamp of the last look."""
        self._next_s = 0.0
        self._tasks: weakref.WeakKeyDictionary[Kin, weakref.WeakSet[asyncio.Task[Any]]]
        self._tasks = weakref.WeakKeyDictionary()
        """Of runs that are not over, with those that runs below them which are over have left."""

    async def counts(self, owner: Kin, workers: Collection[asyncio.Task[Any]]) -> int:
        """How many tasks `owner` has beside `workers`. Its stages run no more by now."""
        loop, asked = asyncio.get_running_loop(), next(self._stamps)
        while self._taken < asked:
            wait_s = self._next_s - loop.time()
            if wait_s <= 0 or is_simulated(loop):
                self._take(loop)
            else:
                await asyncio.sleep(wait_s)
        return sum(task not in workers for task in self._tasks.get(owner, ()))

    def _take(self, loop: asyncio.AbstractEventLoop) -> None:
        begun_s = loop.time()
        self._tasks.clear()
        for task in asyncio.all_tasks(loop):
            run = _context_of(task).get(RUN)
            while run is not None and run.driver is None:
                run = run.parent
            if run is not None:
                self._tasks.setdefault(run, weakref.WeakSet()).add(task)
        self._taken = next(self._stamps)
        self._next_s = loop.time() + _APART * (loop.time() - begun_s)


_APART: Final = 4
"""Between two looks there is so many times what one takes."""
_CENSUSES: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Census]
_CENSUSES = weakref.WeakKeyDictionary()


def _census(loop: asyncio.AbstractEventLoop) -> _Census:
    known = _CENSUSES.get(loop)
    if known is None:
        known = _CENSUSES[loop] = _Census()
    return known


class _Sleep(NamedTuple):
    """Of a task: what it awaits, which does not wake it meanwhile."""

    awaited: asyncio.Future[Any]
    wake_up: Callable[[asyncio.Future[Any]], object]
    context: Context

    def go_on(self) -> None:
        """It is woken as ever; at once when what it awaits is over."""
        self.awaited.add_done_callback(self.wake_up, context=self.context)


def _held(task: asyncio.Task[Any]) -> _Sleep | None:
    """Keeps what `task` awaits from waking it. None when that can't be: its next step is due, or
    it is a task of another kind. No public name of asyncio does that."""
    awaited = getattr(task, "_fut_waiter", None)
    for call, context in getattr(awaited, "_callbacks", None) or ():
        if getattr(call, "__self__", None) is task and isinstance(task, asyncio.Future):
            awaited.remove_done_callback(call)  # type: ignore[union-attr]
            return _Sleep(awaited, call, context)  # type: ignore[arg-type]
    return None


def _end(task: asyncio.Task[Any], sleep: _Sleep | None) -> None:
    """Ends a task whose coroutine was killed, as cancelled.

    Were it woken, it would step a coroutine that is over, and end with a RuntimeError: whoever
    awaits it would get that, and its task group would tell the loop's exception handler of it.
    """
    if sleep is not None:
        sleep.awaited.cancel()
        asyncio.Future.cancel(task)  # not the task's own, which would ask its coroutine
    else:
        task.add_done_callback(_heard)
        task.cancel()  # its next step ends it, in that way


def _heard(task: asyncio.Task[Any]) -> None:
    """Reads the error of a task that was killed, so that nobody is told of it."""
    if not task.cancelled():
        task.exception()


def _is_over(task: asyncio.Task[Any]) -> bool:
    return getattr(task.get_coro(), "cr_frame", None) is None


def _tasks_of(owner: Kin, workers: Collection[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    current = asyncio.current_task()
    return [
        task
        for task in asyncio.all_tasks()
        if task is not current
        and task not in workers
        and not task.done()
        and _is_of(_context_of(task).get(RUN), owner)
    ]


def _is_of(run: Kin | None, owner: Kin) -> bool:
    # A child that is not over ends its own: a task group of it would cancel once more what was
    # cancelled from here, and cut off a cleanup.
    while run is not None and run is not owner and run.driver is None:
        run = run.parent
    return run is owner


def _context_of(task: asyncio.Task[Any]) -> Context:
    get_context = getattr(task, "get_context", None)
    if get_context is not None:
        context: Context = get_context()
        return context
    # A task refers to its own context first, then to those of its callbacks.
    for referent in gc.get_referents(task):
        if isinstance(referent, Context):
            return referent
    return Context()  # a task of another kind, such as a pure Python one: nobody's
