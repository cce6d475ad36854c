"""Trees of runs with real threads, several at a time, on one SQLite journal that two processes use.

Some are started under the name of a process that is no more. Whoever looks, in this process or
another, finds an orphan and goes on with it, while its first owner is still writing.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stageflow import JournalError, Limits, Run, Runtime
from stageflow.journal.journal import GroupCommit
from stageflow.journal.sqlite import SQLiteStore
from stageflow.journal.store import RUNNING, LoadedRun, Owner
from stageflow.model.marks import MarkCounts, counting

from .child_defects import applied
from .pipeline_trees import Case
from .simulated_trees import TARGET, Explored
from .tree_log import TAKEN_OVER, TreeLog, told_to
from .tree_machine import grown
from .tree_pipelines import INPUT, REAL, pipeline_of

AT_ONCE: Final = 5
THREADS: Final = 96
LOOK_S: Final = 0.02
LIMIT_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Order:
    """What one process has to do."""

    journal: str
    process: int
    counts: tuple[int, ...]
    """How many trees each process starts."""
    seed: int
    sabotage: str | None

    def cases(self, process: int) -> list[Case]:
        """The trees of a process, the same wherever they are asked for."""
        return _cases(self.seed + process, self.counts[process])

    def run(self, number: int) -> str:
        """The id of one of its trees."""
        return f"p{self.process}-{number}"

    def orphans(self) -> Iterator[int]:
        """The trees that are started under a dead owner's name."""
        cases = self.cases(self.process)
        yield from (n for n, case in enumerate(cases) if case.taken_over or n == 0)


@functools.cache
def _cases(seed: int, count: int) -> list[Case]:
    return grown(seed, count)


@dataclass(frozen=True, slots=True)
class _Ended:
    """A tree that is over here and has yet to be compared with the journal."""

    case: Case
    log: TreeLog
    pid: int


def carried_out(order: Order) -> Explored:
    """All trees of the order, and the orphans that this process took over."""
    found, marks = Explored(), MarkCounts()
    ended: list[_Ended] = []
    order.cases(order.process)
    with applied(order.sabotage), counting(marks):
        asyncio.run(_carried_out(order, found, ended))
        # Late values are on disk once the runtimes are closed.
        store = SQLiteStore(Path(order.journal))
        try:
            for each in ended:
                _compare(each, store, found)
        finally:
            store.close()
    found.marks = marks.all()
    return found


async def _carried_out(order: Order, found: Explored, ended: list[_Ended]) -> None:
    limits = Limits(grace_s=REAL.grace_s, threads=THREADS)
    dead = Owner(socket.gethostname(), "an earlier boot", 1 + order.process, 1)
    orphans = set(order.orphans())
    async with (
        asyncio.timeout(LIMIT_S),
        Runtime(journal=GroupCommit(SQLiteStore(Path(order.journal))), limits=limits) as runtime,
        Runtime(
            journal=GroupCommit(SQLiteStore(Path(order.journal)), owner=dead), limits=limits
        ) as ghost,
    ):
        done = asyncio.Event()
        seeker = asyncio.create_task(_seek(runtime, order, done, found, ended))
        cases = order.cases(order.process)
        try:
            for at in range(0, len(cases), AT_ONCE):
                async with asyncio.TaskGroup() as group:
                    for number in range(at, min(at + AT_ONCE, len(cases))):
                        owner, pid = (ghost, dead.pid) if number in orphans else (runtime, None)
                        one = _one(order, number, owner, pid or os.getpid(), found, ended)
                        group.create_task(one)
            await _ended_everywhere(runtime, [order.run(number) for number in orphans])
        finally:
            done.set()
            await seeker
        for each in (runtime, ghost):
            await _threads_back(each)


async def _one(
    order: Order,
    number: int,
    runtime: Runtime,
    pid: int,
    found: Explored,
    ended: list[_Ended],
) -> None:
    """One tree, with its ending."""
    case = order.cases(order.process)[number]
    log = TreeLog(case.tree, owner="a")
    at_s = case.at * REAL.unit_s
    used = pipeline_of(case.tree, REAL).using(
        run_id=order.run(number),
        target=TARGET,
        events=log,
        deadline=at_s if case.ending == "deadline" else None,
    )
    driver = runtime.begin(used, {"given": list(INPUT)})
    task = asyncio.create_task(told_to(log, driver.execute()))
    loop = asyncio.get_running_loop()
    if case.ending == "handle":
        loop.call_later(at_s, driver.cancel, "by_handle")
    elif case.ending == "caller":
        loop.call_later(at_s, task.cancel)
    result = (await asyncio.gather(task, return_exceptions=True))[0]
    found.facts["trees"] += 1
    found.facts[f"{case.tree.depth} deep"] += 1
    if isinstance(result, Run):
        log.end(result)
    elif not _is_ending(result):
        assert isinstance(result, BaseException)
        found.broken.append((case.text(), number, f"{type(result).__name__}: {result}"[:300]))
    ended.append(_Ended(case, log, pid))


def _is_ending(result: object) -> bool:
    """Whether a run may end by raising this: its caller was cancelled, or it lost its owner."""
    return isinstance(result, asyncio.CancelledError) or (
        isinstance(result, JournalError) and result.code == "journal.stale_owner"
    )


async def _seek(
    runtime: Runtime, order: Order, done: asyncio.Event, found: Explored, ended: list[_Ended]
) -> None:
    """Takes over whatever tree looks orphaned, whoever started it, until `done`."""
    while not done.is_set():
        for summary in await runtime.runs(limit=10_000):
            header = summary.header
            if summary.status != RUNNING or summary.live is not False or header.parent is not None:
                continue
            process, _, number = header.run.removeprefix("p").partition("-")
            case = order.cases(int(process))[int(number)]
            if time.time() - header.created_wall_s >= case.at * REAL.unit_s:
                # A task of its own: stages find their log by the context of their run.
                taking = _take_over(header.run, case, runtime, found, ended)
                await asyncio.create_task(taking)
        await asyncio.sleep(LOOK_S)


async def _take_over(
    run: str, case: Case, runtime: Runtime, found: Explored, ended: list[_Ended]
) -> None:
    log = TreeLog(case.tree, owner="b")
    pipeline = pipeline_of(case.tree, REAL)
    try:
        result: Run[Any] = await told_to(log, runtime.resume(run, pipeline=pipeline, events=[log]))
    except JournalError as error:
        if error.code not in ("journal.run_is_live", "journal.stale_owner"):
            raise
        found.facts["found taken already"] += 1
        return
    log.end(result)
    found.facts[TAKEN_OVER] += 1
    ended.append(_Ended(case, log, os.getpid()))


def _compare(ended: _Ended, store: SQLiteStore, found: Explored) -> None:
    """Adds the lines of a tree, with what the journal holds of it."""
    loaded: dict[str, LoadedRun] = {run: store.load(run) for run in ended.log.runs}
    told = ended.log.told(loaded, pid=ended.pid)
    found.facts += told.facts
    found.lines += told.lines
    for line in told.lines:
        found.shown_by.setdefault(line, (ended.case.text(), 0))


async def _ended_everywhere(runtime: Runtime, names: list[str]) -> None:
    """Waits until somebody has brought every orphan to its end."""
    for name in names:
        while (await runtime.load(name)).status == RUNNING:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(LOOK_S)


async def _threads_back(runtime: Runtime) -> None:
    """Waits until the threads that attempts left behind are back and told what they gave."""
    while runtime.threads.stuck:  # noqa: ASYNC110 - a pool tells nobody of its idle threads
        await asyncio.sleep(REAL.unit_s)
    await asyncio.sleep(0)
