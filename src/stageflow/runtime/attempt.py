"""One running attempt of a stage: stepped in place, stopped when asked, killed when it won't stop.

A worker task sends the stage's coroutine forward itself, through the attempt's own
contextvars.Context, and only when the coroutine really waits does it become an `Attempt`: with a
deadline timer and a place where a stop can reach it. A stage that never waits costs no timer, no
task and no Attempt.

Stopping. `stop` cancels the worker task, so the stage sees an ordinary CancelledError at its
await. A stage that goes on is killed after the grace period: Killed is raised at its await, which
`except Exception` and `except CancelledError` let pass, and it is never resumed. It is quarantined:
named and counted. `asyncio.wait_for` and `asyncio.timeout` have no part in this: the first hides
cancellations on 3.11 (gh-86296), the second costs as much as a task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any

from stageflow.model.marks import reached

if TYPE_CHECKING:  # a driver makes attempts; an attempt only hands a kill on to one
    from stageflow.runtime.driver import Driver

_KILL_TRIES = 16
"""Awaits in `finally` blocks that a killed coroutine may still begin, one per try."""
_PLAIN_CANCEL = asyncio.Future.cancel


class Killed(BaseException):
    """Raised at the await of a stage that did not end in time, and in its worker."""


class _Gate(asyncio.Future[Any]):
    """Stands for a task, a gather, or whatever else can refuse to be cancelled.

    The worker awaits it in the other's place. Cancelling it asks the other, as if that had been
    awaited itself; `open` wakes the worker without asking.
    """

    def __init__(self, other: asyncio.Future[Any], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._other = other
        # What `await` says to the task that steps a coroutine: this is the future to wait for.
        other._asyncio_future_blocking = False
        self._asyncio_future_blocking = True
        other.add_done_callback(self._pass_on)

    def cancel(self, msg: Any | None = None) -> bool:
        return not self.done() and self._other.cancel(msg)

    def open(self) -> None:
        """The awaiting worker sees a CancelledError now."""
        super().cancel()

    def _pass_on(self, other: asyncio.Future[Any]) -> None:
        if self.done():
            return
        if other.cancelled():
            super().cancel()
        elif (error := other.exception()) is not None:
            self.set_exception(error)
        else:
            self.set_result(None)


class Attempt:
    """A stage that waits. Lives from its first real wait to its end.

    What few attempts need is a default of the class until it is set: a wide fan-out makes
    thousands of these.
    """

    why: str | None = None
    """Why it was asked to stop: "timeout", "heartbeat" or "stop"; None while nobody has asked."""
    over_by_s = 0.0
    """On the loop's clock: when it will be killed, once it was asked to stop."""
    silent_by_s: Callable[[], float] | None = None
    """When it must have given its next sign of life; None when it promises none."""
    killed = False
    expired = False
    """Its time to stop is over, and it is only waiting for `child`: no further wait is its."""
    child: Driver | None = None
    """The cancelled child run whose end the stage awaits."""
    gate: _Gate | None = None
    """What the worker awaits, when it awaits something that can refuse a cancellation."""
    _cancellations = 0
    """Of the worker task, by this attempt."""
    _asking: asyncio.Handle | None = None
    _grace: asyncio.TimerHandle | None = None

    def __init__(
        self,
        node: int,
        token: int,
        coroutine: Coroutine[Any, Any, Any],
        context: Context,
        loop: asyncio.AbstractEventLoop,
        deadline_s: float,
    ) -> None:
        """`deadline_s`, on the loop's clock: when its driver will stop it."""
        self.node = node
        self.token = token
        self.coroutine = coroutine
        self.context = context
        self.loop = loop
        self.deadline_s = deadline_s
        self.task = asyncio.current_task(loop)

    def due_s(self) -> float:
        """When its driver will stop it, as things are."""
        if self.silent_by_s is None:
            return self.deadline_s
        return min(self.deadline_s, self.silent_by_s())

    def stop(self, why: str, grace_s: float) -> None:
        """Ask it to stop; kill it `grace_s` later. The first reason counts."""
        if self.why is not None:
            return
        self.why = why
        self.over_by_s = self.loop.time() + grace_s
        self._grace = self.loop.call_at(self.over_by_s, self.kill)
        if asyncio.current_task(self.loop) is self.task:
            # The stage itself ended its run. Were its task cancelled in its own step, and the
            # stage never waited again, the cancellation would hit what the worker awaits next.
            self._asking = self.loop.call_soon(self._cancel)
        else:
            self._cancel()

    def kill(self) -> None:
        """Its grace period is over: what it awaits next, or awaits now, is its end.

        One that only awaits the end of a child run ignores nothing; the child is killed instead.
        """
        if self.child is not None:
            self.expired = True
            self.child.kill()
        elif not self.killed:
            self.killed = True
            reached("attempt_killed")
            if self.gate is not None:
                self.gate.open()
            self._cancel()

    def _cancel(self) -> None:
        assert self.task is not None
        self._cancellations += 1
        self.task.cancel()

    def leave(self) -> None:
        """It is over: no timer of it fires any more, and the worker task can go on, its
        cancellations taken back."""
        if self.why is None:
            return
        if self._grace is not None:
            self._grace.cancel()
        if self._asking is not None:
            self._asking.cancel()
        if self.task is not None:
            for _ in range(self._cancellations):
                self.task.uncancel()

    def wait(self, yielded: Any) -> Resumption:
        """Awaitable: drives the coroutine from its first real wait to its end."""
        return Resumption(self, yielded)

    def close(self) -> None:
        """Ends the coroutine without its consent, as far as that is possible."""
        kill(self.coroutine, self.context)


def kill(coroutine: Coroutine[Any, Any, Any], context: Context) -> bool:
    """Raises Killed at the coroutine's await until it is over; False when it never is.

    Its cleanup runs, but whatever that awaits is cut off as well. `coroutine.close()` would not do:
    before Python 3.13 it leaves an async generator that awaits where it is.
    """
    for _ in range(_KILL_TRIES):
        try:
            context.run(coroutine.throw, Killed())
        except BaseException:  # the stage boundary: how it ends, now that it does, is its own
            return True
    try:
        context.run(coroutine.close)
    except RuntimeError:
        return False  # it awaits on even so
    return True


class Resumption:
    """What a worker awaits while its stage waits: passes futures up and results down."""

    __slots__ = ("_attempt", "_yielded")

    def __init__(self, attempt: Attempt, yielded: Any) -> None:
        self._attempt = attempt
        self._yielded = yielded

    def __await__(self) -> Generator[Any, Any, Any]:
        attempt = self._attempt
        coroutine, run = attempt.coroutine, attempt.context.run
        yielded = self._yielded
        send: Callable[..., Any] = coroutine.send
        while True:
            # What sleeps, locks and queues yield is a plain future, which ends when cancelled.
            if getattr(type(yielded), "cancel", _PLAIN_CANCEL) is not _PLAIN_CANCEL:
                yielded = attempt.gate = _Gate(yielded, attempt.loop)
            elif attempt.gate is not None:
                attempt.gate = None
            try:
                sent = yield yielded
            except GeneratorExit:
                run(coroutine.close)
                raise
            except BaseException as error:
                if attempt.killed:
                    attempt.close()
                    raise Killed from None
                try:
                    yielded = run(coroutine.throw, error)
                except StopIteration as stop:
                    return stop.value
            else:
                try:
                    yielded = run(send, sent)
                except StopIteration as stop:
                    return stop.value
            if attempt.expired:
                attempt.close()
                raise Killed
