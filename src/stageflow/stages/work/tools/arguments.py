"""The arguments of a tool, as a model writes them: JSON text, checked by the tool's signature."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, cast

from stageflow.graph.stage import innermost
from stageflow.model.errors import BuildError, ToolError
from stageflow.stages.work.tools.check import OutputCheck
from stageflow.stages.work.tools.rules import OutputRules


class Arguments:
    """Checks calls of one tool. `schema` is what a model is told of it, as JSON Schema.

    `tool` is a function, or a JSON Schema of the object of all arguments. Parameters named in
    `without`, as clients and `ctx`, are none of the model's. A missing annotation is Any. Raises
    BuildError `tool.contract` for a function whose annotations can't be resolved.
    """

    def __init__(
        self,
        tool: Callable[..., Any] | Mapping[str, Any],
        *,
        name: str | None = None,
        without: tuple[str, ...] = ("ctx",),
        rules: OutputRules | None = None,
    ) -> None:
        self.name = name or str(getattr(tool, "__name__", "tool"))
        declared: Any = tool if isinstance(tool, Mapping) else _record(tool, self.name, without)
        chosen = OutputRules(error_fields=()) if rules is None else rules
        self._is_record = not isinstance(tool, Mapping)
        self._check: OutputCheck[Any] = OutputCheck(declared, tool=self.name, rules=chosen)

    @property
    def schema(self) -> Mapping[str, Any]:
        """JSON Schema of the arguments."""
        return self._check.contract.schema

    def check(self, given: str | bytes | Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name, typed. Raises ToolError `tool.arguments`, whose text says what is
        wrong and may be shown to the model: it holds none of what the model wrote."""
        taken = dict(given) if isinstance(given, Mapping) else given
        try:
            value = self._check.check(taken).value
        except ToolError as refused:
            raise ToolError(
                "tool.arguments",
                f"the arguments of {self.name!r} are refused: {_reason(refused)}",
                node=self.name,
                field=refused.field,
                expected=refused.expected,
                got=refused.got,
                fix="call the tool again with arguments that its schema allows",
            ) from refused
        if self._is_record:
            return {name: getattr(value, name) for name in type(value).model_fields}
        if isinstance(value, dict):
            return value
        raise ToolError(
            "tool.arguments",
            f"the arguments of {self.name!r} are no object",
            node=self.name,
            expected="an object",
            got=type(value).__name__,
            fix="give each argument by its name",
        )


def _reason(refused: ToolError) -> str:
    return refused.message.replace("the tool's output", "what was given", 1)


def _record(function: Callable[..., Any], name: str, without: tuple[str, ...]) -> Any:
    """A pydantic model with a field a parameter."""
    from pydantic import Field, create_model  # slow to import; only for tools that models call

    try:
        hints = typing.get_type_hints(innermost(function), include_extras=True)
    except NameError as error:
        raise BuildError(
            "tool.contract",
            f"the annotations of {name!r} can't be resolved: {error}",
            expected="names that its module knows",
            fix="define the types at the top of the module",
        ) from None
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in without:
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise BuildError(
                "tool.contract",
                f"parameter {parameter.name!r} of {name!r} can't be given by name",
                field=parameter.name,
                expected="parameters that can be passed by keyword",
                got=str(parameter.kind.description),
                fix="name each argument that the tool takes",
            )
        default: Any = ... if parameter.default is parameter.empty else parameter.default
        annotation = hints.get(parameter.name, Any)
        fields[parameter.name] = (annotation, Field(default=default))
    return cast(Any, create_model)(name, **fields)
