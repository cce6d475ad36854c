"""Sets of stages that share pools and an executor: random ones, and the shape of Mars Pathfinder.

A set is data. Times are whole ticks. Sections nest in the order of the pools' numbers, so
that no set can deadlock. The executor is a pool of slots, held for one slice at a time and never
taken away within it, as threads, processes and model endpoints are.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

EXECUTOR: Final = "executor"
STAGES_MIN: Final = 3
SLICE_TICKS: Final = (1, 6)
ARRIVAL_TICKS: Final = 60
HIGHEST: Final = 10
"""Of one stage in each set; all others lie below."""
SHARE_IN_CHILD: Final = 0.25
"""Of sections: their body is a child run of the stage."""
SHARE_OF_SEVERAL_UNITS: Final = 0.3
DEPTH_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Slice:
    """So long the stage computes, in a slot of the executor, or awaits something outside."""

    ticks: int
    in_executor: bool = True


@dataclass(frozen=True, slots=True)
class Section:
    """A critical section: units of a pool, held while the body lasts."""

    pool: str
    units: int
    body: tuple[Item, ...]
    in_child: bool = False


Item: TypeAlias = Slice | Section


@dataclass(frozen=True, slots=True)
class Task:
    """One stage: it arrives, and does one item after another."""

    name: str
    priority: int
    arrival_ticks: int
    body: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class TaskSet:
    """`pools`: name to units, the executor among them. The first task is the highest."""

    pools: dict[str, int]
    tasks: tuple[Task, ...]
    as_runs: bool
    """True when each task is a run with a priority; False when all are stages of one run."""


def random_set(seed: int, *, stages_max: int, pools_max: int) -> TaskSet:
    """3 to `stages_max` stages over 1 to `pools_max` pools and an executor of one or two slots."""
    rng = random.Random(seed)
    locks = [f"p{n}" for n in range(rng.randint(1, pools_max))]
    pools = {
        name: rng.randint(2, 3) if rng.random() < SHARE_OF_SEVERAL_UNITS else 1 for name in locks
    }
    tasks = []
    for number in range(rng.randint(STAGES_MIN, stages_max)):
        is_highest = number == 0
        body = _body(rng, pools, locks, depth=1)
        if is_highest and not any(isinstance(item, Section) for item in body):
            body = (*body, _section(rng, pools, locks, depth=1))
        tasks.append(
            Task(
                f"t{number}",
                HIGHEST if is_highest else rng.randint(0, HIGHEST - 1),
                rng.randint(0, ARRIVAL_TICKS),
                body,
            )
        )
    pools[EXECUTOR] = 1 if rng.random() < 0.7 else 2
    return TaskSet(pools, tuple(tasks), as_runs=rng.random() < 0.5)


def _body(
    rng: random.Random, pools: dict[str, int], locks: Sequence[str], *, depth: int
) -> tuple[Item, ...]:
    items: list[Item] = []
    for _ in range(rng.randint(1, 4 - depth)):
        if locks and depth <= DEPTH_MAX and rng.random() < 0.6:
            items.append(_section(rng, pools, locks, depth=depth))
        else:
            items.append(Slice(rng.randint(*SLICE_TICKS), in_executor=rng.random() < 0.8))
    return tuple(items)


def _section(
    rng: random.Random, pools: dict[str, int], locks: Sequence[str], *, depth: int
) -> Section:
    at = rng.randrange(len(locks))
    inner = locks[at + 1 :] if depth < DEPTH_MAX else ()
    body = _body(rng, pools, inner, depth=min(depth + 1, DEPTH_MAX))
    return Section(
        locks[at],
        rng.randint(1, pools[locks[at]]),
        (Slice(rng.randint(*SLICE_TICKS)), *body),
        in_child=rng.random() < SHARE_IN_CHILD,
    )


def pathfinder_set(seed: int, *, stages_max: int) -> TaskSet:
    """A low stage holds the bus and computes; many of medium priority arrive, and want the same
    slot; then a high one wants the bus. In some sets the low one waits for another that is as low,
    which holds a second pool, and so on: a chain of up to three.

    What happened on Mars: G. Reeves, "What really happened on Mars", 1997.
    """
    rng = random.Random(seed)
    links = rng.choice([1, 1, 2, 3])
    names = ["bus", "files", "radio"][:links]
    high = Task(
        "t0",
        HIGHEST,
        rng.randint(4, 10),
        (Section("bus", 1, (Slice(rng.randint(1, 3)),)), Slice(2)),
    )
    low = [_link(rng, names, number) for number in range(links)]
    mediums = [
        Task(
            f"t{1 + links + number}",
            rng.randint(1, HIGHEST - 1),
            rng.randint(3, 9),
            tuple(Slice(rng.randint(2, 6)) for _ in range(rng.randint(4, 8))),
        )
        for number in range(rng.randint(12, stages_max - 1 - links))
    ]
    pools = {**dict.fromkeys(names, 1), EXECUTOR: 1}
    return TaskSet(pools, (high, *low, *mediums), as_runs=rng.random() < 0.5)


def _link(rng: random.Random, names: Sequence[str], number: int) -> Task:
    """Holds a pool, and wants the next one's, which the next task holds by then."""
    is_last = number == len(names) - 1
    slices = [Slice(rng.randint(2, 6)) for _ in range(rng.randint(2, 3))]
    body: tuple[Item, ...] = tuple(slices)
    if not is_last:
        body = (slices[0], Section(names[number + 1], 1, (Slice(2),), in_child=rng.random() < 0.5))
    section = Section(names[number], 1, body, in_child=rng.random() < SHARE_IN_CHILD)
    tail = tuple(Slice(rng.randint(2, 6)) for _ in range(3))
    return Task(f"t{1 + number}", 0, len(names) - 1 - number, (section, *tail))


def sections(items: Sequence[Item]) -> Iterator[Section]:
    """All of them, inner ones too."""
    for item in items:
        if isinstance(item, Section):
            yield item
            yield from sections(item.body)


def slices(items: Sequence[Item]) -> Iterator[Slice]:
    """All of them, those inside sections too."""
    for item in items:
        if isinstance(item, Section):
            yield from slices(item.body)
        else:
            yield item
