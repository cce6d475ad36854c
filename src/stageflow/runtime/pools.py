"""Named pools of units that stages hold for a while: `async with ctx.pool("gpu")`.

A pool serves in order of asking. A stage may hold units of several pools, and of a pool while a
child run of its asks for more: then stages can come to wait for one another. That is found when
the last of them begins to wait, since only a new wait can close a cycle; that wait ends with an
error, and the others go on.

Who holds and waits is a task, not a stage: one task of a stage may wait while another works on and
will give back what it holds. A task also waits for the child run that it awaits, and a run for
those of its tasks that wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from stageflow.model.errors import BuildError, RunError, nearest
from stageflow.scheduler import AwaitedEnds, PoolState, Waits, cycles

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

    def __init__(self, units: Mapping[str, int], *, waiters_max: int) -> None:
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
        self._pools = {name: _Pool(name, count) for name, count in units.items()}
        self._waiters_max = waiters_max
        self.deadlocks: deque[Deadlock] = deque(maxlen=DEADLOCKS_KEPT)
        """The last that were found, of all tenants; for whoever operates the runtime."""

    def lease(self, run: Driver, node: str, name: str, units: int) -> Lease:
        """Checked; nothing is asked for before it is entered."""
        pool = self._pools.get(name)
        if pool is None:
            close = nearest(name, self._pools)
            raise RunError(
                "pool.unknown",
                f"there is no pool {name!r}",
                node=node,
                expected="one of " + ", ".join(self._pools) if self._pools else "a runtime's pool",
                got=name[:80],
                fix=f"did you mean {close!r}?" if close else f"Runtime(pools={{{name!r}: 1}})",
            )
        if isinstance(units, bool) or not isinstance(units, int) or not 1 <= units <= pool.units:
            raise RunError(
                "pool.request",
                f"nobody can have {units!r} units of pool {name!r}",
                node=node,
                expected=f"between 1 and {pool.units}",
                got=repr(units)[:80],
                fix="ask for less, or raise the units of Runtime(pools=...)",
            )
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
            self._refuse_deadlock(pool, request)
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

    def _holds(self, who: asyncio.Task[Any]) -> dict[str, int]:
        return {pool.name: pool.held[who] for pool in self._pools.values() if who in pool.held}

    def _refuse_deadlock(self, pool: _Pool, request: _Request) -> None:
        """Raises when this wait, which is the latest, closes a cycle."""
        if not any(self._holds(task) for task in _line(request)):
            return  # nobody can wait for him, nor for those who wait for his run
        for cycle in cycles(self._waits()):
            if request.owner in cycle:
                found = self._told(cycle, request, pool)
                self.deadlocks.append(found)
                raise Deadlocked(
                    "run.deadlock",
                    f"waiting for pool {pool.name!r} would never end: stages wait for one another",
                    node=request.node,
                    expected="pools taken in one order by every stage",
                    got=found.told_to(request.run.identity.tenant),
                    fix="take the pools in one order everywhere, or one at a time",
                )

    def _waits(self) -> Waits[Who]:
        """Who waits for whom now. Runs wait for those of their tasks that wait, and tasks for the
        child runs that they await."""
        pools: dict[str, PoolState[Who]] = {}
        ends: dict[Who, set[Who]] = {}
        for pool in self._pools.values():
            queue: list[tuple[Who, int]] = [(each.owner, each.units) for each in pool.queue]
            held: dict[Who, int] = {task: units for task, units in pool.held.items()}  # noqa: C416
            pools[pool.name] = PoolState(pool.units, held, queue)
            for each in pool.queue:
                below: Who = each.owner
                run = each.run
                while run.caller is not None:
                    ends.setdefault(run, set()).add(below)
                    ends.setdefault(run.caller.task, set()).add(run)
                    below = run.caller.task
                    assert run.parent is not None, "a child has a parent"
                    run = run.parent
        return Waits(pools, {who: AwaitedEnds(frozenset(of), len(of)) for who, of in ends.items()})

    def _told(self, cycle: frozenset[Who], request: _Request, pool: _Pool) -> Deadlock:
        waiting = {each.owner: (each, at) for at in self._pools.values() for each in at.queue}
        members = []
        victim: DeadlockMember | None = None
        for who in cycle:
            if not isinstance(who, asyncio.Task):
                continue  # a run is told with the task that awaits it
            if who in waiting:
                each, at = waiting[who]
                run, node = each.run, each.node
                awaits = f"{each.units} of pool {at.name!r}"
            else:
                child = next(each for each in cycle if _is_awaited_by(each, who))
                assert not isinstance(child, asyncio.Task), "a run is awaited"
                assert child.caller is not None, "by this task"
                assert child.parent is not None, "which is one of its parent's"
                run, node = child.parent, child.caller.node
                awaits = f"run {child.identity.run}"
            identity = run.identity
            member = DeadlockMember(identity.run, identity.tenant, node, self._holds(who), awaits)
            members.append(member)
            if who is request.owner:
                victim = member
        assert victim is not None, "the last to wait is one of them"
        return Deadlock(tuple(members), victim)


def _line(request: _Request) -> list[asyncio.Task[Any]]:
    """The task that asks, and those that wait for its run and the runs above."""
    line = [request.owner]
    run = request.run
    while run.caller is not None:
        line.append(run.caller.task)
        assert run.parent is not None, "a child has a parent"
        run = run.parent
    return line


def _is_awaited_by(who: Who, task: asyncio.Task[Any]) -> bool:
    return not isinstance(who, asyncio.Task) and who.caller is not None and who.caller.task is task


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


def _listed(holds: Mapping[str, int]) -> str:
    return ", ".join(f"{units} of {pool!r}" for pool, units in sorted(holds.items())) or "nothing"
