"""May a value of one declared type go where another is declared? Asked when a pipeline is built.

Consumers are not validated again, so the question is that of static typing (PEP 484, PEP 544), with
doubt decided for the user: what could fit (a base class where a subclass is asked, Any, a protocol)
may be wired; only what surely does not fit is refused.
"""

from __future__ import annotations

import enum
import types
import typing
from typing import Any

from stageflow.contracts.annotations import (
    MAPPINGS,
    SEQUENCES,
    Spelled,
    describe,
    fields_of,
    is_typed_dict,
    spelled,
)

_PROMOTED = {(int, float), (int, complex), (float, complex)}
"""Numeric types that PEP 484 lets stand for wider ones."""

_DEPTH_MAX = 50


def assignable(source: Any, target: Any) -> bool:
    """False only when some value of `source` is surely none of `target`.

    So `int | None` does not go where `int` is declared: None would reach it.
    """
    return _why_not(source, target, 0) is None


def why_not_assignable(source: Any, target: Any) -> str:
    """What does not fit, naming both types, and the inner ones that differ; "" when all fits."""
    return _why_not(source, target, 0) or ""


def _why_not(source: Any, target: Any, depth: int) -> str | None:
    if source is target:
        return None
    given, asked = spelled(source), spelled(target)
    if given.base is Any or asked.base is Any or depth > _DEPTH_MAX:
        return None
    if given.base is types.UnionType:
        for arg in given.args:
            reason = _why_not(arg, target, depth + 1)
            if reason is not None:
                return f"{describe(source)} may give {describe(arg)}: {reason}"
        return None
    if asked.base is types.UnionType:
        if any(_why_not(source, arg, depth + 1) is None for arg in asked.args):
            return None
        return f"{describe(source)} is none of {describe(target)}"
    if given.base is typing.Literal:
        for value in given.args:
            if not _fits(value, asked, target, depth):
                return f"{describe(typing.Literal[value])} is not {describe(target)}"
        return None
    if asked.base is typing.Literal:
        if any(_why_not(type(value), source, depth + 1) is None for value in asked.args):
            return None
        return f"{describe(source)} is not {describe(target)}"
    return _why_not_classes(given, asked, source, target, depth)


def _fits(value: Any, asked: Spelled, target: Any, depth: int) -> bool:
    if asked.base is typing.Literal:
        return any(type(value) is type(known) and value == known for known in asked.args)
    return _why_not(type(value), target, depth + 1) is None


def _why_not_classes(
    given: Spelled, asked: Spelled, source: Any, target: Any, depth: int
) -> str | None:
    def unfit() -> str:  # most types fit
        return f"{describe(source)} is not {describe(target)}"

    if is_typed_dict(asked.base):
        if is_typed_dict(given.base):
            return _why_not_typed_dicts(given, asked, unfit(), depth)
        return None if issubclass(given.base, dict) or given.base in MAPPINGS else unfit()
    if not _related(given.base, asked.base):
        return unfit()
    for mine, theirs in _arguments(given, asked):
        reason = _why_not(mine, theirs, depth + 1)
        if reason is not None:
            return f"{unfit()}: {reason}"
    if given.base is tuple and asked.base is tuple and _lengths_differ(given.args, asked.args):
        return f"{unfit()}: their lengths differ"
    return None


def _related(given: type, asked: type) -> bool:
    if getattr(asked, "_is_protocol", False) or getattr(given, "_is_protocol", False):
        return True
    if (given, asked) in _PROMOTED:
        return True
    try:
        if issubclass(given, asked):
            return True
        if issubclass(asked, given):
            # A list is asked where a Sequence is given: it may be one. A bool where an int is: not
            # surely either. But an enum's values are no substitutes for what it derives from.
            return not isinstance(asked, enum.EnumMeta)
    except TypeError:
        return True  # a class that refuses the question cannot be judged
    told = getattr(given, "__pydantic_generic_metadata__", None) or {}
    other = getattr(asked, "__pydantic_generic_metadata__", None) or {}
    return told.get("origin") is not None and told.get("origin") is other.get("origin")


def _arguments(given: Spelled, asked: Spelled) -> list[tuple[Any, Any]]:
    """Type arguments that answer each other; none where either side says nothing."""
    if given.base in SEQUENCES and asked.base in SEQUENCES and given.args and asked.args:
        if ... not in asked.args and asked.base is tuple and given.base is tuple:
            if ... in given.args:
                return [(given.args[0], arg) for arg in asked.args]
            return list(zip(given.args, asked.args, strict=False))
        return [(arg, asked.args[0]) for arg in given.args if arg is not ...]
    if (given.base in MAPPINGS and asked.base in MAPPINGS) or given.base is asked.base:
        return list(zip(given.args, asked.args, strict=False))
    told = getattr(given.base, "__pydantic_generic_metadata__", None) or {}
    other = getattr(asked.base, "__pydantic_generic_metadata__", None) or {}
    if told.get("origin") is not None and told.get("origin") is other.get("origin"):
        return list(zip(told["args"], other["args"], strict=False))
    return []


def _lengths_differ(given: tuple[Any, ...], asked: tuple[Any, ...]) -> bool:
    if ... in given or ... in asked or not given or not asked:
        return False
    return len(given) != len(asked)


def _why_not_typed_dicts(given: Spelled, asked: Spelled, unfit: str, depth: int) -> str | None:
    mine = {item.name: item for item in fields_of(given.base, given.args)}
    for item in fields_of(asked.base, asked.args):
        known = mine.get(item.name)
        if known is None:
            if item.is_required:
                return f"{unfit}: the key {item.name} is missing"
            continue
        if item.is_required and not known.is_required:
            return f"{unfit}: the key {item.name} may be missing"
        reason = _why_not(known.annotation, item.annotation, depth + 1)
        if reason is not None:
            return f"{unfit}: at {item.name}, {reason}"
    return None
