"""Whether a size can decide at all: each declared bound against the n that the size gives it.

A bound that even a faultless run would miss makes a row unknown before it runs. Acceptance
catalogue, convention 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .metric import Measured, Metric
from .scenario import Scenario
from .statistics import best_bound, bound_of, is_lower, needed, reachable


def unreachable(scenario: Scenario, size: str, params: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence per gate metric whose bound `params` leave out of reach; empty when there is none.

    Only metrics that declare `bound` and `of` can be told beforehand; the others are looked at
    when they were measured.
    """
    told = []
    for metric in scenario.metrics:
        if metric.gate and metric.bound is not None and metric.of is not None:
            n = params.get(metric.of)
            if n is not None and not _reachable(metric, size, n, metric.misses):
                told.append(_sentence(metric, size, n, f" {metric.of}"))
    return tuple(told)


def undecided(metric: Metric, measured: Measured, *, size: str) -> str | None:
    """Why the n that was measured can't decide this metric; None when it can, or has.

    A result that breaks the claim even by the kinder end of its interval decides at any n.
    """
    kind, n = metric.bound, measured.n
    if kind is None or n is None or measured.empty or _reachable(metric, size, n, 0):
        return None
    hits = round(float(measured.value) * n)
    kinder = kind.replace("lower", "upper") if is_lower(kind) else kind.replace("upper", "lower")
    end = bound_of(kinder, hits, n)  # type: ignore[arg-type]  # the other end's name
    if not metric.met(Measured(end), size=size):
        return None
    return _sentence(metric, size, n, "")


def _reachable(metric: Metric, size: str, n: int, misses: int) -> bool:
    assert metric.bound is not None
    return reachable(metric.bound, float(metric.threshold_at(size)), n, misses=misses)


def _sentence(metric: Metric, size: str, n: int, what: str) -> str:
    assert metric.bound is not None
    threshold = float(metric.threshold_at(size))
    least = needed(metric.bound, threshold, misses=metric.misses)
    best = best_bound(metric.bound, n, misses=metric.misses)
    allowed = f" with {metric.misses} against it" if metric.misses else ""
    enough = "no n is enough" if least is None else f"{least:,} are needed"
    return (
        f"{metric.name} {metric.op} {threshold:g} can't be met by n = {n:,}{what}{allowed}: "
        f"its {metric.bound} bound is {best:.4g} at best; {enough}"
    )
