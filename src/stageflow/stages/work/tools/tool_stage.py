"""Tools as stages: what they give is checked, labelled, and handed on with its provenance."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from typing import Any, Literal, TypeVar, Unpack

from stageflow.graph import Stage, enrich, work
from stageflow.graph.decorators import WorkOptions
from stageflow.graph.stage import function_of, innermost
from stageflow.model.errors import BuildError
from stageflow.model.labels import checked_labels
from stageflow.model.outputs import StageOutput
from stageflow.stages.work.tools.check import Invariant, OutputCheck
from stageflow.stages.work.tools.output import EXTERNAL, ToolOutput
from stageflow.stages.work.tools.reading import ByteReader, Incoming
from stageflow.stages.work.tools.rules import OutputRules

T = TypeVar("T")


def tool(
    *,
    output: Any,
    rules: OutputRules | None = None,
    invariants: Sequence[Invariant] = (),
    kind: Literal["work", "enrich"] = "work",
    **options: Unpack[WorkOptions],
) -> Callable[[Callable[..., Any]], Stage[..., ToolOutput[Any]]]:
    """Makes a stage of a function that asks something outside; its value is a `ToolOutput`.

    `output` is the contract: a type, or a JSON Schema as a mapping. The function returns the text
    that came (bytes or str), a value of JSON, an instance of the type, a reader or an async
    iterator of bytes, or `Incoming` with the length that was announced; or it yields bytes. A
    StageOutput goes on as it is. Whatever is refused fails the stage with the code of its
    ToolError, so that `retry=`, `fallback=` and `on_failure=` apply.

    The value has the label `external`, besides those in `labels=`; nothing takes it away but a
    guard with `clears="external"`. `kind="enrich"` is for tools that only read. Other options are
    those of `@work`.

    Raises BuildError `tool.contract`, `tool.option`, and what `@work` raises.
    """
    caller = sys._getframe(1)
    local_names = None if caller.f_locals is caller.f_globals else dict(caller.f_locals)

    def decorate(body: Callable[..., Any]) -> Stage[..., ToolOutput[Any]]:
        name = options.get("name", getattr(innermost(body), "__name__", type(body).__name__))
        check: OutputCheck[Any] = OutputCheck(output, tool=name, rules=rules, invariants=invariants)
        decorators = {"work": work, "enrich": enrich}
        if kind not in decorators:
            raise BuildError(
                "tool.option",
                f"tool {name!r} is of no kind that a tool can have",
                field="kind",
                expected="work or enrich",
                got=repr(kind)[:80],
                fix="kind='enrich' for one that only reads",
            )
        labels = checked_labels(options.get("labels", ()), field="labels", node=name)
        given: dict[str, Any] = {**options, "name": name, "labels": labels | {EXTERNAL}}
        decorate: Any = decorators[kind]
        function = function_of(body)
        checked = body if function is None else _checked(function, check, local_names)
        made: Stage[..., ToolOutput[Any]] = decorate(**given)(checked)
        return made

    return decorate


def _checked(
    body: Callable[..., Any], check: OutputCheck[Any], local_names: dict[str, Any] | None
) -> Callable[..., Any]:
    """The body with its output checked: sync where it is sync, so that it keeps its place."""
    if inspect.iscoroutinefunction(body) or inspect.isasyncgenfunction(body):

        @functools.wraps(body)
        async def asked(**given: Any) -> Any:
            came = body(**given)
            if isinstance(came, Awaitable):
                came = await came
            if isinstance(came, StageOutput):
                return came
            if isinstance(came, Incoming):
                return await check.read(came.source, bytes_expected=came.bytes_expected)
            if isinstance(came, (AsyncIterable, ByteReader)):
                return await check.read(came)
            return check.check(came)

        made: Callable[..., Any] = asked
    else:

        @functools.wraps(body)
        def called(**given: Any) -> Any:
            came = body(**given)
            return came if isinstance(came, StageOutput) else check.check(came)

        made = called
    made.__annotations__ = _annotations(body, check, local_names)
    made.__signature__ = inspect.signature(body)  # type: ignore[attr-defined]
    return made


def _annotations(
    body: Callable[..., Any], check: OutputCheck[Any], local_names: dict[str, Any] | None
) -> dict[str, Any]:
    """The body's parameters, and what the stage gives in place of the body's own value."""
    try:
        hints = typing.get_type_hints(innermost(body), localns=local_names, include_extras=True)
    except NameError:
        hints = dict(getattr(body, "__annotations__", {}))
    declared = check.contract.declared
    given: Any = ToolOutput[declared]  # type: ignore[valid-type]
    return {**hints, "return": given | StageOutput}
