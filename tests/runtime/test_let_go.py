"""A run that is over is freed at once, with all its values: no cycle waits for the collector."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stageflow import Allow, Block, Context, Pipeline, Runtime, guard, transform
from stageflow.runtime.driver import Driver

INPUTS = {"x": int}


@transform
async def given(x: int) -> int:
    return x


@transform
def threaded(x: int) -> int:
    return x


@guard
async def allowed(given: int) -> Allow | Block:
    return Allow() if given else Block("zero")


@transform
async def failing(x: int) -> int:
    raise ValueError(x)


@transform
def failing_in_a_thread(x: int) -> int:
    raise ValueError(x)


@transform(timeout=0.01)
async def overdue(x: int) -> int:
    await asyncio.sleep(30)
    return x


@transform
async def calling(x: int, ctx: Context) -> int:
    below: int = await ctx.run(
        Pipeline("below", [given], inputs=INPUTS, outputs=given), key="k", x=x
    )
    return below


@transform
async def leaving(x: int) -> int:
    asyncio.get_running_loop().create_task(asyncio.sleep(0))
    return x


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("journalled", [False, True])
@pytest.mark.parametrize(
    "stages",
    [
        [given],
        [threaded],
        [given, allowed],
        [failing],
        [failing_in_a_thread],
        [overdue],
        [calling],
        [leaving],
    ],
    ids=lambda stages: stages[-1].name,
)
async def test_a_run_that_is_over_is_freed_at_once(
    stages: list[Any],
    journalled: bool,
    tmp_path: Path,
    sound_runs: list[Driver],
    uncollected: None,
) -> None:
    pipeline = Pipeline("one", stages, inputs=INPUTS, outputs=stages[0])
    async with Runtime(journal=tmp_path / "runs.db" if journalled else None) as runtime:
        run = await pipeline.using(runtime=runtime).run(x=1)
        assert run.status in ("ok", "failed")
        del run
        sound_runs.clear()
        for _ in range(100):
            if not (left := [each for each in gc.get_objects() if type(each) is Driver]):
                break
            del left
            await asyncio.sleep(0.01)
        else:
            pytest.fail("the run is held by a cycle, or by what outlives it")


async def test_a_run_that_ends_its_tasks_after_it_was_let_go_of_is_not_held_again(
    sound_runs: list[Driver], uncollected: None
) -> None:
    """As one does whose caller is cancelled while it ends."""
    await Pipeline("one", [failing], inputs=INPUTS, outputs=failing).run(x=1)
    driver = sound_runs.pop()
    assert driver.is_over
    await driver._end_tasks()
    assert driver.kin.driver is None
