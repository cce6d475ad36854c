"""Trees with one mistake in what a parent exports or takes: each must be refused by the build."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from stageflow import BuildError, BuildErrors, Pipeline, Stage, StageflowError, transform

from .pipeline_trees import GIVEN, Tree, TreeNode
from .tree_log import ROOT, VALUE
from .tree_pipelines import VIRTUAL, pipeline_of

HIDDEN: Final = "hidden"
"""A stage of the child that is none of its outputs."""
TAKER: Final = "taker"


def miswired(tree: Tree, rng: random.Random) -> Counter[str]:
    """Makes one mistake at a parent of the tree: whether it was refused, and how well.

    `miswired`: mistakes made; `refused`: errors with the right code; `named`: those that name both
    stages.
    """
    parents = [
        node
        for _, inner in tree.below()
        for node in inner.nodes
        if node.child is not None and node.way == "stage" and node.exports
    ]
    found: Counter[str] = Counter()
    if not parents:
        return found
    node, mistake = rng.choice(parents), rng.choice(tuple(_MISTAKES))
    code, names = _MISTAKES[mistake]
    found["miswired"] += 1
    told = _refusals(lambda: mistake(node))
    text = next((str(error) for error in told if error.code == code), None)
    found["refused"] += text is not None
    found["named"] += text is not None and all(f"'{name}'" in text for name in names(node))
    return found


def _refusals(build: Callable[[], object]) -> tuple[StageflowError, ...]:
    try:
        build()
    except BuildErrors as several:
        return tuple(several.errors)
    except BuildError as error:
        return (error,)
    return ()


def _child(node: TreeNode) -> Pipeline[Any]:
    """The node's child with one more stage, which is no output."""
    assert node.child is not None
    child = pipeline_of(node.child, VIRTUAL, f"{ROOT}.{node.name}")
    outputs = [child.plan.nodes[number].name for number in child.plan.outputs]
    stages = [each.stage for each in child.plan.nodes if each.stage is not None]

    @transform(name=HIDDEN)
    async def hidden(given: list[str]) -> list[str]:
        return given

    placed = [stage for stage in stages if stage.kind.value != "export"]
    return Pipeline("child", [*placed, hidden], inputs={GIVEN: VALUE}, outputs=outputs)


def _parent(*stages: Stage[..., Any]) -> None:
    Pipeline("parent", stages, inputs={GIVEN: VALUE})


def _own(name: str) -> Stage[..., Any]:
    @transform(name=name)
    async def own(given: list[str]) -> list[str]:
        return given

    return own


def _undeclared(node: TreeNode) -> None:
    _parent(_child(node).as_stage(node.name, exports=[HIDDEN]))


def _colliding_with_stage(node: TreeNode) -> None:
    name, of = node.exports[0]
    _parent(_own(name), _child(node).as_stage(node.name, exports={name: of}))


def _colliding_with_export(node: TreeNode) -> None:
    name, of = node.exports[0]
    child = _child(node)
    _parent(
        child.as_stage(node.name, exports={name: of}),
        child.as_stage(TAKER, exports={name: of}),
    )


def _taken_unexported(node: TreeNode) -> None:
    _, of = node.exports[0]

    @transform(name=TAKER)
    async def taker(hidden: list[str]) -> list[str]:
        return hidden

    _parent(_child(node).as_stage(node.name, exports={"shown": of}), taker)


_Names = Callable[[TreeNode], tuple[str, ...]]
_MISTAKES: Final[Mapping[Callable[[TreeNode], None], tuple[str, _Names]]] = {
    _undeclared: ("graph.unknown_export", lambda node: (node.name, HIDDEN)),
    _colliding_with_stage: (
        "graph.export_collides",
        lambda node: (node.name, node.exports[0][0]),
    ),
    _colliding_with_export: (
        "graph.export_collides",
        lambda node: (node.name, TAKER),
    ),
    _taken_unexported: (
        "graph.not_exported",
        lambda node: (node.name, TAKER, HIDDEN),
    ),
}
