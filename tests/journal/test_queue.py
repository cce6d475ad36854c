"""Every store with a queue keeps its promises, and the kit notices one that does not."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stageflow.journal.conformance import (
    QUEUE_CHECKS,
    QUEUE_OWNER_CHECKS,
    another_process,
)
from stageflow.journal.memory import MemoryStore
from stageflow.journal.queue import QueueBounds, Wanted
from stageflow.journal.sqlite import SQLiteStore
from stageflow.journal.store import LoadedRun, Owner, RunHeader, Store
from stageflow.model.record import Record, RecordType


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store
    if request.param == "memory":
        made = MemoryStore()
    elif request.param == "sqlite":
        made = SQLiteStore(tmp_path / "runs.db")
    else:
        url = request.getfixturevalue("postgres_url")
        from stageflow.journal.postgres.store import PostgresStore

        made = PostgresStore(url)
    yield made
    made.close()


@pytest.mark.parametrize("check", QUEUE_CHECKS, ids=lambda check: check.__name__)
def test_a_queue_keeps_its_promises(check: Callable[[Store], None], store: Store) -> None:
    check(store)


@pytest.mark.parametrize("check", QUEUE_OWNER_CHECKS, ids=lambda check: check.__name__)
def test_orphans_are_taken_up(
    check: Callable[[Store, Any], None], store: Store, request: pytest.FixtureRequest
) -> None:
    if isinstance(store, MemoryStore | SQLiteStore):
        check(store, another_process)
    else:
        check(store, request.getfixturevalue("leased"))


class NoTurns(MemoryStore):
    """Serves whoever has the highest priority."""

    def take(self, owner: Owner, wanted: Wanted) -> LoadedRun | None:
        self._served.clear()
        return super().take(owner, wanted)


class NoPriority(MemoryStore):
    """Serves whoever came first."""

    def enqueue(
        self, header: RunHeader, records: tuple[Record, ...], *, priority: int, bounds: QueueBounds
    ) -> None:
        super().enqueue(header, records, priority=0, bounds=bounds)


class NoBounds(MemoryStore):
    """Takes whatever comes."""

    def enqueue(
        self, header: RunHeader, records: tuple[Record, ...], *, priority: int, bounds: QueueBounds
    ) -> None:
        without = QueueBounds(10**9, 10**9)
        super().enqueue(header, records, priority=priority, bounds=without)


class ServesTwice(MemoryStore):
    """Leaves what was taken in the queue."""

    def take(self, owner: Owner, wanted: Wanted) -> LoadedRun | None:
        before = dict(self._queue)
        taken = super().take(owner, wanted)
        self._queue = before
        return taken


@pytest.mark.parametrize("kind", [NoTurns, NoPriority, NoBounds, ServesTwice])
def test_the_kit_notices_a_queue_that_breaks_a_promise(kind: type[MemoryStore]) -> None:
    with pytest.raises(AssertionError, match="broken promise"):
        for check in QUEUE_CHECKS:
            check(kind())


def test_a_journal_of_version_1_gets_its_queue(tmp_path: Path) -> None:
    """And keeps its runs."""
    path = tmp_path / "runs.db"
    header = RunHeader("r", "default", "desk", "shop:desk", None, None, None, 0.0, {}, 0)
    started = Record(RecordType.RUN_STARTED, 1, payload=b"{}")
    store = SQLiteStore(path)
    store.create(header, Owner.this_process(), (started,))
    store.close()
    file = sqlite3.connect(path)
    for table in ("queue", "served", "turns", "sessions", "keys"):
        file.execute(f"DROP TABLE {table}")
    file.execute("DROP INDEX heads_running")
    file.execute("PRAGMA user_version = 1")
    file.close()
    store = SQLiteStore(path)
    assert store.load("r").records == (started,) and store.waiting() == {}
    store.close()


def test_a_damaged_run_in_the_queue_stops_no_worker(store: Store) -> None:
    """It leaves the queue, and the next one is taken."""
    if isinstance(store, MemoryStore):
        pytest.skip("memory can't be damaged")
    for run in ("bad", "good"):
        header = RunHeader(run, "default", "desk", "shop:desk", None, None, None, 0.0, {}, 0)
        started = Record(RecordType.RUN_STARTED, 1, payload=b"{}")
        store.enqueue(header, (started,), priority=0, bounds=QueueBounds(9, 9))  # type: ignore[attr-defined]
    spoil = "UPDATE records SET attempt = 7 WHERE run = 'bad'"
    if isinstance(store, SQLiteStore):
        file = sqlite3.connect(store.path)
        with file:
            file.execute(spoil)
        file.close()
    else:
        store._writer.open().execute(spoil)  # type: ignore[attr-defined]
    taken = store.take(Owner.this_process(), Wanted(("shop:desk",), 9))  # type: ignore[attr-defined]
    assert taken.header.run == "good" and store.waiting() == {}  # type: ignore[attr-defined]
