"""The check of WORK-003 on small histories: one that passes, and one for every way to fail."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stageflow_lab import History, World
from stageflow_lab.scenarios.work.engine_sums import EngineSums
from stageflow_lab.scenarios.work.saga_books import Followed, MemoryBooks, Post, judged
from stageflow_lab.scenarios.work.saga_facts import facts_of
from stageflow_lab.scenarios.work.saga_pipelines import pipelines_of
from stageflow_lab.scenarios.work.saga_rounds import sagas_of
from stageflow_lab.scenarios.work.saga_specs import (
    LONG_MAX,
    SHORT,
    Death,
    Group,
    Leg,
    Saga,
    accounts_of,
    deaths_of,
    later_than,
    long,
    short,
)
from stageflow_lab.scenarios.work.work_003_sagas import SCENARIO, check, ordinary_use
from stageflow_lab.verdict import Verdict, rule

ONE, TWO, THREE = (
    Leg("s0", (), "0.0", -5, "keyed"),
    Leg("s1", ("s0",), "0.1", 3, "asked"),
    Leg("s2", (), "0.2", 2, "plain"),
)
SAGA = Saga("x", 0, (ONE, TWO, THREE), (), "short")
NESTED = replace(SAGA, parts=(ONE, Group("g1", ("s0",), (replace(TWO, after=()),)), THREE))
READS = {"raw": 9, "raw_dirty": 4, "clean": 7, "dirty": 0}


def told(*posts: str) -> list[Post]:
    """Posts of SAGA; "-s1" takes s1 back."""
    return [
        Post(number, "x", post.removeprefix("-"), post.startswith("-"), f"k{number}")
        for number, post in enumerate(posts, 1)
    ]


DONE = told("s0", "s1", "s2")
UNDONE = told("s0", "s1", "s2", "-s2", "-s1", "-s0")


def followed(status: str, saga: Saga = SAGA, **changed: Any) -> Followed:
    made = Followed(saga, status, "error:Refused" if status == "failed" else "")
    for name, value in changed.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("status", "posts", "end"),
    [
        ("ok", DONE, "done"),
        ("ok", told("s0", "s1", "-s1", "s2", "s1"), "done"),  # a child ran anew
        ("failed", UNDONE, "undone"),
        ("cancelled", told(), "undone"),
        ("blocked", told("s0", "-s0"), "undone"),
    ],
)
def test_legal_ends(status: str, posts: list[Post], end: str) -> None:
    seen = judged(followed(status), posts)
    assert (seen.end, seen.is_legal, seen.net_cents) == (end, True, 0)
    assert seen.owed == seen.right


@pytest.mark.parametrize(
    ("made", "posts"),
    [
        (followed("ok"), told("s0", "s1")),
        (followed("ok"), UNDONE),
        (followed("ok"), told("s0", "s1", "s1", "s2")),
        (followed("failed"), DONE),
        (followed("failed"), UNDONE[:-1]),
        (followed("suspended", reason="undo_stuck:s1.undo"), UNDONE[:-1]),
        (followed("failed", dishonest=["undo_stuck:s1"]), UNDONE),
        (followed("partial"), DONE),
    ],
)
def test_illegal_ends(made: Followed, posts: list[Post]) -> None:
    assert not judged(made, posts).is_legal


@pytest.mark.parametrize(
    "posts",
    [
        told("s0", "s1", "s2", "-s2", "-s0", "-s1"),  # s0 before s1, which came after it
        told("s0", "s1", "s2", "-s2", "-s1", "-s1", "-s0"),
        told("s0", "s1", "s2", "-s2", "-s1"),
    ],
)
@pytest.mark.parametrize("saga", [SAGA, NESTED])
def test_compensations_that_are_not_right(posts: list[Post], saga: Saga) -> None:
    seen = judged(followed("failed", saga), posts)
    assert seen.owed == 3 and seen.right == 2


def history(
    made: Followed | None = None,
    posts: list[Post] | None = None,
    *,
    reads: dict[str, int] | None = None,
    engines: tuple[str, ...] = ("sim", "real"),
    has: tuple[str, ...] = ("ok", "failed", "stuck"),
) -> History:
    history = History({})
    for engine in engines:
        sums = EngineSums(engine, kind="sagas", deaths=("record", "unsent", "sent"))
        listed: list[tuple[Followed, list[Post]]] = [
            (followed("ok", NESTED), DONE),
            (followed("failed", died=["sent"]), UNDONE),
            (followed("failed", stuck=["undo_stuck:s2.undo"]), UNDONE),
        ]
        kept = [
            each
            for word, each in zip(("ok", "failed", "stuck"), listed, strict=True)
            if word in has
        ]
        if made is not None:
            kept.append((made, DONE if posts is None else posts))
        for each, its in kept:
            sums.add(facts_of([each], its, MemoryBooks(), READS if reads is None else reads))
        sums.write(history)
    for point in ("record", "unsent", "sent"):
        history.fired(f"died_{point}")
    return history


def ruled(made: History) -> tuple[Verdict, str]:
    ruling = rule(SCENARIO, check(made), size="full")
    return ruling.verdict, ruling.reason or ""


def test_done_undone_and_settled_passes() -> None:
    assert ruled(history()) == (Verdict.PASS, "")


@pytest.mark.parametrize(
    ("wrong", "metric"),
    [
        (history(followed("failed"), DONE), "illegal_ends"),
        (history(followed("failed"), UNDONE[:-1]), "conservation_violated"),
        (history(followed("failed"), told("s0", "s1", "-s0", "-s1")), "compensated_once_in_order"),
        (history(reads={**READS, "dirty": 1}), "dirty_reads"),
    ],
)
def test_what_is_wrong_fails_on_its_metric(wrong: History, metric: str) -> None:
    verdict, reason = ruled(wrong)
    assert verdict is Verdict.FAIL and metric in reason


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        (history(engines=("sim",)), "no sagas were followed: real"),
        (history(has=("ok", "stuck")), ""),
        (history(has=("failed", "stuck")), "no saga ended well"),
        (history(has=("ok", "failed")), "no saga was stuck"),
        (history(reads={**READS, "raw_dirty": 0}), "nobody could have read anything dirty"),
        (history(reads={**READS, "clean": 0}), "nobody read"),
    ],
)
def test_what_never_happened_decides_nothing(lacking: History, said: str) -> None:
    assert check(lacking).unknown == (said or None)


def test_processes_that_broke_decide_nothing() -> None:
    made = history()
    made.record("broken", said="Traceback\nValueError: x")
    assert "ValueError: x" in (check(made).unknown or "")


def test_the_short_sagas_hold_every_failure_at_every_crash_point() -> None:
    assert len(SHORT) == len(set(SHORT)) > 20_000
    assert {case[4] for case in SHORT if case[0] == 6} == set(deaths_of(6))
    seen = {short(number, random.Random(0), name="x", branch=0).deaths for number in range(2_000)}
    assert len(seen) == len(deaths_of(6))


@pytest.mark.parametrize("seed", range(20))
def test_sagas_add_up_and_build(seed: int) -> None:
    rng = random.Random(seed)
    for saga in (long(rng, name="x", branch=3), short(seed, rng, name="y", branch=3)):
        legs = saga.legs()
        assert sum(leg.cents for leg in legs) == 0 and len(legs) <= LONG_MAX
        assert {leg.account for leg in legs} <= set(accounts_of(3))
        made = next(iter(pipelines_of(saga).values()))
        steps = {leg.name for leg in saga.parts if isinstance(leg, Leg) and leg.role == "step"}
        assert {f"{name}.undo" for name in steps} <= made.plan.index.keys()


def test_what_is_later_is_found_through_groups() -> None:
    assert later_than(NESTED.parts) == {"s0": {"s1"}, "s1": set(), "s2": set()}


def test_real_branches_die_at_other_points_each() -> None:
    found = [sagas_of(number, 1)[0].deaths[0] for number in range(40)]
    assert {death.point for death in found} == {"record", "unsent", "sent"}
    assert all(isinstance(death, Death) for death in found) and len(set(found)) > 15


def test_the_ordinary_use_is_an_ordinary_use(tmp_path: Path) -> None:
    ordinary_use(World(seed=1, size={}, scratch=tmp_path))
