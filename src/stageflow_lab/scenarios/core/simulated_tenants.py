"""The simulated part: batches of runs, one of each tenant, under schedules of the simulation."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from stageflow.model.marks import MarkCounts, counting
from stageflow.sim import Sim, SimJournal, simulate

from .forged_ids import Forgeries
from .tenant_batches import Batch, jobs_of, runtime_of
from .tenant_canaries import Scanner, Sinks
from .tenant_defects import applied
from .tenant_desk import MemoryFiles, SimWire, Traffic, deps

AT_ONCE: Final = 64
WITHIN_S: Final = 0.2
"""Virtual, in which a batch's runs begin."""


@dataclass(frozen=True, slots=True)
class SimOrder:
    """One batch: the runs of these numbers, under the schedule of this seed."""

    canaries: int
    seed: int
    tenants: int
    numbers: tuple[int, ...]
    sabotage: str | None


@dataclass(slots=True)
class Report:
    """What a batch showed, as plain values."""

    sinks: dict[str, Any]
    forgeries: dict[str, Any]
    facts: Counter[str]
    marks: dict[str, int] = field(default_factory=dict)


def simulated(order: SimOrder) -> Report:
    """In a process of its own: patches do not cross into it by themselves."""
    marks = MarkCounts()
    with applied(order.sabotage), counting(marks):
        report: Report = simulate(_main(order), seed=order.seed).value
    report.marks = marks.all()
    return report


def _main(order: SimOrder) -> Callable[[Sim], Any]:
    async def main(sim: Sim) -> Report:
        scanner = Scanner(order.canaries, order.tenants)
        sinks = Sinks(scanner, active=min(order.tenants, len(order.numbers)))
        traffic, files = Traffic(scanner.canaries), dict[str, dict[str, str]]()
        given = deps(lambda: SimWire(traffic), lambda tenant: MemoryFiles(tenant, files))
        async with runtime_of(SimJournal(sim), given, clock=sim.clock) as runtime:
            batch = Batch(
                runtime,
                traffic,
                sinks,
                Forgeries(),
                jobs_of(order.numbers, sinks),
                random.Random(f"batch {order.seed}"),
                within_s=WITHIN_S,
                at_once=AT_ONCE,
            )
            await batch.work_off()
            facts = batch.facts + traffic.facts
            facts["hits"] = runtime.cache.hits
        for tenant, kept in files.items():
            sinks.add_all("files", tenant, kept.values())
        return Report(sinks.data(), batch.forgeries.data(), facts)

    return main
