"""A plan of waits carried out by stages: what each does, and what is seen of it in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from stageflow import (
    Context,
    Deadlocked,
    Limits,
    Pipeline,
    Runtime,
    SharedPool,
    Stage,
    agent,
    n_of,
)

from .wait_graphs import BY_JOIN, BY_MESSAGE, Member, Plan

TIMEOUT_S: Final = 20.0
"""Of every stage: whoever is not found by then is missed."""

Facts = dict[str, Any]


@dataclass
class Seen:
    """What one process saw of its stages; times in seconds after all held what they hold."""

    waits_s: dict[str, float] = field(default_factory=dict)
    """When who began to wait, or ended in silence."""
    ended_s: dict[str, float] = field(default_factory=dict)
    """Whose wait was ended, and when."""
    statuses: dict[str, str] = field(default_factory=dict)
    """How each stage ended."""
    reports: list[Facts] = field(default_factory=list)


class Host:
    """The stages of a plan that are in one process."""

    def __init__(
        self,
        plan: Plan,
        number: int,
        *,
        time: Callable[[], float],
        all_hold: Callable[[], Awaitable[float]],
        shared_pools: Any,
        scan_s: float,
    ) -> None:
        """`all_hold` is called when all stages here hold what they hold, and returns the time from
        which the plan counts, once those of the other processes do, too."""
        self.plan = plan
        self.runs = [run for run, host in enumerate(plan.hosts) if host == number]
        self.members = [each for each in plan.members if each.run in self.runs]
        self.seen = Seen()
        self._time = time
        self._all_hold = all_hold
        self._base_s = 0.0
        self._holding = 0
        self._held = asyncio.Event()
        self._began = asyncio.Event()
        pools: dict[str, Any] = {
            self.pool(pool): SharedPool(len(holders)) if pool in plan.shared else len(holders)
            for pool, holders in plan.pools().items()
        }
        self.runtime = Runtime(pools=pools, shared_pools=shared_pools, limits=Limits(scan_s=scan_s))

    def pool(self, number: int) -> str:
        """Its name; in one store there are those of many plans."""
        return f"{self.plan.seed:x} p{number}"

    async def run(self) -> Seen:
        """Everything to its end, at most the stages' timeout."""
        starting = asyncio.create_task(self._start_together())
        try:
            runs = await asyncio.gather(
                *(self._pipeline(run).using(runtime=self.runtime).run() for run in self.runs)
            )
        finally:
            starting.cancel()
            await self.runtime.aclose()
        for run in runs:
            for name, outcome in run.nodes.items():
                self.seen.statuses[name] = outcome.state
        for found in self.runtime.pools.deadlocks:
            self.seen.reports.append(
                {
                    "members": {
                        each.node: [dict(each.holds), each.awaits] for each in found.members
                    },
                    "victim": found.victim.node,
                    "policy": found.policy,
                }
            )
        return self.seen

    async def _start_together(self) -> None:
        await self._held.wait()
        self._base_s = await self._all_hold()
        self._began.set()

    def _pipeline(self, run: int) -> Pipeline[Any]:
        stages: list[Stage[..., Any]] = []
        by_number: dict[int, Stage[..., Any]] = {}
        for each in self.members:
            if each.run == run:
                by_number[each.number] = agent(
                    self._body(each), name=each.name, timeout=TIMEOUT_S, on_failure="isolate"
                )
        stages += by_number.values()
        for each in self.members:
            wait = each.wait
            if each.run == run and wait is not None and wait.kind in BY_JOIN:
                branches = [by_number[number] for number in wait.of]
                join = n_of(wait.need, *branches, name=f"join{each.number}")
                stages += [join, _gate(each, join)]
        return Pipeline(f"run{run}", stages, outputs=list(by_number.values()))

    def _body(self, member: Member) -> Callable[[Context], Awaitable[str]]:
        holds = [
            self.pool(pool)
            for pool, holders in self.plan.pools().items()
            if member.number in holders
        ]

        async def body(ctx: Context) -> str:
            async with AsyncExitStack() as stack:
                for pool in holds:
                    await stack.enter_async_context(ctx.pool(pool))
                self._holding += 1
                if self._holding == len(self.members):
                    self._held.set()
                await self._began.wait()
                if member.after is None:
                    await asyncio.sleep(max(0.0, self._base_s + member.at_s - self._time()))
                else:
                    await ctx.receive("done", self.plan.members[member.after].name)
                    await ctx.send("done", member.number)
                self.seen.waits_s[member.name] = self._now_s()
                if member.wait is not None:
                    await self._waited(ctx, member)
                    await asyncio.sleep(member.works_s)
                if not member.is_silent and member.after is None:
                    await ctx.send("done", member.number)
            return member.name

        return body

    def _now_s(self) -> float:
        return self._time() - self._base_s

    async def _waited(self, ctx: Context, member: Member) -> None:
        """As planned; a wait that is ended is given up, and the stage goes on."""
        wait = member.wait
        assert wait is not None, "free stages don't wait"
        of = [self.plan.members[number].name for number in wait.of]
        try:
            if wait.kind in BY_MESSAGE:
                await ctx.receive("done", *of, need=wait.need)
            elif wait.kind in BY_JOIN:
                await ctx.receive("open", f"gate{member.number}")
            elif wait.kind == "child":
                await ctx.run(self._child(member), key="child")
            else:
                async with ctx.pool(self.pool(self.plan.pool(member.number)), wait.need):
                    pass
        except Deadlocked:
            self.seen.ended_s[member.name] = self._now_s()

    def _child(self, member: Member) -> Pipeline[Any]:
        name = f"inner{member.number}"

        async def inner(ctx: Context) -> str:
            assert member.wait is not None, "it is what the child is for"
            try:
                async with ctx.pool(self.pool(member.number), member.wait.need):
                    return name
            except Deadlocked:
                self.seen.ended_s[name] = self._now_s()
                return name

        return Pipeline("child", [agent(inner, name=name, timeout=TIMEOUT_S)], outputs=name)


def _gate(member: Member, join: Stage[..., Any]) -> Stage[..., Any]:
    """Sends when the join has its values."""

    async def gate(ctx: Context, branches: Any) -> None:
        await ctx.send("open", True)

    return agent(gate, name=f"gate{member.number}").named(bind={"branches": join})
