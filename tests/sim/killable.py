"""A process of a simulation that can die: its journal stops answering."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from stageflow.journal.store import LoadedRun, RunHeader, RunSummary, SessionTurns
from stageflow.model.record import Record
from stageflow.sim import SimJournal


class Killable:
    """A process's journal: once it is dead, no call returns."""

    def __init__(self, journal: SimJournal) -> None:
        self.journal = journal
        self.dead = False

    async def _alive(self) -> None:
        if self.dead:
            await asyncio.get_running_loop().create_future()

    async def create(self, header: RunHeader, records: tuple[Record, ...]) -> int:
        await self._alive()
        epoch = await self.journal.create(header, records)
        await self._alive()
        return epoch

    async def append(self, run: str, epoch: int, records: tuple[Record, ...]) -> None:
        await self._alive()
        await self.journal.append(run, epoch, records)
        await self._alive()

    async def claim(self, run: str, *, rerun: Sequence[str] | None = None) -> LoadedRun:
        await self._alive()
        return await self.journal.claim(run, rerun=rerun)

    async def load(self, run: str) -> LoadedRun:
        await self._alive()
        return await self.journal.load(run)

    async def holds(self, run: str, *, tenant: str) -> bool:
        await self._alive()
        return await self.journal.holds(run, tenant=tenant)

    async def runs(self, *, tenant: str | None = None, limit: int = 50) -> list[RunSummary]:
        await self._alive()
        return await self.journal.runs(tenant=tenant, limit=limit)

    async def turns(
        self, tenant: str, session: str, *, before: int | None = None, limit: int = 50
    ) -> SessionTurns:
        await self._alive()
        return await self.journal.turns(tenant, session, before=before, limit=limit)

    async def close(self) -> None:
        await self.journal.close()
