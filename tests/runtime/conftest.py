"""Runs of these tests are checked for their invariants, and nothing is left over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from stageflow.runtime.driver import Driver


@pytest.fixture(autouse=True)
def sound_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Driver]]:
    """Every driver of the test; afterwards each scheduler is sound and no worker lives."""
    drivers: list[Driver] = []
    execute = Driver.execute

    async def watched(driver: Driver, first: Any = None) -> Any:
        drivers.append(driver)
        return await execute(driver, first)

    monkeypatch.setattr(Driver, "execute", watched)
    yield drivers
    for driver in drivers:
        if driver.bug is None and driver.scheduler.started:
            driver.scheduler.check()
        assert all(worker.done() for worker in driver.workers)
        assert not driver.attempts, "a stage of an ended run still waits"
