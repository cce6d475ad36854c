"""Pools that several processes share: the book of who holds and who waits, and where it is kept.

The book is a value that is changed by pure functions of the store's clock; a store makes each
change one transaction. Whoever is in the book has a lease: it ends by the store's clock when its
process says nothing, and what it held is then free. Each grant has a fence, a number that grows
with every grant of the book, so that a resource can refuse a holder whose lease has ended.

Beside the book each process keeps a picture of the waits within it, from which any process can see
whether a cycle leads through several (`stageflow.scheduler.sighting`). A wait is ended by marking
it in the book, which happens at most once for one cycle.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

T = TypeVar("T")
PER_TENANT: Final = "\x1f"
"""Between a pool's name and a tenant's: a tenant's own line in that pool, which the book forgets
when nobody stands in it. No name that can be printed has it."""


@dataclass(slots=True)
class PoolEntry:
    """Somebody who holds units, or waits for them."""

    request: str
    """Chosen by the process that asks; asking again under the same one changes nothing."""
    owner: str
    who: str
    """Whose task it is, within the owner."""
    units: int
    ticket: int
    """Grows with every request: who asked later has a greater one."""
    fence: int = 0
    """Grows with every grant; 0 while it waits."""
    doomed: str = ""
    """Why this wait is to end, as its process is told; "" while it is not."""
    rest: list[tuple[str, int]] = field(default_factory=list)
    """The lines, and their units, in which the request stands once this one has served it, one
    after another: it has an entry in each that served it, and in the one where it waits."""


@dataclass(slots=True)
class SharedState:
    """One pool."""

    units: int
    holds: list[PoolEntry] = field(default_factory=list)
    queue: list[PoolEntry] = field(default_factory=list)

    @property
    def free(self) -> int:
        """Units that nobody holds."""
        return self.units - sum(each.units for each in self.holds)

    def serve(self, next_number: Callable[[], int]) -> list[PoolEntry]:
        """Gives to those in front what is there; whose wait is to end is passed over. Who was
        served."""
        served: list[PoolEntry] = []
        for entry in list(self.queue):
            if entry.doomed:
                continue
            if entry.units > self.free:
                break
            self.queue.remove(entry)
            entry.fence = next_number()
            self.holds.append(entry)
            served.append(entry)
        return served


@dataclass(slots=True)
class PoolBook:
    """Who holds and who waits, in all processes. Changed within a transaction of its store."""

    pools: dict[str, SharedState] = field(default_factory=dict)
    leases: dict[str, float] = field(default_factory=dict)
    """Owner to when its lease ends, by the store's clock."""
    last_number: int = 0

    def next_number(self) -> int:
        self.last_number += 1
        return self.last_number

    def begin(self, owner: str, *, now_s: float, lease_s: float) -> None:
        """A lease for an owner that is not known."""
        self.expire(now_s)
        self.leases[owner] = now_s + lease_s

    def renew(self, owner: str, *, now_s: float, lease_s: float) -> bool:
        """False when the owner's lease has ended: nothing of what it held is its any more."""
        self.expire(now_s)
        if owner not in self.leases:
            return False
        self.leases[owner] = now_s + lease_s
        return True

    def expire(self, now_s: float) -> None:
        """Ends what silent processes held and waited for."""
        for owner in [owner for owner, until_s in self.leases.items() if until_s <= now_s]:
            self.leave(owner)

    def leave(self, owner: str) -> None:
        """Nothing is the owner's any more."""
        self.leases.pop(owner, None)
        for pool in self.pools.values():
            pool.holds = [each for each in pool.holds if each.owner != owner]
            pool.queue = [each for each in pool.queue if each.owner != owner]
        self._serve(*self.pools.values())

    def ask(self, name: str, total: int, entry: PoolEntry, *, waiters_max: int) -> PoolEntry | None:
        """The request's entry, with a fence when it was granted; None when too many wait.

        `total` are the pool's units as the asker knows them; they become the pool's while nobody
        uses it. Raises ValueError when others use it with other units."""
        for each, units in ((name, total), *entry.rest):
            pool = self.pools.setdefault(each, SharedState(units))
            if pool.units != units:
                if pool.holds or pool.queue:
                    raise ValueError(pool.units)
                pool.units = units
        known = self.find(entry.request)
        if known is not None:
            return known
        pool = self.pools[name]
        if pool.queue and len(pool.queue) >= waiters_max:
            return None
        entry.ticket = self.next_number()
        pool.queue.append(entry)
        self._serve(pool)
        return self.find(entry.request)

    def find(self, request: str) -> PoolEntry | None:
        """Where a request waits, or what served it last; None when there is no such request."""
        return max(self.entries(request).values(), key=lambda each: each.ticket, default=None)

    def entries(self, request: str) -> dict[str, PoolEntry]:
        """Line to the request's entry there."""
        return {
            name: entry
            for name, pool in self.pools.items()
            for entry in (*pool.holds, *pool.queue)
            if entry.request == request
        }

    def give_back(self, request: str) -> None:
        """Neither holds nor waits any more; nothing when that was so already."""
        for pool in self.pools.values():
            pool.holds = [each for each in pool.holds if each.request != request]
            pool.queue = [each for each in pool.queue if each.request != request]
        self._serve(*self.pools.values())

    def _serve(self, *pools: SharedState) -> None:
        """Whoever is served goes on to the next of its lines at once: those who asked earlier are
        ahead there too."""
        todo = deque(pools)
        while todo:
            for entry in todo.popleft().serve(self.next_number):
                if entry.rest:
                    todo.append(self._moved_on(entry))
        self._forget()

    def _moved_on(self, entry: PoolEntry) -> SharedState:
        (name, units), *rest = entry.rest
        pool = self.pools.setdefault(name, SharedState(units))
        ticket = self.next_number()
        pool.queue.append(
            PoolEntry(entry.request, entry.owner, entry.who, entry.units, ticket, rest=rest)
        )
        return pool

    def _forget(self) -> None:
        """Tenants come and go: their lines stay no longer than anybody stands in them."""
        idle = [
            name
            for name, pool in self.pools.items()
            if PER_TENANT in name and not pool.holds and not pool.queue
        ]
        for name in idle:
            del self.pools[name]

    def doom(self, cycle: Collection[str], why: str) -> bool:
        """Ends the wait of whoever of a cycle asked last; False when somebody has done so.

        `cycle` are the requests of those of it that wait here. When one of them has gone, or is to
        go, it is no cycle any more.
        """
        waiting = {each.request: each for pool in self.pools.values() for each in pool.queue}
        entries = [waiting.get(request) for request in cycle]
        found = [each for each in entries if each is not None and not each.doomed]
        if not found or len(found) < len(entries):
            return False
        max(found, key=lambda each: each.ticket).doomed = why
        self._serve(*self.pools.values())
        return True

    def granted_since(self, number: int) -> set[str]:
        """The owners that were given units when the book's last number was past `number`."""
        return {
            each.owner for pool in self.pools.values() for each in pool.holds if each.fence > number
        }

    def is_used(self, owner: str) -> bool:
        """Whether the owner holds or waits."""
        return any(
            each.owner == owner
            for pool in self.pools.values()
            for each in (*pool.holds, *pool.queue)
        )

    # -- on its way to a store -------------------------------------------------------------------

    def dumped(self) -> str:
        """As JSON."""
        pools = {
            name: [pool.units, [_row(each) for each in pool.holds], [_row(e) for e in pool.queue]]
            for name, pool in self.pools.items()
        }
        plain = [self.last_number, self.leases, pools]
        return json.dumps(plain, ensure_ascii=True, separators=(",", ":"))

    @staticmethod
    def loaded(text: str) -> PoolBook:
        """From JSON."""
        last_number, leases, plain = json.loads(text)
        pools = {
            name: SharedState(
                units, [PoolEntry(*row) for row in holds], [PoolEntry(*row) for row in queue]
            )
            for name, (units, holds, queue) in plain.items()
        }
        return PoolBook(pools, leases, last_number)


