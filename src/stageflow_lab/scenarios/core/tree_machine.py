"""The rule-based machine that grows pipeline trees: every example ends as one Case.

It only draws; what it drew is run afterwards, so that a tree runs the same way from its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from .pipeline_trees import (
    DEPTH_MAX,
    ENDINGS,
    FATES,
    NAMES,
    WAYS,
    Case,
    Ending,
    Fate,
    Tree,
    TreeNode,
    Way,
)

STEPS: Final = 14
STAGES_MAX: Final = 40
BEFALLS: Final[tuple[tuple[Ending, bool, bool], ...]] = (
    ("none", False, False),
    ("none", False, False),
    ("none", True, False),
    *((("none", True, True),) * 3),
    *((ending, journalled, False) for ending in ENDINGS[1:] for journalled in (False, True)),
)
"""How the run ends, whether it has a journal, and whether another process takes it over."""
PLACES: Final = st.integers(0, 31)
"""Taken modulo how many there are to choose from."""
UNITS: Final = st.integers(1, 12)
FATE: Final[st.SearchStrategy[Fate]] = st.sampled_from((*FATES, "threaded", "threaded"))
"""Threads are the ones that come back late while the next attempt is at work."""
PATIENCE: Final = st.sampled_from((0, 0, 3, 6, 9))
TAKES_MAX: Final = 2


@dataclass(slots=True)
class _Draft:
    """A pipeline that grows."""

    depth: int
    nodes: list[_Node] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def free(self) -> list[str]:
        """Names that nothing has yet."""
        return [name for name in NAMES if name not in self.names]

    def values(self) -> list[str]:
        """Nodes with a value that a stage may take: leaves, callers and exports."""
        found = []
        for node in self.nodes:
            if node.child is None or node.way == "call":
                found.append(node.name)
            found += [name for name, _ in node.exports]
        return found

    def frozen(self) -> Tree:
        return Tree(tuple(node.frozen() for node in self.nodes), tuple(self.outputs))


@dataclass(slots=True)
class _Node:
    name: str
    takes: tuple[str, ...]
    fate: Fate = "calm"
    waits: int = 1
    isolates: bool = True
    child: _Draft | None = None
    way: Way = "stage"
    exports: list[tuple[str, str]] = field(default_factory=list)
    patience: int = 0

    def frozen(self) -> TreeNode:
        return TreeNode(
            name=self.name,
            takes=self.takes,
            fate=self.fate,
            waits=self.waits,
            isolates=self.isolates,
            child=None if self.child is None else self.child.frozen(),
            way=self.way,
            exports=tuple(self.exports),
            patience=self.patience,
        )


class TreeMachine(RuleBasedStateMachine):
    """Its rules add stages, children and exports; its end is a case, appended to `grown`."""

    grown: list[Case]

    def __init__(self) -> None:
        super().__init__()
        self.root = _Draft(depth=1)
        self.drafts = [self.root]
        self.ending: Ending = "none"
        self.at = 1
        self.journalled = self.taken_over = False

    @initialize(
        befalls=st.sampled_from(BEFALLS),
        at=st.integers(1, 40),
        waits=UNITS,
        fate=FATE,
        patience=PATIENCE,
    )
    def begin(
        self, befalls: tuple[Ending, bool, bool], at: int, waits: int, fate: Fate, patience: int
    ) -> None:
        """What befalls the run, and what every tree has: a stage, a child, and an export of it."""
        self.ending, self.journalled, self.taken_over = befalls
        self.at = at
        first, second, third, *_ = self.root.free()
        self._add(self.root, _Node(first, (), waits=waits))
        node = self._nested(self.root, second, (), fate, waits)
        node.patience = patience
        node.exports.append((third, first))
        self.root.names.add(third)

    @precondition(lambda self: self._may_grow())
    @rule(
        where=PLACES,
        name=PLACES,
        takes=st.lists(PLACES, max_size=TAKES_MAX),
        fate=FATE,
        waits=UNITS,
        isolates=st.sampled_from((True, True, True, False)),
    )
    def stage(
        self, where: int, name: int, takes: list[int], fate: Fate, waits: int, isolates: bool
    ) -> None:
        """One more leaf, somewhere in the tree."""
        draft = _chosen(self.drafts, where)
        if free := draft.free():
            node = _Node(_chosen(free, name), self._taken(draft, takes), fate, waits, isolates)
            self._add(draft, node)

    @precondition(lambda self: self._may_grow() and self._can_nest())
    @rule(
        where=PLACES,
        name=PLACES,
        takes=PLACES,
        way=st.sampled_from(WAYS),
        patience=PATIENCE,
        fate=FATE,
        waits=UNITS,
        isolates=st.sampled_from((True, True, True, False)),
    )
    def child(
        self,
        where: int,
        name: int,
        takes: int,
        way: Way,
        patience: int,
        fate: Fate,
        waits: int,
        isolates: bool,
    ) -> None:
        """A stage that runs another pipeline, which has one leaf to begin with."""
        # The deepest first: else few trees would ever be deep.
        shallow = sorted(
            (draft for draft in self.drafts if draft.depth < DEPTH_MAX), key=lambda d: -d.depth
        )
        draft = _chosen(shallow, where // 2)
        if not (free := draft.free()):
            return
        node = self._nested(draft, _chosen(free, name), self._taken(draft, [takes]), fate, waits)
        node.way, node.patience, node.isolates = way, patience, isolates

    @precondition(lambda self: bool(self._callers()))
    @rule(which=PLACES, of=PLACES, name=PLACES)
    def export(self, which: int, of: int, name: int) -> None:
        """A leaf of a child becomes one of its outputs, and a node of the parent."""
        draft, node = _chosen(self._callers(), which)
        assert node.child is not None
        leaves = [leaf.name for leaf in node.child.nodes if leaf.child is None]
        leaf = _chosen(leaves, of)
        if leaf not in node.child.outputs:
            node.child.outputs.append(leaf)
        if (free := draft.free()) and len(free) > 1:
            export = _chosen(free, name)
            draft.names.add(export)
            node.exports.append((export, leaf))

    def teardown(self) -> None:
        """The case is drawn."""
        if self.root.nodes:
            self.grown.append(
                Case(self.root.frozen(), self.ending, self.at, self.journalled, self.taken_over)
            )

    def _nested(
        self, draft: _Draft, name: str, takes: tuple[str, ...], fate: Fate, waits: int
    ) -> _Node:
        """A stage of `draft` that runs a pipeline of one leaf, which is its output."""
        inner = _Draft(draft.depth + 1)
        self.drafts.append(inner)
        self._add(inner, _Node(NAMES[0], (), fate, waits))
        inner.outputs.append(NAMES[0])
        node = _Node(name, takes, child=inner)
        self._add(draft, node)
        return node

    def _add(self, draft: _Draft, node: _Node) -> None:
        draft.nodes.append(node)
        draft.names.add(node.name)

    def _taken(self, draft: _Draft, takes: Sequence[int]) -> tuple[str, ...]:
        values = draft.values()
        return tuple(dict.fromkeys(_chosen(values, at) for at in takes)) if values else ()

    def _may_grow(self) -> bool:
        return sum(len(draft.nodes) for draft in self.drafts) < STAGES_MAX

    def _can_nest(self) -> bool:
        return any(draft.depth < DEPTH_MAX for draft in self.drafts)

    def _callers(self) -> list[tuple[_Draft, _Node]]:
        return [
            (draft, node)
            for draft in self.drafts
            for node in draft.nodes
            if node.child is not None and node.way == "stage"
        ]


def grown(first: int, count: int) -> list[Case]:
    """`count` cases, no two alike; the same for the same `first`, which is Hypothesis's seed."""
    found: dict[Case, None] = {}
    while len(found) < count:
        some: list[Case] = []
        machine: Any = seed(first)(type("Trees", (TreeMachine,), {"grown": some}))
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=count,
                stateful_step_count=STEPS,
                phases=[Phase.generate],
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        found.update(dict.fromkeys(some))
        first += 1
    return list(found)[:count]


def _chosen(several: Sequence[Any], at: int) -> Any:
    return several[at % len(several)]
