"""A batch of runs of all tenants at once in one runtime, cut off where an answer is on the way.

Whatever a tenant, or who runs the system, can see of it goes into the sinks. While the runs are
under way, and once they are over, tenants try the ids of others.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from stageflow import (
    UNSEALED,
    JournalError,
    Run,
    Runtime,
    StageflowError,
    Subscription,
)

from .forged_ids import Forgeries, forge
from .tenant_canaries import FORMS, Sinks
from .tenant_desk import ENDINGS, TOPICS, Ending, Traffic, pipeline_of

SESSION: Final = "desk"
"""Of every tenant: sessions of one name are each tenant's own."""
TARGET: Final = "none:none"
"""Of the pipeline: a run's header looks for none."""
LABEL: Final = "private"
"""Of what every tenant brings along; the same for all, so that no label keeps them apart."""
ELSEWHERE: Final = 1_000
"""Of the latest runs in the journal, those that are looked through for other processes'."""
TRIES_EVERY: Final = 8
"""Runs for each foreign id that is tried while they are under way, and for each afterwards."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run."""

    number: int
    tenant: str
    ending: Ending
    topic: str
    note: str
    """What the tenant brings along: its canary, in one of the forms."""

    @property
    def is_turn(self) -> bool:
        return self.number % 3 == 0 and self.ending != "suspended"


def jobs_of(numbers: Sequence[int], sinks: Sinks) -> list[Job]:
    """The runs of these numbers: tenants, endings, topics and forms in turn."""
    tenants, forms = list(sinks.scanner.canaries), list(FORMS.values())
    found = []
    for number in numbers:
        tenant = tenants[number % len(tenants)]
        round_ = number // len(tenants)
        form = forms[(number + round_) % len(forms)]
        canary = sinks.scanner.canaries[tenant]
        found.append(
            Job(
                number=number,
                tenant=tenant,
                ending=ENDINGS[(number + 2 * round_) % len(ENDINGS)],
                topic=TOPICS[number % len(TOPICS)],
                note=f"note {number}: {form(canary)}",
            )
        )
    return found


