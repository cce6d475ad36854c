"""The check of DAG-006 on small histories: one that passes, and one for every way to fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from stageflow_lab import History
from stageflow_lab.scenarios.dag.dag_006_depth import SCENARIO, check
from stageflow_lab.verdict import Verdict, rule

SIZES = {"kills": 1, "sim_crashes": 1}
REPORT = {"how": "chain", "stage": "s7", "status": "failed", "lines": 13, "named": True}
RESUMED = {"how": "kill", "reexecuted": 1, "executed": 5, "code": 0}


def history(**changed: Mapping[str, Any] | None) -> History:
    """A history that passes; `changed` overrides fields of one kind's events, None leaves them
    out."""
    events: list[tuple[str, dict[str, Any]]] = [
        ("operation", {"name": "load"}),
        ("completed", {"how": "memory", "ok": True}),
        ("reported", {**REPORT, "done_readable": True}),
        ("broken", {"how": "chain", "fired": True}),
        ("killed", {"moment": "in_stage", "depth": 7}),
        ("killed", {"moment": "simulated", "depth": 7}),
        ("resumed", RESUMED),
        ("weighed", {"depth": 10, "held_bytes": 30_000, "outputs_bytes": 10_000, "ok": True}),
    ]
    for what in ("run", "journalled", "nested", "built"):
        events += [("timed", {"what": what, "deep_s": 1.1, "shallow_s": 1.0})] * 7
    made = History(SIZES)
    for kind, data in events:
        change = changed.get(kind, {})
        if change is not None:
            made.record(kind, **{**data, **change})
    return made


def judged(made: History) -> tuple[Verdict, str]:
    ruling = rule(SCENARIO, check(made), size="full")
    return ruling.verdict, ruling.reason or ""


def test_depth_that_costs_nothing_passes() -> None:
    assert judged(history()) == (Verdict.PASS, "")


@pytest.mark.parametrize(
    ("kind", "change", "metric"),
    [
        ("completed", {"ok": False}, "completed"),
        ("timed", {"what": "run", "deep_s": 1.3}, "per_stage_ratio"),
        ("timed", {"what": "journalled", "deep_s": 1.3}, "per_stage_ratio_journalled"),
        ("timed", {"what": "nested", "deep_s": 1.3}, "per_level_ratio"),
        ("weighed", {"held_bytes": 10_000 + 10 * 4_097}, "retained_bytes_per_stage"),
        ("resumed", {"reexecuted": 2}, "reexecuted_max"),
        ("reported", {"lines": 51}, "report_lines_max"),
        ("reported", {"named": False}, "faults_reported"),
        ("reported", {"status": "ok"}, "faults_reported"),
        ("reported", {"done_readable": False}, "faults_reported"),
    ],
)
def test_each_violation_fails_its_metric(kind: str, change: Mapping[str, Any], metric: str) -> None:
    verdict, reason = judged(history(**{kind: change}))
    assert verdict is Verdict.FAIL
    assert metric in reason


def test_a_recursion_error_fails_even_when_it_kept_the_rest_from_happening() -> None:
    made = History(SIZES)
    made.record("operation", name="time_depths")
    made.record("recursion", where="time_depths")
    verdict, reason = judged(made)
    assert verdict is Verdict.FAIL
    assert "recursion_errors" in reason


def test_a_load_that_did_not_happen_is_unknown() -> None:
    assert judged(History(SIZES))[0] is Verdict.UNKNOWN


@pytest.mark.parametrize("kind", ["weighed", "timed", "resumed", "reported"])
def test_what_was_not_measured_is_unknown(kind: str) -> None:
    assert judged(history(**{kind: None}))[0] is Verdict.UNKNOWN


def test_a_link_that_did_not_break_is_unknown() -> None:
    assert judged(history(broken={"fired": False}))[0] is Verdict.UNKNOWN


def test_resumptions_decide_nothing_when_a_kill_did_not_fire() -> None:
    made = check(history(killed=None)).metrics["reexecuted_max"]
    assert not isinstance(made, int | float)
    assert made.empty
    assert "0 of 2 kills fired" in made.note
