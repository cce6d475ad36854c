"""The check of WORK-007 on small histories, one per verdict."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_lab import History
from stageflow_lab.coverage import Coverage
from stageflow_lab.scenarios.work.timeout_rounds import KINDS, ROUND
from stageflow_lab.scenarios.work.timeout_tools import LOOP_TOOLS
from stageflow_lab.scenarios.work.work_007_timeouts import SCENARIO, check
from stageflow_lab.verdict import Verdict, rule

CALL: dict[str, Any] = {
    "took_s": 2.0,
    "limit_s": 2.0,
    "is_cleaned": True,
    "produced": 5,
    "kept": 5,
    "is_fine": False,
    "is_ok": False,
    "over_budget": 0,
    "budgets": 2,
    "started": 3,
    "survived": 0,
    "told": "failed timeout",
}
REFUSED = ["timeout", "timeout", "stage.threads_stuck", "stage.threads_stuck"]


def calls(**changed: Any) -> list[dict[str, Any]]:
    """Of one round; the first one is changed, and the second gives signs of life."""
    made = [{"kind": kind, **CALL} for kind in KINDS]
    made[1].update(is_fine=True, is_ok=True)
    made[0].update(changed)
    return made


def history(
    sim: dict[str, Any] | None = None,
    real: dict[str, Any] | None = None,
    *,
    reasons: list[str] | None = None,
) -> History:
    made = History({})
    for engine, changed in (("sim", sim), ("real", real)):
        made.record("round", engine=engine, calls=calls(**(changed or {})))
    made.record("stuck", reasons=REFUSED if reasons is None else reasons)
    for kind in KINDS:
        made.fired(kind)
    return made


def judged(made: History) -> tuple[Verdict, str]:
    coverage = Coverage.of(made, dict.fromkeys(SCENARIO.marks, 1))
    ruling = rule(SCENARIO, check(made), size="full", coverage=coverage)
    return ruling.verdict, ruling.reason or ""


def test_all_as_it_should_be_passes() -> None:
    assert judged(history()) == (Verdict.PASS, "")


@pytest.mark.parametrize(
    ("changed", "metric"),
    [
        ({"sim": {"took_s": 2.001}}, "late_virtual"),
        ({"real": {"took_s": 2.3}}, "real_p99"),
        ({"real": {"is_cleaned": False}}, "cleanups"),
        ({"sim": {"is_cleaned": False}}, "cleanups"),
        ({"real": {"survived": 1}}, "surviving_processes"),
        ({"sim": {"kept": 4}}, "chunks_kept"),
        ({"sim": {"is_fine": True}}, "heartbeat_killed"),
        ({"sim": {"over_budget": 1}}, "budgets_exceeded"),
        ({"sim": {"is_ok": True}}, "ended_ok"),
        ({"reasons": ["timeout"] * 4}, "stuck_refused"),
    ],
)
def test_each_violation_fails_its_metric(changed: Any, metric: str) -> None:
    verdict, reason = judged(history(**changed))
    assert verdict is Verdict.FAIL and metric in reason


def test_a_round_that_broke_fails() -> None:
    made = history()
    made.record("broken", engine="sim", told="SimulationError: stuck")
    assert judged(made)[0] is Verdict.FAIL


@pytest.mark.parametrize("nothing", ["calls", "processes", "chunks"])
def test_a_load_that_never_happened_decides_nothing(nothing: str) -> None:
    made = History({})
    for engine in ("sim", "real"):
        of_round = [] if nothing == "calls" else calls()
        for call in of_round:
            call.update({"started": 0} if nothing == "processes" else {})
            call.update({"produced": 0, "kept": 0} if nothing == "chunks" else {})
        made.record("round", engine=engine, calls=of_round)
    for kind in KINDS:
        made.fired(kind)
    assert judged(made)[0] is Verdict.UNKNOWN


def test_there_are_thirty_kinds_and_a_round_has_each() -> None:
    assert len(KINDS) == ROUND == 30
    assert set(LOOP_TOOLS) < set(KINDS)
