"""Work that is done to its end, even when whoever awaits it is cancelled meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def unbroken(work: Coroutine[Any, Any, T]) -> tuple[T, bool]:
    """What `work` gives, however often the caller is cancelled, and whether it was."""
    task = asyncio.get_running_loop().create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
        except BaseException:
            if not task.done():
                raise  # the waiting stage is killed: its time to end is over
    return task.result(), cancelled


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """`unbroken` for work whose result nobody needs who was cancelled."""
    made, cancelled = await unbroken(work)
    if cancelled:
        raise asyncio.CancelledError
    return made
