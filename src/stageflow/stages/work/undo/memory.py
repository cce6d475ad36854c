"""Undo logs, and something to change, in memory: for tests, and gone with the process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from stageflow.stages.work.undo.records import State
from stageflow.stages.work.undo.resource import Changed, FormLost
from stageflow.stages.work.undo.store import Decide, TimelineHead

T = TypeVar("T")


class MemoryUndo:
    """Implements UndoStore."""

    def __init__(self, *, wall_s: Callable[[], float] | None = None) -> None:
        self._heads: dict[str, TimelineHead] = {}
        self._records: dict[str, list[bytes]] = {}
        self._wall_s = _now_s if wall_s is None else wall_s

    async def change(self, timeline: str, decide: Decide[T]) -> T:
        change, answer = decide(self._heads.get(timeline, TimelineHead()), self._wall_s())
        if change is not None:
            self._heads[timeline] = change.head
            if change.erases:
                self._records.pop(timeline, None)
            self._records.setdefault(timeline, []).extend(change.records)
        return answer

    async def read(self, timeline: str, since: int) -> list[bytes]:
        return self._records.get(timeline, [])[since:]

    async def unfinished(self) -> list[str]:
        return [timeline for timeline, head in self._heads.items() if head.is_unfinished]

    async def latest(self, count: int) -> list[tuple[str, TimelineHead]]:
        used = [item for item in self._heads.items() if item[1].used_s > 0]
        return sorted(used, key=lambda item: -item[1].used_s)[:count]

    async def idle(self, for_s: float) -> list[str]:
        until_s = self._wall_s() - for_s
        return [
            timeline
            for timeline, head in self._heads.items()
            if 0 < head.used_s < until_s and not head.is_unfinished
        ]

    async def close(self) -> None:
        return None


class MemoryResource:
    """Texts by key. Implements Resource; `set` is how others write."""

    in_flight_s = 0.0

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.texts: dict[str, str] = {}
        self._versions: dict[str, int] = {}

    def set(self, key: str, text: str | None) -> None:
        """Writes without the log; None removes."""
        self._versions[key] = self._versions.get(key, 0) + 1
        if text is None:
            self.texts.pop(key, None)
        else:
            self.texts[key] = text

    async def read(self, key: str) -> State:
        text = self.texts.get(key)
        content = None if text is None else text.encode()
        return State(content, str(self._versions.get(key, "")))

    async def write(self, key: str, content: bytes | None, expected: State) -> State:
        if await self.read(key) != expected:
            raise Changed
        self.set(key, self.value(content))
        return await self.read(key)

    async def encoded(self, value: Any, before: State) -> bytes | None:
        return None if value is None else str(value).encode()

    def value(self, content: bytes | None) -> str | None:
        return None if content is None else content.decode()

    def adapted(self, content: bytes | None, then: str, now: str) -> bytes | None:
        raise FormLost("a text has one form only")


def _now_s() -> float:
    return time.time()  # looked up each time: a simulation has a clock of its own
