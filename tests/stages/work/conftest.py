"""Ledgers in every store; those whose server or client library is absent are skipped."""

from __future__ import annotations

import importlib.util
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from stageflow.stages.work import Ledger, LedgerRules
from stageflow.stages.work.ledger.entry import EffectEntry
from stageflow.stages.work.ledger.memory import MemoryEffects
from stageflow.stages.work.ledger.store import EffectStore

POSTGRES, REDIS = "postgresql://postgres@127.0.0.1:5432/test", "redis://127.0.0.1:6379/0"
RULES = LedgerRules(keep_s=3600.0, lease_s=60.0, skew_s=10.0)

StoreMaker = Callable[[], EffectStore]
LedgerMaker = Callable[..., Ledger]


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def opened_store(request: pytest.FixtureRequest, tmp_path: Path) -> StoreMaker:
    """Makes stores that share their entries."""
    if request.param == "memory":
        entries: dict[str, EffectEntry] = {}
        return lambda: MemoryEffects(entries)
    if request.param == "sqlite":
        from stageflow.stages.work.ledger.sqlite import SQLiteEffects

        return lambda: SQLiteEffects(tmp_path / "effects.db")
    return _at_server(request.param)


def _at_server(kind: str) -> StoreMaker:
    port, module = {"postgres": (5432, "psycopg"), "redis": (6379, "redis")}[kind]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"the client library {module} is not installed")
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex(("127.0.0.1", port)):
            pytest.skip(f"no {kind} listens here")
    if kind == "postgres":
        from stageflow.stages.work.ledger.postgres import PostgresEffects

        return lambda: PostgresEffects(POSTGRES)
    from stageflow.stages.work.ledger.redis import RedisEffects

    return lambda: RedisEffects(REDIS)


@pytest.fixture
async def ledgers(opened_store: StoreMaker) -> AsyncIterator[LedgerMaker]:
    """Makes ledgers over the same entries; all are closed at the end."""
    made: list[Ledger] = []

    def make(**options: object) -> Ledger:
        made.append(Ledger(opened_store(), **{"rules": RULES, **options}))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for ledger in made:
        await ledger.aclose()


@pytest.fixture
def tenant() -> Iterator[str]:
    """Nobody else's: servers outlive a test."""
    yield f"tenant-{uuid.uuid4().hex}"


@pytest.fixture
def postgres_schema() -> Iterator[str]:
    """The address of an empty schema, which is dropped in the end."""
    _at_server("postgres")  # skips
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(POSTGRES) as database:
        database.execute(f"CREATE SCHEMA {name}".encode())
    yield f"{POSTGRES}?options=-csearch_path%3D{name}"
    with psycopg.connect(POSTGRES) as database:
        database.execute(f"DROP SCHEMA {name} CASCADE".encode())
