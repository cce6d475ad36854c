"""A pipeline that takes one value in by every route and shows it at every way out.

Ways in: an input, the return of a sync, an async and a thread stage, StageOutput.ok, an item of a
stream, a guard's Redact, a child pipeline. Ways out: parameters, ctx.snapshot, run[...],
run.output, run.snapshot, stream items. At each, views are mutated; so are the objects that the
producers kept.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from stageflow import (
    Allow,
    Context,
    ContextSnapshot,
    Decision,
    Limits,
    Pipeline,
    Redact,
    Runtime,
    Stage,
    StageOutput,
    enrich,
    guard,
    transform,
)

from .frozen_families import ADAPTERS
from .mutators import MUTATORS, attack
from .value_image import image

ROUTES: Final = (
    "given",
    "kept",
    "spoken",
    "wrapped",
    "threaded",
    "streamed",
    "masked",
    "nested",
)
READERS: Final = 64
VIEW_ATTACKERS: Final = 40
"""Readers 0 to 39 mutate views, each by another mutator; 40 to 47 mutate what producers kept."""
ORIGINAL_ATTACKERS: Final = 8
RENDEZVOUS_S: Final = 20.0

Place = Literal["loop", "thread"]
_NAMES: Final = tuple(MUTATORS)


@dataclass
class Tally:
    """What one reader, or the caller, saw."""

    reads: int = 0
    torn: list[str] = field(default_factory=list)
    """Routes whose view was not the value that went in."""
    attacks: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(mutator, surface) to how often it was tried on a value."""
    raised: int = 0
    returned: int = 0
    """Outcomes of single calls; one attack calls a mutator on every object inside a value."""
    escapes: list[str] = field(default_factory=list)
    """Attacks after which the snapshot showed another value: "mutator on surface of route"."""

    def add(self, other: Tally) -> None:
        """Sum up."""
        self.reads += other.reads
        self.torn += other.torn
        self.attacks += other.attacks
        self.raised += other.raised
        self.returned += other.returned
        self.escapes += other.escapes


class Siege:
    """One run: the values that went in by each route, and what everybody saw of them."""

    def __init__(self, values: Sequence[Any], turn: int) -> None:
        """`turn` chooses which mutator each attacker uses, and where."""
        self.turn = turn
        self.values = dict(zip(ROUTES, values, strict=True))
        self.kept = {route: [value] for route, value in self.values.items()}
        """Every reference that producers hold on to."""
        self.originals = {route: image(value) for route, value in self.values.items()}
        self.expected = dict(self.originals)
        self.expected["streamed"] = image([self.values["streamed"]])
        self.tallies: list[Tally] = []
        self.entered = 0
        self.gate = asyncio.Event()
        self.barrier = threading.Barrier(READERS)
        self.snapshot: ContextSnapshot | None = None
        """The state in which all values were accepted and nothing was attacked yet."""
        self.hash_before = ""
        self.identity: Any = None

    def mutator(self, number: int) -> str:
        """Name of the mutator that attacker `number` uses in this run."""
        return _NAMES[(self.turn * 7 + number) % len(_NAMES)]

    def witness(self, ctx: Context, views: Mapping[str, Any]) -> None:
        """Notes the hash before any attack on what was accepted."""
        self.snapshot = ctx.snapshot
        self.identity = image(ctx.identity)
        self.hash_before = hash_of(ctx.snapshot)
        tally = Tally()
        for route, view in views.items():
            self.read(tally, route, view)
        self.tallies.append(tally)

    def read(self, tally: Tally, route: str, view: Any) -> None:
        """Compares a view with what went in."""
        tally.reads += 1
        if image(view) != self.expected[route]:
            tally.torn.append(route)

    def strike(
        self, tally: Tally, number: int, *, route: str, surface: str, target: Any, fresh: Any
    ) -> None:
        """One attack on `target`; `fresh()` then shows what the snapshot holds."""
        name = self.mutator(number)
        raised, returned = attack(MUTATORS[name], target)
        tally.attacks[name, surface] += 1
        tally.raised += raised
        tally.returned += returned
        tally.reads += 1
        if image(_seen(fresh)) != self.expected[route]:
            tally.escapes.append(f"{name} on {surface} of {route}")

    def visit(self, ctx: Context, number: int, views: Mapping[str, Any]) -> None:
        """What a reader does once all 64 hold their views."""
        tally = Tally()
        for place, (route, view) in enumerate(views.items()):
            self.read(tally, route, view)

            def fresh(route: str = route) -> Any:
                return _from_snapshot(ctx.snapshot, route)

            if number < VIEW_ATTACKERS:
                shown = (number + place + self.turn) % 2
                self.strike(
                    tally,
                    number,
                    route=route,
                    surface=("parameter", "ctx.snapshot")[shown],
                    target=fresh() if shown else view,
                    fresh=fresh,
                )
            elif number < VIEW_ATTACKERS + ORIGINAL_ATTACKERS:
                for kept in self.kept[route]:
                    self.strike(
                        tally, number, route=route, surface="original", target=kept, fresh=fresh
                    )
        if number == self.turn % READERS:
            self._strike_identity(tally, ctx)
        self.tallies.append(tally)

    def _strike_identity(self, tally: Tally, ctx: Context) -> None:
        for number in range(len(_NAMES)):
            name = self.mutator(number)
            raised, returned = attack(MUTATORS[name], ctx.identity)
            tally.attacks[name, "identity"] += 1
            tally.raised += raised
            tally.returned += returned
            if image(ctx.snapshot.identity) != self.identity:
                tally.escapes.append(f"{name} on identity")

    def kept_changed(self) -> int:
        """How many of the objects that producers kept are not what they were."""
        return sum(image(kept[0]) != self.originals[route] for route, kept in self.kept.items())

    def total(self) -> Tally:
        """Everybody's tally as one."""
        total = Tally()
        for tally in self.tallies:
            total.add(tally)
        return total


