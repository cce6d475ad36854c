"""Pipelines generated from a seed whose stages wait in every way there is, and clean up badly.

A blueprint is data: which stages, how each waits (its shape), what it does when it is cancelled
(its manners). The stages write into the run's ledger, which is a dep of the run: every scope that
was entered, how often its cleanup began, which handles are open, who ignored a cancellation.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stageflow import Context, Pipeline, Stage, Stream, agent, enrich, transform

FOREVER_S: Final = 1e6
"""Longer than any grace: only a kill ends such a wait."""
BRIEF_S: Final = 0.004
"""What an orderly asynchronous cleanup takes."""
CRUNCH_S: Final = 0.03
"""What a child process takes for one call."""
DEPTH_MAX: Final = 3
_WAITS_S: Final = (0.0, 0.0, 0.002, 0.005, 0.005, 0.01, 0.02)
"""Few distinct lengths, so that ends, deadlines and timeouts often fall on one moment."""

SHAPES: Final = (
    "steady",
    "gathers",
    "groups",
    "shields",
    "leaves",
    "forgets",
    "spins",
    "limits",
    "streams",
    "blocks",
    "nests",
    "nests_twice",
    "nests_apart",
)
"""How a stage waits: plain sleeps, gather, TaskGroup, shield, a task started and awaited later, one
never awaited, one that never really waits, asyncio.timeout, an async generator, a sync function
outside the loop, a child run, two at once, one in a task of its own."""
REAL_SHAPES: Final = (*SHAPES, "blocks", "deaf", "crunches")
"""On a real loop also: threads that do not look at `ctx.cancelled`, and child processes."""
MANNERS: Final = ("quick", "brief", "brief", "raises", "hangs", "swallows", "refuses")
"""What a scope does when cancelled: cleans up at once, or takes `BRIEF_S`; raises from its cleanup;
never ends its cleanup; takes the cancellation for an ordinary end; goes on waiting."""
IGNORING: Final = ("hangs", "refuses")


@dataclass(frozen=True, slots=True)
class Placed:
    """One stage of a blueprint."""

    name: str
    shape: str
    manners: str
    waits_s: tuple[float, ...]
    parent: str | None
    """The stage whose value it takes."""
    after: tuple[str, ...]
    child: Blueprint | None


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A pipeline as data."""

    name: str
    stages: tuple[Placed, ...]

    def dependants(self, name: str) -> frozenset[str]:
        """`name` and every stage that takes its value or comes after it, directly or not."""
        found = {name}
        for placed in self.stages:  # parents come before their children
            if found & {placed.parent, *placed.after}:
                found.add(placed.name)
        return frozenset(found)

    def uses(self, shape: str) -> bool:
        """True when some stage, at any depth, has that shape."""
        return any(
            each.shape == shape or (each.child is not None and each.child.uses(shape))
            for each in self.stages
        )


def blueprint(rng: random.Random, name: str, *, shapes: tuple[str, ...] = SHAPES) -> Blueprint:
    """A pipeline of 2 to 6 stages, with child pipelines down to `DEPTH_MAX` levels."""
    return _blueprint(rng, name, shapes, 1)


def _blueprint(rng: random.Random, name: str, shapes: tuple[str, ...], depth: int) -> Blueprint:
    stages: list[Placed] = []
    for number in range(rng.randint(2, 6) if depth == 1 else rng.randint(1, 3)):
        shape = rng.choice(shapes)
        while shape.startswith("nests") and depth == DEPTH_MAX:
            shape = rng.choice(shapes)
        before = [placed.name for placed in stages]
        own = f"{name}_{number}"
        stages.append(
            Placed(
                name=own,
                shape=shape,
                manners=rng.choice(MANNERS),
                waits_s=tuple(rng.choice(_WAITS_S) for _ in range(rng.randint(1, 3))),
                parent=rng.choice(before) if before and rng.random() < 0.5 else None,
                after=(rng.choice(before),) if before and rng.random() < 0.3 else (),
                child=_blueprint(rng, own, shapes, depth + 1)
                if shape.startswith("nests")
                else None,
            )
        )
    return Blueprint(name, tuple(stages))


