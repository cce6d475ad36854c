"""What is a number, a count, a text or an address, where users give one.

True is no number, and NaN is none either.
"""

from __future__ import annotations

from typing import Any, Final

_SCHEMES: Final = ("postgresql", "postgres", "rediss", "redis", "sqlite")
_MISSPELT: Final = tuple(f"{scheme}{mark}" for scheme in _SCHEMES for mark in (":", "//"))
"""How an address begins of which part of the mark was left out; a file would be made of it."""


def is_number(value: Any) -> bool:
    """Whether it is an int or a float, and no NaN."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def is_count(value: Any, *, least: int) -> bool:
    """Whether it is a whole number, at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_address(text: str) -> bool:
    """Whether it is an address, or was meant for one, and no path of a file."""
    return "://" in text or text.startswith(_MISSPELT)


def scheme_of(address: str) -> str:
    """The part that names the kind of store, and none of what may be secret; shortened."""
    return address.replace("//", ":").partition(":")[0][:40]


def form_of(value: Any) -> str:
    """What stands where something else belongs, as errors tell it: its type, not the value."""
    return "no text" if isinstance(value, str) and not value else type(value).__name__
