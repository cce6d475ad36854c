"""The queue of an SQLite journal: its tables, and who is next. Called inside the store's
transactions, on connections that give text as bytes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping

from stageflow.journal.queue import QueueBounds, Wanted, queue_refusal, target_of
from stageflow.journal.store import RunHeader

SCHEMA = """
CREATE TABLE queue (
  number INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL,
  target TEXT NOT NULL, priority INTEGER NOT NULL);
CREATE INDEX queue_by_tenant ON queue(tenant);
CREATE TABLE served (tenant TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX heads_running ON heads(run) WHERE status = 'running';
"""
_NEXT = """
SELECT queue.run, queue.tenant FROM queue LEFT JOIN served ON served.tenant = queue.tenant
WHERE target IN ({targets}) AND run NOT IN ({passed_over})
ORDER BY coalesce(served.number, 0), priority DESC, queue.number LIMIT 1
"""
_SERVED = """
INSERT INTO served SELECT ?1, coalesce(max(number), 0) + 1 FROM served WHERE true
ON CONFLICT (tenant) DO UPDATE SET number = excluded.number
"""


def put(
    writer: sqlite3.Connection, header: RunHeader, *, priority: int, bounds: QueueBounds
) -> None:
    """Puts the run into the queue; raises "queue.full", "queue.no_target"."""
    target = target_of(header)
    (runs,) = writer.execute("SELECT count(*) FROM queue").fetchone()
    (tenant,) = writer.execute(
        "SELECT count(*) FROM queue WHERE tenant = ?", (header.tenant,)
    ).fetchone()
    refused = queue_refusal(header, bounds, runs=runs, tenant=tenant)
    if refused is not None:
        raise refused
    writer.execute(
        "INSERT INTO queue (run, tenant, target, priority) VALUES (?, ?, ?, ?)",
        (header.run, header.tenant, target, priority),
    )


def remove(writer: sqlite3.Connection, run: str) -> None:
    """The run was claimed; does nothing for one that is not in the queue."""
    writer.execute("DELETE FROM queue WHERE run = ?", (run,))


def pick(writer: sqlite3.Connection, wanted: Wanted) -> str | None:
    """The next run, whose tenant counts as served from now on."""
    query = _NEXT.format(
        targets=", ".join("?" * len(wanted.targets)),
        passed_over=", ".join("?" * len(wanted.passed_over)),
    )
    found = writer.execute(query, (*wanted.targets, *wanted.passed_over)).fetchone()
    if found is None:
        return None
    run, tenant = (column.decode() for column in found)
    writer.execute(_SERVED, (tenant,))
    return str(run)


def running(writer: sqlite3.Connection) -> Iterator[str]:
    """Runs that are owned, or were released."""
    for (run,) in writer.execute("SELECT run FROM heads WHERE status = 'running'").fetchall():
        yield run.decode()


def counts(reader: sqlite3.Connection) -> Mapping[str, int]:
    """How many runs wait, by tenant."""
    rows = reader.execute("SELECT tenant, count(*) FROM queue GROUP BY tenant").fetchall()
    return {tenant.decode(): count for tenant, count in rows}
