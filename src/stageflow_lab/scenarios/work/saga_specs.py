"""Sagas as data: their steps, who waits for whom, what goes wrong in them, and where processes die.

The short ones are numbered, so that every failure and every crash point of each has its turn; the
long ones are drawn: up to 30 steps, side by side and in pipelines within pipelines.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

RECEIVERS: Final = ("keyed", "asked", "plain")
"""Receivers that honour keys; that tell what they have done; that do neither."""
FAULTS: Final = ("refuses", "flaky", "lost", "unheard", "cancelled")
"""What one step does: it is refused for good; twice, and then goes; it is done, and its answer is
lost; its request is lost; its run is cancelled while it is under way."""
UNDO_FAULTS: Final = ("none", "none", "none", "flaky", "lost", "broken")
SHAPES: Final = ("chain", "side_by_side", "diamond", "fan_in", "pivot")
STEPS_MAX: Final = 6
LONG_MAX: Final = 30
PIVOTS: Final = 0.4
"""Share of long sagas with a pivot, perhaps within a pipeline of their own."""
ACCOUNTS: Final = 4
"""Of a branch; a saga moves money between three of them."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One step: it books `cents` to `account`."""

    name: str
    after: tuple[str, ...]
    account: str
    cents: int
    receiver: str
    fault: str = "none"
    undo_fault: str = "none"
    role: str = "step"
    """step: it has an undo; pivot; late: behind the pivot, without an undo."""


@dataclass(frozen=True, slots=True)
class Group:
    """Steps of a pipeline of their own, which stands in the outer one as a stage."""

    name: str
    after: tuple[str, ...]
    parts: tuple[Part, ...]


Part: TypeAlias = Leg | Group


@dataclass(frozen=True, slots=True)
class Death:
    """Where a process dies: right after its record `at` ("record"), before its request `at` arrives
    ("unsent"), or after it did and before the answer ("sent"). Counted from its start."""

    point: str
    at: int


@dataclass(frozen=True, slots=True)
class Saga:
    """One case."""

    name: str
    branch: int
    parts: tuple[Part, ...]
    deaths: tuple[Death, ...]
    """Of its first process, of the one that takes over, ..."""
    kind: str
    """short or long."""

    def legs(self) -> tuple[Leg, ...]:
        """All steps, those within pipelines too."""
        return tuple(legs_of(self.parts))

    def accounts(self) -> tuple[str, ...]:
        """What it holds."""
        return tuple(sorted({leg.account for leg in self.legs()}))


def legs_of(parts: Sequence[Part], *, within: str | None = None) -> Iterator[Leg]:
    """The steps within parts; of the part of that name only."""
    for part in parts:
        inside = None if within == part.name else within
        if isinstance(part, Group):
            yield from legs_of(part.parts, within=inside)
        elif inside is None:
            yield part


def later_than(parts: Sequence[Part]) -> dict[str, set[str]]:
    """Of each step, the steps that can only run after it; by walking, plainly."""
    found: dict[str, set[str]] = {leg.name: set() for leg in legs_of(parts)}
    behind: dict[str, set[str]] = {}
    for part in reversed(parts):  # parts stand behind what they come after
        mine = {leg.name for leg in legs_of([part])}
        follows: set[str] = set()
        for other in parts:
            if part.name in other.after:
                follows |= {leg.name for leg in legs_of([other])} | behind[other.name]
        behind[part.name] = follows
        if isinstance(part, Group):
            for name, inner in later_than(part.parts).items():
                found[name] |= inner
        for name in mine:
            found[name] |= follows
    return found


def accounts_of(branch: int) -> tuple[str, ...]:
    """The accounts of a branch."""
    return tuple(f"{branch}.{number}" for number in range(ACCOUNTS))


# -- short ones, numbered --------------------------------------------------------------------


def deaths_of(steps: int) -> list[Death | None]:
    """Every place where the process of a saga of so many steps can die, and none."""
    records = [Death("record", at) for at in range(1, 4 * steps + 9)]
    requests = [Death(p, at) for p in ("unsent", "sent") for at in range(1, 2 * steps + 1)]
    return [None, *records, *requests]


def _short_cases() -> list[tuple[int, str, int, str, Death | None]]:
    return [
        (steps, shape, failing, fault, death)
        for steps in range(1, STEPS_MAX + 1)
        for shape in SHAPES
        for failing in range(steps + 1)
        for fault in (FAULTS if failing < steps else ("none",))
        for death in deaths_of(steps)
    ]


