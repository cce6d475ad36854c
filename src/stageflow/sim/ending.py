"""The end of a simulated run: nothing it started outlives it, and what would have is named.

First every task is cancelled, in rounds, with virtual time and steps to clean up; then async
generators are closed; what still has not ended is closed by force.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any, cast

from stageflow.model.errors import SimulationError
from stageflow.sim.loop import SimLoop
from stageflow.sim.pending import describe
from stageflow.sim.schedule import Fifo

_ROUNDS = 4
"""Cancellations of one task: a cleanup that is itself cancelled may need more than one."""
_ROUND_S = 3_600.0
_ROUND_STEPS = 10_000
_ROUND_STEPS_PER_TASK = 1_000

Leftover = dict[int, str]
"""Label of a task that outlived `main`, and what it awaited. Labels, because a task kept here could
not be seen to be lost."""


def cancelled(loop: SimLoop, main: asyncio.Task[Any]) -> Leftover:
    """Cancel all tasks until they have ended or had their rounds; those other than `main`."""
    if not main.done():
        # The schedule, or what it led to, ended the run: cleanup must not depend on it.
        loop.pick = Fifo().begin()
    leftover = {
        loop.label_of(task): describe(task)
        for task in loop.pending()
        if task is not main and not loop.is_own(task)
    }
    for turn in range(_ROUNDS):
        pending = loop.pending()
        if not pending:
            break
        for task in pending:
            # A closing generator's cleanup runs undisturbed, unless it does not end by itself.
            if turn > 0 or not loop.is_own(task):
                task.cancel()
        del task, pending
        _run(loop, lambda: not loop.pending())
    return leftover


def settled(loop: SimLoop, leftover: Leftover) -> Leftover:
    """Close async generators and run what is ready; `leftover` with those who ignored it all."""
    gc.collect()
    closing = loop.create_task(loop.shutdown_asyncgens(), name="close async generators")
    _run(loop, lambda: closing.done() and loop.is_idle())
    gc.collect()
    ignored = {loop.label_of(task): describe(task) for task in loop.pending()}
    return {
        label: line + (", and ignored cancellation" if label in ignored else "")
        for label, line in {**ignored, **leftover}.items()
    }


def abandon(loop: SimLoop) -> None:
    """Close the loop, and by force what is suspended in it. Tasks then end without a word."""
    pending = loop.pending()
    loop.close()
    for task in pending:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        try:
            cast(Any, task.get_coro()).close()
        except Exception as error:
            # The last resort against a coroutine that refuses to end; it may raise anything.
            loop.unhandled.append(f"task {task.get_name()!r} refused to close: {error!r}")


def _run(loop: SimLoop, done: Callable[[], bool]) -> None:
    """Run until `done` or until the round's bounds; callers look at what has not ended."""
    loop.steps_max = loop.steps + _ROUND_STEPS + _ROUND_STEPS_PER_TASK * len(loop.pending())
    loop.ns_max = loop.now_ns + int(_ROUND_S * 1e9)
    try:
        loop.run_until(done)
    except SimulationError:
        loop.pick = Fifo().begin()
