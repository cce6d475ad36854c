"""Named pools of units that stages hold for a while: `async with ctx.pool("gpu")`.

A pool serves by priority, equal ones in order of asking (`stageflow.scheduler.line`); who holds
units is as urgent as whoever waits for them (`stageflow.scheduler.inheritance`). A stage may hold
units of several pools, and of a pool while a child run of its asks for more: then stages can come
to wait for one another. That is found when the last of them begins to wait, since only a new wait
can close a cycle; that wait ends with an error, and the others go on.

Who holds and waits is a task, not a stage: one task of a stage may wait while another works on and
will give back what it holds. A task also waits for the child run that it awaits, and a run for
those of its tasks that wait.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from stageflow.model.errors import BuildError, RunError, nearest
from stageflow.runtime.events import EventType
from stageflow.runtime.limits import Limits
from stageflow.runtime.overdue import Holder, chain_told_to
from stageflow.scheduler import (
    AwaitedEnds,
    Demand,
    Inheritance,
    PoolState,
    RankedLine,
    Supply,
    Waits,
    cycles,
)

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver

DEADLOCKS_KEPT: Final = 100

Who: TypeAlias = "asyncio.Task[Any] | Driver"
"""A stage's task, or a run as that for which the task that started it waits."""


class Caller(NamedTuple):
    """Who awaits a child run: a task of its parent, and the node whose stage that is."""

    task: asyncio.Task[Any]
    node: str


@dataclass(frozen=True, slots=True)
class DeadlockMember:
    """One of those who waited for one another."""

    run: str
    tenant: str
    node: str
    holds: Mapping[str, int]
    """Pool to units."""
    awaits: str
    """`2 of pool 'gpu'`, or `run RUN`."""


@dataclass(frozen=True, slots=True)
class Deadlock:
    """Stages that waited for one another, and which of them was ended: the one whose wait closed
    the cycle, since it has waited least."""

    members: tuple[DeadlockMember, ...]
    """In no order; the victim is one of them."""
    victim: DeadlockMember

    def told_to(self, tenant: str) -> str:
        """A line per member. Of other tenants' members it says only that there are some."""
        mine = [each for each in self.members if each.tenant == tenant]
        lines = [
            f"{each.node} of run {each.run} holds {_listed(each.holds)} and awaits {each.awaits}"
            for each in sorted(mine, key=lambda each: (each.run, each.node))
        ]
        if len(mine) < len(self.members):
            lines.append("and others")
        return "; ".join(lines)


