"""Who waits for whom in a runtime now, and the search for those who wait for one another.

Who waits is a task, not a stage: one task of a stage may wait while another works on and will give
back what it holds. A task waits for units of a pool, for messages of k of n stages, or for the
child runs that it awaits; a run, for those of its tasks that wait; the end of a stage that has not
begun, for its parents as its wiring says: all of them, or as many as its join needs.

A wait that begins can close a cycle, and so can the end of a stage that somebody still hoped for.
Both are looked at in the task whose wait it is, which is then the victim: the others go on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from stageflow.graph import Role
from stageflow.model.errors import RunError
from stageflow.scheduler import AwaitedEnds, NodeState, PoolState, Waits, own_cycle

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver
    from stageflow.runtime.pools import Pools
    from stageflow.runtime.shared_pools import SharedPools

DEADLOCKS_KEPT: Final = 100
LAST_TO_WAIT: Final = "the last to wait"
LAST_TO_ASK: Final = "the last to ask for a shared pool"
ASKS_AGAIN: Final = "the one that asks again for what it holds, or those hold who wait for it"


@dataclass(frozen=True, slots=True)
class NodeEnd:
    """The end of one node of a run, for which stages and messages wait."""

    run: Driver
    node: int


@dataclass(frozen=True, slots=True)
class BranchEnds:
    """That a join's branches have given as many values as it takes."""

    run: Driver
    join: int


Who: TypeAlias = "asyncio.Task[Any] | Driver | NodeEnd | BranchEnds"
"""A stage's task; a run, as that for which the task that started it waits; or what ends there."""


class Caller(NamedTuple):
    """Who awaits a child run: a task of its parent, and the node whose stage that is."""

    task: asyncio.Task[Any]
    node: str


class Hope(NamedTuple):
    """Messages of `need` of these nodes."""

    senders: frozenset[int]
    need: int


class Waiter(NamedTuple):
    """What a task waits for, apart from child runs."""

    run: Driver
    node: str
    awaits: str
    advice: str
    """What would keep such a wait out of a cycle."""
    hope: Callable[[], Hope | None] | None = None
    """Of a task that waits for messages: what it still waits for, asked anew each time, since what
    it waits for may have come without its having run; None when it stands in a pool's queue."""

    @property
    def hopes_for(self) -> Hope | None:
        """The messages that it waits for; None when it waits for none, or is about to go on."""
        return None if self.hope is None else self.hope()


@dataclass(frozen=True, slots=True)
class DeadlockMember:
    """One of those who waited for one another."""

    run: str
    tenant: str
    node: str
    holds: Mapping[str, int]
    """Pool to units."""
    awaits: str
    """`2 of pool 'gpu'`, `run RUN`, `message 'draft' of writer`, or `the end of a, b`."""


@dataclass(frozen=True, slots=True)
class Deadlock:
    """Stages that waited for one another, and which of them was ended.

    Within a process that is the one whose wait closed the cycle: it has waited least. Between
    processes, the one that asked last for units of a shared pool.
    """

    members: tuple[DeadlockMember, ...]
    """By run and node; the victim is one of them."""
    victim: DeadlockMember
    policy: str = LAST_TO_WAIT
    """Why that one: `the last to wait`, `the last to ask for a shared pool`, or that it asks again
    for what it holds itself."""

    def told_to(self, tenant: str) -> str:
        """A line per member. Of other tenants' members it says only that there are some."""
        mine = [each for each in self.members if each.tenant == tenant]
        lines = [
            f"{each.node} of run {each.run} holds {_listed(each.holds)} and awaits {each.awaits}"
            for each in mine
        ]
        if len(mine) < len(self.members):
            lines.append("and others")
        if self.victim in mine:
            lines.append(f"ended is {self.policy}, {self.victim.node}")
        return "; ".join(lines)


class Deadlocked(RunError):
    """A wait that would never have ended. A stage that lets it through fails as `deadlock`."""


def deadlocked(found: Deadlock, waiter: Waiter) -> Deadlocked:
    """The error for the task whose wait is ended."""
    return Deadlocked(
        "run.deadlock",
        f"waiting for {waiter.awaits} would never end: stages wait for one another",
        node=waiter.node,
        expected=waiter.advice,
        got=found.told_to(waiter.run.identity.tenant),
        fix="take the pools in one order everywhere, and let no two stages await each other's"
        " messages",
    )


