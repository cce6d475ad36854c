"""Stageflow and its peers on one harness, each beside the same floors in the same process.

    python benchmarks/peers.py                       # Stageflow
    python3 -m venv /tmp/peer && /tmp/peer/bin/pip install langgraph langgraph-checkpoint-sqlite
    /tmp/peer/bin/python benchmarks/peers.py langgraph
    ... and with `pip install stageflow-core` or `pip install dbos`: stageflow-core, dbos

Stages do nothing and are async. A chain's floor is one `await asyncio.create_task` per stage, a
fan-out's one `asyncio.gather` over all; floor of a durable chain is a bare SQLite insert and commit
per stage (WAL, synchronous=FULL). What stays in memory is timed by CPU time, so that other programs
disturb less, what goes to the disk by wall time. docs/comparison.md holds figures of all four.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import operator
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict

Run = Callable[[], Awaitable[Any]]
ran = [0]
"""How many stages ran: shows that each subject did the work."""


async def nothing(*_: object) -> dict[str, int]:
    ran[0] += 1
    return {"value": 1}


class Stageflow:
    """This project. A transform whose value goes through a declared type."""

    packages = ("stageflow",)

    def pipeline(self, stages: int, *, fan: bool = False) -> Any:
        from stageflow import Pipeline, transform

        async def body(value: dict[str, int]) -> dict[str, int]:
            return await nothing()

        first = transform(body, name="s0")
        nodes: list[Any] = [first]
        for number in range(1, stages):
            name = f"s{number}"
            nodes.append(first.named(name) if fan else first.named(name, value=nodes[-1]))

        async def joined() -> dict[str, int]:
            return await nothing()

        end = transform(joined, name="end", after=nodes) if fan else nodes[-1]
        return Pipeline("peer", nodes + [end] * fan, inputs={"value": dict[str, int]}, outputs=end)

    def chain(self, stages: int) -> Run:
        pipeline = self.pipeline(stages)
        return lambda: pipeline.run(value={})

    def fan_out(self, stages: int) -> Run:
        pipeline = self.pipeline(stages, fan=True)
        return lambda: pipeline.run(value={})

    @contextlib.asynccontextmanager
    async def durable(self, stages: int, folder: Path) -> AsyncIterator[Run]:
        from stageflow import Runtime

        async with Runtime(journal=folder / "journal.db") as runtime:
            pipeline = self.pipeline(stages).using(runtime=runtime)
            yield lambda: pipeline.run(value={})


class State(TypedDict):
    """LangGraph's: concurrent writes of `value` need a reducer."""

    value: Annotated[int, operator.or_]


class LangGraph:
    """A StateGraph; the durable one with AsyncSqliteSaver and durability="sync"."""

    packages = ("langgraph", "langgraph-checkpoint-sqlite")

    def graph(self, stages: int, *, fan: bool = False) -> Any:
        from langgraph.graph import END, START, StateGraph

        graph, before = StateGraph(State), START
        names = [f"s{number}" for number in range(stages)]
        for name in names:
            graph.add_node(name, nothing)
            graph.add_edge(before, name)
            before = START if fan else name
        if fan:
            graph.add_node("end", nothing)
            graph.add_edge(names, "end")
            before = "end"
        graph.add_edge(before, END)
        return graph

    def chain(self, stages: int) -> Run:
        graph = self.graph(stages).compile()
        return lambda: graph.ainvoke({"value": 0}, {"recursion_limit": stages + 10})

    def fan_out(self, stages: int) -> Run:
        graph = self.graph(stages, fan=True).compile()
        return lambda: graph.ainvoke({"value": 0})

    @contextlib.asynccontextmanager
    async def durable(self, stages: int, folder: Path) -> AsyncIterator[Run]:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        async with AsyncSqliteSaver.from_conn_string(str(folder / "peer.db")) as saver:
            graph = self.graph(stages).compile(checkpointer=saver)

            async def run() -> Any:
                config = {
                    "recursion_limit": stages + 10,
                    "configurable": {"thread_id": os.urandom(8).hex()},
                }
                return await graph.ainvoke({"value": 0}, config, durability="sync")

            yield run


