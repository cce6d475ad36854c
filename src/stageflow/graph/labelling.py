"""Labels as far as a graph tells: what guards take away, and what can never be taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stageflow.graph.plan import Node, Role
from stageflow.model.errors import BuildError
from stageflow.model.labels import NONE, Labels, shown

Parents = Sequence[tuple[tuple[int, Role], ...]]


def cleared_by_guards(nodes: Sequence[Node]) -> tuple[Labels, ...]:
    """What the guards of each node take away from its value when they have let it pass."""
    return tuple(
        NONE.union(*(_clears(nodes[guard]) for guard in node.guards)) if node.guards else NONE
        for node in nodes
    )


def _clears(node: Node) -> Labels:
    return NONE if node.stage is None else node.stage.clears


def is_labelled(nodes: Sequence[Node]) -> bool:
    """Whether any stage says anything of labels."""
    return any(
        node.stage is not None and (node.stage.labels or node.stage.accepts is not None)
        for node in nodes
    )


def refused_labels(
    nodes: Sequence[Node], parents: Parents, order: Sequence[int], pipeline: str
) -> Iterator[BuildError]:
    """A `graph.label` for each stage that is given, on every run, a label that it does not accept.

    Labels of inputs, deps and sessions are known when a run is; those are refused then.
    """
    cleared = cleared_by_guards(nodes)
    made: list[Labels] = [NONE] * len(nodes)
    for number in order:
        node, taken = nodes[number], NONE
        for parent, role in parents[number]:
            if role & (Role.VALUE | Role.OPTIONAL):
                taken |= made[parent] - cleared[parent]
            if role & (Role.RAW | Role.WHEN):
                taken |= made[parent]
        stage = node.stage
        if stage is None:
            continue
        made[number] = taken | stage.labels
        if stage.accepts is not None and not taken <= stage.accepts:
            yield BuildError(
                "graph.label",
                f"stage {node.name!r} is given what is labelled {shown(taken - stage.accepts)},"
                " which it does not accept",
                pipeline=pipeline,
                node=node.name,
                field="accepts",
                expected=f"labels among {shown(stage.accepts) or 'none'}",
                got=shown(taken),
                fix="a guard with clears=..., or accept the label",
            )
