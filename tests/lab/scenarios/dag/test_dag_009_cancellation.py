"""The check of DAG-009 on small histories: one that passes, and one for every way to fail."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_lab import History
from stageflow_lab.scenarios.dag.cancellation_facts import MODES
from stageflow_lab.scenarios.dag.dag_009_cancellation import SCENARIO, check
from stageflow_lab.verdict import Verdict, rule

CLEAN = {
    "injected": 1_000,
    "fired": 900,
    "scopes": 100,
    "finished": 100,
    "siblings": 100,
    "ignoring": 10,
    "orphans": 0,
    "miscleaned": 0,
    "swallowed": 0,
    "lost": 0,
    "harmed": 0,
    "unnamed": 0,
    "overshoot": 0.9,
}


def history(*, overshoots: tuple[float, ...] = (0.5, 1.1), **changed: Any) -> History:
    made = History({})
    for engine in ("sim", "real"):
        for mode in MODES:
            made.record("injections", engine=engine, mode=mode, **{**CLEAN, **changed})
    made.record("overshoots", ratios=sorted(overshoots))
    return made


def judged(made: History) -> tuple[Verdict, str]:
    ruling = rule(SCENARIO, check(made), size="full")
    return ruling.verdict, ruling.reason or ""


def test_cancellations_that_leave_nothing_pass() -> None:
    assert judged(history()) == (Verdict.PASS, "")


@pytest.mark.parametrize(
    ("changed", "metric"),
    [
        ({"orphans": 1}, "orphans"),
        ({"miscleaned": 1}, "cleanups_once"),
        ({"swallowed": 1}, "swallowed"),
        ({"lost": 1}, "finished_kept"),
        ({"harmed": 1}, "siblings_intact"),
        ({"unnamed": 1}, "ignoring_named"),
        ({"overshoot": 1.01}, "virtual_overshoot"),
        ({"overshoots": (1.3,)}, "real_p99"),
    ],
)
def test_each_violation_fails_its_metric(changed: dict[str, Any], metric: str) -> None:
    verdict, reason = judged(history(**changed))
    assert verdict is Verdict.FAIL
    assert metric in reason


def test_a_mode_that_never_fired_decides_nothing() -> None:
    assert judged(history(fired=0))[0] is Verdict.UNKNOWN
