"""A real process that drives sagas over SQLite, until it is done or kills itself by SIGKILL."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stageflow import Runtime
from stageflow.journal.opening import opened
from stageflow.journal.sqlite_locks import SQLiteLocks
from stageflow.journal.write_ahead import switch_to_wal

from .saga_books import START_CENTS, Followed, Post, booking, stands
from .saga_life import Mortal, lived, read_on
from .saga_pipelines import pipelines_of
from .saga_specs import Death, Saga

TRAVEL_S: Final = 0.002
READERS: Final = 2
BUSY_S: Final = 30.0
TOLD_EVERY_S: Final = 0.02
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS posts (
  number INTEGER PRIMARY KEY AUTOINCREMENT, saga TEXT, leg TEXT, is_undo INTEGER, key TEXT,
  account TEXT, cents INTEGER);
CREATE INDEX IF NOT EXISTS posts_by_key ON posts(key);
CREATE TABLE IF NOT EXISTS tries (saga TEXT, leg TEXT, is_undo INTEGER, times INTEGER,
  PRIMARY KEY (saga, leg, is_undo));
CREATE TABLE IF NOT EXISTS mended (saga TEXT PRIMARY KEY);
"""


class SQLiteBooks:
    """The receivers' database. Implements Books."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        switch_to_wal(self._connection, wait_s=BUSY_S)
        self._connection.executescript(_TABLES)

    def book(self, saga: Saga, leg: str, *, is_undo: bool, key: str, honours_keys: bool) -> None:
        account, cents = booking(saga, leg, is_undo=is_undo)
        with self._transaction() as connection:
            known = connection.execute("SELECT 1 FROM posts WHERE key = ?", (key,)).fetchone()
            if known is None or not honours_keys:
                connection.execute(
                    "INSERT INTO posts (saga, leg, is_undo, key, account, cents)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (saga.name, leg, is_undo, key, account, cents),
                )

    def has(self, saga: str, leg: str, *, is_undo: bool) -> bool:
        done, undone = self._connection.execute(
            "SELECT count(*) FILTER (WHERE NOT is_undo), count(*) FILTER (WHERE is_undo)"
            " FROM posts WHERE saga = ? AND leg = ?",
            (saga, leg),
        ).fetchone()
        return stands(done, undone, is_undo=is_undo)

    def tried(self, saga: str, leg: str, *, is_undo: bool) -> int:
        (times,) = self._connection.execute(
            "INSERT INTO tries VALUES (?, ?, ?, 1)"
            " ON CONFLICT DO UPDATE SET times = times + 1 RETURNING times",
            (saga, leg, is_undo),
        ).fetchone()
        return int(times)

    def mend(self, saga: str) -> None:
        self._connection.execute("INSERT OR IGNORE INTO mended VALUES (?)", (saga,))

    def is_mended(self, saga: str) -> bool:
        found = self._connection.execute("SELECT 1 FROM mended WHERE saga = ?", (saga,)).fetchone()
        return found is not None

    def balance(self, account: str) -> int:
        (cents,) = self._connection.execute(
            "SELECT coalesce(sum(cents), 0) FROM posts WHERE account = ?", (account,)
        ).fetchone()
        return START_CENTS + int(cents)

    def posts(self) -> list[Post]:
        """All bookings, in order."""
        rows = self._connection.execute(
            "SELECT number, saga, leg, is_undo, key FROM posts ORDER BY number"
        ).fetchall()
        return [
            Post(number, saga, leg, bool(is_undo), key) for number, saga, leg, is_undo, key in rows
        ]

    def close(self) -> None:
        """Closes the database."""
        self._connection.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise


@dataclass(frozen=True, slots=True)
class Job:
    """What one life of a process has to do."""

    sagas: tuple[Saga, ...]
    life: int
    """How many processes have died at it before."""
    folder: Path
    seed: int


class RealProcess(Mortal):
    """This process."""

    def __init__(self, journal: Any, locks: Any, death: Death | None, rng: random.Random) -> None:
        super().__init__(journal, locks, death)
        self._rng = rng

    async def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def travel(self) -> None:
        await asyncio.sleep(self._rng.random() * TRAVEL_S)


def work_off(job: Job) -> None:
    """The body of a forked process."""
    asyncio.run(_work_off(job))


async def _work_off(job: Job) -> None:
    books = SQLiteBooks(job.folder / "books.db")
    journal, locks = opened(job.folder / "runs.db"), SQLiteLocks(job.folder / "locks.db")
    rng = random.Random(f"{job.seed}/{job.life}")
    reads: Counter[str] = Counter()
    with (job.folder / f"told{job.life}").open("a", encoding="utf-8") as told:

        async def follow(saga: Saga) -> None:
            death = saga.deaths[job.life] if job.life < len(saga.deaths) else None
            process = RealProcess(journal, locks, death, rng)
            followed = Followed(saga)
            runtime = Runtime(journal=process, locks=process)
            await lived(runtime, process, books, followed, pipelines_of(saga))
            tell(
                {
                    "saga": saga.name,
                    "status": followed.status,
                    "reason": followed.reason,
                    "stuck": followed.stuck,
                    "dishonest": followed.dishonest,
                }
            )

        def tell(what: dict[str, Any]) -> None:
            told.write(json.dumps(what) + "\n")
            told.flush()

        async def tell_reads() -> None:
            while True:
                await asyncio.sleep(TOLD_EVERY_S)
                tell({"reads": dict(reads)})  # the last line of a life counts

        reader = Runtime(journal=journal, locks=locks)
        branch = job.sagas[0].branch
        beside = [asyncio.ensure_future(tell_reads())]
        for _ in range(READERS):
            beside.append(asyncio.ensure_future(read_on(reader, branch, books, rng, reads)))
        try:
            await asyncio.gather(*(follow(saga) for saga in job.sagas))
        finally:
            for each in beside:
                each.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        tell({"reads": dict(reads)})
    await journal.close()
    await locks.close()
    books.close()
