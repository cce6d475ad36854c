"""Schedules: which of several ready sources runs next, as values.

A source is a task, a due timer, or the queue of plain callbacks (label 0). Labels are given in the
order in which sources are created, so they mean the same in every process. A schedule is frozen;
`begin()` gives the picker of one run, which alone holds state: one value used for two runs
schedules both alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from stageflow.model.errors import SimulationError

Pick = Callable[[int, Sequence[int]], int]
"""`pick(n, labels)`: an index in 0..n-1 of the source to run; asked only when n > 1.

`labels` holds n distinct labels in the order in which the sources became ready; sources made ready
by the same step stand in the order of their creation. It must not be kept or changed.
"""


class Schedule(Protocol):
    """How choices are made. Another algorithm is another class with `begin`."""

    def begin(self) -> Pick:
        """The picker of one run."""
        ...


@dataclass(frozen=True, slots=True)
class RandomWalk:
    """Every ready source is equally likely at every step. Fair: nothing ready waits for ever."""

    seed: int

    def begin(self) -> Pick:
        draw = random.Random(f"walk:{self.seed}").random

        def pick(n: int, labels: Sequence[int]) -> int:
            return int(draw() * n)

        return pick


@dataclass(frozen=True, slots=True)
class Fifo:
    """The source that became ready first runs first: what asyncio's own loop comes closest to."""

    def begin(self) -> Pick:
        def pick(n: int, labels: Sequence[int]) -> int:
            return 0

        return pick


@dataclass(frozen=True, slots=True, repr=False)
class Replay:
    """The choices another run made, one after another; `SimResult.replay()` gives them.

    A run that asks for a choice that is not there, or that can't be taken, is another program:
    SimulationError `sim.diverged`.
    """

    choices: tuple[int, ...]

    def begin(self) -> Pick:
        choices = iter(self.choices)
        asked = 0

        def pick(n: int, labels: Sequence[int]) -> int:
            nonlocal asked
            choice = next(choices, None)
            if choice is None or not 0 <= choice < n:
                raise SimulationError(
                    "sim.diverged",
                    "the run differs from the one whose choices it replays",
                    expected=f"a choice among {n} ready sources",
                    got=f"no choice number {asked}" if choice is None else f"choice {choice}",
                    fix="replay with the same main, seed, inputs and versions of the code",
                )
            asked += 1
            return choice

        return pick

    def __repr__(self) -> str:
        if len(self.choices) <= 100:
            return f"Replay({self.choices!r})"
        return f"Replay(<{len(self.choices)} choices>)"


@dataclass(frozen=True, slots=True)
class Pct:
    """Probabilistic concurrency testing: random priorities, lowered at `depth - 1` random choices.

    With n sources and k choices, a bug that needs `depth` ordering constraints is met with
    probability at least 1 / (n * k ** (depth - 1)) per seed. Unfair: a source that polls without
    sleeping can starve all others, which ends in `sim.endless`; use `RandomWalk` there.

    Source: Burckhardt, Kothari, Musuvathi, Nagarakatte: A randomized scheduler with probabilistic
    guarantees of finding bugs, ASPLOS 2010.
    """

    seed: int
    depth: int = 3
    steps: int = 10_000
    """About how many choices the run makes (k); change points are drawn among that many."""

    def begin(self) -> Pick:
        rng = random.Random(f"pct:{self.seed}")
        changes = min(self.depth - 1, self.steps)
        # Priorities below `depth` are kept for lowered sources: change point i gives priority i.
        lowered = {at: -i for i, at in enumerate(rng.sample(range(self.steps), changes))}
        priorities: dict[int, float] = {}
        asked = 0

        def rank(label: int) -> float:
            known = priorities.get(label)
            if known is None:
                known = priorities[label] = 1.0 + rng.random()
            return known

        def pick(n: int, labels: Sequence[int]) -> int:
            nonlocal asked
            ranks = [rank(label) for label in labels]
            best = ranks.index(max(ranks))
            if asked in lowered:
                priorities[labels[best]] = ranks[best] = lowered[asked]
                best = ranks.index(max(ranks))
            asked += 1
            return best

        return pick
