"""A process that causes effects through shared ledgers, and kills itself where it is told to.

What it was told for each duplicate goes to a file, line by line, so that a death loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from stageflow import Runtime
from stageflow.stages.work import Effect, Ledger, LedgerRules
from stageflow.stages.work.ledger.entry import Granted
from stageflow.stages.work.ledger.store import EffectStore

from .local_server import HOST
from .orders import PIPELINES, Receipt, Reply, replied

RULES: Final = LedgerRules(keep_s=86_400.0, lease_s=60.0, skew_s=20.0)
LANES: Final = 8
"""Keys that one process asks for side by side."""
TABLE: Final = "effects_of_orders"

T = TypeVar("T")
_order: ContextVar[str] = ContextVar("order")
"""Of the duplicate that is running; stages see their caller's context."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key: in which store and at which receiver, how often, and where somebody dies."""

    order: str
    store: str
    kind: str
    calls: tuple[int, ...]
    """Duplicates by process."""
    point: str | None


@dataclass(frozen=True, slots=True)
class Job:
    """What one process does."""

    number: int
    keys: tuple[Key, ...]
    stores: Mapping[str, str]
    """Name to path or address."""
    port: int
    tenant: str
    told: str
    """File for what was told."""
    flags: str
    """Folder in which the first who gets to the point of a key leaves a file, and dies."""
    skew_s: float


class Switch:
    """Kills this process at the point of a key, unless another was first."""

    def __init__(self, job: Job, tell: Callable[..., None]) -> None:
        self._points = {key.order: key.point for key in job.keys}
        self._flags = Path(job.flags)
        self._tell = tell

    def reached(self, point: str, order: str) -> None:
        if self._points.get(order) != point:
            return
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._flags / order, os.O_CREAT | os.O_EXCL))
            self._tell(died=point, order=order)
            os.kill(os.getpid(), signal.SIGKILL)


class DeadlyEffects:
    """An EffectStore around another, with a switch before and after each step of a claim."""

    def __init__(self, inner: EffectStore, switch: Switch) -> None:
        self._inner = inner
        self._switch = switch
        self.keys: set[str] = set()

    async def change(self, key: str, decide: Callable[..., tuple[Any, T]]) -> T:
        self.keys.add(key)
        order = _order.get("")
        step = getattr(getattr(decide, "func", None), "__name__", "")
        if step in ("claim", "record"):
            self._switch.reached(f"before_{step}", order)
        answer = await self._inner.change(key, decide)
        if isinstance(answer, Granted):
            self._switch.reached("after_claim", order)
        elif step == "record":
            self._switch.reached("after_record", order)
        return answer

    async def change_within(self, key: str, decide: Callable[..., tuple[Any, T]]) -> T:
        self.keys.add(key)
        order = _order.get("")
        self._switch.reached("before_claim", order)
        answer = await self._inner.change_within(key, decide)
        self._switch.reached("after_record", order)
        return answer

    async def sweep(self, *, skew_s: float) -> int:
        return await self._inner.sweep(skew_s=skew_s)

    async def close(self) -> None:
        await self._inner.close()


class HttpClient:
    """Implements Client: over HTTP, or a row in the ledger's transaction."""

    def __init__(self, port: int, switch: Switch) -> None:
        self._port = port
        self._switch = switch

    def to(self, kind: str) -> _ToKind:
        """The client of one kind of receiver."""
        return _ToKind(self, kind)

    async def post(self, kind: str, order: str, key: str) -> Receipt:
        self._switch.reached("before_act", order)
        answer = await self.asked("POST", f"/{kind}", key=key, body=order)
        self._switch.reached("after_act", order)
        return Receipt(**answer)

    async def asked(self, method: str, path: str, *, key: str = "", body: str = "") -> Any:
        """The JSON that the server answers."""
        reader, writer = await asyncio.open_connection(HOST, self._port)
        try:
            lines = (
                f"{method} {path} HTTP/1.0",
                f"Idempotency-Key: {key}",
                f"Content-Length: {len(body)}",
            )
            writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
            await writer.drain()
            answer = await reader.read()
        finally:
            writer.close()
        return json.loads(answer.partition(b"\r\n\r\n")[2])

    def row(self, order: str, transaction: Any) -> Receipt:
        self._switch.reached("before_act", order)
        mark = "?" if isinstance(transaction, sqlite3.Connection) else "%s"
        transaction.execute(f"INSERT INTO {TABLE} VALUES ({mark})", (order,))
        number = transaction.execute(f"SELECT count(*) FROM {TABLE}").fetchone()[0]
        self._switch.reached("after_act", order)
        return Receipt("ok", [f"row-{number}"], 1, number)