def _row(entry: PoolEntry) -> tuple[Any, ...]:
    return (
        entry.request,
        entry.owner,
        entry.who,
        entry.units,
        entry.ticket,
        entry.fence,
        entry.doomed,
        entry.rest,
    )


class BookReader:
    """Reads a book that has not changed only once."""

    def __init__(self) -> None:
        self._text = ""
        self._book = PoolBook()

    def book(self, text: str) -> PoolBook:
        """Not to be changed: the next reader may be given the same."""
        if text != self._text:
            self._text, self._book = text, PoolBook.loaded(text)
        return self._book


@dataclass(frozen=True, slots=True)
class Sight:
    """Everything at one moment of the store's clock."""

    at_s: float
    book: PoolBook
    pictures: Mapping[str, str]
    """Owner to what it last published; owners whose lease has ended are left out."""


class PoolStore(Protocol):
    """Where a book is kept. Each call is one transaction, and may be done again when its connection
    is lost. Raises JournalError "journal.unreachable" and what `decide` raises."""

    lease_s: float

    async def change(self, decide: Callable[[PoolBook, float], T]) -> T:
        """`decide(book, now_s)`, of which the changes are kept."""
        ...

    async def read(self) -> tuple[PoolBook, float]:
        """The book, which is not to be changed, and the store's clock in seconds."""
        ...

    async def sight(self, owner: str, picture: str) -> Sight:
        """Keeps the owner's picture, then looks at all."""
        ...

    async def listen(self, owner: str, wake: Callable[[], None]) -> bool:
        """Has `wake` called on this loop when a change by another process gave `owner` units.

        A hint, which may come for nothing or not at all: who waits asks from time to time as well.
        False where the store can't tell. Again with the same owner, it mends what was broken.
        """
        ...

    def unlisten(self, owner: str) -> None:
        """No `wake` is called for it any more."""
        ...

    async def close(self) -> None: ...


