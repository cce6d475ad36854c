"""Tables beside the journal's, in its schema: made when they are missing, used by one thread."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import psycopg

from stageflow.journal.postgres.access import Access, Connection, Work, translated, unreachable
from stageflow.journal.postgres.address import Address
from stageflow.journal.postgres.link import Link, Watch, is_lost
from stageflow.journal.postgres.schema import SEES_EVERY, prepare

T = TypeVar("T")


def made_for_every_tenant(table: str, columns: str) -> str:
    """The statements that make a table whose rows only those see who see every tenant."""
    return f"""
CREATE TABLE {table} ({columns});
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
CREATE POLICY every_tenant ON {table} USING {SEES_EVERY} WITH CHECK {SEES_EVERY};"""


class Beside:
    """Owns one thread and one connection. Raises JournalError as a journal does.

    `make` makes `table` where it is missing. `links` are watched beside its own."""

    def __init__(
        self,
        address: Address,
        *,
        name: str,
        table: str,
        make: Callable[[Connection], None],
        links: tuple[Link, ...] = (),
    ) -> None:
        self._address = address
        self._name = name
        self._table = table
        """There once `make` was called, in the transaction of that call."""
        self._make = make
        self._link = Link(address, name=name)
        self._access = Access(self._link, away_s=address.away_s)
        self._watch = Watch(address.answer_s, (self._link, *links))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"stageflow-{name}")
        self._is_ready = False

    async def durably(self, do: Callable[[Connection], T]) -> T:
        """What `do` gives, done again when its connection was lost meanwhile."""
        return await self.in_thread(lambda: self._access.durably(Work(do)))

    async def in_thread(self, work: Callable[[], T]) -> T:
        """What `work` gives once the table is there: in order, and to its end, though the task be
        cancelled."""

        def ready() -> T:
            with translated("journal.write_failed"):
                self._make_ready()
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._thread, ready)

    async def close(self) -> None:
        """Releases the connection and the thread."""

        def end() -> None:
            self._watch.stop()
            self._link.drop()

        await asyncio.get_running_loop().run_in_executor(self._thread, end)
        self._thread.shutdown()

    def _make_ready(self) -> None:
        if self._is_ready:
            return
        self._watch.start()
        try:
            connection = self._link.open()
            with self._link.awaited():
                prepare(connection, self._address.schema)
                with connection.transaction():
                    key = zlib.crc32(f"stageflow {self._name} {self._address.schema}".encode())
                    connection.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
                    found = connection.execute("SELECT to_regclass(%s)", (self._table,)).fetchone()
                    if found is None or found[0] is None:
                        self._make(connection)
        except psycopg.Error as error:
            self._link.drop()
            if is_lost(error):
                raise unreachable(error, away_s=self._address.away_s) from error
            raise
        self._is_ready = True
