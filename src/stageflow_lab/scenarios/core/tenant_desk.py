"""One pipeline that all tenants share: its stages, its connections, its cache, its files, its log.

Every tenant asks the same things, so that what is kept under what was asked alone is another's as
well. What a tenant is answered comes over connections that all of them use in turn, and holds that
tenant's canary, as the far side of the connection knows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from stageflow import (
    Allow,
    Block,
    Cache,
    Connections,
    Context,
    Decision,
    Dep,
    Pipeline,
    Runtime,
    agent,
    approval,
    enrich,
    guard,
    transform,
    work,
)

from .tenant_canaries import FORMS

LOG: Final = logging.getLogger("stageflow_lab.tenant_desk")
SEEN_HERE: Final[ContextVar[str]] = ContextVar("tenant_desk_seen", default="")
"""What the code of a run has seen, as programs keep it for their log lines."""
TOPICS: Final = ("prices", "staff", "plans", "debts")
SIZE: Final = 8
"""Connections, for all tenants."""
SLOW_S: Final = 30.0
"""An answer that nobody waits for to the end."""
QUICK_S: Final = 0.002
HIDDEN_S: Final = 0.01

Ending = Literal["ok", "cancelled", "hidden", "failed", "blocked", "suspended"]
ENDINGS: Final[tuple[Ending, ...]] = (
    *("ok", "cancelled", "ok", "hidden", "ok", "failed", "cancelled", "blocked", "suspended"),
)
"""In turn; two of nine are cancelled mid-response, one hides a timeout mid-response."""


@dataclass(slots=True)
class Traffic:
    """What the connections saw, as only they can know it."""

    canaries: dict[str, str]
    answers: list[tuple[str, str, bool]] = field(default_factory=list)
    """(tenant that asked, what it was answered, whether it was the next after a cut)."""
    facts: Counter[str] = field(default_factory=Counter)
    """cut: calls cut off mid-response; tainted: calls over a connection on which an answer to an
    earlier call was still due; calls."""
    is_after_cut: bool = False
    pending: dict[str, asyncio.Event] = field(default_factory=dict)
    """By note: set when the answer to a slow call is awaited."""


class Wire(ABC):
    """A connection on which answers come in the order of the calls; so most protocols have it."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.due = 0
        """Calls that were sent and whose answers were not read."""
        self.tenant = ""

    async def ask(self, what: str, *, wait_s: float = QUICK_S, mark: str = "") -> str:
        """The answer to one call."""
        traffic, asker = self.traffic, self.tenant
        traffic.facts["calls"] += 1
        traffic.facts["tainted"] += self.due > 0
        self.due += 1
        await self._send({"tenant": asker, "what": what, "wait_s": wait_s})
        if mark and mark in traffic.pending:
            traffic.pending[mark].set()
        try:
            answer = await self._receive()
        except asyncio.CancelledError:
            traffic.facts["cut"] += 1
            traffic.is_after_cut = True
            raise
        self.due -= 1
        traffic.answers.append((asker, answer, traffic.is_after_cut))
        traffic.is_after_cut = False
        return answer

    @abstractmethod
    async def _send(self, call: dict[str, Any]) -> None:
        """Puts a call on the wire."""

    @abstractmethod
    async def _receive(self) -> str:
        """The next answer that comes over it, whoever's it is."""

    async def aclose(self) -> None:
        """Nothing comes over it any more. A wire within the process has nothing to close."""
        return


