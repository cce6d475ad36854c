"""What the runtime awaits: a journal, and the group commit that makes one of any store.

One writer thread owns the store's writing. It flushes at once when idle; whatever arrives while a
flush runs goes into the next one, as one transaction for all runs (DeWitt et al., "Implementation
techniques for main memory database systems", SIGMOD 1984). So a lone run pays one commit an
append, and a hundred runs share it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from stageflow.journal.keys import BringsKeys, Keys
from stageflow.journal.queue import QueueBounds, QueueStore, Wanted
from stageflow.journal.store import (
    Append,
    KeepsRefused,
    LoadedRun,
    Owner,
    RefusedWrite,
    RunHeader,
    RunSummary,
    SessionTurns,
    Store,
    TellsLosses,
)
from stageflow.model.errors import JournalError
from stageflow.model.marks import carrying, reached
from stageflow.model.record import Record

QUEUE_MAX = 10_000
BATCH_BYTES_MAX = 16 * 1024 * 1024
_RECORD_BYTES = 256
"""What a record weighs in a batch besides its payload."""

_T = TypeVar("_T")


class Journal(Protocol):
    """The durable history of runs, as the runtime sees it. Raises JournalError."""

    async def create(self, header: RunHeader, records: tuple[Record, ...]) -> int:
        """Start a run and return its epoch, once that is durable."""
        ...

    async def append(self, run: str, epoch: int, records: tuple[Record, ...]) -> None:
        """Add records, all or none; returns once they are durable.

        Appends of one run are written in the order of the calls. When the awaiting task is
        cancelled, the records may still be written: only a load tells.
        """
        ...

    async def claim(self, run: str, *, rerun: Sequence[str] | None = None) -> LoadedRun:
        """Take over an unfinished run whose owner has ended; a finished one comes back as it is.

        With `rerun`, one that did not end ok is taken up again; see Store.claim.
        """
        ...

    async def load(self, run: str) -> LoadedRun:
        """Read a run without touching it."""
        ...

    async def holds(self, run: str, *, tenant: str) -> bool:
        """Whether there is such a run of that tenant; see Store.holds."""
        ...

    async def runs(self, *, tenant: str | None = None, limit: int = 50) -> list[RunSummary]:
        """The latest runs, newest first."""
        ...

    async def turns(
        self, tenant: str, session: str, *, before: int | None = None, limit: int = 50
    ) -> SessionTurns:
        """Where a session of a tenant stands; see Store.turns."""
        ...

    async def close(self) -> None:
        """Write what was appended, then release the store. A second close does nothing."""
        ...


@runtime_checkable
class ErasesKeys(Protocol):
    """A journal that destroys the keys of runs; see Store.erase."""

    async def erase(self, run: str) -> int:
        """As Store.erase."""
        ...


@runtime_checkable
class QueueJournal(Protocol):
    """A journal that runs can be queued in; see stageflow.journal.queue."""

    async def enqueue(
        self,
        header: RunHeader,
        records: tuple[Record, ...],
        *,
        priority: int,
        bounds: QueueBounds,
    ) -> None:
        """As QueueStore.enqueue."""
        ...

    async def take(self, wanted: Wanted) -> LoadedRun | None:
        """As QueueStore.take, for this process."""
        ...

    async def waiting(self) -> Mapping[str, int]:
        """As QueueStore.waiting."""
        ...

    async def release(self, run: str, epoch: int) -> None:
        """As Store.release."""
        ...


@dataclass(slots=True, eq=False)
class _Request:
    """One thing asked of the writer, and where its answer goes."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    append: Append | None
    """None for a request that is not part of a batch."""
    call: Callable[[], object] | None
    """What to do instead of an append; None for an append."""
    size_bytes: int


_Answer = tuple[asyncio.Future[Any], object, Exception | None]
"""A future, its result, and instead of a result its failure."""


