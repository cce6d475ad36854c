"""The check of WORK-008 on small histories, the reading of logs, and that its schedules are free
of violations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stageflow_lab import History, World
from stageflow_lab.scenarios.work.limit_facts import Call, Facts, Step, judged
from stageflow_lab.scenarios.work.limit_schedules import followed
from stageflow_lab.scenarios.work.limited_tools import bounds_of
from stageflow_lab.scenarios.work.work_008_limits import SCENARIO, check, ordinary_use
from stageflow_lab.verdict import Verdict, rule

ENGINES = ("sim", "sim shared", "real postgres", "real redis")
BOUNDS = bounds_of(4, 3, 2)


def calls(engine: str, **changed: Any) -> dict[str, Any]:
    """As it should be, when nothing is changed."""
    good = {
        "engine": engine,
        "told": [],
        "cancels": 100,
        "calls": 300,
        "grants": 200,
        "exceeded": 0,
        "overtaken": 0,
        "pairs": 100,
        "full_total": 5,
        "full_tool": 5,
        "full_tenant": 5,
        "leaked": 0,
        "rounds": 10,
        "whole": 10,
        "updates": 200,
        "lost": 0,
        "busy_unit_s": 97.0,
        "idle_unit_s": 3.0,
    }
    return {**good, **changed}


def history(engines: tuple[str, ...] = ENGINES, cancels: int = 100, **changed: Any) -> History:
    made = History({"cancels": cancels})
    back_s, refused = changed.pop("back_s", 2.9), changed.pop("refused", True)
    for engine in engines:
        made.record("calls", **calls(engine, **changed))
    for _ in range(3):
        made.record("crash", store="redis", back_s=back_s, lease_s=3.0, held=0)
    made.record("reentry", depth=1, is_shared=True, refused=refused)
    return made


def verdict_of(made: History) -> tuple[Verdict, str]:
    ruling = rule(SCENARIO, check(made), size="quick")
    return ruling.verdict, ruling.reason or ""


def test_limits_that_hold_pass() -> None:
    assert verdict_of(history()) == (Verdict.PASS, "")


@pytest.mark.parametrize(
    ("wrong", "metric"),
    [
        ({"exceeded": 1}, "limit_exceeded"),
        ({"leaked": 1}, "permits_leaked"),
        ({"overtaken": 1}, "overtaken"),
        ({"whole": 9}, "updates_kept"),
        ({"idle_unit_s": 6.0}, "utilization"),
        ({"back_s": 3.5}, "leases_back"),
        ({"refused": False}, "reentries_refused"),
        ({"broke": 1}, "schedules_broken"),
    ],
)
def test_each_violation_fails_its_metric(wrong: dict[str, Any], metric: str) -> None:
    verdict, reason = verdict_of(history(**wrong))
    assert verdict is Verdict.FAIL and metric in reason


def test_one_store_that_is_idle_is_not_made_up_for_by_the_others() -> None:
    made = history(engines=("sim", "sim shared", "real redis"))
    made.record("calls", **calls("real postgres", idle_unit_s=20.0))
    assert verdict_of(made)[0] is Verdict.FAIL


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (history(engines=ENGINES[:3]), "real redis"),
        (history(cancels=1_000_000), "cancelled"),
        (history(full_tenant=0), "tenant"),
    ],
)
def test_a_load_that_did_not_happen_decides_nothing(made: History, words: str) -> None:
    verdict, reason = verdict_of(made)
    assert verdict is Verdict.UNKNOWN and words in reason


def test_real_processes_that_broke_decide_nothing_and_say_why() -> None:
    made = history()
    made.record("broken", said="Traceback\nConnectionRefusedError: [Errno 111]")
    verdict, reason = verdict_of(made)
    assert verdict is Verdict.UNKNOWN and "ConnectionRefusedError" in reason


# -- logs ----------------------------------------------------------------------------------------


def log(*rows: tuple[float, str, int], **fences: int) -> list[Step]:
    return [Step(at_s, kind, call, fences.get(f"{kind}{call}", 0)) for at_s, kind, call in rows]


def of_search(units: int = 1, tenant: str = "a", line: str = "") -> Call:
    return Call("search", tenant, units, line)


def read(given: dict[int, Call], *steps: Step) -> Facts:
    return judged(BOUNDS, given, steps)


@pytest.mark.parametrize(
    ("given", "is_exceeded"),
    [
        ({1: of_search(2), 2: of_search(1, "b")}, False),
        ({1: of_search(2), 2: of_search(1)}, True),  # a third unit of one tenant
        ({1: of_search(2), 2: of_search(2, "b")}, True),  # a fourth of the tool
        ({1: Call("write", "a", 1), 2: Call("write", "b", 1)}, True),
    ],
)
def test_a_grant_too_many_is_counted(given: dict[int, Call], is_exceeded: bool) -> None:
    steps = log((0, "asks", 1), (0, "asks", 2), (1, "enters", 1), (2, "enters", 2))
    facts = read(given, *steps)
    assert (facts.exceeded == 1, facts.grants) == (is_exceeded, 2)


def test_units_given_on_in_the_same_instant_are_not_counted_twice() -> None:
    given = {1: Call("write", "a", 1), 2: Call("write", "b", 1)}
    steps = log((0, "asks", 1), (0, "enters", 1), (1, "enters", 2), (1, "leaves", 1))
    assert read(given, *steps).exceeded == 0


def test_who_asked_earlier_in_a_class_goes_first() -> None:
    given = {1: of_search(line="x"), 2: of_search(line="x"), 3: of_search(line="y")}
    asks = [(0.0, "asks", 1), (0.1, "asks", 2), (0.2, "asks", 3)]
    right = log(*asks, (1, "enters", 3), (2, "enters", 1), (3, "enters", 2))
    wrong = log(*asks, (2, "enters", 2), (3, "enters", 1))
    by_fence = log(*asks, (2, "enters", 2), (3, "enters", 1), enters1=7, enters2=8)
    assert [read(given, *each).overtaken for each in (right, wrong, by_fence)] == [0, 1, 0]


def test_units_that_nobody_could_have_are_not_idle() -> None:
    given = {1: of_search(2), 2: of_search(1), 3: of_search(1, "b")}
    steps = log((0, "asks", 1), (0, "enters", 1), (0, "asks", 2), (1, "asks", 3), (2, "enters", 3))
    facts = read(given, *steps)
    assert (facts.busy_unit_s, facts.idle_unit_s) == (4.0, 1.0), "of b, for a second"


def test_what_is_kept_for_one_who_asked_earlier_is_idle_too() -> None:
    given = {1: of_search(2), 2: of_search(2, "b"), 3: of_search(1, "c"), 4: Call("write", "c", 1)}
    asks = [(0, "asks", 1), (0, "enters", 1), (0, "asks", 2), (0, "asks", 3)]
    steps = log(*asks, (1, "asks", 4), (2, "enters", 4))
    assert read(given, *steps).idle_unit_s == 3.0, "two of the search, one of the write"


# -- the load ------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_shared", [False, True])
def test_schedules_are_free_of_violations(is_shared: bool) -> None:
    for seed in range(5):
        seen = followed(seed, cancels=4, is_shared=is_shared)
        assert not seen.broke and not seen.facts.exceeded and not seen.facts.overtaken
        assert not seen.leaked and seen.kept == seen.done >= 20


def test_the_ordinary_use_works(tmp_path: Path) -> None:
    ordinary_use(World(seed=1, size={}, scratch=tmp_path))
