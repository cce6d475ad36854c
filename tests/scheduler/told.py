"""A scheduler that is told by node names what happened."""

from __future__ import annotations

from typing import Any

from stageflow.graph import Stage, compile_plan
from stageflow.scheduler import NodeState, Program, Scheduler


class Told:
    """A scheduler that is told by node names; every event is followed by every invariant."""

    def __init__(self, *stages: Stage[..., Any], outputs: Any = None) -> None:
        self.plan = compile_plan(
            "told", stages, inputs={"x": str}, outputs=outputs, deps={}, is_context=lambda _: False
        )
        self.scheduler = Scheduler(Program(self.plan))
        self.actions = self._checked(self.scheduler.start())

    def _checked(self, actions: Any) -> Any:
        self.scheduler.check()
        return actions

    def number(self, name: str) -> int:
        return self.plan.index[name]

    def tell(self, event: str, name: str, *rest: Any, **options: Any) -> Any:
        node = self.number(name)
        token = self.scheduler.token[node]
        method = getattr(self.scheduler, event)
        return self._checked(method(node, token, *rest, **options))

    def states(self, *names: str) -> list[NodeState]:
        return [self.scheduler.status[self.number(name)] for name in names]

    def reopen(self) -> Any:
        return self._checked(self.scheduler.reopened())
