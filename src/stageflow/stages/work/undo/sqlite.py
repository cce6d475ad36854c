"""Undo logs in a SQLite file, which may be the user's own database.

Two tables beside the user's. WAL with synchronous=FULL: a record is on the disk when `change`
returns (https://www.sqlite.org/wal.html). For the processes of one host.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from stageflow.journal.write_ahead import switch_to_wal
from stageflow.stages.work.threads import ThreadConnections
from stageflow.stages.work.undo.store import Decide, TimelineHead, closed, unreachable

BUSY_S = 30.0
"""How long a change waits for another process's transaction."""
_TABLES = """
CREATE TABLE IF NOT EXISTS stageflow_undo_heads (
  timeline TEXT PRIMARY KEY, head BLOB NOT NULL, is_unfinished INTEGER NOT NULL,
  used_s REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS stageflow_undo_unfinished ON stageflow_undo_heads(timeline)
WHERE is_unfinished;
CREATE INDEX IF NOT EXISTS stageflow_undo_used ON stageflow_undo_heads(used_s);
CREATE TABLE IF NOT EXISTS stageflow_undo (
  timeline TEXT, place INTEGER, record BLOB NOT NULL, PRIMARY KEY (timeline, place)) WITHOUT ROWID
"""
_HEAD = "SELECT head FROM stageflow_undo_heads WHERE timeline = ?"
_SET_HEAD = "INSERT OR REPLACE INTO stageflow_undo_heads VALUES (?, ?, ?, ?)"
_APPEND = "INSERT INTO stageflow_undo VALUES (?, ?, ?)"
_ERASE = "DELETE FROM stageflow_undo WHERE timeline = ?"
_READ = "SELECT record FROM stageflow_undo WHERE timeline = ? AND place >= ? ORDER BY place"
_UNFINISHED = "SELECT timeline FROM stageflow_undo_heads WHERE is_unfinished ORDER BY timeline"
_LATEST = """SELECT timeline, head FROM stageflow_undo_heads
WHERE used_s > 0 ORDER BY used_s DESC LIMIT ?"""
_IDLE = """SELECT timeline FROM stageflow_undo_heads
WHERE used_s > 0 AND used_s < ? AND NOT is_unfinished ORDER BY used_s"""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(TimelineHead)

T = TypeVar("T")


class SQLiteUndo:
    """Implements UndoStore over the file at `path`, which is made when it is missing."""

    def __init__(
        self, path: str | os.PathLike[str], *, wall_s: Callable[[], float] = time.time
    ) -> None:
        self._path = Path(path).absolute()
        self._wall_s = wall_s
        # One thread: SQLite has one writer at a time, and waiting for it in line is fair.
        self._connections = ThreadConnections(
            self._opened, sqlite3.Connection.close, most=1, closed=closed
        )

    def _opened(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        switch_to_wal(connection, wait_s=BUSY_S)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")
        connection.executescript(_TABLES)
        return connection

    async def change(self, timeline: str, decide: Decide[T]) -> T:
        def work(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                row = connection.execute(_HEAD, (timeline,)).fetchone()
                head = TimelineHead() if row is None else _decoder.decode(row[0])
                change, answer = decide(head, self._wall_s())
                if change is not None:
                    after = change.head
                    data = _encoder.encode(after)
                    row = (timeline, data, after.is_unfinished, after.used_s)
                    connection.execute(_SET_HEAD, row)
                    if change.erases:
                        connection.execute(_ERASE, (timeline,))
                    connection.executemany(
                        _APPEND,
                        (
                            (timeline, place, record)
                            for place, record in enumerate(change.records, head.length)
                        ),
                    )
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return answer

        return await self._use(work)

    async def read(self, timeline: str, since: int) -> list[bytes]:
        return await self._use(
            lambda connection: [row[0] for row in connection.execute(_READ, (timeline, since))]
        )

    async def unfinished(self) -> list[str]:
        return await self._use(
            lambda connection: [row[0] for row in connection.execute(_UNFINISHED)]
        )

    async def latest(self, count: int) -> list[tuple[str, TimelineHead]]:
        return await self._use(
            lambda connection: [
                (timeline, _decoder.decode(head))
                for timeline, head in connection.execute(_LATEST, (count,))
            ]
        )

    async def idle(self, for_s: float) -> list[str]:
        until_s = self._wall_s() - for_s
        return await self._use(
            lambda connection: [row[0] for row in connection.execute(_IDLE, (until_s,))]
        )

    async def _use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await self._connections.use(work)
        except sqlite3.Error as error:
            raise unreachable("SQLite", error) from error

    async def close(self) -> None:
        await self._connections.close()
