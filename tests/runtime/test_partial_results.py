"""Isolated failures and every other exit: what is done stays, and what is missing says why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from stageflow import (
    Block,
    Context,
    Decision,
    Pipeline,
    Run,
    RunError,
    Runtime,
    StageFailed,
    StageOutput,
    approval,
    guard,
    transform,
)
from stageflow.testing import memory_journal


@transform
async def done(x: int) -> list[int]:
    return [x]


@transform(on_failure="isolate")
async def refuses(x: int) -> str | StageOutput:
    return StageOutput.fail("no such order", data={"order": x, "tried": ["a", "b"]})


@transform(on_failure="isolate")
async def raises(x: int) -> str:
    try:
        raise TimeoutError("no answer in 3 s")
    except TimeoutError as error:
        raise ConnectionError("the index is away") from error


@transform
async def behind_refuses(refuses: str) -> str:
    return refuses


@transform
async def behind_raises(raises: str) -> str:
    return raises


@transform
async def behind_both(behind_refuses: str, raises: str) -> str:
    return behind_refuses + raises


@transform(on_failure="isolate")
async def passes_over(x: int) -> str | StageOutput:
    return StageOutput.skip("nothing to add")


@transform
async def behind_skip(passes_over: str) -> str:
    return passes_over


BROKEN = (refuses, raises, behind_refuses, behind_raises, behind_both, passes_over, behind_skip)


def desk(*more: Any, outputs: Any = None) -> Pipeline[Any]:
    return Pipeline("desk", [done, *BROKEN, *more], inputs={"x": int}, outputs=outputs)


def test_dependants_of_an_isolated_failure_are_skipped_and_the_run_is_partial() -> None:
    run = asyncio.run(desk().run(x=7))
    states = {name: (node.state, node.cause, node.blame) for name, node in run.nodes.items()}
    assert states == {
        "done": ("ok", "none", None),
        "refuses": ("failed", "own", "refuses"),
        "raises": ("failed", "own", "raises"),
        "behind_refuses": ("skipped", "parent_failed", "refuses"),
        "behind_raises": ("skipped", "parent_failed", "raises"),
        "behind_both": ("skipped", "parent_failed", "refuses"),
        "passes_over": ("skipped", "own", "passes_over"),
        "behind_skip": ("skipped", "parent_skipped", "passes_over"),
    }
    assert run.status == "partial" and run.output == {"done": [7]}
    with pytest.raises(StageFailed):
        run.value_or_raise()


@pytest.mark.parametrize(
    ("key", "blamed", "says"),
    [
        (refuses, "refuses", "no such order"),
        (behind_refuses, "refuses", "no such order"),
        (behind_both, "refuses", "no such order"),
        (raises, "raises", "the index is away"),
        (behind_raises, "raises", "the index is away"),
    ],
)
async def test_a_missing_output_raises_the_failure_by_which_it_is_missing(
    key: Any, blamed: str, says: str
) -> None:
    run = await desk().run(x=7)
    with pytest.raises(StageFailed, match=says) as caught:
        run[key]
    assert caught.value.failure.node == blamed and caught.value.status == "partial"
    if blamed == "raises":
        assert isinstance(caught.value.__cause__, ConnectionError)
        assert isinstance(caught.value.__cause__.__cause__, TimeoutError)


async def test_a_skip_among_failures_is_told_as_a_skip() -> None:
    run = await desk().run(x=7)
    with pytest.raises(RunError, match=r"parent_skipped by 'passes_over' \(nothing to add\)"):
        run[behind_skip]


def _is_told(run: Run[Any]) -> None:
    """What finished, the failing stages' own data and the chain of causes."""
    assert run[done] == [7]
    assert run.failures["refuses"].data == {"order": 7, "tried": ["a", "b"]}
    assert run.nodes["refuses"].reason == "no such order"
    assert run.nodes["passes_over"].reason == "nothing to add"
    assert "caused by TimeoutError: no answer in 3 s" in run.failures["raises"].traceback
    with pytest.raises(StageFailed, match="no such order"):
        run[behind_refuses]


@transform
async def slow(x: int, ctx: Context) -> int:
    await asyncio.sleep(0.05)
    return x


@transform
async def breaks(slow: int) -> int:
    raise ValueError("late")


@guard
async def says_no(slow: int) -> Decision:
    return Block("not this one")


@transform
async def cancels(slow: int) -> int | StageOutput:
    return StageOutput.cancel("enough")


EXITS: dict[str, Callable[[], Pipeline[Any]]] = {
    "partial": desk,
    "failed": lambda: desk(slow, breaks),
    "failed by timeout": lambda: desk(slow).using(deadline=0.02),
    "blocked": lambda: desk(slow, says_no, outputs=slow),
    "cancelled": lambda: desk(slow, cancels),
    "suspended": lambda: desk(approval("asked", str, of=done)),
}


@pytest.mark.parametrize("name", EXITS)
async def test_on_every_exit_the_same_is_readable(name: str) -> None:
    async with Runtime(journal=memory_journal()) as runtime:
        pipeline = EXITS[name]()
        run = await pipeline.using(runtime=runtime).run(x=7)
        assert run.status == name.partition(" ")[0]
        _is_told(run)
        loaded = await runtime.load(run.id)
        assert loaded.status == run.status


@pytest.mark.parametrize("name", EXITS)
async def test_without_a_journal_it_is_too(name: str) -> None:
    pipeline = EXITS[name]()
    handle = pipeline.start(x=7)
    if name == "suspended":  # nothing would ever wake it
        await asyncio.sleep(0.01)
        handle.cancel()
    _is_told(await handle)


async def test_a_cancelled_run_does_not_blame_an_isolated_failure() -> None:
    handle = desk(slow).start(x=7)
    await asyncio.sleep(0.01)
    handle.cancel()
    run = await handle
    with pytest.raises(RunError, match="run_ended"):
        run[slow]
    run = await EXITS["failed by timeout"]().run(x=7)
    assert run.reason == "timeout"
    with pytest.raises(RunError, match="timeout"):
        run[slow]


async def test_what_was_said_is_readable_after_a_restart() -> None:
    """A suspended run, taken up by another runtime, still tells what failed before."""
    async with Runtime(journal=memory_journal()) as runtime:
        pipeline = EXITS["suspended"]()
        run = await pipeline.using(runtime=runtime).run(x=7)
        answered = await runtime.signal(run.id, "asked", "yes", by="Ann", pipeline=pipeline)
        _is_told(await answered)


async def test_a_child_that_is_partial_raises_its_failure_in_its_parent() -> None:
    child = desk(outputs=done)

    @transform
    async def outer(x: int, ctx: Context) -> Any:
        return await ctx.run(child, key="child", x=x)

    run = await Pipeline("outer", [outer], inputs={"x": int}, outputs=outer).run(x=7)
    assert run.status == "failed"
    assert run.failures["outer"].path == ("outer", "refuses")
    assert run.failures["outer"].data == {"order": 7, "tried": ["a", "b"]}


async def test_a_suspended_run_beside_an_isolated_failure_can_be_cancelled() -> None:
    """Taken up again, the stage that failed has another attempt; it must not be waited for."""
    async with Runtime(journal=memory_journal()) as runtime:
        pipeline = EXITS["suspended"]()
        run = await pipeline.using(runtime=runtime).run(x=7)
        async with asyncio.timeout(5):
            ended = await runtime.cancel(run.id, pipeline=pipeline)
    assert ended.status == "cancelled" and ended[done] == [7]
