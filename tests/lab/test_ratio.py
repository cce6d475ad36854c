"""Ratios and slopes: interleaved, bounded by their interval, never judged on too little."""

from __future__ import annotations

import math

import pytest

from stageflow_lab import ratio, ratio_of, slope, timed_pairs, timed_rounds


def test_order_alternates_after_one_unmeasured_round() -> None:
    calls: list[str] = []
    timed_pairs(lambda: calls.append("S"), lambda: calls.append("F"), repeats=4)
    assert "".join(calls) == "SF" + "SF" + "FS" + "SF" + "FS"


def test_a_slow_spell_that_hits_both_leaves_the_ratio_alone() -> None:
    measured = ratio_of([(2.0, 1.0), (20.0, 10.0), (2.0, 1.0)])
    assert (measured.value, measured.bound, measured.n) == (2.0, 2.0, 3)


def test_the_judged_bound_is_the_unfavourable_end() -> None:
    pairs = [(1.0 + at / 10, 1.0) for at in range(9)]
    upper, lower = ratio_of(pairs), ratio_of(pairs, side="lower")
    assert upper.value == lower.value == 1.4
    assert upper.bound is not None and lower.bound is not None
    assert lower.bound < 1.4 < upper.bound
    assert ratio_of(pairs) == upper, "the bootstrap is seeded"


@pytest.mark.parametrize("pairs", [[], [(1.0, 1.0)], [(1.0, 0.0), (1.0, 1.0), (1.0, 1.0)]])
def test_too_little_cannot_be_judged(pairs: list[tuple[float, float]]) -> None:
    assert ratio_of(pairs).empty


def test_a_real_measurement_finds_the_larger_work() -> None:
    measured = ratio(lambda: sum(range(400_000)), lambda: sum(range(50_000)), repeats=7)
    assert measured.value > 2 and measured.n == 7


def test_slope_is_the_exponent() -> None:
    assert slope([(10.0**k, 3.0 * 10.0 ** (2 * k)) for k in range(4)]).value == pytest.approx(2.0)
    assert slope([(1.0, 5.0), (10.0, 5.0), (100.0, 5.0)]).value == pytest.approx(0.0)
    assert slope([(1.0, 1.0), (2.0, 2.0)]).empty and math.isnan(slope([]).value)


def test_the_control_times_the_floor_on_both_sides_of_the_subject() -> None:
    calls: list[str] = []
    rounds = timed_rounds(lambda: calls.append("S"), lambda: calls.append("F"), repeats=3)
    assert "".join(calls) == "SF" + "FSF" * 3
    assert len(rounds.pairs) == len(rounds.control) == 3


@pytest.mark.parametrize("itself", [0.9, 1.06, 2.0])
def test_a_floor_that_is_not_itself_leaves_nothing_to_judge(itself: float) -> None:
    pairs = [(2.0, 1.0)] * 7
    assert not ratio_of(pairs, control=[(1.0, 1.0)] * 7).empty
    assert ratio_of(pairs, control=[(1.01, 1.0)] * 7) == ratio_of(pairs)
    noisy = ratio_of(pairs, control=[(itself, 1.0)] * 7)
    assert noisy.empty and "A/A control" in noisy.note
    assert ratio_of(pairs, control=[(1.0, 1.0)]).empty, "too few rounds control nothing"


def test_a_controlled_measurement_finds_the_larger_work_or_says_why_not() -> None:
    measured = ratio(
        lambda: sum(range(400_000)), lambda: sum(range(50_000)), repeats=7, control=True
    )
    assert measured.value > 2 if not measured.empty else "A/A control" in measured.note
