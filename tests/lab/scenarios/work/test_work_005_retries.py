"""The check of WORK-005 on small histories: one that passes, and one for every way to fail."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from stageflow.sim import Sim, simulate
from stageflow_lab import History, World
from stageflow_lab.kolmogorov import distance, p_value
from stageflow_lab.scenarios.work.retry_restart import judged
from stageflow_lab.scenarios.work.retry_storm import Story, naive, storm
from stageflow_lab.scenarios.work.work_005_retries import SCENARIO, check, ordinary_use
from stageflow_lab.verdict import Verdict, rule

EVEN = [(number + 0.5) / 200 for number in range(200)]


def history(*, without: str = "", **changed: Any) -> History:
    made = History({})
    seen: dict[str, Any] = {
        "requests": 1_000,
        "attempts": 1_090,
        "all_requests": 2_000,
        "answered": 990,
        "retried": 90,
        "units": EVEN,
        "hopeless": 0,
        "peak": 60,
        "mean": 40.0,
        "finals": {"budget": 900, "deadline": 9, "used up": 90},
        "control_requests": 100,
        "control_attempts": 2_500,
    }
    real = {"planned": 200, "waiting": 200, "lost": 0, "early": 0, "most_late_s": 0.5, "ok": 200}
    if without != "storm":
        made.record("storm", **{name: changed.get(name, value) for name, value in seen.items()})
    if without != "restart":
        made.record("restart", **{name: changed.get(name, value) for name, value in real.items()})
    return made


def verdict(made: History) -> Verdict:
    return rule(SCENARIO, check(made), size="full").verdict


def test_a_good_history_passes() -> None:
    assert verdict(history()) is Verdict.PASS


@pytest.mark.parametrize(
    "changed",
    [
        {"units": [1.0] * 200},
        {"attempts": 1_101},
        {"control_attempts": 900},
        {"peak": 81},
        {"hopeless": 1},
        {"lost": 1},
        {"early": 1},
    ],
)
def test_each_gate_fails_on_its_own(changed: dict[str, Any]) -> None:
    assert verdict(history(**changed)) is Verdict.FAIL


@pytest.mark.parametrize(
    "made",
    [
        history(without="storm"),
        history(without="restart"),
        history(requests=0),
        history(answered=0),
        history(retried=0, units=[]),
        history(finals={}),
        history(waiting=0),
    ],
)
def test_what_never_happened_decides_nothing(made: History) -> None:
    assert verdict(made) is Verdict.UNKNOWN


def test_the_uniform_distribution_is_told_from_others() -> None:
    assert distance(EVEN) == pytest.approx(0.0025)
    assert distance([]) == 0 and p_value([]) == 1.0
    rng = random.Random(4)
    assert p_value([rng.random() for _ in range(2_000)]) > 0.01
    assert p_value([rng.random() ** 1.2 for _ in range(2_000)]) < 0.01
    # Table 1 of the source: 5% of samples are farther off than 1.358 / (sqrt(n) + 0.12 + ...).
    n = 100
    shift = 1.358 / (10 + 0.12 + 0.011) - 0.005
    assert p_value([(at + 0.5) / n * (1 - 2 * shift) for at in range(n)]) < 0.05


def line(kind: str, number: int, wall_s: float, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "number": number, "wall_s": wall_s, **more}


def test_timers_that_come_once_and_after_their_time_are_kept() -> None:
    lines = [line("due", n, 101.0, due_wall_s=105.0) for n in range(5)]
    lines += [line("due", 9, 101.0, due_wall_s=99.0)]  # due before the kill: nothing waited
    lines += [line("attempt", n, 105.2, attempt=2) for n in (0, 1, 1)]
    lines += [line("attempt", 2, 104.0, attempt=2), line("ended", 0, 106.0, status="ok")]
    assert judged(lines, 100.0) == {
        "planned": 6,
        "waiting": 5,
        "lost": 3,
        "early": 1,
        "most_late_s": 0.2,
        "ok": 1,
    }


def test_a_small_outage_is_met_within_the_budget_and_the_control_is_not() -> None:
    async def ours(sim: Sim) -> Story:
        return await storm(sim, 60, 5.0, random.Random(1))

    async def loops(sim: Sim) -> Story:
        return await naive(sim, 60, 5.0, random.Random(1))

    story, control = simulate(ours, seed=1).value, simulate(loops, seed=1).value
    assert story.requests and story.service.attempts <= 1.1 * story.requests + 1
    assert story.service.hopeless == 0 and story.answered
    assert control.service.attempts > 10 * control.requests


def test_ordinary_use_works(tmp_path: Path) -> None:
    ordinary_use(World(seed=1, size={}, scratch=tmp_path))
