"""Named pools of units that stages hold for a while: `async with ctx.pool("gpu")`.

A pool serves by priority, equal ones in order of asking (`stageflow.scheduler.line`); who holds
units is as urgent as whoever waits for them (`stageflow.scheduler.inheritance`). A stage may hold
units of several pools, and of a pool while a child run of its asks for more: then stages can come
to wait for one another, which is found when the last of them begins to wait
(`stageflow.runtime.waits`).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from stageflow.model.errors import BuildError, RunError, nearest
from stageflow.runtime.capacity import Capacity, Layer, Pool, PoolUsage
from stageflow.runtime.events import EventType
from stageflow.runtime.limits import Limits
from stageflow.runtime.overdue import Holder, chain_told_to
from stageflow.runtime.shared_pools import SharedLease, SharedPools
from stageflow.runtime.waits import Deadlock, Waiter, WaitGraph
from stageflow.scheduler import Demand, Inheritance, PoolState, RankedLine, Supply

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver


class Precedence(NamedTuple):
    """What counts of a stage where it waits in line."""

    tenant: str = "default"
    priority: int = 0
    """Its run's and its own."""
    callers: tuple[asyncio.Task[Any], ...] = ()
    """Those that wait for its run, and for the runs above: what is lent to them is lent to it."""


class Asker(NamedTuple):
    """A stage that asks for units."""

    run: Driver
    node: str
    precedence: Precedence


