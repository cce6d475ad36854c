"""Time as a ratio to a floor: interleaved measurement, a bootstrap interval, a log-log slope.

Absolute times say more about the machine than about the subject. The floor is the least code that
does the same work; both run in turns (ABBA), so that a slow spell hits both. The control measures
the floor against itself: where that is not 1, no ratio of this run says anything.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from .metric import Measured

Clock = Literal["cpu", "wall"]
Side = Literal["upper", "lower"]
_RESAMPLES: Final = 2_000
_EXAMPLES_MIN: Final = 3
CONTROL_LIMITS: Final = (0.95, 1.05)
"""Between these must lie the floor as a multiple of itself."""
Pairs = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Rounds:
    """Seconds per round: `pairs` of (subject, floor), `control` of (floor, floor)."""

    pairs: Pairs
    control: Pairs


def ratio(
    subject: Callable[[], object],
    floor: Callable[[], object],
    *,
    repeats: int = 7,
    clock: Clock = "cpu",
    side: Side = "upper",
    control: bool = False,
) -> Measured:
    """The time of `subject` as a multiple of `floor`'s: `ratio_of` their `timed_pairs`.

    With `control` the floor is timed against itself in the same rounds, which costs half as much
    again; a machine on which that is off gives nothing to judge.
    """
    if control:
        rounds = timed_rounds(subject, floor, repeats=repeats, clock=clock)
        return ratio_of(rounds.pairs, side=side, control=rounds.control)
    return ratio_of(timed_pairs(subject, floor, repeats=repeats, clock=clock), side=side)


def timed_rounds(
    subject: Callable[[], object],
    floor: Callable[[], object],
    *,
    repeats: int = 7,
    clock: Clock = "cpu",
) -> Rounds:
    """As `timed_pairs`, the floor timed once more in each round, on the subject's other side.

    So a round is floor, subject, floor, and which of the two floors is the subject's and which is
    the control's first alternates. A load records both lists; its check hands them to `ratio_of`.
    """
    subject()
    floor()
    now = time.process_time if clock == "cpu" else time.perf_counter
    pairs: list[tuple[float, float]] = []
    control: list[tuple[float, float]] = []
    for turn in range(repeats):
        before = _took(floor, now)
        took = _took(subject, now)
        after = _took(floor, now)
        near, far = (before, after) if turn % 2 else (after, before)
        pairs.append((took, near))
        control.append((far, near))
    return Rounds(pairs, control)


def timed_pairs(
    subject: Callable[[], object],
    floor: Callable[[], object],
    *,
    repeats: int = 7,
    clock: Clock = "cpu",
) -> list[tuple[float, float]]:
    """Seconds of (subject, floor) per round, the order alternating; one unmeasured round first.

    "cpu" is the time of this process, all threads; "wall" counts waiting too. A load records these
    pairs; its check calls `ratio_of`.
    """
    subject()
    floor()
    now = time.process_time if clock == "cpu" else time.perf_counter
    pairs = []
    for turn in range(repeats):
        if turn % 2 == 0:
            took = _took(subject, now)
            pairs.append((took, _took(floor, now)))
        else:
            least = _took(floor, now)
            pairs.append((_took(subject, now), least))
    return pairs


def ratio_of(
    pairs: Pairs,
    *,
    side: Side = "upper",
    seed: int = 0,
    control: Pairs | None = None,
) -> Measured:
    """The median of the rounds' ratios, judged by the end of its 95% bootstrap interval.

    `side` "upper" suits a "<=" metric, "lower" a ">=" one. The percentile bootstrap is Efron's
    (Annals of Statistics 7, 1979). With fewer than 3 rounds, a floor too short for the clock, or a
    `control` whose median is outside CONTROL_LIMITS, there is nothing to judge.
    """
    if control is not None:
        same = ratio_of(control, seed=seed)
        low, high = CONTROL_LIMITS
        if same.empty or not low <= same.value <= high:
            shown = same.note if same.empty else f"{same.value:.3g} times itself"
            note = f"A/A control: the floor was {shown}, outside {low} to {high}"
            return Measured(math.nan, n=0, note=note)
    ratios = [subject / floor for subject, floor in pairs if floor > 0]
    if len(ratios) < max(_EXAMPLES_MIN, len(pairs)):
        return Measured(
            math.nan, n=0, note="the floor is too short for the clock, or too few rounds"
        )
    rng = random.Random(seed)
    medians = sorted(
        statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES)
    )
    low, high = medians[int(_RESAMPLES * 0.025)], medians[int(_RESAMPLES * 0.975) - 1]
    return Measured(
        statistics.median(ratios),
        n=len(ratios),
        bound=high if side == "upper" else low,
        note=f"median of {len(ratios)} interleaved rounds, 95% interval {low:.3g} to {high:.3g}",
    )


def slope(points: Sequence[tuple[float, float]]) -> Measured:
    """How y grows with x: the least-squares slope of log y over log x; 1.0 is linear.

    Needs 3 points above zero with different x; with fewer there is nothing to judge.
    """
    logs = [(math.log(x), math.log(y)) for x, y in points if x > 0 and y > 0]
    if len({x for x, _ in logs}) < _EXAMPLES_MIN:
        return Measured(math.nan, n=0, note="fewer than 3 sizes measured")
    xs, ys = [x for x, _ in logs], [y for _, y in logs]
    fitted = statistics.linear_regression(xs, ys)
    fit = statistics.correlation(xs, ys) ** 2 if len(set(ys)) > 1 else 1.0
    return Measured(fitted.slope, n=len(logs), note=f"log-log fit, r² {fit:.4f}")


def _took(work: Callable[[], object], now: Callable[[], float]) -> float:
    started = now()
    work()
    return now() - started
