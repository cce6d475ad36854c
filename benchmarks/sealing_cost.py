"""What sealing costs: a journalled run with a guard, sealed, as a ratio to the same run unsealed.

`python benchmarks/sealing_cost.py [RUNS]` prints the median ratio over pairs of runs, one sealed
and one not, taken in turns in one process; in memory and in a SQLite file, by payload size.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from stageflow import UNSEALED, Allow, Decision, Pipeline, Redact, Runtime, guard, transform
from stageflow.journal.journal import GroupCommit
from stageflow.journal.memory import MemoryStore

SIZES = (100, 10_000, 1_000_000)


def desk(decision: Decision) -> Pipeline[Any]:
    @transform
    async def draft(text: str) -> str:
        return text

    @guard
    async def checked(draft: str) -> Decision:
        return decision

    @transform
    async def final(draft: str) -> int:
        return len(draft)

    stages = [draft, checked, final]
    return Pipeline("desk", stages, inputs={"text": str}, outputs=final)


async def seconds(pipeline: Pipeline[Any], runtime: Runtime, text: str) -> float:
    began_s = time.perf_counter()
    run = await pipeline.using(runtime=runtime).run(text=text)
    assert run.status == "ok"
    return time.perf_counter() - began_s


async def measured(runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for where in ("memory", "sqlite"):
            for name, decision in (("allow", Allow()), ("redact", Redact("clean"))):
                pipeline = desk(decision)
                for size in SIZES:
                    ratios, plain_s = await pairs(pipeline, Path(folder), where, size, runs)
                    print(
                        f"{where:7} {name:7} {size:9} bytes: {statistics.median(ratios):.2f} times"
                        f" of {statistics.median(plain_s) * 1e3:.2f} ms unsealed"
                    )


async def pairs(
    pipeline: Pipeline[Any], folder: Path, where: str, size: int, runs: int
) -> tuple[list[float], list[float]]:
    def journal(name: str) -> Any:
        return GroupCommit(MemoryStore()) if where == "memory" else folder / f"{name}.db"

    ratios, plain_s = [], []
    text = "x" * size
    async with (
        Runtime(journal=journal("sealed")) as sealed,
        Runtime(journal=journal("plain"), keys=UNSEALED) as plain,
    ):
        for number in range(runs + 5):
            first, second = (sealed, plain) if number % 2 else (plain, sealed)
            one, two = [await seconds(pipeline, each, text) for each in (first, second)]
            if number >= 5:
                sealed_s, unsealed_s = (one, two) if number % 2 else (two, one)
                ratios.append(sealed_s / unsealed_s)
                plain_s.append(unsealed_s)
    return ratios, plain_s


if __name__ == "__main__":
    asyncio.run(measured(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
