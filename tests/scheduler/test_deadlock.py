"""Who can never go on: against a naive play of the same waits, and with planted cycles."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from stageflow.scheduler import (
    AwaitedEnds,
    PoolState,
    Waits,
    cycles,
    knots,
    own_cycle,
    stuck,
)


def lock(holder: int | None, *queue: int) -> PoolState[int]:
    held = {} if holder is None else {holder: 1}
    return PoolState(1, held, [(who, 1) for who in queue])


def ring(*members: int) -> Waits[int]:
    """Each holds a lock for which the one before waits."""
    return Waits({f"lock {who}": lock(who, members[at - 1]) for at, who in enumerate(members)})


@pytest.mark.parametrize("length", range(1, 21))
def test_a_ring_of_locks_is_one_cycle(length: int) -> None:
    assert cycles(ring(*range(length))) == [frozenset(range(length))]


@pytest.mark.parametrize("length", range(2, 21))
def test_a_ring_with_one_link_missing_is_none(length: int) -> None:
    waits = ring(*range(length))
    pools = {**waits.pools, "lock 0": lock(0)}
    assert cycles(replace(waits, pools=pools)) == []
    assert stuck(replace(waits, pools=pools)) == frozenset()


def test_who_only_waits_for_a_cycle_is_no_member_of_it() -> None:
    waits = ring(1, 2)
    pools = {**waits.pools, "lock 3": lock(3, 4), "lock 1": lock(1, 2, 3)}
    assert cycles(replace(waits, pools=pools)) == [frozenset({1, 2})]
    assert stuck(replace(waits, pools=pools)) == frozenset({1, 2, 3, 4})


def test_two_cycles_are_told_apart() -> None:
    waits = Waits({**ring(1, 2).pools, **ring(3, 4, 5).pools})
    assert set(cycles(waits)) == {frozenset({1, 2}), frozenset({3, 4, 5})}


def test_one_of_several_holders_is_enough() -> None:
    """Two units, held by 1 and 2; 1 waits for what 3 holds, who waits for one of the units."""
    pools = {"units": PoolState(2, {1: 1, 2: 1}, [(3, 1)]), "lock": lock(3, 1)}
    assert stuck(Waits(pools)) == frozenset()
    pools["other"] = lock(3, 2)
    assert cycles(Waits(pools)) == [frozenset({1, 2, 3})]


def test_two_units_need_both_holders() -> None:
    pools = {"units": PoolState(2, {1: 1, 2: 1}, [(3, 2)]), "lock": lock(3, 1)}
    assert cycles(Waits(pools)) == [frozenset({1, 3})]


def test_a_large_request_holds_up_small_ones_behind_it() -> None:
    """2 waits for both units, 3 for one behind him, and 1 holds the other and waits for 3."""
    pools = {"units": PoolState(2, {1: 1}, [(2, 2), (3, 1)]), "lock": lock(3, 1)}
    assert cycles(Waits(pools)) == [frozenset({1, 2, 3})]


def test_who_queues_for_the_same_lock_is_no_member_wherever_he_stands() -> None:
    """3 asked for what 2 holds before 1 did; without him 1 would wait as long."""
    pools = {"a": lock(1, 2), "b": lock(2, 3, 1)}
    assert cycles(Waits(pools)) == [frozenset({1, 2})]
    assert stuck(Waits(pools)) == frozenset({1, 2, 3})


@pytest.mark.parametrize(("need", "found"), [(1, []), (2, []), (3, [frozenset({0, 1})])])
def test_k_of_n(need: int, found: list[frozenset[int]]) -> None:
    """0 waits for the end of some of 1, 2, 3; 1 waits for what 0 holds."""
    waits = Waits({"lock": lock(0, 1)}, {0: AwaitedEnds(frozenset({1, 2, 3}), need)})
    assert cycles(waits) == found


def test_a_run_stands_between_a_stage_and_its_child() -> None:
    waits = Waits(
        {"lock": PoolState(1, {"parent": 1}, [("child's stage", 1)])},
        {
            "parent": AwaitedEnds(frozenset({"child"}), 1),
            "child": AwaitedEnds(frozenset({"child's stage"}), 1),
        },
    )
    assert cycles(waits) == [frozenset({"parent", "child", "child's stage"})]


def played(waits: Waits[int], rng: random.Random) -> frozenset[int]:
    """Who is left when everybody who can ends, one at a time: the naive reading."""
    held = {name: dict(pool.held) for name, pool in waits.pools.items()}
    queues = {name: list(pool.queue) for name, pool in waits.pools.items()}
    everybody = {who for pool in waits.pools.values() for who in pool.held} | {
        who for pool in waits.pools.values() for who, _ in pool.queue
    }
    everybody |= set(waits.ends) | {who for each in waits.ends.values() for who in each.of}
    ended: set[int] = set()

    def waits_for_something(who: int) -> bool:
        ends = waits.ends.get(who)
        if ends is not None and len(ends.of & ended) < ends.need:
            return True
        return any(who == each for queue in queues.values() for each, _ in queue)

    while able := [who for who in sorted(everybody - ended) if not waits_for_something(who)]:
        who = rng.choice(able)
        ended.add(who)
        for name, pool in waits.pools.items():
            held[name].pop(who, None)
            while queues[name] and pool.units - sum(held[name].values()) >= queues[name][0][1]:
                other, units = queues[name].pop(0)
                held[name][other] = held[name].get(other, 0) + units
    return frozenset(everybody - ended)


def drawn(rng: random.Random) -> Waits[int]:
    """Pools whose first in line can't be served, as the runtime leaves them; each waits once."""
    people = list(range(rng.randint(2, 12)))
    rng.shuffle(people)
    ends = {
        who: AwaitedEnds(frozenset(of), rng.randint(1, len(of)))
        for who in people[: rng.randint(0, 3)]
        for of in [rng.sample(people, rng.randint(1, min(4, len(people))))]
    }
    idle = [who for who in people if who not in ends]
    pools = {}
    for number in range(rng.randint(1, 5)):
        units = rng.randint(1, 3)
        held: dict[int, int] = {}
        for _ in range(rng.randint(1, units)):
            who = rng.choice(people)
            held[who] = held.get(who, 0) + 1
        free = units - sum(held.values())
        waiting = [idle.pop() for _ in range(min(len(idle), rng.randint(0, 3)))]
        queue = [(who, rng.randint(1, units)) for who in waiting]
        if queue and queue[0][1] <= free:
            queue = [(queue[0][0], units), *queue[1:]] if free < units else []
        pools[f"pool {number}"] = PoolState(units, held, queue)
    return Waits(pools, ends)


