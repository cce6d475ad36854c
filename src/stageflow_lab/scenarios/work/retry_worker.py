"""A process whose runs wait between attempts; it is killed there, and another takes its runs up.

`python -m stageflow_lab.scenarios.work.retry_worker FOLDER CLIENTS SABOTAGE` begins the runs when
there is no journal in FOLDER, and resumes them when there is. What happens is told in a file there.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

from stageflow import Context, Pipeline, Retry, Runtime, enrich

from .retry_defects import applied

WAITS: Final = Retry(attempts=3, base_s=6.0, max_s=6.0, jitter="equal")
"""Long enough for a process to be killed, and another to begin, in the middle of a wait."""
AT_ONCE: Final = 50
"""Runs that are opened side by side."""


def told(folder: Path, **line: Any) -> None:
    """Appends one line, whole, whoever else writes."""
    data = json.dumps({**line, "wall_s": time.time(), "pid": os.getpid()}) + "\n"
    file = os.open(folder / "told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(file, data.encode())
    finally:
        os.close(file)


def pipeline_of(folder: Path) -> Pipeline[Any]:
    """One stage that fails at its first attempt."""

    @enrich(retry=WAITS)
    async def flaky(number: int, ctx: Context) -> int:
        told(folder, kind="attempt", number=number, attempt=ctx.attempt)
        if ctx.attempt == 1:
            raise ConnectionRefusedError("not yet")
        return number

    return Pipeline("flaky", [flaky], inputs={"number": int}, outputs=flaky)


async def begin(folder: Path, clients: int) -> None:
    """Runs that all fail, and wait."""
    pipeline = pipeline_of(folder)
    async with Runtime(journal=folder / "journal.db") as runtime, asyncio.TaskGroup() as group:
        for number in range(clients):
            chosen = pipeline.using(runtime=runtime, run_id=f"run{number:05d}")
            group.create_task(_run(chosen, number))
            if number % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)


async def _run(pipeline: Pipeline[Any], number: int) -> None:
    await pipeline.run(number=number)


async def resume(folder: Path, clients: int) -> None:
    """Takes all runs up; tells when each was due, by its journal, and how it ended."""
    pipeline = pipeline_of(folder)
    async with Runtime(journal=folder / "journal.db") as runtime:

        async def one(number: int) -> None:
            run = f"run{number:05d}"
            due = [
                record.data["due_wall_s"]
                for record in (await runtime.load(run)).records
                if record.type.value == "retry_due"
            ]
            told(folder, kind="due", number=number, due_wall_s=due[-1] if due else None)
            ended = await runtime.resume(run, pipeline=pipeline)
            told(folder, kind="ended", number=number, status=ended.status)

        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(one(number))


def main(arguments: list[str]) -> int:
    """Begin, or resume."""
    folder, clients = Path(arguments[0]), int(arguments[1])
    there = (folder / "journal.db").exists()
    with applied(arguments[2] or None):
        asyncio.run(resume(folder, clients) if there else begin(folder, clients))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
