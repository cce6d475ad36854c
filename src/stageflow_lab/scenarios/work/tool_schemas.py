"""Schemas of some 2,400 tools, as the package bfcl-eval carries them, made into JSON Schema.

The Berkeley Function Calling Leaderboard (Patil et al., ICML 2025; Apache 2.0) describes functions
of Python, Java and JavaScript, and of public services, by the parameters that they take; here such
an object is what a tool gives. Names of types are those of the three languages. The oracle closes
them in a way of its own: it is no part of what is under test.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

PACKAGE: Final = "bfcl_eval"
_TYPES: Final[Mapping[str, str]] = {
    "dict": "object",
    "hashmap": "object",
    "object": "object",
    "array": "array",
    "tuple": "array",
    "list": "array",
    "arraylist": "array",
    "string": "string",
    "char": "string",
    "str": "string",
    "integer": "integer",
    "int": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "number": "number",
    "boolean": "boolean",
    "bool": "boolean",
}

Schema = dict[str, Any]


def tool_schemas() -> list[Schema]:
    """All distinct ones, in a fixed order; each is an object with at least one field."""
    found: dict[str, Schema] = {}
    for described in _described():
        schema = _json_schema(described)
        if schema.get("type") == "object" and schema.get("properties"):
            found.setdefault(json.dumps(schema, sort_keys=True), schema)
    return [found[key] for key in sorted(found)]


def shut(schema: Schema) -> Schema:
    """The same with no field beside those it names, for the oracle."""
    made = dict(schema)
    if "properties" in schema:
        made["properties"] = {name: shut(each) for name, each in schema["properties"].items()}
        made["additionalProperties"] = False
    if "items" in schema:
        made["items"] = shut(schema["items"])
    return made


def _described() -> Iterator[Mapping[str, Any]]:
    spec = importlib.util.find_spec(PACKAGE)
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    for place in places:
        for path in sorted((Path(place) / "data").rglob("*.json")):
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    continue  # a file of another form
                yield from _parameters(row)


def _parameters(row: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(row, dict):
        return
    functions = row.get("function", row if "parameters" in row else ())
    for function in functions if isinstance(functions, list) else [functions]:
        if isinstance(function, dict) and isinstance(function.get("parameters"), dict):
            yield function["parameters"]


def _json_schema(described: Any) -> Schema:
    """What the description says that a validator can check."""
    made: Schema = {}
    if not isinstance(described, Mapping):
        return made
    kind = described.get("type")
    if isinstance(kind, str) and kind.lower() in _TYPES:
        made["type"] = _TYPES[kind.lower()]
    if isinstance(described.get("enum"), list) and described["enum"]:
        made["enum"] = described["enum"]
    properties = described.get("properties")
    if isinstance(properties, Mapping) and made.get("type") == "object":
        made["properties"] = {str(n): _json_schema(each) for n, each in properties.items()}
        required = described.get("required", ())
        made["required"] = [n for n in required if n in made["properties"]]
    if isinstance(described.get("items"), Mapping) and made.get("type") == "array":
        made["items"] = _json_schema(described["items"])
    return made
