"""What a contract allows at each position inside its values: the classes that may stand there.

Plain data describes itself in the journal; an instance is written as the number of its class in the
place where it stands. So a decoder makes nothing but the classes that the contract names there.
"""

from __future__ import annotations

import enum
import functools
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from stageflow.contracts.annotations import (
    MAPPINGS,
    SEQUENCES,
    Bindings,
    Spelled,
    bindings_of,
    fields_of,
    is_record,
    is_typed_dict,
    spelled,
)
from stageflow.model import objects
from stageflow.model.refusal import type_label

Written = tuple[Any, Bindings]
"""An annotation, and what its type variables stand for."""


@dataclass(frozen=True)
class Place:
    """One position: any of the annotations may stand there. Has a dict, to keep what it derives."""

    written: tuple[Written, ...] = ()

    @functools.cached_property
    def options(self) -> tuple[tuple[Spelled, Bindings], ...]:
        """The annotations, unions taken apart, in declared order."""
        found: list[tuple[Spelled, Bindings]] = []
        for annotation, bindings in self.written:
            said = spelled(annotation, bindings)
            if len(found) < _OPTIONS_MAX:
                if said.base is type(None) or said.base is Any:
                    continue
                inner = Place(tuple((arg, bindings) for arg in said.args))
                found += inner.options if _is_union(said) else [(said, bindings)]
        return tuple(found)

    @functools.cached_property
    def classes(self) -> tuple[ClassAt, ...]:
        """The classes of which instances may stand here; their numbers are their indices."""
        found: dict[type, ClassAt] = {}
        for said, _ in self.options:
            if said.base is typing.Literal:
                for value in said.args:
                    if isinstance(value, enum.Enum):
                        found.setdefault(type(value), ClassAt(type(value)))
            elif not _is_container(said.base) and not _is_scalar(said.base):
                found.setdefault(said.base, ClassAt(said.base, said.args))
        return tuple(found.values())

    def number(self, cls: type) -> int | None:
        """The number of an exact class here, or None when the contract does not name it."""
        return self._numbers.get(cls)

    @functools.cached_property
    def _numbers(self) -> dict[type, int]:
        return {known.cls: number for number, known in enumerate(self.classes)}

    @functools.cached_property
    def items(self) -> Place:
        """Inside lists, tuples, sets and deques."""
        return self._inside(SEQUENCES, lambda args: args)

    @functools.cached_property
    def keys(self) -> Place:
        return self._inside(MAPPINGS, lambda args: args[:1])

    @functools.cached_property
    def values(self) -> Place:
        """Inside dicts of any kind, apart from TypedDicts, which name theirs."""
        return self._inside(MAPPINGS, lambda args: args[1:])

    @functools.cached_property
    def named(self) -> dict[str, Place]:
        """The values of TypedDicts that may stand here, by key."""
        found: dict[str, tuple[Written, ...]] = {}
        for said, _ in self.options:
            if is_typed_dict(said.base):
                inner = bindings_of(said.base, said.args)
                for item in fields_of(said.base, said.args):
                    found[item.name] = (*found.get(item.name, ()), (item.annotation, inner))
        return {name: Place(written) for name, written in found.items()}

    def value_of(self, key: Any) -> Place:
        """The place of one dict value."""
        named = self.named
        return named.get(key, self.values) if named else self.values

    def _inside(self, bases: frozenset[type], pick: Any) -> Place:
        written = tuple(
            (arg, bindings)
            for said, bindings in self.options
            if said.base in bases
            for arg in pick(said.args)
            if arg is not ...
        )
        return Place(written) if written else ANYWHERE


@dataclass(frozen=True)
class ClassAt:
    """A class at a place, with the arguments it was written with."""

    cls: type
    args: tuple[Any, ...] = field(default=())

    @functools.cached_property
    def fields(self) -> dict[str, Place]:
        """The declared fields, or nothing for classes that declare none."""
        if not is_record(self.cls):
            return {}
        inner = bindings_of(self.cls, self.args)
        return {
            item.name: Place(((item.annotation, inner),)) for item in fields_of(self.cls, self.args)
        }

    @functools.cached_property
    def extra(self) -> Place:
        """Values that a pydantic model with `extra="allow"` takes beyond its fields."""
        written = getattr(self.cls, "__annotations__", {}).get("__pydantic_extra__")
        if written is None or isinstance(written, str):
            return ANYWHERE
        return Place(((written, {}),)).values

    @functools.cached_property
    def layout(self) -> objects.Layout | None:
        return objects.layout_of(self.cls)


ANYWHERE = Place()
"""A position of type Any: only plain data may stand there."""

_OPTIONS_MAX = 1000


def undecodable(place: Place) -> str | None:
    """Why values of a place could not be decoded by a new process; None when they could."""
    stack = [("$", place)]
    seen: set[str] = set()
    while stack:
        path, here = stack.pop()
        for known in here.classes:
            if (
                known.cls.__qualname__.startswith("<locals>")
                or "<locals>" in known.cls.__qualname__
            ):
                return f"{path}: {type_label(known.cls)} is made inside a function"
            mark = f"{type_label(known.cls)}{known.args!r}"
            if mark in seen:
                continue
            seen.add(mark)
            if getattr(known.cls, "_is_protocol", False):
                return f"{path}: {type_label(known.cls)} is a protocol, not a class of values"
            stack += [(f"{path}.{name}", inner) for name, inner in known.fields.items()]
        if path.count("[") < 50:
            stack += [(f"{path}.{name}", inner) for name, inner in here.named.items()]
            for inner in (here.items, here.keys, here.values):
                if inner is not ANYWHERE:
                    stack.append((f"{path}[]", inner))
    return None


def _is_union(said: Spelled) -> bool:
    return said.base is types.UnionType


def _is_container(base: Any) -> bool:
    return base in SEQUENCES or base in MAPPINGS or is_typed_dict(base)


def _is_scalar(base: type) -> bool:
    """Builtin leaves, which are written by their own tags wherever they stand."""
    return base.__module__ in {"builtins", "decimal", "datetime"}
