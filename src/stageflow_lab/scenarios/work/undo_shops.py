"""The database of a story in which real processes die: rows of orders, and the undo log itself.

Stories take turns: SQLite files, and schemas of a PostgreSQL server.
"""

from __future__ import annotations

import contextlib
import sqlite3
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Final

from stageflow.stages.work import PostgresRows, Resource, Rows
from stageflow.stages.work.undo.postgres import PostgresUndo
from stageflow.stages.work.undo.sqlite import SQLiteUndo
from stageflow.stages.work.undo.store import UndoStore

from ...servers import drop_schema, make_schema, postgres_in
from .undo_truth import COLUMN, COLUMN_DEFAULT

RESOURCE: Final = "rows"


class Shop(ABC):
    """One database. People write to it as they do: by statements of their own."""

    @abstractmethod
    def prepare(self) -> None:
        """Makes its tables."""

    @abstractmethod
    def remove(self) -> None:
        """Leaves nothing of it."""

    @abstractmethod
    def orders(self) -> Resource:
        """Its rows, as an undo log's resource."""

    @abstractmethod
    def log(self) -> UndoStore:
        """Where its undo log lies."""

    @abstractmethod
    def row(self, key: str) -> dict[str, Any] | None:
        """What people see."""

    @abstractmethod
    def put(self, key: str, text: str | None, *, revision: int) -> None:
        """Somebody else's row, or None for no row. `revision`: of a row that was not there."""

    @abstractmethod
    def change_form(self) -> bool:
        """The column comes or goes; whether it is there now."""


class SQLiteShop(Shop):
    """Two files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "shop.db"

    def prepare(self) -> None:
        self._execute("PRAGMA journal_mode = WAL")
        self._execute("CREATE TABLE orders (id TEXT PRIMARY KEY, text TEXT, revision INTEGER)")

    def remove(self) -> None:
        """Nothing: they go with their folder."""

    def orders(self) -> Resource:
        return Rows(self._path, "orders", version="revision", name=RESOURCE)

    def log(self) -> UndoStore:
        return SQLiteUndo(self._folder / "undo.db")

    def row(self, key: str) -> dict[str, Any] | None:
        rows = self._execute("SELECT * FROM orders WHERE id = ?", key)
        return dict(rows[0]) if rows else None

    def put(self, key: str, text: str | None, *, revision: int) -> None:
        if text is None:
            self._execute("DELETE FROM orders WHERE id = ?", key)
            return
        statement = (
            "INSERT INTO orders (id, text, revision) VALUES (?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET text = excluded.text, revision = orders.revision + 1"
        )
        self._execute(statement, key, text, revision)

    def change_form(self) -> bool:
        has_column = COLUMN in {row["name"] for row in self._execute("PRAGMA table_info(orders)")}
        self._execute(_form_statement(has_column=has_column))
        return not has_column

    def _execute(self, statement: str, *given: Any) -> list[sqlite3.Row]:
        with contextlib.closing(
            sqlite3.connect(self._path, timeout=30.0, isolation_level=None)
        ) as database:
            database.row_factory = sqlite3.Row
            return database.execute(statement, given).fetchall()


class PostgresShop(Shop):
    """A schema."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._address = postgres_in(schema)

    def prepare(self) -> None:
        make_schema(self._schema)
        self._execute("CREATE TABLE orders (id text PRIMARY KEY, text text)")

    def remove(self) -> None:
        drop_schema(self._schema)

    def orders(self) -> Resource:
        return PostgresRows(self._address, "orders", name=RESOURCE)

    def log(self) -> UndoStore:
        return PostgresUndo(self._address)

    def row(self, key: str) -> dict[str, Any] | None:
        rows = self._execute("SELECT * FROM orders WHERE id = %s", key)
        return rows[0] if rows else None

    def put(self, key: str, text: str | None, *, revision: int) -> None:
        if text is None:
            self._execute("DELETE FROM orders WHERE id = %s", key)
            return
        statement = (
            "INSERT INTO orders (id, text) VALUES (%s, %s)"
            " ON CONFLICT (id) DO UPDATE SET text = excluded.text"
        )
        self._execute(statement, key, text)

    def change_form(self) -> bool:
        has_column = bool(
            self._execute(
                "SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass('orders')"
                " AND attname = %s AND NOT attisdropped",
                COLUMN,
            )
        )
        self._execute(_form_statement(has_column=has_column))
        return not has_column

    def _execute(self, statement: str, *given: Any) -> list[dict[str, Any]]:
        import psycopg  # an extra
        from psycopg.rows import dict_row

        with psycopg.connect(self._address, autocommit=True) as database:
            done = database.cursor(row_factory=dict_row).execute(statement.encode(), given)
            return done.fetchall() if done.description is not None else []


def _form_statement(*, has_column: bool) -> str:
    if has_column:
        return f"ALTER TABLE orders DROP COLUMN {COLUMN}"
    default = f"NOT NULL DEFAULT {COLUMN_DEFAULT}"
    return f"ALTER TABLE orders ADD COLUMN {COLUMN} INTEGER {default}"
