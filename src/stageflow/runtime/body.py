"""How a stage's function is begun: in place, in a thread, in a process, or as a generator."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextvars import Context
from typing import TYPE_CHECKING, Any

from stageflow.graph import Node
from stageflow.model.bag import MISSING
from stageflow.model.values import thaw
from stageflow.runtime.cache import found
from stageflow.runtime.inquiry import asked
from stageflow.runtime.interim import begin_anew, emit, emit_from_thread, keep_item
from stageflow.runtime.labels import check_accepted
from stageflow.runtime.processes import address_of

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver


def begin(
    driver: Driver, node: Node, context: Context, started_s: float
) -> tuple[Coroutine[Any, Any, Any] | None, Any]:
    """(coroutine to be stepped, None), or (None, the value) for a stage that is done at once."""
    stage = node.stage
    assert stage is not None, "inputs are never handed out"
    if node.fallback is not None and driver.scheduler.stands(node.index):
        return None, thaw(driver.bag.values[node.fallback])
    if node.join is not None:
        return None, _joined(driver, node, context)
    function = stage.function
    assert function is not None
    if stage.accepts is not None:
        check_accepted(driver, node)
    if stage.cache is not None:
        known = found(driver, node)
        if known is not MISSING:
            return None, thaw(known)
    if node.retry is not None and node.retry.dependency is not None:
        is_first = driver.scheduler.attempt[node.index] == 1
        driver.runtime.dependencies.begin(
            node.retry.dependency, is_first=is_first, time=driver.time
        )
    arguments = driver.arguments(driver.steps[node.index], started_s)
    if stage.reconcile is not None and node.index in driver.scheduler.asking:
        return asked(driver, node, arguments, started_s), None
    if stage.mode == "async":
        return function(**arguments), None
    if stage.mode in ("generator", "async_generator"):
        begin_anew(driver, node.index)
    if stage.mode == "async_generator":
        return _collect(driver, node, function(**arguments)), None
    if stage.place == "loop":
        if stage.mode == "generator":
            return _collect_inline(driver, node, context.run(function, **arguments)), None
        return None, context.run(function, **arguments)
    if stage.place == "process":
        precedence = driver.precedence(node.index)
        return driver.runtime.processes.call(address_of(stage), arguments, precedence), None
    # The thread gets a context of its own: one context can't be entered twice at a time.
    own = context.copy()
    if stage.mode == "generator":
        call = functools.partial(own.run, _collect_in_thread, driver, node, function, arguments)
    else:
        call = functools.partial(own.run, functools.partial(function, **arguments))
    late = functools.partial(
        driver.came_late,
        node.index,
        driver.scheduler.token[node.index],
        driver.scheduler.attempt[node.index],
    )
    return driver.runtime.threads.call(call, driver.precedence(node.index), late), None


def _joined(driver: Driver, node: Node, context: Context) -> Any:
    chosen = driver.scheduler.chosen(node.index)
    values = [thaw(driver.bag.values[parent]) for parent in chosen]
    assert node.join is not None
    if node.join.merge is not None:
        return context.run(functools.reduce, node.join.merge.function, values)
    return values if node.join.collects else values[0]


async def _collect(driver: Driver, node: Node, generator: AsyncGenerator[Any, Any]) -> list[Any]:
    """Emits each item as it comes; the node's value is the list of all."""
    items = []
    async with contextlib.aclosing(generator):
        async for item in generator:
            items.append(item)
            keep_item(driver, node.index, item)
            await emit(driver, node.index, item)
    return items


async def _collect_inline(driver: Driver, node: Node, generator: Iterator[Any]) -> list[Any]:
    items = []
    for item in generator:
        items.append(item)
        keep_item(driver, node.index, item)
        await emit(driver, node.index, item)
        await asyncio.sleep(0)
    return items


def _collect_in_thread(
    driver: Driver, node: Node, function: Any, arguments: dict[str, Any]
) -> list[Any]:
    items = []
    attempt = driver.scheduler.attempt[node.index]
    with contextlib.closing(function(**arguments)) as generator:
        for item in generator:
            is_stopping = driver.is_stopping(node.index, attempt)
            if not is_stopping or driver.scheduler.attempt[node.index] == attempt:
                keep_item(driver, node.index, item)  # produced before the stage heard of its stop
            if is_stopping:
                break
            items.append(item)
            emit_from_thread(driver, node.index, item, attempt)
    return items
