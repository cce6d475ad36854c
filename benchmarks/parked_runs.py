"""How much memory a run holds while one of its stages waits.

    python benchmarks/parked_runs.py [--runs 2000]

Runs of six stages of which the fifth waits, beside a bare task that waits: what is allocated for
each, in KiB, by tracemalloc.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tracemalloc

from stageflow import Pipeline, Stage, agent, transform


def parked() -> tuple[Pipeline[dict[str, int]], list[asyncio.Future[None]]]:
    """A pipeline whose fifth stage waits for a future, and those futures."""
    waiting: list[asyncio.Future[None]] = []

    async def body(x: int) -> int:
        return x

    @agent
    async def waits(x: int) -> int:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(future)
        await future
        return x

    first = transform(body, name="s0")
    stages: list[Stage[..., int]] = [first]
    for number in range(1, 4):
        stages.append(first.named(f"s{number}", x=stages[-1]))
    stages.append(waits.named(x=stages[-1]))
    stages.append(first.named("last", x=stages[-1]))
    return Pipeline("parked", stages, inputs={"x": int}, outputs=[stages[-1]]), waiting


async def kib_per_run(runs: int) -> float:
    """Of a run that waits."""
    pipeline, waiting = parked()
    handle = pipeline.start(x=0)
    while not waiting:  # noqa: ASYNC110  (until the stage waits)
        await asyncio.sleep(0)
    waiting.pop().set_result(None)
    await handle
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    handles = [pipeline.start(x=1) for _ in range(runs)]
    while len(waiting) < runs:  # noqa: ASYNC110  (until all stages wait)
        await asyncio.sleep(0)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    for future in waiting:
        future.set_result(None)
    for handle in handles:
        assert (await handle).status == "ok"
    return held / runs / 1024


async def kib_per_task(tasks: int) -> float:
    """Of a bare task that waits for a future."""

    async def waits(future: asyncio.Future[None]) -> None:
        await future

    loop = asyncio.get_running_loop()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    futures = [loop.create_future() for _ in range(tasks)]
    started = [asyncio.create_task(waits(future)) for future in futures]
    await asyncio.sleep(0)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    for future in futures:
        future.set_result(None)
    for task in started:
        await task
    return held / tasks / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=2_000)
    options = parser.parse_args()
    tracemalloc.start()
    task = asyncio.run(kib_per_task(options.runs))
    run = asyncio.run(kib_per_run(options.runs))
    print(
        f"a waiting run {run:.2f} KiB, a bare waiting task {task:.2f} KiB, ratio {run / task:.1f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
