"""What a journalled stage costs beside the bare SQLite commits of the same bytes.

    python benchmarks/durable_chain.py [--folder DIR] [--repeats 5]

A chain of 100 stages is run with a SQLite journal (`synchronous=FULL`): one run, and 100 side by
side. Floor: one durable commit of two rows per stage, on one thread, on the same disk, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from journal_floor import APPENDS, Floor

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


async def journalled(pipeline: Pipeline[Any], path: Path, runs: int) -> float:
    """Seconds a stage."""
    async with Runtime(journal=path) as runtime:
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
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    pipeline = chain()
    times: dict[str, list[float]] = {"floor": [], "one run": [], f"{CONCURRENCY} runs": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        floor = Floor(Path(folder) / "floor.db")
        for repeat in range(options.repeats + 1):
            taken = {
                "floor": floor(),
                "one run": asyncio.run(
                    journalled(pipeline, Path(folder) / f"one{repeat}.db", runs=1)
                ),
                f"{CONCURRENCY} runs": asyncio.run(
                    journalled(pipeline, Path(folder) / f"many{repeat}.db", runs=CONCURRENCY)
                ),
            }
            for name, seconds in taken.items():
                if repeat:  # the first round warms caches and files
                    times[name].append(seconds)
        floor.close()
    bare_us = statistics.median(times["floor"]) * 1e6
    print(f"floor: {APPENDS} commits of two rows, {bare_us:.0f} us each")
    for name in list(times)[1:]:
        ratio = statistics.median(a / b for a, b in zip(times[name], times["floor"], strict=True))
        taken_us = statistics.median(times[name]) * 1e6
        print(f"{name:<10}{taken_us:>8.0f} us a stage, ratio {ratio:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
