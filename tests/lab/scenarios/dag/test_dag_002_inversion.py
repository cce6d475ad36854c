"""The check of DAG-002 on histories made by hand; bounds and facts of small sets, worked out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from stageflow_lab.history import History
from stageflow_lab.scenarios.dag.blocking_bounds import request_bounds_ticks, stage_bounds_ticks
from stageflow_lab.scenarios.dag.dag_002_inversion import SCENARIO, check, load
from stageflow_lab.scenarios.dag.inversion_facts import Held, facts_of
from stageflow_lab.scenarios.dag.inversion_runs import Asked, run
from stageflow_lab.scenarios.dag.real_inversions import SECTION_S
from stageflow_lab.scenarios.dag.task_sets import (
    EXECUTOR,
    Section,
    Slice,
    Task,
    TaskSet,
    pathfinder_set,
    random_set,
    sections,
)
from stageflow_lab.verdict import Verdict, rule
from stageflow_lab.world import World

SIZES = {"random": 1, "pathfinder": 1, "real": 4, "stages_max": 40, "pools_max": 6}
ASKED = {
    kind: Asked(kind, 7, stages_max=SIZES["stages_max"], pools_max=SIZES["pools_max"])
    for kind in ("random", "pathfinder")
}


def facts(kind: str, *, over: int = -1, inherits: bool = True, **changes: Any) -> dict[str, Any]:
    """A set whose waits all reach their bounds, the first request's with `over` ticks added."""
    tasks = ASKED[kind].tasks()
    waits = request_bounds_ticks(tasks)
    waits[0] += max(0, over)
    return {
        "kind": kind,
        "seed": 7,
        "inherits": inherits,
        "waits": waits,
        "stage_waits": {**stage_bounds_ticks(tasks), tasks.tasks[0].name: sum(waits)},
        "inversions": 1,
        "boosts_tried": 2,
        "boosts_kept": 0,
        "long_waits": max(0, over),
        "was_told": over > 0,
        "long_told": over > 0,
        "unended": 0,
        **changes,
    }


def history(
    *sets: Mapping[str, Any], bare: int = 1, waits_s: Sequence[float | None] = (SECTION_S,) * 4
) -> History:
    """Sets as they should be, some more as given, and `bare` of five that show the load is hard."""
    made = History(SIZES)
    for each in (facts("random"), facts("pathfinder"), *sets):
        made.record("set", **each)
    for number in range(5):
        hard = number < 4 + bare
        made.record("set", **facts("pathfinder", over=1 if hard else -1, inherits=False))
    for number, wait_s in enumerate(waits_s):
        made.record("real", seed=number, wait_s=wait_s)
    return made


def failed(made: History) -> set[str]:
    """The metrics that decide and do not meet their thresholds."""
    ruling = rule(SCENARIO, check(made), size="quick")
    wrong = {metric.name for metric in ruling.metrics if metric.passed is False and metric.gate}
    assert ruling.verdict is (Verdict.FAIL if wrong else Verdict.PASS), ruling.reason
    return wrong


def test_waits_up_to_their_bounds_pass() -> None:
    assert failed(history()) == set()
    assert failed(history(bare=0)) == set(), "four of five are enough"


@pytest.mark.parametrize("kind", ["random", "pathfinder"])
def test_one_tick_above_the_bound_fails(kind: str) -> None:
    assert failed(history(facts(kind, over=1))) == {"bound_violations"}


def test_so_does_a_stage_that_is_not_the_highest() -> None:
    tasks = ASKED["random"].tasks()
    bounds = stage_bounds_ticks(tasks)
    name = tasks.tasks[-1].name
    more = {**facts("random")["stage_waits"], name: bounds[name] + 1}
    assert failed(history(facts("random", stage_waits=more))) == {"bound_violations"}


@pytest.mark.parametrize(
    ("changes", "metrics"),
    [
        ({"boosts_kept": 1}, {"boosts_restored"}),
        ({"long_waits": 1, "was_told": False}, {"chains_told"}),
        ({"long_waits": 1, "was_told": True}, {"chains_told"}),
        ({"was_told": True}, {"chains_told"}),
        ({"unended": 1}, {"sets_ended"}),
        ({"broke": "SimulationError: endless"}, {"sets_ended"}),
    ],
)
def test_one_set_that_went_otherwise(changes: dict[str, Any], metrics: set[str]) -> None:
    assert failed(history(facts("random", **changes))) == metrics


def test_a_load_that_is_not_hard_fails() -> None:
    assert failed(history(bare=-1)) == {"hard_without"}


def test_the_longest_real_wait_of_few_is_their_p99() -> None:
    assert failed(history(waits_s=[SECTION_S] * 3 + [1.51 * SECTION_S])) == {"real_p99"}
    assert failed(history(waits_s=[SECTION_S] * 3 + [1.49 * SECTION_S])) == set()


@pytest.mark.parametrize(
    "made",
    [
        history(waits_s=[SECTION_S] * 3 + [None]),
        history(waits_s=[SECTION_S] * 3),
    ],
)
def test_without_all_real_waits_nothing_is_known(made: History) -> None:
    assert rule(SCENARIO, check(made), size="quick").verdict is Verdict.UNKNOWN


def test_without_an_inversion_nothing_is_known() -> None:
    made = History(SIZES)
    for kind in ("random", "pathfinder"):
        made.record("set", **facts(kind, inversions=0))
    made.record("set", **facts("pathfinder", over=1, inherits=False))
    for number in range(4):
        made.record("real", seed=number, wait_s=SECTION_S)
    assert rule(SCENARIO, check(made), size="quick").verdict is Verdict.UNKNOWN


