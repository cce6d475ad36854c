"""The queue of a PostgreSQL journal: who is next. Called inside the store's transactions.

A row that another worker is about to take is locked, and passed over (SKIP LOCKED), so that workers
don't wait for each other.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from stageflow.journal.postgres.access import Connection
from stageflow.journal.postgres.packing import Texts, stored
from stageflow.journal.queue import QueueBounds, Wanted, queue_refusal, target_of
from stageflow.journal.store import RunHeader

SCHEMA = """
CREATE TABLE queue (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run text NOT NULL UNIQUE,
  tenant text NOT NULL, target text NOT NULL, priority bigint NOT NULL);
CREATE INDEX queue_by_tenant ON queue (tenant, priority DESC, number);
CREATE TABLE served (tenant text PRIMARY KEY, number bigint NOT NULL);
CREATE SEQUENCE services;
CREATE INDEX heads_running ON heads (owner) WHERE status = 'running';
"""
_LOCK = "SELECT pg_advisory_xact_lock(%s)"
_COUNT = "SELECT count(*), count(*) FILTER (WHERE tenant = %s) FROM queue"
_PUT = "INSERT INTO queue (run, tenant, target, priority) VALUES (%s, %s, %s, %s)"
_NEXT = """
SELECT queue.run, queue.tenant FROM queue LEFT JOIN served ON served.tenant = queue.tenant
WHERE target = ANY(%s) AND run <> ALL(%s)
ORDER BY coalesce(served.number, 0), priority DESC, queue.number
LIMIT 1 FOR UPDATE OF queue SKIP LOCKED
"""
_SERVED = """
INSERT INTO served (tenant, number) VALUES (%s, nextval('services'))
ON CONFLICT (tenant) DO UPDATE SET number = excluded.number
"""
_ORPHAN = """
SELECT heads.run FROM heads JOIN runs ON runs.run = heads.run
  LEFT JOIN leases ON leases.owner = heads.owner
WHERE status = 'running' AND epoch <= %s AND coalesce(expires < clock_timestamp(), true)
  AND header->>'target' = ANY(%s) AND header->>'parent' IS NULL AND heads.run <> ALL(%s)
ORDER BY updated_wall_s LIMIT 1 FOR UPDATE OF heads SKIP LOCKED
"""
_COUNTS = "SELECT tenant, count(*) FROM queue GROUP BY tenant"


def put(
    connection: Connection, header: RunHeader, *, priority: int, bounds: QueueBounds, schema: str
) -> None:
    """Puts the run into the queue; raises "queue.full". Submitters go one by one, so that a bound
    is one."""
    connection.execute(_LOCK, (zlib.crc32(f"stageflow queue {schema}".encode()),))
    row = connection.execute(_COUNT, (stored(header.tenant),)).fetchone()
    assert row is not None, "a count gives a row"
    refused = queue_refusal(header, bounds, runs=row[0], tenant=row[1])
    if refused is not None:
        raise refused
    columns = (header.run, header.tenant, target_of(header))
    connection.execute(_PUT, (*map(stored, columns), priority))


def pick(connection: Connection, wanted: Wanted) -> str | None:
    """The next run, whose tenant counts as served from now on."""
    passed_over = Texts(list(wanted.passed_over))
    row = connection.execute(_NEXT, (Texts(wanted.targets), passed_over)).fetchone()
    if row is None:
        return None
    run, tenant = (column.decode() for column in row)
    connection.execute(_SERVED, (stored(tenant),))
    return str(run)


def remove(connection: Connection, run: str) -> None:
    """The run was claimed; does nothing for one that is not in the queue."""
    connection.execute("DELETE FROM queue WHERE run = %s", (stored(run),))


def orphan(connection: Connection, wanted: Wanted) -> str | None:
    """The orphan that has waited longest."""
    given = (wanted.epochs_max, Texts(wanted.targets), Texts(list(wanted.passed_over)))
    row = connection.execute(_ORPHAN, given).fetchone()
    return None if row is None else row[0].decode()


def counts(connection: Connection) -> Mapping[str, int]:
    """How many runs wait, by tenant."""
    return {tenant.decode(): count for tenant, count in connection.execute(_COUNTS).fetchall()}
