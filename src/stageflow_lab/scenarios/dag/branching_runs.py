"""Runs of generated graphs, simulated and real, each told beside what it should have been."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from stageflow import Pipeline, StageflowError
from stageflow.sim import Pct, RandomWalk, Schedule, Sim, trial

from ...history import History
from ...world import World
from .branching_graphs import (
    Outcome,
    every_outcome,
    graph_with_routes,
    options_of,
    random_graph,
    random_outcome,
)
from .branching_interpreter import Graph
from .branching_pipelines import Performance, Stages, facts_of, shared
from .forked import spread

Facts = dict[str, Any]

SIZES: Final = (10, 60)
"""Stages of a random graph, from and to."""
ROUTES_MAX: Final = 8
PCT_DEPTH: Final = 3
STEPS_PER_STAGE: Final = 4
"""About so many steps of the loop a stage takes: where Pct may change its priorities."""
CHUNK: Final = 50
"""Graphs that a process makes at a time."""
AT_ONCE: Final = 20
"""Real runs side by side on one loop."""


def run_random_graphs(world: World, history: History) -> None:
    """Random graphs in simulation, one outcome each."""
    count = world.size["graphs"]
    seeds = [world.seed_for("graph", number) for number in range(count)]
    for done, found in enumerate(_spread(simulate_graph, seeds, world.size["workers"], CHUNK)):
        history.record("run", **shared(found))
        world.progress(done + 1, count, "random graphs")


def run_every_outcome(world: World, history: History) -> None:
    """Small graphs with 8 to 1 routes in turn, each simulated with every routing outcome."""
    count = world.size["exhausted"]
    asked = [
        (world.seed_for("exhausted", number), ROUTES_MAX - number % ROUTES_MAX)
        for number in range(count)
    ]
    run_all = partial(exhaust_graph, outcomes_max=world.size["outcomes_max"])
    for done, (several, exhausted) in enumerate(_spread(run_all, asked, world.size["workers"], 1)):
        for found in several:
            history.record("run", **shared(found))
        history.record("exhausted", **exhausted)
        world.progress(done + 1, count, "graphs with every outcome")


def run_real_graphs(world: World, history: History) -> None:
    """Random graphs with threads on an ordinary loop, many side by side."""
    count, stages = world.size["real"], Stages()

    async def run_all() -> None:
        for first in range(0, count, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, count))
            several = [_real(world.seed_for("real", number), stages) for number in numbers]
            for found in await asyncio.gather(*several):
                history.record("run", **found)
            world.progress(numbers.stop, count, "real runs")

    asyncio.run(run_all())


def simulate_graph(seed: int, stages: Stages) -> Facts:
    """The random graph of that seed under the schedule of that seed; equal in every process."""
    rng = random.Random(seed)
    graph = random_graph(rng, size=rng.randint(*SIZES))
    found: Facts = {"how": "sim", "seed": seed}
    try:
        pipeline = stages.pipeline(graph)
    except StageflowError as error:
        return {**found, "refused": _first_line(error)}
    return found | _simulated(pipeline, stages, graph, random_outcome(rng, graph), seed)


def exhaust_graph(
    asked: tuple[int, int], stages: Stages, *, outcomes_max: int
) -> tuple[list[Facts], Facts]:
    """Every run of the graph of that seed with so many routes, and what its routes may do."""
    seed, routes = asked
    rng = random.Random(seed)
    graph = graph_with_routes(rng, routes=routes, branches_max=2 if routes > 4 else 3).graph
    options = options_of(rng, graph, outcomes_max)
    exhausted = {
        "seed": seed,
        "options": {name: " ".join(sorted(several)) for name, several in options.items()},
    }
    found: Facts = {"how": "every", "seed": seed}
    try:
        pipeline = stages.pipeline(graph)
    except StageflowError as error:
        return [{**found, "refused": _first_line(error)}], exhausted
    runs = [
        found | _simulated(pipeline, stages, graph, outcome, seed + number)
        for number, outcome in enumerate(every_outcome(graph, options))
    ]
    return runs, exhausted


async def _real(seed: int, stages: Stages) -> Facts:
    rng = random.Random(seed)
    graph = random_graph(rng, size=rng.randint(*SIZES), threads=True)
    found: Facts = {"how": "real", "seed": seed}
    try:
        pipeline = stages.pipeline(graph)
    except StageflowError as error:
        return {**found, "refused": _first_line(error)}
    outcome = random_outcome(rng, graph)
    try:
        return found | await _performed(pipeline, stages, graph, outcome, seed, exact=False)
    except Exception as error:  # the engine's own: told as a run that went wrong
        return {**found, "broke": _first_line(error)}


def _simulated(
    pipeline: Pipeline[Any], stages: Stages, graph: Graph, outcome: Outcome, seed: int
) -> Facts:
    async def main(sim: Sim) -> Facts:
        return await _performed(pipeline, stages, graph, outcome, seed, exact=True)

    pct = Pct(seed, depth=PCT_DEPTH, steps=STEPS_PER_STAGE * len(graph))
    schedule: Schedule = pct if seed % 2 else RandomWalk(seed)
    result = trial(main, seed=seed, schedule=schedule)
    if result.returned is None:
        return {"broke": _first_line(result.error)}
    return result.returned


async def _performed(
    pipeline: Pipeline[Any],
    stages: Stages,
    graph: Graph,
    outcome: Outcome,
    seed: int,
    *,
    exact: bool,
) -> Facts:
    run_id = f"run-{seed}"
    performance = stages.performances[run_id] = Performance(graph, outcome)
    try:
        run = await pipeline.using(run_id=run_id, seed=seed).run()
    finally:
        del stages.performances[run_id]
    return facts_of(run, performance, exact=exact)


def _first_line(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


# -- processes -------------------------------------------------------------------------------


def _spread(
    make: Callable[..., Any], asked: Sequence[Any], workers: int, chunk: int
) -> Iterator[Any]:
    """`make(each, stages)` for each that is asked, in order, by so many processes."""
    return spread(partial(_make_all, make), asked, workers=workers, chunk=chunk)


def _make_all(make: Callable[..., Any], asked: Iterable[Any]) -> list[Any]:
    stages = Stages()
    return [make(each, stages) for each in asked]