class StageflowCore:
    """The PyPI package of a similar name, which is imported as `stageflow` too."""

    packages = ("stageflow-core",)

    def graph(self, stages: list[tuple[str, tuple[str, ...]]]) -> Run:
        from stageflow.api import Pipeline, StageKind, stage  # stageflow-core's

        graph = Pipeline.from_stages(
            *[stage(name, nothing, StageKind.TRANSFORM, after) for name, after in stages]
        )
        return lambda: graph.run(topology="peer")

    def chain(self, stages: int) -> Run:
        names = [f"s{number}" for number in range(stages)]
        return self.graph([(name, tuple(names[max(0, i - 1) : i])) for i, name in enumerate(names)])

    def fan_out(self, stages: int) -> Run:
        names = [f"s{number}" for number in range(stages)]
        return self.graph([*((name, ()) for name in names), ("end", tuple(names))])

    durable = None  # It has no persistence.


class Dbos:
    """Steps of one workflow; it has no mode without a database."""

    packages = ("dbos",)
    chain = fan_out = None

    @contextlib.asynccontextmanager
    async def durable(self, stages: int, folder: Path) -> AsyncIterator[Run]:
        from dbos import DBOS

        DBOS(
            config={
                "name": "peer",
                "system_database_url": f"sqlite:///{folder}/peer.db",
                "run_admin_server": False,
                "log_level": "ERROR",
            }
        )
        step = DBOS.step()(nothing)

        async def chained() -> None:
            for _ in range(stages):
                await step()

        workflow = DBOS.workflow()(chained)
        DBOS.launch()
        yield workflow
        DBOS.destroy()


SUBJECTS: dict[str, Any] = {
    "stageflow": Stageflow,
    "langgraph": LangGraph,
    "stageflow-core": StageflowCore,
    "dbos": Dbos,
}


async def task_chain(stages: int) -> None:
    for _ in range(stages):
        await asyncio.create_task(nothing())


async def gathered(stages: int) -> None:
    await asyncio.gather(*[nothing() for _ in range(stages)])
    await nothing()


class Commits:
    """A bare SQLite database that takes one durable row a stage."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("CREATE TABLE steps (number INTEGER PRIMARY KEY, value BLOB)")

    async def __call__(self, stages: int) -> None:
        for _ in range(stages):
            self._database.execute("INSERT INTO steps (value) VALUES (?)", (bytes(200),))


async def compared(
    name: str,
    run: Run,
    floor: Callable[[int], Awaitable[None]],
    *,
    stages: int,
    expected: int,
    clock: Callable[[], float],
) -> None:
    """Prints medians over rounds in which the floor and the subject take turns."""
    each_us, ratios = [], []
    for number in range(12):
        begun = clock()
        await floor(stages)
        bare = clock() - begun
        ran[0] = 0
        begun = clock()
        await run()
        taken = clock() - begun
        assert ran[0] == expected, f"{ran[0]} of {expected} stages ran"
        if number:  # The first round warms caches and files.
            each_us.append(taken / stages * 1e6)
            ratios.append(taken / bare)
    low, middle, high = statistics.quantiles(ratios)
    print(
        f"{name:<14}{stages:>6,}{statistics.median(each_us):>10.1f} us/stage"
        f"{middle:>9.2f} x floor, half of the rounds {low:.2f} to {high:.2f}"
    )


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("subject", nargs="?", default="stageflow", choices=SUBJECTS)
    subject = SUBJECTS[parser.parse_args().subject]()
    print(*(f"{name} {importlib.metadata.version(name)}" for name in subject.packages))
    if subject.chain is not None:
        for stages in (1_000, 4_000):
            chain = subject.chain(stages)
            await compared(
                "chain", chain, task_chain, stages=stages, expected=stages, clock=time.process_time
            )
        fan_out = subject.fan_out(500)
        await compared(
            "fan-out", fan_out, gathered, stages=500, expected=501, clock=time.process_time
        )
    if subject.durable is not None:
        with tempfile.TemporaryDirectory() as folder:
            floor = Commits(Path(folder) / "floor.db")
            async with subject.durable(100, Path(folder)) as run:
                await compared(
                    "durable chain", run, floor, stages=100, expected=100, clock=time.perf_counter
                )
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
