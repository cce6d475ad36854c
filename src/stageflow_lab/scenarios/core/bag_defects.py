"""What a framework gets wrong about parallel outputs, as sabotages of CORE-001."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from stageflow.graph import Node
from stageflow.model.bag import MISSING, Entry, OutputBag
from stageflow.runtime.driver import Driver
from stageflow.scheduler import Action, Scheduler

from ...sabotage import Sabotage, patched, sabotage


@sabotage(metric="lost")
def merge_without_compare_and_set() -> Iterator[None]:
    """A put reads the bag, adds its value and writes all back; what came at the same instant was
    not in what it read, and is gone."""
    put = OutputBag.put
    last: list[Any] = [None, -1.0, [], []]
    """The bag last written, the instant, and what it held before that instant."""

    def merging(
        self: OutputBag,
        node: int,
        value: Any,
        attempt: int,
        token: int,
        revision: int = 1,
        held: bool = False,
    ) -> None:
        if held or not self.accepted or self.values[node] is not MISSING:
            put(self, node, value, attempt, token, revision, held)
            return
        now = asyncio.get_running_loop().time()
        if last[0] is not self or last[1] != now:
            last[:] = [self, now, list(self.accepted), list(self.values)]
        values = list(last[3])
        values[node] = value
        self.values[:] = values
        self._position, self._indexed = {}, 0
        self.accepted[:] = [
            *last[2],
            Entry(node, revision, attempt, self.epoch, token, value),
        ]

    with patched(OutputBag, "put", merging):
        yield


@sabotage(metric="silent_overwrites")
def fencing_token_ignored() -> Iterator[None]:
    """Whichever attempt of a running node ends first is taken for the current one."""
    completed = Scheduler.completed

    def unfenced(self: Scheduler, node: int, token: int, *rest: Any) -> list[Action] | None:
        return completed(self, node, self.token[node], *rest)

    with patched(Scheduler, "completed", unfenced):
        yield


@sabotage(metric="conflicts_raised")
def late_values_dropped() -> Iterator[None]:
    """A value that comes too late is dropped without an event and without a record."""

    def silent(
        self: Driver, node: Node, token: int, payload: bytes | None = None
    ) -> list[Action] | None:
        return None

    with patched(Driver, "_was_late", silent):
        yield


@sabotage(metric="register_violations")
def last_writer_wins() -> Iterator[None]:
    """A second value for a key replaces the first instead of being refused."""
    put = OutputBag.put

    def replacing(self: OutputBag, node: int, value: Any, *rest: Any, **named: Any) -> None:
        self.values[node] = MISSING
        put(self, node, value, *rest, **named)

    with patched(OutputBag, "put", replacing):
        yield


DEFECTS: Final[tuple[Sabotage, ...]] = (
    merge_without_compare_and_set,
    fencing_token_ignored,
    late_values_dropped,
    last_writer_wins,
)


def applied(name: str | None) -> AbstractContextManager[None]:
    """The defect of that name while entered, for a process that the load started."""
    if name is None:
        return nullcontext()
    return next(each for each in DEFECTS if each.name == name).apply()
