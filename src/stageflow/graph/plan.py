"""A compiled pipeline: nodes by number, who waits for whom, and what each takes."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stageflow.contracts import Contract
from stageflow.graph.stage import Join, Stage
from stageflow.model.errors import RunError, nearest
from stageflow.model.kinds import Kind
from stageflow.model.labels import Labels
from stageflow.model.policy import Retry


class Role(enum.IntFlag):
    """Why a node waits for a parent; one parent may have several roles."""

    VALUE = 1
    """Needs the released value."""
    OPTIONAL = 2
    """Takes the released value, and its own default when the parent has none."""
    RAW = 4
    """A guard: takes the value before it is released."""
    AFTER = 8
    """Waits for the end only."""
    WHEN = 16
    """Waits for the route's choice."""
    FALLBACK = 32
    """Waits for the failure of the node whose fallback it is."""


class Source(enum.Enum):
    """Where a parameter's value comes from."""

    NODE = "node"
    INPUT = "input"
    DEP = "dep"
    CONTEXT = "context"
    FEEDBACK = "feedback"


@dataclass(frozen=True, slots=True)
class Argument:
    """How one parameter is filled. `ref` is a node number for NODE, a name otherwise."""

    parameter: str
    source: Source
    ref: Any
    has_default: bool
    default: Any


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A stage placed in a pipeline. `stage` is None for an input that a guard gates."""

    index: int
    name: str
    kind: Kind
    stage: Stage[..., Any] | None
    arguments: tuple[Argument, ...]
    contract: Contract
    timeout_s: float
    retry: Retry | None
    isolates: bool
    priority: int
    """Added to that of its run."""
    guards: tuple[int, ...]
    """The guards whose decisions release this node's value."""
    gates: tuple[int, ...]
    """GUARD: the nodes whose values it decides about; empty for all others."""
    gate_of: Mapping[str, int]
    """GUARD: parameter name to the node it gates."""
    when: tuple[int, str] | None
    """(route, branch) that must be chosen; None when it always runs."""
    join: Join | None
    shows: int | None
    """WAIT: the node whose value a person is shown."""
    fallback: int | None
    """The node whose value stands for this one's when this one fails."""
    stands_for: int | None
    """The node whose fallback this one is."""
    undoes: int | None
    """The node whose effect this one takes back. It has no place in the graph: it runs when the
    run does not end well, after the undoing of whatever came after that node."""
    fingerprint: str
    """Kind, wiring, contract and version; changes when a finished value may no longer fit."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A declared input. `node` is its number when a guard gates it."""

    name: str
    annotation: Any
    contract: Contract
    required: bool
    node: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Everything about a pipeline that no run changes. Shared by all runs."""

    name: str
    nodes: tuple[Node, ...]
    index: Mapping[str, int]
    inputs: Mapping[str, InputSpec]
    deps: Mapping[str, Any]
    outputs: tuple[int, ...]
    single_output: bool
    """True when `run.output` is one value, False when it is a dict by node name."""
    parents: tuple[tuple[tuple[int, Role], ...], ...]
    children: tuple[tuple[int, ...], ...]
    """Who waits for the node's released value, end or branch."""
    raw_children: tuple[tuple[int, ...], ...]
    """Guards that wait for the node's raw value."""
    waiting: tuple[int, ...]
    """Number of distinct parents each node waits for."""
    cleared: tuple[Labels, ...]
    """Labels that each node's value has no longer once its guards have let it pass."""
    is_labelled: bool
    """Whether any stage says anything of labels."""
    guarded: bool
    """True when any guard gates anything."""
    roots: tuple[int, ...]
    order: tuple[int, ...]
    templates: Mapping[int, int | None]
    """id(template or its origin) to node number; None when it stands for several."""
    undos: Mapping[int, int]
    """Node to the node that undoes it; empty for a pipeline that takes nothing back."""
    later: Mapping[int, frozenset[int]]
    """Of each key of `undos`: those other keys that depend on it, however remotely."""
    pivots: tuple[int, ...]
    """Nodes after whose effect a run only goes forward."""

    @property
    def is_saga(self) -> bool:
        """True when a run that does not end well takes effects back, or may not end so."""
        return bool(self.undos or self.pivots)

    def find(self, key: Stage[..., Any] | str) -> int:
        """The node that a stage or a name stands for. RunError `run.unknown_node` otherwise."""
        if isinstance(key, str):
            found = self.index.get(key)
        else:
            found = self.templates.get(id(key), -1)
            if found is None:
                raise RunError(
                    "run.ambiguous_node",
                    f"stage {key.name!r} stands more than once in the pipeline",
                    pipeline=self.name,
                    node=key.name,
                    fix="use the template that .named(...) returned, or the node's name",
                )
            found = None if found == -1 else found
        if found is None:
            name = key if isinstance(key, str) else key.name
            close = nearest(name, self.index)
            raise RunError(
                "run.unknown_node",
                f"{name!r} is no node of this pipeline",
                pipeline=self.name,
                node=name,
                fix=f"did you mean {close!r}?" if close else None,
            )
        return found
