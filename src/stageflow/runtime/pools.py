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
from itertools import groupby
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from stageflow.model.errors import BuildError, RunError, nearest
from stageflow.model.marks import reached
from stageflow.runtime.capacity import Capacity, Layer, Pool, PoolUsage
from stageflow.runtime.events import EventType
from stageflow.runtime.limits import Limits
from stageflow.runtime.overdue import Holder, chain_told_to
from stageflow.runtime.shared_pools import SharedLease, SharedPools
from stageflow.runtime.waits import Deadlock, Deadlocked, Waiter, WaitGraph
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
        super().__init__(
            supply,
            (_this_task(), *precedence.callers),
            units=units,
            tenant=precedence.tenant,
            priority=precedence.priority,
            asked_s=loop.time(),
        )
        self.ready: asyncio.Future[None] = loop.create_future()


class Claim:
    """What a stage asks for by one `ctx.pool`: units in one line after another.

    It moves on to the next line in the moment in which one serves it, so that whoever asked earlier
    is ahead there too.
    """

    __slots__ = ("asked_s", "asker", "granted", "layers", "ready", "request", "task", "units")

    def __init__(self, layers: Sequence[Layer], asker: Asker, units: int) -> None:
        self.layers = layers
        self.asker = asker
        self.units = units
        self.task = _this_task()
        self.asked_s = asker.run.loop.time()
        self.granted: list[Supply[asyncio.Task[Any]]] = []
        """Those that have served it, in the order of the layers."""
        self.request: LayerRequest | None = None
        """Where it waits; None before it asks, and when it is whole."""
        self.ready: asyncio.Future[None] = asker.run.loop.create_future()
        """Done when all have."""