class GroupCommit:
    """Implements Journal over a store; usable from several event loops at once.

    Owns one daemon thread, from the first write until `close`. A forked child starts anew: what
    its parent had queued stays the parent's. At most `queue_max` requests stand in the queue;
    a further one waits outside it, and is never written when it is cancelled there.
    """

    def __init__(
        self,
        store: Store,
        *,
        owner: Owner | None = None,
        queue_max: int = QUEUE_MAX,
        batch_bytes_max: int = BATCH_BYTES_MAX,
    ) -> None:
        self._store = store
        self._given_owner = owner
        self._queue_max = queue_max
        self._batch_bytes_max = batch_bytes_max
        self._is_closed = False
        self._tell_lost: list[Callable[[str], None]] = []
        self._start_anew()

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._owner = self._given_owner or Owner.this_process()
        self._lock = threading.Lock()
        """Protects the fields below; never held across a store's call."""
        self._queue: deque[_Request] = deque()
        self._outside: deque[_Request] = deque()
        """Requests beyond the queue's bound, in order; empty unless the queue is full."""
        self._writer: threading.Thread | None = None
        self._is_idle = False
        """True while the writer waits for `_wake`."""
        self._wake = threading.Lock()
        self._wake.acquire()

    @property
    def owner(self) -> Owner:
        """The process that this journal writes for."""
        return self._owner

    @property
    def queued(self) -> int:
        """Requests in the queue now, at most `queue_max`."""
        return len(self._queue)

    async def create(self, header: RunHeader, records: tuple[Record, ...]) -> int:
        return await self._asked(lambda: self._store.create(header, self._owner, records))

    async def append(self, run: str, epoch: int, records: tuple[Record, ...]) -> None:
        size = sum(_RECORD_BYTES + len(record.payload or b"") for record in records)
        loop = asyncio.get_running_loop()
        append = Append(run, epoch, records)
        await self._submitted(_Request(loop, loop.create_future(), append, None, size))

    async def claim(self, run: str, *, rerun: Sequence[str] | None = None) -> LoadedRun:
        return await self._asked(lambda: self._store.claim(run, self._owner, rerun=rerun))

    async def enqueue(
        self,
        header: RunHeader,
        records: tuple[Record, ...],
        *,
        priority: int,
        bounds: QueueBounds,
    ) -> None:
        queue = self._queue_store()
        await self._asked(lambda: queue.enqueue(header, records, priority=priority, bounds=bounds))

    async def take(self, wanted: Wanted) -> LoadedRun | None:
        queue = self._queue_store()
        return await self._asked(lambda: queue.take(self._owner, wanted))

    async def waiting(self) -> Mapping[str, int]:
        self._check_open()
        return await asyncio.to_thread(self._queue_store().waiting)

    def _queue_store(self) -> QueueStore:
        if isinstance(self._store, QueueStore):
            return self._store
        raise JournalError(
            "queue.no_store",
            "the journal's store has no queue",
            expected="a store that implements QueueStore",
            got=type(self._store).__name__,
            fix="keep the journal in PostgreSQL or SQLite",
        )

    async def release(self, run: str, epoch: int) -> None:
        """As Store.release: lets go of an unfinished run."""
        await self._asked(lambda: self._store.release(run, epoch))

    def when_lost(self, tell: Callable[[str], None]) -> None:
        """`tell` is called, on another thread, with each run that another owner has taken; never
        for stores where that happens to dead processes only."""
        self._tell_lost.append(tell)
        if isinstance(self._store, TellsLosses):
            self._store.when_lost(self._lost)

    def _lost(self, run: str) -> None:
        for tell in self._tell_lost:
            tell(run)

    async def refused(self, run: str) -> tuple[RefusedWrite, ...]:
        """What former owners of `run` wrote too late; nothing where the store does not keep it."""
        self._check_open()
        if not isinstance(self._store, KeepsRefused):
            return ()
        return await asyncio.to_thread(self._store.refused, run)

    async def erase(self, run: str) -> int:
        return await self._asked(lambda: self._store.erase(run))

    def keys(self) -> Keys | None:
        """As the store's: what wraps keys when nobody says otherwise."""
        return self._store.keys() if isinstance(self._store, BringsKeys) else None

    async def load(self, run: str) -> LoadedRun:
        self._check_open()
        return await asyncio.to_thread(self._store.load, run)

    async def holds(self, run: str, *, tenant: str) -> bool:
        self._check_open()
        return await asyncio.to_thread(self._store.holds, run, tenant=tenant)

    async def runs(self, *, tenant: str | None = None, limit: int = 50) -> list[RunSummary]:
        self._check_open()
        return await asyncio.to_thread(self._store.runs, tenant=tenant, limit=limit)

    async def turns(
        self, tenant: str, session: str, *, before: int | None = None, limit: int = 50
    ) -> SessionTurns:
        self._check_open()
        return await asyncio.to_thread(
            self._store.turns, tenant, session, before=before, limit=limit
        )

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        request = _Request(loop, loop.create_future(), None, self._store.close, 0)
        if os.getpid() != self._pid:
            self._start_anew()
        with self._lock:
            if self._is_closed and self._writer is None:
                return
            self._enqueue(request)
            self._is_closed = True
        await request.future

    async def _asked(self, call: Callable[[], _T]) -> _T:
        loop = asyncio.get_running_loop()
        answer: _T = await self._submitted(_Request(loop, loop.create_future(), None, call, 0))
        return answer

    async def _submitted(self, request: _Request) -> Any:
        if os.getpid() != self._pid:
            self._start_anew()
        with self._lock:
            self._check_open()
            self._enqueue(request)
        try:
            return await request.future
        except asyncio.CancelledError:
            with self._lock:
                if request in self._outside:
                    self._outside.remove(request)
            raise

    def _check_open(self) -> None:
        if self._is_closed:
            raise JournalError(
                "journal.closed",
                "the journal was closed",
                expected="an open journal",
                fix="end every run before the journal is closed, or open it again",
            )

    def _enqueue(self, request: _Request) -> None:
        """Called under the lock, so that what precedes `close` is in the queue before it."""
        if len(self._queue) < self._queue_max:
            self._queue.append(request)
        else:
            reached("journal_queue_full")
            self._outside.append(request)
        if self._writer is None:
            self._writer = threading.Thread(
                target=carrying(self._write), name="stageflow-journal", daemon=True
            )
            self._writer.start()
        elif self._is_idle:
            self._is_idle = False
            self._wake.release()

    def _write(self) -> None:
        """The writer's life: take what is there, write it, sleep when there is nothing."""
        while True:
            with self._lock:
                batch = self._taken()
                if not batch:
                    if self._is_closed:
                        self._writer = None
                        return
                    self._is_idle = True
            if not batch:
                self._wake.acquire()
            elif batch[0].call is not None:
                self._perform(batch[0])
            else:
                self._commit(batch)

    def _taken(self) -> list[_Request]:
        """The next batch of appends, or one other request; empty when nothing is queued."""
        batch: list[_Request] = []
        size = 0
        while self._queue and size < self._batch_bytes_max:
            if self._queue[0].call is not None and batch:
                break
            request = self._queue.popleft()
            batch.append(request)
            size += request.size_bytes
            if request.call is not None:
                break
        while self._outside and len(self._queue) < self._queue_max:
            self._queue.append(self._outside.popleft())
        return batch

    def _commit(self, batch: list[_Request]) -> None:
        appends = [request.append for request in batch if request.append is not None]
        if len(appends) > 1:
            reached("batch_of_several")
        try:
            answers: Sequence[Exception | None] = self._store.commit(appends)
        except Exception as error:
            # The store's boundary: whatever it met is these appends' answer, and the writer
            # goes on, because the next batch may fit on the disk.
            answers = [_write_failed(error) for _ in batch]
        by_loop: dict[asyncio.AbstractEventLoop, list[_Answer]] = {}
        for request, failure in zip(batch, answers, strict=True):
            by_loop.setdefault(request.loop, []).append((request.future, None, failure))
        for loop, settled in by_loop.items():
            _deliver(loop, settled)

    def _perform(self, request: _Request) -> None:
        assert request.call is not None, "only appends are batched"
        result: object = None
        failure: Exception | None = None
        try:
            result = request.call()
        except Exception as error:  # the store's boundary, as in _commit
            failure = error if isinstance(error, JournalError) else _write_failed(error)
        _deliver(request.loop, [(request.future, result, failure)])


def _deliver(loop: asyncio.AbstractEventLoop, answers: list[_Answer]) -> None:
    """Wake `loop` once for all of its answers."""
    try:
        loop.call_soon_threadsafe(_settle, answers)
    except RuntimeError:
        # The loop was closed while its requests were written: nobody is left to be told.
        return


def _settle(answers: list[_Answer]) -> None:
    for future, result, failure in answers:
        if future.done():
            continue  # its task was cancelled
        if failure is None:
            future.set_result(result)
        else:
            future.set_exception(failure)


def _write_failed(cause: Exception) -> JournalError:
    """One error for each append, because each is raised with its own traceback."""
    if isinstance(cause, JournalError):
        error = JournalError(
            cause.code, cause.message, expected=cause.expected, got=cause.got, fix=cause.fix
        )
    else:
        error = JournalError(
            "journal.write_failed",
            "the store failed to write",
            expected="a store that can write",
            got=type(cause).__name__,
            fix="look at the cause: a full disk, a file held by another process, lost rights",
        )
    error.__cause__ = cause
    return error
