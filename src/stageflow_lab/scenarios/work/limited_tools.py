"""Agents that call tools under limits, and a log of it: the same stages simulated and real.

There is a search, with weights and a limit for each tenant, and a write that only one may do at a
time, because it reads the shared state, thinks, and stores what it made of it. Both lie within one
limit over all tools.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from stageflow import Context, Limits, Pipeline, Pool, Runtime, SharedPool, agent
from stageflow.runtime.handle import Handle

from .limit_facts import Bounds, Call, Step

SEARCH, WRITE, TOOLS = "search", "write", "tools"
TIMEOUT_S: Final = 3_600.0
TENANTS: Final = ("acme", "globex", "initech")


def bounds_of(total: int, search: int, share: int) -> Bounds:
    return Bounds(total, {SEARCH: search, WRITE: 1}, {SEARCH: share})


def pools_of(bounds: Bounds, *, is_shared: bool) -> dict[str, Pool]:
    """The same limits as pools."""
    kind = SharedPool if is_shared else Pool
    return {
        TOOLS: kind(bounds.total),
        SEARCH: kind(bounds.tools[SEARCH], per_tenant=bounds.tenants[SEARCH], within=TOOLS),
        WRITE: kind(1, within=TOOLS),
    }


class Task(NamedTuple):
    """A call that an agent is to make."""

    tool: str
    units: int
    length_s: float
    before_s: float
    """How long the agent thinks before it asks."""


@dataclass
class Log:
    """Of one process, or of a simulation of several."""

    time: Callable[[], float]
    first: int = 0
    """Numbers of its calls begin behind this one."""
    calls: dict[int, Call] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    places: Counter[str] = field(default_factory=Counter)
    """Where agents were when they were cancelled."""

    def add(self, kind: str, call: int, fence: int = 0) -> None:
        self.steps.append(Step(self.time(), kind, call, fence))

    def new(self, call: Call) -> int:
        number = self.first + len(self.calls)
        self.calls[number] = call
        return number


State = Callable[[float], Awaitable[None]]
"""Does one update of the shared state, which takes so many seconds."""


class Desk:
    """Starts agents on one runtime."""

    def __init__(self, runtime: Runtime, log: Log, update: State, *, line: str = "") -> None:
        self.runtime = runtime
        self.log = log
        self.update = update
        self.line = line
        self.doing: dict[str, tuple[str, str]] = {}
        """Run to what it does, and with which tool; in the order in which that began."""
        self.served: Callable[[], None] = _nothing
        """Called when a call has given its units back, and others have them."""
        self._tasks: dict[str, Iterable[Task]] = {}
        works = agent(self._works, name="works", timeout=TIMEOUT_S)
        self.pipeline = Pipeline("agent", [works], outputs=works)

    def start(
        self, tasks: Iterable[Task], *, tenant: str, run: str, priority: int = 0
    ) -> Handle[Any]:
        """An agent that makes the calls one after another. `run`: its class and a number."""
        self._tasks[run] = tasks
        return self.pipeline.using(
            runtime=self.runtime, tenant=tenant, priority=priority, run_id=run
        ).start()

    async def _works(self, ctx: Context) -> None:
        run = ctx.identity.run
        try:
            for task in self._tasks.pop(run):
                self._does(run, "thinking", task.tool)
                if task.before_s:
                    await asyncio.sleep(task.before_s)
                await self._calls(ctx, task)
        finally:
            self.doing.pop(run, None)

    def _does(self, run: str, what: str, tool: str) -> None:
        self.doing.pop(run, None)
        self.doing[run] = what, tool

    async def _calls(self, ctx: Context, task: Task) -> None:
        identity, log = ctx.identity, self.log
        number = log.new(Call(task.tool, identity.tenant, task.units, self._line_of(identity.run)))
        log.add("asks", number)
        self._does(identity.run, "asking", task.tool)
        is_in = False
        try:
            async with ctx.pool(task.tool, task.units) as fence:
                is_in = True
                log.add("enters", number, fence or 0)
                self._does(identity.run, "holding", task.tool)
                try:
                    if task.tool == WRITE:
                        await self.update(task.length_s)
                    else:
                        await asyncio.sleep(task.length_s)
                finally:
                    log.add("leaves", number)
        finally:
            if not is_in:
                log.add("gives_up", number)
        self.served()

    def _line_of(self, run: str) -> str:
        """The class that a run's name says it is of."""
        return f"{self.line} {run.rpartition(' ')[0]}"

    def cancel(self, handle: Handle[Any]) -> bool:
        """Ends an agent wherever it is, and notes where that was; False when it has ended."""
        doing = self.doing.get(handle.run_id)
        if doing is None:
            return False
        self.log.places[self._place(handle.run_id, *doing)] += 1
        handle.cancel()
        return True

    def _place(self, run: str, what: str, tool: str) -> str:
        if what != "asking":
            return f"cancelled_{what}"
        for key, supply in self.runtime.pools.states().items():
            for task, _ in supply.queue:
                waiter = self.runtime.waits.waiting.get(task)
                if waiter is not None and waiter.run.identity.run == run:
                    return f"cancelled_in_{key if key in (SEARCH, WRITE, TOOLS) else 'tenant'}"
        return "cancelled_in_shared" if self.runtime.pools.shared else "cancelled_as_served"


def _nothing() -> None:
    """Nobody asked to be told."""


def limits() -> Limits:
    """Waits are long here, and not worth an event."""
    return Limits(pool_wait_s=TIMEOUT_S)


def searches(rng: random.Random, count: int, *, least_s: float, most_s: float) -> list[Task]:
    """One call after another."""
    return [
        Task(
            SEARCH,
            1 if rng.random() < 0.8 else 2,
            rng.uniform(least_s, most_s),
            rng.uniform(0.0, least_s / 4),
        )
        for _ in range(count)
    ]
