"""What was seen of waits in several processes, and which of them are surely still going on.

Pictures of the processes are never made at one moment, so together they can show a cycle that
never was: one wait of it may have ended before another began. A wait that stands in two pictures
under one number went on in between. So all waits that stand in a first look, and again in pictures
that were made after it, went on at the moment of the first look, all at once; and a deadlock of
that moment is one for ever, since those in it can do nothing about it. Everybody else is taken to
go on. (Stable properties of consistent states: Chandy and Lamport 1985; phantom deadlocks: Knapp
1987, section 5.)
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from stageflow.scheduler.deadlock import AwaitedEnds, PoolState, Waits

W = TypeVar("W", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Sighting(Generic[W]):
    """One look at all pictures."""

    at_s: float
    """When, by a clock that all share."""
    waits: Waits[W]
    numbers: Mapping[W, int]
    """Of the wait of each who waits by himself; a new wait has a new number."""
    made_s: Mapping[W, float]
    """A time, by that clock, before which the picture that shows his wait was not made. Nothing for
    those whose wait is known without a picture."""


def standing(earlier: Sighting[W], later: Sighting[W]) -> Waits[W]:
    """The waits that surely went on at the time of the earlier look, as they are seen now."""

    def is_sure(who: W) -> bool:
        made_s = later.made_s.get(who)
        if made_s is not None and made_s <= earlier.at_s:
            return False
        if who in later.numbers:
            return earlier.numbers.get(who) == later.numbers[who]
        return _same(earlier.waits.ends.get(who), later.waits.ends.get(who))

    pools = {
        name: PoolState(
            pool.units, pool.held, [(who, units) for who, units in pool.queue if is_sure(who)]
        )
        for name, pool in later.waits.pools.items()
    }
    ends = {who: awaited for who, awaited in later.waits.ends.items() if is_sure(who)}
    return Waits(pools, ends)


def _same(one: AwaitedEnds[W] | None, other: AwaitedEnds[W] | None) -> bool:
    return one is not None and one == other
