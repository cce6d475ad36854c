"""The runs that a run's stages start: begun, found again, driven to their end, taken back.

A child has an engine of its own, in a task of its parent's run: depth costs no stack, and whoever
cancels the stage waits until the child is over.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from stageflow.model.errors import RunError, StageflowError
from stageflow.model.kinds import Kind
from stageflow.runtime.arguments import check_key, check_pipeline
from stageflow.runtime.lingering import RUN
from stageflow.runtime.waits import Caller
from stageflow.scheduler import NEEDS_PERSON, PAST_PIVOT, Action

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver
    from stageflow.runtime.outcome import Run
    from stageflow.runtime.pipeline import Pipeline

BY_PARENT = ("parent_cancelled", "parent_ended")
"""Reasons with which a parent ends its children."""


async def run_child(
    driver: Driver,
    number: int,
    pipeline: Pipeline[Any],
    key: str,
    inputs: Mapping[str, Any],
    deadline_s: float,
    *,
    caller: asyncio.Task[Any] | None = None,
) -> Run[Any]:
    """Runs a child in tasks of its own, so that depth costs no stack. `caller` is the stage's
    task that waits for it, when that is not the current one.

    A child that this stage ran before under the same key is not run again when it ended ok;
    one that a crash cut off, or that failed, goes on.
    """
    check_pipeline(pipeline, may_lack=False)
    check_key(key, "ctx.run(pipeline, key=f'item-{number}', ...)")
    again = _take_key(driver, number, pipeline, key)
    try:
        making = _made(driver, number, pipeline, key, inputs, deadline_s, again=again)
        child, first, is_cancelled = await making
        run = await _drive(driver, number, child, first, is_cancelled=is_cancelled, caller=caller)
        if child.flows:
            driver.flows = True
            driver.flow.child_gave(number, child.flow.outputs())
        return run
    finally:
        driver.keys[number, key] = False


def _take_key(driver: Driver, number: int, pipeline: Pipeline[Any], key: str) -> bool:
    """Keeps `key` for a child of this node; True when the node may have had one under it."""
    if driver.depth + 1 >= driver.limits.depth:
        raise StageflowError(
            "run.too_deep",
            f"pipelines are nested deeper than {driver.limits.depth}",
            pipeline=pipeline.name,
            node=driver.nodes[number].name,
            expected=f"at most {driver.limits.depth} levels",
            fix="end the recursion, or raise Limits(depth=...)",
        )
    under_way = driver.keys.get((number, key))
    if under_way:
        raise StageflowError(
            "run.key_in_use",
            f"stage {driver.nodes[number].name!r} runs two children under one key at a time",
            pipeline=driver.plan.name,
            node=driver.nodes[number].name,
            expected="a key of its own for each child",
            got=repr(key)[:80],
            fix="ctx.run(pipeline, key=f'item-{number}', ...)",
        )
    driver.keys[number, key] = True
    return under_way is not None or driver.scheduler.attempt[number] > 1


async def _made(
    driver: Driver,
    number: int,
    pipeline: Pipeline[Any],
    key: str,
    inputs: Mapping[str, Any],
    deadline_s: float,
    *,
    again: bool,
) -> tuple[Driver, list[Action] | None, bool]:
    """The child's driver, its first actions when it was recovered, and whether the stage was
    cancelled meanwhile."""
    # Another revision answers other feedback: its children are others too.
    revision = driver.scheduler.revision[number]
    name = driver.nodes[number].name
    making = driver.runtime.child(
        driver,
        pipeline,
        node=name if revision == 1 else f"{name}#{revision}",
        key=key,
        inputs=inputs,
        labels=driver.taken_labels(number),
        deadline_s=deadline_s,
        again=again,
    )
    if again and driver.history is not None:
        (child, first), is_cancelled = await _taken_up(driver, making)
    else:
        (child, first), is_cancelled = await making, False
    child.parent_undoes = driver.nodes[number].kind is Kind.CHILD
    if driver.history is None and child.scheduler.is_saga:
        driver.kept_children.setdefault((number, key), []).append(child)
    child.priority = driver.priority + driver.nodes[number].priority + pipeline.options.priority
    return child, first, is_cancelled


async def undo_child(driver: Driver, number: int, pipeline: Pipeline[Any], key: str) -> None:
    """Takes back what the step that node `number` undoes has run under `key`."""
    undone = driver.nodes[number].undoes
    if undone is None:
        raise RunError(
            "run.not_an_undo",
            f"node {driver.nodes[number].name!r} undoes nothing",
            pipeline=driver.plan.name,
            node=driver.nodes[number].name,
            expected="ctx.undo(...) in the undo of the stage that ran the child",
            fix="@work(undo=taken_back) on that stage, and ctx.undo in taken_back",
        )
    name = driver.nodes[undone].name
    if driver.history is not None:
        making = driver.runtime.to_take_back(driver, pipeline, node=name, key=key)
        found, is_cancelled = await _taken_up(driver, making)
        if found is not None:
            child, first = found
            run = await _drive(driver, number, child, first, is_cancelled=is_cancelled)
            _check_undone(driver, name, run)
        return
    for kept in reversed(driver.kept_children.get((undone, key), ())):
        child, first = driver.runtime.taken_back(kept)
        _check_undone(driver, name, await _drive(driver, number, child, first))


def _check_undone(driver: Driver, name: str, run: Run[Any]) -> None:
    word = run.reason.partition(":")[0]
    if run.status != "suspended" and word not in NEEDS_PERSON:
        return
    is_past = word == "past_pivot"
    raise RunError(
        PAST_PIVOT if is_past else "run.undo_stuck",
        f"the run that {name!r} started can't be taken back: {run.reason}",
        pipeline=driver.plan.name,
        node=name,
        expected="every step of it undone",
        got=f"run {run.id}: {run.reason}",
        fix="resume this run when what failed is mended: it only goes forward"
        if is_past
        else "runtime.settle(...) what is stuck in that run, then resume this one",
    )


async def _drive(
    driver: Driver,
    number: int,
    child: Driver,
    first: list[Action] | None,
    *,
    is_cancelled: bool = False,
    caller: asyncio.Task[Any] | None = None,
) -> Run[Any]:
    """Runs `child` to its end, for the stage of node `number`."""
    task = _start(driver, number, child, first, caller)
    assert child.left is not None, "it was started just now"
    if is_cancelled:
        child.left.cancel()
    try:
        await child.left
    except asyncio.CancelledError:
        await _end(driver, number, child, task)
        raise
    return task.result()


async def _taken_up(
    driver: Driver, making: Coroutine[Any, Any, tuple[Driver, list[Action] | None] | None]
) -> tuple[Any, bool]:
    """What `making` gives, and whether the stage was cancelled meanwhile: a run that was
    claimed must be driven to an end, or it would stand as running for ever."""
    task = driver.loop.create_task(making, context=driver.neutral.copy())
    driver.workers[task] = None
    task.add_done_callback(driver.workers.pop, context=driver.neutral)
    try:
        return await asyncio.shield(task), False
    except asyncio.CancelledError:
        await driver.settled([task])
        if task.cancelled() or task.exception() is not None:
            raise
        found = task.result()
        if found is None or found[1] is None:
            raise  # no run, or a new one, of which nothing is on record yet
        return found, True


def _start(
    driver: Driver,
    number: int,
    child: Driver,
    first: list[Action] | None,
    caller: asyncio.Task[Any] | None = None,
) -> asyncio.Task[Run[Any]]:
    waits = asyncio.current_task() if caller is None else caller
    assert waits is not None, "stages run in tasks"
    context = contextvars.copy_context()
    context.run(RUN.set, None)  # the child's engine is nothing that a stage left behind
    task = driver.loop.create_task(child.execute(first), context=context)
    child.parent = driver
    child.left = driver.loop.create_future()
    driver.workers[task] = child
    task.add_done_callback(partial(_leave, child), context=driver.neutral)
    child.caller = Caller(waits, driver.nodes[number].name)
    return task


def _leave(child: Driver, task: asyncio.Task[Run[Any]]) -> None:
    """This child is over: its parent forgets it, and the stage that started it goes on."""
    assert child.parent is not None and child.left is not None, "only a child leaves"
    child.parent.workers.pop(task)
    if not task.cancelled():
        task.exception()  # heard of, also when the stage is cancelled before it asks
    if not child.left.done():
        child.left.set_result(None)


async def _end(driver: Driver, number: int, child: Driver, task: asyncio.Task[Any]) -> None:
    """The stage was cancelled: so is its child, and the stage waits until that is over."""
    attempt = driver.attempts.get(number)
    is_stopped = attempt is not None and attempt.why is not None
    over_by_s = attempt.over_by_s if attempt is not None and is_stopped else driver.over_by_s
    child.cancel(BY_PARENT[0], over_by_s=over_by_s)
    if attempt is None or attempt.task is not asyncio.current_task():
        await driver.settled([task])  # the stage runs its child in a task of its own
        return
    attempt.child = child
    try:
        await driver.settled([task])
    finally:
        attempt.child = None