class SimWire(Wire):
    """Its far side is in the same process, and answers in virtual time."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__(traffic)
        self._calls: deque[dict[str, Any]] = deque()

    async def _send(self, call: dict[str, Any]) -> None:
        self._calls.append(call)

    async def _receive(self) -> str:
        await asyncio.sleep(self._calls[0]["wait_s"])
        return answered(self._calls.popleft(), self.traffic.canaries)


class TcpWire(Wire):
    """Its far side is `serve`, over a socket of the loopback."""

    def __init__(
        self, traffic: Traffic, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        super().__init__(traffic)
        self._reader = reader
        self._writer = writer

    async def _send(self, call: dict[str, Any]) -> None:
        self._writer.write(json.dumps(call).encode() + b"\n")
        await self._writer.drain()

    async def _receive(self) -> str:
        answer: str = json.loads(await self._reader.readline())
        return answer

    async def aclose(self) -> None:
        """Ends the socket."""
        self._writer.close()


def answered(call: dict[str, Any], canaries: dict[str, str]) -> str:
    """What the far side knows: the tenant's canary, in the form that the call's length chooses."""
    forms = list(FORMS.values())
    form = forms[len(call["what"]) % len(forms)]
    return f"{call['what']} of {form(canaries[call['tenant']])}"


async def serve(traffic: Traffic) -> asyncio.Server:
    """Answers on a port of the loopback, in order on each connection."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                call = json.loads(line)
                # What is slow here is slow for its asker, and comes soon after it was cut off.
                await asyncio.sleep(min(call["wait_s"], 0.03))
                writer.write(json.dumps(answered(call, traffic.canaries)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass  # closed by whoever asked
        finally:
            writer.close()

    return await asyncio.start_server(talk, "127.0.0.1", 0)


class Files(Protocol):
    """A tenant's folder."""

    def write(self, name: str, text: str) -> None: ...


@dataclass(slots=True)
class MemoryFiles:
    """A folder in this process's memory."""

    tenant: str
    kept: dict[str, dict[str, str]]
    """Every tenant's files."""

    def write(self, name: str, text: str) -> None:
        self.kept.setdefault(self.tenant, {})[name] = text


@dataclass(slots=True)
class DiskFiles:
    """A folder on the disk."""

    folder: Path

    def write(self, name: str, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)


def bind(wire: Wire, tenant: str) -> None:
    """The far side is told for whom it is asked from now on."""
    wire.tenant = tenant


def deps(
    open: Callable[[], Awaitable[Wire] | Wire], files: Callable[[str], Files]
) -> dict[str, Any]:
    """One pool of connections for all; a folder for each tenant."""

    def folder(tenant: str) -> Files:
        return files(tenant)

    return {
        "wires": Connections(open, size=SIZE, waiters=10_000, bind=bind),
        "folder": Dep(folder, scope="tenant"),
    }


# -- the stages, shared by all runs --------------------------------------------------------------


@transform(cache=Cache())
async def question(topic: str) -> str:
    return f"tell of {topic}"


@enrich(cache=Cache(ttl=3_600.0))
async def profile(question: str, wires: Connections[Wire]) -> str:
    """What is asked is the same for all; the answer is the tenant's."""
    async with wires.take() as wire:
        return await wire.ask(question)


@enrich
async def reply(note: str, ending: str, wires: Connections[Wire]) -> str:
    """Cut off while its answer is on the way: from outside, or by a timeout that it hides."""
    SEEN_HERE.set(note)
    if ending == "hidden":
        async with wires.take() as wire:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wire.ask("slow", wait_s=SLOW_S), HIDDEN_S)
    async with wires.take() as wire:
        wait_s = SLOW_S if ending == "cancelled" else QUICK_S
        return await wire.ask(f"reply to {len(note)}", wait_s=wait_s, mark=note)


@transform
async def told(ctx: Context, reply: str, profile: str, again: str, note: str) -> list[str]:
    """Everything that a stage can see of where it is, and a line for the log."""
    session = ctx.session
    turns = [] if session is None else [repr((turn.inputs, turn.output)) for turn in session]
    LOG.info("%s: %s", note, SEEN_HERE.get(), extra={"tenant": ctx.identity.tenant})
    return [reply, profile, again, repr(ctx.snapshot.inputs), SEEN_HERE.get(), *turns]


@guard(of="told")
async def decent(told: list[str], ending: str) -> Decision:
    return Block(f"not this: {told[0]}") if ending == "blocked" else Allow()


@transform
async def echoed(text: str) -> str:
    return f"echo of {text}"


CHILD: Final = Pipeline("child", [echoed], inputs={"text": str}, outputs=echoed)


@agent
async def summary(ctx: Context, told: list[str], ending: str) -> AsyncIterator[str]:
    """A child run, a durable step and emitted items, each with data of the tenant."""
    if ending == "failed":
        raise ValueError(f"can't make sense of {told[0]}")
    yield await ctx.run(CHILD, key="child", text=told[1])
    yield await ctx.step("first", str.upper, told[2])


signed = approval("signed", bool, of=summary)


@work(keyed=True)
async def filed(ctx: Context, summary: list[str], note: str, folder: Files) -> str:
    folder.write(f"{ctx.identity.run}.txt", "\n".join([*summary, note]))
    return f"filed {len(summary)}"


@work(keyed=True)
async def sent(summary: list[str], signed: bool) -> str:
    return summary[0]


STAGES: Final = (question, profile, reply, told, decent, summary)
AGAIN: Final = profile.named("again", after=profile)
INPUTS: Final = {"topic": str, "note": str, "ending": str}
DEPS: Final = {"wires": Connections, "folder": Files}
DESK: Final = Pipeline(
    "desk", [*STAGES, AGAIN, filed], inputs=INPUTS, deps=DEPS, outputs=[filed, summary]
)
ASKING: Final = Pipeline(
    "asking", [*STAGES, AGAIN, signed, sent], inputs=INPUTS, deps=DEPS, outputs=sent
)
"""The same stages, and a question to a person."""


def pipeline_of(ending: Ending) -> Pipeline[Any]:
    """What a run of this ending is a run of."""
    return ASKING if ending == "suspended" else DESK


def ordinary_run(runtime: Runtime, tenant: str, note: str) -> Awaitable[Any]:
    """One run that ends ok."""
    bound = DESK.using(runtime=runtime.tenant(tenant), target="desk:desk")
    return bound.run(topic=TOPICS[0], note=note, ending="ok")
