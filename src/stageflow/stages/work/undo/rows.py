"""Rows of a SQLite table, as an undo log's resource.

A write reads, compares and writes under SQLite's write lock, so nobody comes between.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from stageflow.model.errors import BuildError, EffectError
from stageflow.stages.work.unbroken import to_its_end
from stageflow.stages.work.undo.records import State
from stageflow.stages.work.undo.resource import Changed, FormLost, WriteRefused, wrong_option

BUSY_S: Final = 15.0
"""How long a read or write waits for another transaction; less than `UndoRules.act_s`."""
_encoder = msgspec.msgpack.Encoder()

T = TypeVar("T")


class Column(msgspec.Struct, frozen=True, array_like=True):
    """Of a table, as SQLite declares it."""

    name: str
    type: str
    is_required: bool
    default: str | None
    """An SQL expression."""


_columns = msgspec.json.Decoder(list[Column])
_row = msgspec.msgpack.Decoder(dict[str, Any])


class Rows:
    """The rows of `table` in the SQLite file at `database`, each under its value of `key`.

    To people a row is a dict by column; a change may give some columns, and keeps the others.
    `version` names a column that every writer sets anew, such as a counter: without one, an edit
    that was put back by its author leaves no trace. The log never sets it back: a row that is put
    back gets a version of its own when the column is an integer, by one more than the row's last.

    Raises BuildError `undo.table` for names that are none, `undo.option`.
    """

    in_flight_s = 0.0

    def __init__(
        self,
        database: str | os.PathLike[str],
        table: str,
        *,
        key: str = "id",
        version: str | None = None,
        name: str | None = None,
    ) -> None:
        if not isinstance(database, (str, os.PathLike)) or database == "":
            raise wrong_option("Rows", "database", "the path of a SQLite file", database)
        self.name = f"{table} of {Path(database).name}" if name is None else name
        self._path = Path(database).absolute()
        self._table, self._key, self._version = table, key, version
        for given in (table, key, *(() if version is None else (version,))):
            if not (isinstance(given, str) and given.isidentifier()):
                raise BuildError(
                    "undo.table",
                    f"{given!r} is no name of a table or a column",
                    field="table",
                    expected="letters, digits and underscores",
                    fix="Rows('shop.db', 'orders', key='id', version='revision')",
                )

    async def read(self, key: str) -> State:
        return await self._use(lambda database: self._read(database, key))

    async def write(self, key: str, content: bytes | None, expected: State) -> State:
        def work(database: sqlite3.Connection) -> State:
            now = self._read(database, key)
            if now != expected:
                raise Changed
            self._set(database, key, content, now)
            return self._read(database, key)

        return await self._use(work, writes=True)

    async def encoded(self, value: Any, before: State) -> bytes | None:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise _no_row(self.name, type(value).__name__)
        columns = _columns.decode(before.form)
        row = self.value(before.content)
        if row is None:
            row = {each.name: self._first(each, value) for each in columns}
        for column, wanted in value.items():
            if column not in row:
                raise _no_row(self.name, f"a column {column!r}")
            row[column] = wanted
        return _packed(row)

    def _first(self, column: Column, value: Mapping[str, Any]) -> Any:
        """What a new row has there."""
        try:
            return value[column.name] if column.name in value else _default(column)
        except FormLost as lost:
            raise _no_row(self.name, f"nothing for {column.name!r}; {lost}") from None

    def value(self, content: bytes | None) -> dict[str, Any] | None:
        return None if content is None else _row.decode(content)

    def adapted(self, content: bytes | None, then: str, now: str) -> bytes | None:
        if content is None:
            return None
        row = _row.decode(content)
        before = {each.name: each for each in _columns.decode(then)}
        adapted = {}
        for column in _columns.decode(now):
            known = before.pop(column.name, None)
            if known is None:
                adapted[column.name] = _default(column)
            elif known.type != column.type:
                raise FormLost(f"column {column.name!r} is {column.type} now")
            else:
                adapted[column.name] = row[column.name]
        if before:
            raise FormLost(f"column {next(iter(before))!r} is gone")
        return _packed(adapted)

    # -- in a thread -------------------------------------------------------------------------

    def _read(self, database: sqlite3.Connection, key: str) -> State:
        columns = self._form(database)
        form = msgspec.json.encode(columns).decode()
        names = ", ".join(f'"{each.name}"' for each in columns)
        version = "NULL" if self._version is None else f'"{self._version}"'
        rows = database.execute(
            f'SELECT {version}, {names} FROM "{self._table}" WHERE "{self._key}" IS ?', (key,)
        ).fetchmany(2)
        if not rows:
            return State(None, form=form)
        if len(rows) > 1:
            raise WriteRefused(
                "undo.several_rows",
                f"several rows of {self.name!r} have the key {key!r}",
                field=self._key,
                expected="a column that is unique",
                fix="Rows(..., key='id') with the table's primary key",
            )
        row = rows[0]
        content = dict(zip((each.name for each in columns), row[1:], strict=True))
        return State(_packed(content), "" if row[0] is None else str(row[0]), form)

    def _form(self, database: sqlite3.Connection) -> list[Column]:
        """All columns but the key, which is known, and the version."""
        found = database.execute(f'PRAGMA table_info("{self._table}")').fetchall()
        if not found:
            raise WriteRefused(
                "undo.no_table",
                f"there is no table {self._table!r} in {self._path.name}",
                expected="the table that the resource was made for",
                fix="make it, or mend the name in Rows(...)",
            )
        apart = (self._key, self._version)
        return [
            Column(name, type_, bool(is_required), default)
            for _, name, type_, is_required, default, _ in found
            if name not in apart
        ]

    def _set(
        self, database: sqlite3.Connection, key: str, content: bytes | None, now: State
    ) -> None:
        where = f'"{self._table}" WHERE "{self._key}" IS ?'
        if content is None:
            database.execute(f"DELETE FROM {where}", (key,))
            return
        row = _row.decode(content)
        if self._version is not None:
            row[self._version] = _next_version(now.version)
        if now.content is None:
            row[self._key] = key
            names = ", ".join(f'"{name}"' for name in row)
            marks = ", ".join("?" * len(row))
            database.execute(
                f'INSERT INTO "{self._table}" ({names}) VALUES ({marks})', tuple(row.values())
            )
            return
        changes = ", ".join(f'"{name}" = ?' for name in row)
        database.execute(
            f'UPDATE "{self._table}" SET {changes} WHERE "{self._key}" IS ?', (*row.values(), key)
        )

    async def _use(self, work: Callable[[sqlite3.Connection], T], *, writes: bool = False) -> T:
        def in_transaction() -> T:
            database = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)
            try:
                database.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
                made = work(database)
                database.execute("COMMIT")
                return made
            except sqlite3.IntegrityError as error:
                raise WriteRefused(
                    "undo.refused",
                    f"{self.name!r} refuses this row: {type(error).__name__}",
                    expected="a row that meets the table's constraints",
                    got=getattr(error, "sqlite_errorname", "a constraint"),
                    fix="look which constraint it is; others may have taken a unique value",
                ) from error
            except sqlite3.Error as error:
                raise EffectError(
                    "undo.unavailable",
                    f"{self.name!r} did not answer: {type(error).__name__}",
                    expected="a database that can be read and written",
                    got=getattr(error, "sqlite_errorname", "an error"),
                    fix="look at the database; what was cut off is found out and finished then",
                ) from error
            finally:
                database.close()  # what is not committed is undone

        return await to_its_end(asyncio.to_thread(in_transaction))


def _packed(row: Mapping[str, Any]) -> bytes:
    return _encoder.encode(dict(sorted(row.items())))


def _default(column: Column) -> Any:
    """What a column gives to rows that say nothing of it, such as those it was added to."""
    if column.default is None:
        return None
    if "(" in column.default or column.default.upper().startswith("CURRENT_"):
        raise FormLost(f"the default of column {column.name!r} can't be told")
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute(f"CREATE TABLE one (a, b {column.type} DEFAULT {column.default})")
        database.execute("INSERT INTO one (a) VALUES (1)")
        return database.execute("SELECT b FROM one").fetchone()[0]


def _next_version(last: str) -> Any:
    return int(last) + 1 if last.lstrip("-").isdigit() else 1


def _no_row(name: str, got: str) -> EffectError:
    return EffectError(
        "undo.value",
        f"this is no row of {name!r}",
        expected="a dict with some of the table's columns, or None for no row",
        got=got,
        fix="timeline.change(orders, '42', {'status': 'paid'})",
    )
