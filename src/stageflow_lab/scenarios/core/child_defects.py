"""What a framework gets wrong about pipelines inside pipelines, as sabotages of CORE-003."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

from stageflow.model.bag import MISSING, Entry, OutputBag
from stageflow.model.kinds import Kind
from stageflow.runtime import children
from stageflow.runtime.driver import Driver
from stageflow.runtime.runtime import Runtime
from stageflow.runtime.step import Step
from stageflow.scheduler import Action, Scheduler

from ...sabotage import Sabotage, patched, sabotage

FOREIGN: Final = -1
"""Epoch of an entry that somebody else wrote into a bag."""


def _overwrite(bag: OutputBag, node: int, value: Any) -> None:
    bag.values[node] = value
    bag.accepted.append(Entry(node, 1, 1, FOREIGN, 0, value))


@contextmanager
def _last_writer_wins() -> Iterator[None]:
    """A key that was overwritten from elsewhere may still be written by its own stage."""
    put = OutputBag.put

    def lenient(self: OutputBag, node: int, *rest: Any, **named: Any) -> None:
        foreign = (entry for entry in self.accepted if entry.node == node)
        if any(entry.epoch == FOREIGN for entry in foreign):
            self.values[node] = MISSING
        put(self, node, *rest, **named)

    with patched(OutputBag, "put", lenient):
        yield


@sabotage(metric="parent_unchanged")
def bag_shared_with_child() -> Iterator[None]:
    """A child writes into its parent's bag: what both call by one name is one key."""
    child = Runtime.child
    shared: dict[int, tuple[OutputBag, OutputBag]] = {}

    async def sharing(self: Runtime, parent: Driver, *rest: Any, **named: Any) -> Any:
        driver, first = await child(self, parent, *rest, **named)
        shared[id(driver.bag)] = (driver.bag, parent.bag)
        return driver, first

    with _last_writer_wins():
        put = OutputBag.put

        def through(self: OutputBag, node: int, value: Any, *rest: Any, **named: Any) -> None:
            put(self, node, value, *rest, **named)
            bag, name = self, next((n for n, at in (self.names or {}).items() if at == node), "")
            while id(bag) in shared:
                bag = shared[id(bag)][1]
                number = (bag.names or {}).get(name)
                if number is not None:
                    _overwrite(bag, number, value)

        with patched(Runtime, "child", sharing), patched(OutputBag, "put", through):
            yield


@sabotage(metric="exports_exact")
def exports_by_dictionary_update() -> Iterator[None]:
    """When a child has ended, the parent's context is updated with all that the child gave, under
    the child's own names."""
    returned = Driver._returned

    def updating(
        self: Driver, step: Step, token: int, raw: Any, started_s: float, ended_s: float
    ) -> list[Action] | None:
        given = dict(raw) if step.node.kind is Kind.CHILD and type(raw) is dict else {}
        actions = returned(self, step, token, raw, started_s, ended_s)
        for name, value in given.items():
            number = self.plan.index.get(name)
            if actions is not None and number is not None:
                _overwrite(self.bag, number, self.runtime.freezer.freeze(value))
        return actions

    with _last_writer_wins(), patched(Driver, "_returned", updating):
        yield


@sabotage(metric="amnesia")
def context_restored_after_child() -> Iterator[None]:
    """When a child has ended, its parent's context is again what it was when the child began."""
    run_child = children.run_child

    async def restoring(driver: Driver, *rest: Any) -> Any:
        bag = driver.bag
        accepted, values = list(bag.accepted), list(bag.values)
        try:
            return await run_child(driver, *rest)
        finally:
            bag.accepted[:], bag.values[:] = accepted, values
            bag._position, bag._indexed = {}, 0

    with patched(children, "run_child", restoring):
        yield


@sabotage(metric="late_writes_accepted")
def late_children_heeded() -> Iterator[None]:
    """A value of an attempt that was given up is taken for the value of the attempt that runs."""
    completed = Scheduler.completed

    def heeding(self: Scheduler, node: int, token: int, *rest: Any) -> list[Action] | None:
        return completed(self, node, self.token[node], *rest)

    with patched(Scheduler, "completed", heeding):
        yield


DEFECTS: Final[tuple[Sabotage, ...]] = (
    bag_shared_with_child,
    exports_by_dictionary_update,
    context_restored_after_child,
    late_children_heeded,
)


def applied(name: str | None) -> AbstractContextManager[None]:
    """The defect of that name while entered, for a process that the load started."""
    if name is None:
        return nullcontext()
    return next(each for each in DEFECTS if each.name == name).apply()
