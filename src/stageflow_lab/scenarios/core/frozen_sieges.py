"""Sieges in portions: under the simulated loop, on a real loop, and with 64 threads."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from stageflow.sim import Pct, Sim, simulate

from ...world import World
from .frozen_families import draw
from .frozen_routes import ROUTES, Course, Place, Siege

Phase = Literal["sim", "loop", "thread"]
PHASES: Final[tuple[Phase, ...]] = ("sim", "loop", "thread")
ROWS_MAX: Final = 40
"""Runs of one portion: 320 values."""
CHOICES_PER_RUN: Final = 2_000
"""About how often a simulated run chooses among ready sources; PCT needs to know."""
SWITCH_INTERVAL_S: Final = 2e-4
"""How often threads are interrupted, 25 times as often as by default."""


@dataclass(frozen=True, slots=True)
class Portion:
    """Some runs of one phase, all told by their seed."""

    phase: Phase
    rows: int
    seed: int
    first_turn: int
    home: Path


def portions(world: World) -> list[Portion]:
    """The sieges of this size; `world.size` gives the number of values per phase."""
    found = []
    for phase in PHASES:
        rows = -(-world.size[phase] // len(ROUTES))
        for start in range(0, rows, ROWS_MAX):
            found.append(
                Portion(
                    phase,
                    min(ROWS_MAX, rows - start),
                    world.seed_for(phase, start),
                    start,
                    world.scratch,
                )
            )
    return found


def besiege(portion: Portion) -> dict[str, Any]:
    """Runs a portion; its runs as plain data, and what was tried in all of them."""
    rows = draw(portion.rows, portion.seed, portion.home)
    if portion.phase == "sim":

        async def main(sim: Sim) -> list[dict[str, Any]]:
            return await _sieges(portion, rows)

        schedule = Pct(portion.seed, depth=3, steps=CHOICES_PER_RUN * len(rows))
        runs = simulate(main, seed=portion.seed, schedule=schedule).value
    else:
        with _hasty_threads():
            runs = asyncio.run(_sieges(portion, rows))
    tried: Counter[tuple[str, str]] = Counter()
    for run in runs:
        tried += run.pop("tried")
    return {"runs": runs, "tried": [[*pair, count] for pair, count in sorted(tried.items())]}


async def _sieges(portion: Portion, rows: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    place: Place = "thread" if portion.phase == "thread" else "loop"
    course = Course(place)
    facts = []
    for number, row in enumerate(rows):
        turn = portion.first_turn + number
        shift = turn % len(row)
        run = await course.run(Siege((*row[shift:], *row[:shift]), turn))
        facts.append({"phase": portion.phase, "seed": portion.seed, "turn": turn, **run})
    return facts


@contextmanager
def _hasty_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
