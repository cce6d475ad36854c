"""Tools in a pipeline: each output is sent, and a consumer downstream keeps what reached it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

from stageflow import Pipeline, transform
from stageflow.stages.work.tools import EXTERNAL, Incoming, OutputRules, ToolOutput, tool

from .output_mutations import CAP, DEPTH, MUTATIONS, Sent, mutated
from .tool_contracts import Subject
from .tool_values import same

NAMES: Final = tuple(MUTATIONS)
PIECE: Final = CAP // 10
"""Bytes that an iterator gives at once."""
STREAM: Final = CAP * 50
"""Bytes that a stream far too long would give."""
EXAMPLES: Final = 3


class Wire:
    """Where one output comes from: a reader, or an iterator, that counts what is taken of it."""

    def __init__(self, data: bytes, length: int) -> None:
        self._data = data
        self._length = length
        self.taken = 0

    async def read(self, n: int, /) -> bytes:
        """At most `n` bytes."""
        piece = self._piece(n)
        self.taken += len(piece)
        return piece

    async def pieces(self) -> AsyncIterator[bytes]:
        """All of it, piece by piece."""
        while piece := self._piece(PIECE):
            self.taken += len(piece)
            yield piece

    def _piece(self, n: int) -> bytes:
        n = min(n, self._length - self.taken)
        piece = self._data[self.taken : self.taken + n]
        return piece + b" " * (n - len(piece))


@dataclass(slots=True)
class Tally:
    """What came of the outputs of one mutation."""

    counts: Counter[str] = field(default_factory=Counter)
    most_taken: int = 0
    """Bytes taken of a stream far longer than the cap."""
    examples: dict[str, list[str]] = field(default_factory=dict)

    def wrong(self, metric: str, told: str) -> None:
        """One more that broke `metric`."""
        self.counts[metric] += 1
        kept = self.examples.setdefault(metric, [])
        if len(kept) < EXAMPLES:
            kept.append(told)


class Desk:
    """A pipeline of one tool and one consumer, used for any number of outputs."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.seen: list[ToolOutput[Any]] = []
        self.sent: Any = None
        rules = OutputRules(
            bytes_max=CAP, depth_max=DEPTH, unknown="keep" if subject.is_open else "refuse"
        )

        @tool(output=subject.declared, rules=rules, invariants=subject.invariants)
        async def asked() -> Any:
            return self.sent

        @transform
        async def used(asked: ToolOutput) -> str:  # type: ignore[type-arg]
            self.seen.append(asked)
            return "used"

        self.asked, self.used = asked, used
        self.pipeline = Pipeline("tools", [asked, used], outputs=used)

    async def send(self, sent: Sent, rng: random.Random) -> tuple[Any, int]:
        """(the run, bytes taken of a stream)."""
        wire = Wire(sent.data, STREAM if sent.endless else len(sent.data))
        if sent.announced is not None:
            self.sent = Incoming(wire, sent.announced)
        elif sent.endless:
            self.sent = rng.choice((wire, wire.pieces()))
        else:
            self.sent = rng.choice((sent.data, wire, wire.pieces()))
        self.seen.clear()
        run = await self.pipeline.run()
        return run, wire.taken


async def follow(
    subject: Subject, first: int, outputs: int, seed: int, tallies: dict[str, Tally]
) -> int:
    """Sends `outputs` outputs, each with the next mutation that finds something to change.

    Returns how many were sent: none, when the schema allows no value.
    """
    rng = random.Random(seed)
    desk = Desk(subject)
    done = 0
    for number in range(first, first + outputs):
        value = subject.value(rng)
        if value is None:
            return done
        name, sent = _next(number, value, subject, rng)
        run, taken = await desk.send(sent, rng)
        tally = tallies.setdefault(name, Tally())
        _judge(desk, sent, run, tally)
        if sent.endless:
            tally.most_taken = max(tally.most_taken, taken)
        done += 1
    return done


def _next(number: int, value: Any, subject: Subject, rng: random.Random) -> tuple[str, Sent]:
    """The mutation whose turn it is, or the next one that can change this value."""
    for step in range(len(NAMES)):
        name = NAMES[(number + step) % len(NAMES)]
        sent = mutated(name, value, subject.schema, rng)
        if sent is not None:
            return name, sent
    raise AssertionError("an unchanged value can always be sent")


def _judge(desk: Desk, sent: Sent, run: Any, tally: Tally) -> None:
    """Whether the consumer was given what it should, by the oracle and by what was done."""
    subject = desk.subject
    is_wrong = sent.wrong or not subject.allows(sent.value)
    tally.counts["wrong" if is_wrong else "right"] += 1
    told = f"{subject.schema}: {sent.data[:300]!r}"
    if is_wrong:
        tally.counts["refused"] += run.status == "failed" and run.reason.startswith("tool.")
        if desk.seen:
            tally.wrong("invalid_passed", told)
        return
    if not desk.seen:
        tally.wrong("valid_refused", f"{told}: {run.reason}")
        return
    output = desk.seen[0]
    tally.counts["passed"] += 1
    has_label = EXTERNAL in run.labels(desk.asked) and EXTERNAL in run.labels(desk.used)
    tally.counts["labelled"] += has_label and EXTERNAL in output.provenance.labels
    if not same(subject.plain(output.value), sent.value):
        tally.wrong("lossy", told)
    if sent.repair is not None:
        tally.counts["repaired"] += 1
        tally.counts["recorded"] += output.provenance.repairs == (sent.repair,)
    elif output.provenance.repairs:
        tally.wrong("lossy", f"{told}: {output.provenance.repairs}")