class WaitGraph:
    """The waits of one runtime. Used from one event loop at a time."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self.waiting: dict[asyncio.Task[Any], Waiter] = {}
        """Whoever stands in a pool's queue or waits for messages."""
        self.numbers: dict[asyncio.Task[Any], int] = {}
        """Of the wait of each; one that begins anew, or for less than before, has another."""
        self._count = count(1)
        self._hoping = 0
        """How many of them wait for messages."""
        self.shared: SharedPools | None = None
        self.deadlocks: deque[Deadlock] = deque(maxlen=DEADLOCKS_KEPT)
        """The last that were found, of all tenants; for whoever operates the runtime."""

    @contextmanager
    def waits(
        self, task: asyncio.Task[Any], waiter: Waiter, *, number: int | None = None
    ) -> Iterator[None]:
        """While the block runs, `task` waits. Raises Deadlocked when that would never end.

        `number` is given by whoever has looked up from the same wait, and goes on with it."""
        self.waiting[task] = waiter
        self.numbers[task] = self.new_number() if number is None else number
        self._hoping += waiter.hope is not None
        try:
            self.refuse_deadlock(task)
            yield
        finally:
            self._hoping -= waiter.hope is not None
            del self.waiting[task], self.numbers[task]

    def new_number(self) -> int:
        """For a wait that begins."""
        return next(self._count)

    def holds(self, task: asyncio.Task[Any]) -> dict[str, int]:
        """Pool to units."""
        shared = {} if self.shared is None else self.shared.holds(task)
        return {**self._pools.holds(task), **shared}

    def refuse_deadlock(self, task: asyncio.Task[Any]) -> None:
        """Raises Deadlocked when the wait of `task` will never end."""
        waiter = self.waiting[task]
        if not self._may_close(task, waiter):
            return
        cycle = own_cycle(self.state(), task)
        if cycle is not None:
            found = self._told(cycle, task)
            self.deadlocks.append(found)
            raise deadlocked(found, waiter)

    def _may_close(self, task: asyncio.Task[Any], waiter: Waiter) -> bool:
        """False when it is plain that nobody waits for `task`, or that what it waits for goes on;
        spares the look at everybody who waits."""
        if not self._hoping and not self._pools.go_round():
            return False
        run, mine = waiter.run, waiter.run.plan.index[waiter.node]
        hope = waiter.hopes_for
        if hope is not None:
            ends = (NodeEnd(run, node) for node in hope.senders if node != mine)
            if sum(self._goes_on(end) for end in ends) >= hope.need:
                return False
        return (
            run.caller is not None
            or bool(run.plan.children[mine] or run.plan.raw_children[mine])
            or self._pools.is_wanted_of(task)
            or any(
                each.run is run and (hope := each.hopes_for) is not None and mine in hope.senders
                for each in self.waiting.values()
            )
        )

    def _goes_on(self, end: NodeEnd) -> bool:
        """True when the node runs, and no task of it waits for anything that is known here."""
        run = end.run
        attempt = run.attempts.get(end.node)
        return run.scheduler.status[end.node] is NodeState.RUNNING and (
            attempt is None
            or (
                attempt.task not in self.waiting
                and not any(child is not None for child in run.workers.values())
            )
        )

    def reentry(self, waiter: Waiter, line: Sequence[asyncio.Task[Any]]) -> Deadlock:
        """The report of a stage that would wait for itself. `line`: its task, the task that awaits
        its run, and so on upward; the chain ends with the last of them that holds anything."""
        run, node, awaits = waiter.run, waiter.node, waiter.awaits
        chain = []
        for task in line:
            identity = run.identity
            holds = self.holds(task)
            chain.append(DeadlockMember(identity.run, identity.tenant, node, holds, awaits))
            if run.caller is None or run.parent is None:
                break
            node, awaits, run = run.caller.node, f"run {identity.run}", run.parent
        while not chain[-1].holds:
            chain.pop()
        return Deadlock(in_order(chain), chain[0], ASKS_AGAIN)

    # -- the graph -------------------------------------------------------------------------------

    def state(self) -> Waits[Who]:
        """Everybody who waits, now."""
        ends: dict[Who, AwaitedEnds[Who]] = {}
        all_of: dict[Who, set[Who]] = {}
        # A stage that waits for the first time has no attempt yet that could be asked for its task.
        begun = {
            NodeEnd(each.run, each.run.plan.index[each.node]): task
            for task, each in self.waiting.items()
            if task in each.run.workers
        }
        for task, waiter in self.waiting.items():
            hope = waiter.hopes_for
            if hope is not None:
                of = {NodeEnd(waiter.run, node) for node in hope.senders}
                ends[task] = AwaitedEnds(frozenset(of), hope.need)
                _add_ends(of, ends, begun)
            below: Who = task
            run = waiter.run
            while run.caller is not None:
                all_of.setdefault(run, set()).add(below)
                all_of.setdefault(run.caller.task, set()).add(run)
                below = run.caller.task
                assert run.parent is not None, "a child has a parent"
                run = run.parent
        for who, awaited in all_of.items():
            ends[who] = AwaitedEnds(frozenset(awaited), len(awaited))
        pools: dict[str, PoolState[Who]] = dict(self._pools.states())
        return Waits(pools, ends)

    def member(self, who: Who, among: frozenset[Who]) -> DeadlockMember | None:
        """How one of a cycle is told; None for what is told with another of it: a run with the
        task that awaits it, and the end of a stage that runs with the stage's task."""
        if isinstance(who, NodeEnd):
            if who.run.scheduler.status[who.node] is NodeState.RUNNING:
                return None
            run, node, holds = who.run, who.run.nodes[who.node].name, {}
            names = sorted(run.nodes[each].name for each in _parents_among(who, among))
            awaits = "the end of " + ", ".join(names)
        elif isinstance(who, asyncio.Task):
            waiter = self.waiting.get(who)
            holds = self.holds(who)
            if waiter is not None:
                run, node, awaits = waiter.run, waiter.node, waiter.awaits
            else:
                child = next(run for each in among for run in _child_of(who, each))
                assert child.caller is not None and child.parent is not None, "it is awaited"
                run, node = child.parent, child.caller.node
                awaits = f"run {child.identity.run}"
        else:
            return None
        return DeadlockMember(run.identity.run, run.identity.tenant, node, holds, awaits)

    def _told(self, cycle: frozenset[Who], victim: asyncio.Task[Any]) -> Deadlock:
        members = [self.member(who, cycle) for who in cycle]
        ended = self.member(victim, cycle)
        assert ended is not None, "a task that waits is told"
        return Deadlock(in_order(each for each in members if each is not None), ended)


