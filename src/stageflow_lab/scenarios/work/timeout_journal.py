"""A journal seen from outside: from when until when each run's beginning and end were written.

What a run writes in between, while its stages are at work, is not told: it excuses no late answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stageflow.model.record import Record, RecordType


@dataclass(slots=True)
class Waited:
    """Of a run and those below it. Times are seconds on the loop's clock."""

    opened: tuple[float, float] = (0.0, 0.0)
    """When the outermost run's first records were given to the journal, and were durable: before
    that no stage of it begins, and no deadline counts."""
    ends: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The same of each run's end. The first time only: a run that writes it twice has no excuse
    for the second."""


class WatchedJournal:
    """Implements Journal with another one, whose writes it times."""

    def __init__(self, journal: Any) -> None:
        self._journal = journal
        self._roots: dict[str, str] = {}
        """Run to the outermost run above it."""
        self._waited: dict[str, Waited] = {}
        """By outermost run."""

    def waited(self, run: str) -> Waited:
        """Of an outermost run."""
        return self._waited[run]

    async def create(self, header: Any, records: tuple[Record, ...]) -> int:
        """As the journal's."""
        root = self._roots.get(header.parent, header.run)
        self._roots[header.run] = root
        waited = self._waited.setdefault(root, Waited())
        began_s = _now()
        epoch: int = await self._journal.create(header, records)
        if root == header.run:
            waited.opened = (began_s, _now())
        return epoch

    async def append(self, run: str, epoch: int, records: tuple[Record, ...]) -> None:
        """As the journal's."""
        began_s = _now()
        await self._journal.append(run, epoch, records)
        if any(record.type is RecordType.RUN_ENDED for record in records):
            self._waited[self._roots[run]].ends.setdefault(run, (began_s, _now()))

    async def claim(self, run: str, *, rerun: Sequence[str] | None = None) -> Any:
        """As the journal's."""
        return await self._journal.claim(run, rerun=rerun)

    def keys(self) -> Any:
        """As the journal's."""
        return self._journal.keys()

    async def load(self, run: str) -> Any:
        """As the journal's."""
        return await self._journal.load(run)

    async def holds(self, run: str, *, tenant: str) -> bool:
        """As the journal's."""
        held: bool = await self._journal.holds(run, tenant=tenant)
        return held

    async def runs(self, *, tenant: str | None = None, limit: int = 50) -> Any:
        """As the journal's."""
        return await self._journal.runs(tenant=tenant, limit=limit)

    async def turns(
        self, tenant: str, session: str, *, before: int | None = None, limit: int = 50
    ) -> Any:
        """As the journal's."""
        return await self._journal.turns(tenant, session, before=before, limit=limit)

    async def close(self) -> None:
        """As the journal's."""
        await self._journal.close()


def _now() -> float:
    return asyncio.get_running_loop().time()
