"""Pipelines whose wiring has one cycle, and the same pipelines without it."""

from __future__ import annotations

import random
import re
from typing import Any, Final

from stageflow import BuildError, BuildErrors, Pipeline, agent

from ...history import History
from ...world import World
from .wait_graphs import LENGTH_MAX, STAGES_MAX

SHOWN_MAX: Final = 12
"""Stages of a cycle that the error names one by one; of longer ones it says how many there are."""


def build_all(world: World, history: History) -> None:
    """One `static` event for each seed: what the build said to the cycle, and without it."""
    for number in range(world.size["static"]):
        rng = random.Random(world.seed_for("static", number))
        length = rng.randint(2, LENGTH_MAX)
        count = rng.randint(length, STAGES_MAX)
        ring = rng.sample(range(count), length)
        history.record("static", **_built(rng, count, ring))


def _built(rng: random.Random, count: int, ring: list[int]) -> dict[str, Any]:
    place = {number: rng.random() for number in range(count)}
    parents = {
        number: {
            other
            for other in rng.sample(range(count), min(3, count))
            if place[other] < place[number]
        }
        for number in range(count)
    }
    # Along the ring each stage comes after the one before; the last link closes it.
    for at, number in enumerate(sorted(ring, key=place.__getitem__)):
        if at:
            parents[number] = {sorted(ring, key=place.__getitem__)[at - 1]}
    first, last = (choose(ring, key=place.__getitem__) for choose in (min, max))
    allowed = _error(count, parents)
    parents[first] = {last}
    refused = _error(count, parents)
    planted = {f"s{number}" for number in ring}
    return {
        "length": len(ring),
        "refused": refused is not None and refused.code == "graph.cycle",
        "allowed": allowed is None,
        "named": refused is not None and _names(refused, planted),
    }


def _error(count: int, parents: dict[int, set[int]]) -> BuildError | None:
    async def body() -> None:
        return None

    stages = [
        agent(body, name=f"s{number}", after=[f"s{each}" for each in sorted(parents[number])])
        for number in range(count)
    ]
    try:
        _ = Pipeline("p", stages, outputs=[]).plan
    except BuildErrors as errors:
        return errors.errors[0]
    except BuildError as error:
        return error
    return None


def _names(error: BuildError, planted: set[str]) -> bool:
    shown = set(re.findall(r"s\d+", error.got or ""))
    counted = error.message.startswith(f"{len(planted)} stages")
    return counted and (shown == planted if len(planted) <= SHOWN_MAX else shown < planted)
