"""A plan with what the scheduler looks up at every step, computed once per pipeline."""

from __future__ import annotations

from stageflow.graph import Plan
from stageflow.scheduler.actions import Launch


class Program:
    """Shared by all runs of a pipeline; nothing in it changes from run to run."""

    __slots__ = ("branches", "falls_back", "plain", "plan", "run_actions")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.run_actions = tuple(Launch(number) for number in range(len(plan.nodes)))
        """One Run action per node: they carry nothing that changes from run to run."""
        self.plain = bytes(
            not node.guards
            and node.fallback is None
            and node.stands_for is None
            and not any(plan.nodes[child].join is not None for child in plan.children[node.index])
            for node in plan.nodes
        )
        """1 for nodes whose release needs no look at guards, joins, branches or fallbacks."""
        self.falls_back = any(node.fallback is not None for node in plan.nodes)
        """True when some node has a fallback."""
        branches: dict[int, list[str]] = {}
        for node in plan.nodes:
            if node.when is not None:
                branches.setdefault(node.when[0], []).append(node.when[1])
        for number in plan.order:
            stands_for = plan.nodes[number].stands_for
            if stands_for is not None:  # a fallback may choose whatever its node may
                branches.setdefault(number, []).extend(branches.get(stands_for, ()))
        self.branches = {route: tuple(names) for route, names in branches.items()}
        """Route number to the branches that some stage handles. Only routes are looked up."""
