"""Run as a script with another framework on the path: a fan-out per line of input, timed.

Its answer to a width is "CPU-SECONDS OUTPUTS". Nothing of this project is imported here.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from typing import Any


def main() -> None:
    """Serves until its input ends. Its public entry points are those its own guide shows."""
    api = importlib.import_module("stageflow.api")
    context = importlib.import_module("stageflow.stages.context").PipelineContext

    async def branch(ctx: Any) -> dict[str, int]:
        return {"value": 1}

    pipelines: dict[int, Any] = {}
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            width = int(line)
            if width not in pipelines:
                stages = [
                    api.stage(f"s{number}", branch, api.StageKind("enrich"), ())
                    for number in range(width)
                ]
                pipelines[width] = api.Pipeline.from_stages(*stages, name="fan_out")
            # A built graph keeps state of its run: each run needs one, and only running is timed.
            graph, given = pipelines[width].build(), context.create(topology="fan_out")
            started = time.process_time()
            results = runner.run(graph.run(given))
            sys.stdout.write(f"{time.process_time() - started} {len(results)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
