"""The PostgreSQL store: the same promises as the others, and those that only it makes."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from stageflow.journal.admission import owner_text
from stageflow.journal.conformance import CHECKS, OWNER_CHECKS, SHARED_CHECKS, check_store
from stageflow.journal.store import Owner, Store

psycopg = pytest.importorskip("psycopg", reason="needs the extra stageflow[postgres]")

from stageflow.journal.postgres.store import PostgresStore  # noqa: E402

Leased = Callable[[Store], AbstractContextManager[Owner]]


@pytest.fixture
def leased(postgres_server: Any, postgres_url: str) -> Leased:
    """An owner whose lease holds as long as the block."""
    schema = postgres_url.partition("schema=")[2]

    @contextmanager
    def owner(store: Store) -> Iterator[Owner]:
        one = replace(Owner.this_process(), pid=secrets.randbelow(2**30))
        yield one
        postgres_server.execute(
            f"UPDATE {schema}.leases SET expires = now() - interval '1 s' WHERE owner = %s",
            (owner_text(one),),
        )

    return owner


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_the_promises_of_a_store(
    check: Callable[[Store], None], postgres_url: str
) -> None:
    store = PostgresStore(postgres_url)
    check(store)
    store.close()


@pytest.mark.parametrize("check", OWNER_CHECKS, ids=lambda check: check.__name__)
def test_owners_live_as_long_as_their_lease(
    check: Callable[[Store, Leased], None], postgres_url: str, leased: Leased
) -> None:
    store = PostgresStore(postgres_url)
    check(store, leased)
    store.close()


@pytest.mark.parametrize("check", SHARED_CHECKS, ids=lambda check: check.__name__)
def test_stores_share_a_schema(check: Callable[[Any], None], postgres_url: str) -> None:
    check(lambda: PostgresStore(postgres_url))


def test_the_kit_passes_over_a_schema_that_holds_other_runs(
    postgres_url: str, leased: Leased
) -> None:
    for _ in range(2):
        check_store(lambda: PostgresStore(postgres_url), is_shared=True, other_owner=leased)
