"""A wide fan-out whose stages retry, time out and come back late, with everything written down.

Node i is of kind i % 5: calm, failing, stubborn (swallows its timeout and returns a value all the
same), threaded (its thread outlives its attempt), instant. Each value names its author: node,
attempt, owner of the run.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from stageflow import (
    Context,
    ContextSnapshot,
    Pipeline,
    Retry,
    Run,
    Stage,
    Subscription,
    enrich,
    n_of,
    transform,
)
from stageflow.contracts import contract_of
from stageflow.journal.store import LoadedRun
from stageflow.model.record import Record, RecordType
from stageflow.model.values import thaw
from stageflow.runtime.events import RawEvent

from .key_history import NONE

ATTEMPT_FAILED: Final = "an attempt failed"
CAME_LATE: Final = "a value came after its attempt was over"
CANCELLED_AT_COMPLETION: Final = "a run was cancelled at the instant of a completion"
BAG_WRITTEN_TWICE: Final = "a second writer put a value into the bag"
JOURNAL_WRITTEN_TWICE: Final = "a second writer appended an outcome to the journal"
OWNED_TWICE: Final = "a run was taken over while its owner was writing"
FAULTS: Final = (
    ATTEMPT_FAILED,
    CAME_LATE,
    CANCELLED_AT_COMPLETION,
    BAG_WRITTEN_TWICE,
    JOURNAL_WRITTEN_TWICE,
    OWNED_TWICE,
)

OWNERS: Final = "ab"
ROGUE_ATTEMPT: Final = 99
ROGUE_TOKEN: Final = 1_000_000
TIMEOUT_UNITS: Final = 6
GRACE_UNITS: Final = 2
STUBBORN_SHARE: Final = 0.5
FAILING_SHARE: Final = 0.5
LATE_SHARE: Final = 0.25
VALUE: Final = list[int]


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things take."""

    unit_s: float
    """All waits are multiples of it, so that many end at one instant."""
    calm_units: int
    """The longest a calm stage takes."""
    blocks: bool
    """True when a threaded stage blocks its thread itself; else the pool takes the time."""

    @property
    def timeout_s(self) -> float:
        return TIMEOUT_UNITS * self.unit_s

    @property
    def grace_s(self) -> float:
        return GRACE_UNITS * self.unit_s

    def thread_s(self, rng: random.Random) -> float:
        """How long a call in a thread takes: mostly in time, now and then past its attempt."""
        if rng.random() < LATE_SHARE:
            return rng.randint(TIMEOUT_UNITS, 5 * TIMEOUT_UNITS) * self.unit_s
        return rng.randrange(TIMEOUT_UNITS) * self.unit_s


VIRTUAL: Final = Pace(unit_s=0.000_05, calm_units=38, blocks=False)
"""Every stage ends within 2 ms, unless several of its attempts were late."""
REAL: Final = Pace(unit_s=0.005, calm_units=2, blocks=True)


