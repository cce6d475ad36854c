"""What methods of `Context`, `Pipeline` and `Runtime` are given, checked before it takes effect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stageflow.model.errors import RunError
from stageflow.model.forms import form_of, is_count, is_number


def wrong_argument(field: str, expected: str, got: Any, fix: str) -> RunError:
    """An argument is nothing of its kind."""
    return RunError(
        "run.argument",
        f"{field} can't be this",
        field=field,
        expected=expected,
        got=repr(got)[:80] if isinstance(got, (int, float)) else form_of(got),
        fix=fix,
    )


def check_key(key: Any, example: str) -> None:
    """Of a step, a child or a message."""
    if not isinstance(key, str):
        raise wrong_argument("key", "text", key, example)


def check_pipeline(pipeline: Any, *, may_lack: bool = True) -> None:
    """None passes where a run may know its pipeline by itself."""
    is_one = hasattr(pipeline, "plan") and hasattr(pipeline, "options")
    if not is_one and not (may_lack and pipeline is None):
        raise wrong_argument("pipeline", "a Pipeline", pipeline, "give the pipeline itself")


def check_by(by: Any) -> None:
    """Who says something that is kept on record as said by them."""
    if not (isinstance(by, str) and by.strip()):
        raise wrong_argument("by", "who says it, as text", by, "by='ann@example.com'")


def check_count(field: str, value: Any, *, least: int = 0) -> None:
    """How many, or which."""
    if not is_count(value, least=least):
        expected = f"a whole number from {least} on"
        raise wrong_argument(field, expected, value, f"{field}={max(least, 1)}")


def check_wait(wait_s: Any) -> None:
    """How long something is waited for."""
    if not is_number(wait_s) or wait_s < 0:
        raise wrong_argument("wait_s", "seconds, 0 or more", wait_s, "wait_s=30.0")


def check_function(function: Any, example: str) -> None:
    """What is called."""
    if not callable(function):
        raise wrong_argument("function", "a function", function, example)


def checked_items(items: Any) -> Iterable[Mapping[str, Any]]:
    """The inputs of many runs, each of which is looked at when it is its turn."""
    if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
        raise wrong_argument("items", "dicts of inputs", items, "map([{'text': 'a'}, ...])")
    return (_checked_item(item) for item in items)


def _checked_item(item: Any) -> Mapping[str, Any]:
    if not isinstance(item, Mapping):
        raise wrong_argument("items", "dicts of inputs", item, "map([{'text': 'a'}, ...])")
    return item
