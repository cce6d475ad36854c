"""A stage that runs another pipeline, and the nodes that its parent sees of it."""

from __future__ import annotations

import dataclasses
from typing import Any

from stageflow.graph.stage import Child, Export, Parameter, Stage
from stageflow.model.kinds import Kind

OUTPUTS = "outputs"
"""Parameter of an export: what the child gave."""


def exported(owner: Stage[..., Any], child: Child, export: Export) -> Stage[..., Any]:
    """The node under which the parent sees one output of the child that `owner` runs."""

    def pick(outputs: Any) -> Any:
        return outputs if child.single_output else outputs[export.of]

    return Stage(
        name=export.name,
        kind=Kind.EXPORT,
        function=pick,
        mode="sync",
        parameters=(Parameter(OUTPUTS, Any, has_default=False),),
        returns=export.returns,
        timeout_s=Kind.EXPORT.timeout_s,
        bindings={OUTPUTS: owner.name},
        version=export.of,
    )


def without_exports(stage: Stage[..., Any]) -> Stage[..., Any]:
    """The stage for another build of the same nodes, in which its exports stand already."""
    if stage.child is None or not stage.child.exports:
        return stage
    child = dataclasses.replace(stage.child, exports=())
    return dataclasses.replace(stage, child=child, origin=stage)
