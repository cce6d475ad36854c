"""Values that a schema of a tool allows, and where in them what stands."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from .tool_schemas import Schema

_WORDS: Final = (
    "harbour",
    "Zürich",
    "naïve",
    "東京",
    "a b\tc",
    'said "so"',
    "back\\slash",
    "",
    "0",
    "null",
    "🌊 wave",
    "line\nline",
    "{}",
    "error",
)
_ITEMS_MAX: Final = 3


class Spot(NamedTuple):
    """A place in a value: its holder (None at the top), the key or index there, its schema."""

    holder: Any
    key: Any
    schema: Schema


def valid_value(schema: Schema, rng: random.Random) -> Any:
    """A value of the schema, as far as it says what it allows."""
    if "enum" in schema:
        return rng.choice(schema["enum"])
    kind = schema.get("type")
    if kind == "object":
        properties = schema.get("properties", {})
        needed = set(schema.get("required", ()))
        return {
            name: valid_value(each, rng)
            for name, each in properties.items()
            if name in needed or rng.random() < 0.7
        }
    if kind == "array":
        return [
            valid_value(schema.get("items", {}), rng) for _ in range(rng.randint(0, _ITEMS_MAX))
        ]
    if kind == "integer":
        return rng.choice((0, -1, 7, rng.randint(-(10**6), 10**6), 2**53, -(2**63)))
    if kind == "number" and "maximum" in schema:
        return round(rng.uniform(schema["minimum"], schema["maximum"]), 2)
    if kind == "number":
        return rng.choice((0.5, -1.25, 3, 1e-7, rng.uniform(-1e6, 1e6)))
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "string":
        return rng.choice(_WORDS)
    return rng.choice((None, True, 3, 2.5, "text", [1], {"k": "v"}))


def spots(value: Any, schema: Schema, holder: Any = None, key: Any = None) -> Iterator[Spot]:
    """Every place in the value of which the schema speaks, the top first."""
    yield Spot(holder, key, schema)
    if isinstance(value, dict):
        for name, each in schema.get("properties", {}).items():
            if name in value:
                yield from spots(value[name], each, value, name)
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from spots(item, schema["items"], value, index)


def same(left: Any, right: Any) -> bool:
    """Equal as JSON: numbers by their value, and true is no 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return left == right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and bool(left == right)
