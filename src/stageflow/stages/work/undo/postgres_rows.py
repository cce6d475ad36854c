"""Rows of a PostgreSQL table, as an undo log's resource.

A write locks the row, compares and writes in one transaction. The server finishes a commit whose
process has died meanwhile, so a read waits until no write of an undo log is under way at its row:
an advisory lock tells. Values are kept as the server's own text of them, which gives every type
back exactly. Needs the extra `postgres`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from stageflow.model.errors import BuildError, EffectError
from stageflow.stages.work.threads import ThreadConnections
from stageflow.stages.work.unbroken import to_its_end
from stageflow.stages.work.undo.records import State
from stageflow.stages.work.undo.resource import Changed, FormLost, WriteRefused

if TYPE_CHECKING:
    import psycopg

CONNECTIONS_MAX = 4
LOCK_S = 15
"""How long a read or a write waits for whoever holds the row; less than `UndoRules.act_s`."""
_UNDER_WAY: Final = "SELECT pg_advisory_xact_lock{}(20041994, hashtext(%s))"
"""Of two numbers: one for all undo logs, and one of the table and the key."""
_encoder = msgspec.msgpack.Encoder()
_row = msgspec.msgpack.Decoder(dict[str, str | None])
_COLUMNS: Final = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid)
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
  AND a.attgenerated = '' ORDER BY a.attnum
"""
_TEXT_DEFAULT: Final = re.compile(r"'((?:[^']|'')*)'(?:::[\w .\"]+(?:\(\d+(?:,\d+)?\))?(?:\[\])?)?")
_PLAIN_DEFAULT: Final = re.compile(r"-?\d+|true|false")

T = TypeVar("T")


class TypedColumn(msgspec.Struct, frozen=True, array_like=True):
    """Of a table, as the server declares it."""

    name: str
    type: str
    default: str | None
    """An SQL expression."""


_columns = msgspec.json.Decoder(list[TypedColumn])