class LayerRequest(Demand["asyncio.Task[Any]"]):
    """A claim in one of its lines."""

    __slots__ = ("claim",)

    def __init__(self, supply: Supply[asyncio.Task[Any]], claim: Claim) -> None:
        precedence = claim.asker.precedence
        super().__init__(
            supply,
            (claim.task, *precedence.callers),
            units=claim.units,
            tenant=precedence.tenant,
            priority=precedence.priority,
            asked_s=claim.asked_s,
        )
        self.claim = claim


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
        self._holders: dict[asyncio.Task[Any], Asker] = {}
        """Whoever holds units, as it asked last."""
        self.waits = WaitGraph(self)
        """Who waits, for pools and otherwise."""

    @property
    def deadlocks(self) -> deque[Deadlock]:
        """The last that were found, of all tenants; for whoever operates the runtime."""
        return self.waits.deadlocks

    def lease(
        self, asker: Asker, name: str, units: int, *, bound_s: float | None = None
    ) -> Lease | SharedLease | JoinedLease:
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
        leases: list[Lease | SharedLease] = []
        for is_shared, lines in groupby(layers, key=lambda each: each.is_shared):
            if is_shared:
                assert self.shared is not None, "it has the pool"
                callers = asker.precedence.callers
                leases.append(
                    self.shared.lease(asker.run, asker.node, tuple(lines), units, callers)
                )
            else:
                leases.append(Lease(self, tuple(lines), asker, units, bound_s))
        return leases[0] if len(leases) == 1 else JoinedLease(leases)

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
        self, layers: Sequence[Layer], asker: Asker, units: int, bound_s: float
    ) -> Claim:
        """Waits for the units of all layers."""
        self._refuse_full(layers, asker, units)
        claim = Claim(layers, asker, units)
        self._advance(claim)
        if claim.ready.done():
            return claim
        timer = None
        if math.isfinite(bound_s):
            run = asker.run
            timer = run.loop.call_later(bound_s, self._tell_overdue, claim, context=run.neutral)
        awaits = f"{units} of pool {layers[0].pool!r}"
        advice = "pools taken in one order by every stage"
        try:
            with self.waits.waits(claim.task, Waiter(asker.run, asker.node, awaits, advice)):
                await claim.ready
        except BaseException:
            self.withdraw(claim)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        return claim

    def _refuse_full(self, layers: Sequence[Layer], asker: Asker, units: int) -> None:
        for layer in layers:
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

    def _advance(self, claim: Claim) -> None:
        """It stands in the line of its next layer, and whoever is served there goes on too."""
        supply = self.supply(claim.layers[len(claim.granted)])
        claim.request = request = LayerRequest(supply, claim)
        self._serve(self.inheritance.ask(request))
        if claim.request is request and claim.task in self.waits.waiting:
            try:  # it waits for others than before
                self.waits.refuse_deadlock(claim.task)
            except Deadlocked as error:
                claim.ready.set_exception(error)

    def withdraw(self, claim: Claim) -> None:
        """Waits no more, and holds nothing; also when it was cancelled as it was served."""
        request, claim.request = claim.request, None
        if request is not None and request in request.supply.line:
            self._serve(self.inheritance.withdraw(request))
        if len(claim.granted) == len(claim.layers):
            reached("grant_returned")
        self.release(claim)

    def release(self, claim: Claim) -> None:
        """Frees its units; whoever is next has them when this returns."""
        while claim.granted:
            self.give_back(claim.granted.pop(), claim.task, claim.units)
        for layer in claim.layers:
            self._forget_idle(layer)

    async def slot(self, supply: Supply[Any], precedence: Precedence) -> asyncio.Task[Any]:
        """Waits for a unit of a supply whose holders wait for nothing here; returns who has it."""
        request = SlotRequest(supply, precedence, 1, asyncio.get_running_loop())
        self._serve(self.inheritance.ask(request))
        if request.ready.done():
            return request.who
        try:
            await request.ready
        except BaseException:
            if request in request.supply.line:
                self._serve(self.inheritance.withdraw(request))
            else:  # it was served and cancelled at once
                self.give_back(request.supply, request.who, request.units)
            raise
        return request.who

    def give_back(self, supply: Supply[Any], task: asyncio.Task[Any], units: int = 1) -> None:
        """Frees units; whoever is next has them when this returns."""
        self._serve(self.inheritance.give_back(supply, task, units))
        if not self.inheritance.holds(task):
            self._holders.pop(task, None)

    def _serve(self, served: Iterable[Demand[Any]]) -> None:
        for request in served:
            if isinstance(request, LayerRequest):
                self._granted(request)
            elif isinstance(request, SlotRequest) and not request.ready.done():
                request.ready.set_result(None)  # else it was cancelled, and gives them back at once

    def _granted(self, request: LayerRequest) -> None:
        claim = request.claim
        claim.granted.append(request.supply)
        claim.request = None
        self._holders[claim.task] = claim.asker
        if claim.ready.done():
            return  # it was cancelled, and gives them back at once
        if len(claim.granted) == len(claim.layers):
            claim.ready.set_result(None)
        else:
            self._advance(claim)

    def _forget_idle(self, layer: Layer) -> None:
        supply = self._supplies.get(layer.key)
        if layer.tenant is None or supply is None or supply.held or len(supply.line):
            return
        del self._supplies[layer.key]

    # -- waits that take long ----------------------------------------------------------------

    def chain(self, request: LayerRequest) -> list[Holder]:
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

    def _tell_overdue(self, claim: Claim) -> None:
        request = claim.request
        if request is None or request not in request.supply.line:
            return
        run = claim.asker.run
        run.publish(
            EventType.WAIT_EXCEEDED,
            run.plan.index[claim.asker.node],
            duration_s=run.time() - claim.asked_s,
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

    def go_round(self) -> bool:
        """Whether holders of units wait for one another's pools in a circle, so that some may be
        deadlocked."""
        return self.inheritance.goes_round(self._supplies.values())

    def states(self) -> dict[str, PoolState[Any]]:
        """Who holds and waits, as of now, in the order in which they are served."""
        return {
            key: PoolState(
                supply.units,
                dict(supply.held),
                [
                    (each.who, each.units)
                    for each in supply.line
                    if isinstance(each, LayerRequest) and not each.claim.ready.done()
                ],
            )
            for key, supply in self._supplies.items()
        }


class Lease:
    """Units of a pool for the length of an `async with`; made by `ctx.pool`. Entered once."""

    __slots__ = ("_asker", "_bound_s", "_claim", "_layers", "_pools", "_units")

    def __init__(
        self, pools: Pools, layers: Sequence[Layer], asker: Asker, units: int, bound_s: float
    ) -> None:
        self._pools = pools
        self._layers = layers
        self._asker = asker
        self._units = units
        self._bound_s = bound_s
        self._claim: Claim | None = None

    async def __aenter__(self) -> None:
        assert self._claim is None, "a lease is entered once"
        self._claim = await self._pools.acquire(
            self._layers, self._asker, self._units, self._bound_s
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Without an await: a stage that is closed by force gives back what it held.
        claim, self._claim = self._claim, None
        if claim is not None:
            self._pools.release(claim)


class JoinedLease:
    """Units of a pool of one process within one of several, or the reverse, for the length of an
    `async with`; made by `ctx.pool`. Entered once. Gives the fence of the pool that was named."""

    __slots__ = ("_entered", "_leases")

    def __init__(self, leases: Sequence[Lease | SharedLease]) -> None:
        self._leases = leases
        self._entered: list[Lease | SharedLease] = []

    async def __aenter__(self) -> int | None:
        assert not self._entered, "a lease is entered once"
        fences: list[int | None] = []
        try:
            for lease in self._leases:
                fences.append(await lease.__aenter__())
                self._entered.append(lease)
        except BaseException as error:  # whatever it is: nothing stays taken
            await self.__aexit__(type(error), error, None)
            raise
        return fences[0]

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


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None, "stages run in tasks"
    return task


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
