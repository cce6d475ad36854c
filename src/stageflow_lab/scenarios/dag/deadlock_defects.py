"""What a search for deadlocks gets wrong, as sabotages of DAG-001."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from stageflow.graph import order
from stageflow.journal.pools import PoolBook
from stageflow.runtime import children, shared_pools, waits
from stageflow.runtime.messages import Mailbox
from stageflow.runtime.pools import Pools
from stageflow.scheduler import AwaitedEnds, Sighting, Waits, cycles, stuck

from ...sabotage import Sabotage, patched, sabotage


@sabotage(metric="false_positives")
def or_taken_for_and() -> Iterator[None]:
    """A wait for some of several is taken for a wait for all of them."""

    def strict(seen: Waits[Any]) -> list[frozenset[Any]]:
        ends = {who: AwaitedEnds(each.of, len(each.of)) for who, each in seen.ends.items()}
        pools = {
            name: replace(pool, queue=[(who, max(units, pool.units)) for who, units in pool.queue])
            for name, pool in seen.pools.items()
        }
        return cycles(Waits(pools, ends))

    with _searching(strict):
        yield


@sabotage(metric="recall")
def child_without_parent() -> Iterator[None]:
    """Nobody is told which stage awaits a child run."""
    with patched(children, "Caller", lambda *_: None):
        yield


@sabotage(metric="recall")
def circles_of_pools_not_seen() -> Iterator[None]:
    """Where nobody waits for messages, nobody looks for a cycle within the process."""
    with patched(Pools, "go_round", lambda _: False):
        yield


@sabotage(metric="sets_equal")
def everybody_stuck_is_named() -> Iterator[None]:
    """Whoever only waits for those in the cycle is reported as one of them."""

    def all_of_them(seen: Waits[Any]) -> list[frozenset[Any]]:
        found = cycles(seen)
        return [frozenset(stuck(seen))] if found else []

    with _searching(all_of_them):
        yield


@sabotage(metric="false_positives")
def pictures_taken_as_they_are() -> Iterator[None]:
    """What was seen of several processes is believed without a second look."""

    def believed(earlier: Sighting[Any], later: Sighting[Any]) -> Waits[Any]:
        return later.waits

    with patched(shared_pools, "standing", believed):
        yield


@sabotage(metric="false_positives")
def every_member_is_ended() -> Iterator[None]:
    """Between processes, the waits of all who ask in the cycle are ended."""

    def doom(self: PoolBook, cycle: Collection[str], why: str) -> bool:
        for pool in self.pools.values():
            for each in pool.queue:
                if each.request in cycle:
                    each.doomed = why
        return True

    with patched(PoolBook, "doom", doom):
        yield


@sabotage(metric="delay_virtual")
def one_look_in_three_intervals() -> Iterator[None]:
    """Processes look at one another's waits too seldom."""
    with patched(shared_pools, "LOOKS", 1 / 3):
        yield


@sabotage(metric="delay_real")
def looks_far_apart() -> Iterator[None]:
    """Processes look at one another's waits once in two intervals."""
    with patched(shared_pools, "LOOKS", 1 / 2):
        yield


@sabotage(metric="others_finish")
def one_receiver_is_woken() -> Iterator[None]:
    """Of those who wait for a stage's message, one is told that it came."""

    def sent(self: Mailbox, sender: int) -> None:
        for future in list(self._waiting.get(sender, ()))[:1]:
            if not future.done():
                future.set_result(None)

    with patched(Mailbox, "sent", sent):
        yield


@sabotage(metric="reports_whole")
def shared_units_left_out() -> Iterator[None]:
    """A report does not say what its members hold of pools that processes share."""

    def holds(self: Any, task: asyncio.Task[Any]) -> dict[str, int]:
        return {}

    with patched(shared_pools.SharedPools, "holds", holds):
        yield


@sabotage(metric="static_named")
def static_cycle_named_in_part() -> Iterator[None]:
    """The build's error leaves out a stage of the cycle."""
    original = order.find_cycle

    def partly(*given: Any) -> list[int]:
        return original(*given)[1:]

    with patched(order, "find_cycle", partly):
        yield


@sabotage(metric="static_refused")
def after_is_no_edge() -> Iterator[None]:
    """The build follows values when it looks for cycles, and not what stages wait for only."""
    original = order.topological

    def lenient(children: Any) -> list[int]:
        found = original(children)
        return [*found, *(set(range(len(children))) - set(found))]

    with patched(order, "topological", lenient):
        yield


@contextmanager
def _searching(search: Any) -> Iterator[None]:
    """Within a process and between processes."""

    def own(seen: Waits[Any], who: Any) -> frozenset[Any] | None:
        return next((cycle for cycle in search(seen) if who in cycle), None)

    with patched(waits, "own_cycle", own), patched(shared_pools, "knots", search):
        yield


DEFECTS: Final[tuple[Sabotage, ...]] = (
    or_taken_for_and,
    child_without_parent,
    circles_of_pools_not_seen,
    everybody_stuck_is_named,
    pictures_taken_as_they_are,
    every_member_is_ended,
    one_look_in_three_intervals,
    looks_far_apart,
    one_receiver_is_woken,
    shared_units_left_out,
    static_cycle_named_in_part,
    after_is_no_edge,
)
