"""Chains that break at some depth: what is reported, and what a resumed run executes again."""

from __future__ import annotations

import asyncio
import contextlib
import re
import traceback
from typing import Any, Final

from stageflow import Pipeline, Run, Runtime, StageflowError
from stageflow.journal.journal import GroupCommit
from stageflow.journal.memory import MemoryStore
from stageflow.model.errors import JournalError
from stageflow.sim import Sim, SimJournal, simulate

from ...history import History
from ...world import World
from .chain import chain, nest

BREAKS_A_RUN: Final = 5
POWER_FAILS_IN_S: Final = 0.004
OVERTAKEN: Final = 25
"""More stages than can be executed in that time: each waits for a sync, which takes 0.2 ms."""


class Link:
    """The body of a chain's stages: tells what was executed, and breaks where it is told to."""

    def __init__(self, broken: int = -1) -> None:
        self.broken = broken
        """The depth that fails; -1 for none."""
        self.executed: list[int] = []

    def __call__(self, depth: int) -> None:
        self.executed.append(depth)
        if depth == self.broken:
            raise ValueError(f"the link at depth {depth} is broken")


def break_and_report(world: World, history: History) -> None:
    """Deep chains in memory that fail at a random depth; records `reported` for each."""
    count, deep = world.size["failures"], world.size["deep"]
    link = Link()
    stopping, isolating = chain(deep, link), chain(deep, link, on_failure="isolate")
    for number in range(count):
        pipeline = isolating if number % 5 == 4 else stopping
        link.broken, link.executed = world.rng.randrange(deep), []
        run = asyncio.run(pipeline.run(x=0))
        done = all(run[f"s{at}"] == at + 1 for at in (0, link.broken - 1) if 0 <= at < link.broken)
        _report(history, "chain", run, stage=f"s{link.broken}", done=done)
        world.progress(number + 1, count, "failures reported")


def break_and_mend(world: World, history: History) -> None:
    """Journalled chains that fail at random depths, each resumed once its link is mended.

    Several links of one chain break, one after another: a resumed run must be resumable, too.
    """
    count, depth = world.size["failures"], world.size["link_depth"]
    link = Link()
    pipeline = chain(depth, link)
    for done in range(0, count, BREAKS_A_RUN):
        breaks = sorted(world.rng.sample(range(depth), min(BREAKS_A_RUN, count - done)))
        asyncio.run(_broken_and_mended(history, "chain", pipeline, link, breaks, depth))
        world.progress(done + len(breaks), count, "failures mended")


def break_nested(world: World, history: History) -> None:
    """Nested pipelines that fail at a random level, are reported, and resumed once mended."""
    count, levels = world.size["nested_failures"], world.size["nesting"]
    link = Link()
    pipeline = nest(levels, link)
    for number in range(count):
        # One from each stratum, so that few failures reach deep levels too.
        link.broken, link.executed = int((number + world.rng.random()) / count * levels), []
        run = asyncio.run(pipeline.run(x=0))
        _report(history, "nested", run, stage=f"before{link.broken}", done=_has(run, link.broken))
        asyncio.run(_broken_and_mended(history, "nested", pipeline, link, [link.broken], levels))
        world.progress(number + 1, count, "nested failures")


def crash_simulated(world: World, history: History) -> None:
    """Chains whose machine loses power, then breaks a link, under the seeded loop."""
    count, depth = world.size["sim_crashes"], world.size["sim_depth"]
    for number in range(count):
        seed = world.seed_for("crash", number)
        result = simulate(lambda sim: _crashed(sim, depth), seed=seed)
        for kind, data in result.value:
            history.record(kind, **data)
        history.record("completed", how="sim_clean", ok=not (result.leftover or result.unhandled))
        world.progress(number + 1, count, "simulated crashes")


async def _broken_and_mended(
    history: History,
    how: str,
    pipeline: Pipeline[int],
    link: Link,
    breaks: list[int],
    output: int,
) -> None:
    statuses, before = [], set[int]()
    async with Runtime(journal=GroupCommit(MemoryStore())) as runtime:
        link.broken, link.executed = breaks[0], []
        run: Run[int] = await pipeline.using(runtime=runtime).run(x=0)
        for following in [*breaks[1:], -1]:
            history.record("broken", how=how, fired=link.broken in link.executed)
            statuses.append(run.status)
            before.update(link.executed)
            link.broken, link.executed = following, []
            run = await runtime.resume(run.id, pipeline=pipeline)
            _resumed(history, how, before, link.executed)
        ok = set(statuses) == {"failed"} and run.is_ok and run.output == output
        history.record("completed", how=f"mended_{how}", ok=ok)


async def _crashed(sim: Sim, depth: int) -> list[tuple[str, dict[str, Any]]]:
    """
    1. the first process executes a chain; some moments after link `crash` the power fails
    2. the second process takes the run over, maybe while the first still works as a zombie
    3. it meets a broken link further on, and the run fails
    4. the link is mended and the run is resumed once more
    """
    events = History()
    power_fails = asyncio.Event()
    journal = SimJournal(sim)
    crash = sim.rng.randrange(depth - OVERTAKEN)
    breaks = sim.rng.randrange(crash + OVERTAKEN, depth)
    first, second = Link(), Link(broken=breaks)

    def lose_power() -> None:
        journal.crash()
        power_fails.set()

    def visit(at: int) -> None:
        first(at)
        if at == crash:
            sim.loop.call_later(sim.rng.uniform(0.0, POWER_FAILS_IN_S), lose_power)

    zombie = chain(depth, visit).using(
        runtime=Runtime(journal=journal, clock=sim.clock), run_id="deep"
    )
    handle = zombie.start(x=0)
    await power_fails.wait()
    events.record("killed", moment="simulated", depth=crash)
    pipeline = chain(depth, second)
    async with Runtime(journal=journal.as_owner("second"), clock=sim.clock) as runtime:
        broken = await runtime.resume("deep", pipeline=pipeline)
        _resumed(events, "sim_crash", set(first.executed), second.executed)
        events.record("broken", how="sim", fired=breaks in second.executed)
        before = {*first.executed, *second.executed}
        second.broken, second.executed = -1, []
        mended = await runtime.resume("deep", pipeline=pipeline)
        _resumed(events, "sim_mended", before, second.executed)
        ok = broken.status == "failed" and mended.is_ok and mended.output == depth
        events.record(
            "completed", how="sim", ok=ok, seed=sim.seed, broken=repr(broken), mended=repr(mended)
        )
    with contextlib.suppress(JournalError):  # the zombie is refused, or met the power cut
        await handle
    return [(event.kind, dict(event.data)) for event in events.events]


def _resumed(history: History, how: str, before: set[int], executed: list[int]) -> None:
    """What a resumed run executed although it, or the process before it, had done so already."""
    again = len(before.intersection(executed)) + len(executed) - len(set(executed))
    history.record("resumed", how=how, reexecuted=again, executed=len(executed), code=0)


def _has(run: Run[int], broken: int) -> bool:
    return run["before0"] == 1 if broken > 0 else "before0" not in run


def _report(history: History, how: str, run: Run[int], *, stage: str, done: bool) -> None:
    """What a user sees of a failed run: the exception that asking for its output raises."""
    text = ""
    try:
        run.value_or_raise()
    except StageflowError as error:
        text = "".join(traceback.format_exception(error))
    history.record(
        "reported",
        how=how,
        stage=stage,
        status=run.status,
        lines=len(text.splitlines()),
        named=re.search(rf"\b{stage}\b", text) is not None,
        done_readable=done,
    )
