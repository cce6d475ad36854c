"""What a framework gets wrong about depth, as sabotages of DAG-006."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Final

from stageflow import Failure, StageFailed
from stageflow.graph import order
from stageflow.model.bag import OutputBag
from stageflow.runtime import driver
from stageflow.runtime.failure import failure_of
from stageflow.runtime.history import History

from ...sabotage import Sabotage, patched, sabotage

RECORDS_HELD: Final = 256
STATE_KEPT: Final = 1_000


@sabotage(metric="recursion_errors")
def recursive_walk() -> Iterator[None]:
    """The topological walk calls itself for every stage that becomes ready."""

    def topological(children: Sequence[Sequence[int]]) -> list[int]:
        waiting = [0] * len(children)
        for targets in children:
            for target in targets:
                waiting[target] += 1
        found: list[int] = []

        def place(vertex: int) -> None:
            found.append(vertex)
            for target in children[vertex]:
                waiting[target] -= 1
                if waiting[target] == 0:
                    place(target)

        for root in [vertex for vertex, count in enumerate(waiting) if count == 0]:
            place(root)
        return found

    with patched(order, "topological", topological):
        yield


@sabotage(metric="report_lines_max")
def tracebacks_chained() -> Iterator[None]:
    """Each level that a failure passes through adds its own traceback to the failure's."""
    with patched(driver, "failure_of", _chained):
        yield


def _chained(error: BaseException, node: str) -> Failure:
    failure = failure_of(error, node)
    if isinstance(error, StageFailed):
        frames = "".join(traceback.format_tb(error.__traceback__))
        failure = replace(failure, traceback=f"{failure.traceback}{frames}")
    return failure


@sabotage(metric="reexecuted_max")
def outcomes_not_awaited() -> Iterator[None]:
    """The next stage starts before its parent's outcome is on disk; many go in one late write."""
    commit = History.commit

    async def late(self: History, running: Any) -> None:
        scheduler = running.scheduler
        if scheduler.ending is not None or scheduler.seq - self.durable_seq >= RECORDS_HELD:
            await commit(self, running)

    with patched(History, "commit", late):
        yield


@sabotage(metric="per_stage_ratio")
def outputs_recopied() -> Iterator[None]:
    """Every output that arrives makes a new list of all that came before it."""
    put = OutputBag.put

    def copying(self: OutputBag, *entry: Any, **named: Any) -> None:
        put(self, *entry, **named)
        self.accepted = list(self.accepted)

    with patched(OutputBag, "put", copying):
        yield


@sabotage(metric="retained_bytes_per_stage")
def states_kept() -> Iterator[None]:
    """Every output leaves a copy of the run's latest state behind until the next run."""
    put = OutputBag.put
    states: list[list[Any]] = []

    def keeping(self: OutputBag, node: int, *rest: Any, **named: Any) -> None:
        if not self.accepted:
            states.clear()
        states.append(self.values[max(0, node - STATE_KEPT) : node])
        put(self, node, *rest, **named)

    with patched(OutputBag, "put", keeping):
        yield


DEFECTS: Final[tuple[Sabotage, ...]] = (
    recursive_walk,
    tracebacks_chained,
    outcomes_not_awaited,
    outputs_recopied,
    states_kept,
)


def applied(name: str | None) -> AbstractContextManager[None]:
    """The defect of that name while entered, for a process that the load started."""
    if name is None:
        return nullcontext()
    return next(each for each in DEFECTS if each.name == name).apply()
