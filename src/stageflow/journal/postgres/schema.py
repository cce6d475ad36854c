"""The tables of a journal in PostgreSQL, made and brought up to date when a store opens.

Row security: a row is seen and written by those whose setting `stageflow.tenant` names its tenant,
or whose setting `stageflow.scope` is "every" while they belong to the role that owns the schema. A
setting that is missing shows nothing. It is forced, so that the tables' owner is held by it too;
superusers and roles with BYPASSRLS are not.
"""

from __future__ import annotations

import zlib
from typing import Any

import psycopg

from stageflow.journal.postgres import turns, waiting
from stageflow.model.errors import JournalError

SCHEMA_VERSION = 2
SERVER_VERSION_MIN = 14
"""The oldest release that the PostgreSQL project maintained in 2026."""

SEES_EVERY = """(current_setting('stageflow.scope', true) = 'every' AND (
    SELECT pg_has_role(nspowner, 'USAGE') FROM pg_catalog.pg_namespace
    WHERE nspname = current_schema()))"""
"""Who may see the rows of all tenants."""
_SEES = f"""(
  tenant = current_setting('stageflow.tenant', true)
  OR {SEES_EVERY})"""
_WITH_TENANT = "runs heads records contents refused queue served sessions turns".split()


def _isolated(table: str) -> str:
    return f"""
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON {table} USING {_SEES} WITH CHECK {_SEES};"""


_ISOLATED = "".join(_isolated(table) for table in _WITH_TENANT)
_FIRST = f"""
CREATE TABLE runs (
  run text PRIMARY KEY, tenant text NOT NULL, created_wall_s double precision NOT NULL,
  header json NOT NULL, checksum bytea NOT NULL);
CREATE INDEX runs_by_time ON runs (created_wall_s, run);
CREATE INDEX runs_by_tenant ON runs (tenant, created_wall_s, run);
CREATE TABLE heads (
  run text PRIMARY KEY, tenant text NOT NULL, epoch bigint NOT NULL, owner text,
  status text NOT NULL, reason text NOT NULL, records bigint NOT NULL,
  updated_wall_s double precision NOT NULL, last bytea NOT NULL, checksum bytea NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE records (
  run text NOT NULL, seq bigint NOT NULL, tenant text NOT NULL, epoch bigint NOT NULL,
  type text NOT NULL, node text, revision bigint NOT NULL, attempt bigint NOT NULL,
  token bigint NOT NULL, wall_s double precision NOT NULL, accepted boolean NOT NULL,
  data json, contract text NOT NULL, labels json, key_id text NOT NULL, payload bytea,
  content bytea, previous bytea NOT NULL, checksum bytea NOT NULL, PRIMARY KEY (run, seq));
CREATE UNIQUE INDEX accepted_once ON records (run, node, revision) WHERE accepted;
CREATE TABLE contents (
  tenant text NOT NULL, content bytea NOT NULL, payload bytea NOT NULL,
  PRIMARY KEY (tenant, content));
CREATE TABLE refused (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run text NOT NULL, tenant text NOT NULL,
  held_epoch bigint NOT NULL, epoch bigint NOT NULL, seq bigint NOT NULL, type text NOT NULL,
  node text, revision bigint NOT NULL, attempt bigint NOT NULL, token bigint NOT NULL,
  wall_s double precision NOT NULL, data json, contract text NOT NULL, labels json,
  key_id text NOT NULL, payload bytea, refused_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX refused_by_run ON refused (run, id);
CREATE TABLE leases (owner text PRIMARY KEY, expires timestamptz NOT NULL);
{waiting.SCHEMA}
{turns.SCHEMA}
{_ISOLATED}
"""
_SECOND = f"""
CREATE TABLE keys (
  run text NOT NULL, id text NOT NULL, tenant text NOT NULL, wrapped bytea NOT NULL,
  PRIMARY KEY (run, id));
{_isolated("keys")}
"""
_MIGRATIONS = (_FIRST, _SECOND)
"""What makes version n of version n - 1, for n from 1 on. Never changed once released."""
assert len(_MIGRATIONS) == SCHEMA_VERSION


def prepare(connection: psycopg.Connection[Any], schema: str) -> None:
    """Makes or updates the journal in `schema`, which is the connection's search path.

    Raises JournalError "journal.newer_schema", "journal.foreign_file", "journal.cannot_open".
    Several processes may do it at once: one does the work, in one transaction.
    """
    _check_server(connection)
    if _version(connection, schema) == SCHEMA_VERSION:
        return
    with connection.transaction():
        # Two may begin at once; the lock is named after the schema and ends with the transaction.
        key = zlib.crc32(f"stageflow {schema}".encode())
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
        found = _version(connection, schema)
        if found is None:
            name = psycopg.sql.Identifier(schema)
            connection.execute(psycopg.sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))
            connection.execute("CREATE TABLE version (version bigint NOT NULL)")
            connection.execute("INSERT INTO version VALUES (0)")
        for number in range(0 if found is None else found, SCHEMA_VERSION):
            connection.execute(_MIGRATIONS[number])
        connection.execute("UPDATE version SET version = %s", (SCHEMA_VERSION,))


def _check_server(connection: psycopg.Connection[Any]) -> None:
    (encoding,) = connection.execute("SHOW server_encoding").fetchone() or (b"",)
    version = connection.info.server_version // 10_000
    if encoding != b"UTF8" or version < SERVER_VERSION_MIN:
        raise JournalError(
            "journal.cannot_open",
            "this database can't hold a journal",
            expected=f"PostgreSQL {SERVER_VERSION_MIN} or later, a database with encoding UTF8",
            got=f"PostgreSQL {version}, encoding {encoding.decode()}",
            fix="CREATE DATABASE runs ENCODING 'UTF8' TEMPLATE template0",
        )


def _version(connection: psycopg.Connection[Any], schema: str) -> int | None:
    """The version of the journal in `schema`; None when there is nothing in it."""
    tables = {
        name.decode()
        for (name,) in connection.execute(
            "SELECT tablename::text FROM pg_catalog.pg_tables WHERE schemaname = %s LIMIT 100",
            (schema,),
        )
    }
    if not tables:
        return None
    if not {"version", "records"} <= tables:
        raise JournalError(
            "journal.foreign_file",
            f"schema {schema!r} holds another program's tables; it was left as it is",
            expected="a journal, or a schema that does not exist yet",
            got=f"{len(tables)} tables, no journal's among them",
            fix="give the journal a schema of its own: postgresql://.../database?schema=runs",
        )
    (version,) = connection.execute("SELECT version FROM version").fetchone() or (0,)
    if version > SCHEMA_VERSION:
        raise JournalError(
            "journal.newer_schema",
            f"schema {schema!r} was written by a newer stageflow; it was left as it is",
            expected=f"schema version {SCHEMA_VERSION} at most",
            got=f"schema version {version}",
            fix="install the stageflow that wrote it, or a later one",
        )
    return int(version)