def test_who_is_left_over_is_who_never_ends_in_any_order() -> None:
    rng = random.Random(5)
    deadlocked = 0
    for _ in range(4_000):
        waits = drawn(rng)
        left = stuck(waits)
        deadlocked += bool(left)
        assert left == played(waits, rng), waits
        found = cycles(waits)
        assert bool(left) == bool(found), "whoever is stuck waits for some cycle"
        assert all(cycle <= left for cycle in found)
        assert sum(map(len, found)) == len(frozenset().union(*found)), "cycles share nobody"
    assert 400 < deadlocked < 3_600, "both happen"


def test_nobody_is_stuck_in_a_part_of_the_waits_who_is_not_in_all_of_them() -> None:
    """So what surely stands need be searched only where something seems to be stuck."""
    rng = random.Random(6)
    fewer = 0
    for _ in range(4_000):
        waits = drawn(rng)
        going_on = {who for who in range(12) if rng.random() < 0.2}
        part = Waits(
            {
                name: replace(pool, queue=[each for each in pool.queue if each[0] not in going_on])
                for name, pool in waits.pools.items()
            },
            {who: ends for who, ends in waits.ends.items() if who not in going_on},
        )
        assert stuck(part) <= stuck(waits), waits
        fewer += stuck(part) != stuck(waits)
    assert fewer > 400


def test_a_long_chain_costs_no_stack() -> None:
    waits = ring(*range(3_000))
    assert cycles(replace(waits, pools={**waits.pools, "lock 0": lock(0)})) == []


def test_a_cycle_that_may_go_on_once_another_is_broken_is_no_knot() -> None:
    """3 and 4 wait for each other, or would take what 1 gives; 1 and 2 wait for each other."""
    ends = {
        1: AwaitedEnds(frozenset({2}), 1),
        2: AwaitedEnds(frozenset({1}), 1),
        3: AwaitedEnds(frozenset({4, 1}), 1),
        4: AwaitedEnds(frozenset({3}), 1),
    }
    waits: Waits[int] = Waits({}, ends)
    assert sorted(map(sorted, cycles(waits))) == [[1, 2], [3, 4]]
    assert knots(waits) == [frozenset({1, 2})]


def test_who_may_go_on_once_another_cycle_is_broken_has_no_cycle_of_his_own() -> None:
    """5 and 6 wait for each other. What they make of their waiting for 1, who waits with 2:"""
    one_and_two = {1: AwaitedEnds(frozenset({2}), 1), 2: AwaitedEnds(frozenset({1}), 1)}
    six = {6: AwaitedEnds(frozenset({5}), 1)}
    either: Waits[int] = Waits({}, {**one_and_two, **six, 5: AwaitedEnds(frozenset({6, 1}), 1)})
    both: Waits[int] = Waits({}, {**one_and_two, **six, 5: AwaitedEnds(frozenset({6, 1}), 2)})
    assert own_cycle(either, 5) is None and own_cycle(either, 6) is None
    assert own_cycle(both, 5) == own_cycle(both, 6) == {5, 6}
    for waits in (either, both):
        assert own_cycle(waits, 1) == {1, 2}
        assert sorted(map(sorted, cycles(waits))) == [[1, 2], [5, 6]]
    # A unit that 1 holds would do for 6 as well as that of 5.
    units = PoolState(2, {5: 1, 1: 1}, [(6, 1)])
    pool: Waits[int] = Waits({"p": units}, {**one_and_two, 5: AwaitedEnds(frozenset({6}), 1)})
    assert own_cycle(pool, 6) is None and own_cycle(pool, 1) == {1, 2}


def test_the_own_cycles_of_random_waits() -> None:
    """Each stays stuck when all others go on; and who breaks them all frees everybody."""
    rng = random.Random(7)
    other = 0
    for _ in range(4_000):
        waits = drawn(rng)
        parts = cycles(waits)
        for part in parts:
            for who in part:
                own = own_cycle(waits, who)
                other += own != part
                assert own is None or (own <= part and who in own)
        for knot in knots(waits):
            assert all(own_cycle(waits, who) == knot for who in knot)
        assert not parts or any(own_cycle(waits, who) for part in parts for who in part)
    assert other > 20, "some are no cycles of their own"
