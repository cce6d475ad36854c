"""The check of DAG-001 on histories made by hand, its plans, and worlds that keep to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from stageflow_lab.history import History
from stageflow_lab.scenarios.dag.dag_001_deadlock import SCENARIO, check
from stageflow_lab.scenarios.dag.deadlock_defects import DEFECTS
from stageflow_lab.scenarios.dag.simulated_waits import simulate
from stageflow_lab.scenarios.dag.static_cycles import build_all
from stageflow_lab.scenarios.dag.wait_facts import facts_of
from stageflow_lab.scenarios.dag.wait_graphs import (
    ESCAPES,
    SAME_RUN,
    Member,
    Plan,
    PlannedWait,
    cycles,
    plan_of,
    stuck,
)
from stageflow_lab.scenarios.dag.wait_worlds import Seen
from stageflow_lab.verdict import Verdict, rule
from stageflow_lab.world import World

FOUND: Mapping[str, Any] = {
    "engine": "sim",
    "seed": 1,
    "hosts": 2,
    "stages": 5,
    "length": 3,
    "planted": True,
    "escape": "",
    "kinds": list(SAME_RUN),
    "shared": 2,
    "mute": False,
    "happened": True,
    "reports": 1,
    "exact": 1,
    "unlike": 0,
    "false": 0,
    "whole": 1,
    "missed": 0,
    "delay": 0.6,
    "others": 4,
    "finished": 4,
}
POOLS_ONLY: Mapping[str, Any] = {**FOUND, "hosts": 1, "mute": True}
QUIET: Mapping[str, Any] = {
    **FOUND,
    "planted": False,
    "reports": 0,
    "exact": 0,
    "whole": 0,
    "delay": 0.0,
    "others": 5,
    "finished": 5,
}
REFUSED: Mapping[str, Any] = {"length": 3, "refused": True, "named": True, "allowed": True}


def history(*more: Mapping[str, Any], static: Mapping[str, Any] = REFUSED) -> History:
    made = History({"sim": 10, "real": 2})
    for engine in ("sim", "real"):
        made.record("world", **{**FOUND, "engine": engine})
    made.record("world", **POOLS_ONLY)
    for escape in ESCAPES:
        made.record("world", **{**QUIET, "escape": escape})
    for world in more:
        made.record("world", **world)
    made.record("static", **static)
    return made


def failed(made: History) -> set[str]:
    """The metrics that decide and do not meet their thresholds."""
    ruling = rule(SCENARIO, check(made), size="quick")
    wrong = {metric.name for metric in ruling.metrics if metric.passed is False and metric.gate}
    assert ruling.verdict is (Verdict.FAIL if wrong else Verdict.PASS), ruling.reason
    return wrong


def test_cycles_that_are_found_and_controls_that_are_quiet_pass() -> None:
    assert failed(history()) == set()


@pytest.mark.parametrize(
    ("changes", "metrics"),
    [
        ({"reports": 0, "exact": 0, "whole": 0, "missed": 1}, {"recall"}),
        ({"missed": 1}, {"recall"}),
        ({"exact": 0, "unlike": 1}, {"sets_equal"}),
        ({"false": 1}, {"false_positives"}),
        ({"delay": 1.01}, {"delay_virtual"}),
        ({"engine": "real", "delay": 2.01}, {"delay_real"}),
        ({"engine": "real", "delay": 1.99}, set()),
        ({"finished": 3}, {"others_finish"}),
        ({"whole": 0}, {"reports_whole"}),
    ],
)
def test_what_goes_wrong_in_one_world(changes: Mapping[str, Any], metrics: set[str]) -> None:
    assert failed(history({**FOUND, **changes})) == metrics


def test_a_false_alarm_in_a_control() -> None:
    alarmed = {**QUIET, "escape": ESCAPES[0], "reports": 1, "false": 1, "whole": 1}
    assert failed(history(alarmed)) == {"false_positives"}


def test_a_world_that_broke_counts_as_missed_and_unfinished() -> None:
    broke = {"engine": "sim", "seed": 3, "planted": True, "broke": "SimulationError: stuck"}
    assert failed(history(broke)) == {"recall", "others_finish"}


@pytest.mark.parametrize(
    ("changes", "metric"),
    [
        ({"refused": False}, "static_refused"),
        ({"named": False}, "static_named"),
        ({"allowed": False}, "static_allowed"),
    ],
)
def test_what_the_build_gets_wrong(changes: Mapping[str, Any], metric: str) -> None:
    judgement = check(history(static={**REFUSED, **changes}))
    ruling = rule(SCENARIO, judgement, size="quick")
    assert metric in {each.name for each in ruling.metrics if not each.passed}


def test_a_load_that_never_happened_decides_nothing() -> None:
    unclosed = history({**FOUND, "happened": False})
    assert rule(SCENARIO, check(unclosed), size="quick").verdict is Verdict.UNKNOWN
    without = History()
    without.record("world", **FOUND)
    assert rule(SCENARIO, check(without), size="quick").verdict is Verdict.UNKNOWN
    broken = history()
    broken.record("broken", said="Traceback\nOSError: no room")
    assert "no room" in (check(broken).unknown or "")


# -- plans ---------------------------------------------------------------------------------------


def test_who_is_stuck_and_who_is_only_behind() -> None:
    graph = {"a": (1, ("b", "free")), "b": (1, ("a",)), "c": (2, ("a", "b"))}
    assert stuck(graph) == set()
    graph["a"] = (2, ("b", "free"))
    assert stuck(graph) == {"a", "b", "c"}
    assert cycles(graph) == [frozenset({"a", "b"})]


@pytest.mark.parametrize("seed", range(200))
def test_a_plan_has_the_cycle_that_it_says(seed: int) -> None:
    plan = plan_of(seed, is_planted=seed % 2 == 0)
    assert 2 <= len(plan.members) <= 52
    assert 2 <= plan.length <= 20
    found = cycles(plan.graph())
    assert len(found) == (1 if plan.closer else 0)
    assert not stuck(plan.graph(without=found[0])) if found else not stuck(plan.graph())


def ring() -> Plan:
    waits = [PlannedWait("all", (1,), 1), PlannedWait("all", (0,), 1)]
    members = [Member(n, 0, wait, 0.5 + n) for n, wait in enumerate(waits)]
    return Plan(7, (0,), tuple(members), 2, "a1", "", frozenset())


def report(*members: str, victim: str) -> dict[str, Any]:
    return {
        "members": {each: [{}, "a message"] for each in members},
        "victim": victim,
        "policy": "x",
    }


def test_facts_of_a_world_that_went_well() -> None:
    seen = Seen(
        {"a0": 0.5, "a1": 1.5}, {"a1": 1.9}, {"a0": "ok"}, [report("a0", "a1", victim="a1")]
    )
    facts = facts_of(ring(), [seen], engine="sim", scan_s=1.0)
    assert facts["exact"] == facts["whole"] == facts["finished"] == facts["others"] == 1
    assert facts["delay"] == pytest.approx(0.4)
    assert facts["missed"] == facts["false"] == facts["unlike"] == 0


def test_facts_of_a_world_that_went_wrong() -> None:
    waits_s = {"a0": 0.5, "a1": 1.5}
    missed = facts_of(ring(), [Seen(waits_s)], engine="sim", scan_s=1.0)
    assert missed["missed"] == 1
    more = Seen(waits_s, {"a1": 1.9}, {}, [report("a0", "a1", "a2", victim="a1")])
    assert facts_of(ring(), [more], engine="sim", scan_s=1.0)["unlike"] == 1
    untold = Seen(waits_s, {"a1": 1.9}, {}, [])
    assert facts_of(ring(), [untold], engine="sim", scan_s=1.0)["false"] == 1
    twice = Seen(
        waits_s,
        {"a1": 1.9, "a0": 2.0},
        {},
        [report("a0", "a1", victim="a1"), report("a0", "a1", victim="a0")],
    )
    facts = facts_of(ring(), [twice], engine="sim", scan_s=1.0)
    assert (facts["exact"], facts["false"]) == (1, 1)


# -- worlds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_a_simulated_world_keeps_to_its_plan(seed: int) -> None:
    facts = simulate(seed, is_planted=seed % 2 == 0)
    assert "broke" not in facts
    assert facts["missed"] == facts["false"] == facts["unlike"] == 0
    assert facts["exact"] == facts["whole"] == facts["reports"]
    assert facts["finished"] == facts["others"]
    assert facts["delay"] <= 1.0
    assert simulate(seed, is_planted=seed % 2 == 0) == facts


def test_static_cycles_are_refused(tmp_path: Any) -> None:
    made = History()
    build_all(World(seed=1, size={"static": 20}, scratch=tmp_path), made)
    assert all(
        event.data["refused"] and event.data["named"] and event.data["allowed"]
        for event in made.of("static")
    )


def test_the_catalogues_defects_are_there() -> None:
    assert {"or_taken_for_and", "child_without_parent"} <= {each.name for each in DEFECTS}


@pytest.mark.parametrize(
    "seed",
    [1530884844372660239, 4256631507677138191, 6980900588530155745, 5607675677770626683],
)
def test_a_wait_that_goes_on_once_another_cycle_is_broken_is_not_ended(seed: int) -> None:
    """The last who could have sent ends in silence: several cycles are there at one moment."""
    facts = simulate(seed, is_planted=True)
    assert (facts["false"], facts["missed"], facts["finished"]) == (0, 0, facts["others"])
    assert facts["reports"] == facts["exact"] > 1
