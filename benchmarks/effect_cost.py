"""What an effect through the ledger costs, as a ratio to the bare transaction of the same bytes.

    python benchmarks/effect_cost.py [--folder DIR] [--repeats 7] [--postgres URL]

Floor: one row of 100 bytes in a transaction of its own, on the calling thread: SQLite in WAL mode
with synchronous=FULL, PostgreSQL with synchronous commit. Subjects: the same row as a transactional
effect of a one-stage pipeline; an effect elsewhere that costs nothing (two ledger commits: the
intent and the record); a duplicate, which is given the recorded result. Floor and subjects take
turns; medians. Without --postgres only SQLite is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stageflow import Pipeline, Runtime, work
from stageflow.stages.work import Ledger, idempotent

EFFECTS = 150
PAYLOAD = "x" * 100


@work(keyed=True, name="done")
@idempotent(key="{row}", sink="transactional")
def row_written(row: str, tx: Any) -> str:
    mark = "?" if isinstance(tx, sqlite3.Connection) else "%s"
    tx.execute(f"INSERT INTO bench_rows VALUES ({mark}, {mark})", (row, PAYLOAD))
    return row


@work(keyed=True, name="done")
@idempotent(key="{row}")
async def caused(row: str) -> str:
    return row


@work(keyed=True, name="done")
async def bare_stage(row: str, ledger: Ledger) -> str:
    return row


def pipeline(stage: Any) -> Pipeline[Any]:
    """One stage, with the ledger as its dep."""
    return Pipeline("bench", [stage], inputs={"row": str}, deps={"ledger": Ledger})


class Database:
    """A floor, and a ledger in the same database."""

    def __init__(self, name: str, connection: Any, ledger: Ledger) -> None:
        self.name = name
        self._connection = connection
        self._mark = "?" if name == "sqlite" else "%s"
        connection.execute("CREATE TABLE IF NOT EXISTS bench_rows (name text, payload text)")
        connection.commit()
        self.runtime = Runtime(deps={"ledger": lambda: ledger})

    def floor(self) -> float:
        """Seconds a transaction."""
        insert = f"INSERT INTO bench_rows VALUES ({self._mark}, {self._mark})"
        begun = time.perf_counter()
        for number in range(EFFECTS):
            self._connection.execute(insert, (str(number), PAYLOAD))
            self._connection.commit()
        return (time.perf_counter() - begun) / EFFECTS

    async def effects(self, stage: Pipeline[Any], *, rows: list[str]) -> float:
        """Seconds a run of one stage, one after another."""
        using = stage.using(runtime=self.runtime)
        begun = time.perf_counter()
        for row in rows:
            run = await using.run(row=row)
            assert run.status == "ok", run.failures
        return (time.perf_counter() - begun) / len(rows)

    def close(self) -> None:
        self._connection.execute("DROP TABLE bench_rows")
        self._connection.commit()
        self._connection.close()


def measured(database: Database, loop: asyncio.AbstractEventLoop, repeats: int) -> dict[str, float]:
    """Median microseconds of floor and subjects, and their ratios to the floor."""

    def fresh() -> list[str]:
        return [uuid.uuid4().hex for _ in range(EFFECTS)]

    plain, stage, tx = pipeline(caused), pipeline(bare_stage), pipeline(row_written)
    once = fresh()
    loop.run_until_complete(database.effects(plain, rows=once))
    subjects: dict[str, Callable[[], float]] = {
        "floor": database.floor,
        "stage_alone": lambda: loop.run_until_complete(database.effects(stage, rows=once)),
        "transactional": lambda: loop.run_until_complete(database.effects(tx, rows=fresh())),
        "elsewhere": lambda: loop.run_until_complete(database.effects(plain, rows=fresh())),
        "duplicate": lambda: loop.run_until_complete(database.effects(plain, rows=once)),
    }
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for repeat in range(repeats + 1):
        for name in list(subjects) if repeat % 2 else list(reversed(subjects)):
            seconds = subjects[name]()
            if repeat:  # the first round warms caches and files
                times[name].append(seconds)
    result = {
        f"{database.name}_{name}_us": statistics.median(taken) * 1e6
        for name, taken in times.items()
    }
    for name in list(subjects)[1:]:
        pairs = zip(times[name], times["floor"], strict=True)
        result[f"{database.name}_{name}_ratio"] = statistics.median(a / b for a, b in pairs)
    loop.run_until_complete(database.runtime.aclose())
    database.close()
    return {name: round(value, 2) for name, value in result.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", help="where the SQLite file lies; default: a temporary folder")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--postgres", metavar="URL", help="measure this database too")
    chosen = parser.parse_args()
    loop = asyncio.new_event_loop()
    result = {}
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        path = Path(folder) / "bench.db"
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        result |= measured(Database("sqlite", connection, Ledger(path)), loop, chosen.repeats)
        if chosen.postgres:
            import psycopg  # an extra

            database = psycopg.connect(chosen.postgres)
            ledger = Ledger(chosen.postgres)
            result |= measured(Database("postgres", database, ledger), loop, chosen.repeats)
    loop.close()
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
