"""Fan-outs of real threads, several at a time, on one SQLite journal that other processes use too.

Some runs are started under the name of a process that is no more. Whoever looks, in this process or
another, finds an orphan and goes on with it, while its first owner is still writing.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

from stageflow import JournalError, Limits, Pipeline, Run, Runtime
from stageflow.journal.journal import GroupCommit
from stageflow.journal.sqlite import SQLiteStore
from stageflow.journal.store import RUNNING, LoadedRun, Owner
from stageflow.model.marks import MarkCounts, counting

from .bag_defects import applied
from .fan_out import OWNED_TWICE, REAL, KeyLog, Told, claims, fan_out, had_ended, told_to
from .second_writers import append_again, put_again

TARGET: Final = "none:none"
AT_ONCE: Final = 5
THREADS: Final = 96
LOOK_S: Final = 0.05
ORPHANS_SHARE: Final = 0.25
SECOND_AFTER_S: Final = 0.06
LIMIT_S: Final = 90.0


@dataclass(frozen=True, slots=True)
class Order:
    """What one process has to do."""

    journal: str
    process: int
    runs: int
    width: int
    seed: int
    sabotage: str | None

    def run(self, number: int) -> str:
        """The id of one of its runs."""
        return f"{self.run_prefix}{number}"

    @property
    def run_prefix(self) -> str:
        """What the ids of its runs begin with."""
        return f"p{self.process}-"


@dataclass(frozen=True, slots=True)
class _Ended:
    """A run that is over here and has yet to be compared with the journal."""

    name: str
    log: KeyLog
    status: str
    took_over: bool


def carried_out(order: Order) -> Told:
    """All runs of the order, and the orphans that this process took over."""
    told, marks = Told(), MarkCounts()
    ended: list[_Ended] = []
    with applied(order.sabotage), counting(marks):
        asyncio.run(_carried_out(order, told, ended))
        # Late values are on disk once the runtimes are closed.
        store = SQLiteStore(Path(order.journal))
        try:
            for each in ended:
                _compare(each, store.load(each.name), order, told)
        finally:
            store.close()
    told.marks = marks.all()
    return told


async def _carried_out(order: Order, told: Told, ended: list[_Ended]) -> None:
    pipeline = fan_out(order.width, REAL)
    rng = random.Random(order.seed)
    orphans = {n for n in range(order.runs) if rng.random() < ORPHANS_SHARE or n == 0}
    limits = Limits(grace_s=REAL.grace_s, threads=THREADS)
    dead = Owner(socket.gethostname(), "an earlier boot", 1 + order.process, 1)
    async with (
        asyncio.timeout(LIMIT_S),
        Runtime(journal=GroupCommit(SQLiteStore(Path(order.journal))), limits=limits) as runtime,
        Runtime(
            journal=GroupCommit(SQLiteStore(Path(order.journal)), owner=dead), limits=limits
        ) as ghost,
    ):
        done = asyncio.Event()
        seeker = asyncio.create_task(_seek(runtime, pipeline, order, done, told, ended))
        try:
            for at in range(0, order.runs, AT_ONCE):
                async with asyncio.TaskGroup() as group:
                    for number in range(at, min(at + AT_ONCE, order.runs)):
                        owner = ghost if number in orphans else runtime
                        group.create_task(_one(order, number, owner, pipeline, told, ended))
            await _orphans_ended(runtime, [order.run(number) for number in orphans])
        finally:
            done.set()
            await seeker


async def _one(
    order: Order,
    number: int,
    runtime: Runtime,
    pipeline: Pipeline[Any],
    told: Told,
    ended: list[_Ended],
) -> None:
    """One run, with second writers in its bag and its journal."""
    name = order.run(number)
    rng = random.Random(f"{order.seed}/{number}")
    log = KeyLog(order.width, owner="a", rng=rng, pace=REAL, now=monotonic)
    used = pipeline.using(run_id=name, target=TARGET, events=log)
    driver = runtime.begin(used, {"x": number})
    task = asyncio.create_task(told_to(log, driver.execute()))
    assert runtime.journal is not None
    await asyncio.sleep(SECOND_AFTER_S)
    while not log.times and not task.done():  # noqa: ASYNC110 - a log tells nobody
        await asyncio.sleep(REAL.unit_s)
    put_again(driver, log, rng)
    while not task.done():
        if await append_again(runtime.journal, name, driver.bag.epoch, log, rng):
            break
        await asyncio.sleep(REAL.unit_s)
    result = (await asyncio.gather(task, return_exceptions=True))[0]
    await _threads_back(runtime)
    status = "dead"
    if isinstance(result, Run):
        status = result.status
    elif not (isinstance(result, JournalError) and result.code == "journal.stale_owner"):
        assert isinstance(result, BaseException)
        raise result
    told.facts["runs"] += 1
    told.facts[f"ended {status}"] += 1
    told.facts += log.befell
    told.facts["stale_raised"] += status == "dead"
    log.end(driver.snapshot(), result if isinstance(result, Run) else None)
    ended.append(_Ended(name, log, status, took_over=False))


async def _seek(
    runtime: Runtime,
    pipeline: Pipeline[Any],
    order: Order,
    done: asyncio.Event,
    told: Told,
    ended: list[_Ended],
) -> None:
    """Takes over whatever run looks orphaned, whoever started it, until `done`."""
    while not done.is_set():
        for summary in await runtime.runs(limit=1_000):
            if summary.status == RUNNING and summary.live is False:
                name = summary.header.run
                # A task of its own: stages find their log by the context of their run.
                await asyncio.create_task(_take_over(name, runtime, pipeline, order, told, ended))
        await asyncio.sleep(LOOK_S)


async def _take_over(
    name: str,
    runtime: Runtime,
    pipeline: Pipeline[Any],
    order: Order,
    told: Told,
    ended: list[_Ended],
) -> None:
    rng = random.Random(f"{order.seed}/{name}")
    log = KeyLog(order.width, owner="b", rng=rng, pace=REAL, now=monotonic)
    try:
        run = await told_to(log, runtime.resume(name, pipeline=pipeline, events=[log]))
    except JournalError as error:
        if error.code not in ("journal.run_is_live", "journal.stale_owner"):
            raise
        told.facts["found taken already"] += 1
        return
    await _threads_back(runtime)
    told.facts += log.befell
    log.end(run.snapshot, run)
    ended.append(_Ended(name, log, run.status, took_over=True))


def _compare(ended: _Ended, loaded: LoadedRun, order: Order, told: Told) -> None:
    """Adds the lines of a run, with what the journal holds of it."""
    log, taken = ended.log, claims(loaded)
    mine = taken
    if ended.took_over:
        mine = [claim for claim in taken if claim.data["pid"] == os.getpid()]
        if not mine:
            told.facts["found ended already"] += 1
            return  # it was over when this process came to it, and was only looked at
        log.inherit(loaded, until=mine[0].seq)
        if mine[0] is taken[0] and not had_ended(loaded, taken[0]):
            told.facts[OWNED_TWICE] += 1
            told.facts["by another process"] += not ended.name.startswith(order.run_prefix)
    place = "journal"
    if ended.status != "dead" and (taken if not ended.took_over else taken[-1:] != mine[-1:]):
        place = "memory"  # it ended unsuccessfully here, and then another took it up again
    elif ended.status != "dead":
        log.keep(loaded)
    told.lines += log.lines(f"{ended.status}/{place}")


async def _orphans_ended(runtime: Runtime, names: list[str]) -> None:
    """Waits until somebody has brought every orphan to its end."""
    for name in names:
        while (await runtime.load(name)).status == RUNNING:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(LOOK_S)


async def _threads_back(runtime: Runtime) -> None:
    """Waits until the threads that attempts left behind are back and told what they gave."""
    while runtime.threads.stuck:  # noqa: ASYNC110 - a pool tells nobody of its idle threads
        await asyncio.sleep(REAL.unit_s / 2)
    await asyncio.sleep(0)
