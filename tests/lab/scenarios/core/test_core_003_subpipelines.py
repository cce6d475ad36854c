"""The check of CORE-003 on small histories, and the trees that it judges."""

from __future__ import annotations

import random

import pytest

from stageflow_lab import History
from stageflow_lab.scenarios.core import child_defects, simulated_trees
from stageflow_lab.scenarios.core.core_003_subpipelines import SCENARIO, check
from stageflow_lab.scenarios.core.miswired_trees import miswired
from stageflow_lab.scenarios.core.pipeline_trees import (
    DEPTH_MAX,
    Case,
    Fate,
    Tree,
    TreeNode,
    case_of,
)
from stageflow_lab.scenarios.core.tree_log import FAULTS, TAKEN_OVER
from stageflow_lab.scenarios.core.tree_machine import grown
from stageflow_lab.verdict import Ruling, Verdict, rule

SIZES = {"trees": 2, "real_trees": 1}
LINES = (
    "own ok/memory va1 wa1 o+a1 f+a1",
    "own ok/journal xa1 va2 wa2 o+a2 va1 la1 j+a2 ka1",
    "export ok/memory wa1 o^ f^",
    "take export ^",
    "take own +",
)


def history(*lines: str, **facts: int) -> History:
    """A history that passes, of LINES and `lines`; `facts` change what befell simulated trees."""
    sim = {
        "trees": 2,
        "miswired": 4,
        "refused": 4,
        "named": 4,
        f"{DEPTH_MAX} deep": 1,
        **dict.fromkeys(FAULTS, 1),
    }
    made = History(SIZES)
    made.record("befell", where="sim", facts={**sim, **facts})
    made.record("befell", where="real", facts={"trees": 1, TAKEN_OVER: 1})
    for where in ("sim", "real"):
        for line in LINES:
            made.record("line", where=where, line=line, count=3, case="", seed=0)
    for line in lines:
        made.record("line", where="sim", line=line, count=2, case="CASE", seed=8)
    return made


def ruled(made: History) -> Ruling:
    return rule(SCENARIO, check(made), size="quick")


def failed(made: History) -> list[str]:
    ruling = ruled(made)
    assert ruling.verdict is Verdict.FAIL
    return [metric.name for metric in ruling.metrics if metric.passed is False]


def test_a_clean_history_passes() -> None:
    ruling = ruled(history())
    assert ruling.verdict is Verdict.PASS, ruling.reason


@pytest.mark.parametrize(
    ("metric", "line"),
    [
        ("parent_unchanged", "own ok/memory va1 wa1 o!below f+a1"),
        ("amnesia", "own ok/memory va1 wa1 o+a1 f-"),
        ("exports_exact", "export ok/memory wa1 o!below"),
        ("exports_exact", "take own !below"),
        ("late_writes_accepted", "own ok/memory xa1 va1 la1 o+a1"),
        ("late_writes_accepted", "export ok/memory wa1 o~"),
        ("late_writes_kept", "own ok/journal xa1 va1 la1 va2 wa2 j+a2"),
    ],
)
def test_a_wrong_line_fails_its_metric_and_tells_how_to_see_it_again(
    metric: str, line: str
) -> None:
    made = history(line)
    assert failed(made) == [metric]
    assert any(line in note and "'CASE' 8" in note for note in check(made).notes)


@pytest.mark.parametrize(
    ("fact", "metric"), [("refused", "miswirings_refused"), ("named", "miswirings_named")]
)
def test_a_miswiring_that_is_built_or_told_badly_fails(fact: str, metric: str) -> None:
    assert failed(history(**{fact: 3})) == [metric]


def test_a_tree_in_which_the_engine_raised_fails() -> None:
    made = history()
    made.record("broken", where="sim", case="CASE", seed=9, what="AssertionError: a story")
    assert failed(made) == ["broken_trees"]
    assert any("'CASE' 9" in note for note in check(made).notes)


@pytest.mark.parametrize("absent", ["trees", f"{DEPTH_MAX} deep", *FAULTS])
def test_a_load_that_did_not_happen_decides_nothing(absent: str) -> None:
    assert ruled(history(**{absent: 0})).verdict is Verdict.UNKNOWN


def test_an_empty_history_decides_nothing() -> None:
    assert check(History(SIZES)).unknown is not None


def leaf(name: str, *takes: str, fate: Fate = "calm", waits: int = 1) -> TreeNode:
    return TreeNode(name, takes, fate, waits, True, None, "stage", (), 0)


def parent_of(child: Tree, *, patience: int = 0) -> Tree:
    """Parent and child both have stages `a` and `b`; the child's `a` is exported as `c`."""
    place = TreeNode("b", ("a",), "calm", 1, True, child, "stage", (("c", "a"),), patience)
    return Tree((leaf("a", waits=3), place, leaf("d", "c", "a")), ())


TREE = parent_of(Tree((leaf("a"), leaf("b", "a")), ("a", "b")))


def test_a_tree_tells_its_lines_and_reads_back_from_its_text() -> None:
    case = Case(TREE, "none", 1, journalled=True, taken_over=False)
    assert case_of(case.text()) == case
    result = simulated_trees.explored(case, 1)
    assert result.returned is not None and not result.leftover
    lines = result.returned.lines
    assert lines["take export ^"] == 2 and lines["take given +"] + lines["take given ^"] >= 3
    assert not [line for line in lines if "!" in line or "~" in line]
    assert simulated_trees.explored(case, 1).trace_hash == result.trace_hash


@pytest.mark.parametrize(
    ("defect", "found"),
    [("bag_shared_with_child", "!below"), ("exports_by_dictionary_update", "!below")],
)
def test_a_child_that_writes_into_its_parent_is_seen(defect: str, found: str) -> None:
    case = Case(TREE, "none", 1, journalled=False, taken_over=False)
    with child_defects.applied(defect):
        lines = [
            line
            for seed in range(6)
            for line in (simulated_trees.explored(case, seed).returned or _none()).lines
        ]
    assert any(found in line for line in lines)


def _none() -> simulated_trees.Told:
    return simulated_trees.Told()


def test_a_child_that_outlives_the_attempt_that_ran_it_is_refused_and_kept() -> None:
    child = Tree((leaf("a", fate="stubborn"),), ("a",))
    case = Case(parent_of(child, patience=4), "none", 1, journalled=True, taken_over=False)
    told = simulated_trees.explored(case, 2).returned
    assert told is not None
    assert any("la1" in line and "ka1" in line for line in told.lines)


def test_every_miswiring_is_refused_and_names_both_stages() -> None:
    for seed in range(12):
        found = miswired(TREE, random.Random(seed))
        assert found["miswired"] == found["refused"] == found["named"] == 1


def test_equal_seeds_grow_equal_trees_no_two_alike() -> None:
    first = grown(11, 12)
    assert first == grown(11, 12) and len(set(first)) == 12
    assert max(case.tree.depth for case in grown(1, 40)) == DEPTH_MAX