@dataclass(slots=True)
class Ledger:
    """What the stages of one run did. Threads write to lists of their own tickets only."""

    scopes: list[str] = field(default_factory=list)
    """Who entered, by ticket."""
    cleaned: list[int] = field(default_factory=list)
    """How often the cleanup of each ticket began."""
    open: set[int] = field(default_factory=set)
    """Tickets whose handle is open."""
    ignoring: set[str] = field(default_factory=set)
    """Scopes that went on after a cancellation, by the name of their stage."""
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    """Tasks that stages started; held here because the loop holds them weakly."""
    interrupted: list[str] = field(default_factory=list)
    """Scopes whose cleanup, begun by one cancellation, was cut off by another."""
    is_real: bool = False
    """True when sync stages may take real time."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Keeps tickets distinct among threads."""

    def enter(self, who: str) -> int:
        """A new ticket with its handle open."""
        with self.lock:
            self.scopes.append(who)
            self.cleaned.append(0)
            ticket = len(self.scopes) - 1
            self.open.add(ticket)
            return ticket

    def cleaning(self, ticket: int) -> None:
        """The ticket's cleanup begins."""
        self.cleaned[ticket] += 1

    def release(self, ticket: int) -> None:
        """The ticket's handle is closed."""
        self.open.discard(ticket)

    async def scoped(self, who: str, manners: str, work: Callable[[], Awaitable[Any]]) -> None:
        """`work` with a handle open around it, and its manners when it is cancelled."""
        ticket = self.enter(who)
        ended = False
        try:
            await self._worked(who, manners, work)
            ended = True
        finally:
            self.cleaning(ticket)
            try:
                if not ended:
                    await self.clean_up(who, manners)
            finally:
                self.release(ticket)

    async def clean_up(self, who: str, manners: str) -> None:
        """What a scope does after it was cut off; called while that exception is handled."""
        was_cancelled = isinstance(sys.exception(), asyncio.CancelledError)
        try:
            match manners:
                case "hangs":
                    self.ignoring.add(who)
                    await asyncio.sleep(FOREVER_S)
                case "raises":
                    raise BrokenCleanup(who)
                case "brief":
                    await asyncio.sleep(BRIEF_S)
        except asyncio.CancelledError:
            self.ignoring.discard(who)  # it has ended after all, before anybody had to kill it
            if was_cancelled:
                self.interrupted.append(who)
            raise

    async def _worked(self, who: str, manners: str, work: Callable[[], Awaitable[Any]]) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            if manners == "swallows":
                return
            if manners != "refuses":
                raise
            self.ignoring.add(who)
            while True:
                try:
                    await asyncio.sleep(FOREVER_S)
                except asyncio.CancelledError:
                    continue


class BrokenCleanup(Exception):
    """Raised by cleanups with that manner."""


@asynccontextmanager
async def desk(ledger: Ledger) -> AsyncIterator[str]:
    """A run-scoped dep with a handle of its own, opened and closed across a wait."""
    await asyncio.sleep(0)
    ticket = ledger.enter("desk")
    try:
        yield "desk"
    finally:
        ledger.cleaning(ticket)
        ledger.release(ticket)
        await asyncio.sleep(0)


def build(plan: Blueprint, *, timeouts_s: Mapping[str, float] | None = None) -> Pipeline[Any]:
    """The pipeline of a blueprint. A stage in `timeouts_s` may take so long and is isolated.

    Inputs: `start`, a text, and `folder`, where child processes leave their ids. Deps: `ledger` and
    `desk`.
    """
    limits = {} if timeouts_s is None else timeouts_s
    return Pipeline(
        plan.name,
        [_stage(placed, limits.get(placed.name)) for placed in plan.stages],
        inputs={"start": str, "folder": str},
        deps={"ledger": Ledger, "desk": str},
    )


def _stage(placed: Placed, timeout_s: float | None) -> Stage[..., Any]:
    match placed.shape:
        case "streams":
            stage = agent(name=placed.name)(_stream(placed))
        case "blocks" | "deaf":
            stage = transform(name=placed.name)(_thread(placed))
        case "crunches":
            stage = transform(name=placed.name, place="process")(crunch)
        case _:
            stage = enrich(name=placed.name)(_task(placed))
    upstream = "start" if placed.parent is None else placed.parent
    if timeout_s is None:
        return stage.named(after=placed.after, upstream=upstream)
    return stage.named(
        after=placed.after, upstream=upstream, timeout=timeout_s, on_failure="isolate"
    )


