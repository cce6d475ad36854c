"""Which labels the values of one run have: followed from inputs, deps and session to each output.

What is not known is taken for labelled: a stage that takes `ctx` can read everything that the run
had accepted when its attempt began, so its value has the labels of all of it; a stage that is
chosen by a branch has those of the route; a revision has those of the guards that asked for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stageflow.graph import Node, Plan, Role, Source
from stageflow.model.bag import MISSING
from stageflow.model.errors import RunError
from stageflow.model.labels import NONE, Labels, shown

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver


class LabelFlow:
    """The labels of one run's values, by node number."""

    __slots__ = ("_children", "_plan", "_versions", "deps", "made", "run", "session")

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.run = NONE
        """Of every input."""
        self.session = NONE
        """Of the earlier turns that the run sees."""
        self.deps: dict[str, Labels] = {}
        self.made: dict[int, Labels] = {}
        """Of each node's latest value, before its guards have let it pass."""
        self._children: dict[int, Labels] = {}
        """Of what child runs gave the attempt that is under way."""
        self._versions: dict[int, int] = {}
        """How much of the run the node's attempt can read, for those that take `ctx`."""

    @property
    def has_any(self) -> bool:
        """Whether the run was given anything that has a label."""
        return bool(self.run or self.session or self.made or any(self.deps.values()))

    def of(self, number: int) -> Labels:
        """Of what the node made, as its guards see it."""
        if self._plan.nodes[number].stage is None:
            return self.run | self.session
        return self.made.get(number, NONE)

    def released(self, number: int) -> Labels:
        """Of the node's value as its consumers get it."""
        return self.of(number) - self._plan.cleared[number]

    def reads(self, number: int, version: int) -> None:
        """The node's attempt was given `ctx`, and with it the run at this version."""
        self._versions[number] = version

    def child_gave(self, number: int, labels: Labels) -> None:
        """A child run of the node's attempt gave a value with these labels."""
        self._children[number] = self._children.get(number, NONE) | labels

    def taken(self, driver: Driver, number: int) -> Labels:
        """Of all that the node's attempt was given."""
        plan = self._plan
        node = plan.nodes[number]
        found = set(self.session)
        for parent, role in plan.parents[number]:
            if role & (Role.VALUE | Role.OPTIONAL) and driver.bag.values[parent] is not MISSING:
                found |= self.released(parent)
            if role & (Role.RAW | Role.WHEN):
                found |= self.of(parent)
        for argument in node.arguments:
            if argument.source is Source.INPUT:
                found |= self.run
            elif argument.source is Source.DEP:
                found |= self.deps.get(argument.ref, NONE)
            elif argument.source is Source.CONTEXT:
                found |= self._whole_run(driver, number)
        if driver.scheduler.revision[number] > 1:
            for guard in node.guards:
                found |= self.of(guard)
        if node.fallback is not None and driver.scheduler.stands(number):
            found |= self.released(node.fallback)
        return frozenset(found)

    def note(self, driver: Driver, number: int) -> Labels:
        """Of the value that the node has just made; kept."""
        stage = self._plan.nodes[number].stage
        labels = self.taken(driver, number) | self._children.pop(number, NONE)
        if stage is not None:
            labels |= stage.labels
        if labels:
            self.made[number] = labels
        else:
            self.made.pop(number, None)
        return labels

    def outputs(self) -> Labels:
        """Of the pipeline's declared outputs."""
        return NONE.union(*(self.released(number) for number in self._plan.outputs))

    def turn(self, driver: Driver) -> Labels:
        """Of what later turns of the session see of this run."""
        found = set(self.outputs())
        for name, spec in self._plan.inputs.items():
            if name in driver.inputs:
                found |= self.run if spec.node is None else self.released(spec.node)
        return frozenset(found)

    def _whole_run(self, driver: Driver, number: int) -> set[str]:
        found = set(self.run)
        for entry in driver.bag.accepted[: self._versions.get(number, driver.version)]:
            found |= self.released(entry.node)
        return found


def check_accepted(driver: Driver, node: Node) -> None:
    """Before the body begins. RunError `label.refused` when it is given what it does not accept."""
    stage = node.stage
    assert stage is not None and stage.accepts is not None
    refused = driver.flow.taken(driver, node.index) - stage.accepts if driver.flows else NONE
    if refused:
        raise RunError(
            "label.refused",
            f"stage {node.name!r} was given what is labelled {shown(refused)}, which it does not"
            " accept; it was not begun",
            pipeline=driver.plan.name,
            node=node.name,
            expected=f"labels among {shown(stage.accepts) or 'none'}",
            got=shown(refused),
            fix="a guard with clears=... before it, or accept the label",
        )
