"""What a process tells others of the waits within it, and how what all told is put together.

A picture is JSON: who waits for what by name, the number of each wait, and how each would be told
in a report. Names are unique within a process; put together, each has its process's before it.
"""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from stageflow.journal.pools import Sight
from stageflow.runtime.waits import (
    LAST_TO_ASK,
    BranchEnds,
    Deadlock,
    DeadlockMember,
    NodeEnd,
    WaitGraph,
    Who,
    in_order,
)
from stageflow.scheduler import AwaitedEnds, PoolState, Sighting, Waits


class Names:
    """A name for everybody who can wait; a task keeps its name while it lives."""

    def __init__(self) -> None:
        self._tasks: weakref.WeakKeyDictionary[asyncio.Task[Any], str] = weakref.WeakKeyDictionary()
        self._numbers = count(1)

    def of(self, who: Who) -> str:
        """Unique within this process."""
        if isinstance(who, asyncio.Task):
            name = self._tasks.get(who)
            if name is None:
                name = self._tasks[who] = f"task-{next(self._numbers)}"
            return name
        if isinstance(who, NodeEnd):
            return f"node {who.node} {who.run.identity.run}"
        if isinstance(who, BranchEnds):
            return f"branches {who.join} {who.run.identity.run}"
        return f"run {who.identity.run}"


def picture_of(graph: WaitGraph, names: Names, *, made_s: float) -> str:
    """As JSON. `made_s` is a time of the store's clock before now."""
    waits = graph.state()
    everybody = frozenset((*graph.waiting, *waits.ends))
    told = {}
    for who in everybody:
        member = graph.member(who, everybody)
        if member is not None:
            told[names.of(who)] = _plain(member)
    return json.dumps(
        {
            "made_s": made_s,
            "pools": {
                name: {
                    "units": pool.units,
                    "held": {names.of(who): units for who, units in pool.held.items()},
                    "queue": [[names.of(who), units] for who, units in pool.queue],
                }
                for name, pool in waits.pools.items()
                if pool.queue
            },
            "ends": {
                names.of(who): {"need": awaited.need, "of": _names(awaited.of, names)}
                for who, awaited in waits.ends.items()
            },
            "numbers": {names.of(task): graph.numbers[task] for task in graph.waiting},
            "told": told,
        }
    )


def _plain(member: DeadlockMember) -> list[Any]:
    return [member.run, member.tenant, member.node, dict(member.holds), member.awaits]


def _names(of: Iterable[Who], names: Names) -> list[str]:
    return sorted(names.of(who) for who in of)


def sighting_of(sight: Sight) -> Sighting[str]:
    """All pictures and the book as one graph."""
    pools: dict[str, PoolState[str]] = {}
    ends: dict[str, AwaitedEnds[str]] = {}
    numbers: dict[str, int] = {}
    made_s: dict[str, float] = {}
    asking = {
        f"{each.owner} {each.who}" for pool in sight.book.pools.values() for each in pool.queue
    }
    """They wait for that and nothing else, whatever an older picture says."""
    for owner, text in sight.pictures.items():
        picture: dict[str, Any] = json.loads(text)
        for who, number in picture["numbers"].items():
            numbers[f"{owner} {who}"] = number
            made_s[f"{owner} {who}"] = picture["made_s"]
        for who, awaited in picture["ends"].items():
            if f"{owner} {who}" in asking:
                continue
            of = frozenset(f"{owner} {each}" for each in awaited["of"])
            ends[f"{owner} {who}"] = AwaitedEnds(of, awaited["need"])
            made_s[f"{owner} {who}"] = picture["made_s"]
        for name, pool in picture["pools"].items():
            pools[f"{owner} {name}"] = PoolState(
                pool["units"],
                {f"{owner} {who}": units for who, units in pool["held"].items()},
                [
                    (f"{owner} {who}", units)
                    for who, units in pool["queue"]
                    if f"{owner} {who}" not in asking
                ],
            )
    for name, shared in sight.book.pools.items():
        held: dict[str, int] = {}
        for each in shared.holds:
            who = f"{each.owner} {each.who}"
            held[who] = held.get(who, 0) + each.units
        waiting = [each for each in shared.queue if not each.doomed]
        for each in waiting:
            # In the book at one time and the other under one ticket: it waited in between.
            numbers[f"{each.owner} {each.who}"] = each.ticket
            made_s.pop(f"{each.owner} {each.who}", None)
        queue = [(f"{each.owner} {each.who}", each.units) for each in waiting]
        pools[f" {name}"] = PoolState(shared.units, held, queue)
    return Sighting(sight.at_s, Waits(pools, ends), numbers, made_s)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The members of a cycle through several processes, by name; the cause of a wait's end."""

    members: Mapping[str, DeadlockMember]

    @staticmethod
    def of(cycle: Collection[str], sight: Sight) -> Evidence | None:
        """None when some process has not told yet of a task in it."""
        told: dict[str, DeadlockMember] = {}
        for owner, text in sight.pictures.items():
            for who, member in json.loads(text)["told"].items():
                told[f"{owner} {who}"] = DeadlockMember(*member)
        if any(who not in told for who in cycle if who.split(" ")[1].startswith("task-")):
            return None
        return Evidence({who: told[who] for who in cycle if who in told})

    def dumped(self) -> str:
        """As JSON."""
        return json.dumps({who: _plain(each) for who, each in self.members.items()})

    @staticmethod
    def loaded(text: str) -> Evidence:
        """From JSON."""
        plain: dict[str, Any] = json.loads(text)
        return Evidence({who: DeadlockMember(*each) for who, each in plain.items()})

    def told(self, victim: str) -> Deadlock:
        """As a report; `victim` is the name of whose wait was ended."""
        return Deadlock(in_order(self.members.values()), self.members[victim], LAST_TO_ASK)
