"""Undo logs in PostgreSQL, which may be the user's own database.

Two tables beside the user's. A change locks its timeline's head; commits are synchronous whatever
the server's default is, and time is the server's. Needs the extra `postgres`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from stageflow.model.errors import EffectError
from stageflow.stages.work.threads import ThreadConnections
from stageflow.stages.work.undo.store import Decide, TimelineHead, closed, unreachable

if TYPE_CHECKING:
    import psycopg

CONNECTIONS_MAX = 4
_TABLES = """
CREATE TABLE IF NOT EXISTS stageflow_undo_heads (
  timeline text PRIMARY KEY, head bytea, is_unfinished boolean NOT NULL DEFAULT false,
  used_s double precision NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS stageflow_undo_unfinished ON stageflow_undo_heads(timeline)
WHERE is_unfinished;
CREATE INDEX IF NOT EXISTS stageflow_undo_used ON stageflow_undo_heads(used_s);
CREATE TABLE IF NOT EXISTS stageflow_undo (
  timeline text, place bigint, record bytea NOT NULL, PRIMARY KEY (timeline, place))
"""
_TABLE_LOCK = 0x5346554E
"""Two processes that make the tables at one moment would meet in the catalogue: "SFUN"."""
_RESERVE = "INSERT INTO stageflow_undo_heads(timeline) VALUES (%s) ON CONFLICT DO NOTHING"
_HEAD = "SELECT head FROM stageflow_undo_heads WHERE timeline = %s FOR UPDATE"
_NOW = "SELECT extract(epoch FROM clock_timestamp())::double precision"
_SET_HEAD = """UPDATE stageflow_undo_heads SET head = %s, is_unfinished = %s, used_s = %s
WHERE timeline = %s"""
_APPEND = "INSERT INTO stageflow_undo VALUES (%s, %s, %s)"
_ERASE = "DELETE FROM stageflow_undo WHERE timeline = %s"
_READ = "SELECT record FROM stageflow_undo WHERE timeline = %s AND place >= %s ORDER BY place"
_UNFINISHED = "SELECT timeline FROM stageflow_undo_heads WHERE is_unfinished ORDER BY timeline"
_LATEST = """SELECT timeline, head FROM stageflow_undo_heads
WHERE used_s > 0 ORDER BY used_s DESC LIMIT %s"""
_IDLE = """SELECT timeline FROM stageflow_undo_heads
WHERE used_s > 0 AND used_s < extract(epoch FROM clock_timestamp()) - %s AND NOT is_unfinished
ORDER BY used_s"""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(TimelineHead)

T = TypeVar("T")


class PostgresUndo:
    """Implements UndoStore over the database at `address`, a `postgresql://` URL.

    Raises EffectError `undo.missing_extra` without psycopg.
    """

    def __init__(self, address: str, *, connections: int = CONNECTIONS_MAX) -> None:
        try:
            import psycopg  # an extra
        except ImportError as error:
            raise EffectError(
                "undo.missing_extra",
                "an undo log in PostgreSQL needs psycopg",
                expected="psycopg 3 with libpq",
                fix="pip install 'stageflow[postgres]'",
            ) from error
        self._psycopg = psycopg
        self._address = address
        self._connections = ThreadConnections(
            self._opened, self._closed, most=connections, closed=closed
        )

    def _opened(self) -> psycopg.Connection[Any]:
        connection = self._psycopg.connect(self._address, connect_timeout=10, autocommit=True)
        # A record that may be lost is no intent.
        connection.execute("SET synchronous_commit TO on")
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_TABLE_LOCK,))
            connection.execute(_TABLES)
        return connection

    def _closed(self, connection: psycopg.Connection[Any]) -> None:
        connection.close()

    async def change(self, timeline: str, decide: Decide[T]) -> T:
        def work(connection: psycopg.Connection[Any]) -> T:
            with connection.transaction():
                connection.execute(_RESERVE, (timeline,))
                (data,) = connection.execute(_HEAD, (timeline,)).fetchone() or (None,)
                head = TimelineHead() if data is None else _decoder.decode(data)
                (now_s,) = connection.execute(_NOW).fetchone() or (0.0,)
                change, answer = decide(head, now_s)
                if change is not None:
                    after = change.head
                    data = _encoder.encode(after)
                    row = (data, after.is_unfinished, after.used_s, timeline)
                    connection.execute(_SET_HEAD, row)
                    if change.erases:
                        connection.execute(_ERASE, (timeline,))
                    with connection.cursor() as cursor:
                        cursor.executemany(
                            _APPEND,
                            [
                                (timeline, place, record)
                                for place, record in enumerate(change.records, head.length)
                            ],
                        )
            return answer

        return await self._use(work)

    async def read(self, timeline: str, since: int) -> list[bytes]:
        return await self._use(
            lambda connection: [
                bytes(row[0]) for row in connection.execute(_READ, (timeline, since))
            ]
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
        return await self._use(
            lambda connection: [row[0] for row in connection.execute(_IDLE, (for_s,))]
        )

    async def _use(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """In a thread. A lost connection is told, for what it was about may have happened; the next
        use opens another."""

        def used(connection: psycopg.Connection[Any]) -> T:
            try:
                return work(connection)
            except self._psycopg.Error:
                if connection.broken or connection.closed:
                    self._connections.give_up()
                raise

        try:
            return await self._connections.use(used)
        except self._psycopg.Error as error:
            raise unreachable("PostgreSQL", error) from error

    async def close(self) -> None:
        await self._connections.close()
