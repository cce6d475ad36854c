"""Scenario headers, metrics, worlds and histories as values."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from stageflow_lab import (
    History,
    Judgement,
    LabError,
    Measured,
    Metric,
    Scenario,
    Sizes,
    World,
    counted,
    share,
    zero_claim,
)
from stageflow_lab import history as history_module
from stageflow_lab.verdict import Ruling, Verdict, exit_code, rule


def scenario(*metrics: Metric) -> Scenario:
    return Scenario(
        row="DEMO-001",
        claim="",
        sizes=Sizes(quick={"n": 1}, full={"n": 2}),
        metrics=metrics or (Metric("lost", "==", 0),),
        sabotages=(),
        load=lambda world: History(),
        check=lambda history: Judgement({}),
    )


def ruled(judgement: Judgement, *metrics: Metric, size: str = "full") -> Ruling:
    return rule(scenario(*metrics), judgement, size=size)


def test_counts_scale_and_what_is_fixed_does_not() -> None:
    sizes = Sizes(quick={"runs": 5, "width": 50, "p": 0.5, "on": True, "none": 0}, full={"runs": 1})
    assert sizes.params("quick", scale=0.1) == {
        "runs": 1,
        "width": 5,
        "p": 0.5,
        "on": True,
        "none": 0,
    }
    fixed = Sizes(quick={"runs": 100, "width": 50}, full={"runs": 1}, fixed=("width",))
    assert fixed.params("quick", scale=0.1) == {"runs": 10, "width": 50}
    assert fixed.params("soak") is None


def test_a_metric_whose_component_is_absent_is_not_asked_for_and_says_so() -> None:
    metrics = (Metric("lost", "==", 0), Metric("faster", ">=", 2, component="peer:other"))
    only = scenario(*metrics)
    without = rule(only, Judgement({"lost": 0}), size="full", lacking=("peer:other",))
    assert without.verdict is Verdict.PASS
    assert without.reason == "not asked: faster"
    assert not without.metrics[1].gate and "needs peer:other" in without.metrics[1].note
    # Where it is here, a figure that is missing is as unknown as any other.
    assert rule(only, Judgement({"lost": 0}), size="full").verdict is Verdict.UNKNOWN
    slow = rule(only, Judgement({"lost": 0, "faster": 1.5}), size="full")
    assert slow.verdict is Verdict.FAIL
    lost = rule(only, Judgement({"lost": 1}), size="full", lacking=("peer:other",))
    assert lost.verdict is Verdict.FAIL


def test_a_header_whose_every_gate_needs_a_component_of_its_own_contradicts_itself() -> None:
    with pytest.raises(LabError) as caught:
        scenario(Metric("faster", ">=", 2, component="peer:other"))
    assert caught.value.code == "lab.scenario"


def test_contradictions_of_a_header_are_told_together() -> None:
    with pytest.raises(LabError) as caught:
        scenario(Metric("a", "==", 0, gate=False), Metric("a", "==", 0, gate=False))
    assert caught.value.code == "lab.scenario"
    assert "no metric decides" in str(caught.value)
    assert "'a' is declared twice" in str(caught.value)


def test_the_bound_is_judged_when_there_is_one() -> None:
    cost = Metric("cost", "<=", 1.5)
    assert not cost.met(Measured(1.4, bound=1.6), size="full")
    assert cost.met(Measured(1.4, bound=1.45), size="full")


def test_quick_may_be_looser_and_says_so() -> None:
    recall = Metric("recall", ">=", 0.99, quick_threshold=0.9)
    quick = ruled(Judgement({"recall": 0.95}), recall, size="quick")
    assert quick.verdict is Verdict.PASS
    assert quick.metrics[0].loosened and quick.metrics[0].threshold == 0.9
    assert ruled(Judgement({"recall": 0.95}), recall).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("judgement", "verdict"),
    [
        (Judgement({"lost": 0}), Verdict.PASS),
        (Judgement({"lost": 1}), Verdict.FAIL),
        (Judgement({}), Verdict.UNKNOWN),
        (Judgement({"lost": 0}, unknown="the fault never fired"), Verdict.UNKNOWN),
        (Judgement({"lost": math.nan}), Verdict.UNKNOWN),
        (Judgement({"lost": counted(0, 0)}), Verdict.UNKNOWN),
        (Judgement({"lost": 0, "undeclared": 1}), Verdict.UNKNOWN),
    ],
)
def test_verdict_of_a_judgement(judgement: Judgement, verdict: Verdict) -> None:
    assert ruled(judgement).verdict is verdict


def test_a_seen_violation_stands_beside_a_missing_figure() -> None:
    lost, other = Metric("lost", "==", 0), Metric("other", "==", 0)
    assert ruled(Judgement({"lost": 3}), lost, other).verdict is Verdict.FAIL


def test_a_reported_metric_never_decides() -> None:
    beside = Metric("speed", "<=", 1.0, gate=False)
    judgement = Judgement({"lost": 0, "speed": 9.0})
    assert ruled(judgement, Metric("lost", "==", 0), beside).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ("pass", 0),
        ("pass fail error missing", 1),
        ("invalid", 1),
        ("pass error", 2),
        ("unknown skipped", 2),
        ("pass skipped", 3),
        ("missing", 3),
    ],
)
def test_exit_code_says_the_worst(verdicts: str, code: int) -> None:
    found = [Verdict(word) for word in verdicts.split()]
    assert exit_code(found) == code
    assert exit_code(found, allow_skipped=True) == (0 if code == 3 else code)


def test_a_zero_says_what_it_shows() -> None:
    assert zero_claim(3_000) == "0 of 3,000: rate below 0.001 with 95% confidence"
    assert counted(0, 3_000).note == zero_claim(3_000)
    assert counted(2, 3_000).note == ""
    assert share(0, 0).empty


def test_seeds_depend_on_labels_not_on_call_order(tmp_path: Path) -> None:
    first, second = (World(seed=7, size={}, scratch=tmp_path) for _ in range(2))
    assert first.seed_for("a") == second.seed_for("a")
    assert first.seed_for("b") != first.seed_for("a")
    assert first.seed_for("a", 1) == second.seed_for("a", 1) != first.seed_for("a1")
    assert first.rng.random() == second.rng.random()


def test_a_history_reads_back_as_it_was_saved(tmp_path: Path) -> None:
    history = History({"runs": 2})
    history.record("start", at=1)
    history.record("end", at=2.5)
    history.save(tmp_path / "history.jsonl")
    read = History.read(tmp_path / "history.jsonl")
    assert read.events == history.events and read.sizes == history.sizes
    assert read.total("end", "at") == 2.5 and read.count("start") == 1


def test_a_saved_history_is_bounded_and_says_what_it_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "EVENTS_SAVED_MAX", 10)
    history = History()
    for at in range(100):
        history.record("step", at=at)
    history.save(tmp_path / "history.jsonl")
    read = History.read(tmp_path / "history.jsonl")
    assert [each.data["at"] for each in read.events] == [0, 1, 2, 3, 4, 95, 96, 97, 98, 99]
    assert '{"left_out": 90}' in (tmp_path / "history.jsonl").read_text()


def test_evidence_is_written_whatever_it_holds(tmp_path: Path) -> None:
    circle: list[object] = []
    circle.append(circle)
    history = History()
    history.record("odd", value=object(), keys={(1, 2): 3}, circle=circle)
    history.save(tmp_path / "history.jsonl")
    assert History.read(tmp_path / "history.jsonl").count("odd") == 1
