"""What a stage gives before its end: items for the stream, what is kept should it be cut off, and
signs of life."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING, Any

from stageflow.model.errors import StageflowError
from stageflow.model.values import thaw
from stageflow.runtime.heartbeat import check_promised
from stageflow.runtime.stream import Emitted

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver

_LOOK_EVERY_S = 0.05
"""How often a thread that waits for room in a stream looks whether it should stop."""


def begin_anew(driver: Driver, number: int) -> None:
    """An attempt begins: what the one before it produced, and its signs of life, are past."""
    if driver.keeps:
        driver.produced.begin(number)
        driver.beats.begin(number)


def keep_item(driver: Driver, number: int, item: Any) -> None:
    """What a stage has produced, should it be cut off. Threads call this, too.

    Not of guarded nodes: their guards have not seen it."""
    if not driver.nodes[number].guards:
        driver.keeps = True
        driver.produced.add(number, item, driver.limits.kept_items)


def beat(driver: Driver, number: int, attempt_number: int, details: Any) -> None:
    """A sign of life; of an attempt that counts no more it is none. Threads give them, too."""
    stage = driver.nodes[number].stage
    check_promised(math.inf if stage is None else stage.heartbeat_s, driver.nodes[number].name)
    if driver.scheduler.attempt[number] == attempt_number:
        frozen = None if details is None else driver.runtime.freezer.freeze(details)
        driver.keeps = True
        driver.beats.give(number, attempt_number, driver.time(), frozen)


async def emit(driver: Driver, number: int, item: Any) -> None:
    """An item for the stream; held while guards have yet to allow the node's value."""
    if driver.stream is None:
        return
    node = driver.nodes[number]
    frozen = driver.runtime.freezer.freeze(item)
    if node.guards:
        items = driver.held_items.setdefault(number, [])
        if len(items) >= driver.limits.held_items:
            raise StageflowError(
                "stream.held_full",
                f"node {node.name!r} is guarded and emitted more than its guards may hold back",
                node=node.name,
                expected=f"at most {driver.limits.held_items} items before its guards decide",
                fix="emit fewer, larger items, or raise Limits(held_items=...)",
            )
        items.append(frozen)
        return
    await driver.stream.put(Emitted(node.name, thaw(frozen)))


def emit_from_thread(driver: Driver, number: int, item: Any, attempt_number: int) -> None:
    """`emit` from a thread, which waits for room only while its attempt counts."""
    if driver.stream is None:
        return
    sent = asyncio.run_coroutine_threadsafe(emit(driver, number, item), driver.loop)
    while not driver.is_stopping(number, attempt_number):
        with contextlib.suppress(TimeoutError):
            sent.result(timeout=_LOOK_EVERY_S)
            return
    sent.cancel()
