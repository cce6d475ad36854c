"""The real part: processes that share a journal in PostgreSQL, each with sockets, files and a log.

The journal's tables belong to a role that row security holds. So every tenant's rows are read as
that tenant sees them, and a store that is scoped to a tenant is asked for the runs of others.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from stageflow import UNSEALED, JournalError, Runtime

from ...servers import POSTGRES
from .forged_ids import Forgeries
from .simulated_tenants import Report
from .tenant_batches import Batch, Job, jobs_of, runtime_of
from .tenant_canaries import Scanner, Sinks
from .tenant_defects import applied
from .tenant_desk import DiskFiles, TcpWire, Traffic, deps, serve

AT_ONCE: Final = 32
SCOPED: Final = 4
"""Tenants of each process that get a store of their own."""
TABLES: Final = {
    "runs": "SELECT run, tenant, convert_to(header::text, 'UTF8') FROM runs",
    "records": "SELECT run, tenant, node, convert_to(data::text, 'UTF8'), payload FROM records",
    "contents": "SELECT tenant, payload FROM contents",
    "sessions": "SELECT sessions::text FROM sessions",
}


@dataclass(frozen=True, slots=True)
class Order:
    """What one process has to run."""

    seed: int
    tenants: int
    numbers: tuple[int, ...]
    within_s: float
    folder: str
    url: str
    schema: str
    sabotage: str | None


@contextmanager
def database() -> Iterator[tuple[str, str]]:
    """(address, schema) for a role that row security holds; nothing is left of it afterwards."""
    import psycopg  # only where the server is

    name = f"lab_{secrets.token_hex(6)}"
    with psycopg.connect(POSTGRES, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN NOSUPERUSER NOBYPASSRLS".encode())
        try:
            admin.execute(f'GRANT CREATE ON DATABASE "{admin.info.dbname}" TO {name}'.encode())
            parts = urlsplit(POSTGRES)
            place = parts.netloc.rpartition("@")[2]
            yield urlunsplit(parts._replace(netloc=f"{name}@{place}")), name
        finally:
            admin.execute(f"DROP OWNED BY {name} CASCADE".encode())
            admin.execute(f"DROP ROLE {name}".encode())


def carried_out(order: Order) -> Report:
    """In a process of its own: patches do not cross into it by themselves."""
    with applied(order.sabotage):
        return asyncio.run(_worked_off(order))


async def _worked_off(order: Order) -> Report:
    scanner = Scanner(order.seed, order.tenants)
    sinks = Sinks(scanner, active=min(order.tenants, len(order.numbers)))
    traffic, folder = Traffic(scanner.canaries), Path(order.folder)
    server = await serve(traffic)
    port = server.sockets[0].getsockname()[1]

    async def opened() -> TcpWire:
        return TcpWire(traffic, *await asyncio.open_connection("127.0.0.1", port))

    given = deps(opened, lambda tenant: DiskFiles(folder / tenant))
    async with server, runtime_of(f"{order.url}?schema={order.schema}", given) as runtime:
        batch = Batch(
            runtime,
            traffic,
            sinks,
            Forgeries(),
            jobs_of(order.numbers, sinks),
            random.Random(f"{order.seed} {order.numbers[0]}"),
            within_s=order.within_s,
            at_once=AT_ONCE,
        )
        await batch.work_off()
        facts = batch.facts + traffic.facts
        facts["hits"] = runtime.cache.hits
    tenants = sorted({job.tenant for job in batch.jobs})
    _read_files(sinks, folder)
    facts += await asyncio.to_thread(_read_rows, order, sinks, tenants)
    facts += await _ask_scoped(order, sinks, tenants, batch.owners)
    return Report(sinks.data(), batch.forgeries.data(), facts)


def _read_files(sinks: Sinks, folder: Path) -> None:
    for path in sorted(folder.glob("*/*")):
        sinks.add("files", path.parent.name, path.read_text())


def _read_rows(order: Order, sinks: Sinks, tenants: list[str]) -> Counter[str]:
    """Every table, once for each tenant, as row security shows it to that tenant."""
    import psycopg

    facts: Counter[str] = Counter()
    with psycopg.connect(order.url, autocommit=True) as connection:
        connection.execute(f"SET search_path TO {order.schema}".encode())
        for tenant in tenants:
            connection.execute("SELECT set_config('stageflow.tenant', %s, false)", (tenant,))
            for query in TABLES.values():
                for row in connection.execute(query.encode()):
                    sinks.add("rows", tenant, b"\n".join(_cell(value) for value in row))
                    facts["rows"] += 1
    return facts


def _cell(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


async def _ask_scoped(
    order: Order, sinks: Sinks, tenants: list[str], owners: dict[str, Job]
) -> Counter[str]:
    """Journals that are scoped to one tenant by their address, asked for every run."""
    facts: Counter[str] = Counter()
    for tenant in tenants[:SCOPED]:
        url = f"{order.url}?schema={order.schema}&tenant={tenant}"
        async with Runtime(journal=url, keys=UNSEALED) as scoped:
            for run, job in owners.items():
                facts["scoped foreign"] += job.tenant != tenant
                try:
                    loaded = await scoped.load(run)
                except JournalError as error:
                    sinks.add("errors", tenant, error)
                    is_refused = error.code == "journal.unknown_run"
                    facts["scoped refused"] += is_refused and job.tenant != tenant
                    continue
                sinks.add_all("rows", tenant, [record.payload or b"" for record in loaded.records])
    return facts
