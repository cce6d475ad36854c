"""Who is served next: classes, age, and the shares of tenants, against what their sources say."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import pytest

from stageflow.scheduler import RankedLine
from stageflow.scheduler.line import SERVED_MAX, Rank, urgency


@dataclass(frozen=True, eq=False)
class Ask:
    name: str
    units: int = 1


def rank(
    number: int, *, priority: int = 0, asked_s: float = 0.0, aging_s: float = math.inf
) -> Rank:
    return Rank(urgency(priority, asked_s, aging_s), number, 0, priority)


def served(line: RankedLine[Ask]) -> list[str]:
    """Serves everybody; in which order."""
    names = []
    while (first := line.first()) is not None:
        line.take(first)
        names.append(first.name)
    return names


def test_higher_priorities_go_first_and_equal_ones_in_the_order_of_asking() -> None:
    line: RankedLine[Ask] = RankedLine()
    for number, priority in enumerate([0, 5, 5, -1, 0, 9]):
        line.put(Ask(f"{priority}/{number}"), {"t": rank(number, priority=priority)})
    assert [ask.name for ask in line] == ["9/5", "5/1", "5/2", "0/0", "0/4", "-1/3"]
    assert served(line) == ["9/5", "5/1", "5/2", "0/0", "0/4", "-1/3"]
    assert len(line) == 0
    assert line.first() is None


def test_who_gets_other_ranks_moves() -> None:
    line: RankedLine[Ask] = RankedLine()
    low, high = Ask("low"), Ask("high")
    own = rank(1)
    line.put(low, {"t": own})
    line.put(high, {"t": rank(2, priority=5)})
    assert line.move(low, {"t": rank(3, priority=9)})
    assert line.first() is low
    assert line.move(low, {"t": own})
    assert line.first() is high
    assert not line.move(low, {"t": own}), "nothing has changed"
    line.drop(high)
    assert served(line) == ["low"]
    assert not line.move(low, {"t": own}), "it waits no more"


@pytest.mark.parametrize("seed", range(50))
def test_nobody_is_passed_by_what_is_asked_later_than_its_bound(seed: int) -> None:
    """A class is worth aging_s: of two requests, the one of the higher class goes first exactly
    when it came no later than that many seconds per class after the other."""
    rng = random.Random(seed)
    aging_s = rng.choice([0.5, 2.0, 10.0])
    line: RankedLine[Ask] = RankedLine()
    asked: dict[str, tuple[int, float]] = {}
    at = 0.0
    for number in range(60):
        at += rng.expovariate(1.0)
        priority = rng.randint(0, 9)
        asked[str(number)] = priority, at
        line.put(
            Ask(str(number)), {"t": rank(number, priority=priority, asked_s=at, aging_s=aging_s)}
        )
    order = served(line)
    for place, name in enumerate(order):
        priority, at = asked[name]
        for later in order[place + 1 :]:
            p, t = asked[later]
            assert at <= t + (priority - p) * aging_s + 1e-9


@pytest.mark.parametrize("seed", range(30))
def test_tenants_that_wait_are_served_by_their_weights_within_the_published_bound(
    seed: int,
) -> None:
    """For two backlogged tenants f and m, service over any interval differs by no more than
    l_f / w_f + l_m / w_m, with the largest request of each (Goyal, Vin, Cheng 1996, theorem 1)."""
    rng = random.Random(seed)
    weights = {f"t{n}": rng.choice([1.0, 2.0, 3.5]) for n in range(3)}
    line: RankedLine[Ask] = RankedLine(weights)
    whose: dict[Ask, str] = {}
    number = 0
    for _ in range(400):
        for tenant in weights:
            number += 1
            ask = Ask(tenant, rng.randint(1, 4))
            whose[ask] = tenant
            line.put(ask, {tenant: rank(number, priority=rng.randint(0, 3))})
    work = dict.fromkeys(weights, 0.0)
    seen: list[dict[str, float]] = [dict(work)]
    for _ in range(300):  # all have something left
        first = line.first()
        assert first is not None
        line.take(first)
        work[whose[first]] += first.units / weights[whose[first]]
        seen.append(dict(work))
    for f in weights:
        for m in weights:
            gaps = [at[f] - at[m] for at in seen]
            widest = max(
                gaps[j] - gaps[i] for i in range(0, len(gaps), 7) for j in range(i, len(gaps), 5)
            )
            assert widest <= 4 / weights[f] + 4 / weights[m] + 1e-9


def test_a_tenant_that_was_away_saves_up_no_turns() -> None:
    line: RankedLine[Ask] = RankedLine()
    for number in range(100):
        line.put(Ask("busy"), {"busy": rank(number)})
        first = line.first()
        assert first is not None
        line.take(first)
    for number in range(100, 110):
        line.put(Ask("busy"), {"busy": rank(number)})
        line.put(Ask("back"), {"back": rank(200 + number)})
    order = served(line)
    assert max(order[:10].count(name) for name in ("busy", "back")) <= 6


def test_priorities_buy_no_other_tenants_turns() -> None:
    line: RankedLine[Ask] = RankedLine()
    for number in range(10):
        line.put(Ask("loud"), {"loud": rank(number, priority=1_000)})
        line.put(Ask("calm"), {"calm": rank(100 + number)})
    assert served(line)[:10].count("calm") == 5


def test_a_request_with_ranks_of_two_tenants_is_served_once_on_whose_turn_it_was() -> None:
    line: RankedLine[Ask] = RankedLine()
    shared = Ask("shared")
    lent = Rank(-5.0, 9, -1, 5)
    line.put(shared, {"own": rank(2), "other": lent})
    line.put(Ask("own"), {"own": rank(1)})
    line.put(Ask("other"), {"other": rank(9, priority=5)})
    assert served(line) == ["shared", "own", "other"]


def test_what_was_moved_often_leaves_no_heap_behind() -> None:
    line: RankedLine[Ask] = RankedLine()
    asks = [Ask(str(n)) for n in range(10)]
    for number, ask in enumerate(asks):
        line.put(ask, {"t": rank(number)})
    for number in range(5_000):
        line.move(asks[number % 10], {"t": rank(number, priority=number % 7)})
    assert len(line._heaps["t"]) < 200
    assert len(served(line)) == 10
    assert not line._heaps


def test_tenants_that_were_served_and_went_are_forgotten_but_for_those_furthest_ahead() -> None:
    line: RankedLine[Ask] = RankedLine()
    greedy = Ask("greedy", units=50)
    line.put(greedy, {"greedy": rank(0)})
    line.take(greedy)
    for number in range(1, 20 * SERVED_MAX):
        ask = Ask(str(number))
        line.put(ask, {ask.name: rank(number)})
        line.take(ask)
        assert len(line._finish) <= 2 * SERVED_MAX + 65
    again, other = Ask("greedy"), Ask("other")
    line.put(again, {"greedy": rank(-2)})
    line.put(other, {"other": rank(-1)})
    assert served(line) == ["other", "greedy"], "what it took before still counts"


@pytest.mark.parametrize("seed", range(40))
def test_the_next_is_the_smallest_of_all_turns_whatever_came_and_went(seed: int) -> None:
    rng = random.Random(seed)
    line: RankedLine[Ask] = RankedLine({"t0": 3.0, "t1": 0.5})
    waiting: dict[Ask, dict[str, Rank]] = {}

    def ranks() -> dict[str, Rank]:
        several = rng.sample([f"t{number}" for number in range(6)], rng.choice([1, 1, 1, 2, 3]))
        return {tenant: rank(next(numbers), priority=rng.randint(0, 2)) for tenant in several}

    numbers = iter(range(10_000))
    for _ in range(400):
        doing = rng.random()
        if doing < 0.45 or not waiting:
            ask = Ask(str(len(waiting)), units=rng.randint(1, 4))
            waiting[ask] = ranks()
            line.put(ask, waiting[ask])
        elif doing < 0.6:
            ask = rng.choice(list(waiting))
            waiting[ask] = ranks()
            line.move(ask, waiting[ask])
        elif doing < 0.7:
            ask = rng.choice(list(waiting))
            del waiting[ask]
            line.drop(ask)
        else:
            ask = line.first() or pytest.fail("somebody waits")
            tops: dict[str, Rank] = {}
            for its in waiting.values():
                for tenant, own in its.items():
                    tops[tenant] = min(own, tops.get(tenant, own))
            turns = [(line._start[tenant], top, tenant) for tenant, top in tops.items()]
            assert min(turns)[1] in waiting[ask].values()
            del waiting[ask]
            line.take(ask)
        assert len(line._turns) <= 2 * len(line._turn) + 65
    assert sorted(ask.name for ask in line) == sorted(ask.name for ask in waiting)


def test_a_turn_costs_no_look_at_all_tenants() -> None:
    line: RankedLine[Ask] = RankedLine()
    tenants = 3_000
    for number in range(tenants):
        line.put(Ask(str(number)), {str(number): rank(number)})
    tops, top = [0], line._top

    def counted(tenant: str) -> tuple[Rank, int, Ask]:
        tops[0] += 1
        return top(tenant)

    line._top = counted  # type: ignore[method-assign]
    assert len(served(line)) == tenants
    assert tops[0] < 5 * tenants
