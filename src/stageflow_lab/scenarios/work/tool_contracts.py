"""One tool of the load: its contract as a schema or a type, open or closed, and its oracle."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Protocol

from pydantic import BaseModel, Field, create_model

from .tool_schemas import Schema, shut
from .tool_values import valid_value

TRIES: Final = 5
"""Values made of one schema before it is given up: some ask for what can't be."""
MEASURED: Final[Schema] = {
    "type": "object",
    "properties": {
        "value": {"type": "number", "minimum": -90.0, "maximum": 900.0},
        "unit": {"enum": ["celsius", "kelvin"]},
    },
    "required": ["value", "unit"],
}
BILL: Final[Schema] = {
    "type": "object",
    "properties": {
        "lines_cents": {"type": "array", "items": {"type": "integer"}},
        "total_cents": {"type": "integer"},
    },
    "required": ["lines_cents", "total_cents"],
}
_REQUIRED: Final[Any] = ...
_ENUM_TYPES: Final = (str, int, bool)


class Oracle(Protocol):
    """A validator of JSON Schema other than the one under test."""

    def is_valid(self, instance: Any) -> bool:
        """Whether the schema allows it."""
        ...


@dataclass(frozen=True, slots=True)
class Subject:
    """A tool. `declared` is handed to the shipped check, `oracle` never meets it."""

    schema: Schema
    declared: Any
    is_open: bool
    is_typed: bool
    invariants: tuple[Callable[[Any], bool], ...]
    oracle: Oracle

    def value(self, rng: random.Random) -> Any:
        """A valid output, by the oracle; None when the schema seems to allow none."""
        for _ in range(TRIES):
            made = valid_value(self.schema, rng)
            if "bill" in made:
                made["bill"]["total_cents"] = sum(made["bill"]["lines_cents"])
            if self.allows(made):
                return made
        return None

    def allows(self, value: Any) -> bool:
        """What the oracle and the known invariant say of a value."""
        return self.oracle.is_valid(value) and all(each(value) for each in self.invariants)

    def plain(self, value: Any) -> Any:
        """What consumers were given, as JSON, with nothing that did not come."""
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return value


def subject(schema: Schema, number: int) -> Subject:
    """The tool with this schema in one of its forms, which `number` chooses."""
    from jsonschema import Draft202012Validator  # of the lab's extra; absent, the row is skipped

    has_bill = number % 3 == 0
    if has_bill:
        inner = {"result": schema, "measured": MEASURED, "bill": BILL}
        schema = {"type": "object", "properties": inner, "required": list(inner)}
    is_open = number % 8 == 4
    declared: Any = None if is_open or number % 4 != 1 else typed(schema)
    return Subject(
        schema=schema,
        declared=schema if declared is None else declared,
        is_open=is_open,
        is_typed=declared is not None,
        invariants=(adds_up,) if has_bill else (),
        oracle=Draft202012Validator(schema if is_open else shut(schema)),
    )


def adds_up(value: Any) -> bool:
    """The total of a bill is the sum of its lines."""
    bill = (
        value.model_dump(by_alias=True)["bill"] if isinstance(value, BaseModel) else value["bill"]
    )
    return bool(sum(bill["lines_cents"]) == bill["total_cents"])


def typed(schema: Schema) -> Any:
    """The schema as a Python type, objects as models that ignore what they do not name, which is
    what pydantic does by default; None for a schema that no type says."""
    if "enum" in schema:
        values = tuple(schema["enum"])
        return Literal[values] if all(type(v) in _ENUM_TYPES for v in values) else None
    kind = schema.get("type")
    if kind == "object" and schema.get("properties"):
        return _model(schema)
    if kind == "object":
        return dict[str, Any]
    if kind == "array":
        inner = typed(schema.get("items", {}))
        return None if inner is None else list[inner]  # type: ignore[valid-type]
    if kind == "number" and "maximum" in schema:
        return _bounded(schema)
    plain: dict[Any, Any] = {"string": str, "integer": int, "number": float, "boolean": bool}
    return plain.get(kind, Any)


def _default(schema: Schema) -> Any:
    """A value of the type for a field that did not come; None when there is none."""
    if "enum" in schema:
        return schema["enum"][0]
    empty: dict[Any, Any] = {"string": "", "integer": 0, "number": 0.0, "boolean": False}
    if schema.get("type") in ("array", "object"):
        return None if schema.get("properties") else [] if schema["type"] == "array" else {}
    return empty.get(schema.get("type"), "")


def _bounded(schema: Schema) -> Any:
    return Annotated[float, Field(ge=schema["minimum"], le=schema["maximum"])]


def _model(schema: Schema) -> Any:
    fields: dict[str, Any] = {}
    for place, (name, each) in enumerate(schema["properties"].items()):
        inner = typed(each)
        if inner is None:
            return None
        default = _REQUIRED if name in schema.get("required", ()) else _default(each)
        if default is None:
            return None  # it may be left out, and no value of it would do for all
        fields[f"field{place}"] = (inner, Field(default=default, alias=name))
    return create_model("Output", **fields)
