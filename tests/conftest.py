"""What every test has: the project's root, a folder of its own to be in, and no task left over."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

ROOT = Path(__file__).parent.parent


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
