"""Names that a run holds until its saga has ended, and reads that see no state between.

A saga commits step by step, so that others could see what may yet be taken back. Its steps `hold`
the names of what they change; `clean_read` gives what was read while no saga held any of them.
Readers hold nothing, and no saga waits for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from stageflow.journal.locks import Held, LockStore, MemoryLocks
from stageflow.journal.opening import lock_store
from stageflow.journal.store import QUEUED, RUNNING, SUSPENDED
from stageflow.model.errors import BuildError, JournalError, RunError
from stageflow.runtime.arguments import check_function, check_wait

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver
    from stageflow.runtime.runtime import Runtime

T = TypeVar("T")
WAIT_S = 30.0
NAMES_MAX = 1_000
"""Of one call."""
PAUSE_S, PAUSE_MAX_S = 0.005, 0.25
"""Between two looks: doubled each time, up to the most."""
ASK_EVERY_S = 1.0
"""How often it is looked up whether a holder's run has ended without giving back."""


def opened(locks: LockStore | str | Path | None, *, is_durable: bool) -> LockStore | None:
    """The store of a runtime; None when it has a journal and no place for locks."""
    if locks is None:
        return None if is_durable else MemoryLocks()
    if not isinstance(locks, (str, Path)):
        return locks
    if not is_durable:
        raise BuildError(
            "lock.no_journal",
            "locks that outlive the process need runs that do",
            field="locks",
            expected="a journal beside the locks, or no file for locks",
            got="a runtime that keeps runs in memory only",
            fix="Runtime(journal='runs.db', locks='locks.db'), or leave locks out",
        )
    return lock_store(locks)


class Locks:
    """The locks of one runtime."""

    def __init__(self, runtime: Runtime, store: LockStore | None) -> None:
        self._runtime = runtime
        self._store = store
        self.is_kept = store is not None and runtime.journal is not None
        """True when a run that is taken up may hold locks from before."""

    async def hold(self, driver: Driver, names: Sequence[str], *, wait_s: float) -> None:
        """Takes all names for the outermost run that `driver` is part of, until that has ended."""
        check_wait(wait_s)
        store, keys = self._needed(), _keys(driver.identity.tenant, names)
        root = driver
        while root.parent is not None:
            root = root.parent
        root.holds = True
        holder, parent = root.identity.run, root.identity.parent
        while parent is not None:  # a child that was taken up by itself
            header = (await self._runtime.load(parent)).header
            holder, parent = header.run, header.parent
        others = await store.take(keys, holder)
        wait = _Wait(wait_s)
        while others:
            if not await wait.once_more():
                raise _busy(names, others)
            if wait.asks():
                await self._free_ended(others)
            others = await store.take(keys, holder)

    async def clean_read(
        self, tenant: str, names: Sequence[str], read: Callable[[], Awaitable[T]], *, wait_s: float
    ) -> T:
        """What `read` gives when no saga held a name from before it began until it was done."""
        check_wait(wait_s)
        check_function(read, "ctx.clean_read(read, 'account:7')")
        store, keys = self._needed(), _keys(tenant, names)
        wait = _Wait(wait_s)
        while True:
            before = await store.look(keys)
            others = {key: held for key, held in before.items() if held.holder is not None}
            if not others:
                found = await read()
                if await store.look(keys) == before:
                    return found
            if not await wait.once_more():
                raise _busy(names, others)
            if others and wait.asks():
                await self._free_ended(others)

    async def give_back(self, run: str) -> None:
        """Gives back what a run held that is over."""
        if self._store is not None:
            await self._store.drop(run)

    async def close(self) -> None:
        """Closes the store."""
        if self._store is not None:
            await self._store.close()

    async def _free_ended(self, others: Mapping[str, Held]) -> None:
        """Gives back what runs hold that have ended, and whose process died before it did."""
        journal = self._runtime.journal
        if journal is None:
            return
        for holder in {held.holder for held in others.values() if held.holder is not None}:
            try:
                status = (await journal.load(holder)).status
            except JournalError:
                continue  # of another journal: who knows
            if status not in (RUNNING, SUSPENDED, QUEUED):
                seen = {name: held for name, held in others.items() if held.holder == holder}
                await self._needed().free(seen)

    def _needed(self) -> LockStore:
        if self._store is None:
            raise RunError(
                "lock.no_store",
                "this runtime has a journal, and no place where it is kept who holds what",
                expected="a place that all processes of the journal share",
                fix="Runtime(journal='runs.db', locks='locks.db'); Runtime.local() has one",
            )
        return self._store


class _Wait:
    """Pauses that grow, for a bounded time."""

    def __init__(self, wait_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        now_s = self._loop.time()
        self._until_s = now_s + wait_s
        self._ask_at_s = now_s
        self._pause_s = PAUSE_S

    async def once_more(self) -> bool:
        """False when the time is over."""
        left_s = self._until_s - self._loop.time()
        if left_s <= 0:
            return False
        await asyncio.sleep(min(self._pause_s, left_s))
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)
        return True

    def asks(self) -> bool:
        """True every ASK_EVERY_S."""
        now_s = self._loop.time()
        if now_s < self._ask_at_s:
            return False
        self._ask_at_s = now_s + ASK_EVERY_S
        return True


def _keys(tenant: str, names: Sequence[str]) -> list[str]:
    if not names or len(names) > NAMES_MAX or not all(isinstance(each, str) for each in names):
        raise RunError(
            "lock.names",
            "locks are held under names",
            expected=f"1 to {NAMES_MAX} texts",
            got=f"{len(names)} names" if all(isinstance(n, str) for n in names) else "other values",
            fix="await ctx.hold(f'account:{number}')",
        )
    return [f"{len(tenant)} {tenant}{name}" for name in dict.fromkeys(names)]


def _busy(names: Sequence[str], others: Mapping[str, Held]) -> RunError:
    return RunError(
        "lock.busy",
        f"{', '.join(names)[:200]} did not become free in time",
        expected="names that no other saga holds",
        got=f"held by {', '.join(sorted({str(held.holder) for held in others.values()}))[:200]}"
        if others
        else "names that sagas took again and again",
        fix="a longer wait_s=, or look at the runs that hold them: a suspended one holds on",
    )
