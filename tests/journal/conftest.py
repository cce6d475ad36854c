"""How owners live and die for a store in PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from stageflow.journal.admission import owner_text
from stageflow.journal.store import Owner, Store

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
