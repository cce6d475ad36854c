"""Which undo belongs to which node, under which name, and which effects lie behind which.

The order of undoing is the graph read backwards: an effect is taken back when every effect that
could depend on it has been (Garcia-Molina and Salem, "Sagas", SIGMOD 1987, for a chain). What does
not depend on one another is undone side by side.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from stageflow.graph.order import topological
from stageflow.graph.stage import Stage

RESULT = "result"
"""The parameter of an undo that takes what the step returned."""


def undo_name(node: str) -> str:
    """Of the node that undoes `node`: no identifier, so that nothing can be called the same."""
    return f"{node}.undo"


def undo_of(stage: Stage[..., Any]) -> Stage[..., Any] | None:
    """What undoes the stage: its own `undo`, or that of the pipeline it runs."""
    if stage.undo is not None or stage.child is None:
        return stage.undo
    return stage.child.undo


def effects_behind(
    followers: Sequence[Sequence[int]], undoable: Collection[int]
) -> dict[int, frozenset[int]]:
    """Of each undoable node: those other undoable ones that can only run after it.

    `followers` may name vertices past the nodes, as of verdicts that several guards share. One
    integer for each vertex, of as many bits as there are undoable nodes.
    """
    listed = sorted(undoable)
    bit = {node: 1 << place for place, node in enumerate(listed)}
    behind: dict[int, int] = {}
    for node in reversed(topological(followers)):
        found = 0
        for follower in followers[node]:
            found |= behind[follower] | bit.get(follower, 0)
        behind[node] = found
    return {
        node: frozenset(other for other in listed if behind[node] & bit[other]) for node in listed
    }
