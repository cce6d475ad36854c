"""The check of WORK-002 on small histories: one that passes, and one for every way to fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stageflow_lab import History, World
from stageflow_lab.scenarios.work.effect_facts import Facts, Sums
from stageflow_lab.scenarios.work.effect_rounds import COMBINATIONS, Plan, planned
from stageflow_lab.scenarios.work.orders import KINDS, POINTS, Reply, points
from stageflow_lab.scenarios.work.work_002_idempotency import SCENARIO, check, ordinary_use
from stageflow_lab.verdict import Verdict, rule

DONE = Reply("ok", "", "ok", "receipt 1")
UNKNOWN = Reply("failed", "effect.unknown", "unknown", "")
AWAY = Reply("failed", "effect.in_flight", "failed", "")


def key(kind: str, *replies: Reply, **changed: Any) -> Facts:
    """A key as it should be, when nothing is changed."""
    facts = Facts("o1", kind, crashed="after_act", cancelled=1, expired=True)
    for reply in replies or (DONE, DONE):
        facts.add(reply)
    facts.final = (replies or (DONE,))[-1]
    facts.refusals = ["effect.other_parameters"] * 2
    facts.effects = facts.first_effects = 1
    for name, value in changed.items():
        setattr(facts, name, value)
    return facts


def history(*more: Facts, engines: tuple[str, ...] = ("sim", "real sqlite")) -> History:
    made = History({})
    for engine in engines:
        for kind in KINDS:
            sums = Sums(engine, kind)
            for facts in (key(kind), *(each for each in more if each.kind == kind)):
                sums.add(facts)
            if kind == "plain":
                sums.add(key("plain", AWAY, UNKNOWN, effects=0, first_effects=0))
            sums.write(made)
    for fault in POINTS:
        made.fired(fault)
    return made


def judged(made: History) -> tuple[Verdict, str]:
    ruling = rule(SCENARIO, check(made), size="full")
    return ruling.verdict, ruling.reason or ""


def test_one_effect_one_answer_or_unknown_passes() -> None:
    assert judged(history()) == (Verdict.PASS, "")


@pytest.mark.parametrize(
    ("wrong", "metric"),
    [
        (key("plain", effects=2), "effects_per_key"),
        (key("keyed", effects=2, first_effects=2), "applied_once"),
        (key("transactional", effects=0, first_effects=0), "applied_once"),
        (key("reconciled", effects=0, first_effects=0), "applied_once"),
        (key("keyed", DONE, Reply("ok", "", "ok", "receipt 2")), "identical_replies"),
        (key("keyed", refusals=["effect.other_parameters", "ok"]), "mismatched_refused"),
        (key("plain", AWAY, AWAY), "unknown_surfaced"),
        (key("plain", UNKNOWN, AWAY), "unknown_surfaced"),
    ],
)
def test_each_violation_fails_its_metric_and_is_told(wrong: Facts, metric: str) -> None:
    made = history(wrong)
    verdict, reason = judged(made)
    assert verdict is Verdict.FAIL and metric in reason
    assert any(metric in note and "o1" in note for note in check(made).notes)


def test_a_load_without_real_processes_decides_nothing() -> None:
    verdict, reason = judged(history(engines=("sim",)))
    assert verdict is Verdict.UNKNOWN and "real" in reason


def test_real_processes_that_broke_decide_nothing_and_say_why() -> None:
    made = history()
    made.record("broken", said="Traceback\nConnectionRefusedError: [Errno 111]")
    verdict, reason = judged(made)
    assert verdict is Verdict.UNKNOWN and "ConnectionRefusedError" in reason


def test_every_store_and_receiver_is_killed_at_each_of_its_points() -> None:
    plan = Plan(
        seed=1, keys=500, kills=66, processes=4, least=2, most=200, folder="", sabotage=None
    )
    keys = planned(plan)
    for store, kind in COMBINATIONS:
        here = {each.point for each in keys if (each.store, each.kind) == (store, kind)}
        assert here >= set(points(kind))
    assert all(2 <= sum(each.calls) <= 200 for each in keys)
    assert max(sum(each.calls) for each in keys) == 200


def test_the_ordinary_use_works(tmp_path: Path) -> None:
    ordinary_use(World(seed=1, size={}, scratch=tmp_path))
