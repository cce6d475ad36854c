"""The check of DAG-003 on histories made by hand, and scripts that keep their word."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stageflow_lab.history import History
from stageflow_lab.scenarios.dag.dag_003_livelock import SCENARIO, check, load
from stageflow_lab.scenarios.dag.loop_runs import Loops, simulate
from stageflow_lab.scenarios.dag.loop_traces import LIVELOCKS, trace_of
from stageflow_lab.verdict import Verdict, rule
from stageflow_lab.world import World

STOPPED: Mapping[str, Any] = {
    "seed": 1,
    "place": "outer",
    "nested": True,
    "family": "cycle",
    "livelock": True,
    "exact": True,
    "begins": 2,
    "period": 3,
    "bound": 16,
    "made": 7,
    "stalled": "values came again",
    "status": "failed",
    "best": True,
    "whole": True,
}
HONEST: Mapping[str, Any] = {
    **STOPPED,
    "livelock": False,
    "exact": False,
    "stalled": "",
    "status": "ok",
}
MANY = 500


def history(livelock: Mapping[str, Any] = STOPPED, honest: Mapping[str, Any] = HONEST) -> History:
    """Many loops as they should be, and one of each kind as given."""
    made = History({"livelocks": MANY + 1, "benign": MANY + 1})
    for _ in range(MANY):
        made.record("loop", **STOPPED)
        made.record("loop", **HONEST)
    made.record("loop", **livelock)
    made.record("loop", **honest)
    return made


def failed(made: History) -> set[str]:
    """The metrics that decide and do not meet their thresholds."""
    ruling = rule(SCENARIO, check(made), size="quick")
    wrong = {metric.name for metric in ruling.metrics if metric.passed is False and metric.gate}
    assert ruling.verdict is (Verdict.FAIL if wrong else Verdict.PASS), ruling.reason
    return wrong


def test_loops_that_end_as_they_should_pass() -> None:
    assert failed(history()) == set()


@pytest.mark.parametrize(
    ("changes", "metrics"),
    [
        ({"made": 8}, {"exact_latest"}),
        ({"made": 8, "exact": False}, set()),
        ({"made": 16, "stalled": ""}, {"exact_latest"}),
        ({"made": 17, "exact": False}, {"bound_exceeded"}),
        ({"best": False}, {"best_returned"}),
        ({"whole": False}, {"accounts_whole"}),
    ],
)
def test_one_livelock_that_ends_otherwise(changes: dict[str, Any], metrics: set[str]) -> None:
    assert failed(history({**STOPPED, **changes})) == metrics


def test_shares_are_judged_by_their_bounds() -> None:
    made = history()
    for _ in range(5):
        made.record("loop", **{**HONEST, "stalled": "values came again", "status": "failed"})
    assert failed(made) == {"benign_stops"}
    made = history()
    for _ in range(20):
        made.record("loop", **{**STOPPED, "exact": False, "stalled": "", "made": 16})
    assert failed(made) == {"recall"}


def test_a_run_that_broke_gives_nothing_back() -> None:
    made = history()
    made.record("loop", seed=3, family="cycle", broke="SimulationError: stuck")
    assert failed(made) == {"best_returned", "accounts_whole"}


@pytest.mark.parametrize(
    "made",
    [
        History({"livelocks": 1, "benign": 1}),
        history({**STOPPED, "livelock": False}),
    ],
)
def test_what_was_not_played_decides_nothing(made: History) -> None:
    assert rule(SCENARIO, check(made), size="quick").verdict is Verdict.UNKNOWN


def test_scripts_of_livelocks_never_end_and_honest_ones_do() -> None:
    for seed in range(300):
        trace = trace_of(random.Random(seed), livelock=bool(seed % 2))
        if trace.livelock:
            assert len(trace.turns) == trace.bound >= trace.begins + trace.period + 2
        else:
            assert len(trace.turns) < trace.bound
            assert trace.accepted is not None


def test_exact_livelocks_repeat_their_values() -> None:
    for seed in range(50):
        for name in ("constant", "cycle"):
            trace = LIVELOCKS[name](random.Random(seed))
            values = [turn.value for turn in trace.turns[trace.begins :]]
            assert values[: -trace.period] == values[trace.period :]


def test_a_trace_is_the_same_in_every_run() -> None:
    stages = Loops()
    first = [simulate(seed, stages, livelock=True) for seed in range(8)]
    assert [simulate(seed, Loops(), livelock=True) for seed in range(8)] == first


def test_a_small_load_meets_everything(tmp_path: Path) -> None:
    made = load(World(seed=5, size={"livelocks": 30, "benign": 20, "workers": 1}, scratch=tmp_path))
    ruling = check(made)
    assert ruling.unknown is None, ruling.unknown
    assert made.count("loop") > 50, "some are nested"
