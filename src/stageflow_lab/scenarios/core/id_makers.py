"""Processes that make ids: forked in the middle, on clocks that stop or go back, from cloned state.

Every sequence of ids that somebody made is a stream. Within one each id is held against the one
before it. Streams whose ids carry different generators' bits can't share an id; those that carry
the same ones are kept whole and compared. Beside that a sample of all streams is kept, chosen by
the last letter, so that of two equal ids both are in it or neither is.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from stageflow.model import ids as run_ids
from stageflow.model.ids import RunIds

from ...sabotage import patched

CLOCKS: Final = ("runs", "stopped", "set back", "threads")
"""What each of the processes lives through; the last has a running clock, and threads."""
OWN: Final = slice(12, 18)
SAMPLED: Final = "08go"
"""Last letters of the ids in the sample: four of 32, an eighth of all."""
BUCKET: Final = {
    letter: number // 8 for number, letter in enumerate("0123456789abcdefghijklmnopqrstuv")
}
BUCKETS: Final = 4
WRITE_AT: Final = 50_000
THREADS: Final = 4
SET_BACK_NS: Final = 60 * 1_000_000_000
COPIES: Final[dict[str, Callable[[RunIds], RunIds]]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda ids: pickle.loads(pickle.dumps(ids)),
}


@dataclass(frozen=True, slots=True)
class Order:
    """What one process has to make, and its fork."""

    folder: str
    name: str
    clock: str
    ids: int
    """By the process, and as many by its fork."""
    shared: int
    """Of these by threads on one generator."""
    copied: int
    """By each copy of the generator."""


@dataclass(frozen=True, slots=True)
class ImageOrder:
    """What one of two processes has to make that start from the same state or entropy."""

    folder: str
    name: str
    ids: int
    clock_ns: int
    state: tuple[str, int, int, str] | None
    """Of the generator; None for one of its own."""
    entropy: int | None
    """What seeds the system's random bits; None for the system's own."""


@dataclass(frozen=True, slots=True)
class Stream:
    """What one maker made: how many, how many out of order, whose, and whether all are kept."""

    name: str
    ids: int
    disordered: int
    owns: tuple[str, ...]
    """The generators' bits seen in its ids."""
    whole: bool
    fault: str = ""
    """What befell its generator, once the effect was seen."""


class Clock:
    """Nanoseconds since 1970 that can be stopped and set back."""

    def __init__(self) -> None:
        self.stopped_at: int | None = None
        self.back_ns = 0

    def __call__(self) -> int:
        if self.stopped_at is not None:
            return self.stopped_at
        return time.time_ns() - self.back_ns


