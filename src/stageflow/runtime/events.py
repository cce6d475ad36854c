"""What happens in a run, told to subscribers that may be slow but never slow a run down."""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from typing import NamedTuple, TypeAlias

from stageflow.model.errors import BuildError
from stageflow.model.forms import is_count


class EventType(enum.Enum):
    """For each attempt there is one STAGE_STARTED and exactly one STAGE_ENDED."""

    RUN_STARTED = "run_started"
    STAGE_STARTED = "stage_started"
    STAGE_ENDED = "stage_ended"
    LATE_WRITE = "late_write"
    """A value that came after its attempt was closed; refused."""
    QUARANTINED = "quarantined"
    """A stage ignored its cancellation past the grace period."""
    WAIT_EXCEEDED = "wait_exceeded"
    """A stage has waited for a pool for longer than it should, and waits on."""
    RUN_ENDED = "run_ended"
    ACCESS_REFUSED = "access_refused"
    """Tenant `tenant` asked for `run`, which it has not. reason: the method of its handle."""


class Event(NamedTuple):
    """Immutable. Times are seconds of the event loop's monotonic clock."""

    type: EventType
    run: str
    node: str | None
    attempt: int
    at_s: float
    duration_s: float = 0.0
    """Of the attempt or the run that ended, or of the wait so far; never negative."""
    status: str = ""
    """STAGE_ENDED: ok, skip, failed, cancelled or abandoned. RUN_ENDED: the run's status,
    or lost when another process has taken it over. WAIT_EXCEEDED: the pool."""
    reason: str = ""
    """WAIT_EXCEEDED: who holds what is waited for, nearest first; other tenants are not named."""
    tenant: str = "default"


RawEvent: TypeAlias = tuple[str, str, str | None, int, float, float, str, str, str]
"""The fields of an Event, its type as the value."""


class Subscription:
    """A bounded queue of events. When it is full, new events are dropped and counted.

    `async for event in subscription` waits for more until `close`. May be read from one task.
    """

    __slots__ = ("_closed", "_queue", "_waiter", "dropped", "queue_max")

    # Queued are plain tuples of atoms, which the garbage collector stops looking at; a queue of
    # Events would be walked by every full collection.

    def __init__(self, *, queue_max: int = 10_000) -> None:
        """BuildError `runtime.option` when `queue_max` is no whole number above 0."""
        if not is_count(queue_max, least=1):
            raise BuildError(
                "runtime.option",
                "a queue of events must have room",
                field="queue_max",
                expected="a whole number, 1 or more",
                got=repr(queue_max)[:80],
                fix="Subscription(queue_max=10_000)",
            )
        self.queue_max = queue_max
        self.dropped = 0
        """Events that found the queue full."""
        self._queue: deque[RawEvent] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    def push(self, event: RawEvent) -> None:
        """Adds an event, or counts it as dropped. Never waits."""
        if len(self._queue) >= self.queue_max:
            self.dropped += 1
            return
        self._queue.append(event)
        if self._waiter is not None:
            self._wake()

    def drain(self) -> list[Event]:
        """All queued events, which leave the queue."""
        events = [_event(raw) for raw in self._queue]
        self._queue.clear()
        return events

    def close(self) -> None:
        """Ends iteration after what is queued."""
        self._closed = True
        self._wake()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return _event(self._queue.popleft())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _event(raw: RawEvent) -> Event:
    return Event(EventType(raw[0]), *raw[1:])
