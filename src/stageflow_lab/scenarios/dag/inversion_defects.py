"""What a framework gets wrong about priority inheritance, as sabotages of DAG-002."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Final

from stageflow.runtime import pools
from stageflow.runtime.driver import Driver
from stageflow.runtime.overdue import chain_told_to
from stageflow.runtime.pools import Precedence
from stageflow.scheduler import Inheritance, RankedLine, Ranks

from ...sabotage import Sabotage, patched, sabotage


@sabotage(metric="bound_violations")
def not_transitive() -> Iterator[None]:
    """Inheritance not transitive: a holder has the ranks of those who wait for it, and not of those
    who wait for these."""

    def of_waiters_only(self: Any, supply: Any) -> Mapping[str, Any]:
        lent: dict[str, Any] = {}
        for demand in supply.line:
            rank = demand.own._replace(rung=-1)
            lent[demand.tenant] = min(lent.get(demand.tenant, rank), rank)
        return lent

    with patched(Inheritance, "_lent_by", of_waiters_only):
        yield


@sabotage(metric="boosts_restored")
def boost_kept() -> Iterator[None]:
    """A boost is kept after release: what a holder was lent goes with it to whatever it asks for
    next."""
    kept: weakref.WeakKeyDictionary[Any, Ranks] = weakref.WeakKeyDictionary()
    ranks_of, give_back = Inheritance._ranks_of, Inheritance.give_back

    def with_what_was_lent(self: Any, demand: Any) -> Ranks:
        ranks = dict(ranks_of(self, demand))
        for tenant, rank in kept.get(demand.who, {}).items():
            ranks[tenant] = min(ranks.get(tenant, rank), rank)
        return ranks

    def gives_back_units_only(self: Any, supply: Any, who: Any, units: int) -> Any:
        kept[who] = {**kept.get(who, {}), **self._lent_by(supply)}
        return give_back(self, supply, who, units)

    with (
        patched(Inheritance, "_ranks_of", with_what_was_lent),
        patched(Inheritance, "give_back", gives_back_units_only),
    ):
        yield


@sabotage(metric="bound_violations")
def children_inherit_nothing() -> Iterator[None]:
    """What is lent to a stage is not lent to the child run that it awaits."""
    precedence = Driver.precedence

    def its_own_only(self: Driver, number: int) -> Precedence:
        return precedence(self, number)._replace(callers=())

    with patched(Driver, "precedence", its_own_only):
        yield


@sabotage(metric="bound_violations")
def in_order_of_asking() -> Iterator[None]:
    """Whoever asks first is served first, whatever the priorities."""
    put = RankedLine.put

    def at_the_end(self: Any, request: Any, ranks: Ranks) -> None:
        put(self, request, {tenant: rank._replace(urgency=0.0) for tenant, rank in ranks.items()})

    with patched(RankedLine, "put", at_the_end):
        yield


@sabotage(metric="chains_told")
def only_the_nearest_holder_told() -> Iterator[None]:
    """The event about a long wait names who holds the units, and not for whom those wait."""

    def nearest(tenant: str, chain: Any) -> str:
        return chain_told_to(tenant, [each for each in chain if each.pool == chain[0].pool])

    with patched(pools, "chain_told_to", nearest):
        yield


@sabotage(metric="real_p99")
def threads_lend_nothing() -> Iterator[None]:
    """Calls of threads wait by their own priority only, whatever their callers hold."""
    enter = Inheritance.enter

    def as_if_called_by_nobody(self: Any, demand: Any) -> None:
        if not demand.supply.units:
            demand.line = demand.line[:1]
        enter(self, demand)

    with patched(Inheritance, "enter", as_if_called_by_nobody):
        yield


DEFECTS: Final[tuple[Sabotage, ...]] = (
    not_transitive,
    boost_kept,
    children_inherit_nothing,
    in_order_of_asking,
    only_the_nearest_holder_told,
    threads_lend_nothing,
)
