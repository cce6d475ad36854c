"""A bounded pool of daemon threads for sync stages.

concurrent.futures joins its threads when the interpreter exits, so one stage that never returns
would hang the process; these are daemons. A thread that outlives its attempt keeps its place in
the pool until it returns: `stuck` counts those, so the bound holds whatever stages do.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from stageflow.model.errors import StageflowError
from stageflow.model.marks import reached
from stageflow.runtime.simulated import is_simulated

_IDLE_S = 5.0


class _Job:
    __slots__ = ("abandoned", "call", "finished", "future", "loop")

    def __init__(self, call: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.call = call
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.abandoned = False
        self.finished = False


class ThreadPool:
    """Runs calls in at most `threads_max` threads; further calls wait in order."""

    def __init__(self, threads_max: int) -> None:
        self._threads_max = threads_max
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._jobs: deque[_Job] = deque()
        self._idle = 0
        self._alive = 0
        self.stuck = 0
        """Threads whose attempt has ended and that have not come back."""

    async def call(self, call: Callable[[], Any]) -> Any:
        """The call's result. Cancelling drops it when it has not begun; else the thread is stuck
        until it returns, and its result is thrown away."""
        loop = asyncio.get_running_loop()
        if is_simulated(loop):
            await asyncio.sleep(0)  # a later step, which the schedule chooses
            return call()
        job = _Job(call, loop)
        with self._lock:
            self._jobs.append(job)
            if self._idle:
                self._wake.notify()
            elif self._alive < self._threads_max:
                self._alive += 1
                threading.Thread(target=self._serve, daemon=True, name="stageflow-stage").start()
        try:
            return await job.future
        except asyncio.CancelledError:
            with self._lock:
                if job in self._jobs:
                    self._jobs.remove(job)
                elif not job.finished:
                    job.abandoned = True
                    self.stuck += 1
                    reached("thread_stuck")
            raise

    def _serve(self) -> None:
        while True:
            with self._lock:
                while not self._jobs:
                    self._idle += 1
                    called = self._wake.wait(_IDLE_S)
                    self._idle -= 1
                    if not called and not self._jobs:
                        self._alive -= 1
                        return
                job = self._jobs.popleft()
            result, error = None, None
            try:
                result = job.call()
            except BaseException as raised:  # the stage boundary: it is the attempt's outcome
                error = raised
            with self._lock:
                job.finished = True
                if job.abandoned:
                    self.stuck -= 1
                    continue
            try:
                job.loop.call_soon_threadsafe(_settle, job, result, error)
            except RuntimeError:
                continue  # the loop is closed; nobody waits any more


def _settle(job: _Job, result: Any, error: BaseException | None) -> None:
    if job.future.done():
        return
    if error is None:
        job.future.set_result(result)
    elif isinstance(error, StopIteration):
        # A future can't hold StopIteration; it would end the awaiting coroutine instead.
        job.future.set_exception(
            StageflowError("stage.stop_iteration", "a sync stage raised StopIteration")
        )
    else:
        job.future.set_exception(error)