class KeyLog(Subscription):
    """What one owner's run did to each of its keys. Also the run's subscriber: an event is written
    down at the moment it happens."""

    __slots__ = ("befell", "now", "owner", "pace", "rng", "times", "written")

    def __init__(
        self, width: int, *, owner: str, rng: random.Random, pace: Pace, now: Callable[[], float]
    ) -> None:
        super().__init__()
        self.owner = owner
        self.rng = rng
        self.pace = pace
        self.now = now
        self.befell: Counter[str] = Counter()
        """What happened to attempts and by second writers, by fault."""
        self.times: list[float] = []
        """When each value was accepted."""
        self.written: list[list[str]] = [[] for _ in range(width)]

    def push(self, event: RawEvent) -> None:
        kind, _, node, attempt, _, _, status, reason, _ = event
        number = number_of(node)
        if number is None:
            return
        if kind == "stage_ended" and status == "ok":
            self.times.append(self.now())
            self.written[number].append(f"w{self.owner}{attempt}")
        elif kind == "stage_ended" and reason.startswith("error:"):
            self.befell[ATTEMPT_FAILED] += 1
        elif kind == "late_write":
            self.befell[CAME_LATE] += 1
            self.written[number].append(f"l{self.owner}{attempt}")

    def value(self, number: int, attempt: int) -> list[int]:
        """The value of an attempt that is about to return it."""
        self.written[number].append(f"v{self.owner}{attempt}")
        return [number, attempt, OWNERS.index(self.owner)]

    def read(self, number: int, author: str, kind: str) -> None:
        """Somebody looked; that the same was seen again is not written."""
        operations, operation = self.written[number], kind + author
        if not operations or operations[-1] != operation:
            operations.append(operation)

    def read_some(self, snapshot: ContextSnapshot) -> None:
        """Two keys of the run, as a stage that begins sees them."""
        for _ in range(2):
            number = self.rng.randrange(len(self.written))
            self.read(number, _seen(snapshot, name_of(number)), "r")

    def close(self) -> None:
        """Nothing is queued."""

    def end(self, snapshot: ContextSnapshot, run: Run[Any] | None) -> None:
        """Writes down what the bag holds and, when it returned one, what the run shows."""
        for name in snapshot:
            number = number_of(name)
            if number is not None:
                self.written[number].append(f"e{_seen(snapshot, name)}")
        if run is not None:
            for number in range(len(self.written)):
                self.written[number].append(f"f{_seen(run, name_of(number))}")

    def inherit(self, loaded: LoadedRun, *, until: int) -> None:
        """Writes down which values were in the journal, up to record `until`, when this owner took
        the run over: they come before all else."""
        for number, record in _outcomes(loaded):
            if record.is_accepted and record.seq <= until:
                self.written[number].insert(0, f"i{author_of_payload(record)}")

    def keep(self, loaded: LoadedRun) -> None:
        """Writes down what the journal holds in the end."""
        for number, record in _outcomes(loaded):
            kind = "j" if record.is_accepted else "k"
            self.written[number].append(f"{kind}{record.attempt}={author_of_payload(record)}")

    def lines(self, how: str) -> Iterable[str]:
        """One line a key; `how` tells of the run."""
        return (" ".join((how, *operations)) for operations in self.written)


@dataclass(slots=True)
class Told:
    """What some runs did."""

    lines: list[str] = field(default_factory=list)
    """One a key; see key_history."""
    facts: Counter[str] = field(default_factory=Counter)
    """What befell the runs, counted."""
    marks: dict[str, int] = field(default_factory=dict)
    """Rare places of the engine that the process came through, counted."""


LOG: ContextVar[KeyLog] = ContextVar("fan_out_log")
"""The log of the owner in whose run a stage works."""


def _seen(state: ContextSnapshot | Run[Any], name: str) -> str:
    """Whose value the state shows for a key. A broken bag may name keys that it does not have."""
    try:
        return author_of(state[name]) if name in state else NONE
    except KeyError:
        return NONE


async def told_to(log: KeyLog, work: Coroutine[Any, Any, Run[Any]]) -> Run[Any]:
    """The run that `work` gives, its stages writing to `log`."""
    LOG.set(log)
    return await work


def claims(loaded: LoadedRun) -> list[Record]:
    """The records by which the run was taken over, in order."""
    return [record for record in loaded.records if record.type is RecordType.CLAIMED]


def had_ended(loaded: LoadedRun, claim: Record) -> bool:
    """True when the run had ended before it was taken up again."""
    ends = (record.seq for record in loaded.records if record.type is RecordType.RUN_ENDED)
    return any(seq < claim.seq for seq in ends)


def _outcomes(loaded: LoadedRun) -> Iterator[tuple[int, Record]]:
    """Accepted outcomes of keys and refused ones that kept their value, in order."""
    for record in loaded.records:
        number = number_of(record.node)
        if number is not None and (
            record.is_accepted or (record.type is RecordType.LATE and record.payload is not None)
        ):
            yield number, record


def name_of(number: int) -> str:
    """The node's name."""
    return f"n{number}"


def number_of(node: str | None) -> int | None:
    """The key's number; None for nodes that are no keys."""
    return int(node[1:]) if node is not None and node[0] == "n" else None


