"""Fields that most runs never use: each is made when it is first asked for.

A waiting run is held in memory by the thousand, and a nested one two hundred times over; an empty
dict is 64 bytes, and a run would have two dozen of them (benchmarks/parked_runs.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar


class Sparse:
    """A class with slots of which those named in `sparse` are filled on first use."""

    __slots__ = ()

    sparse: ClassVar[dict[str, Callable[[], Any]]]
    """Field to what makes its first value."""

    if not TYPE_CHECKING:  # else every misspelt attribute would pass for a field

        def __getattr__(self, name: str) -> Any:
            make = self.sparse.get(name)
            if make is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            value = make()
            setattr(self, name, value)
            return value
