"""Where the servers are that scenarios use, and a schema of its own for each load."""

from __future__ import annotations

import os
from typing import Final

POSTGRES: Final = os.environ.get(
    "STAGEFLOW_LAB_POSTGRES", "postgresql://postgres@127.0.0.1:5432/test"
)
REDIS: Final = os.environ.get("STAGEFLOW_LAB_REDIS", "redis://127.0.0.1:6379/0")


def postgres_in(schema: str) -> str:
    """The address of PostgreSQL for connections whose tables lie in `schema`."""
    return f"{POSTGRES}?options=-csearch_path%3D{schema}"


def make_schema(schema: str) -> None:
    """A schema that is empty, whatever was there. Needs psycopg."""
    import psycopg  # an extra

    drop_schema(schema)
    with psycopg.connect(POSTGRES, autocommit=True) as database:
        database.execute(f'CREATE SCHEMA "{schema}"'.encode())


def drop_schema(schema: str) -> None:
    """The schema is gone with all that is in it. Needs psycopg."""
    import psycopg  # as above

    with psycopg.connect(POSTGRES, autocommit=True) as database:
        database.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE'.encode())