# -- bounds --------------------------------------------------------------------------------------


def task(name: str, priority: int, *body: Any) -> Task:
    return Task(name, priority, 0, body)


def test_the_bounds_of_a_chain_of_two_by_hand() -> None:
    """high wants a; low1 holds a and wants b; low2 holds b; medium's longest slice is 6."""
    tasks = TaskSet(
        {"a": 1, "b": 1, EXECUTOR: 1},
        (
            task("high", 9, Section("a", 1, (Slice(1),))),
            task("low1", 0, Section("a", 1, (Slice(2), Section("b", 1, (Slice(3),))))),
            task("low2", 0, Section("b", 1, (Slice(4), Slice(5, in_executor=False)))),
            task("medium", 5, Slice(6)),
        ),
        as_runs=True,
    )
    of_b = max(3 + 6, 4 + 6 + 5)  # each slice in the executor may wait for medium's
    assert request_bounds_ticks(tasks) == [2 + 6 + of_b + 3 + 6, 6]
    # Below medium there are slices of 4 at most; high comes in between with all that is hers.
    assert stage_bounds_ticks(tasks)["medium"] == 4 + (1 + 4 + 2 + 4 + (4 + 4 + 5) + 3 + 4)


def test_a_pool_of_two_units_has_two_holders() -> None:
    tasks = TaskSet(
        {"a": 2, EXECUTOR: 1},
        (
            task("high", 9, Section("a", 2, (Slice(1, in_executor=False),))),
            *(
                task(f"low{n}", 0, Section("a", 1, (Slice(n, in_executor=False),)))
                for n in (1, 2, 3)
            ),
        ),
        as_runs=True,
    )
    assert request_bounds_ticks(tasks) == [3 + 2]


@pytest.mark.parametrize("seed", range(30))
def test_generated_sets_nest_in_one_order_and_keep_their_sizes(seed: int) -> None:
    for tasks in (
        random_set(seed, stages_max=40, pools_max=6),
        pathfinder_set(seed, stages_max=40),
    ):
        assert 3 <= len(tasks.tasks) <= 40
        assert 1 <= len(tasks.pools) - 1 <= 6
        order = list(tasks.pools)
        for each in tasks.tasks:
            assert each.priority < tasks.tasks[0].priority or each is tasks.tasks[0]
            for section in sections(each.body):
                assert 1 <= section.units <= tasks.pools[section.pool]
                for inner in sections(section.body):
                    assert order.index(inner.pool) > order.index(section.pool)


# -- facts ---------------------------------------------------------------------------------------


def held(name: str, priority: int, pool: str, asked: int, granted: int, released: int) -> Held:
    return Held(name, priority, pool, 1, asked, granted, released)


FACTS_OF = TaskSet(
    {"a": 1, EXECUTOR: 1},
    tuple(task(name, 0) for name in ("high", "low", "first", "m")),
    as_runs=True,
)
BOOSTED = [
    held("low", 0, "a", 0, 0, 10),
    held("high", 9, "a", 5, 10, 12),
    held("first", 5, EXECUTOR, 0, 0, 20),
]


@pytest.mark.parametrize(
    ("later", "found"),
    [
        ([held("low", 0, EXECUTOR, 10, 25, 26), held("m", 5, EXECUTOR, 15, 20, 25)], (1, 0)),
        ([held("low", 0, EXECUTOR, 10, 20, 25), held("m", 5, EXECUTOR, 15, 25, 26)], (1, 1)),
        ([held("low", 0, EXECUTOR, 10, 20, 25), held("m", 0, EXECUTOR, 5, 25, 26)], (0, 0)),
        ([held("low", 0, EXECUTOR, 21, 21, 25)], (0, 0)),
        ([], (0, 0)),
    ],
)
def test_a_boost_was_kept_when_somebody_more_urgent_was_passed(
    later: list[Held], found: tuple[int, int]
) -> None:
    made = facts_of(FACTS_OF, [*BOOSTED, *later], bounds_ticks=[9], slack_ticks=0.5, told={})
    assert (made["boosts_tried"], made["boosts_kept"]) == found
    assert made["inversions"] == 1
    assert made["waits"] == [5]


@pytest.mark.parametrize(
    ("told", "is_told"),
    [
        ({"high": ["low", "first"]}, True),
        ({"high": ["low"]}, False),
        ({}, False),
    ],
)
def test_a_long_wait_is_told_with_all_on_whom_it_depends(
    told: dict[str, list[str]], is_told: bool
) -> None:
    """low holds a, and waits for the slot that another has at the end of high's bound."""
    times = [
        held("low", 0, "a", 0, 0, 30),
        held("high", 9, "a", 5, 30, 32),
        held("first", 5, EXECUTOR, 0, 0, 20),
        held("low", 0, EXECUTOR, 3, 20, 25),
    ]
    made = facts_of(FACTS_OF, times, bounds_ticks=[8], slack_ticks=0.5, told=told)
    assert (made["long_waits"], made["long_told"]) == (1, is_told)


def test_one_set_runs_alike_twice() -> None:
    assert run(ASKED["pathfinder"]) == run(ASKED["pathfinder"])


def test_a_small_load_passes(tmp_path: Path) -> None:
    size = {**SIZES, "random": 4, "pathfinder": 5, "real": 2, "workers": 1, "lanes": 2}
    made = load(World(seed=1, size=size, scratch=tmp_path))
    assert made.count("set") == 14
    assert made.count("real") == 2
    judged = check(made)
    assert judged.unknown is None
    assert judged.metrics["bound_violations"].value == 0  # type: ignore[union-attr]