class _ToKind:
    """One kind of receiver at the server."""

    def __init__(self, client: HttpClient, kind: str) -> None:
        self._client = client
        self._kind = kind

    async def send(self, order: str, effect: Effect) -> Receipt:
        return await self._client.post(self._kind, order, effect.key)

    def write(self, order: str, transaction: Any) -> Receipt:
        return self._client.row(order, transaction)

    async def look_up(self, effect: Effect) -> Receipt | None:
        # Whoever sent it is dead, and its request has been read by a server on this host or never.
        await asyncio.sleep(0.2)
        answer = await self._client.asked("GET", f"/answer/{effect.key}")
        return None if answer is None else Receipt(**answer)


class _Lent:
    """A dep that a runtime uses and does not close."""

    def __init__(self, dep: Any) -> None:
        self.dep = dep

    def __enter__(self) -> Any:
        return self.dep

    def __exit__(self, *raised: object) -> None:
        return None


class Worker:
    """One process at its job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._file = os.open(job.told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.switch = Switch(job, self.tell)
        self.client = HttpClient(job.port, self.switch)
        self.stores = {
            name: DeadlyEffects(opened(name, address, job.skew_s), self.switch)
            for name, address in job.stores.items()
        }
        self.ledgers = {name: Ledger(store, rules=RULES) for name, store in self.stores.items()}

    def tell(self, **what: Any) -> None:
        """One line, in one write."""
        os.write(self._file, json.dumps(what).encode() + b"\n")

    async def call(self, key: Key, *, amount: int = 7, memo: str = "first") -> Reply:
        """One duplicate of `key`."""
        _order.set(key.order)
        client = self.client.to(key.kind)
        deps = {"ledger": _Lent(self.ledgers[key.store]), "client": _Lent(client)}
        runtime = Runtime(deps={name: (lambda dep=dep: dep) for name, dep in deps.items()})
        return await replied(
            PIPELINES[key.kind],
            runtime,
            self.job.tenant,
            order=key.order,
            amount=amount,
            memo=memo,
        )

    async def duplicates(self) -> None:
        """Every key as often as this process has to; told one by one."""
        lanes = asyncio.Semaphore(LANES)

        async def one(key: Key) -> None:
            async with lanes:
                calls = [self.call(key) for _ in range(key.calls[self.job.number])]
                for reply in await asyncio.gather(*calls):
                    self.tell(order=key.order, **asdict(reply))
                self.tell(done=key.order)

        for key in self.job.keys:
            if key.point is not None:  # alone: a death beside it would keep it from its own
                await one(key)
        await asyncio.gather(*(one(key) for key in self.job.keys if key.point is None))

    async def afterwards(self) -> None:
        """A replay of every key, and two with other parameters."""
        lanes = asyncio.Semaphore(LANES)

        async def one(key: Key) -> None:
            async with lanes:
                self.tell(order=key.order, last=True, **asdict(await self.call(key)))
                for changed in ({"amount": 8}, {"memo": "second"}):
                    refused = await self.call(key, **changed)
                    self.tell(order=key.order, refusal=refused.reason or refused.status)

        await asyncio.gather(*(one(key) for key in self.job.keys))

    async def close(self) -> None:
        for ledger in self.ledgers.values():
            await ledger.aclose()
        os.close(self._file)


def opened(name: str, address: str, skew_s: float) -> EffectStore:
    """The store called `name`; those with a server take its time, the file this process's."""
    if name == "sqlite":
        from stageflow.stages.work.ledger.sqlite import SQLiteEffects

        return SQLiteEffects(address, wall_s=lambda: time.time() + skew_s)
    return Ledger(address).store


def work_off(job: Job) -> None:
    """The whole life of a process."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    async def carried_out() -> None:
        worker = Worker(job)
        await worker.duplicates()
        await worker.close()

    asyncio.run(carried_out())
