"""From a judgement to a verdict. Only `pass` is a pass."""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from .coverage import Coverage, vacuous
from .metric import Measured, Metric, Number, zero_claim
from .power import undecided
from .scenario import Judgement, Scenario
from .statistics import is_lower, reachable


class Verdict(enum.StrEnum):
    """What is known about a row.

    UNKNOWN: the fault never fired, a mark was never reached, the load never happened, the check
    raised, the size can't reach a bound. INVALID: a sabotage
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

    A metric whose own component is absent is no gate here, and its note names the component.

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
    """The verdict, the metrics it rests on, and the reason; of a pass, what it leaves open."""

    verdict: Verdict
    metrics: tuple[MetricResult, ...]
    reason: str | None = None


def rule(
    scenario: Scenario,
    judgement: Judgement,
    *,
    size: str,
    coverage: Coverage | None = None,
    scaled: bool = False,
    lacking: Collection[str] = (),
) -> Ruling:
    """Judge a history's figures against the header.

    The check's own `unknown` comes first. Then one failed gate is a fail, even beside a missing
    one: a violation that was seen stands. A gate without a figure, one that its n can't decide, or
    a figure the header does not declare, is unknown; so is a run whose `coverage` lacks a mark or
    a fault of the header (None: not asked).

    `lacking` names absent components: a metric that needs one of them is not asked for.

    `scaled` is an audit's fraction of a size: a bound that is out of reach there is left out, and
    the share itself is judged. Else healthy and sabotaged runs would miss it alike.
    """
    results = tuple(
        _not_asked(metric, size)
        if metric.component is not None and metric.component in lacking
        else _result(metric, judgement, size, scaled)
        for metric in scenario.metrics
    )
    gates = [result for result in results if result.gate]
    if judgement.unknown is not None:
        return Ruling(Verdict.UNKNOWN, results, judgement.unknown)
    failed = [result.name for result in gates if result.passed is False]
    if failed:
        return Ruling(Verdict.FAIL, results, f"not met: {', '.join(failed)}")
    unjudged = [result.name for result in gates if result.passed is None]
    if unjudged:
        reasons = _unjudged_because(scenario, judgement, unjudged, size)
        return Ruling(Verdict.UNKNOWN, results, "; ".join(reasons))
    undeclared = sorted(judgement.metrics.keys() - {metric.name for metric in scenario.metrics})
    if undeclared:
        return Ruling(Verdict.UNKNOWN, results, f"not in the header: {', '.join(undeclared)}")
    empty = None if coverage is None else vacuous(scenario, coverage)
    if empty is not None:
        return Ruling(Verdict.UNKNOWN, results, empty)
    left = [each.name for each in scenario.metrics if each.component in lacking]
    return Ruling(Verdict.PASS, results, f"not asked: {', '.join(left)}" if left else None)


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


def _not_asked(metric: Metric, size: str) -> MetricResult:
    threshold = metric.threshold_at(size)
    return MetricResult(
        name=metric.name,
        op=metric.op,
        threshold=threshold,
        value=None,
        bound=None,
        n=None,
        unit=metric.unit,
        passed=None,
        gate=False,
        note=f"not asked: needs {metric.component}, which is not here",
        loosened=threshold != metric.threshold,
        doc=metric.doc,
    )


def _result(metric: Metric, judgement: Judgement, size: str, scaled: bool) -> MetricResult:
    measured = _measured(metric, judgement, size, scaled)
    threshold = metric.threshold_at(size)
    nothing = measured is None or measured.empty
    if not nothing and measured is not None and not scaled:
        nothing = undecided(metric, measured, size=size) is not None
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
        note="" if measured is None else _noted(metric, measured),
        loosened=threshold != metric.threshold,
        doc=metric.doc,
    )


def _measured(metric: Metric, judgement: Judgement, size: str, scaled: bool) -> Measured | None:
    """What the check gave, with the declared bound."""
    given = judgement.metrics.get(metric.name)
    if given is None:
        return None
    measured = given if isinstance(given, Measured) else Measured(given)
    kind, n = metric.bound, measured.n
    if scaled and kind is not None and measured.bound is None and n:
        threshold = float(metric.threshold_at(size))
        if not reachable(kind, threshold, n):
            end = "lower" if is_lower(kind) else "upper"
            note = f"the share itself is judged: no {end} bound of {n:,} reaches {threshold:g}"
            return replace(measured, note="; ".join(filter(None, (measured.note, note))))
    return metric.bounded(measured)


def _unjudged_because(
    scenario: Scenario, judgement: Judgement, unjudged: list[str], size: str
) -> list[str]:
    """Figures out of reach, each with its n; then the ones that were not measured."""
    said, absent = [], []
    for name in unjudged:
        metric = scenario.metric(name)
        assert metric is not None, "only declared metrics are judged"
        measured = _measured(metric, judgement, size, False)
        beyond = None if measured is None else undecided(metric, measured, size=size)
        if beyond is None:
            absent.append(name)
        else:
            said.append(beyond)
    return [*said, *([f"not measured: {', '.join(absent)}"] if absent else [])]


def _finite(value: Number | None) -> Number | None:
    """JSON has neither NaN nor infinity: such a figure is kept in the note, not as a number."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int) else float(value)


def _noted(metric: Metric, measured: Measured) -> str:
    """The check's note, what a zero shows where it says nothing, and figures JSON can't hold."""
    odd = [str(v) for v in (measured.value, measured.bound) if v is not None and _finite(v) is None]
    note = measured.note
    if not note and metric.threshold == 0 and metric.op in ("==", "<=") and measured.value == 0:
        note = zero_claim(measured.n) if measured.n else "of how many is not told"
    return "; ".join([*([note] if note else []), *odd])