@dataclass(slots=True)
class Batch:
    """One runtime's runs, and what became of them."""

    runtime: Runtime
    traffic: Traffic
    sinks: Sinks
    forgeries: Forgeries
    jobs: list[Job]
    rng: random.Random
    within_s: float
    """In which the runs begin."""
    at_once: int
    facts: Counter[str] = field(default_factory=Counter)
    owners: dict[str, Job] = field(default_factory=dict)
    """Every run that was started, by id."""
    elsewhere: list[tuple[str, str]] = field(default_factory=list)
    """(tenant, run) of other processes."""

    async def work_off(self) -> None:
        """Runs them all, and looks into every sink."""
        room = asyncio.Semaphore(self.at_once)
        with listening(self.sinks):
            async with asyncio.TaskGroup() as group:
                for job in self.jobs:
                    delay_s = self.rng.uniform(0.0, self.within_s)
                    group.create_task(self._story(job, delay_s, room))
            await self._afterwards()

    async def _story(self, job: Job, delay_s: float, room: asyncio.Semaphore) -> None:
        await asyncio.sleep(delay_s)
        async with room:
            try:
                run = await self._ended(job)
            except StageflowError as error:
                self.sinks.add("errors", job.tenant, f"{error!r} {error}")
                self.facts["errors"] += 1
                return
        self.facts["runs"] += 1
        self.facts[f"{job.ending} as {run.status}"] += 1
        self._seen(job, run)
        if self.facts["runs"] % TRIES_EVERY == 0:
            await self._try_another(job.tenant)

    async def _ended(self, job: Job) -> Run[Any]:
        handle = self.runtime.tenant(job.tenant)
        bound = pipeline_of(job.ending).using(
            runtime=handle,
            labels=LABEL,
            session=SESSION if job.is_turn else None,
            request_key=f"key-{job.number // len(self.sinks.scanner.canaries)}"
            if job.number % 5 == 0
            else None,
            target=TARGET,
        )
        sent = asyncio.Event()
        if job.ending == "cancelled":
            self.traffic.pending[job.note] = sent
        going = bound.start(topic=job.topic, note=job.note, ending=job.ending)
        self.owners[going.run_id] = job
        if job.ending != "cancelled":
            return await going
        await sent.wait()
        await asyncio.sleep(self.rng.uniform(0.0, 0.01))
        if self.rng.random() < 0.5:
            going.cancel()
            return await going
        try:
            return await handle.cancel(going.run_id, pipeline=pipeline_of(job.ending))
        finally:
            await going

    def _seen(self, job: Job, run: Run[Any]) -> None:
        """What the tenant gets from its own run."""
        sinks, snapshot = self.sinks, run.snapshot
        for name in snapshot:
            sinks.add("outputs", job.tenant, snapshot[name])
            if name in ("profile", "again"):
                sinks.add("caches", job.tenant, snapshot[name])
            self.facts["labelled"] += run.labels(name) == {LABEL}
            self.facts["made"] += 1
        sinks.add_all("outputs", job.tenant, run.nodes.values())
        if run.failure is not None:
            sinks.add("errors", job.tenant, run.failure)
        if not run.is_ok:
            try:
                run.value_or_raise()
            except StageflowError as error:
                sinks.add("errors", job.tenant, f"{error} {error.__cause__!r}")
        if job.ending == "cancelled":
            sinks.add("cancellation", job.tenant, f"{run!r} {run.reason} {run.nodes!r}")

    async def _try_another(self, asker: str) -> None:
        """`asker` tries the id of a run of another tenant, as it stands now."""
        here = [run for run, job in self.owners.items() if job.tenant != asker]
        live = [run for run in here if run in self.runtime.active]
        there = [run for tenant, run in self.elsewhere if tenant != asker]
        for status, runs in (("live", live), ("over", here), ("elsewhere", there)):
            if not runs:
                continue
            run = runs[self.rng.randrange(len(runs))]
            job = self.owners.get(run)
            await forge(
                self.runtime,
                self.forgeries,
                self.sinks,
                asker=asker,
                run=run,
                pipeline=pipeline_of("ok" if job is None else job.ending),
                status=status,
            )

    async def _afterwards(self) -> None:
        """What can be looked up later, and more foreign ids, those of other processes too."""
        here = {job.tenant for job in self.jobs}
        self.elsewhere = [
            (line.header.tenant, line.header.run)
            for line in await self.runtime.runs(limit=ELSEWHERE)
            if line.header.tenant not in here
        ]
        for job in {job.tenant: job for job in self.jobs}.values():
            handle, sinks = self.runtime.tenant(job.tenant), self.sinks
            mine = [run for run, each in self.owners.items() if each.tenant == job.tenant]
            self.facts["owned"] += len(mine)
            for line in await handle.runs(limit=10_000):
                sinks.add("listing", line.header.tenant, line)
                self.facts["listed foreign"] += line.header.tenant != job.tenant
                await self._looked_up(job.tenant, line.header.run, line.status)
            turns = await handle.session(SESSION, pipeline=pipeline_of("ok"))
            sinks.add_all("sessions", job.tenant, [(t.inputs, t.output, t.run) for t in turns])
            self.facts["looked up"] += 1
            if self.facts["looked up"] % TRIES_EVERY == 1:
                await self._try_another(job.tenant)
        for tenant, answer, is_after_cut in self.traffic.answers:
            self.sinks.add("pools", tenant, answer)
            if is_after_cut:
                self.sinks.add("cancellation", tenant, answer)
        for subscription in self.runtime.events:
            for event in subscription.drain():
                self.sinks.add("events", event.tenant, event)
        for refusal in self.runtime.refusals.last:
            self.sinks.add("events", refusal.tenant, refusal)

    async def _looked_up(self, tenant: str, run: str, status: str) -> None:
        handle, sinks = self.runtime.tenant(tenant), self.sinks
        try:
            loaded = await handle.load(run)
        except JournalError as error:
            sinks.add("errors", tenant, error)
            return
        self.facts["own shown"] += run in self.owners
        for record in loaded.records:
            sinks.add("journal", loaded.header.tenant, f"{record._replace(payload=None)!r}")
            if record.payload is not None:
                self.facts["labelled"] += record.labels == (LABEL,)
                self.facts["made"] += 1
                sinks.add("journal", loaded.header.tenant, record.payload)
        job = self.owners.get(run)
        if status == "suspended" and job is not None:
            pipeline = pipeline_of(job.ending)
            sinks.add_all("outputs", tenant, await handle.waiting(run, pipeline=pipeline))


class listening(logging.Handler):
    """While entered, every line of every logger goes into the sinks, as whoever it names sees it.

    A line that names nobody is for who runs the system: no tenant's data may be in it.
    """

    def __init__(self, sinks: Sinks) -> None:
        super().__init__(logging.DEBUG)
        self._sinks = sinks
        self._level = logging.WARNING

    def __enter__(self) -> listening:
        root = logging.getLogger()
        self._level = root.level
        root.addHandler(self)
        root.setLevel(logging.DEBUG)
        logging.getLogger("asyncio").setLevel(logging.INFO)  # its debug lines count selectors
        return self

    def __exit__(self, *exc_info: object) -> None:
        root = logging.getLogger()
        root.removeHandler(self)
        root.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        """One line, with the traceback that it has."""
        text = logging.Formatter().format(record)
        self._sinks.add("logs", getattr(record, "tenant", None), text)


def runtime_of(journal: Any, given: dict[str, Any], *, clock: Any = None) -> Runtime:
    """A runtime with a subscriber that loses nothing, whose journal can be searched: nothing in it
    is sealed, or a mark of another tenant would not be seen there."""
    events = [Subscription(queue_max=1_000_000)]
    return Runtime(journal=journal, deps=given, events=events, clock=clock, keys=UNSEALED)
