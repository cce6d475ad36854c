"""Simulated agents under limits: cancelled at every wait, in one process and in several.

Each schedule has limits, agents and cancellations of its own. Every second one has its limits in a
store that three runtimes share, as processes do.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from stageflow import Runtime
from stageflow.journal.pools import MemoryPools
from stageflow.runtime.handle import Handle
from stageflow.sim import RandomWalk, Sim, trial

from .limit_facts import Facts, judged
from .limited_tools import (
    SEARCH,
    TENANTS,
    WRITE,
    Desk,
    Log,
    Task,
    bounds_of,
    limits,
    pools_of,
    searches,
)

PROCESSES: Final = 3
UPDATES: Final = 20
WRITERS: Final = 4
AGENTS: Final = (5, 8)
"""That search, and may be cancelled."""
CANCELLED_AS_SERVED: Final = 0.3
"""Share of the cancellations that come in the moment in which a call gives its units back."""


@dataclass
class Seen:
    """Of one schedule."""

    facts: Facts
    places: Counter[str] = field(default_factory=Counter)
    leaked: int = 0
    """Units that somebody held, and requests that waited, when all had ended."""
    kept: int = 0
    """Updates that the shared state has."""
    done: int = 0
    """Updates that were finished."""
    broke: str = ""


class Shared:
    """State that is read, thought about and written."""

    def __init__(self) -> None:
        self.value = 0
        self.done = 0

    async def update(self, length_s: float) -> None:
        seen = self.value
        await asyncio.sleep(length_s)
        self.value = seen + 1
        self.done += 1


class Schedule:
    """One of them, while it runs."""

    def __init__(self, seed: int, *, cancels: int, is_shared: bool) -> None:
        self.rng = random.Random(seed)
        self.cancels = cancels
        self.is_shared = is_shared
        total = self.rng.randint(3, 6)
        search = self.rng.randint(2, total)
        self.bounds = bounds_of(total, search, self.rng.randint(2, search))
        self.loop = asyncio.get_running_loop()
        self.log = Log(self.loop.time)
        self.state = Shared()
        self.handles: dict[str, tuple[Desk, Handle[Any]]] = {}
        """Those that may be cancelled."""
        store = MemoryPools() if is_shared else None
        pools = pools_of(self.bounds, is_shared=is_shared)
        self.desks = [
            Desk(
                Runtime(pools=pools, shared_pools=store, limits=limits()),
                self.log,
                self.state.update,
            )
            for _ in range(PROCESSES if is_shared else 1)
        ]

    async def run(self) -> Seen:
        """To its end."""
        rng = self.rng
        handles = [self._start_writer(number) for number in range(WRITERS)]
        for number in range(rng.randint(*AGENTS)):
            handles.append(self._start_agent(number))
        as_served = sum(rng.random() < CANCELLED_AS_SERVED for _ in range(self.cancels))
        for _ in range(self.cancels - as_served):
            self.loop.call_later(rng.uniform(0.0, 4.0), self._cancel_any)
        self.left = as_served
        for desk in self.desks:
            desk.served = self._served
        for handle in handles:
            run = await handle
            assert run.status in ("ok", "cancelled"), run.status
        for desk in self.desks:
            await desk.runtime.aclose()
        usage = await self.desks[0].runtime.pools.usage()
        facts = judged(self.bounds, self.log.calls, self.log.steps)
        leaked = sum(each.held + each.waiting for each in usage.values())
        leaked += sum(sum(each.by_tenant.values()) for each in usage.values())
        return Seen(facts, self.log.places, leaked, self.state.value, self.state.done)

    def _start_writer(self, number: int) -> Handle[Any]:
        updates = UPDATES // WRITERS
        rng = self.rng
        tasks = [
            Task(WRITE, 1, rng.uniform(0.05, 0.2), rng.uniform(0.0, 0.1)) for _ in range(updates)
        ]
        desk = rng.choice(self.desks)
        return desk.start(tasks, tenant=rng.choice(TENANTS), run=f"write {number}")

    def _start_agent(self, number: int) -> Handle[Any]:
        rng = self.rng
        tasks = searches(rng, rng.randint(2, 5), least_s=0.5, most_s=1.5)
        if rng.random() < 0.3:  # its update may be cut off, and then has not happened
            tasks.insert(rng.randrange(len(tasks)), Task(WRITE, 1, 0.1, 0.0))
        # Between processes the order of asking alone counts.
        priority = 0 if self.is_shared else rng.choice((0, 0, 1))
        desk, run = rng.choice(self.desks), f"class{priority} {number}"
        handle = desk.start(tasks, tenant=rng.choice(TENANTS), priority=priority, run=run)
        self.handles[run] = desk, handle
        return handle

    def _cancel_any(self) -> None:
        """One that is there, those that ask rather than others."""
        going = [
            (desk, handle) for run, (desk, handle) in self.handles.items() if run in desk.doing
        ]
        asking = [each for each in going if each[0].doing[each[1].run_id][0] == "asking"]
        chosen = asking if asking and self.rng.random() < 0.7 else going
        if chosen:
            self._cancel(*self.rng.choice(chosen))

    def _served(self) -> None:
        """A call has given its units back: cancels who has asked longest, often just served."""
        if not self.left or self.rng.random() < 0.5:
            return
        for desk in self.desks:
            for run, (what, tool) in desk.doing.items():
                if what == "asking" and tool == SEARCH and run in self.handles:
                    self.left -= 1
                    self._cancel(*self.handles[run])
                    return

    def _cancel(self, desk: Desk, handle: Handle[Any]) -> None:
        del self.handles[handle.run_id]
        desk.cancel(handle)


def followed(seed: int, *, cancels: int, is_shared: bool) -> Seen:
    """One schedule. What broke it is told, not raised: it is a figure of its own."""

    async def main(sim: Sim) -> Seen:
        return await Schedule(seed, cancels=cancels, is_shared=is_shared).run()

    result: Any = trial(main, seed=seed, schedule=RandomWalk(seed))
    if result.returned is None:
        story = f"{type(result.error).__name__}: {result.error}".splitlines()[0]
        return Seen(Facts(), broke=story)
    seen: Seen = result.returned
    return seen
