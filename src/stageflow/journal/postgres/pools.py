"""Shared pools in PostgreSQL: the book in one row, each process's picture in another.

Every change locks the row of the book, so changes of all processes stand in one line, and a lease
ends by the server's clock. The tables lie beside the journal's and are made when they are missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from stageflow.journal.pools import BookReader, PoolBook, Sight
from stageflow.journal.postgres.access import Connection
from stageflow.journal.postgres.address import Address, parsed
from stageflow.journal.postgres.beside import Beside, made_for_every_tenant
from stageflow.journal.postgres.news import News
from stageflow.model.errors import BuildError

_TABLES = made_for_every_tenant(
    "pool_book", "id int PRIMARY KEY, book text NOT NULL"
) + made_for_every_tenant("pool_pictures", "owner text PRIMARY KEY, picture text NOT NULL")
"""They name runs of all tenants, so a role of one tenant sees nothing of them."""
_FIRST = "INSERT INTO pool_book VALUES (1, %s)"
_NOW = "extract(epoch FROM clock_timestamp())::double precision"
_LOCK = f"""
SELECT book, {_NOW} FROM (SELECT book FROM pool_book WHERE id = 1 FOR UPDATE) AS locked"""
"""The clock is read above the lock, and so not before anybody else's change is done."""
_READ = f"SELECT book, {_NOW} FROM pool_book WHERE id = 1"
_WRITE = "UPDATE pool_book SET book = %s WHERE id = 1"
_PUBLISH = """
INSERT INTO pool_pictures VALUES (%s, %s)
ON CONFLICT (owner) DO UPDATE SET picture = excluded.picture"""
_PICTURES = "SELECT owner, picture FROM pool_pictures"
_NOTIFY = "SELECT pg_notify(channel, '') FROM unnest(%s::text[]) AS listening(channel)"
_FORGET = "DELETE FROM pool_pictures WHERE owner <> ALL(%s)"

T = TypeVar("T")


class PostgresPools:
    """Implements PoolStore in the schema of a journal at `url`, which is made when it is missing.

    Owns one thread and two connections, one of which only listens. Raises BuildError
    "pool.shared_scope" for an address of one tenant, since pools are shared by all, and
    JournalError as a journal does.
    """

    def __init__(self, url: str | Address) -> None:
        self._address = parsed(url) if isinstance(url, str) else url
        if self._address.tenant is not None:
            raise BuildError(
                "pool.shared_scope",
                "shared pools are those of all tenants, and this address is of one",
                field="tenant",
                expected="an address without tenant=",
                got="tenant=...",
                fix="Runtime(..., shared_pools='postgresql://host/database')",
            )
        self.lease_s = self._address.lease_s
        self._news = News(self._address)
        self._tables = Beside(
            self._address,
            name="pools",
            table="pool_book",
            make=_make,
            links=(self._news.link,),
        )
        self._reader = BookReader()

    async def change(self, decide: Callable[[PoolBook, float], T]) -> T:
        def do(connection: Connection) -> T:
            with connection.pipeline(), connection.transaction():
                found, now_s = _row(connection, _LOCK)
                text = _text(found)
                book = PoolBook.loaded(text)
                last_number = book.last_number
                answer = decide(book, now_s)
                changed = book.dumped()
                if changed != text:
                    connection.execute(_WRITE, (changed,))
                    self._tell(connection, book.granted_since(last_number))
            return answer

        return await self._tables.durably(do)

    async def read(self) -> tuple[PoolBook, float]:
        def do(connection: Connection) -> tuple[PoolBook, float]:
            text, now_s = _row(connection, _READ)
            return self._reader.book(_text(text)), now_s

        return await self._tables.durably(do)

    async def sight(self, owner: str, picture: str) -> Sight:
        def do(connection: Connection) -> Sight:
            connection.execute(_PUBLISH, (owner, picture))
            # Book and pictures of one moment, and the clock not before it.
            with connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                text, now_s = _row(connection, _READ)
                pictures = connection.execute(_PICTURES).fetchall()
                book = self._reader.book(_text(text))
                known = {_text(key): _text(value) for key, value in pictures}
            gone = [each for each in known if each not in book.leases]
            if gone:
                connection.execute(_FORGET, (list(book.leases),))
            living = {each: known[each] for each in known if each in book.leases}
            return Sight(now_s, book, living)

        return await self._tables.durably(do)

    async def listen(self, owner: str, wake: Callable[[], None]) -> bool:
        loop = asyncio.get_running_loop()
        if not self._news.is_heard(owner, loop):
            self._news.unlisten()
            await self._tables.in_thread(lambda: self._news.open(owner))
            try:
                self._news.listen(loop, wake)
            except NotImplementedError:  # a loop that can't watch a descriptor
                return False
        return True

    def unlisten(self, owner: str) -> None:
        if self._news.owner == owner:
            self._news.unlisten()

    def _tell(self, connection: Connection, owners: Collection[str]) -> None:
        """With the commit, whoever was given units hears of it."""
        channels = [self._news.channel(each) for each in owners if each != self._news.owner]
        if channels:
            connection.execute(_NOTIFY, (channels,))

    async def close(self) -> None:
        self._news.unlisten()
        await self._tables.close()
        self._news.drop()


def _make(connection: Connection) -> None:
    connection.execute(_TABLES.encode())
    connection.execute(_FIRST, (PoolBook().dumped(),))


def _row(connection: Connection, statement: str) -> Any:
    row = connection.execute(statement.encode()).fetchone()
    assert row is not None, "there is a book"
    return row


def _text(value: Any) -> str:
    """The journal's connections give text as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
