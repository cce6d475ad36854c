"""Scripted loops, alone and nested, run by the shipped runtime in simulation; what each showed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Final

from stageflow import (
    Allow,
    Context,
    Decision,
    Feedback,
    Pipeline,
    Revise,
    Run,
    Stage,
    StageFailed,
    agent,
    guard,
)
from stageflow.sim import RandomWalk, Sim, trial

from ...history import History
from ...world import World
from .forked import spread
from .loop_traces import SHARE_NESTED, Trace, trace_of

Facts = dict[str, Any]

SHARE_LIVELOCK_INSIDE: Final = 0.6
CHUNK: Final = 50
"""Traces that a process runs at a time."""


def run_traces(world: World, history: History) -> None:
    """Every trace in simulation; one `loop` event for each loop of it."""
    asked = [
        (world.seed_for(kind, number), kind == "livelocks")
        for kind in ("livelocks", "benign")
        for number in range(world.size[kind])
    ]
    found = spread(simulate_all, asked, workers=world.size["workers"], chunk=CHUNK)
    for done, loops in enumerate(found):
        for loop in loops:
            history.record("loop", **loop)
        world.progress(done + 1, len(asked), "traces")


def simulate_all(asked: Sequence[tuple[int, bool]]) -> list[list[Facts]]:
    """The loops of the traces of those seeds, each a livelock or not."""
    stages = Loops()
    return [simulate(seed, stages, livelock=livelock) for seed, livelock in asked]


def simulate(seed: int, stages: Loops, *, livelock: bool) -> list[Facts]:
    """The loops of one trace: the outer one first, then the one inside its stage, if any."""
    rng = random.Random(seed)
    outer = trace_of(rng, livelock=livelock)
    inner = None
    if rng.random() < SHARE_NESTED:
        inner = trace_of(rng, livelock=rng.random() < SHARE_LIVELOCK_INSIDE)

    async def main(sim: Sim) -> list[Facts]:
        return await stages.run(outer, inner, seed)

    result = trial(main, seed=seed, schedule=RandomWalk(seed))
    if result.returned is None:
        story = f"{type(result.error).__name__}: {result.error}".splitlines()[0]
        return [{"seed": seed, "family": outer.family, "broke": story}]
    return result.returned


class Playing:
    """A script that is being played: how many turns were made."""

    def __init__(self, trace: Trace, inner: Trace | None = None) -> None:
        self.trace = trace
        self.inner = inner
        self.made = 0
        self.inside: list[Facts] = []

    def value(self) -> Any:
        """What the agent gives at its next turn."""
        self.made += 1
        turns = self.trace.turns
        return turns[self.made - 1].value if self.made <= len(turns) else self.trace.accepted

    def decision(self, guard_number: int) -> Decision:
        """What that guard says of the latest turn."""
        if self.made <= len(self.trace.turns):
            for said in self.trace.turns[self.made - 1].said:
                if said.guard == guard_number:
                    return Revise(said.text, score=said.score)
        return Allow()


class Loops:
    """Pipelines of one agent and its guards, made once for each number of guards and bound."""

    def __init__(self) -> None:
        self._pipelines: dict[tuple[int, int], Pipeline[Any]] = {}
        self._playing: dict[str, Playing] = {}

    async def run(self, outer: Trace, inner: Trace | None, seed: int) -> list[Facts]:
        """Plays the script, and the `inner` one whole in each turn of its agent."""
        playing = self._playing["outer"] = Playing(outer, inner)
        run = await self._pipeline(outer).using(run_id=f"run-{seed}", seed=seed).run(script="outer")
        common = {"seed": seed, "nested": inner is not None}
        return [
            {**common, "place": "outer", **_facts(outer, run, playing.made)},
            *({**common, "place": "inner", **facts} for facts in playing.inside[:1]),
        ]

    def _pipeline(self, trace: Trace) -> Pipeline[Any]:
        key = trace.guards, trace.bound
        if key not in self._pipelines:
            stages = [self._agent(trace.bound), *map(self._guard, range(trace.guards))]
            self._pipelines[key] = Pipeline(
                "loop", stages, inputs={"script": str}, outputs=stages[0]
            )
        return self._pipelines[key]

    def _agent(self, bound: int) -> Stage[..., Any]:
        async def draft(ctx: Context, script: str, feedback: Feedback | None) -> Any:
            playing = self._playing[script]
            value = playing.value()
            if playing.inner is not None:
                await self._play_inside(ctx, playing, playing.inner)
            return value

        return agent(draft, revisions=bound)

    async def _play_inside(self, ctx: Context, outer: Playing, trace: Trace) -> None:
        """A loop of its own inside this turn; that it gets nowhere is no failure of the turn."""
        key = f"turn-{outer.made}"
        playing = self._playing[key] = Playing(trace)
        failure = ""
        try:
            await ctx.run(self._pipeline(trace), key=key, script=key)
        except StageFailed as error:
            failure = error.failure.message
        outer.inside.append(
            {
                **_told(trace, playing.made),
                "stalled": failure.partition(": ")[2],
                "status": "failed" if failure else "ok",
            }
        )

    def _guard(self, number: int) -> Stage[..., Any]:
        async def judge(draft: Any, script: str) -> Decision:
            await asyncio.sleep(0)
            return self._playing[script].decision(number)

        return guard(judge, name=f"guard_{number}", of="draft")


def _told(trace: Trace, made: int) -> Facts:
    return {
        "family": trace.family,
        "livelock": trace.livelock,
        "exact": trace.exact,
        "begins": trace.begins,
        "period": trace.period,
        "bound": trace.bound,
        "made": made,
    }


def _facts(trace: Trace, run: Run[Any], made: int) -> Facts:
    """What the run's account says, beside the script."""
    stall = run.stall("draft")
    return {
        **_told(trace, made),
        "stalled": "" if stall is None else str(stall),
        "seen_period": 0 if stall is None else stall.period,
        "status": run.status,
        "reason": run.reason,
        "best": run.best("draft") == _best(trace, made),
        "whole": _whole(trace, run, made),
    }


def _best(trace: Trace, made: int) -> Any:
    """The value accepted, or the latest of those with the highest score."""
    if made > len(trace.turns):
        return trace.accepted
    scores = [min(said.score for said in turn.said) for turn in trace.turns[:made]]
    return trace.turns[max(range(made), key=lambda n: (scores[n], n))].value


def _whole(trace: Trace, run: Run[Any], made: int) -> bool:
    """True when the account has each value that was sent back, and who said what of it."""
    kept = [
        (one.value, sorted(zip(one.guards, one.feedback, strict=True)), one.score)
        for one in run.candidates("draft")
    ]
    true = [
        (
            turn.value,
            sorted((f"guard_{said.guard}", said.text) for said in turn.said),
            min(said.score for said in turn.said),
        )
        for turn in trace.turns[:made]
    ]
    return kept == true
