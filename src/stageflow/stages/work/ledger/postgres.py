"""A ledger's entries in PostgreSQL, which may be the user's own database.

One table beside the user's, `stageflow_effects`. A change is a read and a compare-and-set, each one
statement and one round trip; a transactional effect locks its key's row. Time is the server's.
Needs the extra `postgres`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from stageflow.model.errors import EffectError
from stageflow.stages.work.ledger.entry import EXPIRING, EffectEntry
from stageflow.stages.work.ledger.store import (
    Decide,
    Within,
    closed,
    contended,
    decoded,
    encoded,
    unreachable,
)
from stageflow.stages.work.threads import ThreadConnections

if TYPE_CHECKING:
    import psycopg

CONNECTIONS_MAX = 4
CONTENTIONS_MAX = 256
"""How often another one may come between a read and the write of one key. Each time somebody else
has made progress with it."""
CONNECT_TRIES = 2
"""A change is done again once when its connection is lost: saying a thing twice is fine here."""
_TABLE = """
CREATE TABLE IF NOT EXISTS stageflow_effects (
  key text PRIMARY KEY, entry bytea, expires_s double precision);
CREATE INDEX IF NOT EXISTS stageflow_effects_expiry ON stageflow_effects(expires_s)
WHERE expires_s IS NOT NULL
"""
_TABLE_LOCK = 0x53464546
"""Two processes that make the table at one moment would meet in the catalogue: "SFEF"."""
_NOW = "extract(epoch FROM clock_timestamp())::double precision"
_READ = f"SELECT (SELECT entry FROM stageflow_effects WHERE key = %s), {_NOW}"
_LOCK = "SELECT entry FROM stageflow_effects WHERE key = %s FOR UPDATE"
_RESERVE = "INSERT INTO stageflow_effects(key) VALUES (%s) ON CONFLICT DO NOTHING"
_WRITE = "UPDATE stageflow_effects SET entry = %s, expires_s = %s WHERE key = %s"
_DELETE = "DELETE FROM stageflow_effects WHERE key = %s"
_ADD = "INSERT INTO stageflow_effects VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
_SET = f"{_WRITE} AND entry = %s"
_DROP = f"{_DELETE} AND entry = %s"
_SWEEP = f"DELETE FROM stageflow_effects WHERE expires_s < {_NOW} - %s"

T = TypeVar("T")


class PostgresEffects:
    """Implements EffectStore over the database at `address`, a `postgresql://` URL.

    A transactional effect is given the open `psycopg.Connection`, in its worker thread. Commits
    are synchronous whatever the server's default is. Raises EffectError `effect.missing_extra`
    without psycopg.
    """

    def __init__(self, address: str, *, connections: int = CONNECTIONS_MAX) -> None:
        try:
            import psycopg  # an extra
        except ImportError as error:
            raise EffectError(
                "effect.missing_extra",
                "a ledger in PostgreSQL needs psycopg",
                expected="psycopg 3 with libpq",
                fix="pip install 'stageflow[postgres]'",
            ) from error
        self._psycopg = psycopg
        self._address = address
        self._connections = ThreadConnections(
            self._opened, self._closed, most=connections, closed=closed
        )

    def _opened(self) -> psycopg.Connection[Any]:
        try:
            connection = self._psycopg.connect(self._address, connect_timeout=10, autocommit=True)
            # A commit that may be lost is no record of an effect.
            connection.execute("SET synchronous_commit TO on")
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (_TABLE_LOCK,))
                connection.execute(_TABLE)
        except self._psycopg.Error as error:
            raise unreachable("PostgreSQL", error) from error
        return connection

    def _closed(self, connection: psycopg.Connection[Any]) -> None:
        connection.close()

    async def change(self, key: str, decide: Decide[T]) -> T:
        def work(connection: psycopg.Connection[Any]) -> T:
            for _ in range(CONTENTIONS_MAX):
                data, now_s = self._one(connection, _READ, key)
                entry = None if data is None else decoded(bytes(data), key)
                changed, answer = decide(entry, now_s)
                if changed is entry or self._set(connection, key, data, changed):
                    return answer
            raise contended(key, CONTENTIONS_MAX)

        return await self._connections.use(lambda first: self._again(first, work))

    async def change_within(self, key: str, decide: Within[T]) -> T:
        def work(connection: psycopg.Connection[Any]) -> T:
            with connection.transaction():
                connection.execute(_RESERVE, (key,))
                (data,) = self._one(connection, _LOCK, key)
                (now_s,) = self._one(connection, f"SELECT {_NOW}")
                entry = None if data is None else decoded(bytes(data), key)
                changed, answer = decide(entry, now_s, connection)
                if changed is None:
                    connection.execute(_DELETE, (key,))
                elif changed is not entry:
                    connection.execute(_WRITE, (encoded(changed), _expires_s(changed), key))
            return answer

        # A lost connection undoes entry and effect together, or keeps both: then it is replayed.
        return await self._connections.use(lambda first: self._again(first, work))

    def _again(
        self,
        first: psycopg.Connection[Any],
        work: Callable[[psycopg.Connection[Any]], T],
    ) -> T:
        connection = first
        for left in reversed(range(CONNECT_TRIES)):
            try:
                return work(connection)
            except self._psycopg.Error as error:
                if not connection.broken and not connection.closed:
                    raise  # a statement of the user's, undone
                self._connections.give_up()
                if not left:
                    raise unreachable("PostgreSQL", error) from error
                connection = self._connections.mine()
        raise AssertionError("the last try returns or raises")

    def _one(self, connection: psycopg.Connection[Any], statement: str, *given: Any) -> Any:
        return connection.execute(statement.encode(), given).fetchone()

    def _set(
        self,
        connection: psycopg.Connection[Any],
        key: str,
        before: bytes | None,
        entry: EffectEntry | None,
    ) -> bool:
        """Writes what was decided, if the key is still as it was read."""
        if before is None and entry is None:
            return True
        if before is None:
            assert entry is not None
            done = connection.execute(_ADD, (key, encoded(entry), _expires_s(entry)))
        elif entry is None:
            done = connection.execute(_DROP.encode(), (key, before))
        else:
            given = (encoded(entry), _expires_s(entry), key, before)
            done = connection.execute(_SET.encode(), given)
        return done.rowcount == 1

    async def sweep(self, *, skew_s: float) -> int:
        return await self._connections.use(
            lambda first: self._again(
                first, lambda connection: connection.execute(_SWEEP.encode(), (skew_s,)).rowcount
            )
        )

    async def close(self) -> None:
        await self._connections.close()


def _expires_s(entry: EffectEntry) -> float | None:
    return entry.until_s if entry.state in EXPIRING else None
