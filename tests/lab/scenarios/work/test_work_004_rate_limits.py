"""The check of WORK-004 on small histories, its services, and a simulated minute of it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from stageflow_lab import History, World
from stageflow_lab.scenarios.work.quotas import FORMS, KINDS, Kind, Service
from stageflow_lab.scenarios.work.rated_clients import clients_of
from stageflow_lab.scenarios.work.simulated_rates import simulate
from stageflow_lab.scenarios.work.work_004_rate_limits import SCENARIO, check, ordinary_use
from stageflow_lab.verdict import Verdict, rule


def service(engine: str, kind: Kind, **changed: Any) -> dict[str, Any]:
    """As it should be, when nothing is changed."""
    paced = kind.is_paced
    good: dict[str, Any] = {
        "engine": engine,
        "kind": kind.name,
        "form": kind.form,
        "is_paced": paced,
        "requests": 1_200,
        "early": 0,
        "steady": 1_000 if paced else 0,
        "steady_served": 990 if paced else 0,
        "quota": 1_000.0,
        "refused": 10,
        "refused_once": 3,
        "repeats": 0,
        "client_calls": 1_000,
        "client_sent_late": 0,
        "client_told_late": 0,
        "client_rate.too_late": 20,
        "client_exhausted": 0 if paced else 20,
        "served_by_client": {"c1": 500, "c2": 490},
    }
    return {**good, **changed}


def history(
    wrong: str = "date", engines: tuple[str, ...] = ("sim", "real"), **changed: Any
) -> History:
    made = History({})
    for engine in engines:
        for kind in KINDS:
            is_it = kind.name == wrong and engine == "real"
            made.record("service", **service(engine, kind, **(changed if is_it else {})))
    for name in SCENARIO.faults:
        made.fired(name)
    return made


def verdict_of(made: History) -> tuple[Verdict, str]:
    ruling = rule(SCENARIO, check(made), size="quick")
    return ruling.verdict, ruling.reason or ""


def test_a_pace_that_is_kept_passes() -> None:
    assert verdict_of(history()) == (Verdict.PASS, "")


@pytest.mark.parametrize(
    ("wrong", "changed", "metric"),
    [
        ("date", {"early": 13}, "early"),
        ("huge", {"early": 1_200}, "early"),
        ("seconds", {"steady": 1_100}, "refused_steady"),
        ("window", {"steady": 890, "steady_served": 890}, "throughput"),
        ("date", {"client_sent_late": 1}, "deadlines_kept"),
        ("date", {"client_told_late": 1}, "deadlines_kept"),
        ("headers", {"repeats": 1}, "repeats"),
        ("huge", {"client_exhausted": 19}, "exhausted_told"),
        ("date", {"client_exhausted": 1}, "exhausted_told"),
    ],
)
def test_each_violation_fails_its_metric(wrong: str, changed: dict[str, Any], metric: str) -> None:
    verdict, reason = verdict_of(history(wrong, **changed))
    assert verdict is Verdict.FAIL and metric in reason


def test_a_load_without_real_processes_decides_nothing() -> None:
    verdict, reason = verdict_of(history(engines=("sim",)))
    assert verdict is Verdict.UNKNOWN and "real" in reason


def test_real_processes_that_broke_decide_nothing_and_say_why() -> None:
    made = history()
    made.record("broken", said="Traceback\nConnectionRefusedError: [Errno 111]")
    verdict, reason = verdict_of(made)
    assert verdict is Verdict.UNKNOWN and "ConnectionRefusedError" in reason


def test_without_a_refusal_of_what_must_not_be_repeated_nothing_is_decided() -> None:
    made = History({})
    for engine in ("sim", "real"):
        for kind in KINDS:
            made.record("service", **service(engine, kind, refused_once=0))
    assert check(made).unknown is not None


def one(name: str) -> Service:
    kind = next(each for each in KINDS if each.name == name)
    made = Service(kind, 0.0, 60.0, 0.1, random.Random(1), 1_700_000_000.0)
    made.others.clear()
    return made


def test_a_service_serves_its_quota_and_refuses_what_is_more() -> None:
    bucket, window = one("seconds"), one("window")
    assert [bucket.answer(0.0, "")[0] for _ in range(22)] == [200] * 20 + [429] * 2
    assert [window.answer(0.0, "")[0] for _ in range(102)] == [200] * 100 + [429] * 2
    assert bucket.answer(0.06, "")[0] == 200 and window.answer(5.0, "")[0] == 200


def test_who_comes_before_what_was_told_is_counted_once_all_can_know() -> None:
    bucket = one("seconds")
    for at_s in (*[0.0] * 21, 0.05, 0.5, 1.1):
        bucket.answer(at_s, "")
    assert bucket.counts["early"] == 1, "the one at half a second"


def test_every_form_has_clients_in_every_process() -> None:
    places = {(each.kind.form, each.process) for each in clients_of(50, 4)}
    assert places == {(form, process) for form in FORMS for process in range(4)}


def test_a_simulated_half_minute_keeps_to_the_pace() -> None:
    rows = simulate(1, clients=50, processes=4, seconds=25.0)
    for row in rows:
        assert not row["repeats"] and not row.get("early", 0)
        if row["is_paced"]:
            assert row["steady_served"] >= 0.9 * row["quota"]


def test_the_ordinary_use_works(tmp_path: Path) -> None:
    ordinary_use(World(seed=1, size={}, scratch=tmp_path))
