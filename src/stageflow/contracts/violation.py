"""A value that breaks its contract: the error, and what it may show of a value that may be secret.

Paths, declared types and limits come from the schema and are shown; of the value only types, sizes
and the names of fields are. pydantic's own messages are used only for the kinds of error whose text
is made from the schema alone: others quote the input, or what a user's validator said about it.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stageflow.model.errors import ContractError
from stageflow.model.refusal import key_step, type_label

if TYPE_CHECKING:  # named in signatures only; loading pydantic is the validator's business
    from pydantic_core import ErrorDetails, ValidationError

Problem = tuple[str, str, str]
"""(path, what was expected, type of what came)."""

_SHOWN_MAX = 10
_WIDTH_MAX = 200

_TOLD_BY_SCHEMA = frozenset(
    {
        "missing", "extra_forbidden", "model_type", "dataclass_type", "none_required", "enum",
        "greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of",
        "finite_number", "too_short", "too_long", "string_type", "string_sub_type",
        "string_unicode", "string_too_short", "string_too_long", "string_pattern_mismatch",
        "dict_type", "list_type", "tuple_type", "set_type", "frozen_set_type",
        "set_item_not_hashable",
        "bool_type", "bool_parsing", "int_type", "int_parsing", "int_parsing_size",
        "int_from_float",
        "float_type", "float_parsing", "bytes_type", "bytes_too_short", "bytes_too_long",
        "literal_error", "date_type", "time_type", "datetime_type", "time_delta_type",
        "timezone_naive", "timezone_aware", "frozen_field", "is_instance_of", "is_subclass_of",
        "callable_type", "union_tag_not_found", "arguments_type", "missing_argument",
        "unexpected_keyword_argument", "recursion_loop", "uuid_type", "uuid_version",
        "decimal_type", "decimal_parsing", "decimal_max_digits", "decimal_max_places",
        "decimal_whole_digits", "complex_type", "fraction_type", "needs_python_object",
        "date_from_datetime_inexact", "date_past", "date_future", "datetime_past",
        "datetime_future", "named_tuple_type", "model_attributes_type", "mapping_type",
    }
)  # fmt: skip

_TOLD_BY_TAGS = frozenset({"union_tag_invalid"})


class ContractViolated(ContractError):
    """`contract.violated`: a value does not fit. `rejected` is its shape, without its contents."""

    def __init__(self, described: str, problems: tuple[Problem, ...], rejected: str) -> None:
        self.rejected = rejected
        shown = [
            f"\n    {_cut(path)}: expected {_cut(expected)}, got {_cut(got)}"
            for path, expected, got in problems[:_SHOWN_MAX]
        ]
        more = len(problems) - len(shown)
        if more > 0:
            shown.append(f"\n    ... and {more} more")
        plural = "problem" if len(problems) == 1 else "problems"
        super().__init__(
            "contract.violated",
            f"the value does not fit {_cut(described)}: {len(problems)} {plural}{''.join(shown)}",
            problems=problems,
            expected=_cut(described),
            got=_cut(rejected),
            fix=_fix(problems),
        )


def problems_of(error: ValidationError, value: Any) -> tuple[Problem, ...]:
    """One problem a fault, its path leading through the value and not through pydantic's unions."""
    details = error.errors(include_url=False, include_input=False, include_context=True)
    return tuple(_problem(detail, value) for detail in details)


def _problem(detail: ErrorDetails, value: Any) -> Problem:
    kind = detail["type"]
    is_absent = kind in {"missing", "missing_argument"}
    location = detail["loc"]
    path, found, branches = _walk(location[:-1] if is_absent else location, value)
    if is_absent:
        path += key_step(location[-1])
    if kind in _TOLD_BY_SCHEMA:
        expected = detail["msg"]
        for start in ("Input should be ", "Field "):
            expected = expected.removeprefix(start)
    elif kind in _TOLD_BY_TAGS:
        expected = f"one of the tags {detail.get('ctx', {}).get('expected_tags', '')}"
    elif kind in {"value_error", "assertion_error"}:
        expected = "a value that the validator there accepts"
    else:
        expected = f"a value without the fault {kind.replace('_', ' ')}"
    if branches:
        expected += f" (as {' / '.join(branches)})"
    return path, expected, "nothing" if is_absent else type_label(type(found))