class Deadlocked(RunError):
    """The wait that would have closed a cycle. A stage that lets it through fails as `deadlock`."""


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
        units: Mapping[str, int],
        *,
        limits: Limits,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        for name, count in units.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise BuildError(
                    "pool.units",
                    f"pool {name!r} has no number of units",
                    field=name,
                    expected="an integer of 1 or more",
                    got=repr(count)[:80],
                    fix=f"Runtime(pools={{{name!r}: 1}})",
                )
        self.weights = _checked({} if weights is None else weights)
        self._limits = limits
        self._pools = {
            name: Supply[Any](name, count, RankedLine(self.weights))
            for name, count in units.items()
        }
        self.inheritance = Inheritance[Any](aging_s=limits.aging_s)
        """Who goes first, here and where stages wait for threads."""
        self._holders: dict[asyncio.Task[Any], PoolRequest] = {}
        """Whoever holds units, by the last request that was granted."""
        self.deadlocks: deque[Deadlock] = deque(maxlen=DEADLOCKS_KEPT)
        """The last that were found, of all tenants; for whoever operates the runtime."""

    def lease(self, asker: Asker, name: str, units: int, *, bound_s: float | None = None) -> Lease:
        """Checked; nothing is asked for before it is entered."""
        pool = self._pools.get(name)
        if pool is None:
            close = nearest(name, self._pools)
            raise RunError(
                "pool.unknown",
                f"there is no pool {name!r}",
                node=asker.node,
                expected="one of " + ", ".join(self._pools) if self._pools else "a runtime's pool",
                got=name[:80],
                fix=f"did you mean {close!r}?" if close else f"Runtime(pools={{{name!r}: 1}})",
            )
        if isinstance(units, bool) or not isinstance(units, int) or not 1 <= units <= pool.units:
            raise RunError(
                "pool.request",
                f"nobody can have {units!r} units of pool {name!r}",
                node=asker.node,
                expected=f"between 1 and {pool.units}",
                got=repr(units)[:80],
                fix="ask for less, or raise the units of Runtime(pools=...)",
            )
        return Lease(
            self, pool, asker, units, self._limits.pool_wait_s if bound_s is None else bound_s
        )

    async def acquire(
        self, supply: Supply[Any], asker: Asker, units: int, bound_s: float
    ) -> asyncio.Task[Any]:
        """Waits for the units; returns who holds them."""
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
            return request.who
        timer = None
        if math.isfinite(bound_s):
            run = request.run
            timer = run.loop.call_later(bound_s, self._tell_overdue, request, context=run.neutral)
        try:
            await self._granted(request)
        finally:
            if timer is not None:
                timer.cancel()
        return request.who

    async def slot(self, supply: Supply[Any], precedence: Precedence) -> asyncio.Task[Any]:
        """Waits for a unit of a supply whose holders wait for nothing here; returns who has it."""
        request = SlotRequest(supply, precedence, 1, asyncio.get_running_loop())
        self._serve(self.inheritance.ask(request))
        if not request.ready.done():
            await self._granted(request)
        return request.who

    async def _granted(self, request: SlotRequest) -> None:
        try:
            if isinstance(request, PoolRequest):
                self._refuse_deadlock(request)
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

    def _refuse_deadlock(self, request: PoolRequest) -> None:
        """Raises when this wait, which is the latest, closes a cycle."""
        if not any(self.inheritance.holds(task) for task in request.line):
            return  # nobody can wait for him, nor for those who wait for his run
        for cycle in cycles(self._waits()):
            if request.who in cycle:
                found = self._told(cycle, request)
                self.deadlocks.append(found)
                name = request.supply.name
                raise Deadlocked(
                    "run.deadlock",
                    f"waiting for pool {name!r} would never end: stages wait for one another",
                    node=request.node,
                    expected="pools taken in one order by every stage",
                    got=found.told_to(request.run.identity.tenant),
                    fix="take the pools in one order everywhere, or one at a time",
                )

    def _waiting(self, supply: Supply[Any]) -> list[PoolRequest]:
        """In the order in which they are served."""
        return [request for request in supply.line if isinstance(request, PoolRequest)]

    def _waits(self) -> Waits[Who]:
        """Who waits for whom now. Runs wait for those of their tasks that wait, and tasks for the
        child runs that they await."""
        pools: dict[str, PoolState[Who]] = {}
        ends: dict[Who, set[Who]] = {}
        for supply in self._pools.values():
            waiting = self._waiting(supply)
            queue: list[tuple[Who, int]] = [(each.who, each.units) for each in waiting]
            held: dict[Who, int] = {task: units for task, units in supply.held.items()}  # noqa: C416
            pools[supply.name] = PoolState(supply.units, held, queue)
            for each in waiting:
                below: Who = each.who
                run = each.run
                while run.caller is not None:
                    ends.setdefault(run, set()).add(below)
                    ends.setdefault(run.caller.task, set()).add(run)
                    below = run.caller.task
                    assert run.parent is not None, "a child has a parent"
                    run = run.parent
        return Waits(pools, {who: AwaitedEnds(frozenset(of), len(of)) for who, of in ends.items()})

    def _told(self, cycle: frozenset[Who], request: PoolRequest) -> Deadlock:
        waiting = {each.who: each for at in self._pools.values() for each in self._waiting(at)}
        members = []
        victim: DeadlockMember | None = None
        for who in cycle:
            if not isinstance(who, asyncio.Task):
                continue  # a run is told with the task that awaits it
            if who in waiting:
                each = waiting[who]
                run, node = each.run, each.node
                awaits = f"{each.units} of pool {each.supply.name!r}"
            else:
                child = next(each for each in cycle if _is_awaited_by(each, who))
                assert not isinstance(child, asyncio.Task), "a run is awaited"
                assert child.caller is not None, "by this task"
                assert child.parent is not None, "which is one of its parent's"
                run, node = child.parent, child.caller.node
                awaits = f"run {child.identity.run}"
            identity = run.identity
            holds = self.inheritance.holds(who)
            member = DeadlockMember(identity.run, identity.tenant, node, holds, awaits)
            members.append(member)
            if who is request.who:
                victim = member
        assert victim is not None, "the last to wait is one of them"
        return Deadlock(tuple(members), victim)


def _is_awaited_by(who: Who, task: asyncio.Task[Any]) -> bool:
    return not isinstance(who, asyncio.Task) and who.caller is not None and who.caller.task is task


class Lease:
    """Units of a pool for the length of an `async with`; made by `ctx.pool`. Entered once."""

    __slots__ = ("_asker", "_bound_s", "_pools", "_supply", "_task", "_units")

    def __init__(
        self, pools: Pools, supply: Supply[Any], asker: Asker, units: int, bound_s: float
    ) -> None:
        self._pools = pools
        self._supply = supply
        self._asker = asker
        self._units = units
        self._bound_s = bound_s
        self._task: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> None:
        assert self._task is None, "a lease is entered once"
        self._task = await self._pools.acquire(
            self._supply, self._asker, self._units, self._bound_s
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Without an await: a stage that is closed by force gives back what it held.
        task, self._task = self._task, None
        if task is not None:
            self._pools.give_back(self._supply, task, self._units)


def _listed(holds: Mapping[str, int]) -> str:
    return ", ".join(f"{units} of {pool!r}" for pool, units in sorted(holds.items())) or "nothing"


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
