"""Following one saga to its end: through deaths of its processes, and with a person who settles.

The same for simulated and real processes: what differs is how a process dies.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from stageflow import (
    Handle,
    Happened,
    JournalError,
    NotHappened,
    Pipeline,
    Run,
    RunError,
    Runtime,
    StageflowError,
)
from stageflow.journal.locks import Held, LockStore

from .saga_books import START_CENTS, Books, Followed
from .saga_pipelines import ANSWER_S
from .saga_specs import ACCOUNTS, Death, Leg, Saga, accounts_of, legs_of

LATENCY_S: Final = 0.02
FLAKY_TIMES: Final = 2
SETTLES_MAX: Final = 60
READ_EVERY_S: Final = 0.3
READ_WAIT_S: Final = 600.0


class Refused(Exception):
    """What a receiver says that has done nothing."""


class Mortal(ABC):
    """A process: the journal and the locks as it reaches them, and where it dies."""

    def __init__(self, journal: Any, locks: LockStore, death: Death | None) -> None:
        self._journal = journal
        self._locks = locks
        self._death = death
        self._counts: Counter[str] = Counter()

    @abstractmethod
    async def die(self) -> None:
        """The end."""

    async def living(self) -> None:
        """Does not return in a dead process. One that is really killed needs nothing for that."""
        return

    @abstractmethod
    async def travel(self) -> None:
        """A message's way; never arrives once the process is dead."""

    async def at(self, point: str) -> None:
        """Dies here when it is its turn to, and does not return then."""
        self._counts[point] += 1
        death = self._death
        if death is not None and death.point == point and self._counts[point] == death.at:
            await self.die()
        await self.living()

    # -- journal ---------------------------------------------------------------------------------

    async def create(self, header: Any, records: tuple[Any, ...]) -> int:
        await self.living()
        epoch: int = await self._journal.create(header, records)
        for _ in records:
            await self.at("record")
        return epoch

    async def append(self, run: str, epoch: int, records: tuple[Any, ...]) -> None:
        await self.living()
        if self._death is None or self._death.point != "record":
            await self._journal.append(run, epoch, records)
            await self.living()
            return
        for record in records:  # so that a crash can lie between any two
            await self._journal.append(run, epoch, (record,))
            await self.at("record")

    async def claim(self, run: str, *, rerun: Sequence[str] | None = None) -> Any:
        await self.living()
        loaded = await self._journal.claim(run, rerun=rerun)
        await self.at("record")
        return loaded

    async def load(self, run: str) -> Any:
        await self.living()
        return await self._journal.load(run)

    async def holds(self, run: str, *, tenant: str) -> bool:
        await self.living()
        held: bool = await self._journal.holds(run, tenant=tenant)
        return held

    async def runs(self, *, tenant: str | None = None, limit: int = 50) -> Any:
        return await self._journal.runs(tenant=tenant, limit=limit)

    async def turns(self, tenant: str, session: str, **options: Any) -> Any:
        return await self._journal.turns(tenant, session, **options)

    async def close(self) -> None:
        return None

    # -- locks -----------------------------------------------------------------------------------

    async def take(self, names: Sequence[str], holder: str) -> Mapping[str, Held]:
        await self.travel()
        return await self._locks.take(names, holder)

    async def look(self, names: Sequence[str]) -> Mapping[str, Held]:
        await self.travel()
        return await self._locks.look(names)

    async def drop(self, holder: str) -> None:
        await self.travel()
        await self._locks.drop(holder)

    async def free(self, seen: Mapping[str, Held]) -> None:
        await self.travel()
        await self._locks.free(seen)


class Sender:
    """The client of one saga's stages, in one process."""

    def __init__(self, process: Mortal, books: Books, cancel: Callable[[], None]) -> None:
        self._process = process
        self._books = books
        self._cancel = cancel
        """Asks for the run to be cancelled."""

    async def send(self, saga: Saga, leg: Leg, *, is_undo: bool, key: str) -> int:
        """As Client has it, with what goes wrong."""
        process, books = self._process, self._books
        await process.travel()
        fault = leg.undo_fault if is_undo else leg.fault
        times = books.tried(saga.name, leg.name, is_undo=is_undo)
        is_mended = books.is_mended(saga.name)
        if (fault in ("refuses", "broken") and not is_mended) or (
            fault == "flaky" and times <= FLAKY_TIMES
        ):
            raise Refused(f"{leg.name} is refused")
        if fault == "unheard" and times == 1:
            await asyncio.sleep(100 * ANSWER_S)
        if fault == "cancelled" and times == 1:
            self._cancel()
            await process.travel()
        await process.at("unsent")
        books.book(saga, leg.name, is_undo=is_undo, key=key, honours_keys=leg.receiver == "keyed")
        await process.at("sent")
        if fault == "lost" and times == 1:
            if leg.receiver == "keyed":
                raise ConnectionError("no answer")
            await asyncio.sleep(100 * ANSWER_S)
        await process.travel()
        return leg.cents

    async def looked_up(self, saga: Saga, leg: Leg, *, is_undo: bool) -> bool:
        """As Client has it: no request is under way longer than it takes to book."""
        await self._process.travel()
        return self._books.has(saga.name, leg.name, is_undo=is_undo)


