"""What depth costs: CPU time and memory a stage, at one depth and at ten times that depth."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any, Final

from stageflow import Pipeline, Run, Runtime
from stageflow.journal.journal import GroupCommit
from stageflow.journal.memory import MemoryStore

from ...heap import still_heap
from ...history import History
from ...ratio import timed_pairs
from ...world import World
from .chain import chain, nest, text_bytes, text_chain

TIMES: Final = 10
"""How often the shallow chain runs while the deep one runs once: as many stages on both sides."""
NEST_SHALLOW: Final = 20
LETTERS: Final = 1_000


def time_depths(world: World, history: History) -> None:
    """Records `timed` pairs of seconds: (deep once, shallow ten times), by what was timed."""
    shallow, deep = chain(world.size["shallow"]), chain(world.size["deep"])
    for pipeline in (shallow, deep):
        _record(history, "memory", pipeline, asyncio.run(pipeline.run(x=0)))
    rounds, journalled = world.size["rounds"], world.size["rounds_journalled"]
    with still_heap():
        _timed(history, "run", rounds, lambda: _run(deep), lambda: _run(shallow, TIMES))
        world.progress(1, 4, "timing: runs in memory")
        _timed(
            history,
            "journalled",
            journalled,
            lambda: _journalled(deep),
            lambda: _journalled(shallow, TIMES),
        )
        world.progress(2, 4, "timing: journalled runs")
    _timed(history, "collected", rounds, lambda: _run(deep), lambda: _run(shallow, TIMES))
    world.progress(3, 4, "timing: builds")
    _time_builds(world, history)


def time_nesting(world: World, history: History) -> None:
    """As `time_depths`, of nested pipelines against as many levels that are nested less."""
    levels, rounds = world.size["nesting"], world.size["rounds"]
    shallow, deep = nest(NEST_SHALLOW), nest(levels)
    for pipeline, expected in ((shallow, NEST_SHALLOW), (deep, levels)):
        run = asyncio.run(pipeline.run(x=0))
        history.record("completed", how="nested", ok=run.is_ok and run.output == expected)
    times = levels // NEST_SHALLOW
    with still_heap():
        _timed(history, "nested", rounds, lambda: _run(deep), lambda: _run(shallow, times))


def weigh(world: World, history: History) -> None:
    """Records `weighed`: what stages, pipeline and finished run hold together, by depth."""
    for name in ("shallow", "deep"):
        depth = world.size[name]
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            pipeline = text_chain(depth, LETTERS)
            run = asyncio.run(pipeline.run(x="0"))
            gc.collect()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        history.record(
            "weighed",
            depth=depth,
            held_bytes=held - before,
            outputs_bytes=text_bytes(depth, LETTERS),
            ok=run.is_ok and int(run.output) == depth,
        )


def look_everywhere(world: World, history: History) -> None:
    """Asks a finished deep run for everything it tells; records one `operation` per question."""
    deep = world.size["deep"]
    pipeline = chain(deep)
    run = asyncio.run(pipeline.run(x=0))
    waiting = chain(deep, waits=True)
    questions: dict[str, Callable[[], Any]] = {
        "nodes": lambda: len(run.nodes) == deep,
        "snapshot": lambda: len(run.snapshot.content_hash) > 0,
        "first": lambda: run["s0"] == 1,
        "last": lambda: run[f"s{deep - 1}"] == deep,
        "repr": lambda: len(repr(run)) > 0,
        "text": lambda: len(pipeline.draw()) > deep,
        "mermaid": lambda: len(pipeline.draw("mermaid")) > deep,
        "waits": lambda: asyncio.run(waiting.run(x=0)).output == deep,
    }
    for name, question in questions.items():
        history.record("operation", name=name)
        try:
            history.record("completed", how=name, ok=bool(question()))
        except RecursionError:
            history.record("recursion", where=name)


def _record(history: History, how: str, pipeline: Pipeline[int], run: Run[int]) -> None:
    depth = len(pipeline.plan.nodes)
    history.record("completed", how=how, depth=depth, ok=run.is_ok and run.output == depth)


def _timed(
    history: History,
    what: str,
    rounds: int,
    subject: Callable[[], Coroutine[Any, Any, None]],
    floor: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        pairs = timed_pairs(
            lambda: loop.run_until_complete(subject()),
            lambda: loop.run_until_complete(floor()),
            repeats=rounds,
        )
    for deep_s, shallow_s in pairs:
        history.record("timed", what=what, deep_s=deep_s, shallow_s=shallow_s)


def _time_builds(world: World, history: History) -> None:
    shallow, deep = world.size["shallow"], world.size["deep"]

    def build(depth: int, times: int) -> None:
        for _ in range(times):
            chain(depth)

    pairs = timed_pairs(
        lambda: build(deep, 1), lambda: build(shallow, TIMES), repeats=world.size["rounds_built"]
    )
    for deep_s, shallow_s in pairs:
        history.record("timed", what="built", deep_s=deep_s, shallow_s=shallow_s)


async def _run(pipeline: Pipeline[int], times: int = 1) -> None:
    for _ in range(times):
        await pipeline.run(x=0)


async def _journalled(pipeline: Pipeline[int], times: int = 1) -> None:
    """A journal in memory: the records are made, encoded and committed, and no disk is timed."""
    for _ in range(times):
        async with Runtime(journal=GroupCommit(MemoryStore())) as runtime:
            await pipeline.using(runtime=runtime).run(x=0)
