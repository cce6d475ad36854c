"""What a durable append costs, as a ratio to the bare commit of the same bytes by the same driver.

    python benchmarks/journal_floor.py [--folder DIR] [--postgres URL] [--repeats 9]

An append is two records (an outcome with its payload, and the next stage's intent), as one step
of a chain writes them. Floor of SQLite: BEGIN IMMEDIATE, two inserts of rows with the same payload
under the key (run, seq), COMMIT, on the calling thread. Floor of PostgreSQL: one prepared INSERT of
both rows, which commits by itself and so takes one round trip; beside it the same in the usual
four (BEGIN, INSERT, INSERT, COMMIT). Subjects and floor take turns (ABBA) in one process on one
disk; medians. PostgreSQL is left out, and the reason is told, when no server is there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from stageflow.journal.journal import GroupCommit
from stageflow.journal.sqlite import SQLiteStore
from stageflow.journal.store import Append, Owner, RunHeader, Store
from stageflow.model.ids import RunIds
from stageflow.model.record import Record, RecordType

PAYLOAD = b"x" * 100
APPENDS = 400
CONCURRENCY = 100
POSTGRES = os.environ.get("STAGEFLOW_TEST_POSTGRES", "postgresql://root@127.0.0.1:5432/test")
"""A database in which schemas may be made."""


def records(step: int) -> tuple[Record, Record]:
    """What one step of a chain writes; the run's first record is seq 1."""
    node, seq = f"stage_{step}", 2 * step + 2
    data = {"accepted": True, "status": "ok"}
    return (
        Record(RecordType.OUTCOME, seq, node, 0, 1, step, 1e9, data, "c0ffee", payload=PAYLOAD),
        Record(RecordType.INTENT, seq + 1, f"stage_{step + 1}", 0, 1, step + 1, 1e9),
    )


def header() -> RunHeader:
    """A new run."""
    return RunHeader(RunIds()(), "default", "bench", None, None, None, None, time.time(), {}, 0)


STARTED = (Record(RecordType.RUN_STARTED, 1, payload=PAYLOAD),)


class PostgresFloor:
    """As Floor, in a schema of its own in the database at `url`; and addresses beside it."""

    def __init__(self, url: str) -> None:
        import psycopg  # an extra: without it only SQLite is measured

        self._schema = f"bench_{RunIds()()}"
        self.url = f"{url}{'&' if '?' in url else '?'}schema={self._schema}_runs"
        self._connection = psycopg.connect(url, autocommit=True, connect_timeout=5)
        self._connection.execute(f"CREATE SCHEMA {self._schema}")
        self._connection.execute(f"SET search_path TO {self._schema}")
        self._connection.execute(
            "CREATE TABLE lines (run text, seq bigint, node text, data text, payload bytea,"
            " PRIMARY KEY (run, seq))"
        )

    def _rows(self, run: str, seq: int) -> tuple[tuple[object, ...], tuple[object, ...]]:
        data = '{"accepted":true,"status":"ok"}'
        return (run, seq, "stage", data, PAYLOAD), (run, seq + 1, "stage", "", None)

    def __call__(self) -> float:
        """Seconds a commit, of one statement."""
        run, execute = RunIds()(), self._connection.execute
        begun = time.perf_counter()
        for seq in range(0, 2 * APPENDS, 2):
            one, other = self._rows(run, seq)
            insert = "INSERT INTO lines VALUES (%s, %s, %s, %s, %s), (%s, %s, %s, %s, %s)"
            execute(insert, (*one, *other), prepare=True)
        return (time.perf_counter() - begun) / APPENDS

    def in_four(self) -> float:
        """Seconds a commit, of four statements."""
        run, execute = RunIds()(), self._connection.execute
        begun = time.perf_counter()
        for seq in range(0, 2 * APPENDS, 2):
            execute("BEGIN")
            for row in self._rows(run, seq):
                execute("INSERT INTO lines VALUES (%s, %s, %s, %s, %s)", row, prepare=True)
            execute("COMMIT")
        return (time.perf_counter() - begun) / APPENDS

    def close(self) -> None:
        """Leave the database as it was."""
        for schema in (self._schema, f"{self._schema}_runs"):
            self._connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        self._connection.close()


