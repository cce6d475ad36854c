"""What limits on tools get wrong, as sabotages of WORK-008."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from stageflow.journal.pools import MemoryPools, PoolBook
from stageflow.runtime import pools, runtime, shared_pools
from stageflow.runtime.capacity import Capacity, Layer
from stageflow.runtime.waits import WaitGraph
from stageflow.scheduler import inheritance

from ...sabotage import Sabotage, patched, sabotage


@sabotage(metric="permits_leaked")
def release_missing_on_cancel() -> Iterator[None]:
    """Who is cancelled while it waits keeps what the lines behind it have given."""

    def withdraw(self: pools.Pools, claim: pools.Claim) -> None:
        request, claim.request = claim.request, None
        if request is not None and request in request.supply.line:
            self._serve(self.inheritance.withdraw(request))

    with patched(pools.Pools, "withdraw", withdraw):
        yield


@sabotage(metric="limit_exceeded")
def limit_per_process() -> Iterator[None]:
    """Each process counts the units of shared pools for itself."""

    def own(place: Any) -> MemoryPools:
        return MemoryPools()

    with patched(runtime, "pool_store", own):
        yield


@sabotage(metric="limit_exceeded")
def tenants_not_counted() -> Iterator[None]:
    """A tenant's share of a pool is not looked at."""
    original = Capacity.layers

    def layers(self: Capacity, name: str, tenant: str) -> tuple[Layer, ...]:
        return tuple(each for each in original(self, name, tenant) if each.tenant is None)

    with patched(Capacity, "layers", layers):
        yield


@sabotage(metric="overtaken")
def last_come_first_served() -> Iterator[None]:
    """Among equals, who asked last goes first."""

    def urgency(priority: int, asked_s: float, aging_s: float) -> float:
        return -asked_s - priority * 1e9

    with patched(inheritance, "urgency", urgency):
        yield


@sabotage(metric="updates_kept")
def exclusive_is_not() -> Iterator[None]:
    """A pool of one unit is given to two."""
    original = Capacity.layers

    def layers(self: Capacity, name: str, tenant: str) -> tuple[Layer, ...]:
        return tuple(
            each._replace(units=max(2, each.units)) for each in original(self, name, tenant)
        )

    with patched(Capacity, "layers", layers):
        yield


@sabotage(metric="leases_back")
def lease_without_end() -> Iterator[None]:
    """What a dead process held stays its own."""

    def expire(self: PoolBook, now_s: float) -> None:
        return None

    with patched(PoolBook, "expire", expire):
        yield


@sabotage(metric="utilization")
def looks_seldom() -> Iterator[None]:
    """Who waits for a shared pool looks once in two seconds whether he was given his units."""
    with patched(shared_pools, "POLL_S", 2.0), patched(shared_pools, "POLL_MAX_S", 2.0):
        yield


@sabotage(metric="reentries_refused")
def own_holdings_not_looked_at() -> Iterator[None]:
    """Who asks again for what it holds is made to wait for itself."""

    def refuse(self: Any, *given: Any) -> None:
        return None

    with (
        patched(WaitGraph, "refuse_deadlock", refuse),
        patched(shared_pools.SharedPools, "_refuse_reentry", refuse),
        patched(shared_pools, "knots", lambda _: []),
    ):
        yield


DEFECTS: Final[tuple[Sabotage, ...]] = (
    release_missing_on_cancel,
    limit_per_process,
    tenants_not_counted,
    last_come_first_served,
    exclusive_is_not,
    lease_without_end,
    looks_seldom,
    own_holdings_not_looked_at,
)


def applied(name: str | None) -> AbstractContextManager[None]:
    """The defect `name` while entered, in a process of the load; nothing for None."""
    by_name = {each.name: each for each in DEFECTS}
    return nullcontext() if name is None else by_name[name].apply()
