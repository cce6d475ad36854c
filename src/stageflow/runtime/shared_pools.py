"""Pools whose units several processes share: `Runtime(pools={"gpu": SharedPool(2)})`.

Units are given by a book in a store that all processes reach (`stageflow.journal.pools`), in order
of asking among all of them. While this process holds or waits, one task keeps its lease, sees what
it was given, and looks for cycles that lead through several processes: it publishes who waits for
whom here, reads what the others published, and has the last who asked ended where stages surely
wait for one another (`stageflow.scheduler.sighting`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import copy_context
from functools import partial
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from stageflow.journal.pools import PoolBook, PoolEntry, PoolStore
from stageflow.model.errors import BuildError, RunError, StageflowError
from stageflow.runtime.capacity import Layer
from stageflow.runtime.limits import Limits
from stageflow.runtime.lingering import RUN
from stageflow.runtime.picture import Evidence, Names, picture_of, sighting_of
from stageflow.runtime.waits import Waiter, WaitGraph, deadlocked
from stageflow.scheduler import Sighting, knots, standing, stuck

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver

LOOKS: Final = 5
"""Looks in a scan interval. After at most one the last wait is published, after another it is seen,
and after two more it is sure."""
POLL_S, POLL_MAX_S = 0.008, 0.05
"""How often whoever waits asks whether he was given his units: who is soon to have them often, the
others seldom, and nobody often where the store is slow to answer."""
FRONT: Final = 2
"""Places of a line whose turn can come at any time."""
POLL_SHARE: Final = 0.25
"""Of its time that a process that waits spends on asking, at most."""
EARLIER: Final = 2
"""Looks that are kept: between the last but one and this one every process has published."""
ADVICE: Final = "pools taken in one order by every stage of every process"


class _Ask:
    """A request that was not granted yet, or whose units are held."""

    __slots__ = ("layers", "lost", "ready", "request", "task", "ticket", "units")

    def __init__(
        self, request: str, layers: Sequence[Layer], units: int, task: asyncio.Task[Any]
    ) -> None:
        self.request = request
        self.layers = layers
        self.units = units
        self.task = task
        self.ticket = 0
        """0 until it stands in the book."""
        self.ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The fence, once all lines have served it."""
        self.lost = False
        """True when the lease ended while it held."""

    @property
    def pool(self) -> str:
        """The pool that was asked for."""
        return self.layers[0].pool

    def told(self, entries: Mapping[str, PoolEntry]) -> None:
        """What the book says of it, by line."""
        if self.ready.done():
            return
        doomed = next((each.doomed for each in entries.values() if each.doomed), "")
        if not entries:
            self.ready.set_exception(_lost(self))
        elif doomed:
            self.ready.set_exception(_Doomed(Evidence.loaded(doomed)))
        elif all(each.fence for each in entries.values()):
            self.ready.set_result(entries[self.pool].fence)


class _Ours:
    """What one book says of one owner's requests; who waits mostly reads the same book again."""

    __slots__ = ("book", "entries", "is_next", "owner")

    def __init__(self, book: PoolBook, owner: str) -> None:
        self.book = book
        self.owner = owner
        self.entries: dict[str, dict[str, PoolEntry]] = {}
        """By request and line."""
        self.is_next = False
        """Whether one of them may be served at any time."""
        for key, pool in book.pools.items():
            self.is_next |= any(each.owner == owner for each in pool.queue[:FRONT])
            for each in (*pool.holds, *pool.queue):
                if each.owner == owner:
                    self.entries.setdefault(each.request, {})[key] = each