def _walk(location: Sequence[int | str], value: Any) -> tuple[str, Any, list[str]]:
    """Follows a pydantic location through the value itself.

    pydantic puts the member's label into the location of an error inside a union. A step that leads
    nowhere in the value is such a label.
    """
    path, branches = "$", []
    for place, step in enumerate(location):
        found, inner = _descend(value, step)
        if found:
            path, value = path + key_step(step), inner
        elif step == "[key]":
            path += "(key)"
        elif place == len(location) - 1 and not isinstance(value, (str, int, float, type(None))):
            if isinstance(value, Mapping) or hasattr(value, "__dict__"):
                branches.append(str(step))
        elif isinstance(step, str) and not step.startswith("function-"):
            branches.append(step)
    return path, value, branches


def _descend(value: Any, step: int | str) -> tuple[bool, Any]:
    if isinstance(value, Mapping):
        if step in value:
            return True, value[step]
        for key in value:
            # pydantic writes keys that are neither str nor int as text
            if type(key) not in (str, int) and str(key) == step:
                return True, value[key]
        return False, None
    if isinstance(step, int):
        if isinstance(value, (list, tuple, collections.deque)) and step < len(value):
            return True, value[step]
        if isinstance(value, (set, frozenset)) and step < len(value):
            return True, list(value)[step]
        return False, None
    held = getattr(value, "__dict__", None)
    if isinstance(held, dict) and step in held:
        return True, held[step]
    if step in getattr(type(value), "__slots__", ()) and hasattr(value, step):
        return True, getattr(value, step)
    extra = getattr(value, "__pydantic_extra__", None)
    if isinstance(extra, dict) and step in extra:
        return True, extra[step]
    return False, None


def redacted(value: Any, *, depth: int = 3) -> str:
    """The shape of a value: types, sizes, field names. Never contents; at most 500 characters."""
    text = _redacted(value, depth)
    return text if len(text) <= 500 else text[:497] + "..."


def _redacted(value: Any, depth: int) -> str:
    cls = type(value)
    if isinstance(value, (str, bytes, bytearray)):
        return f"<{cls.__name__} len {len(value)}>"
    if depth == 0:
        return f"<{cls.__name__}>"
    if isinstance(value, dict):
        items = [
            f"{_name(key)}: {_redacted(item, depth - 1)}" for key, item in list(value.items())[:8]
        ]
        return "{" + ", ".join(_more(items, len(value))) + "}"
    if isinstance(value, (list, tuple)):
        items = [_redacted(item, depth - 1) for item in value[:4]]
        left, right = "[]" if isinstance(value, list) else "()"
        return left + ", ".join(_more(items, len(value))) + right
    if dataclasses.is_dataclass(cls) or hasattr(cls, "__pydantic_fields__"):
        held = getattr(value, "__dict__", None)
        if isinstance(held, dict):
            items = [f"{key}={_redacted(item, depth - 1)}" for key, item in list(held.items())[:8]]
            return f"{cls.__name__}({', '.join(_more(items, len(held)))})"
    return f"<{cls.__name__}>"


def _name(key: Any) -> str:
    is_name = type(key) is str and key.isidentifier() and len(key) <= 40
    return repr(key) if is_name else f"<{type(key).__name__}>"


def _more(items: list[str], count: int) -> list[str]:
    return items if len(items) == count else [*items, f"... {count - len(items)} more"]


def _fix(problems: tuple[Problem, ...]) -> str:
    path, expected, got = problems[0]
    if got == "nothing":
        return f"give {_cut(path)} in the value, or give the field a default in its class"
    return f"make {_cut(path)} {_cut(expected.partition(',')[0])}, or change the declared type"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH_MAX else f"{line[: _WIDTH_MAX - 3]}..."