def crunch(folder: str, upstream: Any) -> str:
    """The stage of a child process: leaves the process's id in `folder` and takes its time."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(CRUNCH_S)
    return f"crunched {upstream}"


def _thread(placed: Placed) -> Callable[..., str]:
    def body(ctx: Context, ledger: Ledger, upstream: Any) -> str:
        ticket = ledger.enter(placed.name)
        try:
            until = time.monotonic() + sum(placed.waits_s)
            while ledger.is_real and time.monotonic() < until:
                if ctx.cancelled and placed.shape != "deaf":
                    break
                time.sleep(0.001)
        finally:
            ledger.cleaning(ticket)
            ledger.release(ticket)
        return f"{placed.name} of {upstream}"

    return body


def _stream(placed: Placed) -> Callable[..., Stream[str]]:
    async def body(ledger: Ledger, upstream: Any) -> Stream[str]:
        ticket = ledger.enter(placed.name)
        ended = False
        try:
            for number, wait_s in enumerate(placed.waits_s):
                await asyncio.sleep(wait_s)
                yield f"{placed.name} {number} of {upstream}"
            ended = True
        finally:
            ledger.cleaning(ticket)
            try:
                if not ended:
                    await ledger.clean_up(placed.name, placed.manners)
            finally:
                ledger.release(ticket)

    return body


def _task(placed: Placed) -> Callable[..., Coroutine[Any, Any, str]]:
    child = None if placed.child is None else build(placed.child)

    async def body(ctx: Context, ledger: Ledger, desk: str, folder: str, upstream: Any) -> str:
        async def nested(key: str) -> None:
            assert child is not None
            await ctx.run(child, key=key, start=placed.name, folder=folder)

        await ledger.scoped(placed.name, placed.manners, lambda: _wait(placed, ledger, nested))
        return f"{placed.name} at {desk} of {upstream}"

    return body


async def _wait(placed: Placed, ledger: Ledger, nested: Callable[[str], Awaitable[None]]) -> None:
    """Waits in the stage's way. Scopes inside the stage are called `stage.number`."""
    total_s = sum(placed.waits_s)

    def part(number: int) -> Coroutine[Any, Any, None]:
        manners = placed.manners if number else "quick"
        return ledger.scoped(f"{placed.name}.{number}", manners, lambda: _sleeps(placed.waits_s))

    def task(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        made = asyncio.create_task(coroutine, name=f"{placed.name}.task")
        ledger.tasks.add(made)
        return made

    match placed.shape:
        case "gathers":
            await asyncio.gather(part(0), part(1))
        case "groups":
            async with asyncio.TaskGroup() as group:
                for number in range(2):
                    group.create_task(part(number), name=f"{placed.name}.task")
        case "shields":
            await asyncio.shield(task(part(1)))
        case "leaves":
            left = task(part(1))
            await asyncio.sleep(total_s / 2)
            await left
        case "forgets":
            task(part(1))
            await asyncio.sleep(total_s / 2)
        case "spins":
            for _ in range(8):
                await asyncio.sleep(0)
        case "limits":
            with suppress(TimeoutError):
                async with asyncio.timeout(total_s / 2):
                    await asyncio.sleep(total_s)
            async with asyncio.timeout(FOREVER_S):
                await asyncio.sleep(total_s)
        case "nests":
            await nested("only")
        case "nests_twice":
            await asyncio.gather(nested("left"), nested("right"))
        case "nests_apart":
            apart = task(_awaited(nested("apart")))
            await asyncio.sleep(total_s)
            await apart
        case _:
            await _sleeps(placed.waits_s)


async def _sleeps(waits_s: tuple[float, ...]) -> None:
    for wait_s in waits_s:
        await asyncio.sleep(wait_s)


async def _awaited(waited: Awaitable[None]) -> None:
    await waited
