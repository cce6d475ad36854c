"""A pipeline that worker processes run while they are killed: each entered stage leaves a line.

The file named by QUEUED_DESK_LOG gets "RUN NODE ATTEMPT" when a stage is entered. A stage waits
for QUEUED_DESK_S seconds; one called with the text "wait" waits for the file QUEUED_DESK_LOG.go.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from stageflow import Context, Pipeline, transform

LOG = Path(os.environ.get("QUEUED_DESK_LOG", os.devnull))
PACE_S = float(os.environ.get("QUEUED_DESK_S", "0"))


def entered(ctx: Context, node: str) -> None:
    handle = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{ctx.identity.run} {node} {ctx.attempt}\n".encode())
    os.close(handle)


@transform
async def first(text: str, ctx: Context) -> str:
    entered(ctx, "first")
    await asyncio.sleep(PACE_S)
    return text


@transform
async def left(first: str, ctx: Context) -> str:
    entered(ctx, "left")
    await asyncio.sleep(PACE_S)
    return first + "l"


@transform
async def right(first: str, ctx: Context) -> str:
    entered(ctx, "right")
    while first == "wait" and not LOG.with_suffix(".go").exists():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await asyncio.sleep(PACE_S)
    return first + "r"


@transform
async def last(left: str, right: str, ctx: Context) -> str:
    entered(ctx, "last")
    return left + right


DESK = Pipeline("queued", [first, left, right, last], inputs={"text": str}, outputs=last)
