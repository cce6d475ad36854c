"""What retrying gets wrong, as sabotages of WORK-005."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from stageflow import Retry
from stageflow.runtime import recovery, retrying
from stageflow.runtime.dependencies import BudgetState

from ...sabotage import Sabotage, patched, sabotage


@sabotage(metric="jitter_p_value")
def jitter_removed() -> Iterator[None]:
    """Every wait is as long as it may be."""

    def wait_s(self: Retry, *, attempt: int, seed: int, node: str, after_s: float | None) -> float:
        return min(self.max_s, self.base_s * self.factor ** (attempt - 1))

    with patched(Retry, "wait_s", wait_s):
        yield


@sabotage(metric="outage_attempts_ratio")
def every_layer_retries() -> Iterator[None]:
    """What a run below has tried again is tried again above it."""

    def final(retry: Retry, error: Exception, found: Any) -> str:
        return ""

    with patched(retrying, "_final", final):
        yield


@sabotage(metric="outage_attempts_ratio")
def budget_not_asked() -> Iterator[None]:
    """A policy's attempts are all made, whatever everybody else does."""

    def take(self: BudgetState, now_s: float) -> bool:
        return True

    with patched(BudgetState, "take", take):
        yield


@sabotage(metric="timers_early")
def due_times_in_memory() -> Iterator[None]:
    """When a next attempt is due is known to the process that planned it, and to nobody after."""

    def on_time(actions: list[Any], loaded: Any, driver: Any) -> list[Any]:
        return actions

    with patched(recovery, "_on_time", on_time):
        yield


DEFECTS: Final[tuple[Sabotage, ...]] = (
    jitter_removed,
    every_layer_retries,
    budget_not_asked,
    due_times_in_memory,
)


def applied(name: str | None) -> AbstractContextManager[None]:
    """The defect `name` while entered, in a process of the load; nothing for None."""
    by_name = {each.name: each for each in DEFECTS}
    return nullcontext() if name is None else by_name[name].apply()
