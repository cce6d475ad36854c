"""A stage with another body, for tests: what `Pipeline.override` puts in a node's place."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from stageflow.contracts import assignable, why_not_assignable
from stageflow.graph.compile import contract_name
from stageflow.graph.decorators import value_type
from stageflow.graph.plan import Node
from stageflow.graph.stage import Mode, Parameter, Stage, mode_of, signature_of
from stageflow.model.errors import BuildError, StageflowError
from stageflow.model.kinds import Kind
from stageflow.model.outputs import Branch, Decision
from stageflow.model.values import Freezer, thaw


def stand_in(
    node: Node, fake: Any, *, pipeline: str, local_names: Mapping[str, Any] | None
) -> Stage[..., Any]:
    """`node`'s stage with `fake` as its body: a stage, a function, or the value itself.

    A stage brings its own wiring and policies; a function keeps the node's, and takes what it asks
    for; a value keeps both. Name, branch, order and fallback stay unless a stage brings its own.
    BuildError `override.type` for what the node's contract does not allow.
    """
    if isinstance(fake, Stage):
        return _from_stage(node, fake, pipeline)
    if callable(fake) and not inspect.isclass(fake):
        return _from_function(node, fake, pipeline, local_names)
    return _from_value(node, fake, pipeline)


def refused(
    pipeline: str, name: str, *, expected: str, got: str, fix: str | None = None
) -> BuildError:
    """What is raised for a fake that its contract does not allow."""
    return BuildError(
        "override.type",
        f"this can't stand in for {name!r}",
        pipeline=pipeline,
        node=name,
        expected=expected,
        got=got,
        fix=fix,
    )


def _stage_of(node: Node) -> Stage[..., Any]:
    assert node.stage is not None, "a gated input is given to run, not overridden"
    return node.stage


def _from_stage(node: Node, fake: Stage[..., Any], pipeline: str) -> Stage[..., Any]:
    stage = _stage_of(node)
    for kind in (Kind.GUARD, Kind.ROUTE):
        if (stage.kind is kind) is not (fake.kind is kind):
            raise refused(
                pipeline, node.name, expected=f"a {stage.kind.value}", got=f"a {fake.kind.value}"
            )
    _check_returns(node, fake.returns, pipeline)
    return dataclasses.replace(
        fake,
        name=node.name,
        when=stage.when if fake.when is None else fake.when,
        after=fake.after or stage.after,
        fallback=stage.fallback if fake.fallback is None else fake.fallback,
        version=f"{stage.version}, overridden",
        origin=stage,
    )


def _from_function(
    node: Node, fake: Any, pipeline: str, local_names: Mapping[str, Any] | None
) -> Stage[..., Any]:
    stage = _stage_of(node)
    # An object with an async __call__, as testing.Script, is as good as a function.
    code = fake if inspect.isroutine(fake) else fake.__call__
    mode = mode_of(code)
    kinds = [parameter.kind for parameter in inspect.signature(code).parameters.values()]
    if inspect.Parameter.VAR_KEYWORD in kinds:
        parameters, returns = stage.parameters, Any
        function = fake
    else:
        parameters, hint, _ = signature_of(code, name=node.name, local_names=local_names)
        returns = value_type(hint, mode)
        function = fake
        if stage.kind is Kind.GUARD:  # it gates what it took, whatever the fake looks at
            function = _taking(fake, [parameter.name for parameter in parameters])
            parameters = stage.parameters
    if stage.kind not in (Kind.GUARD, Kind.ROUTE):
        _check_returns(node, returns, pipeline)
    return _with_body(node, function, mode, parameters)


def _from_value(node: Node, fake: Any, pipeline: str) -> Stage[..., Any]:
    stage = _stage_of(node)
    if stage.kind is Kind.GUARD and not isinstance(fake, Decision):
        raise refused(
            pipeline, node.name, expected="a Decision: Allow(), Block(...)", got=type(fake).__name__
        )
    if stage.kind is Kind.ROUTE and not _is_branch_of(stage, fake):
        known = "" if stage.branches is None else " of " + ", ".join(stage.branches)
        got = repr(fake)[:80] if isinstance(fake, Branch) else type(fake).__name__
        raise refused(pipeline, node.name, expected=f"a Branch{known}", got=got)
    try:
        frozen = node.contract.admit(fake, Freezer())
    except StageflowError as error:
        raise refused(
            pipeline,
            node.name,
            expected=node.contract.describe(),
            got=error.got or type(fake).__name__,
            fix=f"a value that {node.name!r} could return ({error.code})",
        ) from error

    def gives(**_: Any) -> Any:
        return thaw(frozen)

    def streams(**_: Any) -> Any:
        yield from thaw(frozen)

    if stage.mode in ("async_generator", "generator"):
        return _with_body(node, streams, "generator", stage.parameters, place="loop")
    return _with_body(node, gives, "sync", stage.parameters, place="loop")


def _with_body(
    node: Node,
    function: Callable[..., Any],
    mode: Mode,
    parameters: tuple[Parameter, ...],
    *,
    place: Any = None,
) -> Stage[..., Any]:
    stage = _stage_of(node)
    names = {parameter.name for parameter in parameters}
    if place is None:
        place = "loop" if mode in ("async", "async_generator") else "thread"
    engines_own = stage.kind in (Kind.JOIN, Kind.WAIT)
    return dataclasses.replace(
        stage,
        # A join or an approval has no body; without what makes it one it is a plain stage.
        kind=Kind.TRANSFORM if engines_own else stage.kind,
        timeout_s=Kind.TRANSFORM.timeout_s if engines_own else stage.timeout_s,
        after=stage.after if stage.wait is None else (*stage.after, stage.wait.of),
        join=None,
        wait=None,
        function=function,
        mode=mode,
        place=place,
        parameters=parameters,
        cache=None,  # a fake is called each time
        bindings={name: bound for name, bound in stage.bindings.items() if name in names},
        version=f"{stage.version}, overridden",
        origin=stage,
    )


def _check_returns(node: Node, returns: Any, pipeline: str) -> None:
    stage = _stage_of(node)
    if not assignable(returns, stage.returns):
        raise refused(
            pipeline,
            node.name,
            expected=contract_name(stage.returns),
            got=contract_name(returns),
            fix=why_not_assignable(returns, stage.returns),
        )


def _is_branch_of(stage: Stage[..., Any], fake: Any) -> bool:
    return isinstance(fake, Branch) and (stage.branches is None or fake.name in stage.branches)


def _taking(function: Callable[..., Any], names: list[str]) -> Callable[..., Any]:
    """`function`, called with what it takes of what there is."""

    def call(**given: Any) -> Any:
        return function(**{name: given[name] for name in names if name in given})

    return call
