"""What guards and routes say that they return: one that can never be a decision is refused."""

from __future__ import annotations

import types
import typing
from typing import Any, Final

from stageflow.graph.stage import Stage
from stageflow.model.errors import BuildError
from stageflow.model.kinds import Kind

_PLAIN: Final = (bool, int, float, str, bytes, list, dict, tuple, set, frozenset, type(None))
_TOLD: Final = {
    Kind.GUARD: (
        "contract.no_decision",
        "no decision",
        "Allow, Block, Redact or Revise",
        "return Allow() when there is nothing to object to, and annotate it -> Decision",
    ),
    Kind.ROUTE: (
        "contract.no_branch",
        "no branch",
        "Branch",
        "return Branch(name), and annotate it -> Branch",
    ),
}


def undecided(stage: Stage[..., Any]) -> BuildError | None:
    """The mistake of a guard or a route whose annotation holds nothing but plain values; None for
    all others, also for one without an annotation, which is looked at when it returns."""
    if stage.kind not in _TOLD or not all(_is_plain(each) for each in _alternatives(stage.returns)):
        return None
    code, what, expected, fix = _TOLD[stage.kind]
    return BuildError(
        code,
        f"{stage.kind.value} {stage.name!r} says that it returns {what}",
        node=stage.name,
        field="return",
        expected=expected,
        got=getattr(stage.returns, "__name__", str(stage.returns))[:80],
        fix=fix,
    )


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    origin = typing.get_origin(annotation)
    is_union = origin in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def _is_plain(annotation: Any) -> bool:
    return (typing.get_origin(annotation) or annotation) in _PLAIN
