"""Copiers: what makes a consumer's view of a value that is kept as the validator made it.

Each goes straight to what can be changed, as told by the schema, and shares the rest. None stands
for the copier of values that all may share.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from stageflow.model.boxes import thaw
from stageflow.model.values import is_leaf

Copier = Callable[[Any], Any]

EMPTY: frozenset[Any] = frozenset({list, dict, set})
"""Factories of empty containers."""


def or_leaf(copier: Copier | None) -> Copier | None:
    """For a place where a leaf may stand instead: None, or a default."""
    if copier is None or copier is thaw:
        return copier
    return lambda value: value if is_leaf(value) else copier(value)


def or_empty(copier: Copier | None) -> Copier:
    """For a place where an empty container may stand that was not validated."""
    inner = copier or thaw

    def view(value: Any) -> Any:
        if type(value) in EMPTY and not value:
            return value.copy()
        return value if is_leaf(value) else inner(value)

    return view


def each(copier: Copier | None) -> Copier:
    if copier is None:
        return list.copy
    return lambda value: [copier(item) for item in value]


def each_value(copier: Copier | None) -> Copier:
    if copier is None:
        return dict.copy
    return lambda value: {key: copier(item) for key, item in value.items()}


def places(copiers: list[Copier | None]) -> Copier | None:
    """Of a tuple of fixed length."""
    if not any(copiers):
        return None
    each_place = [copier or thaw for copier in copiers]
    return lambda value: tuple(
        [copier(item) for copier, item in zip(each_place, value, strict=True)]
    )


def run_of(copier: Copier | None) -> Copier | None:
    """Of a tuple of any length."""
    return None if copier is None else lambda value: tuple([copier(item) for item in value])


def by_name(nested: list[tuple[str, Copier]], *, named: frozenset[str] | None = None) -> Copier:
    """Of a dict with these keys, of which some may be absent. `named`: its fields, where it may
    have others besides."""
    if not nested and named is None:
        return dict.copy

    def view(value: dict[str, Any]) -> dict[str, Any]:
        out = value.copy()
        for name, copier in nested:
            if name in out:
                out[name] = copier(out[name])
        return out

    if named is None:
        return view

    def view_with_extra(value: dict[str, Any]) -> dict[str, Any]:
        out = view(value)
        return out | {key: thaw(item) for key, item in out.items() if key not in named}

    return view_with_extra


def uuid_copier(otherwise: Copier) -> Copier:
    """Of an exact UUID, to which `object.__setattr__` writes; others go to `otherwise`."""
    put_number = uuid.UUID.__dict__["int"].__set__
    put_safety = uuid.UUID.__dict__["is_safe"].__set__
    new, cls = object.__new__, uuid.UUID

    def own(value: Any) -> Any:
        if type(value) is not cls:
            return otherwise(value)
        out = new(cls)
        put_number(out, value.int)
        put_safety(out, value.is_safe)
        return out

    return own


def record_copier(
    cls: type, nested: list[tuple[str, Copier]], *, named: frozenset[str] | None
) -> Copier:
    """Of a dataclass whose state is its `__dict__`; runs no code of the class."""
    new, get, put = object.__new__, object.__getattribute__, object.__setattr__
    state = by_name(nested, named=named)

    def view(value: Any) -> Any:
        out: Any = new(cls)
        put(out, "__dict__", state(get(value, "__dict__")))
        return out

    return view


def model_copier(cls: type, nested: list[tuple[str, Copier]], *, is_root: bool) -> Copier:
    """Runs no code of the class; a root model has two of the slots unset."""
    put_state = pydantic_slot("__dict__").__set__
    put_given = pydantic_slot("__pydantic_fields_set__").__set__
    put_extra = pydantic_slot("__pydantic_extra__").__set__
    put_private = pydantic_slot("__pydantic_private__").__set__
    new, state = object.__new__, by_name(nested)

    def view(value: Any) -> Any:
        out: Any = new(cls)
        put_state(out, state(value.__dict__))
        put_given(out, value.__pydantic_fields_set__.copy())
        if not is_root:
            more = value.__pydantic_extra__
            put_extra(out, more if more is None else {key: thaw(more[key]) for key in more})
            put_private(out, None)
        return out

    return view


def pydantic_slot(name: str) -> Any:
    """Reads and writes one slot of a pydantic model without its code."""
    from pydantic import BaseModel  # loaded: the schema of one of its models is being read

    return BaseModel.__dict__[name]
