"""Who is served next among those who wait: tenants by their shares, and within a tenant by rank.

Tenants that wait at the same time are served in the proportion of their weights, by start-time fair
queueing: a tenant's request starts, on a clock that counts service, where the tenant's last one
ended, and the earliest start is next (Goyal, Vin, Cheng, "Start-time Fair Queueing", SIGCOMM 1996,
section 2). Service is counted in units granted. So no tenant can buy others' turns with priorities,
which order its own requests only.

A rank says how urgent a request is. Priorities are classes, first come first served inside one.
With aging, a class is worth `aging_s` seconds of waiting: a request of priority p made at time t
goes before one of priority p + d exactly when that was made later than t + d * aging_s. All age
alike, so an order once right stays right, and nobody is passed by what is asked later than that.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterator, Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar


class Asking(Hashable, Protocol):
    """Somebody who waits; told apart by identity."""

    @property
    def units(self) -> int:
        """How many are asked for: what serving this costs its tenant."""
        ...


Q = TypeVar("Q", bound=Asking)
SERVED_MAX = 1_024
"""Tenants that wait no more and were served ahead of others: so many are remembered, those furthest
ahead. The rest start with everybody else."""


class Rank(NamedTuple):
    """How urgent a request is. Smaller goes first; two ranks of one tenant are never equal
    unless both are lent by the same request."""

    urgency: float
    number: int
    """Of the request whose own it is, in order of asking."""
    rung: int
    """0: its own. -1: lent to somebody for whom it waits, who therefore goes before it."""
    priority: int
    """Of the request whose own it is."""


Turn = tuple[float, Rank, str]
"""A tenant's start tag, its most urgent rank, its name: the smallest is next."""
Ranks = Mapping[str, Rank]
"""Tenant to its rank: a request's own, and those of others that wait for it."""


def urgency(priority: int, asked_s: float, aging_s: float) -> float:
    """`aging_s`: seconds of waiting that outweigh one class; math.inf for strict classes."""
    return -float(priority) if math.isinf(aging_s) else asked_s - priority * aging_s


