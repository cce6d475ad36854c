"""What people are asked, as text, and what they type, as values.

Pure: no journal, no terminal. `stageflow.cli` brings the questions and writes the lines.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from stageflow.runtime.waiting import Waiting

_DEPTH_MAX = 8
"""Levels of a schema that an example goes into; a schema may refer to itself."""

_LINE_MAX = 100
"""Characters that stand beside their name."""

_HASH_SHOWN = 12
"""Digits of a content hash that people are shown, and the fewest that stand for it."""


def asked_text(question: Waiting, *, options: Sequence[str] = (), now_s: float) -> str:
    """One question: what is shown, until when, and the command that answers it.

    `options` are further arguments of the command, such as `--root DIR`.
    """
    until = ""
    if question.expires_wall_s is not None:
        over = " (over)" if question.expires_wall_s <= now_s else ""
        until = f", until {when(question.expires_wall_s)}{over}"
    value = shlex.quote(_typed(example(question.json_schema)))
    command = shlex.join(["stageflow", "signal", question.run, question.node, *options])
    return (
        f"{question.node} of run {question.run} waits for a person{until}. "
        f"Shown ({question.shown_hash[:_HASH_SHOWN]}):\n\n"
        f"{shown_text(question)}\n\n"
        f"answer with {_article(question.expects)} {question.expects}:\n"
        f"  {command} --by YOU --value {value}\n"
    )


def shown_text(question: Waiting) -> str:
    """What the person sees, to be read and not to be parsed: long texts keep their lines.

    Characters that move a cursor or turn the direction of writing are shown as escapes: what is
    approved must not be able to look like something else.
    """
    from pydantic_core import to_jsonable_python  # only here, and slow to import

    lines = _lines(to_jsonable_python(question.shown, fallback=repr))
    return textwrap.indent("\n".join(lines), "    ")


def _lines(value: Any) -> list[str]:
    if isinstance(value, str):
        return [_visible(line) for line in value.splitlines()] or [""]
    if isinstance(value, dict) and value:
        pairs = [(f"{_visible(str(name))}:", part) for name, part in value.items()]
        return [line for mark, part in pairs for line in _marked(mark, part)]
    if isinstance(value, list) and value:
        return [line for part in value for line in _marked("-", part)]
    return [json.dumps(value)]


def _marked(mark: str, value: Any) -> list[str]:
    """After its mark when it is one short line, else below it."""
    lines = _lines(value)
    nested = isinstance(value, (dict, list)) and value
    if len(lines) == 1 and not nested and len(lines[0]) <= _LINE_MAX:
        return [f"{mark} {lines[0]}"]
    return [mark, *textwrap.indent("\n".join(lines), "  ").split("\n")]


def _visible(line: str) -> str:
    return "".join(
        one if one.isprintable() or one == "\t" else one.encode("unicode_escape").decode()
        for one in line
    )


def example(schema: Mapping[str, Any]) -> Any:
    """A small value of the schema's form, to be edited; None when the schema says nothing."""
    return _example(schema, schema.get("$defs", {}), _DEPTH_MAX)


def _example(schema: Mapping[str, Any], named: Mapping[str, Any], depth: int) -> Any:
    if depth == 0:
        return None
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if "$ref" in schema:
        return _example(named.get(schema["$ref"].rpartition("/")[2], {}), named, depth - 1)
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return _example(schema[key][0], named, depth - 1)
    if schema.get("enum"):
        return schema["enum"][0]
    if schema.get("type") == "object":
        fields = schema.get("properties", {})
        return {
            name: _example(fields.get(name, {}), named, depth - 1)
            for name in schema.get("required", ())
        }
    plain: dict[Any, Any] = {"boolean": True, "integer": 0, "number": 0.0, "string": "..."}
    return [] if schema.get("type") == "array" else plain.get(schema.get("type"))


def answer_of(question: Waiting, text: str) -> Any:
    """What was typed: text where the answer is a str, JSON elsewhere."""
    if question.json_schema.get("type") != "string":
        with contextlib.suppress(ValueError):  # not JSON: the contract says what it expects
            return json.loads(text)
    return text


def whole_hash(question: Waiting, given: str | None) -> str:
    """The content hash that an answer is bound to: what is shown now, or what `given` says.

    A beginning of at least 12 digits stands for the whole hash.
    """
    shown = question.shown_hash
    if given is None or (len(given) >= _HASH_SHOWN and shown.startswith(given)):
        return shown
    return given


def text_of(value: Any) -> str:
    """A value for a terminal: text as it is, everything else as JSON."""
    if isinstance(value, str):
        return value
    from pydantic_core import to_json  # only here, and slow to import

    return to_json(value, indent=2, fallback=repr).decode()


def when(wall_s: float) -> str:
    """Local date and time."""
    return datetime.datetime.fromtimestamp(wall_s).strftime("%Y-%m-%d %H:%M:%S")


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _article(word: str) -> str:
    return "an" if word[:1].lower() in "aeiou" else "a"
