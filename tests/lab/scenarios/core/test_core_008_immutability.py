"""The check of CORE-008 on small histories: one that passes, and one for every way to fail."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_lab import History
from stageflow_lab.scenarios.core.core_008_immutability import (
    MUTATORS_MIN,
    SCENARIO,
    SURFACES,
    check,
)
from stageflow_lab.scenarios.core.frozen_routes import READERS
from stageflow_lab.scenarios.core.frozen_sieges import PHASES
from stageflow_lab.scenarios.core.refused_values import BOUNDARIES
from stageflow_lab.verdict import Verdict, rule

RUN = {
    "values": 10,
    "hash_same": True,
    "torn": 0,
    "escapes": 0,
    "reads": 640,
    "attacks": 400,
    "raised": 200,
    "returned": 200,
    "status": "ok",
    "readers": READERS,
    "mutators": MUTATORS_MIN,
    "escaped": [],
    "torn_at": [],
    "seed": 1,
    "turn": 0,
    "why": "",
}
OFFERED = {"refused": True, "located": True, "hinted": True, "readable": True}


def history(
    *, ratio: float = 1.0, live: int = MUTATORS_MIN, offered: Any = None, **changed: Any
) -> History:
    made = History(dict.fromkeys(PHASES, 10))
    for phase in PHASES:
        made.record("run", **{**RUN, "phase": phase, **changed})
    for number in range(MUTATORS_MIN):
        made.record("mutator", name=f"m{number}", changed=int(number < live), of=1)
    for surface in SURFACES:
        made.record("tried", surface=surface, times=1)
    for boundary in BOUNDARIES:
        about = {"boundary": boundary, "value_kind": "socket", "path": "$", "said": "refused"}
        made.record("offered", **{**OFFERED, **about, **(offered or {})})
    for what in ("read dict", "freeze dict", "one key"):
        for _ in range(7):
            made.record("timed", what=what, subject_s=ratio, floor_s=1.0)
    return made


def judged(made: History) -> tuple[Verdict, str]:
    ruling = rule(SCENARIO, check(made), size="full")
    return ruling.verdict, ruling.reason or ""


def test_values_that_nobody_could_change_pass() -> None:
    assert judged(history()) == (Verdict.PASS, "")


@pytest.mark.parametrize(
    ("changed", "metric"),
    [
        ({"hash_same": False}, "hash_unchanged"),
        ({"escapes": 1, "escaped": ["append"]}, "attacks_that_reached_the_snapshot"),
        ({"torn": 1, "torn_at": ["stage"]}, "torn_reads"),
        ({"ratio": 2.5}, "read_cost"),
        ({"ratio": 3.5}, "freeze_cost"),
        ({"offered": {"hinted": False}}, "refusals_that_teach"),
    ],
)
def test_each_violation_fails_its_metric(changed: dict[str, Any], metric: str) -> None:
    verdict, reason = judged(history(**changed))
    assert verdict is Verdict.FAIL
    assert metric in reason


@pytest.mark.parametrize("changed", [{"readers": 63}, {"live": 39}, {"values": 9}])
def test_a_siege_that_was_not_one_decides_nothing(changed: dict[str, Any]) -> None:
    assert judged(history(**changed))[0] is Verdict.UNKNOWN
