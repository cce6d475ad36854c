"""Templates, wiring, validation, and the compiled plan."""

from stageflow.graph.compile import compile_plan
from stageflow.graph.decorators import (
    agent,
    any_of,
    approval,
    enrich,
    first_of,
    guard,
    n_of,
    route,
    transform,
    work,
)
from stageflow.graph.merging import merge_of
from stageflow.graph.overriding import refused, stand_in
from stageflow.graph.pipeline_arguments import check_arguments
from stageflow.graph.plan import Argument, InputSpec, Node, Plan, Role, Source
from stageflow.graph.stage import BranchRef, Join, Merge, Parameter, Stage

__all__ = [
    "Argument",
    "BranchRef",
    "InputSpec",
    "Join",
    "Merge",
    "Node",
    "Parameter",
    "Plan",
    "Role",
    "Source",
    "Stage",
    "agent",
    "any_of",
    "approval",
    "check_arguments",
    "compile_plan",
    "enrich",
    "first_of",
    "guard",
    "merge_of",
    "n_of",
    "refused",
    "route",
    "stand_in",
    "transform",
    "work",
]
