"""From a judgement to a verdict. Only `pass` is a pass."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass

from .metric import Measured, Metric, Number
from .scenario import Judgement, Scenario


class Verdict(enum.StrEnum):
    """What is known about a row.

    UNKNOWN: the fault never fired, the load never happened, the check raised. INVALID: a sabotage
    survived, so a pass would prove nothing. ERROR: the load crashed or hit a limit. SKIPPED: a
    component is absent. MISSING: the row has no scenario, or none was run yet.
    """

    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "unknown"
    INVALID = "invalid"
    ERROR = "error"
    SKIPPED = "skipped"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricResult:
    """One metric as measured. `passed` is None when there was nothing to judge.

    `threshold` is the one that held at this size; `loosened` is True when that is the quick one.
    """

    name: str
    op: str
    threshold: Number
    value: Number | None
    bound: Number | None
    n: int | None
    unit: str
    passed: bool | None
    gate: bool
    note: str = ""
    loosened: bool = False
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Ruling:
    """The verdict, the metrics it rests on, and the reason when it is neither pass nor fail."""

    verdict: Verdict
    metrics: tuple[MetricResult, ...]
    reason: str | None = None


def rule(scenario: Scenario, judgement: Judgement, *, size: str) -> Ruling:
    """Judge a history's figures against the header.

    The check's own `unknown` comes first. Then one failed gate is a fail, even beside a missing
    one: a violation that was seen stands. A gate without a figure, or a figure the header does
    not declare, is unknown.
    """
    results = tuple(_result(metric, judgement, size) for metric in scenario.metrics)
    gates = [result for result in results if result.gate]
    if judgement.unknown is not None:
        return Ruling(Verdict.UNKNOWN, results, judgement.unknown)
    failed = [result.name for result in gates if result.passed is False]
    if failed:
        return Ruling(Verdict.FAIL, results, f"not met: {', '.join(failed)}")
    unjudged = [result.name for result in gates if result.passed is None]
    if unjudged:
        return Ruling(Verdict.UNKNOWN, results, f"not measured: {', '.join(unjudged)}")
    undeclared = sorted(judgement.metrics.keys() - {metric.name for metric in scenario.metrics})
    if undeclared:
        return Ruling(Verdict.UNKNOWN, results, f"not in the header: {', '.join(undeclared)}")
    return Ruling(Verdict.PASS, results)


def exit_code(verdicts: Iterable[Verdict], *, allow_skipped: bool = False) -> int:
    """1 on fail or invalid, else 2 on error or unknown, else 3 on skipped or missing, else 0."""
    seen = set(verdicts)
    if seen & {Verdict.FAIL, Verdict.INVALID}:
        return 1
    if seen & {Verdict.ERROR, Verdict.UNKNOWN}:
        return 2
    if seen & {Verdict.SKIPPED, Verdict.MISSING}:
        return 0 if allow_skipped else 3
    return 0


def _result(metric: Metric, judgement: Judgement, size: str) -> MetricResult:
    given = judgement.metrics.get(metric.name)
    measured = given if isinstance(given, Measured) or given is None else Measured(given)
    threshold = metric.threshold_at(size)
    nothing = measured is None or measured.empty
    return MetricResult(
        name=metric.name,
        op=metric.op,
        threshold=threshold,
        value=None if measured is None else _finite(measured.value),
        bound=None if measured is None else _finite(measured.bound),
        n=None if measured is None else measured.n,
        unit=metric.unit,
        passed=None if measured is None or nothing else metric.met(measured, size=size),
        gate=metric.gate,
        note="" if measured is None else _noted(measured),
        loosened=threshold != metric.threshold,
        doc=metric.doc,
    )


def _finite(value: Number | None) -> Number | None:
    """JSON has neither NaN nor infinity: such a figure is kept in the note, not as a number."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int) else float(value)


def _noted(measured: Measured) -> str:
    odd = [str(v) for v in (measured.value, measured.bound) if v is not None and _finite(v) is None]
    return "; ".join([*([measured.note] if measured.note else []), *odd])
