"""Bounds: published values, honest coverage, and the smallest n that a bound can be met with."""

from __future__ import annotations

import math
import random

import pytest

from stageflow_lab.statistics import (
    BOUND_KINDS,
    BoundKind,
    best_bound,
    bound_of,
    clopper_pearson,
    is_lower,
    needed,
    reachable,
    wilson,
    zero_upper,
)

NEWCOMBE = [
    # hits, n, Wilson, Clopper-Pearson: table I of R. G. Newcombe, Two-sided confidence intervals
    # for the single proportion, Statistics in Medicine 17 (1998) 857-872; methods 3 and 5.
    (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
    (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
    (0, 20, (0.0000, 0.1611), (0.0000, 0.1684)),
    (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
]


@pytest.mark.parametrize(("hits", "n", "score", "exact"), NEWCOMBE)
def test_published_intervals(
    hits: int, n: int, score: tuple[float, float], exact: tuple[float, float]
) -> None:
    for interval, expected in ((wilson(hits, n), score), (clopper_pearson(hits, n), exact)):
        assert interval.low == pytest.approx(expected[0], abs=6e-5)
        assert interval.high == pytest.approx(expected[1], abs=6e-5)


def test_the_exact_bounds_cut_off_the_tails_they_promise() -> None:
    """At each end the observed count, or one beyond it, has probability 2.5%: summed directly."""
    for hits, n in ((1, 9), (3, 17), (40, 60), (99, 100)):
        interval = clopper_pearson(hits, n)
        at_least = sum(_pmf(k, n, interval.low) for k in range(hits, n + 1))
        at_most = sum(_pmf(k, n, interval.high) for k in range(hits + 1))
        assert at_least == pytest.approx(0.025, rel=1e-9)
        assert at_most == pytest.approx(0.025, rel=1e-9)


def test_nothing_says_nothing_and_mirrored_counts_mirror() -> None:
    for interval in (wilson, clopper_pearson):
        assert (interval(0, 0).low, interval(0, 0).high) == (0.0, 1.0)
        assert interval(0, 50).low == 0.0 and interval(50, 50).high == 1.0
        for hits in (0, 3, 25, 49):
            here, there = interval(hits, 50), interval(50 - hits, 50)
            assert here.low == pytest.approx(1 - there.high, abs=1e-12)


def test_large_counts_stay_exact() -> None:
    """Where the normal approximation is good, both agree with it."""
    for interval in (wilson, clopper_pearson):
        found = interval(500_000_000, 1_000_000_000)
        reach = 1.959964 * math.sqrt(0.25 / 1e9)
        assert found.high - 0.5 == pytest.approx(reach, rel=1e-3)
        assert 0.5 - found.low == pytest.approx(reach, rel=1e-3)


@pytest.mark.parametrize(("share", "n"), [(0.5, 40), (0.1, 60), (0.02, 200), (0.9, 30)])
def test_intervals_cover_the_truth_as_often_as_they_say(share: float, n: int) -> None:
    """4,000 samples: the exact one never covers less than 95%, Wilson's is within 3 points."""
    rng = random.Random(f"coverage:{share}:{n}")
    samples = [sum(rng.random() < share for _ in range(n)) for _ in range(4_000)]
    score = {hits: wilson(hits, n) for hits in set(samples)}
    exact = {hits: clopper_pearson(hits, n) for hits in set(samples)}
    covered = sum(exact[hits].low <= share <= exact[hits].high for hits in samples)
    assert covered / len(samples) >= 0.95 - 0.01  # 0.01 is three deviations of the simulation
    covered = sum(score[hits].low <= share <= score[hits].high for hits in samples)
    assert covered / len(samples) == pytest.approx(0.95, abs=0.03)


def test_a_zero_leaves_about_three_in_n_possible() -> None:
    assert zero_upper(0) == 1.0
    assert zero_upper(1) == pytest.approx(0.95)
    assert (1 - zero_upper(20)) ** 20 == pytest.approx(0.05)
    for n in (1_000, 10**6, 10**9):
        assert zero_upper(n) * n == pytest.approx(3, rel=4e-3)


@pytest.mark.parametrize("kind", BOUND_KINDS)
@pytest.mark.parametrize("misses", [0, 1, 7])
def test_the_planned_n_is_the_smallest(kind: BoundKind, misses: int) -> None:
    threshold = 0.97 if is_lower(kind) else 0.01
    n = needed(kind, threshold, misses=misses)
    assert n is not None and n > misses
    assert reachable(kind, threshold, n, misses=misses)
    assert not reachable(kind, threshold, n - 1, misses=misses)
    hits = n - misses if is_lower(kind) else misses
    assert bound_of(kind, hits, n) == best_bound(kind, n, misses=misses)


def test_certainty_is_out_of_reach_at_any_n() -> None:
    assert needed("wilson_lower", 1.0) is None
    assert needed("exact_upper", 0.0) is None
    assert needed("wilson_lower", 0.0) == 0


def _pmf(k: int, n: int, share: float) -> float:
    return math.comb(n, k) * share**k * (1 - share) ** (n - k)