class Course:
    """The pipeline, and the siege that its stages are part of. One run at a time."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.siege: Siege
        self.keys: dict[str, Stage[..., Any]] = {}
        self.pipeline = self._built().using(
            runtime=Runtime(limits=Limits(threads=READERS + 8), adapters=ADAPTERS)
        )

    async def run(self, siege: Siege) -> dict[str, Any]:
        """Runs the siege to its end; the facts of the run as plain data."""
        self.siege = siege
        caller = Tally()
        siege.tallies.append(caller)
        items = []
        async with self.pipeline.stream(given=siege.values["given"]) as stream:
            async for emitted in stream:
                items.append(emitted.item)
            run = await stream.result()
        if run.status == "ok" and siege.snapshot is not None:
            self._strike_run(caller, siege, run, items)
        hash_after = "" if siege.snapshot is None else hash_of(siege.snapshot)
        total = siege.total()
        return {
            "status": f"{run.status} {run.reason}".strip(),
            "why": "" if run.failure is None else str(run.failure)[:600],
            "values": len(siege.values),
            "readers": siege.entered,
            "hash_same": hash_after != "" and hash_after == siege.hash_before,
            "reads": total.reads,
            "kept_changed": siege.kept_changed(),
            "torn": len(total.torn),
            "torn_at": sorted(set(total.torn)),
            "attacks": sum(total.attacks.values()),
            "raised": total.raised,
            "returned": total.returned,
            "escapes": len(total.escapes),
            "escaped": sorted(set(total.escapes))[:5],
            "mutators": len({name for name, _ in total.attacks}),
            "tried": total.attacks,
        }

    def _strike_run(self, tally: Tally, siege: Siege, run: Any, items: list[Any]) -> None:
        """The caller's references: what the run hands out, and the items of its stream."""
        for place, route in enumerate(ROUTES):
            key = self.keys.get(route)

            def fresh(route: str = route) -> Any:
                return _from_snapshot(run.snapshot, route)

            targets = {"run.snapshot": fresh()}
            if key is not None:
                targets["run[stage]"] = run[key]
                targets["run.output"] = run.output[route]
            for number, (surface, target) in enumerate(targets.items()):
                siege.strike(
                    tally, number + place, route=route, surface=surface, target=target, fresh=fresh
                )
        for item in items:
            siege.strike(
                tally,
                siege.turn,
                route="streamed",
                surface="stream",
                target=item,
                fresh=lambda: run[self.keys["streamed"]],
            )

    def _built(self) -> Pipeline[dict[str, Any]]:
        producers = self._producers()
        self.keys = {stage.name: stage for stage in producers}
        mask, watch = self._guards()
        witness, reader = self._readers()
        readers = [reader.named(f"reader_{number}") for number in range(READERS)]
        return Pipeline(
            f"siege_{self.place}",
            [*producers, mask, watch, witness, *readers],
            inputs={"given": Any},
            outputs=[*producers, *readers],
        )

    def _producers(self) -> list[Stage[..., Any]]:
        @transform
        def kept() -> Any:
            return self.siege.values["kept"]

        @enrich
        async def spoken() -> Any:
            await asyncio.sleep(0)
            return self.siege.values["spoken"]

        @transform
        def wrapped() -> Any:
            return StageOutput.ok(self.siege.values["wrapped"])

        @transform(place="thread")
        def threaded() -> Any:
            return self.siege.values["threaded"]

        @transform
        async def streamed() -> AsyncIterator[Any]:
            yield self.siege.values["streamed"]

        @transform
        def masked() -> Any:
            return None

        child = _echo()

        @enrich
        async def nested(ctx: Context) -> Any:
            view = await ctx.run(child, key="child", value=self.siege.values["nested"])
            self.siege.kept["nested"].append(view)
            return view

        return [kept, spoken, wrapped, threaded, streamed, masked, nested]

    def _guards(self) -> tuple[Stage[..., Any], Stage[..., Any]]:
        @guard
        def mask(masked: Any) -> Decision:
            return Redact(self.siege.values["masked"])

        @guard
        def watch(spoken: Any) -> Decision:
            siege = self.siege
            tally = Tally()
            siege.read(tally, "spoken", spoken)
            name = siege.mutator(siege.turn)
            attack(MUTATORS[name], spoken)
            tally.attacks[name, "guard"] += 1
            siege.tallies.append(tally)
            return Allow()

        return mask, watch

    def _readers(self) -> tuple[Stage[..., Any], Stage[..., Any]]:
        @transform
        def witness(
            ctx: Context,
            given: Any,
            kept: Any,
            spoken: Any,
            wrapped: Any,
            threaded: Any,
            streamed: Any,
            masked: Any,
            nested: Any,
        ) -> int:
            views = (given, kept, spoken, wrapped, threaded, streamed, masked, nested)
            self.siege.witness(ctx, dict(zip(ROUTES, views, strict=True)))
            return 0

        @transform
        async def in_loop(
            ctx: Context,
            witness: int,
            given: Any,
            kept: Any,
            spoken: Any,
            wrapped: Any,
            threaded: Any,
            streamed: Any,
            masked: Any,
            nested: Any,
        ) -> int:
            siege = self.siege
            siege.entered += 1
            if siege.entered == READERS:
                siege.gate.set()
            await siege.gate.wait()
            views = (given, kept, spoken, wrapped, threaded, streamed, masked, nested)
            siege.visit(ctx, _number(ctx), dict(zip(ROUTES, views, strict=True)))
            return 0

        @transform(place="thread")
        def in_thread(
            ctx: Context,
            witness: int,
            given: Any,
            kept: Any,
            spoken: Any,
            wrapped: Any,
            threaded: Any,
            streamed: Any,
            masked: Any,
            nested: Any,
        ) -> int:
            siege = self.siege
            if siege.barrier.wait(RENDEZVOUS_S) == 0:
                siege.entered = READERS
            views = (given, kept, spoken, wrapped, threaded, streamed, masked, nested)
            siege.visit(ctx, _number(ctx), dict(zip(ROUTES, views, strict=True)))
            return 0

        return witness, in_loop if self.place == "loop" else in_thread


def _echo() -> Pipeline[Any]:
    """A child that returns its input after it spoiled another view of it."""

    @transform
    def spoil(value: Any) -> int:
        for name in ("object_setattr", "clear", "memoryview"):
            attack(MUTATORS[name], value)
        return 0

    @transform
    def echo(spoil: int, value: Any) -> Any:
        return value

    return Pipeline("echo", [spoil, echo], inputs={"value": Any}, outputs=echo)


def hash_of(snapshot: ContextSnapshot) -> str:
    """The content hash; for a state too damaged to be hashed, what was raised."""
    try:
        return snapshot.content_hash
    except Exception as error:  # only a value that was changed inside the box gets here
        return f"{type(error).__name__}: {error}"[:200]


def _from_snapshot(snapshot: ContextSnapshot, route: str) -> Any:
    return snapshot.inputs["given"] if route == "given" else snapshot[route]


def _seen(fresh: Any) -> Any:
    try:
        return fresh()
    except Exception as error:  # a box that was changed may not be readable any more
        return error


def _number(ctx: Context) -> int:
    return int(ctx.node.rpartition("_")[2])
