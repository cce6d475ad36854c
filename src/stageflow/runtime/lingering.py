"""Tasks that a stage started and left behind: found, cancelled, and counted.

Read only when a run did not end well. A task belongs to a run when its context does; contexts of
tasks are public from Python 3.12 on, and before that are read off the callback through which the
task waits.
"""

from __future__ import annotations

import asyncio
from contextvars import Context, ContextVar
from typing import Any

RUN: ContextVar[object | None] = ContextVar("stageflow_run", default=None)
"""The driver in whose context code runs; set once per run, inherited by tasks made there."""


async def end_lingering(
    owner: object, *, workers: set[asyncio.Task[Any]], grace_s: float
) -> list[str]:
    """Cancels the tasks of `owner`'s stages and waits up to `grace_s` for them.

    Returns the names of those that would not end.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + grace_s
    ours = _tasks_of(owner, workers)
    if not ours:
        # A task that is about to run shows no context; it waits or is over one turn later.
        await asyncio.sleep(0)
        ours = _tasks_of(owner, workers)
    while ours and loop.time() < deadline:
        for task in ours:
            task.cancel()
        await asyncio.wait(ours, timeout=max(0.0, deadline - loop.time()))
        ours = _tasks_of(owner, workers)
    return sorted(task.get_name() for task in ours)


def _tasks_of(owner: object, workers: set[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    current = asyncio.current_task()
    found = []
    for task in asyncio.all_tasks():
        if task is current or task in workers or task.done():
            continue
        context = _context_of(task)
        if context is not None and context.get(RUN) is owner:
            found.append(task)
    return found


def _context_of(task: asyncio.Task[Any]) -> Context | None:
    get_context = getattr(task, "get_context", None)
    if get_context is not None:
        context: Context = get_context()
        return context
    waiter = getattr(task, "_fut_waiter", None)
    for callback, context in getattr(waiter, "_callbacks", None) or ():
        if getattr(callback, "__self__", None) is task:
            return context
    return None