def in_order(members: Iterable[DeadlockMember]) -> tuple[DeadlockMember, ...]:
    """By run and node."""
    return tuple(sorted(members, key=lambda each: (each.run, each.node, each.awaits)))


def _add_ends(
    of: Iterable[NodeEnd],
    ends: dict[Who, AwaitedEnds[Who]],
    begun: Mapping[NodeEnd, asyncio.Task[Any]],
) -> None:
    """What the ends of nodes wait for, and so forth. What has its own way to go on, such as a
    person's answer or the time of a retry, waits for nothing here."""
    todo: list[Who] = list(of)
    while todo:
        who = todo.pop()
        if who in ends:
            continue
        if isinstance(who, NodeEnd):
            task = begun.get(who)
            awaited = _awaited_by(who) if task is None else _all([task])
        elif isinstance(who, BranchEnds):
            awaited = _values_awaited_by(who)
        else:
            continue
        if awaited is not None and awaited.of:
            ends[who] = awaited
            todo += awaited.of


def _awaited_by(end: NodeEnd) -> AwaitedEnds[Who] | None:
    """Who has yet to end before this node does; None when that is not known."""
    run, node = end.run, end.node
    status, plan = run.scheduler.status, run.plan
    if status[node] is NodeState.RUNNING:
        attempt = run.attempts.get(node)
        return None if attempt is None or attempt.task is None else _all([attempt.task])
    if status[node] is NodeState.HELD:
        guards = (each for each in run.nodes[node].guards if status[each] in _OPEN)
        return AwaitedEnds(frozenset(NodeEnd(run, each) for each in guards), 1)  # one may block
    if status[node] is not NodeState.WAITING:
        return None
    open_ = _open_parents(run, node)
    if any(role & Role.FALLBACK for role in open_.values()):
        return None  # its turn comes when another fails
    join = run.nodes[node].join
    if join is not None and not join.waits_for_all:
        others = [NodeEnd(run, each) for each, role in open_.items() if not role & Role.OPTIONAL]
        return _all([*others, BranchEnds(run, node)])
    awaited = frozenset(NodeEnd(run, each) for each in open_)
    # Where guards can block, the first parent that is blocked ends the node.
    return AwaitedEnds(awaited, 1 if plan.guarded else len(awaited))


def _values_awaited_by(branches: BranchEnds) -> AwaitedEnds[Who] | None:
    """The branches that have not ended. One that ends without a value is one fewer to hope for;
    the join ends when all have."""
    run, node = branches.run, branches.join
    join = run.nodes[node].join
    assert join is not None, "only a join has branches"
    open_ = [each for each, role in _open_parents(run, node).items() if role & Role.OPTIONAL]
    missing = join.need - len(run.scheduler.arrived.get(node, ()))
    need = min(max(missing, 0), len(open_))
    return AwaitedEnds(frozenset(NodeEnd(run, each) for each in open_), need) if need else None


def _all(of: Sequence[Who]) -> AwaitedEnds[Who]:
    return AwaitedEnds(frozenset(of), len(of))


_OPEN = (NodeState.WAITING, NodeState.RUNNING, NodeState.RETRYING, NodeState.HELD)


def _open_parents(run: Driver, node: int) -> dict[int, Role]:
    """Parents that have not ended, as far as the node still waits for them."""
    scheduler = run.scheduler
    return {
        parent: role
        for parent, role in run.plan.parents[node]
        if not scheduler.status[parent].is_terminal
        and not (role & Role.RAW and scheduler.shown[parent])
    }


def _parents_among(end: NodeEnd, cycle: frozenset[Who]) -> list[int]:
    """Those of a cycle whose ends a node of it waits for; guards, when its value is held."""
    run, node = end.run, end.node
    around = {*_open_parents(run, node), *run.nodes[node].guards}
    return [each for each in around if NodeEnd(run, each) in cycle]


def _child_of(task: asyncio.Task[Any], who: Who) -> list[Driver]:
    """`who` as the run that `task` awaits; nothing when it is none."""
    if isinstance(who, (asyncio.Task, NodeEnd, BranchEnds)):
        return []
    return [who] if who.caller is not None and who.caller.task is task else []


def _listed(holds: Mapping[str, int]) -> str:
    return ", ".join(f"{units} of {pool!r}" for pool, units in sorted(holds.items())) or "nothing"
