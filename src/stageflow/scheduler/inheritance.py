"""Priority inheritance among those who hold and await units of pools: pure, without a clock.

Somebody who holds units of a pool has, for as long as he holds them, also the ranks of those who
wait for that pool, and of those who wait for these, along the whole chain: what he asks for then
is asked for them too (Sha, Rajkumar, Lehoczky, "Priority Inheritance Protocols: An Approach to
Real-Time Synchronization", IEEE Transactions on Computers 39(9), 1990, section III). So a low
holder is not passed by whoever is more urgent than he but less than those who wait for him. A rank
is lent for a demand and ends with it, or with the holding, whichever ends first: nothing is stored
at the holder that could be left behind.

Who asks is somebody in a line of those who wait for him: a task of a child run, the stage's task
that awaits that run, and so on upward. A demand has the ranks lent to any of them.

What is lent goes just ahead of who lent it. So nobody is served before those he waits for, also in
one queue, where a large demand at its head could otherwise keep out the holder it waits for.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, TypeVar

from stageflow.scheduler.line import Rank, RankedLine, Ranks, urgency

W = TypeVar("W", bound=Hashable)


class Demand(Generic[W]):
    """Somebody who asks for units. `line` is who asks, and those who wait for him, upward."""

    __slots__ = ("asked_s", "line", "own", "priority", "supply", "tenant", "units")

    def __init__(
        self,
        supply: Supply[W],
        line: tuple[W, ...],
        *,
        units: int,
        tenant: str,
        priority: int,
        asked_s: float,
    ) -> None:
        self.supply = supply
        self.line = line
        self.units = units
        self.tenant = tenant
        self.priority = priority
        self.asked_s = asked_s
        self.own: Rank | None = None
        """Its own rank, once it was asked."""

    @property
    def who(self) -> W:
        return self.line[0]


class Supply(Generic[W]):
    """Where demands wait. One of no units is served elsewhere, and only its order is kept here:
    whoever takes a demand from it calls `leave`."""

    __slots__ = ("free", "held", "line", "name", "units")

    def __init__(self, name: str, units: int, line: RankedLine[Demand[W]]) -> None:
        self.name = name
        self.units = units
        self.free = units
        self.held: dict[W, int] = {}
        """Who holds how many; with `free` they make `units`."""
        self.line = line


class Inheritance(Generic[W]):
    """All supplies of a runtime, and who holds and awaits what. Its methods are the events.

    `aging_s` is what one class of priority is worth in seconds of waiting (`line`).
    """

    def __init__(self, *, aging_s: float = math.inf) -> None:
        self._aging_s = aging_s
        self._asked = 0
        self._holdings: dict[W, dict[Supply[W], None]] = {}
        self._working: dict[W, dict[Demand[W], None]] = {}
        """Who stands in the line of which waiting demands."""
        self._moved: dict[Supply[W], None] = {}
        """Supplies in whose queue somebody came or went in the present event."""

    # -- events ------------------------------------------------------------------------------

    def ask(self, demand: Demand[W]) -> list[Demand[W]]:
        """Who is served now: this one, unless it must wait and its ranks are lent to holders; and
        others, when that brought them to the front."""
        supply = demand.supply
        self.enter(demand)
        if supply.line.first() is not demand or supply.free < demand.units:
            self._lend(supply, lowered=False)
        return self._serve(supply)

    def enter(self, demand: Demand[W]) -> None:
        """It waits in its supply from now on, with what is lent to it."""
        self._asked += 1
        demand.own = Rank(
            urgency(demand.priority, demand.asked_s, self._aging_s),
            self._asked,
            0,
            demand.priority,
        )
        for who in demand.line:
            self._working.setdefault(who, {})[demand] = None
        demand.supply.line.put(demand, self._ranks_of(demand))

    def give_back(self, supply: Supply[W], who: W, units: int) -> list[Demand[W]]:
        """Who gets the units; they hold them when this returns."""
        supply.free += units
        supply.held[who] -= units
        if not supply.held[who]:
            del supply.held[who]
            self._holdings[who].pop(supply)
            if not self._holdings[who]:
                del self._holdings[who]
            self._settle(self._working.get(who, ()))
        return self._serve(supply)

    def withdraw(self, demand: Demand[W]) -> list[Demand[W]]:
        """It waits no more. Who is served then: whoever is behind may be content with less."""
        self.leave(demand)
        demand.supply.line.drop(demand)
        self._lend(demand.supply, lowered=True)
        return self._serve(demand.supply)

    def _serve(self, supply: Supply[W]) -> list[Demand[W]]:
        """Gives what is free to those in front, here and wherever the order has changed."""
        served = []
        self._moved[supply] = None
        while self._moved:
            at, _ = self._moved.popitem()
            while at.units and (first := at.line.first()) is not None and first.units <= at.free:
                self._grant(first)
                served.append(first)
        return served

    def _grant(self, demand: Demand[W]) -> None:
        supply, who = demand.supply, demand.who
        assert supply.free >= demand.units, "nothing is given that is not there"
        self.leave(demand)
        supply.line.take(demand)
        supply.free -= demand.units
        supply.held[who] = supply.held.get(who, 0) + demand.units
        self._holdings.setdefault(who, {})[supply] = None
        self._lend(supply, lowered=True)

    def leave(self, demand: Demand[W]) -> None:
        """Nothing more is lent to it: it was served, or gave up."""
        for who in demand.line:
            works = self._working.get(who, {})
            works.pop(demand, None)
            if not works:
                self._working.pop(who, None)

    # -- lending -----------------------------------------------------------------------------

    def _ranks_of(self, demand: Demand[W]) -> Ranks:
        """Its own, and what those hold who wait for it, as urgent as their waiters are now."""
        assert demand.own is not None, "it was asked"
        ranks = {demand.tenant: demand.own}
        for supply in self._held_by(demand):
            for tenant, rank in self._lent_by(supply).items():
                if rank.number == demand.own.number:
                    continue
                if tenant not in ranks or rank < ranks[tenant]:
                    ranks[tenant] = rank
        return ranks

    def _held_by(self, demand: Demand[W]) -> Iterator[Supply[W]]:
        for who in demand.line:
            yield from self._holdings.get(who, ())

    def _lent_by(self, supply: Supply[W]) -> dict[str, Rank]:
        best = supply.line.best()
        return {each: Rank(top[0], top[1], -1, top[3]) for each, top in best.items()}

    def _lend(self, supply: Supply[W], *, lowered: bool) -> None:
        """Those in the queue of `supply` are others than before: so is what its holders are lent.
        `lowered` when somebody left it."""
        works = [demand for who in supply.held for demand in self._working.get(who, ())]
        if lowered:
            self._settle(works)
        else:
            self._raise(works)

    def _settle(self, demands: Iterable[Demand[W]]) -> None:
        """What was lent to `demands` may have ended: they and all to whom they lent it on are lent
        what is still there, each after those who lend to it. Those who lend to one another in a
        circle begin with their own ranks: it would keep an ended rank alive."""
        lenders = dict.fromkeys(demands, 0)
        look = deque(lenders)
        while look:
            for demand in self._lent_to(look.popleft()):
                if demand not in lenders:
                    lenders[demand] = 0
                    look.append(demand)
                lenders[demand] += 1
        look.extend(demand for demand, count in lenders.items() if not count)
        while look:
            demand = look.popleft()
            self._move(demand, self._ranks_of(demand))
            for other in self._lent_to(demand):
                lenders[other] -= 1
                if not lenders[other]:
                    look.append(other)
        circling = [demand for demand, count in lenders.items() if count]
        for demand in circling:
            assert demand.own is not None, "it was asked"
            self._move(demand, {demand.tenant: demand.own})
        self._raise(circling)

    def _raise(self, demands: Iterable[Demand[W]]) -> None:
        """Gives them, and those to whom they lend it on, what is lent now: ranks only rise here,
        and of each tenant there are finitely many."""
        look = deque(demands)
        while look:
            demand = look.popleft()
            if self._move(demand, self._ranks_of(demand)):
                look.extend(self._lent_to(demand))

    def _lent_to(self, demand: Demand[W]) -> Iterator[Demand[W]]:
        """Those that work for the holders of what it waits for."""
        for who in demand.supply.held:
            yield from self._working.get(who, ())

    def _move(self, demand: Demand[W], ranks: Ranks) -> bool:
        """True when it waits and had other ranks."""
        if not demand.supply.line.move(demand, ranks):
            return False
        self._moved[demand.supply] = None
        return True

    # -- questions ---------------------------------------------------------------------------

    def holds(self, who: W) -> dict[str, int]:
        """Pool to units."""
        return {supply.name: supply.held[who] for supply in self._holdings.get(who, ())}

    def goes_round(self, supplies: Iterable[Supply[W]]) -> bool:
        """Whether holders of some of `supplies` wait, themselves or for those who do, in a circle
        from supply to supply. Without one all that is waited for will be given back, as far as it
        depends on `supplies`."""
        awaited = {
            supply: {demand.supply for who in supply.held for demand in self._working.get(who, ())}
            for supply in supplies
            if len(supply.line)
        }
        while ends := [each for each, of in awaited.items() if of.isdisjoint(awaited)]:
            for each in ends:
                del awaited[each]
        return bool(awaited)

    def held_by(self, who: W) -> Iterable[Supply[W]]:
        """Those of which it holds units."""
        return self._holdings.get(who, ())

    def chain(self, demand: Demand[W]) -> Iterator[tuple[Supply[W], W, tuple[Supply[W], ...]]]:
        """On whom the end of this wait depends, nearest first: a supply, who holds units of it, and
        the supplies that he waits for himself, whose holders follow."""
        reached = {demand.supply}
        look = deque(reached)
        while look:
            supply = look.popleft()
            for who in supply.held:
                awaited = tuple(dict.fromkeys(each.supply for each in self._working.get(who, ())))
                yield supply, who, awaited
                for other in awaited:
                    if other not in reached:
                        reached.add(other)
                        look.append(other)
