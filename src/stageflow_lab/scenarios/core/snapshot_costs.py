"""What dumping and loading a snapshot costs: CPU, the longest turn of the loop, and memory.

Times are of the thread's CPU, since other processes share the machine: what is told of a stall is
how long the loop's own thread worked between two turns of somebody else. All the work is done in
that thread, so no other can hold the interpreter's lock from it.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import hashlib
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stageflow import Pipeline, Run, transform

from .snapshot_mixes import MIB, floor_read, floor_write, mix

PAGE_KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Order:
    """One size to be measured, in a process of its own."""

    scratch: str
    mib: int
    keys: int
    digits: int
    rounds: int
    concurrent: int
    seed: int


@transform
def context() -> dict[str, Any]:
    """Gives what HELD has: the pipeline's inputs would hold the value a second time."""
    value: dict[str, Any] = pickle.loads(HELD[0])
    return value


DESK: Final = Pipeline("context", [context], outputs=context)
HELD: Final[list[bytes]] = [b""]


def measured(order: Order) -> dict[str, list[dict[str, Any]]]:
    """Events by kind: `timed` per round, `memory` of a dump and a load, `loaded` per load."""
    value = mix(order.mib * MIB, order.seed, keys=order.keys, digits=order.digits)
    HELD[0] = pickle.dumps(value)
    del value
    events: dict[str, list[dict[str, Any]]] = {"timed": [], "memory": [], "loaded": []}
    asyncio.run(_memory(order, events))
    for turn in range(order.rounds + 1):
        found = asyncio.run(_round(floor_first=turn % 2 == 0))
        if turn:  # the first warms up
            events["timed"].append({"mib": order.mib, **found})
    asyncio.run(_concurrent(order, events))
    return events


async def _round(*, floor_first: bool) -> dict[str, Any]:
    """Seconds of CPU of both, and of the longest turn; the values are new, so that no text holds
    its encoding from the round before."""
    run = await DESK.run()
    floor_s = _floor() if floor_first else 0.0
    stream: list[bytes] = []
    subject_s = await _took(lambda: _there_and_back(run, stream))
    if not floor_first:
        floor_s = _floor()
    longest_s = await _longest_turn(lambda: _there_and_back(run, []))
    return {
        "floor_s": floor_s,
        "subject_s": subject_s,
        "stall_s": longest_s,
        "chunks": len(stream),
        "bytes": sum(map(len, stream)),
    }


def _floor() -> float:
    value = pickle.loads(HELD[0])
    gc.collect()
    started = time.thread_time()
    kept = floor_read(floor_write(value))
    took = time.thread_time() - started
    del kept
    return took


async def _there_and_back(run: Run[Any], stream: list[bytes]) -> object:
    async for chunk in DESK.dump(run.snapshot):
        stream.append(chunk)
    return await DESK.load(stream)


async def _took(work: Callable[[], Any]) -> float:
    gc.collect()
    started = time.thread_time()
    kept = await work()
    took = time.thread_time() - started
    del kept  # freeing all of it is no part of the work, nor of the floor's
    return took


async def _longest_turn(work: Callable[[], Any]) -> float:
    """CPU seconds between two turns of a task that does nothing but wait for its next."""
    longest, over = 0.0, False

    async def beat() -> None:
        nonlocal longest
        last = time.thread_time()
        while not over:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest = max(longest, now - last)
            last = now

    gc.collect()
    beating = asyncio.create_task(beat())
    await asyncio.sleep(0)
    kept = await work()
    over = True
    await beating
    del kept
    return longest


async def _memory(order: Order, events: dict[str, list[dict[str, Any]]]) -> None:
    """The most that a dump into a file, and a load from it, take beside what was there and what
    is there afterwards."""
    run = await DESK.run()
    path = Path(order.scratch) / f"{order.mib}.snapshot"
    before = _settled()
    with path.open("wb") as file:
        async for chunk in DESK.dump(run.snapshot):
            file.write(chunk)
    dumped = _peak_bytes() - before
    hashed = run.snapshot.content_hash
    del run
    before = _settled()
    with path.open("rb") as file:
        back = await DESK.load(iter(lambda: file.read(64 * 1024), b""))
    peak = _peak_bytes()
    loaded = peak - max(before, _settled())
    events["memory"].append({"mib": order.mib, "dump": dumped, "load": loaded})
    events["loaded"].append({"mib": order.mib, "same": back.content_hash == hashed})
    again = hashlib.blake2b()
    async for chunk in DESK.dump(back):
        again.update(chunk)
    first = hashlib.blake2b(path.read_bytes())
    events["loaded"].append({"mib": order.mib, "same": again.digest() == first.digest()})


async def _concurrent(order: Order, events: dict[str, list[dict[str, Any]]]) -> None:
    run = await DESK.run()
    hashed = run.snapshot.content_hash

    async def one() -> bool:
        stream = [chunk async for chunk in DESK.dump(run.snapshot)]
        return (await DESK.load(stream)).content_hash == hashed

    for same in await asyncio.gather(*(one() for _ in range(order.concurrent))):
        events["loaded"].append({"mib": order.mib, "same": same})


def _settled() -> int:
    """Resident bytes now; the peak counts from here."""
    gc.collect()
    # What was freed goes back to the system, else it would be taken again without being counted.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak_bytes() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * PAGE_KIB
    raise LookupError(name)
