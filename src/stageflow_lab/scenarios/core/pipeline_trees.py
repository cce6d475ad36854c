"""Random pipelines that run pipelines: what a tree is, and its text for a reproduction command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

DEPTH_MAX: Final = 6
NAMES: Final = "abcdefgh"
"""Every pipeline of a tree takes its names from here: siblings, parents and children share them."""
GIVEN: Final = "given"
"""The one input of every pipeline."""
LAST: Final = "last"
"""The stage of every pipeline that looks at its run when all others have ended."""

Fate = Literal["calm", "fails", "fails_once", "stubborn", "threaded", "hangs"]
FATES: Final[tuple[Fate, ...]] = (
    "calm",
    "fails",
    "fails_once",
    "stubborn",
    "threaded",
    "hangs",
)
Way = Literal["stage", "call"]
WAYS: Final[tuple[Way, ...]] = ("stage", "call")
Ending = Literal["none", "handle", "caller", "deadline"]
ENDINGS: Final[tuple[Ending, ...]] = ("none", "handle", "caller", "deadline")


@dataclass(frozen=True, slots=True)
class TreeNode:
    """One stage: a leaf with a fate, or one that runs a child."""

    name: str
    takes: tuple[str, ...]
    """Nodes of the same pipeline whose value it takes, beside or instead of the input."""
    fate: Fate
    """Of a leaf."""
    waits: int
    """Units of time that a leaf takes."""
    isolates: bool
    child: Tree | None
    way: Way
    """How the child is run: as a stage with exports, or by `ctx.run` in a stage's body."""
    exports: tuple[tuple[str, str], ...]
    """(name in the parent, leaf of the child)."""
    patience: int
    """Units after which it gives its child up and tries once more; 0 for never."""


@dataclass(frozen=True, slots=True)
class Tree:
    """One pipeline: its stages in an order in which they may run, and its outputs."""

    nodes: tuple[TreeNode, ...]
    outputs: tuple[str, ...]

    def below(self, path: str = "root") -> Iterator[tuple[str, Tree]]:
        """Every pipeline of the tree with its path, this one first."""
        yield path, self
        for node in self.nodes:
            if node.child is not None:
                yield from node.child.below(f"{path}.{node.name}")

    @property
    def depth(self) -> int:
        """Levels of pipelines; 1 without children."""
        return max(path.count(".") for path, _ in self.below()) + 1


@dataclass(frozen=True, slots=True)
class Case:
    """A tree, and what befalls its run."""

    tree: Tree
    ending: Ending
    at: int
    """Units after which the ending comes."""
    journalled: bool
    taken_over: bool
    """True when its process looks dead after `at` units, and another one goes on with it."""

    def text(self) -> str:
        """One line from which `case_of` makes it again."""
        return json.dumps(asdict(self), separators=(",", ":"))


def case_of(text: str) -> Case:
    """The case of a text."""
    data = json.loads(text)
    return Case(**{**data, "tree": _tree(data["tree"])})


def _tree(data: dict[str, Any]) -> Tree:
    return Tree(tuple(_node(node) for node in data["nodes"]), tuple(data["outputs"]))


def _node(data: dict[str, Any]) -> TreeNode:
    return TreeNode(
        **{
            **data,
            "takes": tuple(data["takes"]),
            "exports": tuple((name, of) for name, of in data["exports"]),
            "child": None if data["child"] is None else _tree(data["child"]),
        }
    )
