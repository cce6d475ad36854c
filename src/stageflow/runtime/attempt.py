"""One running attempt of a stage: stepped in place, stopped when asked, killed when it won't stop.

A worker task sends the stage's coroutine forward itself, through the attempt's own
contextvars.Context, and only when the coroutine really waits does it become an `Attempt`: with a
deadline timer and a place where a stop can reach it. A stage that never waits costs no timer, no
task and no Attempt.

Stopping. `stop` cancels the worker task, so the stage sees an ordinary CancelledError at its
await. A stage that goes on is closed after the grace period (`coroutine.close()` raises
GeneratorExit at its await); one that even swallows that is quarantined: named, counted, and never
resumed. `asyncio.wait_for` and `asyncio.timeout` have no part in this: the first hides
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

_CLOSE_TRIES = 16
"""Awaits in `finally` blocks that a closing coroutine may still swallow, one per try."""


class Killed(BaseException):
    """Raised in the worker in place of whatever the stage would have done."""


class Attempt:
    """A stage that waits. Lives from its first real wait to its end."""

    __slots__ = (
        "_asking",
        "_cancellations",
        "_grace",
        "_timer",
        "child",
        "context",
        "coroutine",
        "expired",
        "killed",
        "loop",
        "node",
        "over_by_s",
        "task",
        "token",
        "why",
    )

    def __init__(
        self,
        *,
        node: int,
        token: int,
        coroutine: Coroutine[Any, Any, Any],
        context: Context,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.node = node
        self.token = token
        self.coroutine = coroutine
        self.context = context
        self.loop = loop
        self.task = asyncio.current_task()
        self.why: str | None = None
        """Why it was asked to stop: "timeout" or "stop"; None while nobody has asked."""
        self.over_by_s = 0.0
        """On the loop's clock: when it will be killed, once it was asked to stop."""
        self.killed = False
        self.expired = False
        """Its time to stop is over, and it is only waiting for `child`: no further wait is its."""
        self.child: Driver | None = None
        """The cancelled child run whose end the stage awaits."""
        self._cancellations = 0
        """Of the worker task, by this attempt."""
        self._asking: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._grace: asyncio.TimerHandle | None = None

    def arm(self, deadline_s: float, grace_s: float) -> None:
        """Stop it at `deadline_s` of the loop's clock."""
        self._timer = self.loop.call_at(deadline_s, self.stop, "timeout", grace_s)

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
            self._cancel()

    def _cancel(self) -> None:
        assert self.task is not None
        self._cancellations += 1
        self.task.cancel()

    def disarm(self) -> None:
        """No timer of this attempt fires any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._grace is not None:
            self._grace.cancel()
        if self._asking is not None:
            self._asking.cancel()

    def forgive(self) -> None:
        """Takes back the cancellations that `stop` asked for, so the worker task can go on."""
        if self.task is not None:
            for _ in range(self._cancellations):
                self.task.uncancel()

    def wait(self, yielded: Any) -> Resumption:
        """Awaitable: drives the coroutine from its first real wait to its end."""
        return Resumption(self, yielded)

    def close(self) -> None:
        """Ends the coroutine without its consent, as far as that is possible."""
        force_closed(self.coroutine, self.context)


def force_closed(coroutine: Coroutine[Any, Any, Any], context: Context) -> bool:
    """Raises GeneratorExit at the coroutine's await until it is over; False when it never is.

    Its cleanup runs, but whatever that awaits is cut off as well.
    """
    for _ in range(_CLOSE_TRIES):
        try:
            context.run(coroutine.close)
        except RuntimeError:
            continue  # it awaited again while closing; ask again at that await
        except BaseException:  # the stage boundary: its cleanup raised; it is over all the same
            return True
        return True
    return False


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
        throw: Callable[..., Any] = coroutine.throw
        while True:
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
                    yielded = run(throw, error)
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
