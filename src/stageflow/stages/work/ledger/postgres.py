"""A ledger's entries in PostgreSQL, which may be the user's own database.

One table beside the user's, `stageflow_effects`. Two that want one key wait for each other at its
row; time is the server's. Needs the extra `postgres`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from stageflow.model.errors import EffectError
from stageflow.stages.work.ledger.entry import EXPIRING, EffectEntry
from stageflow.stages.work.ledger.store import (
    Decide,
    Within,
    decoded,
    encoded,
    unreachable,
)
from stageflow.stages.work.ledger.threads import Connections

if TYPE_CHECKING:
    import psycopg

CONNECTIONS_MAX = 4
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
_READ = f"SELECT entry, {_NOW} FROM stageflow_effects WHERE key = %s"
_RESERVE = "INSERT INTO stageflow_effects(key) VALUES (%s) ON CONFLICT DO NOTHING"
_WRITE = "UPDATE stageflow_effects SET entry = %s, expires_s = %s WHERE key = %s"
_DELETE = "DELETE FROM stageflow_effects WHERE key = %s"
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
        self._connections = Connections(self._opened, self._closed, most=connections)

    def _opened(self) -> psycopg.Connection[Any]:
        try:
            connection = self._psycopg.connect(self._address, connect_timeout=10)
            # At once, and before all others: a commit that may be lost is no record of an effect.
            connection.execute("SET synchronous_commit TO on")
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_TABLE_LOCK,))
            connection.execute(_TABLE)
            connection.commit()
        except self._psycopg.Error as error:
            raise unreachable("PostgreSQL", error) from error
        return connection

    def _closed(self, connection: psycopg.Connection[Any]) -> None:
        connection.close()

    async def change(self, key: str, decide: Decide[T]) -> T:
        def work(connection: psycopg.Connection[Any]) -> T:
            entry, now_s = self._read(connection, _READ, key)
            connection.rollback()
            changed, answer = decide(entry, now_s)
            if changed is entry and entry is not None:
                return answer
            return self._in_transaction(
                connection, key, lambda entry, now_s, _: decide(entry, now_s)
            )

        return await self._connections.use(lambda first: self._again(first, work))

    async def change_within(self, key: str, decide: Within[T]) -> T:
        # A lost connection undoes entry and effect together, or keeps both: then it is replayed.
        return await self._connections.use(
            lambda first: self._again(
                first, lambda connection: self._in_transaction(connection, key, decide)
            )
        )

    def _again(self, first: psycopg.Connection[Any], work: Any) -> Any:
        connection = first
        for left in reversed(range(CONNECT_TRIES)):
            try:
                return work(connection)
            except self._psycopg.Error as error:
                if not connection.broken and not connection.closed:
                    connection.rollback()
                    raise
                self._connections.give_up()
                if not left:
                    raise unreachable("PostgreSQL", error) from error
                connection = self._connections.mine()
            except BaseException:
                if not connection.closed:
                    connection.rollback()
                raise
        raise AssertionError("the last try returns or raises")

    def _read(
        self, connection: psycopg.Connection[Any], statement: str, key: str
    ) -> tuple[EffectEntry | None, float]:
        row = connection.execute(statement.encode(), (key,)).fetchone()
        if row is None:
            return None, 0.0  # decided again under the lock, with the server's time
        return (None if row[0] is None else decoded(bytes(row[0]), key)), row[1]

    def _in_transaction(
        self, connection: psycopg.Connection[Any], key: str, decide: Within[T]
    ) -> T:
        """Reads, decides and writes while the row is locked: nobody comes between."""
        connection.execute(_RESERVE, (key,))
        entry, now_s = self._read(connection, f"{_READ} FOR UPDATE", key)
        changed, answer = decide(entry, now_s, connection)
        if changed is not entry or entry is None:
            self._write(connection, key, changed)
        connection.commit()
        return answer

    def _write(
        self, connection: psycopg.Connection[Any], key: str, entry: EffectEntry | None
    ) -> None:
        if entry is None:
            connection.execute(_DELETE, (key,))
        else:
            expires_s = entry.until_s if entry.state in EXPIRING else None
            connection.execute(_WRITE, (encoded(entry), expires_s, key))

    async def sweep(self, *, skew_s: float) -> int:
        def work(connection: psycopg.Connection[Any]) -> int:
            swept = connection.execute(_SWEEP.encode(), (skew_s,)).rowcount
            connection.commit()
            return swept

        return await self._connections.use(lambda first: self._again(first, work))

    async def close(self) -> None:
        await self._connections.close()
