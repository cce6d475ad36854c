"""A node with everything that running it looks up, computed once per pipeline."""

from __future__ import annotations

import math
from typing import Any

from stageflow.graph import Node, Plan, Source
from stageflow.model.kinds import Kind
from stageflow.scheduler import Program


class Step:
    """Immutable. The loop that runs stages reads these fields for every stage it runs."""

    __slots__ = (
        "admit",
        "decides",
        "dependency",
        "function",
        "heartbeat_s",
        "index",
        "is_async",
        "is_cached",
        "name",
        "node",
        "others",
        "taken",
        "timeout_s",
    )

    def __init__(self, node: Node) -> None:
        self.node = node
        self.index = node.index
        self.name = node.name
        self.function: Any = None if node.stage is None else node.stage.function
        self.is_async = (
            node.stage is not None
            and node.stage.mode == "async"
            and node.fallback is None
            and node.stage.reconcile is None
            and node.undoes is None
            and node.stage.cache is None
            and node.stage.accepts is None
            and (node.retry is None or node.retry.dependency is None)
        )
        """A plain async function that gives every value of its node: stepped in place."""
        self.taken = tuple(
            (argument.parameter, argument.ref)
            for argument in node.arguments
            if argument.source is Source.NODE
        )
        """(parameter, node number) of values that come from nodes."""
        self.others = tuple(a for a in node.arguments if a.source is not Source.NODE)
        """Inputs, deps and the context."""
        self.admit = node.contract.admit
        self.is_cached = node.stage is not None and node.stage.cache is not None
        self.dependency = None if node.retry is None else node.retry.dependency
        """What it calls, and shares a budget and a circuit for."""
        self.decides = node.kind in (Kind.GUARD, Kind.ROUTE)
        self.timeout_s = node.timeout_s
        self.heartbeat_s = math.inf if node.stage is None else node.stage.heartbeat_s


class Compiled(Program):
    """A program with its steps, by node number."""

    __slots__ = ("priorities", "steps")

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.steps = tuple(Step(node) for node in plan.nodes)
        priorities = tuple(node.priority for node in plan.nodes)
        self.priorities = priorities if any(priorities) else None
        """None when all nodes have the same, which is what most pipelines pay for."""
