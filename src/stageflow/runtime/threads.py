"""A bounded pool of daemon threads for sync stages.

concurrent.futures joins its threads when the interpreter exits, so one stage that never returns
would hang the process; these are daemons. A thread that outlives its attempt keeps its place in
the pool until it returns: `stuck` counts those, so the bound holds whatever stages do.

Calls wait in the order of `stageflow.scheduler.line`, with what is lent to them: a stage whose
caller holds units of a pool goes before whoever is less urgent than those who wait for these.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from stageflow.model.errors import StageflowError, tamed
from stageflow.model.marks import reached
from stageflow.runtime.pools import Pools, Precedence
from stageflow.runtime.simulated import is_simulated
from stageflow.scheduler import Demand, RankedLine, Ranks, Supply

_IDLE_S = 5.0
NOBODY: Final = Precedence()
"""A call of no run."""
Late = Callable[[Any, BaseException | None], None]
"""Told what a call gave, or raised, when nobody waits for it any more."""


class _Job(Demand["asyncio.Task[Any]"]):
    __slots__ = (
        "abandoned",
        "back",
        "call",
        "finished",
        "future",
        "late",
        "left",
        "loop",
        "outcome",
    )

    def __init__(
        self,
        supply: Supply[asyncio.Task[Any]],
        call: Callable[[], Any],
        loop: asyncio.AbstractEventLoop,
        late: Late | None,
        precedence: Precedence,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None, "stages run in tasks"
        super().__init__(
            supply,
            (task, *precedence.callers),
            units=1,
            tenant=precedence.tenant,
            priority=precedence.priority,
            asked_s=loop.time(),
        )
        self.call = call
        self.loop = loop
        self.late = late
        self.outcome: tuple[Any, BaseException | None] | None = None
        """What came while the caller was leaving; told as late once it has left."""
        self.left = False
        self.future: asyncio.Future[Any] = loop.create_future()
        self.back: asyncio.Future[None] | None = None
        """Where a cancelled caller waits for the thread; None while the caller is not cancelled."""
        self.abandoned = False
        self.finished = False


class _Jobs(RankedLine[Any]):
    """Calls that wait for a thread. Threads take them while the loop lends them ranks."""

    def __init__(self, lock: threading.RLock, weights: Mapping[str, float]) -> None:
        super().__init__(weights)
        self._lock = lock

    def move(self, request: Any, ranks: Ranks) -> bool:
        with self._lock:
            return super().move(request, ranks)


class ThreadPool:
    """Runs calls in at most `threads_max` threads; further calls wait in line.

    `pools` say what is lent to whom. While `stuck_max` threads are stuck, calls are refused.
    """

    def __init__(self, threads_max: int, pools: Pools, stuck_max: int | None = None) -> None:
        self._threads_max = threads_max
        self._stuck_max = threads_max if stuck_max is None else min(stuck_max, threads_max)
        self._inheritance = pools.inheritance
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._jobs = _Jobs(self._lock, pools.weights)
        self._supply = Supply[Any]("threads", 0, self._jobs)
        self._idle = 0
        self._starting = 0
        self._alive = 0
        self._dismissed = False
        """A thread with nothing to do ends at once, until there is a call again."""
        self.stuck = 0
        """Threads whose attempt has ended and that have not come back."""
        self.simulated_s: Callable[[], float] | None = None
        """For simulations: draws the virtual seconds that the next call takes; it is made at their
        end. None: calls take no time, and no attempt can be left behind by its thread."""

    async def call(
        self,
        call: Callable[[], Any],
        precedence: Precedence = NOBODY,
        late: Late | None = None,
    ) -> Any:
        """The call's result. Cancelling drops it when it has not begun; else the caller waits for
        the thread and throws its result away. A thread whose caller is killed before it is back is
        stuck until it returns. StageflowError `stage.threads_stuck` when too many are."""
        self._check_stuck()
        loop = asyncio.get_running_loop()
        simulated = is_simulated(loop)
        if simulated and self.simulated_s is None:
            await asyncio.sleep(0)  # a later step, which the schedule chooses
            return call()
        job = _Job(self._supply, call, loop, late, precedence)
        if self.simulated_s is not None and simulated:
            loop.call_later(self.simulated_s(), self._simulate, job)
        else:
            self._begin(job)
        try:
            return await self._answer(job)
        except asyncio.CancelledError:
            if self._dropped(job):
                raise
            try:
                await self._returned(job)
            finally:
                self._abandon(job)
                _leave(job)
            raise

    def _check_stuck(self) -> None:
        if self.stuck >= self._stuck_max:
            reached("thread_refused")
            raise StageflowError(
                "stage.threads_stuck",
                "too many threads are held by stages whose time was over long ago",
                expected=f"fewer than {self._stuck_max} of {self._threads_max} threads stuck",
                got=f"{self.stuck} stuck",
                fix="look at ctx.cancelled in long loops, or use place='process' for what can't",
            )

    async def _answer(self, job: _Job) -> Any:
        try:
            return await job.future
        finally:
            self._inheritance.leave(job)

    def _begin(self, job: _Job) -> None:
        with self._lock:
            self._inheritance.enter(job)
            self._dismissed = False
            # A notified thread counts as idle, and a new one as starting, until it takes its job.
            if len(self._jobs) <= self._idle:
                self._wake.notify()
            elif len(self._jobs) > self._idle + self._starting and self._alive < self._threads_max:
                self._alive += 1
                self._starting += 1
                threading.Thread(target=self._serve, daemon=True, name="stageflow-stage").start()

    def _simulate(self, job: _Job) -> None:
        job.loop.call_soon(_settle, job, *self._done(job))

    def _done(self, job: _Job) -> tuple[Any, BaseException | None]:
        """(result, error) of the call."""
        result, error = None, None
        try:
            result = job.call()
        except BaseException as raised:  # the stage boundary: it is the attempt's outcome
            error = tamed(raised)
        with self._lock:
            job.finished = True
            if job.abandoned:
                self.stuck -= 1
        return result, error

    def _dropped(self, job: _Job) -> bool:
        """Takes the job back; False when it has begun. Then, `back` tells of its end."""
        with self._lock:
            if job in self._jobs:
                self._jobs.drop(job)
                return True
            job.back = job.loop.create_future()
            if job.finished:
                job.back.set_result(None)
            return False

    async def _returned(self, job: _Job) -> None:
        """Waits for the thread, however often the caller is cancelled: a kill is no cancellation.

        Else the stage's cleanup would run after its run has ended, beside whatever comes next.
        """
        assert job.back is not None
        while not job.back.done():
            with suppress(asyncio.CancelledError):
                await asyncio.shield(job.back)

    def _abandon(self, job: _Job) -> None:
        with self._lock:
            if not job.finished:
                job.abandoned = True
                self.stuck += 1
                reached("thread_stuck")

    def _serve(self) -> None:
        with self._lock:
            self._starting -= 1
        while True:
            with self._lock:
                while (job := self._jobs.first()) is None:
                    if self._dismissed or not self._called():
                        self._alive -= 1
                        return
                self._jobs.take(job)
            self._carry_out(job)

    def _called(self) -> bool:
        """Waits idly, and says whether there is work or word; the lock is held."""
        self._idle += 1
        called = self._wake.wait(_IDLE_S)
        self._idle -= 1
        return called or bool(self._jobs)

    def dismiss(self) -> None:
        """Idle threads end now, and busy ones with their call, not when they have waited long."""
        with self._lock:
            self._dismissed = True
            self._wake.notify_all()

    def _carry_out(self, job: _Job) -> None:
        # A frame of its own: a thread that waits for its next call holds nothing of the last.
        result, error = self._done(job)
        with suppress(RuntimeError):  # the loop is closed; nobody waits any more
            job.loop.call_soon_threadsafe(_settle, job, result, error)


def _leave(job: _Job) -> None:
    """The caller has gone, in this very step of the loop: what it did not take is late."""
    job.left = True
    if job.outcome is None and job.future.done() and not job.future.cancelled():
        error = job.future.exception()  # it came in the same turn as the cancellation
        job.outcome = (None if error is not None else job.future.result(), error)
    if job.outcome is not None:
        job.loop.call_soon(_tell, job)


def _tell(job: _Job) -> None:
    if job.late is not None and job.outcome is not None:
        job.late(*job.outcome)


def _settle(job: _Job, result: Any, error: BaseException | None) -> None:
    if job.back is not None and not job.back.done():
        job.back.set_result(None)
    if job.future.done():
        job.outcome = (result, error)
        if job.left:
            _tell(job)
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
