"""JSON as RFC 8259 has it, and nothing that only resembles it.

The standard library's parser takes more than the grammar: NaN and Infinity, a name twice in one
object, numbers that become infinite, lone surrogates. Each of these is refused here, since two
readers of one such text may see two values (Seriot, "Parsing JSON is a Minefield", 2016; RFC 8259
sections 4, 6 and 8.2; RFC 7493, I-JSON).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, NoReturn

from stageflow.model.errors import ToolError
from stageflow.stages.work.tools.refusals import not_json, not_text, truncated

_STRING: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKET: Final = re.compile(r"[\[\]{}]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SPACE: Final = " \t\n\r"
_EXACT_DIGITS: Final = 15
"""Decimal digits that every double keeps (IEEE 754)."""
_OPEN_NUMBER: Final = re.compile(r"-|\.|[eE][+-]?")
"""What a number that is cut off leaves unread."""
_LITERALS: Final = ("true", "false", "null")
_DIGITS_MAX: Final = 4_000
"""Of one integer: below what the interpreter itself refuses."""


@dataclass(slots=True)
class Document:
    """A parsed text. `value` holds dicts, lists, str, int, float, bool and None only."""

    value: Any
    duplicated: int = 0
    """Names that stood more than once in their object; the last one counts."""
    rounded: int = 0
    """Numbers with more digits than a double keeps."""


def parse(text: str, *, depth_max: int, duplicates: str = "refuse") -> Document:
    """Reads one document. `text` has no byte order mark.

    Raises ToolError `tool.output_json`, `tool.output_truncated` when more text could have made it a
    document, `tool.output_encoding` for a lone surrogate.
    """
    _check_depth(text, depth_max)
    document = Document(None)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(items)
        if len(made) != len(items):
            if duplicates == "refuse":
                raise not_json("each name once in its object", "a name that stands twice")
            document.duplicated += len(items) - len(made)
        return made

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise not_json("numbers that a double can hold", "one that is too large")
        if (len(digits) > _EXACT_DIGITS or not value) and Decimal(digits) != Decimal(repr(value)):
            document.rounded += 1
        return value

    decoder = json.JSONDecoder(
        object_pairs_hook=pairs, parse_float=number, parse_int=_integer, parse_constant=_constant
    )
    try:
        document.value = decoder.decode(text)
    except json.JSONDecodeError as error:
        raise _unreadable(text, error) from None
    except RecursionError:
        raise _too_deep(depth_max) from None
    if "\\u" in text or _SURROGATE.search(text):
        _check_surrogates(document.value)
    return document


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS_MAX:
        raise not_json(f"integers of at most {_DIGITS_MAX:,} digits", f"one of {len(digits):,}")
    return int(digits)


def _constant(name: str) -> NoReturn:
    raise not_json("numbers (RFC 8259 section 6)", name)


def _check_depth(text: str, depth_max: int) -> None:
    """Before parsing, since the parser itself recurses."""
    if text.count("[") + text.count("{") <= depth_max:
        return
    depth = 0
    for bracket in _BRACKET.finditer(_STRING.sub("", text)):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > depth_max:
            raise _too_deep(depth_max)


def _too_deep(depth_max: int) -> ToolError:
    return not_json(f"at most {depth_max} objects and arrays in each other", "more")


def _unreadable(text: str, error: json.JSONDecodeError) -> ToolError:
    """Whether it stops too early, or could never have become a document."""
    at = f"character {error.pos:,} of {len(text):,}"
    rest = text[error.pos :].strip(_SPACE)
    if not rest and not error.msg.startswith("Illegal"):
        return truncated(f"the end of the text at {at}")
    if error.msg.startswith("Unterminated string"):
        return truncated("an open string at the end")
    if error.msg.startswith("Invalid \\") and len(text) - error.pos < 6:
        return truncated("an open escape at the end")
    if any(word.startswith(rest) for word in _LITERALS) or _OPEN_NUMBER.fullmatch(rest):
        return truncated("an open literal at the end")
    return not_json("JSON (RFC 8259)", f"{error.msg} at {at}")


def _check_surrogates(value: Any) -> None:
    """Half a character can't be written as UTF-8 again."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if type(each) is str:
            if _SURROGATE.search(each):
                raise not_text("a lone surrogate (RFC 8259 section 8.2)")
        elif type(each) is list:
            waiting += each
        elif type(each) is dict:
            waiting += each.keys()
            waiting += each.values()
