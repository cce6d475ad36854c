"""What wide fan-outs give: the values of all branches, beside branches that fail."""

from __future__ import annotations

import asyncio
from typing import Final

from stageflow import Pipeline

from ...history import History
from ...world import World
from .wide_fan_outs import Body, BranchBroke, fan_out, mapped, present, reported, value_of

BRANCH_FAILS: Final = "a branch fails"
FAILING_SHARE: Final = 0.01
BODIES: Final[tuple[Body, ...]] = ("noop", "waits")
MAP_AT_ONCE: Final = 500


def run_widths(world: World, history: History) -> None:
    """Records a `fan_out` per width and body: once as it should be, once with failing branches."""
    widths = world.size["widths"]
    for done, width in enumerate(widths):
        for body in BODIES:
            failing = world.rng.sample(range(width), max(1, round(width * FAILING_SHARE)))
            asyncio.run(_one(history, "static", fan_out(width, body), width, []))
            broken = fan_out(width, body, failing=failing)
            asyncio.run(_one(history, "failing", broken, width, failing))
        world.progress(done + 1, len(widths), "widths")


def run_concurrent(world: World, history: History) -> None:
    """Records a `fan_out` for each of many that run side by side on one loop, some failing."""
    count, width = world.size["concurrent"], world.size["concurrent_width"]
    failing = world.rng.sample(range(width), max(1, round(width * FAILING_SHARE)))
    calm, broken = fan_out(width, "waits"), fan_out(width, "waits", failing=failing)

    async def side_by_side() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                pipeline, bad = (broken, failing) if number % 2 else (calm, [])
                group.create_task(_one(history, "concurrent", pipeline, width, bad))

    asyncio.run(side_by_side())


def run_mapped(world: World, history: History) -> None:
    """Records a `fan_out` per width of child runs that one stage starts."""
    pipeline = mapped(MAP_AT_ONCE)
    for width in world.size["widths"]:
        run = asyncio.run(pipeline.run(width=width))
        values = run.output if run.is_ok else []
        right = sum(value == value_of(n) for n, value in enumerate(values))
        _record(history, "mapped", width, owed=width, present=right, status=run.status)


async def _one(
    history: History, how: str, pipeline: Pipeline[dict[str, int]], width: int, failing: list[int]
) -> None:
    run = await pipeline.run(x=1)
    told = reported(run, failing)
    broke = sum(failure.type == BranchBroke.__name__ for failure in run.failures.values())
    history.fired(BRANCH_FAILS, broke)
    _record(
        history,
        how,
        width,
        owed=width - len(failing),
        present=present(run, width),
        status=run.status,
        failing=len(failing),
        reported=told if run.status == "partial" else 0,
    )


def _record(
    history: History,
    how: str,
    width: int,
    *,
    owed: int,
    present: int,
    status: str,
    failing: int = 0,
    reported: int = 0,
) -> None:
    history.record(
        "fan_out",
        how=how,
        width=width,
        owed=owed,
        present=present,
        status=status,
        failing=failing,
        reported=reported,
    )
