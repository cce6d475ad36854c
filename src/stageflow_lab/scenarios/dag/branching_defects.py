"""What a framework gets wrong about branches, as sabotages of DAG-008."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from stageflow import NodeOutcome, Run
from stageflow.graph import Join, Role
from stageflow.graph import compile as compilation
from stageflow.graph.reach import unreachable
from stageflow.scheduler import Cause, NodeState, Scheduler

from ...sabotage import Sabotage, patched, sabotage


@sabotage(metric="executed_equal")
def skip_fails_join() -> Iterator[None]:
    """A join takes a skipped branch for a failed one, and does not fire."""
    is_bad = Scheduler._is_bad

    def stricter(self: Scheduler, node: int, parent: int, role: Role) -> bool:
        skipped = self.status[parent] is NodeState.SKIPPED
        return is_bad(self, node, parent, role) or (skipped and self.nodes[node].join is not None)

    with patched(Scheduler, "_is_bad", stricter):
        yield


@sabotage(metric="unselected_effects")
def unselected_branch_runs() -> Iterator[None]:
    """A stage whose branch was not taken runs all the same, and what it gives is discarded."""
    decide = Scheduler._decide
    originals = {name: getattr(Scheduler, name) for name in ("completed", "skipped", "failed")}

    def eager(self: Scheduler, node: int, actions: list[Any]) -> None:
        reasons = [
            self._verdict(parent, role)[1]
            for parent, role in self.plan.parents[node]
            if self._is_bad(node, parent, role)
        ]
        if reasons and all(cause is Cause.BRANCH for cause, _ in reasons):
            self.cause[node] = reasons[0]
            self._hand_out(node, actions)
        else:
            decide(self, node, actions)

    def discarding(name: str) -> Any:
        def ended(self: Scheduler, node: int, token: int, *rest: Any, **named: Any) -> Any:
            if node not in self.cause or self.status[node] is not NodeState.RUNNING:
                return originals[name](self, node, token, *rest, **named)
            self._outcome(node, "skip")
            self.running -= 1
            self._finish(node, NodeState.SKIPPED, self.cause[node])
            return self._close([])

        return ended

    with (
        patched(Scheduler, "_decide", eager),
        patched(Scheduler, "completed", discarding("completed")),
        patched(Scheduler, "skipped", discarding("skipped")),
        patched(Scheduler, "failed", discarding("failed")),
    ):
        yield


@sabotage(metric="skips_with_cause")
def skips_unexplained() -> Iterator[None]:
    """A skip is told as the stage's own, whoever caused it."""
    told = Run._node

    def shortened(self: Run[Any], number: int) -> NodeOutcome:
        outcome = told(self, number)
        if outcome.state != "skipped":
            return outcome
        return replace(outcome, cause="own", blame=outcome.name)

    with patched(Run, "_node", shortened):
        yield


@sabotage(metric="dead_found")
def dead_joins_built() -> Iterator[None]:
    """The build takes every join as one that can fire."""

    def lenient(order: Any, parents: Any, whens: Any, joins: Mapping[int, Join]) -> Any:
        found = unreachable(order, parents, whens, joins)
        return ((node, why) for node, why in found if node not in joins)

    with patched(compilation, "unreachable", lenient):
        yield


@sabotage(metric="false_reports")
def joins_need_all() -> Iterator[None]:
    """The build takes a join as one that needs every branch, and refuses what it joins."""

    def strict(order: Any, parents: Any, whens: Any, joins: Mapping[int, Join]) -> Any:
        all_of = {n: replace(join, need=len(join.branches)) for n, join in joins.items()}
        return unreachable(order, parents, whens, all_of)

    with patched(compilation, "unreachable", strict):
        yield


DEFECTS: Final[tuple[Sabotage, ...]] = (
    skip_fails_join,
    unselected_branch_runs,
    skips_unexplained,
    dead_joins_built,
    joins_need_all,
)
