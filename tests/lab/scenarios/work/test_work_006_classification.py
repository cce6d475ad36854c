"""The check of WORK-006 on small histories: one that passes, and one for every way to fail."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from stageflow_lab import History, World
from stageflow_lab.scenarios.work.error_cases import Case
from stageflow_lab.scenarios.work.error_mix import WRAPS, cases, templates
from stageflow_lab.scenarios.work.error_runs import tried
from stageflow_lab.scenarios.work.work_006_classification import (
    FAMILIES,
    SCENARIO,
    check,
    ordinary_use,
)
from stageflow_lab.verdict import Verdict, rule


def told(label: str, kind: str, attempts: int, *, known: bool = True) -> dict[str, Any]:
    return {"label": label, "kind": kind, "attempts": attempts, "known": known, "state": ""}


GOOD = (
    told("permanent", "read", 1),
    told("outcome-unknown", "work", 1),
    told("outcome-unknown", "keyed", 3),
    told("transient", "read", 3),
)


def history(
    *,
    right: int = 198,
    families: tuple[str, ...] = FAMILIES,
    runs: tuple[Any, ...] = GOOD,
    cut: int = 50,
) -> History:
    made = History({})
    for family in families:
        tally = {"cases": 200, "right": right, "wrapped": 100}
        made.record("sorted", family=family, unseen=family == "body", cut_off=False, **tally)
    tally = {"cases": 50, "right": cut, "wrapped": 20}
    made.record("sorted", family="driver", unseen=False, cut_off=True, **tally)
    for run in runs:
        made.record("tried", **run)
    made.record("templates", seen=500, unseen=120)
    return made


def verdict(made: History) -> Verdict:
    return rule(SCENARIO, check(made), size="full").verdict


def test_a_good_history_passes() -> None:
    assert verdict(history()) is Verdict.PASS


@pytest.mark.parametrize(
    "made",
    [
        history(right=194),
        history(cut=49),
        history(runs=(*GOOD, told("permanent", "work", 2))),
        history(runs=(*GOOD, told("outcome-unknown", "work", 2))),
    ],
)
def test_each_gate_fails_on_its_own(made: History) -> None:
    assert verdict(made) is Verdict.FAIL


@pytest.mark.parametrize(
    "made",
    [
        history(families=FAMILIES[1:]),
        *(history(runs=GOOD[:at] + GOOD[at + 1 :]) for at in range(len(GOOD))),
    ],
)
def test_what_never_happened_decides_nothing(made: History) -> None:
    assert verdict(made) is Verdict.UNKNOWN


def test_a_repeat_of_what_was_not_known_as_permanent_is_no_repeat_of_a_known_one() -> None:
    again = (*GOOD, told("permanent", "read", 3, known=False))
    assert verdict(history(runs=again)) is Verdict.PASS


def test_every_template_makes_a_new_subject_and_comes_in_every_wrap() -> None:
    for template in templates():
        assert template.make() is not template.make()
    drawn = list(cases(len(templates()) * len(WRAPS), random.Random(1)))
    kinds = {(case.template.family, case.template.name, case.wrap) for case in drawn}
    assert len(kinds) > 0.95 * len(drawn)
    few = [case.template.family for case in cases(len(FAMILIES), random.Random(3))]
    assert sorted(few) == sorted(FAMILIES)


def test_names_of_templates_are_told_apart() -> None:
    names = [(each.family, each.name, each.label, each.sent) for each in templates()]
    twice = {name for name in names if names.count(name) > 1}
    assert len(names) - len(set(names)) < 10, twice


def test_stages_that_raise_cases_are_followed() -> None:
    by_name = {each.name: each for each in templates()}
    refused, cut = by_name["401"], by_name["asyncio timeout"]
    asked = [
        (Case(refused, "raised", refused.make), "read"),
        (Case(cut, "raised", cut.make), "work"),
        (Case(cut, "raised", cut.make), "keyed"),
    ]
    assert [(each.attempts, each.state) for each in tried(asked, 1)] == [
        (1, "failed"),
        (1, "unknown"),
        (3, "failed"),
    ]


def test_ordinary_use_works(tmp_path: Path) -> None:
    ordinary_use(World(seed=1, size={}, scratch=tmp_path))