class PostgresRows:
    """The rows of `table` in the database at `address`, each under its value of `key`, which must
    be unique there.

    To people a row is a dict by column, of the server's text for each value ('9.50', 't', an ISO
    date); a change may give Python values, and some of the columns. Versions are PostgreSQL's own
    (`xmin`), so every write of others is seen. Generated columns are left to the server.

    Raises BuildError `undo.table` for names that are none, EffectError `undo.missing_extra`.
    """

    in_flight_s = 0.0

    def __init__(
        self, address: str, table: str, *, key: str = "id", name: str | None = None
    ) -> None:
        try:
            import psycopg  # an extra
        except ImportError as error:
            raise EffectError(
                "undo.missing_extra",
                "rows of PostgreSQL need psycopg",
                expected="psycopg 3 with libpq",
                fix="pip install 'stageflow[postgres]'",
            ) from error
        is_text = isinstance(table, str) and isinstance(key, str)
        if not is_text or not all(part.isidentifier() for part in (*table.split("."), key)):
            raise BuildError(
                "undo.table",
                f"{table!r} or {key!r} is no name of a table or a column",
                field="table",
                expected="letters, digits and underscores; a schema before a dot",
                fix="PostgresRows('postgresql://...', 'shop.orders', key='id')",
            )
        self.name = f"{table} in PostgreSQL" if name is None else name
        self._psycopg = psycopg
        self._address = address
        self._table = ".".join(f'"{part}"' for part in table.split("."))
        self._key = key
        self._connections: ThreadConnections[psycopg.Connection[Any]] = ThreadConnections(
            self._opened,
            lambda connection: connection.close(),
            most=CONNECTIONS_MAX,
            closed=self._closed,
        )

    def _opened(self) -> psycopg.Connection[Any]:
        connection = self._psycopg.connect(self._address, connect_timeout=10, autocommit=True)
        connection.execute(f"SET lock_timeout TO '{LOCK_S}s'".encode())
        return connection

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._connections.close()

    async def read(self, key: str) -> State:
        def work(database: psycopg.Connection[Any]) -> State:
            self._wait(database, key, shared="_shared")  # in a statement, and snapshot, of its own
            return self._read(database, key)

        return await self._use(work)

    async def write(self, key: str, content: bytes | None, expected: State) -> State:
        def work(database: psycopg.Connection[Any]) -> State:
            with database.transaction():
                self._wait(database, key)
                if self._read(database, key, lock=" FOR UPDATE") != expected:
                    raise Changed
                self._set(database, key, content, expected)
                return self._read(database, key)

        return await self._use(work)

    async def encoded(self, value: Any, before: State) -> bytes | None:
        if value is None:
            return None
        columns = {each.name: each for each in _columns.decode(before.form)}
        unknown = [name for name in value if name not in columns] if _is_row(value) else []
        if not _is_row(value) or unknown:
            raise self._no_row(f"a column {unknown[0]!r}" if unknown else type(value).__name__)
        row = self.value(before.content)
        if row is None:
            row = {name: self._first(each, value) for name, each in columns.items()}
        given = await self._use(lambda database: self._texts(database, columns, value))
        return _packed({**row, **given})

    def value(self, content: bytes | None) -> dict[str, str | None] | None:
        return None if content is None else _row.decode(content)

    def adapted(self, content: bytes | None, then: str, now: str) -> bytes | None:
        if content is None:
            return None
        row = _row.decode(content)
        before = {each.name: each for each in _columns.decode(then)}
        adapted: dict[str, str | None] = {}
        for column in _columns.decode(now):
            known = before.pop(column.name, None)
            if known is not None and known.type != column.type:
                raise FormLost(f"column {column.name!r} is {column.type} now")
            adapted[column.name] = _default(column) if known is None else row[column.name]
        if before:
            raise FormLost(f"column {next(iter(before))!r} is gone")
        return _packed(adapted)

    # -- in a thread -------------------------------------------------------------------------

    def _wait(self, database: psycopg.Connection[Any], key: str, *, shared: str = "") -> None:
        """Until no other undo log's write of this row is under way."""
        database.execute(_UNDER_WAY.format(shared).encode(), (f"{self._table} {key}",))

    def _read(self, database: psycopg.Connection[Any], key: str, *, lock: str = "") -> State:
        columns = self._form(database)
        form = msgspec.json.encode(columns).decode()
        names = "".join(f', "{each.name}"::text' for each in columns)
        query = f'SELECT xmin::text{names} FROM {self._table} WHERE "{self._key}"::text = %s{lock}'
        rows = database.execute(query.encode(), (key,)).fetchmany(2)
        if not rows:
            return State(None, form=form)
        if len(rows) > 1:
            raise WriteRefused(
                "undo.several_rows",
                f"several rows of {self.name!r} have the key {key!r}",
                field=self._key,
                expected="a column that is unique",
                fix="PostgresRows(..., key='id') with the table's primary key",
            )
        names_in_order = (each.name for each in columns)
        return State(_packed(dict(zip(names_in_order, rows[0][1:], strict=True))), rows[0][0], form)

    def _form(self, database: psycopg.Connection[Any]) -> list[TypedColumn]:
        """All columns but the key, which is known, and those that the server makes itself."""
        found = database.execute(_COLUMNS, (self._table,)).fetchall()
        if not found:
            raise WriteRefused(
                "undo.no_table",
                f"there is no table {self._table} in this database",
                expected="the table that the resource was made for",
                fix="make it, or mend the name in PostgresRows(...)",
            )
        return [TypedColumn(*row) for row in found if row[0] != self._key]

    def _set(
        self, database: psycopg.Connection[Any], key: str, content: bytes | None, now: State
    ) -> None:
        if content is None:
            query = f'DELETE FROM {self._table} WHERE "{self._key}"::text = %s'
            database.execute(query.encode(), (key,))
            return
        row = _row.decode(content)
        types = {each.name: each.type for each in _columns.decode(now.form)}
        if now.content is not None:
            changes = ", ".join(f'"{name}" = %s::text::{types[name]}' for name in row)
            query = f'UPDATE {self._table} SET {changes} WHERE "{self._key}"::text = %s'
            database.execute(query.encode(), (*row.values(), key))
            return
        names = "".join(f', "{name}"' for name in row)
        marks = "".join(f", %s::text::{types[name]}" for name in row)
        # Of the key the server knows the type: an untyped literal takes it.
        query = f'INSERT INTO {self._table} ("{self._key}"{names}) VALUES (%s{marks})'
        made = database.execute(f"{query} ON CONFLICT DO NOTHING".encode(), (key, *row.values()))
        if made.rowcount == 0:
            raise Changed

    def _texts(
        self,
        database: psycopg.Connection[Any],
        columns: Mapping[str, TypedColumn],
        value: Mapping[str, Any],
    ) -> dict[str, str | None]:
        """The server's text of Python values."""
        if not value:
            return {}
        query = ", ".join(f"CAST(%s AS {columns[name].type})::text" for name in value)
        row = database.execute(f"SELECT {query}".encode(), tuple(value.values())).fetchone()
        return dict(zip(value, row or (), strict=True))

    async def _use(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        errors = self._psycopg.errors

        def coded(database: psycopg.Connection[Any]) -> T:
            try:
                return work(database)
            except (errors.IntegrityError, errors.DataError) as error:
                raise WriteRefused(
                    "undo.refused",
                    f"{self.name!r} refuses this row: {type(error).__name__}",
                    expected="a row that meets the table's types and constraints",
                    got=str(error.sqlstate),
                    fix="look which constraint it is; others may have taken a unique value",
                ) from error
            except self._psycopg.Error as error:
                if database.broken or database.closed:
                    self._connections.give_up()
                raise EffectError(
                    "undo.unavailable",
                    f"{self.name!r} did not answer: {type(error).__name__}",
                    expected="a database that can be read and written",
                    got=str(error.sqlstate),
                    fix="look at the database; what was cut off is found out and finished then",
                ) from error

        return await to_its_end(self._connections.use(coded))

    # -- refusals ----------------------------------------------------------------------------

    def _first(self, column: TypedColumn, value: Mapping[str, Any]) -> str | None:
        """What a new row has where nothing is given."""
        try:
            return None if column.name in value else _default(column)
        except FormLost as lost:
            raise self._no_row(f"nothing for {column.name!r}; {lost}") from None

    def _no_row(self, got: str) -> EffectError:
        return EffectError(
            "undo.value",
            f"this is no row of {self.name!r}",
            expected="a dict with some of the table's columns, or None for no row",
            got=got,
            fix="timeline.change(orders, '42', {'status': 'paid'})",
        )

    def _closed(self) -> EffectError:
        return EffectError(
            "undo.closed",
            f"{self.name!r} is closed",
            expected="a resource that lives as long as the logs that use it",
            fix="close it when the runtime has ended",
        )


def _is_row(value: Any) -> bool:
    return isinstance(value, Mapping)


def _packed(row: Mapping[str, str | None]) -> bytes:
    return _encoder.encode(dict(sorted(row.items())))


def _default(column: TypedColumn) -> str | None:
    """What a column gives to rows that say nothing of it, such as those it was added to."""
    given = column.default
    if given is None or given.startswith("NULL"):
        return None
    text = _TEXT_DEFAULT.fullmatch(given)
    if text is not None:
        return text[1].replace("''", "'")
    if _PLAIN_DEFAULT.fullmatch(given):
        return given
    raise FormLost(f"the default of column {column.name!r} can't be told")
