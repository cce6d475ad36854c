"""What is a number, a count or a text, where users give one: True is none, and NaN is no number."""

from __future__ import annotations

from typing import Any


def is_number(value: Any) -> bool:
    """Whether it is an int or a float, and no NaN."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def is_count(value: Any, *, least: int) -> bool:
    """Whether it is a whole number, at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def form_of(value: Any) -> str:
    """What stands where something else belongs, as errors tell it: its type, not the value."""
    return "no text" if isinstance(value, str) and not value else type(value).__name__
