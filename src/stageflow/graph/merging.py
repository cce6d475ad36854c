"""`merge_of`: several nodes contribute to one value, in a declared order."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from stageflow.graph.decorators import joined, union_of
from stageflow.graph.stage import Merge, Stage, mode_of
from stageflow.model.errors import BuildError
from stageflow.model.merges import MERGEABLE, append, union

T = TypeVar("T")

_READY_MADE = (append, union)
"""They return what they are given."""


def merge_of(
    *branches: Stage[..., T], with_: Callable[[T, T], T], name: str, at_least: int = 1
) -> Stage[[], T]:
    """One value made of the values of all branches that have one. Waits for all of them.

    `with_` is folded over the values in the order of the branches given here, never in that of
    their arrival: `with_(with_(a, b), c)`; a single value is taken as it is. It must be quick and
    pure: it runs on the event loop and gets nothing but the values. What comes out is checked
    against its return annotation, or the type of the branches when it has none. `merges.append`
    and `merges.union` are ready-made. Skipped when fewer than `at_least` branches have a value.
    """
    merge = _merge(with_, name)
    stage = joined("merge_of", branches, name, need=at_least, waits_for_all=True, collects=False)
    assert stage.join is not None
    return dataclasses.replace(
        stage,
        returns=_merged_type(branches, merge),
        join=dataclasses.replace(stage.join, merge=merge),
    )


def _merge(function: Any, name: str) -> Merge:
    """BuildError `graph.merge` for what can't be folded over values."""
    why = None
    annotations: list[Any] = [Any, Any]
    returns: Any = Any
    if not callable(function):
        why = f"a {type(function).__name__} can't be called"
    elif mode_of(function) != "sync":
        why = "it is no plain function"
    else:
        try:
            signature = inspect.signature(function)
            signature.bind(None, None)
        except (TypeError, ValueError):
            why = "it does not take two values by position"
        else:
            hints = _hints(function)
            names = [*signature.parameters][:2]
            annotations = [hints.get(each, Any) for each in [*names, *names][:2]]
            returns = hints.get("return", Any)
    if why is not None:
        raise BuildError(
            "graph.merge",
            f"merge_of {name!r} has nothing to fold over its values: {why}",
            node=name,
            field="with_",
            expected="a plain function of two values that returns one",
            fix="with_=merges.union, or with_=lambda first, second: ...",
        )
    label = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
    return Merge(function, (annotations[0], annotations[1]), returns, label)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations; none for ready-made merges, which are generic, nor when they don't resolve."""
    if function in _READY_MADE:
        return {}
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        return {}


def _merged_type(branches: Sequence[Stage[..., Any]], merge: Merge) -> Any:
    """What the merge says that it returns; else the branches' type, with their items' types."""
    if merge.returns is not Any:
        return merge.returns
    distinct = list(dict.fromkeys(b.returns if isinstance(b, Stage) else Any for b in branches))
    if Any in distinct or len(distinct) == 1:
        return distinct[0] if len(distinct) == 1 else Any
    origins = {typing.get_origin(each) for each in distinct}
    origin = origins.pop()
    if origins or origin not in MERGEABLE:
        return union_of(distinct)
    inner = zip(*(typing.get_args(each) for each in distinct), strict=True)
    return types.GenericAlias(origin, tuple(union_of(each) for each in inner))
