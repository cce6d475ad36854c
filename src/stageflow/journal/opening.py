"""A journal from what a user writes: a path, or an address that names the kind of store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stageflow.journal.address import without
from stageflow.journal.journal import GroupCommit, Journal
from stageflow.journal.locks import LockStore
from stageflow.journal.pools import PoolStore
from stageflow.journal.store import Store
from stageflow.model.errors import BuildError, JournalError
from stageflow.model.forms import is_address, scheme_of

_SQLITE = "sqlite:///"
_POSTGRES = ("postgresql://", "postgres://")
_REDIS = ("redis://", "rediss://", "unix://")


def opened(address: str | Path) -> Journal:
    """The journal at `address`: a path, "sqlite:///path", or "postgresql://...".

    Raises BuildError "runtime.journal", JournalError "journal.no_driver" and what the store raises
    when it opens.
    """
    return GroupCommit(_store(address))


def _store(address: str | Path) -> Store:
    path = file_of(address)
    if path is not None:
        return _sqlite(path)
    if isinstance(address, str) and address.startswith(_POSTGRES):
        return _postgres(address)
    raise BuildError(
        "runtime.journal",
        "this journal address is not known",
        field="journal",
        expected="a path, sqlite:///path, postgresql://host/database, or a Journal",
        got=f"{scheme_of(str(address))}...",
        fix="Runtime(journal='runs.db')",
    )


def file_of(address: str | Path) -> Path | None:
    """The file that a journal at `address` is; None when it is none, or is not known."""
    if isinstance(address, Path) or not is_address(address):
        return Path(address)
    if address.startswith(_SQLITE) and len(address) > len(_SQLITE):
        return Path(address.removeprefix(_SQLITE))
    return None


def _sqlite(path: Path) -> Store:
    from stageflow.journal.sqlite import SQLiteStore  # not at `import stageflow`

    return SQLiteStore(path)


def _postgres(url: str) -> Store:
    _check_driver()
    from stageflow.journal.postgres.store import PostgresStore

    return PostgresStore(url)


def _check_driver() -> None:
    try:
        import psycopg  # noqa: F401  (an extra; and not at `import stageflow`)
    except ImportError as error:
        raise JournalError(
            "journal.no_driver",
            "a journal in PostgreSQL needs a driver that is not installed",
            expected="psycopg 3 with libpq",
            got=str(error)[:200],
            fix="pip install 'stageflow[postgres]'",
        ) from error


def keeps_locks(address: str) -> bool:
    """Whether locks can be kept where the journal at `address` is: PostgreSQL, of all tenants."""
    return address.startswith(_POSTGRES) and "tenant" not in without(address, ("tenant",))[1]


def lock_store(place: str | Path) -> LockStore:
    """Where locks are kept: in PostgreSQL at that address, or in a SQLite file. BuildError
    `runtime.option` for another address."""
    if isinstance(place, str) and place.startswith(_POSTGRES):
        _check_driver()
        from stageflow.journal.postgres.locks import PostgresLocks

        return PostgresLocks(place)
    if isinstance(place, str) and is_address(place):
        raise BuildError(
            "runtime.option",
            "this address of locks is not known",
            field="locks",
            expected="a path, postgresql://host/database, or a LockStore",
            got=f"{scheme_of(place)}...",
            fix="Runtime(journal='runs.db', locks='locks.db')",
        )
    from stageflow.journal.sqlite_locks import SQLiteLocks  # not at `import stageflow`

    return SQLiteLocks(place)


def pool_store(place: Any) -> PoolStore | None:
    """Where shared pools are kept: a PoolStore as it is, or in PostgreSQL or Redis at that address.
    None for a journal that other machines don't reach."""
    if isinstance(place, str) and place.startswith(_POSTGRES):
        _check_driver()
        from stageflow.journal.postgres.pools import PostgresPools

        return PostgresPools(place)
    if isinstance(place, str) and place.startswith(_REDIS):
        from stageflow.journal.redis_pools import RedisPools  # an extra

        return RedisPools(place)
    is_store = all(hasattr(place, name) for name in ("change", "sight", "lease_s"))
    return place if is_store else None