def author_of(value: Any) -> str:
    """Who made the value: owner and attempt."""
    _, attempt, owner = value
    return "x" if attempt == ROGUE_ATTEMPT else f"{OWNERS[owner]}{attempt}"


def author_of_payload(record: Record) -> str:
    """Who made the value that a record carries."""
    assert record.payload is not None
    return author_of(thaw(contract_of(VALUE).decode(record.payload)))


def fan_out(width: int, pace: Pace) -> Pipeline[Any]:
    """One source, `width` stages side by side, and one that takes the values of all."""

    @transform
    async def source(x: int) -> int:
        return x

    @transform
    async def gathered(joined: list[list[int]]) -> int:
        log = LOG.get()
        for value in joined:
            log.read(value[0], author_of(value), "g")
        return len(joined)

    keys = [_KINDS[number % len(_KINDS)](number, pace) for number in range(width)]
    joined = n_of(width, *keys, name="joined")
    return Pipeline(
        "fan_out",
        [source, *keys, joined, gathered],
        inputs={"x": int},
        outputs=[*keys, gathered],
    )


def _again(pace: Pace, attempts: int) -> Retry:
    return Retry(attempts=attempts, base_s=pace.unit_s, factor=1.0, jitter="none")


def _calm(number: int, pace: Pace) -> Stage[..., Any]:
    async def body(ctx: Context, source: int) -> list[int]:
        log = LOG.get()
        log.read_some(ctx.snapshot)
        await asyncio.sleep(log.rng.randint(1, pace.calm_units) * pace.unit_s)
        return log.value(number, ctx.attempt)

    return enrich(body, name=name_of(number))


def _failing(number: int, pace: Pace) -> Stage[..., Any]:
    async def body(ctx: Context, source: int) -> list[int]:
        log = LOG.get()
        log.read_some(ctx.snapshot)
        await asyncio.sleep(log.rng.randrange(1, TIMEOUT_UNITS) * pace.unit_s)
        if ctx.attempt < 3 and log.rng.random() < FAILING_SHARE:
            raise ConnectionError("not this time")
        return log.value(number, ctx.attempt)

    return enrich(body, name=name_of(number), retry=_again(pace, 3))


def _stubborn(number: int, pace: Pace) -> Stage[..., Any]:
    async def body(ctx: Context, source: int) -> list[int]:
        log = LOG.get()
        log.read_some(ctx.snapshot)
        stays = ctx.attempt < 3 and log.rng.random() < STUBBORN_SHARE
        units = 10 * TIMEOUT_UNITS if stays else log.rng.randrange(1, TIMEOUT_UNITS)
        try:
            await asyncio.sleep(units * pace.unit_s)
        except asyncio.CancelledError:
            if not stays:
                raise
            await asyncio.sleep(pace.grace_s / 2)
        return log.value(number, ctx.attempt)

    return enrich(body, name=name_of(number), timeout=pace.timeout_s, retry=_again(pace, 5))


def _threaded(number: int, pace: Pace) -> Stage[..., Any]:
    def body(ctx: Context, source: int) -> list[int]:
        log = LOG.get()
        if pace.blocks:
            time.sleep(pace.thread_s(log.rng))
        return log.value(number, ctx.attempt)

    return enrich(
        body,
        name=name_of(number),
        place="thread",
        timeout=pace.timeout_s,
        retry=_again(pace, 6),
    )


def _instant(number: int, pace: Pace) -> Stage[..., Any]:
    if pace.blocks:  # on a real loop: at once, in a thread

        def blocking(ctx: Context, source: int) -> list[int]:
            return LOG.get().value(number, ctx.attempt)

        return enrich(blocking, name=name_of(number), place="thread")

    async def body(ctx: Context, source: int) -> list[int]:
        log = LOG.get()
        log.read_some(ctx.snapshot)
        return log.value(number, ctx.attempt)

    return enrich(body, name=name_of(number))


_KINDS: Final = (_calm, _failing, _stubborn, _threaded, _instant)