async def lived(
    runtime: Runtime,
    process: Mortal,
    books: Books,
    followed: Followed,
    pipelines: Mapping[str, Pipeline[Any]],
) -> None:
    """One life of a saga: begun or gone on with, and settled where it is stuck."""
    saga, pipeline = followed.saga, next(iter(pipelines.values()))
    handles: list[Handle[Any]] = []

    def cancel() -> None:
        for handle in handles:
            handle.cancel()

    client = Sender(process, books, cancel)
    pipeline = pipeline.override(client=client)
    own = {name: each.override(client=client) for name, each in pipelines.items()}
    try:
        run = await _run_of(runtime, pipeline, saga, handles)
        run = await Person(runtime, books, followed, own).settle(run, pipeline)
    except StageflowError as error:  # a run that can't be taken up is an end, and no legal one
        followed.status, followed.reason = "error", error.code
        return
    followed.status, followed.reason = run.status, run.reason


async def _run_of(
    runtime: Runtime, pipeline: Pipeline[Any], saga: Saga, handles: list[Handle[Any]]
) -> Run[Any]:
    """Begun, or gone on with, as far as it goes without a person."""
    try:
        await runtime.load(saga.name)
    except JournalError as error:
        if error.code != "journal.unknown_run":
            raise
        handle = pipeline.using(runtime=runtime, run_id=saga.name).start()
        handles.append(handle)
        return await handle
    return await runtime.resume(saga.name, pipeline=pipeline)


async def read_on(
    runtime: Runtime, branch: int, books: Books, rng: random.Random, reads: Counter[str]
) -> None:
    """Adds a branch's accounts up, again and again: one after another, as readers do."""
    names = accounts_of(branch)
    right = ACCOUNTS * START_CENTS

    async def total() -> int:
        found = 0
        for name in names:
            found += books.balance(name)
            await asyncio.sleep(rng.random() * LATENCY_S / ACCOUNTS)
        return found

    while True:
        await asyncio.sleep(rng.random() * READ_EVERY_S)
        reads["raw"] += 1
        reads["raw_dirty"] += await total() != right
        try:
            clean = await runtime.clean_read(total, *names, wait_s=READ_WAIT_S)
        except RunError:
            reads["waited_in_vain"] += 1
            continue
        reads["clean"] += 1
        reads["dirty"] += clean != right


class Person:
    """Settles what a saga is stuck at, by the books, until it is done or undone."""

    def __init__(
        self,
        runtime: Runtime,
        books: Books,
        followed: Followed,
        pipelines: Mapping[str, Pipeline[Any]],
    ) -> None:
        """`pipelines` by name: the saga's own and those within it."""
        self._runtime = runtime
        self._pipelines = pipelines
        self._books = books
        self._followed = followed

    async def settle(self, run: Run[Any], pipeline: Pipeline[Any]) -> Run[Any]:
        """The run when it is suspended no more."""
        for _ in range(SETTLES_MAX):
            if run.status != "suspended":
                return run
            self._followed.stuck.append(run.reason)
            run = await self._settled(run, pipeline)
        return run

    async def _settled(self, run: Run[Any], pipeline: Pipeline[Any]) -> Run[Any]:
        saga, books = self._followed.saga, self._books
        legs = {leg.name: leg for leg in saga.legs()}
        word, _, name = run.reason.partition(":")
        if word == "past_pivot":
            within = [leg.role for leg in legs_of(saga.parts, within=name)]
            if "pivot" not in within:
                self._followed.dishonest.append(run.reason)
            books.mend(saga.name)
            await self._settle_children(run)
            return await self._runtime.resume(run.id, pipeline=pipeline)
        unknown = [name for name, node in run.nodes.items() if node.state == "unknown"]
        if word == "effect_unknown":
            names = unknown
        else:
            names = [name]
            if run.undo is None or name.removesuffix(".undo") not in run.undo.stuck:
                self._followed.dishonest.append(f"{run.reason} beside {run.undo}")
        if not names:
            self._followed.dishonest.append(run.reason)
            return await self._runtime.resume(run.id, pipeline=pipeline)
        step = names[0].removesuffix(".undo")
        if step not in legs:
            await self._settle_children(run)
            return await self._runtime.resume(run.id, pipeline=pipeline)
        return await self._told(run, pipeline, names[0], legs[step])

    async def _told(self, run: Run[Any], pipeline: Pipeline[Any], node: str, leg: Leg) -> Run[Any]:
        """Says of one node what the books hold, or mends what refuses it."""
        saga, books = self._followed.saga, self._books
        is_undo = node.endswith(".undo")
        if run.nodes[node].state != "unknown":
            if not is_undo or leg.undo_fault != "broken":
                self._followed.dishonest.append(f"{node} {run.nodes[node].state}: {run.reason}")
            books.mend(saga.name)
            return await self._runtime.resume(run.id, pipeline=pipeline)
        if leg.receiver != "plain":
            self._followed.dishonest.append(f"{node} could have been asked: {run.reason}")
        is_there = books.has(saga.name, leg.name, is_undo=is_undo)
        if not is_there and not is_undo and run.reason == "effect_unknown":
            return await self._runtime.resume(run.id, pipeline=pipeline, rerun=[node])
        value = None if is_undo else leg.cents
        found = Happened(value) if is_there else NotHappened()
        try:
            handle = await self._runtime.settle(run.id, node, found, by="person", pipeline=pipeline)
        except RunError as error:
            self._followed.dishonest.append(f"{node}: {error.code}")
            return await self._runtime.resume(run.id, pipeline=pipeline)
        return await handle

    async def _settle_children(self, run: Run[Any]) -> None:
        """Settles the runs within that are stuck. One that failed may have one that is."""
        listed = await self._runtime.runs(limit=100_000)
        parents = [run.id]
        for parent in parents:
            for each in listed:
                inner = self._pipelines.get(each.header.pipeline)
                if each.header.parent != parent or inner is None:
                    continue
                parents.append(each.header.run)
                if each.status == "suspended":
                    child = await self._runtime.result(each.header.run, pipeline=inner)
                    await self.settle(child, inner)