class RankedLine(Generic[Q]):
    """Those who wait for one thing. `weights`: tenant to its share, 1 for those not named."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = {} if weights is None else weights
        self._ranks: dict[Q, Ranks] = {}
        """Everybody who waits."""
        self._heaps: dict[str, list[tuple[Rank, int, Q]]] = {}
        """Tenant to ranks, those that hold no more among them; never empty of such that do."""
        self._start: dict[str, float] = {}
        """Start tag of a waiting tenant's next request."""
        self._finish: dict[str, float] = {}
        """Finish tag of a tenant's last one, while that lies ahead of `_now`."""
        self._finish_max = 64
        """With more of them, those that need not be remembered are forgotten."""
        self._now = 0.0
        """Virtual time: the start tag of what was served last."""
        self._turns: list[Turn] = []
        """When whose turn is, as a heap; those that hold no more among them."""
        self._turn: dict[str, Turn] = {}
        """Waiting tenant to its turn that holds."""
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._ranks)

    def __contains__(self, request: Q) -> bool:
        return request in self._ranks

    def __iter__(self) -> Iterator[Q]:
        """In the order in which they would be served if nobody came or went."""
        if len(self._heaps) == 1:
            ((tenant, heap),) = self._heaps.items()
            entries = sorted(entry for entry in heap if self._holds(tenant, entry))
            yield from dict.fromkeys(entry[2] for entry in entries)  # moved and back counts twice
            return
        rest: RankedLine[Q] = RankedLine(self._weights)
        rest._finish, rest._now = dict(self._finish), self._now
        rest._start, rest._finish_max = dict(self._start), self._finish_max
        for request, ranks in self._ranks.items():
            rest.put(request, ranks)
        while (first := rest.first()) is not None:
            rest.take(first)
            yield first

    def best(self) -> dict[str, Rank]:
        """Each waiting tenant's most urgent rank."""
        return {tenant: turn[1] for tenant, turn in self._turn.items()}

    def ranks(self, request: Q) -> Ranks:
        """Of somebody who waits; none of somebody who doesn't."""
        return self._ranks.get(request, {})

    def move(self, request: Q, ranks: Ranks) -> bool:
        """Gives other ranks to somebody who waits; False when he doesn't, or has these."""
        if request not in self._ranks or self._ranks[request] == ranks:
            return False
        self.put(request, ranks)
        return True

    def put(self, request: Q, ranks: Ranks) -> None:
        """Somebody begins to wait."""
        before = self._ranks.get(request, {})
        if before:  # what stays the same keeps its place, by which it is known
            ranks = {
                tenant: rank if (held := before.get(tenant)) != rank or held is None else held
                for tenant, rank in ranks.items()
            }
        self._ranks[request] = ranks
        for tenant, rank in ranks.items():
            if before.get(tenant) is rank:
                continue
            heap = self._heaps.setdefault(tenant, [])
            self._pushed += 1
            heapq.heappush(heap, (rank, self._pushed, request))
            if tenant not in self._start:
                self._start[tenant] = max(self._now, self._finish.get(tenant, 0.0))
            elif len(heap) > 2 * len(self._ranks) + 64:
                self._sweep(tenant)
            self._place(tenant)
        for tenant in before.keys() - ranks.keys():
            self._settle(tenant)

    def drop(self, request: Q) -> None:
        """Takes somebody out who waits no more, unserved."""
        for tenant in self._ranks.pop(request):
            self._settle(tenant)

    def first(self) -> Q | None:
        """Who is next; None when nobody waits."""
        if not self._heaps:
            return None
        return self._top(self._next())[2]

    def take(self, request: Q) -> None:
        """Serves the first: the tenant whose turn it was is charged, which need not be its own."""
        tenant = self._next()
        assert self._top(tenant)[2] == request, "only the first is served"
        start = self._start[tenant]
        self._charge(tenant, start, request.units)
        self._start[tenant] = self._finish[tenant]
        for each in self._ranks.pop(request):
            self._settle(each)

    def _charge(self, tenant: str, start: float, units: int) -> None:
        self._now = max(self._now, start)
        if len(self._finish) > self._finish_max:
            self._forget()
        self._finish[tenant] = start + units / self._weights.get(tenant, 1.0)

    def _forget(self) -> None:
        """Who lies behind starts now, as if never served."""
        ahead = {who: at for who, at in self._finish.items() if at > self._now}
        if len(ahead) > SERVED_MAX:
            ahead = dict(heapq.nlargest(SERVED_MAX, ahead.items(), key=lambda served: served[1]))
        self._finish = ahead
        self._finish_max = 2 * max(len(ahead), len(self._start)) + 64

    def _next(self) -> str:
        """The tenant whose turn it is; among equals the one with the most urgent rank."""
        turns = self._turns
        while self._turn.get(turns[0][2]) is not turns[0]:
            heapq.heappop(turns)
        return turns[0][2]

    def _place(self, tenant: str) -> None:
        """The tenant's first request or its start tag may be another: so is its turn."""
        if tenant not in self._heaps:
            self._turn.pop(tenant, None)
            return
        turn = (self._start[tenant], self._top(tenant)[0], tenant)
        if self._turn.get(tenant) != turn:
            self._turn[tenant] = turn
            heapq.heappush(self._turns, turn)
            if len(self._turns) > 2 * len(self._turn) + 64:
                self._turns = list(self._turn.values())
                heapq.heapify(self._turns)

    def _top(self, tenant: str) -> tuple[Rank, int, Q]:
        heap = self._heaps[tenant]
        while not self._holds(tenant, heap[0]):
            heapq.heappop(heap)
        return heap[0]

    def _holds(self, tenant: str, entry: tuple[Rank, int, Q]) -> bool:
        ranks = self._ranks.get(entry[2])
        return ranks is not None and ranks.get(tenant) is entry[0]

    def _settle(self, tenant: str) -> None:
        """A rank of the tenant holds no more: forgets it when that was its last."""
        heap = self._heaps[tenant]
        while heap and not self._holds(tenant, heap[0]):
            heapq.heappop(heap)
        if not heap:
            del self._heaps[tenant], self._start[tenant]
        self._place(tenant)

    def _sweep(self, tenant: str) -> None:
        heap = [entry for entry in self._heaps[tenant] if self._holds(tenant, entry)]
        heapq.heapify(heap)
        self._heaps[tenant] = heap
