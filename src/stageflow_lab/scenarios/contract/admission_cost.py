"""What a typed output costs, against pydantic's bare `model_validate`.

Per round, over the same payloads of several shapes, the CPU time of two things:

* typed: `Contract.admit` of the declared type. It validates, and makes the private canonical form.
* floor: `model_validate`, which does no more than validate.

Dispatch is what typed takes beyond the floor for a model of one field: what a call costs however
small the value is. It is taken off once a call.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, create_model

from stageflow.contracts import contract_of
from stageflow.model.values import Freezer

from ...history import History
from ...world import World
from .generated_models import Shape, drawn, shape
from .given_values import Oracle

SHAPES: Final = 24
ITEMS: Final = 20
"""Values of a shape in one payload, so that a call does enough for its dispatch to be small."""
CALLS: Final = 2
TINY_CALLS: Final = 200
PASSES: Final = 3


class Tiny(BaseModel):
    """As little as can be validated."""

    n: int


@dataclass(frozen=True, slots=True, eq=False)
class Costed:
    """One payload, and the two ways to spend time on it."""

    typed: Callable[[], Any]
    floor: Callable[[], Any]


def measure(world: World, history: History) -> None:
    """Records `cost` per form (plain payloads, instances) and round, in seconds of CPU."""
    costed = _prepared(world)
    tiny = _costed(Tiny, {"n": 3})
    gc.collect()
    for turn in range(world.size["cost_rounds"] + 1):
        for form, each in costed.items():
            seconds = _round([*each, tiny[form]])
            if turn > 0:  # the first round warms up
                history.record("cost", form=form, calls=CALLS * len(each), **seconds)


def _prepared(world: World) -> dict[str, list[Costed]]:
    found: dict[str, list[Costed]] = {"plain": [], "instance": []}
    number = 0
    while len(found["plain"]) < SHAPES:
        each = shape(number, world.seed_for("cost", number))
        number += 1
        payloads = _valid(each, world.seed_for("payloads", number))
        if each.model is None or not payloads:
            continue
        batch: Any = create_model(
            f"Batch{number}",
            __module__=__name__,
            items=(list[each.model], ...),  # type: ignore[name-defined]
        )
        items = [payloads[at % len(payloads)] for at in range(ITEMS)]
        for form, costed in _costed(batch, {"items": items}).items():
            found[form].append(costed)
    return found


def _valid(each: Shape, seed: int) -> list[Any]:
    oracle = Oracle(each)
    return [payload for payload in drawn(each.inputs, 8, seed) if oracle.validated(payload)[0]]


def _costed(model: type[BaseModel], payload: Any) -> dict[str, Costed]:
    typed, freezer = contract_of(model), Freezer()
    value = model.model_validate(payload)
    validate = model.model_validate

    def floor() -> Any:
        return validate(payload)

    return {
        "plain": Costed(lambda: typed.admit(payload, freezer), floor),
        "instance": Costed(lambda: typed.admit(value, freezer), floor),
    }


def _round(costed: Sequence[Costed]) -> dict[str, float]:
    """Seconds of everything but the last, and the dispatch of one call, told by the last."""
    total = {"typed": 0.0, "floor": 0.0}
    gc.disable()  # as timeit does: collections cost by what else lives in the process
    try:
        for each in costed[:-1]:
            for name, seconds in _took(each, CALLS).items():
                total[name] += seconds
        tiny = _took(costed[-1], TINY_CALLS)
    finally:
        gc.enable()
    dispatch_s = (tiny["typed"] - tiny["floor"]) / TINY_CALLS
    return {**total, "dispatch": max(0.0, dispatch_s)}


def _took(costed: Costed, calls: int) -> dict[str, float]:
    """CPU seconds of `calls` calls of each: the best of blocks run there and back again.

    A busy machine only ever adds time, to one block or another, so the least is the truest.
    """
    there = [("typed", costed.typed), ("floor", costed.floor)]
    took = dict.fromkeys(("typed", "floor"), math.inf)
    for name, work in (*there, *reversed(there)) * PASSES:
        work()  # not timed: it finds the caches and the allocator as its predecessor left them
        started = time.process_time()
        for _ in range(calls):
            work()
        took[name] = min(took[name], time.process_time() - started)
    return took