class SlotRequest(Demand["asyncio.Task[Any]"]):
    """A task that asks for units, and is told when it has them."""

    __slots__ = ("ready",)

    def __init__(
        self,
        supply: Supply[asyncio.Task[Any]],
        precedence: Precedence,
        units: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None, "stages run in tasks"
        super().__init__(
            supply,
            (task, *precedence.callers),
            units=units,
            tenant=precedence.tenant,
            priority=precedence.priority,
            asked_s=loop.time(),
        )
        self.ready: asyncio.Future[None] = loop.create_future()


class PoolRequest(SlotRequest):
    """A stage that asks for units of a pool."""

    __slots__ = ("node", "run")

    def __init__(self, supply: Supply[asyncio.Task[Any]], asker: Asker, units: int) -> None:
        super().__init__(supply, asker.precedence, units, asker.run.loop)
        self.run = asker.run
        self.node = asker.node


class Pools:
    """The pools of one runtime. Used from one event loop at a time."""

    def __init__(
        self,
        units: Mapping[str, int | Pool],
        *,
        limits: Limits,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.shared: SharedPools | None = None
        """Pools that other processes share; None when there are none."""
        self.capacity = Capacity(units)
        self.weights = _checked({} if weights is None else weights)
        self._limits = limits
        self._supplies: dict[str, Supply[Any]] = {}
        """Layer to who holds and waits there; a tenant's while there is somebody."""
        self.inheritance = Inheritance[Any](aging_s=limits.aging_s)
        """Who goes first, here and where stages wait for threads."""
        self._holders: dict[asyncio.Task[Any], PoolRequest] = {}
        """Whoever holds units, by the last request that was granted."""
        self.waits = WaitGraph(self)
        """Who waits, for pools and otherwise."""

    @property
    def deadlocks(self) -> deque[Deadlock]:
        """The last that were found, of all tenants; for whoever operates the runtime."""
        return self.waits.deadlocks

    def lease(
        self, asker: Asker, name: str, units: int, *, bound_s: float | None = None
    ) -> Lease | SharedLease | LayeredLease:
        """Checked; nothing is asked for before it is entered."""
        if name not in self.capacity.pools:
            names = list(self.capacity.pools)
            close = nearest(name, names)
            raise RunError(
                "pool.unknown",
                f"there is no pool {name!r}",
                node=asker.node,
                expected="one of " + ", ".join(names) if names else "a runtime's pool",
                got=name[:80],
                fix=f"did you mean {close!r}?" if close else f"Runtime(pools={{{name!r}: 1}})",
            )
        layers = self.capacity.layers(name, asker.precedence.tenant)
        least = min(layers, key=lambda each: each.units)
        if isinstance(units, bool) or not isinstance(units, int) or not 1 <= units <= least.units:
            raise RunError(
                "pool.request",
                f"nobody can have {units!r} units of pool {least.name!r}",
                node=asker.node,
                expected=f"between 1 and {least.units}",
                got=repr(units)[:80],
                fix="ask for less, or raise the units of Runtime(pools=...)",
            )
        bound_s = self._limits.pool_wait_s if bound_s is None else bound_s
        leases = [self._lease_in(each, asker, units, bound_s) for each in layers]
        return leases[0] if len(leases) == 1 else LayeredLease(name, layers, leases)

    def _lease_in(
        self, layer: Layer, asker: Asker, units: int, bound_s: float
    ) -> Lease | SharedLease:
        if layer.is_shared:
            assert self.shared is not None, "it has the pool"
            line = asker.precedence.callers
            return self.shared.lease(asker.run, asker.node, layer, units, callers=line)
        return Lease(self, layer, asker, units, bound_s)

    def supply(self, layer: Layer) -> Supply[Any]:
        """Asked for anew by each request: a tenant's goes when nobody holds or waits there."""
        supply = self._supplies.get(layer.key)
        if supply is None:
            supply = Supply(layer.name, layer.units, RankedLine(self.weights))
            self._supplies[layer.key] = supply
        return supply

    async def usage(self) -> dict[str, PoolUsage]:
        """Every pool's, those of several processes as the store has them now.

        JournalError `journal.unreachable` when that does not answer.
        """
        lines = {
            key: (sum(supply.held.values()), len(supply.line))
            for key, supply in self._supplies.items()
        }
        if self.shared is not None:
            lines |= await self.shared.lines()
        return self.capacity.usage(lines)

    async def acquire(
        self, layer: Layer, asker: Asker, units: int, bound_s: float
    ) -> tuple[Supply[Any], asyncio.Task[Any]]:
        """Waits for the units; returns of what and who holds them."""
        supply = self.supply(layer)
        must_wait = len(supply.line) > 0 or supply.free < units
        if must_wait and len(supply.line) >= self._limits.pool_waiters:
            raise RunError(
                "pool.full",
                f"too many wait for pool {supply.name!r}",
                node=asker.node,
                expected=f"at most {self._limits.pool_waiters} waiting",
                fix="start fewer runs at a time, or raise Limits(pool_waiters=...)",
            )
        request = PoolRequest(supply, asker, units)
        self._serve(self.inheritance.ask(request))
        if request.ready.done():
            return supply, request.who
        timer = None
        if math.isfinite(bound_s):
            run = request.run
            timer = run.loop.call_later(bound_s, self._tell_overdue, request, context=run.neutral)
        awaits = f"{units} of pool {supply.name!r}"
        advice = "pools taken in one order by every stage"
        waiter = Waiter(asker.run, asker.node, awaits, advice)
        try:
            await self._granted(request, self.waits.waits(request.who, waiter))
        finally:
            if timer is not None:
                timer.cancel()
            self._forget_idle(layer)
        return supply, request.who

    async def slot(self, supply: Supply[Any], precedence: Precedence) -> asyncio.Task[Any]:
        """Waits for a unit of a supply whose holders wait for nothing here; returns who has it."""
        request = SlotRequest(supply, precedence, 1, asyncio.get_running_loop())
        self._serve(self.inheritance.ask(request))
        if not request.ready.done():
            await self._granted(request, nullcontext())
        return request.who

    async def _granted(
        self, request: SlotRequest, while_it_waits: AbstractContextManager[None]
    ) -> None:
        try:
            with while_it_waits:
                await request.ready
        except BaseException:
            if request in request.supply.line:
                self._serve(self.inheritance.withdraw(request))
            else:  # it was served and cancelled at once
                self.give_back(request.supply, request.who, request.units)
            raise

    def give_back(self, supply: Supply[Any], task: asyncio.Task[Any], units: int = 1) -> None:
        """Frees units; whoever is next has them when this returns."""
        self._serve(self.inheritance.give_back(supply, task, units))
        if not self.inheritance.holds(task):
            self._holders.pop(task, None)

    def return_units(
        self, layer: Layer, supply: Supply[Any], task: asyncio.Task[Any], units: int
    ) -> None:
        """Frees units of a layer, and forgets a tenant that has and wants none any more."""
        self.give_back(supply, task, units)
        self._forget_idle(layer)

    def _forget_idle(self, layer: Layer) -> None:
        supply = self._supplies.get(layer.key)
        if layer.tenant is None or supply is None or supply.held or len(supply.line):
            return
        del self._supplies[layer.key]

    def _serve(self, served: Iterable[Demand[Any]]) -> None:
        for request in served:
            assert isinstance(request, SlotRequest), "a task waits"
            if isinstance(request, PoolRequest):
                self._holders[request.who] = request
            if not request.ready.done():  # else it was cancelled, and gives them back at once
                request.ready.set_result(None)

    # -- waits that take long ----------------------------------------------------------------

    def chain(self, request: PoolRequest) -> list[Holder]:
        """Those for whom this wait goes on, nearest first."""
        found = []
        for supply, task, awaited in self.inheritance.chain(request):
            held = self._holders.get(task)
            if held is None:
                continue  # it holds a slot for a call, and no unit of a pool
            identity = held.run.identity
            awaits = tuple(each.name for each in awaited)
            found.append(
                Holder(
                    supply.name, supply.held[task], identity.run, identity.tenant, held.node, awaits
                )
            )
        return found

    def _tell_overdue(self, request: PoolRequest) -> None:
        if request not in request.supply.line:
            return
        run = request.run
        run.publish(
            EventType.WAIT_EXCEEDED,
            run.plan.index[request.node],
            duration_s=run.time() - request.asked_s,
            status=request.supply.name,
            reason=chain_told_to(run.tenant, self.chain(request)),
        )

    # -- deadlocks -------------------------------------------------------------------------------

    def holds(self, who: asyncio.Task[Any]) -> dict[str, int]:
        """Pool to units."""
        return self.inheritance.holds(who)

    def is_wanted_of(self, who: asyncio.Task[Any]) -> bool:
        """Whether somebody waits for units of a pool of which it holds some."""
        return any(len(supply.line) for supply in self.inheritance.held_by(who))

    def states(self) -> dict[str, PoolState[Any]]:
        """Who holds and waits, as of now, in the order in which they are served."""
        return {
            key: PoolState(
                supply.units,
                dict(supply.held),
                [
                    (each.who, each.units)
                    for each in supply.line
                    if isinstance(each, PoolRequest) and not each.ready.cancelled()
                ],
            )
            for key, supply in self._supplies.items()
        }


class Lease:
    """Units of a pool for the length of an `async with`; made by `ctx.pool`. Entered once."""

    __slots__ = ("_asker", "_bound_s", "_held", "_layer", "_pools", "_units")

    def __init__(
        self, pools: Pools, layer: Layer, asker: Asker, units: int, bound_s: float
    ) -> None:
        self._pools = pools
        self._layer = layer
        self._asker = asker
        self._units = units
        self._bound_s = bound_s
        self._held: tuple[Supply[Any], asyncio.Task[Any]] | None = None

    async def __aenter__(self) -> None:
        assert self._held is None, "a lease is entered once"
        self._held = await self._pools.acquire(self._layer, self._asker, self._units, self._bound_s)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Without an await: a stage that is closed by force gives back what it held.
        held, self._held = self._held, None
        if held is not None:
            self._pools.return_units(self._layer, *held, self._units)


class LayeredLease:
    """Units of a pool of which each tenant has a share, or that lies within another, for the length
    of an `async with`; made by `ctx.pool`. Entered once.

    Gives the fence of the pool that was named, when several processes share it.
    """

    __slots__ = ("_entered", "_layers", "_leases", "_name")

    def __init__(
        self, name: str, layers: Sequence[Layer], leases: Sequence[Lease | SharedLease]
    ) -> None:
        self._name = name
        self._layers = layers
        self._leases = leases
        self._entered: list[Lease | SharedLease] = []

    async def __aenter__(self) -> int | None:
        assert not self._entered, "a lease is entered once"
        fence = None
        try:
            for layer, lease in zip(self._layers, self._leases, strict=True):
                given = await lease.__aenter__()
                self._entered.append(lease)
                if layer.pool == self._name and layer.tenant is None:
                    fence = given
        except BaseException as error:  # whatever it is: nothing stays taken
            await self.__aexit__(type(error), error, None)
            raise
        return fence

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Nothing here waits, as in the leases themselves.
        lost: RunError | None = None
        while self._entered:
            try:
                await self._entered.pop().__aexit__(kind, error, trace)
            except RunError as told:
                lost = told
        if lost is not None:
            raise lost


def _checked(weights: Mapping[str, float]) -> Mapping[str, float]:
    for tenant, weight in weights.items():
        is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not is_number or not 0 < weight < math.inf:
            raise BuildError(
                "pool.weight",
                f"tenant {tenant!r} has no weight",
                field=tenant,
                expected="a number above 0; tenants that are not named have 1",
                got=repr(weight)[:80],
                fix=f"Runtime(weights={{{tenant!r}: 2.0}})",
            )
    return dict(weights)
