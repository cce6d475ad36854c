"""What makes a verdict unknown though no figure is wrong: bounds out of reach, vacuous runs."""

from __future__ import annotations

import math

import pytest

from stageflow_lab import (
    History,
    Judgement,
    LabError,
    Measured,
    Metric,
    Scenario,
    Sizes,
    counted,
    share,
)
from stageflow_lab.coverage import Coverage
from stageflow_lab.power import undecided, unreachable
from stageflow_lab.verdict import Ruling, Verdict, rule

RECALL = Metric("recall", ">=", 0.97, bound="wilson_lower", of="traces")
NOISE = Metric("noise", "<=", 0.01, bound="exact_upper")
LOST = Metric("lost", "==", 0)


def scenario(*metrics: Metric, **changed: object) -> Scenario:
    settings: dict[str, object] = {
        "row": "DEMO-001",
        "claim": "",
        "sizes": Sizes(quick={"traces": 100}, full={"traces": 1_000}),
        "metrics": metrics,
        "sabotages": (),
        "load": lambda world: History(),
        "check": lambda history: Judgement({}),
    }
    return Scenario(**{**settings, **changed})  # type: ignore[arg-type]


def ruled(metric: Metric, measured: Measured, *, scaled: bool = False) -> Ruling:
    judgement = Judgement({metric.name: measured})
    return rule(scenario(metric), judgement, size="full", scaled=scaled)


@pytest.mark.parametrize(
    ("metric", "measured", "verdict"),
    [
        (RECALL, share(1_000, 1_000), Verdict.PASS),
        (RECALL, share(985, 1_000), Verdict.PASS),
        (RECALL, share(972, 1_000), Verdict.FAIL),
        (RECALL, share(100, 100), Verdict.UNKNOWN),
        (RECALL, share(97, 100), Verdict.UNKNOWN),
        (RECALL, share(50, 100), Verdict.FAIL),
        (RECALL, share(0, 0), Verdict.UNKNOWN),
        (RECALL, Measured(0.99), Verdict.UNKNOWN),
        (RECALL, Measured(0.9, n=1_000, bound=0.98), Verdict.PASS),
        (NOISE, share(0, 400), Verdict.PASS),
        (NOISE, share(3, 400), Verdict.FAIL),
        (NOISE, share(0, 300), Verdict.UNKNOWN),
        (NOISE, share(30, 300), Verdict.FAIL),
        (NOISE, Measured(3.0, n=400), Verdict.UNKNOWN),
    ],
)
def test_the_declared_bound_decides_where_n_lets_it(
    metric: Metric, measured: Measured, verdict: Verdict
) -> None:
    assert ruled(metric, measured).verdict is verdict


def test_what_is_out_of_reach_says_which_n_would_do() -> None:
    reason = ruled(RECALL, share(100, 100)).reason
    assert reason is not None and "125 are needed" in reason and "n = 100" in reason
    assert undecided(RECALL, share(1_000, 1_000), size="full") is None


def test_a_size_too_small_is_known_before_it_runs() -> None:
    (said,) = unreachable(scenario(RECALL), "quick", {"traces": 100})
    assert "n = 100 traces" in said and "125 are needed" in said
    assert unreachable(scenario(RECALL), "full", {"traces": 1_000}) == ()
    planned = Metric("recall", ">=", 0.97, bound="wilson_lower", of="traces", misses=20)
    (said,) = unreachable(scenario(planned), "full", {"traces": 1_000})
    assert "with 20 against it" in said
    loose = Metric("recall", ">=", 0.97, quick_threshold=0.9, bound="wilson_lower", of="traces")
    assert unreachable(scenario(loose), "quick", {"traces": 100}) == ()
    beside = Metric("recall", ">=", 0.97, bound="wilson_lower", of="traces", gate=False)
    assert unreachable(scenario(beside, LOST), "quick", {"traces": 100}) == ()
    never = Metric("recall", ">=", 1.0, bound="wilson_lower", of="traces")
    (said,) = unreachable(scenario(never), "full", {"traces": 10**9})
    assert "no n is enough" in said


def test_a_fraction_of_a_size_is_judged_by_the_share_where_no_bound_is_in_reach() -> None:
    healthy, broken = (
        ruled(RECALL, share(20, 20), scaled=True),
        ruled(RECALL, share(18, 20), scaled=True),
    )
    assert healthy.verdict is Verdict.PASS and "the share itself" in healthy.metrics[0].note
    assert broken.verdict is Verdict.FAIL
    by_bound = ruled(RECALL, share(972, 1_000), scaled=True)
    assert by_bound.verdict is Verdict.FAIL and by_bound.metrics[0].bound is not None


def test_a_bound_must_suit_its_operator_and_its_n_must_be_a_size() -> None:
    for bad in (
        {"op": "<=", "bound": "wilson_lower"},
        {"op": "==", "bound": "exact_upper"},
        {"op": ">=", "bound": "bayes"},
    ):
        with pytest.raises(LabError) as caught:
            Metric("recall", bad["op"], 0.9, bound=bad["bound"])  # type: ignore[arg-type]
        assert caught.value.code == "lab.metric"
    with pytest.raises(LabError, match="no quick parameter"):
        scenario(Metric("recall", ">=", 0.9, bound="wilson_lower", of="runs"))


@pytest.mark.parametrize(
    ("coverage", "said"),
    [
        (Coverage({"late_write": 3}, {"kill": 2}), None),
        (Coverage({}, {"kill": 2}), "never reached: late_write"),
        (Coverage({"late_write": 3}, {}), "never fired: kill"),
        (Coverage({"late_write": 0}, {"kill": 0}), "never reached: late_write; never fired: kill"),
        (None, None),
    ],
)
def test_a_run_that_never_met_its_marks_or_faults_is_no_pass(
    coverage: Coverage | None, said: str | None
) -> None:
    header = scenario(LOST, marks=("late_write",), faults=("kill",))
    found = rule(header, Judgement({"lost": 0}), size="full", coverage=coverage)
    assert (found.verdict, found.reason) == (
        (Verdict.PASS if said is None else Verdict.UNKNOWN),
        said,
    )
    seen = rule(header, Judgement({"lost": 1}), size="full", coverage=coverage)
    assert seen.verdict is Verdict.FAIL, "a violation that was seen stands"


def test_one_gate_metric_may_account_for_all_faults() -> None:
    accounted = scenario(LOST, Metric("faults_fired", "==", 1.0), faults=("kill", "power loss"))
    judgement = Judgement({"lost": 0, "faults_fired": share(20, 20)})
    assert rule(accounted, judgement, size="full", coverage=Coverage()).verdict is Verdict.PASS


def test_a_misspelt_mark_is_told_with_the_right_name() -> None:
    with pytest.raises(LabError, match="is it 'late_write'"):
        scenario(LOST, marks=("late_writes",))


def test_faults_are_counted_by_name() -> None:
    history = History()
    history.fired("kill")
    history.fired("torn_write", 3)
    history.fired("kill", 2)
    assert Coverage.of(history, {}).fired == {"kill": 3, "torn_write": 3}


def test_a_zero_always_says_of_how_many() -> None:
    def note(measured: Measured | int) -> str:
        return rule(scenario(LOST), Judgement({"lost": measured}), size="full").metrics[0].note

    assert note(Measured(0, n=300)) == note(counted(0, 300))
    assert "of 300" in note(Measured(0, n=300))
    assert note(0) == "of how many is not told"
    assert note(Measured(0, note="of all paths")) == "of all paths"
    assert "nan" in note(Measured(math.nan))
