"""Pipelines that are deep: chains of stages, and pipelines that run each other level by level."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Literal

from stageflow import Context, Pipeline, Stage, transform

Visit = Callable[[int], None]
"""Called in the body of a stage with its depth, 0 being the first; may raise."""


def ignore(depth: int) -> None:
    """A visit that does nothing."""


def chain(
    depth: int,
    visit: Visit | None = None,
    *,
    waits: bool = False,
    on_failure: Literal["stop", "isolate"] = "stop",
) -> Pipeline[int]:
    """Stages s0, s1, ... of which each adds one; started with x=0, the output is `depth`.

    Without `visit` the bodies do nothing else. `waits` makes each stage wait once for the loop.
    """
    seen = ignore if visit is None else visit

    @transform
    async def link(x: int) -> int:
        return x + 1

    @transform(on_failure=on_failure)
    async def watched(x: int) -> int:
        seen(x)
        if waits:
            await asyncio.sleep(0)
        return x + 1

    plain = visit is None and not waits and on_failure == "stop"
    stages = _in_line(link if plain else watched, depth)
    return Pipeline("chain", stages, inputs={"x": int}, outputs=stages[-1])


def text_chain(depth: int, letters: int) -> Pipeline[str]:
    """A chain whose every stage gives a text of its own, `letters` long."""

    @transform
    async def link(x: str) -> str:
        return str(int(x) + 1).zfill(letters)

    stages = _in_line(link, depth)
    return Pipeline("texts", stages, inputs={"x": str}, outputs=stages[-1])


def nest(levels: int, visit: Visit = ignore) -> Pipeline[int]:
    """`levels` pipelines, each run by a stage of the one above; the output is `levels`.

    Level n has stages beforeN (calls `visit`), callN (runs level n + 1) and afterN; the innermost
    has its `before` alone.
    """
    inner: Pipeline[int] | None = None
    for level in reversed(range(levels)):
        inner = _level(level, inner, visit)
    assert inner is not None, "at least one level"
    return inner


def text_bytes(depth: int, letters: int) -> int:
    """What the outputs of a `text_chain` weigh by themselves."""
    return depth * sys.getsizeof("1" * letters)


def _in_line(template: Stage[..., Any], depth: int) -> list[Stage[..., Any]]:
    stages = [template.named("s0")]
    for at in range(1, depth):
        stages.append(template.named(f"s{at}", x=f"s{at - 1}"))
    return stages


def _level(level: int, inner: Pipeline[int] | None, visit: Visit) -> Pipeline[int]:
    @transform
    async def before(x: int) -> int:
        visit(level)
        return x + 1

    head = before.named(f"before{level}")
    if inner is None:
        return Pipeline(f"level{level}", [head], inputs={"x": int}, outputs=head)

    @transform
    async def call(before: int, ctx: Context) -> int:
        return await ctx.run(inner, key="inner", x=before)

    @transform
    async def after(call: int) -> int:
        return call

    calling = call.named(f"call{level}", before=head)
    tail = after.named(f"after{level}", call=calling)
    return Pipeline(f"level{level}", [head, calling, tail], inputs={"x": int}, outputs=tail)
