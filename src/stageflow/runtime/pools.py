"""Named pools of units that stages hold for a while: `async with ctx.pool("gpu")`.

A pool serves in order of asking. A stage may hold units of several pools, and of a pool while a
child run of its asks for more: then stages can come to wait for one another, which is found when
the last of them begins to wait (`stageflow.runtime.waits`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from stageflow.model.errors import BuildError, RunError, nearest
from stageflow.runtime.shared_pools import SharedLease, SharedPool, SharedPools
from stageflow.runtime.waits import Deadlock, Waiter, WaitGraph
from stageflow.scheduler import PoolState

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver


class _Request:
    """Somebody in a queue."""

    __slots__ = ("node", "owner", "ready", "run", "units")

    def __init__(self, owner: asyncio.Task[Any], run: Driver, node: str, units: int) -> None:
        self.owner = owner
        self.run = run
        self.node = node
        self.units = units
        self.ready: asyncio.Future[None] = run.loop.create_future()

    @property
    def is_given_up(self) -> bool:
        """True when who asked waits no more."""
        return self.ready.cancelled()


class _Pool:
    """One pool: what is free, who holds how many units, and who waits."""

    __slots__ = ("free", "held", "name", "queue", "units")

    def __init__(self, name: str, units: int) -> None:
        self.name = name
        self.units = units
        self.free = units
        self.held: dict[asyncio.Task[Any], int] = {}
        self.queue: deque[_Request] = deque()

    def take(self, owner: asyncio.Task[Any], units: int) -> None:
        assert self.free >= units, "nothing is given that is not there"
        self.free -= units
        self.held[owner] = self.held.get(owner, 0) + units

    def give_back(self, owner: asyncio.Task[Any], units: int) -> None:
        self.free += units
        left = self.held[owner] - units
        if left:
            self.held[owner] = left
        else:
            del self.held[owner]
        self.serve()

    def serve(self) -> None:
        """Gives to those in front what is there."""
        while self.queue and (self.queue[0].is_given_up or self.queue[0].units <= self.free):
            request = self.queue.popleft()
            if request.is_given_up:
                continue  # cancelled, and has not run since
            self.take(request.owner, request.units)
            request.ready.set_result(None)


class Pools:
    """The pools of one runtime. Used from one event loop at a time."""

    def __init__(self, units: Mapping[str, int | SharedPool], *, waiters_max: int) -> None:
        self.shared: SharedPools | None = None
        """Pools that other processes share; None when there are none."""
        own = {name: each for name, each in units.items() if not isinstance(each, SharedPool)}
        for name, count in own.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise BuildError(
                    "pool.units",
                    f"pool {name!r} has no number of units",
                    field=name,
                    expected="an integer of 1 or more",
                    got=repr(count)[:80],
                    fix=f"Runtime(pools={{{name!r}: 1}})",
                )
        self._pools = {name: _Pool(name, count) for name, count in own.items()}
        self._waiters_max = waiters_max
        self.waits = WaitGraph(self)
        """Who waits, for pools and otherwise."""

    @property
    def deadlocks(self) -> deque[Deadlock]:
        """The last that were found, of all tenants; for whoever operates the runtime."""
        return self.waits.deadlocks

    def lease(self, run: Driver, node: str, name: str, units: int) -> Lease | SharedLease:
        """Checked; nothing is asked for before it is entered."""
        shared = {} if self.shared is None else self.shared.units
        pool = self._pools.get(name)
        total = shared.get(name) if pool is None else pool.units
        if total is None:
            names = [*self._pools, *shared]
            close = nearest(name, names)
            raise RunError(
                "pool.unknown",
                f"there is no pool {name!r}",
                node=node,
                expected="one of " + ", ".join(names) if names else "a runtime's pool",
                got=name[:80],
                fix=f"did you mean {close!r}?" if close else f"Runtime(pools={{{name!r}: 1}})",
            )
        if isinstance(units, bool) or not isinstance(units, int) or not 1 <= units <= total:
            raise RunError(
                "pool.request",
                f"nobody can have {units!r} units of pool {name!r}",
                node=node,
                expected=f"between 1 and {total}",
                got=repr(units)[:80],
                fix="ask for less, or raise the units of Runtime(pools=...)",
            )
        if pool is None:
            assert self.shared is not None, "it has the pool"
            return self.shared.lease(run, node, name, units)
        return Lease(self, pool, run, node, units)

    async def acquire(self, pool: _Pool, run: Driver, node: str, units: int) -> asyncio.Task[Any]:
        """Waits for the units; returns who holds them."""
        owner = asyncio.current_task()
        assert owner is not None, "stages run in tasks"
        if not pool.queue and pool.free >= units:
            pool.take(owner, units)
        else:
            await self._wait(pool, _Request(owner, run, node, units))
        return owner

    async def _wait(self, pool: _Pool, request: _Request) -> None:
        if len(pool.queue) >= self._waiters_max:
            raise RunError(
                "pool.full",
                f"too many wait for pool {pool.name!r}",
                node=request.node,
                expected=f"at most {self._waiters_max} waiting",
                fix="start fewer runs at a time, or raise Limits(pool_waiters=...)",
            )
        pool.queue.append(request)
        try:
            with self.waits.waits(request.owner, _waiter(pool, request)):
                await request.ready
        except BaseException:
            if request.ready.done() and not request.ready.cancelled():
                pool.give_back(request.owner, request.units)  # served and cancelled at once
            else:
                request.ready.cancel()
                with contextlib.suppress(ValueError):  # it was passed over already
                    pool.queue.remove(request)
                pool.serve()  # whoever was behind may be content with less
            raise

    # -- deadlocks -------------------------------------------------------------------------------

    def holds(self, who: asyncio.Task[Any]) -> dict[str, int]:
        """Pool to units."""
        return {pool.name: pool.held[who] for pool in self._pools.values() if who in pool.held}

    def is_wanted_of(self, who: asyncio.Task[Any]) -> bool:
        """Whether somebody waits for units of a pool of which it holds some."""
        return any(who in pool.held and pool.queue for pool in self._pools.values())

    def states(self) -> dict[str, PoolState[Any]]:
        """Who holds and waits, as of now."""
        return {
            pool.name: PoolState(
                pool.units,
                dict(pool.held),
                [(each.owner, each.units) for each in pool.queue if not each.is_given_up],
            )
            for pool in self._pools.values()
        }


def _waiter(pool: _Pool, request: _Request) -> Waiter:
    awaits = f"{request.units} of pool {pool.name!r}"
    return Waiter(request.run, request.node, awaits, "pools taken in one order by every stage")


class Lease:
    """Units of a pool for the length of an `async with`; made by `ctx.pool`. Entered once."""

    __slots__ = ("_node", "_owner", "_pool", "_pools", "_run", "_units")

    def __init__(self, pools: Pools, pool: _Pool, run: Driver, node: str, units: int) -> None:
        self._pools = pools
        self._pool = pool
        self._run = run
        self._node = node
        self._units = units
        self._owner: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> None:
        assert self._owner is None, "a lease is entered once"
        self._owner = await self._pools.acquire(self._pool, self._run, self._node, self._units)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Without an await: a stage that is closed by force gives back what it held.
        owner, self._owner = self._owner, None
        if owner is not None:
            self._pool.give_back(owner, self._units)
