"""A ledger's entries in a SQLite file, which may be the user's own database.

One table beside the user's, `stageflow_effects`. WAL with synchronous=FULL: a change is on the disk
when it returns (https://www.sqlite.org/wal.html). For the processes of one host.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from stageflow.journal.write_ahead import switch_to_wal
from stageflow.model.errors import EffectError
from stageflow.stages.work.ledger.entry import EXPIRING, EffectEntry
from stageflow.stages.work.ledger.store import (
    Decide,
    Within,
    closed,
    decoded,
    encoded,
    unreachable,
)
from stageflow.stages.work.threads import ThreadConnections

BUSY_S = 30.0
"""How long a change waits for another process's transaction."""
_TABLE = """
CREATE TABLE IF NOT EXISTS stageflow_effects (
  key TEXT PRIMARY KEY, entry BLOB NOT NULL, expires_s REAL) WITHOUT ROWID
"""
_INDEX = """
CREATE INDEX IF NOT EXISTS stageflow_effects_expiry ON stageflow_effects(expires_s)
WHERE expires_s IS NOT NULL
"""
_READ = "SELECT entry FROM stageflow_effects WHERE key = ?"
_WRITE = "INSERT OR REPLACE INTO stageflow_effects VALUES (?, ?, ?)"
_DELETE = "DELETE FROM stageflow_effects WHERE key = ?"
_SWEEP = "DELETE FROM stageflow_effects WHERE expires_s < ?"

T = TypeVar("T")


class SQLiteEffects:
    """Implements EffectStore over the file at `path`, which is made when it is missing.

    `wall_s` is the store's clock: that of the one host whose processes share the file. A
    transactional effect is given the open `sqlite3.Connection`, in its worker thread.
    """

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
        try:
            connection = sqlite3.connect(
                self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            switch_to_wal(connection, wait_s=BUSY_S)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute(_TABLE)
            connection.execute(_INDEX)
        except sqlite3.Error as error:
            raise unreachable("SQLite", error) from error
        return connection

    async def change(self, key: str, decide: Decide[T]) -> T:
        def work(connection: sqlite3.Connection) -> T:
            # What a read decides needs no lock when it changes nothing: duplicates of what is done.
            entry = self._read(connection, key)
            changed, answer = decide(entry, self._wall_s())
            if changed is entry and entry is not None:
                return answer
            return self._in_transaction(
                connection, key, lambda entry, now_s, _: decide(entry, now_s)
            )

        return await self._connections.use(_coded(work))

    async def change_within(self, key: str, decide: Within[T]) -> T:
        return await self._connections.use(
            lambda connection: self._in_transaction(connection, key, decide)
        )

    def _read(self, connection: sqlite3.Connection, key: str) -> EffectEntry | None:
        row = connection.execute(_READ, (key,)).fetchone()
        return None if row is None else decoded(row[0], key)

    def _in_transaction(self, connection: sqlite3.Connection, key: str, decide: Within[T]) -> T:
        """Reads, decides and writes under the write lock: nobody comes between."""
        _coded(connection.execute)("BEGIN IMMEDIATE")
        try:
            entry = _coded(self._read)(connection, key)
            changed, answer = decide(entry, self._wall_s(), connection)
            if changed is not entry:
                _coded(self._write)(connection, key, changed)
            _coded(connection.execute)("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return answer

    def _write(self, connection: sqlite3.Connection, key: str, entry: EffectEntry | None) -> None:
        if entry is None:
            connection.execute(_DELETE, (key,))
        else:
            expires_s = entry.until_s if entry.state in EXPIRING else None
            connection.execute(_WRITE, (key, encoded(entry), expires_s))

    async def sweep(self, *, skew_s: float) -> int:
        def work(connection: sqlite3.Connection) -> int:
            return connection.execute(_SWEEP, (self._wall_s() - skew_s,)).rowcount

        return await self._connections.use(_coded(work))

    async def close(self) -> None:
        await self._connections.close()


C = TypeVar("C", bound=Callable[..., object])


def _coded(call: C) -> C:
    """`call`, with SQLite's errors as `effect.store`; a user's statements keep their own."""

    def coded(*args: object) -> object:
        try:
            return call(*args)
        except EffectError:
            raise
        except sqlite3.Error as error:
            raise unreachable("SQLite", error) from error

    return coded  # type: ignore[return-value]
