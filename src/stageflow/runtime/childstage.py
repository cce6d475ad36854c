"""A pipeline as a stage of another one: what goes in, what it gives, and what its parent sees."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from stageflow.graph import Node, Stage
from stageflow.graph.stage import Child, Export, Parameter, checked_name
from stageflow.model.errors import BuildError, nearest
from stageflow.model.kinds import Kind
from stageflow.runtime.context import Context

if TYPE_CHECKING:
    from stageflow.runtime.pipeline import Pipeline

O = TypeVar("O")  # noqa: E741
KEY = "child"
"""Of the one child that such a stage runs."""


def child_stage(
    pipeline: Pipeline[O],
    name: str,
    exports: Mapping[str, Stage[..., Any] | str] | Iterable[Stage[..., Any] | str],
) -> Stage[..., O]:
    """The stage that `Pipeline.as_stage` gives; see there."""
    plan = pipeline.plan

    async def run_child(ctx: Context, **inputs: Any) -> O:
        return await ctx.run(pipeline, key=KEY, **inputs)

    outputs = [plan.nodes[number] for number in plan.outputs]
    return Stage(
        name=checked_name(name),
        kind=Kind.CHILD,
        function=run_child,
        mode="async",
        parameters=(
            Parameter("ctx", Context, has_default=False),
            *(
                Parameter(spec.name, spec.annotation, has_default=not spec.required)
                for spec in plan.inputs.values()
            ),
        ),
        returns=_type_of(outputs[0]) if plan.single_output else _dict_of(plan.name, outputs),
        timeout_s=Kind.CHILD.timeout_s,
        version=plan.name,
        child=Child(
            pipeline=plan.name,
            stages=tuple(
                node.name for node in plan.nodes if node.stage is not None and node.undoes is None
            ),
            single_output=plan.single_output,
            exports=tuple(_exports(pipeline, name, exports, outputs)),
            undo=_undo(pipeline) if plan.is_saga else None,
        ),
        # Each revision would be a run of its own to take back.
        revisions=1 if plan.is_saga else 5,
        pivot=bool(plan.pivots),
    )


def _undo(pipeline: Pipeline[Any]) -> Stage[..., Any]:
    """What takes the child's run back; it finds out by itself how much there is to take back."""

    async def undo_child(ctx: Context) -> None:
        await ctx.undo(pipeline, key=KEY)

    return Stage(
        name="undo_child",
        kind=Kind.WORK,
        function=undo_child,
        mode="async",
        parameters=(Parameter("ctx", Context, has_default=False),),
        returns=None,
        timeout_s=math.inf,  # the undos inside have theirs
        keyed=True,
    )


def _exports(
    pipeline: Pipeline[Any],
    name: str,
    exports: Mapping[str, Stage[..., Any] | str] | Iterable[Stage[..., Any] | str],
    outputs: list[Node],
) -> Iterable[Export]:
    if isinstance(exports, (str, Stage)):
        exports = (exports,)
    asked: Iterable[tuple[str | None, Stage[..., Any] | str]] = (
        exports.items() if isinstance(exports, Mapping) else ((None, each) for each in exports)
    )
    by_number = {node.index: node for node in outputs}
    for given, stage in asked:
        told = stage if isinstance(stage, str) else stage.name
        number = _number(pipeline, stage)
        node = None if number is None else by_number.get(number)
        if node is None:
            raise _unknown(pipeline, name, told, is_stage=number is not None, outputs=outputs)
        yield Export(checked_name(node.name if given is None else given), node.name, _type_of(node))


def _number(pipeline: Pipeline[Any], stage: Stage[..., Any] | str) -> int | None:
    plan = pipeline.plan
    return plan.index.get(stage) if isinstance(stage, str) else plan.templates.get(id(stage))


def _unknown(
    pipeline: Pipeline[Any], name: str, told: str, *, is_stage: bool, outputs: list[Node]
) -> BuildError:
    names = [node.name for node in outputs]
    close = nearest(told, names)
    if is_stage:
        fix: str | None = f"Pipeline({pipeline.name!r}, ..., outputs=[..., {told!r}])"
    else:
        fix = None if close is None else f"did you mean {close!r}?"
    return BuildError(
        "graph.unknown_export",
        f"stage {name!r} exports {told!r}, which is no output of the pipeline that it runs",
        pipeline=pipeline.name,
        node=name,
        field="exports",
        expected="outputs of the pipeline: " + ", ".join(names),
        got=f"{told}, a stage inside it" if is_stage else told,
        fix=fix,
    )


def _type_of(node: Node) -> Any:
    # What routes and guards return is a decision, and passes on as it is.
    decides = node.kind in (Kind.GUARD, Kind.ROUTE)
    return Any if decides or node.stage is None else node.stage.returns


def _dict_of(pipeline: str, outputs: list[Node]) -> Any:
    """A dict type that names every output, so that each value passes through its own contract."""
    # pydantic reads typing's own only from 3.12 on, and brings the other along.
    home = "typing" if sys.version_info >= (3, 12) else "typing_extensions"
    typed_dict: Any = importlib.import_module(home).TypedDict
    name = f"{pipeline}_outputs" if pipeline.isidentifier() else "outputs"
    return typed_dict(name, {node.name: _type_of(node) for node in outputs})
