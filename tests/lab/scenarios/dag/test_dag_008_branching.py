"""The check of DAG-008 on histories made by hand, and the interpreter it relies on."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stageflow_lab.history import History
from stageflow_lab.scenarios.dag.branching_graphs import every_outcome, random_graph
from stageflow_lab.scenarios.dag.branching_interpreter import RAISES, SKIPS, Placed, interpret
from stageflow_lab.scenarios.dag.branching_pipelines import Stages
from stageflow_lab.scenarios.dag.branching_runs import simulate_graph
from stageflow_lab.scenarios.dag.dag_008_branching import SCENARIO, check, load
from stageflow_lab.verdict import Verdict, rule
from stageflow_lab.world import World

GOOD: Mapping[str, Any] = {
    "how": "sim",
    "seed": 1,
    "routing": "n0=left",
    "executed": "n0 n1",
    "must": "n0 n1",
    "may": "n0 n1",
    "late": 0,
    "effects": "n1",
    "told": ("ok", "ok", "skipped branch_not_taken n0", "skipped parent_skipped n2"),
    "true": (
        "ok",
        "ok",
        "skipped branch_not_taken n0",
        "skipped parent_skipped n2|skipped parent_skipped n9",
    ),
    "raised": "n7",
    "reported": "n7",
    "status": "partial",
    "status_expected": "partial",
    "given": "n1()",
    "given_expected": "n1()",
}
OTHER_CAUSES = (
    "skipped own n0|cancelled",
    "skipped parent_failed n0",
    "skipped too_few_values n0",
)


def history(*, without: str = "", plants: int = 1, **changes: Any) -> History:
    """One run with `changes`, and beside it everything else the check wants to have been met."""
    made = History({"planted": 1})
    if without != "sim":
        made.record("run", **{**GOOD, **changes})
    ended = {"status": "failed", "status_expected": "failed"} if without != "ended" else {}
    causes = OTHER_CAUSES if without != "cause" else OTHER_CAUSES[1:]
    rest = {"told": tuple(each.split("|")[0] for each in causes), "true": causes}
    made.record("run", **{**GOOD, **ended, **rest, "how": "real", "seed": 2})
    for branch in ("left", "right"):
        made.record("run", **{**GOOD, "how": "every", "seed": 3, "routing": f"n0={branch}"})
    made.record("exhausted", seed=3, options={"n0": "left right"})
    for _ in range(plants):
        made.record("planted", kind="any", node="n5", said=["graph.unreachable n5"])
    return made


def failed(made: History) -> set[str]:
    """The metrics that do not meet their thresholds; the verdict must be the one they make."""
    ruling = rule(SCENARIO, check(made), size="quick")
    wrong = {metric.name for metric in ruling.metrics if metric.passed is False}
    assert ruling.verdict is (Verdict.FAIL if wrong else Verdict.PASS), ruling.reason
    return wrong


def test_what_the_interpreter_says_passes() -> None:
    assert failed(history()) == set()


@pytest.mark.parametrize(
    ("changes", "metrics"),
    [
        ({"executed": "n0"}, {"executed_equal"}),
        ({"executed": "n0 n1 n2"}, {"executed_equal"}),
        ({"late": 1}, {"executed_equal"}),
        ({"effects": "n1 n2"}, {"unselected_effects"}),
        ({"given": "n1(n0)"}, {"values_equal"}),
        ({"status": "ok"}, {"states_equal"}),
        ({"reported": ""}, {"faults_reported"}),
        ({"told": ("ok", "failed own n1", *GOOD["told"][2:])}, {"states_equal"}),
        ({"told": (*GOOD["told"][:3], "skipped none None")}, {"states_equal", "skips_with_cause"}),
        ({"told": (*GOOD["told"][:3], "ok")}, {"states_equal"}),
    ],
)
def test_a_run_that_differs_fails(changes: dict[str, Any], metrics: set[str]) -> None:
    assert failed(history(**changes)) == metrics


def test_a_run_that_broke_is_equal_to_nothing() -> None:
    made = history()
    made.record("run", how="sim", seed=9, broke="SimulationError: stuck")
    assert failed(made) == {"executed_equal", "states_equal", "values_equal"}


def test_a_graph_that_is_refused_without_cause_is_a_false_report() -> None:
    made = history()
    made.record("run", how="sim", seed=9, refused="BuildError: dead")
    assert failed(made) == {"false_reports"}


def test_an_error_beside_a_planted_one_is_a_false_report() -> None:
    made = history()
    made.record(
        "planted", kind="any", node="n5", said=["graph.unreachable n4", "graph.unreachable n5"]
    )
    assert failed(made) == {"false_reports"}


@pytest.mark.parametrize("said", [[], ["graph.unreachable n4"], ["graph.cycle n5"]])
def test_a_planted_branch_that_is_not_named_is_not_found(said: list[str]) -> None:
    made = history()
    made.record("planted", kind="any", node="n5", said=said)
    assert "dead_found" in failed(made)


@pytest.mark.parametrize(
    "routings", [["n0=left"], ["n0=left", "n0=left", "n0=right"], ["n0=left n1=left", "n0=right"]]
)
def test_outcomes_left_out_or_run_twice_fail(routings: list[str]) -> None:
    made = history()
    for routing in routings:
        made.record("run", **{**GOOD, "how": "every", "seed": 4, "routing": routing})
    made.record("exhausted", seed=4, options={"n0": "left right", "n1": "left right"})
    assert failed(made) == {"outcomes_run"}


@pytest.mark.parametrize(
    ("made", "word"),
    [
        (History({"planted": 1}), "came to its end"),
        (history(without="sim"), "'sim'"),
        (history(plants=0), "planted"),
        (history(without="cause"), "own"),
        (history(without="ended"), "ended a run"),
    ],
)
def test_what_was_never_met_is_unknown(made: History, word: str) -> None:
    ruling = rule(SCENARIO, check(made), size="quick")
    assert ruling.verdict is Verdict.UNKNOWN and word in (ruling.reason or "")


# -- the interpreter ---------------------------------------------------------------------------

GRAPH = (
    Placed(name="way", branches=("left", "right")),
    Placed(name="left", when=("way", "left")),
    Placed(name="right", when=("way", "right")),
    Placed(name="both", may_take=("left", "right")),
    Placed(name="first", join="first_of", of=("left", "right")),
    Placed(name="two", join="n_of", need=2, of=("left", "right")),
    Placed(name="behind", takes=("right",)),
    Placed(name="later", after=("right",)),
)


def accounts(says: Mapping[str, str]) -> dict[str, str]:
    ended = interpret(GRAPH, says)
    return {name: "|".join(sorted(end.accounts)) for name, end in ended.items()}


def test_a_branch_that_is_not_taken_leaves_defaults_joins_and_order_alone() -> None:
    assert accounts({"way": "left"}) == {
        "way": "ok",
        "left": "ok",
        "right": "skipped branch_not_taken way",
        "both": "ok",
        "first": "ok",
        "two": "skipped too_few_values two",
        "behind": "skipped parent_skipped right",
        "later": "ok",
    }
    assert interpret(GRAPH, {"way": "left"})["both"].took == ("left",)


def test_a_failure_passes_defaults_and_order_but_not_joins() -> None:
    assert accounts({"way": "right", "right": RAISES}) == {
        "way": "ok",
        "left": "skipped branch_not_taken way",
        "right": "failed own right",
        "both": "skipped parent_failed right",
        "first": "skipped parent_failed right",
        "two": "skipped parent_failed right",
        "behind": "skipped parent_failed right",
        "later": "skipped parent_failed right",
    }


def test_a_route_that_skips_takes_its_branches_along() -> None:
    said = accounts({"way": SKIPS})
    assert said["way"] == "skipped own way"
    assert said["left"] == said["right"] == "skipped parent_skipped way"
    assert said["both"] == "ok" and said["first"] == "skipped too_few_values first"


def test_every_outcome_is_given_once_and_routes_that_do_not_run_have_none() -> None:
    graph = (
        Placed(name="outer", branches=("a", "b")),
        Placed(name="inner", when=("outer", "a"), branches=("c", "d", "e")),
    )
    options = {"outer": ("a", "b"), "inner": ("c", "d", "e")}
    outcomes = [outcome.says for outcome in every_outcome(graph, options)]
    assert sorted(says["outer"] for says in outcomes) == ["a", "a", "a", "b"]
    assert {says["inner"] for says in outcomes if says["outer"] == "a"} == {"c", "d", "e"}


# -- the load ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_every_stage_of_a_random_graph_runs_for_some_choices(seed: int) -> None:
    graph = random_graph(random.Random(seed), size=12)
    options = {placed.name: placed.branches for placed in graph if placed.branches}
    ran = {
        name
        for outcome in every_outcome(graph, options)
        for name, end in interpret(graph, outcome.says).items()
        if end.executed
    }
    assert ran == {placed.name for placed in graph}


def test_a_seed_gives_the_same_run_again() -> None:
    assert simulate_graph(7, Stages()) == simulate_graph(7, Stages())


def test_a_small_load_passes(tmp_path: Path) -> None:
    sizes = {"graphs": 120, "exhausted": 8, "outcomes_max": 16, "planted": 11, "real": 10}
    world = World(seed=1, size={**sizes, "workers": 1}, scratch=tmp_path)
    assert failed(load(world)) == set()
