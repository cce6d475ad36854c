"""What a journalled stage costs beside the bare commits of the same bytes by the same driver.

    python benchmarks/durable_chain.py [--folder DIR] [--postgres URL] [--repeats 5]

A chain of 100 stages is run with a journal in SQLite (`synchronous=FULL`) and in PostgreSQL: one
run, and 100 side by side. Floor: one durable commit of two rows per stage, on one thread, in the
same place, in turns; in PostgreSQL as one statement, and beside it in the usual four.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from journal_floor import APPENDS, POSTGRES, Floor, PostgresFloor

from stageflow import Pipeline, Runtime, Stage, transform

STAGES = 100
CONCURRENCY = 100


def chain() -> Pipeline[Any]:
    """100 stages that pass 100 characters on."""

    async def body(text: str) -> str:
        return text

    first = transform(body, name="s0")
    stages: list[Stage[..., Any]] = [first]
    for number in range(1, STAGES):
        stages.append(first.named(f"s{number}", text=stages[-1]))
    return Pipeline("chain", stages, inputs={"text": str}, outputs=stages[-1])


async def journalled(pipeline: Pipeline[Any], journal: str, runs: int) -> float:
    """Seconds a stage."""
    async with Runtime(journal=journal) as runtime:
        bound = pipeline.using(runtime=runtime)
        await bound.run(text="x" * 100)
        begun = time.perf_counter()
        handles = [bound.start(text="x" * 100) for _ in range(runs)]
        for handle in handles:
            assert (await handle).status == "ok"
        return (time.perf_counter() - begun) / (runs * STAGES)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", help="where the files go; give one on the disk in question")
    parser.add_argument("--postgres", default=POSTGRES, metavar="URL")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        floor = Floor(Path(folder) / "floor.db")
        print("SQLite")
        compare({"floor": floor}, f"sqlite:///{folder}/runs.db", repeats=options.repeats)
        floor.close()
    try:
        bare = PostgresFloor(options.postgres)
    except Exception as error:  # no driver, no server, no right
        print(f"PostgreSQL: not measured: {str(error).splitlines()[0]}")
        return 0
    try:
        print("PostgreSQL")
        floors = {"floor": bare, "in four": bare.in_four}
        compare(floors, bare.url, repeats=options.repeats)
    finally:
        bare.close()
    return 0


def compare(floors: Mapping[str, Callable[[], float]], journal: str, *, repeats: int) -> None:
    """Measures and prints; `floors` begins with the one that ratios are to."""
    pipeline = chain()
    subjects: dict[str, Callable[[], float]] = {
        **floors,
        "one run": lambda: asyncio.run(journalled(pipeline, journal, runs=1)),
        f"{CONCURRENCY} runs": lambda: asyncio.run(journalled(pipeline, journal, runs=CONCURRENCY)),
    }
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for repeat in range(repeats + 1):
        for name, subject in subjects.items():
            seconds = subject()
            if repeat:  # the first round warms caches and files
                times[name].append(seconds)
    bare_us = statistics.median(times["floor"]) * 1e6
    print(f"floor: {APPENDS} commits of two rows, {bare_us:.0f} us each")
    for name in list(times)[1:]:
        ratio = statistics.median(a / b for a, b in zip(times[name], times["floor"], strict=True))
        taken_us = statistics.median(times[name]) * 1e6
        print(f"{name:<10}{taken_us:>8.0f} us a stage, ratio {ratio:.2f}")


if __name__ == "__main__":
    sys.exit(main())
