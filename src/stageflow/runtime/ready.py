"""Nodes that may start now, the most urgent first: of pipelines whose stages have priorities."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


class RankedReady:
    """In place of a deque of node numbers. Equal priorities start in order of readiness."""

    __slots__ = ("_added", "_heap", "_priorities")

    def __init__(self, priorities: Sequence[int]) -> None:
        self._priorities = priorities
        self._heap: list[tuple[int, int, int]] = []
        self._added = 0

    def __len__(self) -> int:
        return len(self._heap)

    def append(self, number: int) -> None:
        self._added += 1
        heapq.heappush(self._heap, (-self._priorities[number], self._added, number))

    def popleft(self) -> int:
        return heapq.heappop(self._heap)[2]