class SharedPools:
    """The shared pools of one runtime. Used from one event loop at a time."""

    def __init__(
        self,
        pools: Collection[str],
        store: PoolStore | None,
        *,
        graph: WaitGraph,
        limits: Limits,
        new_id: Callable[[], str],
    ) -> None:
        if pools and store is None:
            raise BuildError(
                "pool.shared_store",
                "shared pools need a place that all processes reach",
                field=", ".join(pools)[:80],
                expected="a journal in PostgreSQL, or shared_pools=",
                fix="Runtime(journal='postgresql://host/database', pools=...)",
            )
        self._kept_in = store
        self._graph = graph
        self._limits = limits
        self._new_id = new_id
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._pid = os.getpid()
        self._owner = ""
        self._numbers = count(1)
        self._names = Names()
        self._asks: dict[str, _Ask] = {}
        self._held: dict[str, _Ask] = {}
        self._owed: deque[str] = deque()
        """Requests to be taken out of the book."""
        self._keeper: asyncio.Task[None] | None = None
        self._news: asyncio.Event = asyncio.Event()
        self._renew_by_s = 0.0
        self._earlier: deque[Sighting[str]] = deque(maxlen=EARLIER)
        self._postponed: set[frozenset[str]] = set()
        """Cycles that were sure at the last look, and seemed to be parts of larger ones."""
        self._ours = _Ours(PoolBook(), "")
        """Whether somebody here was near the front of a line when the book was seen last."""
        self._shows_waits = False
        """Whether what was published last has anybody who waits."""
        self._hears = False
        """Whether the store tells who was given units, so that nobody need ask often."""

    @property
    def _store(self) -> PoolStore:
        assert self._kept_in is not None, "where there are pools there is a store"
        return self._kept_in

    def holds(self, task: asyncio.Task[Any]) -> dict[str, int]:
        """Pool to units."""
        found: dict[str, int] = {}
        for each in self._held.values():
            if each.task is task:
                for layer in each.layers:
                    found[layer.name] = found.get(layer.name, 0) + each.units
        return found

    async def lines(self) -> dict[str, tuple[int, int]]:
        """Layer to the units that living processes hold of it and the requests that wait."""
        book, now_s = await self._store.read()
        living = {owner for owner, until_s in book.leases.items() if until_s > now_s}
        return {
            key: (
                sum(each.units for each in pool.holds if each.owner in living),
                sum(each.owner in living for each in pool.queue),
            )
            for key, pool in book.pools.items()
        }

    def lease(
        self,
        run: Driver,
        node: str,
        layers: Sequence[Layer],
        units: int,
        callers: Sequence[asyncio.Task[Any]],
    ) -> SharedLease:
        """Nothing is asked for before it is entered. `callers` await the run, and those above."""
        waiter = Waiter(run, node, f"{units} of pool {layers[0].pool!r}", ADVICE)
        return SharedLease(self, waiter, layers, units, callers)

    # -- asking and giving back ------------------------------------------------------------------

    async def acquire(
        self,
        waiter: Waiter,
        layers: Sequence[Layer],
        units: int,
        callers: Sequence[asyncio.Task[Any]],
    ) -> _Ask:
        """Waits for the units of all layers."""
        task = asyncio.current_task()
        assert task is not None, "stages run in tasks"
        self._be_here()
        self._refuse_reentry(waiter, layers, units, (task, *callers))
        ask = _Ask(f"{self._owner}/{next(self._numbers)}", layers, units, task)
        self._asks[ask.request] = ask
        self._keep()
        try:
            entries = await self._store.change(lambda book, now_s: self._enter(book, now_s, ask))
            if not entries:
                raise self._full(layers[0].name, waiter.node)
            ask.ticket = min(each.ticket for each in entries.values())
            ask.told(entries)
            if ask.ready.done():
                ask.ready.result()
            else:
                with self._graph.waits(task, waiter):
                    await ask.ready
        except _Doomed as doomed:
            self._take_out(ask)
            found = doomed.evidence.told(f"{self._owner} {self._names.of(task)}")
            self._graph.deadlocks.append(found)
            raise deadlocked(found, waiter) from None
        except BaseException:
            self._take_out(ask)
            raise
        del self._asks[ask.request]
        self._held[ask.request] = ask
        return ask

    def _refuse_reentry(
        self,
        waiter: Waiter,
        layers: Sequence[Layer],
        units: int,
        line: Sequence[asyncio.Task[Any]],
    ) -> None:
        """Who asks for more than is left beside what it holds itself would wait for itself."""
        held = [each for each in self._held.values() if each.task in line]
        for layer in layers:
            own = sum(each.units for each in held if layer in each.layers)
            if own + units > layer.units:
                found = self._graph.reentry(waiter, line)
                self._graph.deadlocks.append(found)
                raise deadlocked(found, waiter)

    def _enter(self, book: PoolBook, now_s: float, ask: _Ask) -> Mapping[str, PoolEntry]:
        """The request's entries by line; none when too many wait."""
        if not book.renew(self._owner, now_s=now_s, lease_s=self._store.lease_s):
            book.begin(self._owner, now_s=now_s, lease_s=self._store.lease_s)
        first, *rest = [(each.key, each.units) for each in ask.layers]
        entry = PoolEntry(
            ask.request, self._owner, self._names.of(ask.task), ask.units, 0, rest=rest
        )
        try:
            found = book.ask(*first, entry, waiters_max=self._limits.pool_waiters)
        except ValueError as error:
            raise RunError(
                "pool.units_differ",
                f"other processes use pool {ask.pool!r}, or one around it, with another number of"
                " units",
                field=ask.pool,
                expected=f"{error.args[0]} units",
                got=" and ".join(f"{each.units} of {each.name!r}" for each in ask.layers),
                fix="give the pool the same units everywhere; a change takes hold when nobody"
                " uses it",
            ) from None
        return {} if found is None else book.entries(ask.request)

    def _full(self, name: str, node: str) -> RunError:
        return RunError(
            "pool.full",
            f"too many wait for pool {name!r}",
            node=node,
            expected=f"at most {self._limits.pool_waiters} waiting",
            fix="start fewer runs at a time, or raise Limits(pool_waiters=...)",
        )

    def give_back(self, ask: _Ask) -> None:
        """Returns at once; the book hears of it soon."""
        self._held.pop(ask.request, None)
        self._take_out(ask)

    def _take_out(self, ask: _Ask) -> None:
        self._asks.pop(ask.request, None)
        self._owed.append(ask.request)
        with contextlib.suppress(RuntimeError):  # no loop runs any more: the lease ends by itself
            self._keep()
        self._news.set()

    # -- the task that keeps the lease -----------------------------------------------------------

    def _be_here(self) -> None:
        """After a fork, or on another loop than the last, nothing from before is ours."""
        loop = asyncio.get_running_loop()
        stale = self._keeper is not None and (
            self._keeper.get_loop() is not loop and self._keeper.get_loop().is_closed()
        )
        if self._pid != os.getpid() or stale:
            self._begin_anew()
        if not self._owner:
            self._owner = self._new_id()

    def _keep(self) -> None:
        if self._keeper is None or self._keeper.done():
            self._news = asyncio.Event()
            context = copy_context()
            context.run(RUN.set, None)  # nothing that a stage left behind
            self._keeper = asyncio.get_running_loop().create_task(
                self._keep_on(), name="shared pools", context=context
            )

    async def _keep_on(self) -> None:
        """Ends when nothing is held, waited for or owed, and the book knows that."""
        owner = self._owner
        try:
            while self._is_needed:
                await self._serve()
                self._earlier.clear()
                with contextlib.suppress(StageflowError):  # the lease ends by itself
                    await self._store.change(self._left)
        finally:
            self._store.unlisten(owner)

    @property
    def _is_needed(self) -> bool:
        return bool(self._asks or self._held or self._owed)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        look_s = self._limits.scan_s / LOOKS
        next_look_s = loop.time()
        poll_s = POLL_S
        while self._is_needed:
            self._news.clear()
            try:
                await self._pay()
                if loop.time() >= next_look_s:
                    next_look_s = loop.time() + look_s
                    await self._look()
                    await self._listen()
                elif self._asks:
                    began_s = loop.time()
                    await self._read()
                    took_s = loop.time() - began_s
                    often_s = POLL_S if self._ours.is_next and not self._hears else POLL_MAX_S
                    poll_s = min(max(often_s, took_s / POLL_SHARE), POLL_MAX_S)
            except StageflowError as error:
                self._fail(error)
                next_look_s = loop.time() + look_s
            wait_s = max(0.0, next_look_s - loop.time())
            if self._asks:
                wait_s = min(wait_s, poll_s)
            timer = loop.call_later(wait_s, self._news.set)
            if self._is_needed:
                await self._news.wait()
            timer.cancel()

    async def _listen(self) -> None:
        """Whoever waits is told by the store when it is his turn, where it can."""
        self._hears = False
        if self._asks:
            with contextlib.suppress(StageflowError):  # asking does as well
                self._hears = await self._store.listen(self._owner, self._news.set)

    async def _read(self) -> None:
        """Looks whether those who wait were given their units, and ends leases that are over: who
        waits for a process that died waits no longer than its term."""
        book, now_s = await self._store.read()
        if any(until_s <= now_s for until_s in book.leases.values()):
            book = await self._store.change(self._expired)
        self._settle(book)

    async def _pay(self) -> None:
        """Takes out of the book what is owed; who is next here learns of it at once."""
        while self._owed:
            requests = tuple(self._owed)
            book = await self._store.change(partial(_given_back, requests))
            for _ in requests:
                self._owed.popleft()
            self._settle(book)

    def _settle(self, book: PoolBook) -> None:
        """What the book says about those who wait and hold here."""
        if self._ours.book is not book or self._ours.owner != self._owner:
            self._ours = _Ours(book, self._owner)
        entries = self._ours.entries
        for ask in self._asks.values():
            if 0 < ask.ticket <= book.last_number:
                ask.told(entries.get(ask.request, {}))
        for held in self._held.values():
            if held.ticket <= book.last_number and held.request not in entries:
                held.lost = True

    def _fail(self, error: StageflowError) -> None:
        """The store is away: who waits is told; what is held stays held until its lease ends."""
        for ask in self._asks.values():
            if ask.ticket and not ask.ready.done():
                ask.ready.set_exception(error)

    # -- cycles through several processes --------------------------------------------------------

    async def _look(self) -> None:
        loop, store = asyncio.get_running_loop(), self._store
        if loop.time() >= self._renew_by_s:
            self._renew_by_s = loop.time() + store.lease_s / 3
            now_s = await store.change(self._renewed)
        elif self._graph.waiting or self._shows_waits:
            now_s = (await store.read())[1]
        else:
            return
        self._shows_waits = bool(self._graph.waiting)
        # Made after the clock was read, and so not before that time.
        picture = picture_of(self._graph, self._names, made_s=now_s)
        sight = await store.sight(self._owner, picture)
        self._settle(sight.book)
        if not self._asks:
            return
        seen = sighting_of(sight)
        requests = {
            f"{each.owner} {each.who}": each.request
            for pool in sight.book.pools.values()
            for each in pool.queue
        }
        sure: set[frozenset[str]] = set()
        if stuck(seen.waits):  # nobody is surely stuck who does not seem to be
            sure = {each for earlier in self._earlier for each in knots(standing(earlier, seen))}
        # One that seems to be part of a larger one, or to wait for another, is left until the next
        # look, which tells.
        seeming = set(knots(seen.waits)) if sure else set()
        for cycle in sorted(sure, key=sorted):
            if cycle in seeming or cycle in self._postponed:
                waiting = sorted(requests[who] for who in cycle if who in requests)
                evidence = Evidence.of(cycle, sight)
                if waiting and evidence is not None:
                    await store.change(partial(_doomed, waiting, evidence.dumped()))
        self._postponed = sure - seeming
        self._earlier.append(seen)

    def _left(self, book: PoolBook, now_s: float) -> None:
        if not book.is_used(self._owner):
            book.leave(self._owner)

    def _expired(self, book: PoolBook, now_s: float) -> PoolBook:
        book.expire(now_s)
        return book

    def _renewed(self, book: PoolBook, now_s: float) -> float:
        book.renew(self._owner, now_s=now_s, lease_s=self._store.lease_s)
        return now_s

    async def close(self) -> None:
        """Waits until nothing is owed to the book. Runs must have ended."""
        keeper = self._keeper
        if keeper is not None and keeper.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([keeper], timeout=self._limits.close_s)
            keeper.cancel()  # the store is away: the lease ends by itself
        if self._kept_in is not None:
            await self._kept_in.close()


