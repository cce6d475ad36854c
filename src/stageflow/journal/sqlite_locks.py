"""Locks in a SQLite file, for the processes of one host."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias, TypeVar

from stageflow.journal.locks import FREE, Held, taken
from stageflow.journal.write_ahead import switch_to_wal
from stageflow.model.errors import JournalError

T = TypeVar("T")
Work: TypeAlias = Callable[[sqlite3.Connection], T]

BUSY_S = 30.0
"""How long a change waits for another process's."""
_TABLE = """
CREATE TABLE IF NOT EXISTS stageflow_locks (
  name TEXT PRIMARY KEY, holder TEXT, taken INTEGER NOT NULL) WITHOUT ROWID
"""
_INDEX = "CREATE INDEX IF NOT EXISTS stageflow_locks_of ON stageflow_locks(holder)"


class SQLiteLocks:
    """For the processes of one host: a file, in WAL mode, flushed at each change.

    A lock must not be forgotten by a crash of the machine: its run goes on afterwards.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path).absolute()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stageflow-locks")
        self._connection: sqlite3.Connection | None = None

    async def take(self, names: Sequence[str], holder: str) -> Mapping[str, Held]:
        def work(connection: sqlite3.Connection) -> Mapping[str, Held]:
            connection.execute("BEGIN IMMEDIATE")
            changed, others = taken(_read(connection, names), names, holder)
            connection.executemany(
                "INSERT OR REPLACE INTO stageflow_locks VALUES (?, ?, ?)",
                [(name, held.holder, held.taken) for name, held in changed.items()],
            )
            return others

        return await self._asked(work)

    async def look(self, names: Sequence[str]) -> Mapping[str, Held]:
        def work(connection: sqlite3.Connection) -> Mapping[str, Held]:
            return _read(connection, names)

        return await self._asked(work)

    async def drop(self, holder: str) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE stageflow_locks SET holder = NULL WHERE holder = ?", (holder,)
            )

        if self._connection is not None or self._path.exists():  # else nobody holds anything
            await self._asked(work)

    async def free(self, seen: Mapping[str, Held]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "UPDATE stageflow_locks SET holder = NULL"
                " WHERE name = ? AND holder = ? AND taken = ?",
                [(name, held.holder, held.taken) for name, held in seen.items()],
            )

        await self._asked(work)

    async def close(self) -> None:
        def work() -> None:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

        if self._connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, work)
        self._thread.shutdown()

    async def _asked(self, work: Work[T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._in_transaction, work)

    def _in_transaction(self, work: Work[T]) -> T:
        """Runs in the thread."""
        try:
            connection = self._opened()
            try:
                found = work(connection)
                connection.commit()
            except BaseException:
                connection.rollback()
                raise
        except sqlite3.Error as error:
            raise JournalError(
                "journal.locks",
                "the file that keeps who holds what can't be read or written",
                expected=f"a SQLite file at {self._path.name}",
                got=f"{type(error).__name__}: {error}"[:200],
                fix="look at the file, its folder's rights, and the room on its disk",
            ) from error
        return found

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(
                self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            switch_to_wal(connection, wait_s=BUSY_S)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(_TABLE)
            connection.execute(_INDEX)
            self._connection = connection
        return self._connection


def _read(connection: sqlite3.Connection, names: Sequence[str]) -> dict[str, Held]:
    marks = ", ".join("?" * len(names))
    rows = connection.execute(
        f"SELECT name, holder, taken FROM stageflow_locks WHERE name IN ({marks})", tuple(names)
    ).fetchall()
    return dict.fromkeys(names, FREE) | {row[0]: Held(row[1], row[2]) for row in rows}
