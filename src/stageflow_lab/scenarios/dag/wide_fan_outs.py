"""Wide fan-outs: pipelines of many stages side by side, and the least code that does the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

from stageflow import Context, Pipeline, Run, Stage, enrich, transform

Body = Literal["noop", "waits", "busy"]
STAGE_S: Final = 0.001
PAGE: Final = "All happy families are alike; each unhappy family is unhappy in its own way. " * 213
"""What every branch is given: one page of 16 KiB, which can't be changed and need not be copied."""


class BranchBroke(Exception):
    """What a failing branch raises; its message is the branch's number."""


def name_of(number: int) -> str:
    """The stage's name."""
    return f"s{number}"


def value_of(number: int) -> int:
    """What that branch gives: no two alike, and all made from the page."""
    return len(PAGE) + number


def fan_out(width: int, body: Body, *, failing: Collection[int] = ()) -> Pipeline[dict[str, Any]]:
    """A page, and `width` stages that take it; those in `failing` raise BranchBroke."""

    @transform
    async def page(x: int) -> str:
        return PAGE

    bad = frozenset(failing)
    branches = [_BRANCHES[body](number, number in bad) for number in range(width)]
    return Pipeline("fan_out", [page, *branches], inputs={"x": int}, outputs=branches)


def mapped(at_once: int) -> Pipeline[list[int]]:
    """A stage that runs one child per item, `at_once` side by side; give it `width`."""

    @enrich
    async def branch(number: int, page: str) -> int:
        return len(page) + number

    child = Pipeline("branch", [branch], inputs={"number": int, "page": str}, outputs=branch)

    @enrich
    async def branches(width: int, ctx: Context) -> list[int]:
        items = ({"number": number, "page": PAGE} for number in range(width))
        return await ctx.map(child, items, at_once=at_once)

    return Pipeline("mapped", [branches], inputs={"width": int}, outputs=branches)


async def run_all(pipeline: Pipeline[Any], times: int = 1) -> None:
    """Runs it, again and again."""
    for _ in range(times):
        await pipeline.run(x=1)


async def bare(width: int, body: Body, times: int = 1) -> None:
    """The floor: a task group of as many tasks, each taking the page and giving a number."""
    branch = _FLOORS[body]
    for _ in range(times):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(branch(PAGE, number)) for number in range(width)]
        values = {name_of(number): task.result() for number, task in enumerate(tasks)}
        assert len(values) == width


def present(run: Run[Any], width: int) -> int:
    """How many branches of the run have their own value."""
    return sum(name_of(n) in run and run[name_of(n)] == value_of(n) for n in range(width))


def reported(run: Run[Any], failing: Collection[int]) -> int:
    """How many failures the run tells under their stage's name, with their own message."""
    told = {name: failure.message for name, failure in run.failures.items()}
    return sum(told.get(name_of(number)) == str(number) for number in failing)


def _noop(number: int, breaks: bool) -> Stage[..., Any]:
    @enrich(name=name_of(number), on_failure="isolate")
    async def branch(page: str) -> int:
        if breaks:
            raise BranchBroke(number)
        return len(page) + number

    return branch


def _waits(number: int, breaks: bool) -> Stage[..., Any]:
    @enrich(name=name_of(number), on_failure="isolate")
    async def branch(page: str) -> int:
        await asyncio.sleep(STAGE_S)
        if breaks:
            raise BranchBroke(number)
        return len(page) + number

    return branch


def _busy(number: int, breaks: bool) -> Stage[..., Any]:
    @enrich(name=name_of(number), on_failure="isolate")
    async def branch(page: str) -> int:
        _spin()
        if breaks:
            raise BranchBroke(number)
        return len(page) + number

    return branch


def _spin() -> None:
    until = time.perf_counter() + STAGE_S
    while time.perf_counter() < until:
        pass


async def _bare_noop(page: str, number: int) -> int:
    return len(page) + number


async def _bare_waits(page: str, number: int) -> int:
    await asyncio.sleep(STAGE_S)
    return len(page) + number


async def _bare_busy(page: str, number: int) -> int:
    _spin()
    return len(page) + number


_BRANCHES: Final[Mapping[Body, Callable[[int, bool], Stage[..., Any]]]] = MappingProxyType(
    {"noop": _noop, "waits": _waits, "busy": _busy}
)
_FLOORS: Final[Mapping[Body, Callable[[str, int], Coroutine[Any, Any, int]]]] = MappingProxyType(
    {"noop": _bare_noop, "waits": _bare_waits, "busy": _bare_busy}
)