class Floor:
    """The least code that writes the same bytes as durably."""

    def __init__(self, path: Path) -> None:
        self._file = sqlite3.connect(path, isolation_level=None)
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("PRAGMA synchronous = FULL")
        self._file.execute(
            "CREATE TABLE lines (run TEXT, seq INTEGER, node TEXT, data TEXT, payload BLOB,"
            " PRIMARY KEY (run, seq))"
        )

    def __call__(self) -> float:
        """Seconds a commit."""
        run, data = RunIds()(), '{"accepted":true,"status":"ok"}'
        begun = time.perf_counter()
        for seq in range(0, 2 * APPENDS, 2):
            self._file.execute("BEGIN IMMEDIATE")
            for row in ((run, seq, "stage", data, PAYLOAD), (run, seq + 1, "stage", "", None)):
                self._file.execute("INSERT INTO lines VALUES (?, ?, ?, ?, ?)", row)
            self._file.execute("COMMIT")
        return (time.perf_counter() - begun) / APPENDS

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def store_alone(store: Store) -> float:
    """Seconds an append, blocking, without threads or event loop."""
    run = header()
    store.create(run, Owner.this_process(), STARTED)
    begun = time.perf_counter()
    for step in range(APPENDS):
        store.commit([Append(run.run, 1, records(step))])
    return (time.perf_counter() - begun) / APPENDS


async def chain(journal: GroupCommit) -> float:
    """Seconds an append of one run, each awaited before the next."""
    run = header()
    await journal.create(run, STARTED)
    begun = time.perf_counter()
    for step in range(APPENDS):
        await journal.append(run.run, 1, records(step))
    return (time.perf_counter() - begun) / APPENDS


async def crowd(journal: GroupCommit) -> float:
    """Seconds an append when many runs append at once."""
    runs = [header() for _ in range(CONCURRENCY)]
    for run in runs:
        await journal.create(run, STARTED)
    steps = APPENDS * 5 // CONCURRENCY

    async def one(run: RunHeader) -> None:
        for step in range(steps):
            await journal.append(run.run, 1, records(step))

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for run in runs:
            group.create_task(one(run))
    return (time.perf_counter() - begun) / (steps * CONCURRENCY)


def measured_in_postgres(url: str, *, repeats: int) -> dict[str, float] | str:
    """As `measured`; or why it can't be."""
    try:
        floor = PostgresFloor(url)
    except Exception as error:  # no driver, no server, no right: told, and not measured
        return f"not measured: {str(error).splitlines()[0]}"
    from stageflow.journal.postgres.store import PostgresStore

    try:
        stores = PostgresStore(floor.url), PostgresStore(floor.url)
        return measured(floor, *stores, repeats=repeats, others={"in_four": floor.in_four})
    finally:
        floor.close()


def measured_in_sqlite(folder: Path, *, repeats: int) -> dict[str, float]:
    """As `measured`."""
    floor = Floor(folder / "floor.db")
    stores = SQLiteStore(folder / "store.db"), SQLiteStore(folder / "journal.db")
    result = measured(floor, *stores, repeats=repeats)
    floor.close()
    return result


def measured(
    floor: Callable[[], float],
    store: Store,
    another: Store,
    *,
    repeats: int,
    others: Mapping[str, Callable[[], float]] | None = None,
) -> dict[str, float]:
    """Median microseconds an append of floor and subjects, and their ratios to the floor."""
    journal = GroupCommit(another)
    loop = asyncio.new_event_loop()
    subjects: dict[str, Callable[[], float]] = {
        "floor": floor,
        **(others or {}),
        "store": lambda: store_alone(store),
        "chain": lambda: loop.run_until_complete(chain(journal)),
        f"crowd_of_{CONCURRENCY}": lambda: loop.run_until_complete(crowd(journal)),
    }
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for repeat in range(repeats + 1):
        order = list(subjects) if repeat % 2 else list(reversed(subjects))
        for name in order:
            seconds = subjects[name]()
            if repeat:  # the first round warms caches and files
                times[name].append(seconds)
    loop.run_until_complete(journal.close())
    loop.close()
    store.close()
    result = {f"{name}_us": statistics.median(taken) * 1e6 for name, taken in times.items()}
    for name in list(subjects)[1:]:
        pairs = zip(times[name], times["floor"], strict=True)
        result[f"{name}_ratio"] = statistics.median(ours / bare for ours, bare in pairs)
    return {name: round(value, 3) for name, value in result.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", help="where the files go; give one on the disk in question")
    parser.add_argument("--postgres", default=POSTGRES, metavar="URL")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result["sqlite"] = measured_in_sqlite(Path(folder), repeats=options.repeats)
    result["postgres"] = measured_in_postgres(options.postgres, repeats=options.repeats)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