SHORT: Final = tuple(_short_cases())
"""Every failure at every step with every crash point: (steps, shape, failing step, fault, death);
a failing step past the last one is none."""
_STRIDE: Final = 7_919
"""Prime, and no divisor of their number: whatever part of them is run, it is a fair one."""


def short(number: int, rng: random.Random, *, name: str, branch: int) -> Saga:
    """The short saga of that number, modulo how many there are."""
    steps, shape, failing, fault, death = SHORT[number * _STRIDE % len(SHORT)]
    pivot = steps // 2 if shape == "pivot" else steps
    legs = [
        Leg(
            name=f"s{place}",
            after=_after(shape, place, steps),
            account="",
            cents=0,
            receiver=rng.choices(RECEIVERS, [5, 4, 1])[0],
            fault=fault if place == failing else "none",
            undo_fault=rng.choice(UNDO_FAULTS),
            role="step" if place < pivot else "pivot" if place == pivot else "late",
        )
        for place in range(steps)
    ]
    return Saga(
        name=name,
        branch=branch,
        parts=_booked(legs, rng, branch),
        deaths=() if death is None else (death,),
        kind="short",
    )


def _after(shape: str, place: int, steps: int) -> tuple[str, ...]:
    if place == 0 or shape == "side_by_side" or (shape == "fan_in" and place < steps - 1):
        return ()
    if shape == "fan_in":
        return tuple(f"s{other}" for other in range(place))
    if shape == "diamond":
        if place == steps - 1:
            return tuple(f"s{middle}" for middle in range(1, place)) or ("s0",)
        return ("s0",)
    return (f"s{place - 1}",)


# -- long ones, drawn ------------------------------------------------------------------------


def long(rng: random.Random, *, name: str, branch: int, most: int = LONG_MAX) -> Saga:
    """Up to `most` steps, side by side, and in up to three pipelines within one another."""
    count = rng.randint(4, most)
    names = [f"s{number}" for number in range(count)]
    parts = _drawn(names, rng, depth=0)
    legs = {leg.name: leg for leg in legs_of(parts)}
    failing = rng.sample(names, rng.choice((0, 1, 1, 1, 2)))
    for each in failing:
        legs[each] = replace(legs[each], fault=rng.choice(FAULTS))
    if rng.random() < PIVOTS:
        pivot = rng.choice(names)
        legs[pivot] = replace(legs[pivot], role="pivot")
        for each in later_than(parts)[pivot]:
            legs[each] = replace(legs[each], role="late")
    booked = {leg.name: leg for leg in _booked(list(legs.values()), rng, branch)}
    return Saga(
        name=name,
        branch=branch,
        parts=_with(parts, booked),
        deaths=tuple(
            Death("record", rng.randint(1, 5 * count))
            if rng.random() < 0.7
            else Death(rng.choice(("unsent", "sent")), rng.randint(1, count))
            for _ in range(rng.choice((0, 1, 1, 2)))
        ),
        kind="long",
    )


def _drawn(names: list[str], rng: random.Random, *, depth: int) -> tuple[Part, ...]:
    parts: list[Part] = []
    left = list(names)
    while left:
        before = [part.name for part in parts]
        after = tuple(sorted(rng.sample(before, min(len(before), rng.choice((0, 1, 1, 2))))))
        if depth < 2 and len(left) >= 3 and rng.random() < 0.2:
            inner = [left.pop(0) for _ in range(rng.randint(2, min(6, len(left))))]
            parts.append(Group(f"g{inner[0]}", after, _drawn(inner, rng, depth=depth + 1)))
        else:
            parts.append(
                Leg(
                    left.pop(0),
                    after,
                    "",
                    0,
                    rng.choices(RECEIVERS, [5, 4, 1])[0],
                    undo_fault=rng.choice(UNDO_FAULTS),
                )
            )
    return tuple(parts)


def _with(parts: Sequence[Part], legs: dict[str, Leg]) -> tuple[Part, ...]:
    return tuple(
        legs[part.name] if isinstance(part, Leg) else replace(part, parts=_with(part.parts, legs))
        for part in parts
    )


def _booked(legs: Sequence[Leg], rng: random.Random, branch: int) -> tuple[Leg, ...]:
    """The legs with accounts and amounts that add up to nothing."""
    accounts = rng.sample(accounts_of(branch), 3)
    cents = [rng.choice((-1, 1)) * rng.randint(1, 100) for _ in legs]
    cents[-1] -= sum(cents)
    return tuple(
        replace(leg, account=rng.choice(accounts), cents=amount)
        for leg, amount in zip(legs, cents, strict=True)
    )
