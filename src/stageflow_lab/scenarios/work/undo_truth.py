"""What really happened to the places of one story, told by the places and not by the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from .undo_stories import Place

COLUMN: Final = "lane"
"""The column that comes and goes."""
COLUMN_DEFAULT: Final = 7

Who = Literal["ours", "theirs", "form"]


@dataclass(frozen=True, slots=True)
class Fact:
    """One write at a place, or a change of the table's form."""

    who: Who
    place: Place
    value: Any
    """As people see it, JSON; of `form` whether the column is there now."""
    step: int = 0
    """Of `ours`: whose intent stood last on record."""
    is_undo: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """A letter that arrived."""

    step: int
    payload: str


@dataclass(frozen=True, slots=True)
class Permit:
    """A person's leave for one letter."""

    payload: str


@dataclass(frozen=True, slots=True)
class UndoSeen:
    """An undo from its beginning to its end, through whatever deaths."""

    target: int
    begin: int
    """Facts there were when it was asked for."""
    end: int
    upto: int
    """Steps there were when it was asked for."""
    last: int
    """Steps there were when it had ended."""
    steps: tuple[int, ...]
    conflicts: tuple[Place, ...]
    kept: tuple[int, ...]
    deaths: int
    """Processes that died in it."""


@dataclass(frozen=True, slots=True)
class StepSeen:
    """A step as the log tells it in the end."""

    number: int
    standing: str
    place: Place
    value: Any
    """What it was to leave there."""
    before: Any
    is_final: bool
    undoes: tuple[int, ...]
    permitted_by: str


def plain(value: Any) -> Any:
    """A resource's value as JSON: a row's columns, a file's text, a page's."""
    if value is None:
        return None
    if isinstance(value, bytes):
        return value.decode()
    data = getattr(value, "data", None)
    if isinstance(data, bytes):
        return data.decode()
    if isinstance(value, dict):
        return {"text": value["text"], **({COLUMN: int(value[COLUMN])} if COLUMN in value else {})}
    return value


def in_form(value: Any, *, has_column: bool) -> Any:
    """A value once the column came or went and nobody touched it."""
    if not isinstance(value, dict):
        return value
    if has_column:
        return {COLUMN: COLUMN_DEFAULT, **value}
    return {"text": value["text"]}


def equal(then: Any, now: Any) -> bool:
    """Whether `now` is what was there `then`, with a column that came in between as it came."""
    if isinstance(then, dict) and isinstance(now, dict):
        if COLUMN in then and COLUMN not in now:
            return False
        return {COLUMN: COLUMN_DEFAULT, **then} == {COLUMN: COLUMN_DEFAULT, **now}
    return bool(then == now)
