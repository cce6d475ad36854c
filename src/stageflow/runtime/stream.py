"""Items that stages emit while they run, handed to one reader that may push back."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, NamedTuple

from stageflow.model.marks import reached


class Emitted(NamedTuple):
    """One item of a stream."""

    node: str
    item: Any


class StreamQueue:
    """A bounded queue between the stages of one run and the reader of its stream.

    `put` waits while the queue is full, so a fast producer runs at the reader's pace.
    """

    __slots__ = ("_closed", "_getter", "_items", "_items_max", "_putters")

    def __init__(self, items_max: int) -> None:
        self._items: deque[Emitted] = deque()
        self._items_max = items_max
        self._putters: deque[asyncio.Future[None]] = deque()
        self._getter: asyncio.Future[None] | None = None
        self._closed = False

    async def put(self, item: Emitted) -> None:
        """Adds an item; waits for room. After `close` it is dropped: nobody reads any more."""
        while len(self._items) >= self._items_max and not self._closed:
            putter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._putters.append(putter)
            reached("stream_waited")
            try:
                await putter
            except BaseException:
                if putter.done() and not putter.cancelled():
                    self._wake_putter()  # the room offered to this one goes to the next
                elif putter in self._putters:
                    self._putters.remove(putter)
                raise
        if not self._closed:
            self.put_released(item)

    def put_released(self, item: Emitted) -> None:
        """Adds an item that a guard has just released; these were bounded while held."""
        self._items.append(item)
        if self._getter is not None and not self._getter.done():
            self._getter.set_result(None)

    async def get(self) -> Emitted | None:
        """The next item; None when the stream is closed and empty."""
        while not self._items:
            if self._closed:
                return None
            self._getter = asyncio.get_running_loop().create_future()
            try:
                await self._getter
            finally:
                self._getter = None
        item = self._items.popleft()
        self._wake_putter()
        return item

    def close(self) -> None:
        """No more items; waiting producers go on, and what they bring is dropped."""
        self._closed = True
        while self._putters:
            self._wake_putter()
        if self._getter is not None and not self._getter.done():
            self._getter.set_result(None)

    def _wake_putter(self) -> None:
        while self._putters:
            putter = self._putters.popleft()
            if not putter.done():
                putter.set_result(None)
                return
