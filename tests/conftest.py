"""What every test has: the project's root, a folder of its own to be in, and no task left over."""

from __future__ import annotations

import asyncio
import inspect
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

ROOT = Path(__file__).parent.parent

# Who begins the tests in the background of a shell may have it ignored, and every child with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root folder."""
    return ROOT


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Runs the test in an empty folder, where `.stageflow/` may appear."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path


@pytest.fixture(autouse=True)
def no_task_left(request: pytest.FixtureRequest) -> None:
    """Fails an async test that ends while tasks it started are still alive."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("watched_tasks")


@pytest_asyncio.fixture
async def watched_tasks(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """The tasks of the test's own loop, compared before and after; see `no_task_left`."""
    before = asyncio.all_tasks()
    yield
    known = {*before, asyncio.current_task()}
    left = [task for task in asyncio.all_tasks() - known if not task.done()]
    assert not left, f"{request.node.name} left tasks behind: {left}"


POSTGRES = os.environ.get("STAGEFLOW_TEST_POSTGRES", "postgresql://root@127.0.0.1:5432/test")
"""A database in which a test may make schemas and roles."""


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Any]:
    """A connection to the test database; skips the test, and says why, when there is none."""
    psycopg = pytest.importorskip("psycopg", reason="needs the extra stageflow[postgres]")
    try:
        server = psycopg.connect(POSTGRES, autocommit=True, connect_timeout=5)
    except psycopg.Error as error:
        pytest.skip(f"no PostgreSQL at STAGEFLOW_TEST_POSTGRES: {str(error).splitlines()[0]}")
    yield server
    server.close()


@pytest.fixture(scope="module")
def postgres_urls(postgres_server: Any) -> Iterator[Callable[[], str]]:
    """Makes addresses of journals in schemas of their own, which are gone after the module."""
    schemas: list[str] = []

    def make() -> str:
        schemas.append(f"test_{secrets.token_hex(8)}")
        return f"{POSTGRES}?schema={schemas[-1]}"

    yield make
    for schema in schemas:
        postgres_server.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')


@pytest.fixture
def postgres_url(postgres_urls: Callable[[], str]) -> str:
    """The address of a journal in a schema of its own."""
    return postgres_urls()
