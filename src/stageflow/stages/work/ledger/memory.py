"""A ledger's entries in memory: for tests and simulations, and gone with the process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from stageflow.stages.work.ledger.entry import EXPIRING, EffectEntry
from stageflow.stages.work.ledger.store import Decide, Within, no_transactions

T = TypeVar("T")


class MemoryEffects:
    """Implements EffectStore. `entries` may be shared by several, as processes share a database."""

    def __init__(
        self,
        entries: dict[str, EffectEntry] | None = None,
        *,
        wall_s: Callable[[], float] | None = None,
    ) -> None:
        self.entries: dict[str, EffectEntry] = {} if entries is None else entries
        self._wall_s = _now_s if wall_s is None else wall_s

    async def change(self, key: str, decide: Decide[T]) -> T:
        entry = self.entries.get(key)
        changed, answer = decide(entry, self._wall_s())
        self.write(key, changed)
        return answer

    def write(self, key: str, entry: EffectEntry | None) -> None:
        if entry is None:
            self.entries.pop(key, None)
        else:
            self.entries[key] = entry

    async def change_within(self, key: str, decide: Within[T]) -> T:
        raise no_transactions("memory")

    async def sweep(self, *, skew_s: float) -> int:
        before_s = self._wall_s() - skew_s
        old = [
            key
            for key, entry in self.entries.items()
            if entry.until_s < before_s and entry.state in EXPIRING
        ]
        for key in old:
            del self.entries[key]
        return len(old)

    async def close(self) -> None:
        return None


def _now_s() -> float:
    return time.time()  # looked up each time: a simulation has a clock of its own
