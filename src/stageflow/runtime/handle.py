"""A run that goes on by itself: awaited, cancelled, or answered from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Generic, TypeVar

from stageflow.runtime.driver import Driver
from stageflow.runtime.outcome import Run
from stageflow.runtime.request import Request
from stageflow.scheduler import Action

O = TypeVar("O")  # noqa: E741


class Handle(Generic[O]):
    """A run that was started. Awaiting it gives its Run."""

    __slots__ = ("_driver", "_end")

    def __init__(self, driver: Driver | Request, end: asyncio.Future[Run[Any]]) -> None:
        self._driver = driver
        self._end = end

    @classmethod
    def start(cls, driver: Driver | Request, first: list[Action] | None = None) -> Handle[Any]:
        """Drives the run in a task of its own; `first` for a run that goes on."""
        turn = driver.turn
        try:
            task = asyncio.get_running_loop().create_task(driver.execute(first))
        except (
            RuntimeError
        ):  # outside of an event loop: the place in the line was taken for nothing
            if turn is not None:
                turn.leave()
            raise
        if turn is not None:
            # Also when the task is cancelled before its first step.
            task.add_done_callback(lambda _: turn.leave())
        return cls(driver, task)

    @classmethod
    async def opened(cls, driver: Driver, first: list[Action]) -> Handle[Any]:
        """`start`, and returns when `first` is durable; raises what kept it from being so."""
        opened = driver.opened = asyncio.get_running_loop().create_future()
        handle = cls.start(driver, first)
        await asyncio.shield(opened)
        if not driver.is_open:
            await handle
        return handle

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._driver.identity.run

    @property
    def done(self) -> bool:
        """True when the run is over and cleaned up."""
        return self._end.done()

    def cancel(self, reason: str = "by_handle") -> None:
        """Ends the run as `cancelled`; await the handle to see it cleaned up."""
        self._driver.cancel(reason)

    async def signal(self, node: str, value: Any, *, by: str, shown: str | None = None) -> None:
        """Answers the question of `node`, as `Runtime.signal` does; for runs without a journal."""
        await self._driver.answer_live(node, value, by=by, shown=shown)

    def __await__(self) -> Generator[Any, Any, Run[O]]:
        return asyncio.shield(self._end).__await__()