def carried_out(order: Order) -> list[Stream]:
    """Makes half of the ids, forks, makes the rest; the fork makes its own."""
    clock = Clock()
    if order.clock == "stopped":
        clock.stopped_at = time.time_ns()
    # A clock of the process's own can't be pickled, as its state would have to be.
    ids = RunIds(None if order.clock in ("runs", "threads") else clock)
    if order.clock == "threads":
        return list(_threaded(order, ids))
    streams = []
    half = _Making(order, f"{order.name}-half")
    half.draw(ids, order.ids // 2)
    if order.clock == "set back":
        clock.back_ns = SET_BACK_NS
    half.draw(ids, 1)
    fault = _seen(order.clock, half.last, clock)
    child = _fork(order, ids)
    half.draw(ids, order.ids - order.ids // 2 - 1)
    streams.append(half.ended(fault))
    streams += _from_copies(order, ids)
    return [*streams, *_joined(order, child)]


def carried_out_image(order: ImageOrder) -> list[Stream]:
    """Makes ids from a state, or from random bits, that another process has as well."""
    ids = RunIds(lambda: order.clock_ns)
    making = _Making(order, order.name, whole=True)
    if order.state is not None:
        ids()
        sequence: Any = next(iter(ids._sequences.values()))
        sequence.own, sequence._last, sequence._high, sequence._head = order.state
        making.draw(ids, order.ids)
        return [making.ended("state cloned")]
    with patched(run_ids, "os", ClonedBits(random.Random(order.entropy), os.getpid())):
        making.draw(ids, order.ids)
    return [making.ended("entropy cloned")]


class ClonedBits:
    """The module `os` of a system whose random bits and process ids are given."""

    def __init__(self, bits: random.Random, pid: int) -> None:
        self._bits = bits
        self._pid = pid

    def getpid(self) -> int:
        """The id it was given."""
        return self._pid

    def urandom(self, count: int) -> bytes:
        """The next of the bits it was given."""
        return self._bits.randbytes(count)


def image(clock_ns: int) -> tuple[str, int, int, str]:
    """The state of a generator that has made an id."""
    ids = RunIds(lambda: clock_ns)
    ids()
    (sequence,) = map(_state, ids._sequences.values())
    return sequence


def _state(sequence: Any) -> tuple[str, int, int, str]:
    return sequence.own, sequence._last, sequence._high, sequence._head


class _Making:
    """Draws ids, holds each against the last, keeps the sample or all."""

    def __init__(self, order: Order | ImageOrder, name: str, *, whole: bool = False) -> None:
        self._path = str(Path(order.folder) / name)
        self._name = name
        self._whole = whole
        self._kept: list[list[str]] = [[] for _ in range(BUCKETS)]
        self._owns: set[str] = set()
        self._ids = 0
        self._disordered = 0
        self.last = ""

    def draw(self, ids: Callable[[], str], count: int) -> None:
        """`count` more ids."""
        last, disordered, own, whole = self.last, 0, "", self._whole
        for left in range(count, 0, -1):
            made = ids()
            if made <= last:
                disordered += 1
            last = made
            if made[OWN] != own:
                own = made[OWN]
                self._owns.add(own)
            if whole or made[25] in SAMPLED:
                self._kept[BUCKET[made[25]]].append(made)
            if left % WRITE_AT == 0:
                self._write()
        self.last = last
        self._ids += count
        self._disordered += disordered

    def ended(self, fault: str = "") -> Stream:
        """Writes what is left."""
        self._write()
        owns = tuple(sorted(self._owns))
        return Stream(self._name, self._ids, self._disordered, owns, self._whole, fault)

    def _write(self) -> None:
        for bucket, kept in enumerate(self._kept):
            with Path(f"{self._path}.{bucket}").open("ab") as file:
                file.write("".join(kept).encode())
            kept.clear()


def _threaded(order: Order, ids: RunIds) -> Iterator[Stream]:
    """Threads on one generator, and a fork in their midst; then one thread on a generator more."""
    counts = [order.shared // THREADS] * THREADS
    makings = [_Making(order, f"{order.name}-{n}", whole=True) for n in range(THREADS)]
    halves = threading.Barrier(THREADS + 1)

    def work(making: _Making, count: int) -> None:
        making.draw(ids, count // 2)
        halves.wait()
        making.draw(ids, count - count // 2)

    threads = [
        threading.Thread(target=work, args=(making, count))
        for making, count in zip(makings, counts, strict=True)
    ]
    for thread in threads:
        thread.start()
    halves.wait()
    child = _fork(order, ids)
    for thread in threads:
        thread.join()
    yield from (making.ended() for making in makings)
    rest = _Making(order, f"{order.name}-rest")
    rest.draw(RunIds(), order.ids - sum(counts))
    yield rest.ended()
    yield from _joined(order, child)


def _from_copies(order: Order, ids: RunIds) -> Iterator[Stream]:
    for how, copied in COPIES.items():
        if order.clock == "runs" or how != "pickle":
            making = _Making(order, f"{order.name}-{how}")
            making.draw(copied(ids), order.copied)
            yield making.ended("state copied")


def _seen(clock: str, last: str, now: Clock) -> str:
    """What befell the clock, when the ids went on from where it had been."""
    ahead_ms = (int(last, 32) >> 82) - now() // 1_000_000
    if clock == "stopped" and ahead_ms > 0:
        return "clock stopped"
    if clock == "set back" and ahead_ms > SET_BACK_NS // 2_000_000:
        return "clock set back"
    return ""


def _fork(order: Order, ids: RunIds) -> int:
    """The pid of a child that makes ids with the generator as it stands, and ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 on: there are other threads
        child = os.fork()
    if child:
        return child
    status = 1
    try:
        making = _Making(order, f"{order.name}-fork")
        making.draw(ids, order.ids)
        fault = "fork among threads" if order.clock == "threads" else "fork"
        told = json.dumps(asdict(making.ended(fault)))
        (Path(order.folder) / f"{order.name}.json").write_text(told)
        status = 0
    finally:
        os._exit(status)


def _joined(order: Order, child: int) -> Iterator[Stream]:
    _, status = os.waitpid(child, 0)
    told = Path(order.folder) / f"{order.name}.json"
    if status == 0 and told.exists():
        fields = json.loads(told.read_text())
        yield Stream(**{**fields, "owns": tuple(fields["owns"])})


def compared(folder: Path) -> tuple[int, int]:
    """(ids that are equal to another, ids compared) among all that were kept, by sorting them."""
    equal = total = 0
    for bucket in range(BUCKETS):
        parts = [np.fromfile(path, dtype="S26") for path in sorted(folder.glob(f"*.{bucket}"))]
        ids = np.concatenate(parts) if parts else np.empty(0, dtype="S26")
        ids.sort()
        equal += int(np.count_nonzero(ids[1:] == ids[:-1]))
        total += len(ids)
    return equal, total


def unproven(streams: Sequence[dict[str, Any]]) -> int:
    """Ids in streams that share a generator's bits with another and were not kept whole."""
    whose: dict[str, int] = {}
    for stream in streams:
        for own in stream["owns"]:
            whose[own] = whose.get(own, 0) + 1
    shared = {own for own, times in whose.items() if times > 1}
    return sum(
        stream["ids"]
        for stream in streams
        if not stream["whole"] and not shared.isdisjoint(stream["owns"])
    )
