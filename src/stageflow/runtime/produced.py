"""What a stage has produced so far: kept when it is cut off, dropped when it gives its value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stageflow.model.marks import reached


@dataclass(frozen=True, slots=True)
class Chunks:
    """What an attempt had yielded or emitted before it failed, timed out or was cancelled."""

    items: tuple[Any, ...]
    """In the order in which they were produced."""
    left_out: int = 0
    """How many more there were than `Limits(kept_items=...)`."""


NO_CHUNKS = Chunks(())


class Produced:
    """The items of the running attempts of one run, by node. Threads add, the loop cuts."""

    __slots__ = ("_items", "_left_out", "cut")

    def __init__(self) -> None:
        self._items: dict[int, list[Any]] = {}
        self._left_out: dict[int, int] = {}
        self.cut: dict[int, Chunks] = {}
        """Of nodes whose last attempt gave no value."""

    def begin(self, node: int) -> None:
        """An attempt begins."""
        self._items.pop(node, None)
        self._left_out.pop(node, None)

    def add(self, node: int, item: Any, items_max: int) -> None:
        """The attempt has produced an item; only `items_max` are kept."""
        items = self._items.setdefault(node, [])
        if len(items) < items_max:
            items.append(item)
        else:
            self._left_out[node] = self._left_out.get(node, 0) + 1

    def end(self, node: int, kept: Callable[[Any], Any]) -> Chunks:
        """The attempt was cut off: its items, each as `kept` gives it. One that has produced
        nothing leaves what an earlier one had."""
        items = tuple(kept(item) for item in self._items.pop(node, ()))
        chunks = Chunks(items, self._left_out.pop(node, 0)) if items else NO_CHUNKS
        if items:
            reached("chunks_kept")
            self.cut[node] = chunks
        return chunks

    def forget(self, node: int) -> None:
        """It has its value, which holds what it produced."""
        self.begin(node)
        self.cut.pop(node, None)