class MemoryPools:
    """Implements PoolStore for runtimes of one process: for tests, and for simulations of several.

    `now_s` is its clock; by default the event loop's."""

    def __init__(self, *, lease_s: float = 30.0, now_s: Callable[[], float] | None = None) -> None:
        self.lease_s = lease_s
        self._now_s = _loop_time_s if now_s is None else now_s
        self._book = PoolBook().dumped()
        self._reader = BookReader()
        self._pictures: dict[str, str] = {}
        self._listening: dict[str, tuple[asyncio.AbstractEventLoop, Callable[[], None]]] = {}

    async def change(self, decide: Callable[[PoolBook, float], T]) -> T:
        book = PoolBook.loaded(self._book)
        last_number = book.last_number
        answer = decide(book, self._now_s())
        self._book = book.dumped()
        for owner in sorted(book.granted_since(last_number) & self._listening.keys()):
            self._tell(owner)
        return answer

    def _tell(self, owner: str) -> None:
        loop, wake = self._listening[owner]
        try:
            loop.call_soon(wake)
        except RuntimeError:  # it is closed
            self.unlisten(owner)

    async def read(self) -> tuple[PoolBook, float]:
        return self._reader.book(self._book), self._now_s()

    async def sight(self, owner: str, picture: str) -> Sight:
        book, now_s = await self.read()
        self._pictures[owner] = picture
        self._pictures = {each: p for each, p in self._pictures.items() if each in book.leases}
        return Sight(now_s, book, dict(self._pictures))

    async def listen(self, owner: str, wake: Callable[[], None]) -> bool:
        is_new = owner not in self._listening
        self._listening[owner] = (asyncio.get_running_loop(), wake)
        if is_new:
            self._tell(owner)  # what was given before
        return True

    def unlisten(self, owner: str) -> None:
        self._listening.pop(owner, None)

    async def close(self) -> None:
        pass


def _loop_time_s() -> float:
    return asyncio.get_running_loop().time()
