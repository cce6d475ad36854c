"""What a framework gets wrong about width, as sabotages of DAG-005."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Iterator
from typing import Any, Final

from stageflow.graph import Node
from stageflow.runtime.step import Step
from stageflow.scheduler import Action, NodeState, Scheduler

from ...sabotage import Sabotage, patched, sabotage


@sabotage(metric="per_stage_ratio")
def ready_set_scanned() -> Iterator[None]:
    """Every completion looks through all stages of the run for those that became ready."""
    completed = Scheduler.completed

    def scanning(self: Scheduler, node: int, token: int, *rest: Any) -> list[Action] | None:
        actions = completed(self, node, token, *rest)
        self.status.count(NodeState.WAITING)
        return actions

    with patched(Scheduler, "completed", scanning):
        yield


@sabotage(metric="peak_bytes_per_stage")
def inputs_copied() -> Iterator[None]:
    """Every branch is given deep copies of its inputs, of values that can't be changed too."""
    begin = Step.__init__

    def copying(self: Step, node: Node) -> None:
        begin(self, node)
        function = self.function
        if not self.is_async or not self.taken:
            return

        @functools.wraps(function)
        async def copied(**given: Any) -> Any:
            # Not copy.deepcopy, which shares what can't be changed.
            own = {
                name: pickle.loads(pickle.dumps(value)) if isinstance(value, str) else value
                for name, value in given.items()
            }
            return await function(**own)

        self.function = copied

    with patched(Step, "__init__", copying):
        yield


@sabotage(metric="outputs_present")
def first_failure_ends_all() -> Iterator[None]:
    """The first branch that fails ends the run, whatever its policy says."""
    fail = Scheduler._fail

    def ending(self: Scheduler, node: int, reason: str, actions: list[Action]) -> None:
        fail(self, node, reason, actions)
        self._stop("failed", reason, actions)

    with patched(Scheduler, "_fail", ending):
        yield


DEFECTS: Final[tuple[Sabotage, ...]] = (ready_set_scanned, inputs_copied, first_failure_ends_all)
