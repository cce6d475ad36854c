"""A plan with what the scheduler looks up at every step, computed once per pipeline."""

from __future__ import annotations

from stageflow.graph import Plan
from stageflow.scheduler.actions import Run


class Program:
    """Immutable; shared by all runs of a pipeline."""

    __slots__ = ("plain", "plan", "run_actions")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.run_actions = tuple(Run(number) for number in range(len(plan.nodes)))
        """One Run action per node: they carry nothing that changes from run to run."""
        self.plain = bytes(
            not node.guards
            and not any(plan.nodes[child].join is not None for child in plan.children[node.index])
            for node in plan.nodes
        )
        """1 for nodes whose release needs no look at guards, joins or branches."""
