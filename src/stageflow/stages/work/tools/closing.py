"""A JSON Schema made to refuse the fields that it does not name.

JSON Schema lets every field pass that a schema says nothing about, which is how a misspelt name, or
a field that means something else now, gets downstream unseen. What names fields is closed; what
names none, as `{"type": "object"}`, holds anything and stays so. Each alternative of an anyOf or
oneOf is closed by itself inside, and all of them together at their own level.

Applicators as in JSON Schema 2020-12, Core, sections 10 and 11: those in place speak of the same
value, the others of a part of it. Conditions (`if`, `not`, `contains`) are left as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from stageflow.model.errors import BuildError

IN_PLACE_LISTS: Final = ("allOf", "anyOf", "oneOf")
IN_PLACE: Final = ("then", "else")
PARTS_BY_NAME: Final = ("properties", "patternProperties")
PARTS: Final = (
    "items",
    "additionalProperties",
    "unevaluatedProperties",
    "unevaluatedItems",
    "additionalItems",
)
DEFINITIONS: Final = ("$defs", "definitions")
REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
COMBINING: Final = (*IN_PLACE_LISTS, *IN_PLACE, *REFERENCES, "dependentSchemas")
CLOSERS: Final = ("additionalProperties", "unevaluatedProperties")
REFERENCES_MAX: Final = 1_000

Schema = Mapping[str, Any] | bool


def closed(schema: Schema) -> Schema:
    """The schema closed everywhere. BuildError `tool.contract` for one that can't be."""
    if isinstance(schema, bool):
        return schema
    made: Schema = _Closing(schema).place(schema)
    return made


def named_fields(schema: Schema) -> frozenset[str]:
    """The fields that it names for the value itself, in any of its alternatives."""
    found: set[str] = set()
    for each in _same_value(schema, schema):
        found |= each.get("properties", {}).keys()
    return frozenset(found)


class _Closing:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        dialect = str(root.get("$schema", ""))
        self._is_old = "/draft-0" in dialect
        """Before 2019-09 nothing closes what a combination names."""

    def place(self, schema: Any) -> Any:
        """A schema that says all there is to say of one value."""
        inner = self.inside(schema)
        if not isinstance(inner, dict) or any(name in inner for name in CLOSERS):
            return inner
        combines = any(name in inner for name in COMBINING)
        if combines and self._is_old and "$ref" not in inner:
            raise _not_closed()
        if combines and not self._is_old:
            if self._names(schema):
                inner["unevaluatedProperties"] = False
        elif "properties" in inner or "patternProperties" in inner:
            inner["additionalProperties"] = False
        return inner

    def inside(self, schema: Any) -> Any:
        """The parts closed, the value itself left to who combines it."""
        if not isinstance(schema, Mapping):
            return schema
        made: dict[str, Any] = {}
        for name, value in schema.items():
            if name in PARTS_BY_NAME and isinstance(value, Mapping):
                made[name] = {key: self.place(each) for key, each in value.items()}
            elif name in PARTS or name == "prefixItems":
                is_list = isinstance(value, list)
                made[name] = [self.place(e) for e in value] if is_list else self.place(value)
            elif name in IN_PLACE_LISTS and isinstance(value, list):
                made[name] = [self.inside(each) for each in value]
            elif name in IN_PLACE:
                made[name] = self.inside(value)
            elif name == "dependentSchemas" and isinstance(value, Mapping):
                made[name] = {key: self.inside(each) for key, each in value.items()}
            elif name in DEFINITIONS and isinstance(value, Mapping):
                close = self.place if self._is_old else self.inside
                made[name] = {key: close(each) for key, each in value.items()}
            else:
                made[name] = value
        return made

    def _names(self, schema: Mapping[str, Any]) -> bool:
        return any(
            name in each
            for each in _same_value(schema, self._root)
            for name in ("properties", "patternProperties")
        )


def _same_value(schema: Any, root: Any) -> Iterator[Mapping[str, Any]]:
    """The schema and those it applies to the same value; references within the document."""
    waiting: list[Any] = [schema]
    seen: set[int] = set()
    while waiting and len(seen) < REFERENCES_MAX:
        each = waiting.pop()
        if not isinstance(each, Mapping) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        for name in IN_PLACE_LISTS:
            waiting += each.get(name, ())
        waiting += [each[name] for name in IN_PLACE if name in each]
        waiting += each.get("dependentSchemas", {}).values()
        waiting += [_at(root, each[name]) for name in REFERENCES if name in each]


def _at(root: Any, reference: str) -> Any:
    """What a reference within the document points at; None for any other."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        root = root.get(name) if isinstance(root, Mapping) else None
    return root


def _not_closed() -> BuildError:
    return BuildError(
        "tool.contract",
        "this JSON Schema can't be closed: its dialect can't close what a combination names",
        field="$schema",
        expected="2019-09 or 2020-12, or a schema without allOf, anyOf, oneOf and the like",
        got="an older draft",
        fix="declare 2020-12, or let unknown fields stay: OutputRules(unknown='keep')",
    )
