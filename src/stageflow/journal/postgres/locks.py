"""Locks in PostgreSQL, for the processes of several hosts.

Every change takes one advisory lock until it is committed, so changes of all processes stand in one
line; a look is one statement, and so sees one moment. The table lies beside the journal's. Names
and holders are bytes: a name may have characters that PostgreSQL's text has not.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from stageflow.journal.locks import FREE, Held, taken
from stageflow.journal.postgres.access import Connection
from stageflow.journal.postgres.address import Address, parsed
from stageflow.journal.postgres.beside import Beside, made_for_every_tenant
from stageflow.model.errors import BuildError

T = TypeVar("T")
_TABLE = made_for_every_tenant(
    "locks", "name bytea PRIMARY KEY, holder bytea, taken bigint NOT NULL"
)
_INDEX = "CREATE INDEX locks_of ON locks (holder)"
_LOOK = "SELECT name, holder, taken FROM locks WHERE name = ANY(%s)"
_TAKE = """
INSERT INTO locks SELECT name, %s, taken FROM unnest(%s, %s::bigint[]) AS t(name, taken)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, taken = excluded.taken"""
_DROP = "UPDATE locks SET holder = NULL WHERE holder = %s"
_FREE = """
UPDATE locks SET holder = NULL FROM unnest(%s, %s, %s::bigint[]) AS seen(name, holder, taken)
WHERE locks.name = seen.name AND locks.holder = seen.holder AND locks.taken = seen.taken"""


class PostgresLocks:
    """Implements LockStore in the schema of a journal at `url`, which is made when it is missing.

    Owns one thread and one connection. Raises BuildError "lock.shared_scope" for an address of one
    tenant, since who holds what is kept for all, and JournalError as a journal does.
    """

    def __init__(self, url: str | Address) -> None:
        address = parsed(url) if isinstance(url, str) else url
        if address.tenant is not None:
            raise BuildError(
                "lock.shared_scope",
                "locks are kept for the runs of all tenants, and this address is of one",
                field="locks",
                expected="an address without tenant=",
                got="tenant=...",
                fix="Runtime(..., locks='postgresql://host/database')",
            )
        self._key = zlib.crc32(f"stageflow changes of locks {address.schema}".encode())
        self._tables = Beside(address, name="locks", table="locks", make=_make)

    async def take(self, names: Sequence[str], holder: str) -> Mapping[str, Held]:
        def change(connection: Connection) -> Mapping[str, Held]:
            changed, others = taken(_read(connection, names), names, holder)
            if changed:
                counts = [held.taken for held in changed.values()]
                connection.execute(_TAKE, (_stored(holder), _all_stored(changed), counts))
            return others

        return await self._changed(change)

    async def look(self, names: Sequence[str]) -> Mapping[str, Held]:
        return await self._tables.durably(lambda connection: _read(connection, names))

    async def drop(self, holder: str) -> None:
        await self._changed(lambda connection: _done(connection, _DROP, (_stored(holder),)))

    async def free(self, seen: Mapping[str, Held]) -> None:
        held = {name: each for name, each in seen.items() if each.holder is not None}
        holders = [_stored(each.holder or "") for each in held.values()]
        given = _all_stored(held), holders, [each.taken for each in held.values()]
        await self._changed(lambda connection: _done(connection, _FREE, given))

    async def close(self) -> None:
        await self._tables.close()

    async def _changed(self, change: Callable[[Connection], T]) -> T:
        """What `change` gives, while nobody else changes anything."""

        def do(connection: Connection) -> T:
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (self._key,))
                return change(connection)

        return await self._tables.durably(do)


def _make(connection: Connection) -> None:
    connection.execute(_TABLE.encode())
    connection.execute(_INDEX)


def _read(connection: Connection, names: Sequence[str]) -> dict[str, Held]:
    rows = connection.execute(_LOOK, (_all_stored(names),)).fetchall()
    found = {}
    for name, holder, count in rows:
        held = None if holder is None else _told(holder)
        found[_told(name)] = Held(held, count)
    return {name: found.get(name, FREE) for name in names}


def _done(connection: Connection, statement: str, given: tuple[object, ...]) -> None:
    connection.execute(statement.encode(), given)


def _all_stored(names: Iterable[str]) -> list[bytes]:
    return [_stored(name) for name in names]


def _stored(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _told(stored: bytes) -> str:
    return bytes(stored).decode("utf-8", "surrogatepass")