class SharedLease:
    """Units of a shared pool for the length of an `async with`; made by `ctx.pool`. Entered once.

    Gives a fence: a number that grows with every grant of the pool, for resources that can refuse
    a holder whose lease ended while its process was stopped.
    """

    __slots__ = ("_ask", "_callers", "_layers", "_pools", "_units", "_waiter")

    def __init__(
        self,
        pools: SharedPools,
        waiter: Waiter,
        layers: Sequence[Layer],
        units: int,
        callers: Sequence[asyncio.Task[Any]],
    ) -> None:
        self._pools = pools
        self._waiter = waiter
        self._layers = layers
        self._units = units
        self._callers = callers
        self._ask: _Ask | None = None

    async def __aenter__(self) -> int:
        assert self._ask is None, "a lease is entered once"
        self._ask = await self._pools.acquire(
            self._waiter, self._layers, self._units, self._callers
        )
        return self._ask.ready.result()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Without an await: a stage that is closed by force gives back what it held.
        ask, self._ask = self._ask, None
        if ask is None:
            return
        self._pools.give_back(ask)
        if ask.lost and kind is None:
            raise _lost(ask)


def _given_back(requests: Sequence[str], book: PoolBook, now_s: float) -> PoolBook:
    for request in requests:
        book.give_back(request)
    return book


def _doomed(cycle: Sequence[str], why: str, book: PoolBook, now_s: float) -> None:
    book.doom(cycle, why)


class _Doomed(Exception):
    """This wait is to end."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        super().__init__()


def _lost(ask: _Ask) -> RunError:
    return RunError(
        "pool.lease_lost",
        f"the lease of pool {ask.pool!r} ended before its holder had given it back",
        field=ask.pool,
        expected="a process that renews its lease in time",
        got="silence for longer than lease_s: the process was stopped, or cut off",
        fix="raise lease_s in the address, and let the resource check the fence",
    )
