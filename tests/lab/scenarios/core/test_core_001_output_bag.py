"""The check of CORE-001 on small histories: one that passes, and one for every way to fail."""

from __future__ import annotations

import pytest

from stageflow_lab import History
from stageflow_lab.scenarios.core.core_001_output_bag import FAULTS_REAL, SCENARIO, check
from stageflow_lab.scenarios.core.fan_out import FAULTS, OWNED_TWICE
from stageflow_lab.verdict import Verdict, rule

SIZES = {"schedules": 2, "real_runs": 1}
LINES = (
    "ok/memory r- va1 wa1 ga1 ea1 fa1",
    "ok/journal va1 la1 va2 wa2 p+ ga2 ea2 fa2 k1=a1 j2=a2",
)


def history(*lines: str, **facts: int) -> History:
    """A history that passes, of LINES and `lines`; `facts` change what befell simulated runs."""
    sim = {
        "schedules": 2,
        "timed": 1,
        "within_2ms": 1,
        "stale_raised": 1,
        **dict.fromkeys(FAULTS, 1),
    }
    real = {"runs": 1, "stale_raised": 1, **dict.fromkeys(FAULTS_REAL, 1)}
    made = History(SIZES)
    made.record("befell", where="sim", facts={**sim, **facts})
    made.record("befell", where="real", facts=real)
    for where in ("sim", "real"):
        for line in LINES:
            made.record("key", where=where, line=line, count=3, width=50, seed=7)
    for line in lines:
        made.record("key", where="sim", line=line, count=2, width=50, seed=8)
    return made


def test_a_clean_history_passes() -> None:
    judgement = check(history())
    ruling = rule(SCENARIO, judgement, size="quick")
    assert ruling.verdict is Verdict.PASS, ruling.reason
    assert judgement.metrics["conflicts_raised"].value == 1.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("metric", "line"),
    [
        ("lost", "ok/memory va1 wa1 ea1 f-"),
        ("duplicated", "ok/journal va1 wa1 ea1 fa1 j1=a1 j1=a1"),
        ("silent_overwrites", "ok/memory va1 wa2 va2 la2 ga1 ea1 fa1"),
        ("conflicts_raised", "ok/memory va1 va2 wa2 ea2 fa2"),
        ("register_violations", "ok/memory va1 wa1 r- ea1 fa1"),
        ("conflicts_named", "ok/memory va1 wa1 p~ ea1 fa1"),
        ("losing_values_kept", "ok/journal va1 la1 va2 wa2 ea2 fa2 j2=a2"),
    ],
)
def test_a_wrong_key_fails_its_metric(metric: str, line: str) -> None:
    judgement = check(history(line))
    ruling = rule(SCENARIO, judgement, size="quick")
    assert ruling.verdict is Verdict.FAIL
    assert {m.name for m in ruling.metrics if m.passed is False} >= {metric}
    assert any(line in note and "simulated_fan_outs 50 8" in note for note in judgement.notes)


def test_an_owner_that_was_replaced_without_an_error_fails_conflicts_raised() -> None:
    judgement = check(history(stale_raised=0))
    assert rule(SCENARIO, judgement, size="quick").verdict is Verdict.FAIL


def test_a_run_in_which_the_engine_raised_fails() -> None:
    made = history()
    made.record("broken", where="sim", seed=9, width=50, what="AssertionError: a story")
    judgement = check(made)
    assert rule(SCENARIO, judgement, size="quick").verdict is Verdict.FAIL
    assert any("simulated_fan_outs 50 9" in note for note in judgement.notes)


@pytest.mark.parametrize("absent", ["schedules", *FAULTS])
def test_a_load_that_did_not_happen_decides_nothing(absent: str) -> None:
    facts = {absent: 0, **({"stale_raised": 0} if absent == OWNED_TWICE else {})}
    judgement = check(history(**facts))
    assert judgement.unknown is not None
    assert rule(SCENARIO, judgement, size="quick").verdict is Verdict.UNKNOWN


def test_an_empty_history_decides_nothing() -> None:
    assert check(History(SIZES)).unknown is not None
