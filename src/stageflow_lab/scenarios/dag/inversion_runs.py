"""Sets of stages run by the shipped runtime in exact virtual time, every request noted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from stageflow import Context, Event, EventType, Pipeline, Runtime, Stage, Subscription, transform
from stageflow.scheduler import Inheritance
from stageflow.sim import RandomWalk, Sim, trial

from ...sabotage import patched
from .blocking_bounds import request_bounds_ticks
from .inversion_facts import Facts, Held, facts_of
from .task_sets import EXECUTOR, Item, Section, Task, TaskSet, pathfinder_set, random_set

TICK_S: Final = 1 / 512
"""About 2 ms; exact as a double and in nanoseconds, so that sums of ticks are, too."""
SLACK_TICKS: Final = 0.5
"""So long past its bound a wait is to be told: nothing else happens at half a tick."""
_NAMED: Final = re.compile(r"held by (t\d+)(?:_in)* of run")


@dataclass(frozen=True, slots=True)
class Asked:
    """One set to be run: alike for equal values."""

    kind: str
    """"random" or "pathfinder"."""
    seed: int
    stages_max: int
    pools_max: int
    inherits: bool = True
    """False: the same load under a runtime that lends no rank to anybody."""

    def tasks(self) -> TaskSet:
        if self.kind == "pathfinder":
            return pathfinder_set(self.seed, stages_max=self.stages_max)
        return random_set(self.seed, stages_max=self.stages_max, pools_max=self.pools_max)


def run_all(asked: Sequence[Asked]) -> list[Facts]:
    """What each set showed."""
    return [run(each) for each in asked]


def run(asked: Asked) -> Facts:
    """What one set showed; `broke` when it did not come to its end."""
    common: Facts = {"kind": asked.kind, "seed": asked.seed, "inherits": asked.inherits}
    if asked.inherits:
        return {**common, **_simulated(asked)}
    with patched(Inheritance, "_lent_by", lambda *_: {}):
        return {**common, **_simulated(asked)}


def _simulated(asked: Asked) -> Facts:
    tasks = asked.tasks()
    bounds_ticks = request_bounds_ticks(tasks)

    async def main(sim: Sim) -> Facts:
        running = Running(sim, tasks, bounds_ticks)
        statuses, events = await running.to_the_end()
        told = {
            (event.node or "").partition("_")[0]: _named(event)
            for event in events
            if event.type is EventType.WAIT_EXCEEDED
        }
        facts = facts_of(
            tasks, running.held, bounds_ticks=bounds_ticks, slack_ticks=SLACK_TICKS, told=told
        )
        return {**facts, "unended": sum(status != "ok" for status in statuses)}

    result = trial(main, seed=asked.seed, schedule=RandomWalk(asked.seed))
    if result.returned is None:
        return {"broke": f"{type(result.error).__name__}: {result.error}".splitlines()[0]}
    return result.returned


def _named(event: Event) -> list[str]:
    return sorted(set(_NAMED.findall(event.reason)))


class Running:
    """One set under one runtime."""

    def __init__(self, sim: Sim, tasks: TaskSet, bounds_ticks: Sequence[int]) -> None:
        self._sim = sim
        self._tasks = tasks
        self._bounds_ticks = bounds_ticks
        self._runtime = Runtime(pools=tasks.pools)
        self.held: list[Held] = []
        """Every request, in order of asking."""

    async def to_the_end(self) -> tuple[list[str], list[Event]]:
        """The statuses of all runs, and what subscribers were told."""
        seen = Subscription(queue_max=1_000_000)
        stages = [self._stage(task) for task in self._tasks.tasks]
        if self._tasks.as_runs:
            pipelines = [
                Pipeline(task.name, [stage], outputs=stage).using(
                    runtime=self._runtime, events=seen, priority=task.priority
                )
                for task, stage in zip(self._tasks.tasks, stages, strict=True)
            ]
        else:
            placed = [
                stage.named(priority=task.priority)
                for task, stage in zip(self._tasks.tasks, stages, strict=True)
            ]
            pipelines = [Pipeline("set", placed).using(runtime=self._runtime, events=seen)]
        runs = await asyncio.gather(*(pipeline.run() for pipeline in pipelines))
        return [run.status for run in runs], seen.drain()

    def _stage(self, task: Task) -> Stage[..., Any]:
        async def body(ctx: Context) -> None:
            await asyncio.sleep(task.arrival_ticks * TICK_S)
            await self._do(ctx, task, task.body)

        return transform(body, name=task.name)

    async def _do(self, ctx: Context, task: Task, items: Sequence[Item]) -> None:
        for item in items:
            if isinstance(item, Section):
                async with self._units(ctx, task, item.pool, item.units):
                    if item.in_child:
                        await ctx.run(self._child(ctx, task, item), key=f"{len(self.held)}")
                    else:
                        await self._do(ctx, task, item.body)
            elif item.in_executor:
                async with self._units(ctx, task, EXECUTOR, 1):
                    await asyncio.sleep(item.ticks * TICK_S)
            else:
                await asyncio.sleep(item.ticks * TICK_S)

    def _child(self, ctx: Context, task: Task, section: Section) -> Pipeline[Any]:
        async def inside(ctx: Context) -> None:
            await self._do(ctx, task, section.body)

        stage = transform(inside, name=f"{ctx.node}_in")
        return Pipeline(stage.name, [stage], outputs=stage)

    def _units(self, ctx: Context, task: Task, pool: str, units: int) -> Noted:
        return Noted(self, ctx, Held(task.name, task.priority, pool, units))

    def bound_s(self, of: Held) -> float | None:
        """When the wait of a request by the highest stage is to be told."""
        if of.task != self._tasks.tasks[0].name:
            return None
        number = sum(each.task == of.task for each in self.held)
        return (self._bounds_ticks[number] + SLACK_TICKS) * TICK_S

    def now_ticks(self) -> int:
        """Virtual time; all that happens does so at whole ticks."""
        now = self._sim.now() / TICK_S
        assert now.is_integer(), "between two ticks"
        return int(now)


class Noted:
    """Units of a pool for the length of an `async with`, and when they were asked for and had."""

    def __init__(self, running: Running, ctx: Context, held: Held) -> None:
        self._running = running
        self._held = held
        self._lease = ctx.pool(held.pool, held.units, bound_s=running.bound_s(held))

    async def __aenter__(self) -> None:
        self._held.asked_ticks = self._running.now_ticks()
        self._running.held.append(self._held)
        await self._lease.__aenter__()
        self._held.granted_ticks = self._running.now_ticks()

    async def __aexit__(self, *error: Any) -> None:
        await self._lease.__aexit__(*error)
        self._held.released_ticks = self._running.now_ticks()
