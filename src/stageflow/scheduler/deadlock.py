"""Who can never go on: a pure search for deadlocks among those who wait.

Somebody waits for units of a pool, in the order of its queue, or for some of others to end. The
graph is reduced: whoever waits for nothing will end and give back what he holds; with that others
can go on, and so forth. Who is left over waits for ever, whatever anybody does. That covers waits
for all (AND), for any (OR) and for k of n in one rule (Knapp, "Deadlock Detection in Distributed
Databases", ACM Computing Surveys 19(4), 1987, section 2; Holt 1972 for units of resources).

Not everybody left over is to blame: most may only wait for those who wait for one another. The
cycles are the strongly connected parts of what is left, found as of Tarjan 1972.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

W = TypeVar("W", bound=Hashable)


@dataclass(frozen=True, slots=True)
class PoolState(Generic[W]):
    """A pool: how many units there are, who holds how many, and who waits for how many."""

    units: int
    held: Mapping[W, int]
    queue: Sequence[tuple[W, int]] = ()
    """In order; nobody is served before those ahead of him."""


@dataclass(frozen=True, slots=True)
class AwaitedEnds(Generic[W]):
    """Somebody waits until `need` of the others have ended: all of them, any, or k of n."""

    of: frozenset[W]
    need: int


@dataclass(frozen=True, slots=True)
class Waits(Generic[W]):
    """Everybody who waits, and for what. Who stands nowhere here waits for nothing."""

    pools: Mapping[str, PoolState[W]]
    ends: Mapping[W, AwaitedEnds[W]] = field(default_factory=dict)


def stuck(waits: Waits[W]) -> frozenset[W]:
    """Everybody who can never go on. Time: linear in holders, waiters and what they wait for."""
    return frozenset(_Reduction(waits).left)


class _Reduction(Generic[W]):
    """The graph while it is reduced: made once, and then holds who is left over."""

    def __init__(self, waits: Waits[W]) -> None:
        self.pools = list(waits.pools.values())
        self.ends = waits.ends
        self.left = {who for pool in self.pools for who, _ in pool.queue} | set(waits.ends)
        self.front = [0] * len(self.pools)
        """Pool to the place in its queue of the first who is left."""
        self.kept = [0] * len(self.pools)
        """Pool to the units that those who are left hold."""
        self.places: dict[W, list[int]] = {}
        """Who waits to the pools in whose queue he stands."""
        self.holdings: dict[W, list[tuple[int, int]]] = {}
        for number, pool in enumerate(self.pools):
            for who, _ in pool.queue:
                self.places.setdefault(who, []).append(number)
            for who, units in pool.held.items():
                if who in self.left:
                    self.kept[number] += units
                    self.holdings.setdefault(who, []).append((number, units))
        self.met = {who: sum(o not in self.left for o in of.of) for who, of in self.ends.items()}
        self.awaited: dict[W, list[W]] = {}
        for who, of in self.ends.items():
            for other in of.of:
                self.awaited.setdefault(other, []).append(who)
        self._reduce()

    def _reduce(self) -> None:
        look = list(self.left)
        while look:
            who = look.pop()
            if who not in self.left or not self._may_go_on(who):
                continue
            self.left.discard(who)
            for number, units in self.holdings.get(who, ()):
                self.kept[number] -= units
                look += self._first(number)
            for number in self.places.get(who, ()):
                self.front[number] += 1
                look += self._first(number)
            for other in self.awaited.get(who, ()):
                self.met[other] += 1
                look.append(other)

    def _may_go_on(self, who: W) -> bool:
        """True when he has everything once those who are not left have ended."""
        if who in self.ends and self.met[who] < self.ends[who].need:
            return False
        for number in self.places.get(who, ()):
            pool = self.pools[number]
            first, units = pool.queue[self.front[number]]
            if first != who or pool.units - self.kept[number] < units:
                return False
        return True

    def _first(self, number: int) -> list[W]:
        queue = self.pools[number].queue[self.front[number] : self.front[number] + 1]
        return [who for who, _ in queue]


def cycles(waits: Waits[W]) -> list[frozenset[W]]:
    """Those who wait for one another and can never go on, each set by itself."""
    return _cycles(_stuck_targets(waits))


def knots(waits: Waits[W]) -> list[frozenset[W]]:
    """Those cycles that wait for nobody else who is stuck.

    When all were found at one time, the others may go on once these are broken: somebody in them
    may only have had the choice between two who are stuck.
    """
    targets = _stuck_targets(waits)
    return [part for part in _cycles(targets) if all(part.issuperset(targets[w]) for w in part)]


def own_cycle(waits: Waits[W], who: W) -> frozenset[W] | None:
    """The cycle in which `who` stands and which stays one whatever the others do who are stuck;
    None when there is none. Who can go on once another cycle is broken is not to be ended."""
    targets = _stuck_targets(waits)
    cycle = next((part for part in _cycles(targets) if who in part), None)
    if cycle is None or all(cycle.issuperset(targets[each]) for each in cycle):
        return cycle
    alone = _without(waits, targets.keys() - cycle)
    return next((part for part in cycles(alone) if who in part), None)


def _without(waits: Waits[W], going_on: Collection[W]) -> Waits[W]:
    """The same, as if some of those who wait went on."""
    pools = {
        name: PoolState(
            pool.units, pool.held, [each for each in pool.queue if each[0] not in going_on]
        )
        for name, pool in waits.pools.items()
    }
    return Waits(pools, {who: of for who, of in waits.ends.items() if who not in going_on})


def _cycles(targets: Mapping[W, Sequence[W]]) -> list[frozenset[W]]:
    return [
        frozenset(part)
        for part in _connected(targets)
        if len(part) > 1 or part[0] in targets[part[0]]
    ]


def _stuck_targets(waits: Waits[W]) -> dict[W, list[W]]:
    """For whom everybody who is stuck waits, as far as they are stuck."""
    left = stuck(waits)
    targets: dict[W, list[W]] = {who: [] for who in left}
    for who, ends in waits.ends.items():
        if who in left:
            targets[who] += ends.of & left
    for pool in waits.pools.values():
        holders = [who for who in pool.held if who in left]
        kept = sum(pool.held[who] for who in holders)
        ahead: list[W] = []  # the next one ahead, who waits for all before
        for who, units in pool.queue:
            if who in left:
                # Those ahead are in his way only when what is held is not.
                targets[who] += holders if pool.units - kept < units else ahead
                ahead = [who]
    return targets


def _connected(targets: Mapping[W, Sequence[W]]) -> Iterator[list[W]]:
    """Strongly connected parts. A stack of its own, so that depth costs none."""
    number: dict[W, int] = {}
    low: dict[W, int] = {}
    open_: list[W] = []
    is_open: set[W] = set()
    for root in targets:
        if root in number:
            continue
        walk = [(root, iter(targets[root]))]
        number[root] = low[root] = len(number)
        open_.append(root)
        is_open.add(root)
        while walk:
            vertex, rest = walk[-1]
            for target in rest:
                if target not in number:
                    number[target] = low[target] = len(number)
                    open_.append(target)
                    is_open.add(target)
                    walk.append((target, iter(targets[target])))
                    break
                if target in is_open:
                    low[vertex] = min(low[vertex], number[target])
            else:
                walk.pop()
                if walk:
                    parent = walk[-1][0]
                    low[parent] = min(low[parent], low[vertex])
                if low[vertex] == number[vertex]:
                    at = open_.index(vertex)
                    part = open_[at:]
                    del open_[at:]
                    is_open.difference_update(part)
                    yield part
