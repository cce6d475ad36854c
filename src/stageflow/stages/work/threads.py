"""Worker threads in which a blocking store is asked, each with a connection of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from stageflow.model.errors import EffectError

C = TypeVar("C")
T = TypeVar("T")


class ThreadConnections(Generic[C]):
    """At most `most` threads with a connection each, opened when first used, and again after it
    was given up. Safe for any number of tasks and event loops."""

    def __init__(
        self,
        open_: Callable[[], C],
        close: Callable[[C], None],
        *,
        most: int,
        closed: Callable[[], EffectError],
    ) -> None:
        """`closed` makes the error of a use after the end."""
        self._open = open_
        self._close = close
        self._closed_error = closed
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="stageflow-effects")
        self._local = threading.local()
        self._lock = threading.Lock()
        """Held while `_all` changes."""
        self._all: list[C] = []
        self._is_closed = False

    async def use(self, work: Callable[[C], T]) -> T:
        """`work(connection)` in one of the threads; to its end, though the task be cancelled."""
        if self._is_closed:
            raise self._closed_error()
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._with, work)

    def _with(self, work: Callable[[C], T]) -> T:
        return work(self.mine())

    def mine(self) -> C:
        """Of the calling thread: its connection."""
        connection: C | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._open()
            with self._lock:
                self._all.append(connection)
        return connection

    def give_up(self) -> None:
        """Of the calling thread: its connection is broken; the next use opens another."""
        connection: C | None = getattr(self._local, "connection", None)
        if connection is not None:
            self._local.connection = None
            with self._lock:
                self._all.remove(connection)
            self._close(connection)

    async def close(self) -> None:
        """Waits for what is under way, then closes every connection."""
        if self._is_closed:
            return
        self._is_closed = True
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._threads.shutdown)
        with self._lock:
            while self._all:
                self._close(self._all.pop())
