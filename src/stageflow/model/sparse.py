"""Fields that most runs never use: each is made when it is first asked for.

A waiting run is held in memory by the thousand, and a nested one two hundred times over; an empty
dict is 64 bytes, and a run would have two dozen of them (benchmarks/parked_runs.py).

Not by `__getattr__`: a class that has one loses CPython's fast reads of all its other slots, which
cost a stage two fifths of its time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Made:
    """A field of a class with slots, whose value lies in the slot `_NAME` once there is one."""

    __slots__ = ("_get", "_make", "_put")

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        slot = vars(owner)[f"_{name}"]
        self._get, self._put = slot.__get__, slot.__set__

    def __get__(self, holder: Any, owner: type | None = None) -> Any:
        try:
            return self._get(holder)
        except AttributeError:
            value = self._make()
            self._put(holder, value)
            return value


def made(make: Callable[[], Any]) -> Any:
    """The field's declaration: `held: list[int] = made(list)`, with `"_held"` among the slots."""
    return Made(make)
