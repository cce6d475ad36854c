"""Ranks are lent along chains of holders, and end with what they were lent for; on random systems
the order of every queue is that of a naive fixed point, computed anew after each event."""

from __future__ import annotations

import random

import pytest

from stageflow.scheduler import Demand, Inheritance, RankedLine, Supply


class System:
    """Supplies by name and a state, with short words for the events."""

    def __init__(self, **units: int) -> None:
        self.state: Inheritance[str] = Inheritance()
        self.supplies = {
            name: Supply[str](name, count, RankedLine()) for name, count in units.items()
        }

    def ask(
        self, supply: str, *line: str, priority: int = 0, units: int = 1, tenant: str = "t"
    ) -> Demand[str]:
        demand = Demand(
            self.supplies[supply], line, units=units, tenant=tenant, priority=priority, asked_s=0.0
        )
        self.state.ask(demand)
        return demand

    def give_back(self, supply: str, who: str, units: int = 1) -> list[str]:
        return [each.who for each in self.state.give_back(self.supplies[supply], who, units)]

    def priority(self, demand: Demand[str]) -> int:
        """With what is lent to it."""
        return max(rank.priority for rank in demand.supply.line.ranks(demand).values())

    def queue(self, supply: str) -> list[str]:
        return [each.who for each in self.supplies[supply].line]


def test_a_holder_is_not_passed_by_those_between_it_and_who_waits_for_it() -> None:
    """
    1. low holds the bus, medium holds the processor, others of medium priority wait for it
    2. low asks for the processor, and waits behind them
    3. high asks for the bus: low goes before all of them
    4. low has the processor, gives back both, and asks again: it is behind them as before
    """
    system = System(bus=1, cpu=1)
    system.ask("bus", "low")
    for name in ("m1", "m2", "m3"):
        system.ask("cpu", name, priority=1)
    asked = system.ask("cpu", "low")
    assert system.queue("cpu") == ["m2", "m3", "low"]
    system.ask("bus", "high", priority=2)
    assert system.queue("cpu") == ["low", "m2", "m3"]
    assert system.priority(asked) == 2
    assert system.give_back("cpu", "m1") == ["low"]
    assert system.give_back("cpu", "low") == ["m2"]
    assert system.give_back("bus", "low") == ["high"]
    assert system.priority(system.ask("cpu", "low")) == 0
    assert system.queue("cpu") == ["m3", "low"]


def test_what_is_lent_is_lent_on() -> None:
    system = System(a=1, b=1, c=1, cpu=1)
    system.ask("cpu", "m")
    system.ask("cpu", "m2", priority=1)
    for supply, who in (("c", "l3"), ("b", "l2"), ("a", "l1")):
        system.ask(supply, who)
    system.ask("c", "l2")
    system.ask("b", "l1")
    system.ask("cpu", "l3")
    high = system.ask("a", "high", priority=5)
    assert system.queue("cpu") == ["l3", "m2"]
    chain = [
        (supply.name, who, [p.name for p in more]) for supply, who, more in system.state.chain(high)
    ]
    assert chain == [
        ("a", "l1", ["b"]),
        ("b", "l2", ["c"]),
        ("c", "l3", ["cpu"]),
        ("cpu", "m", []),
    ]
    system.state.withdraw(high)
    assert system.queue("cpu") == ["m2", "l3"], "who gives up lends nothing any more"


def test_it_is_lent_through_those_that_wait_for_a_child_run() -> None:
    """The stage that holds the unit only awaits its child run, whose task asks for another."""
    system = System(a=1, cpu=1)
    system.ask("cpu", "m")
    system.ask("a", "parent")
    system.ask("cpu", "m2", priority=1)
    system.ask("cpu", "child", "between", "parent")
    system.ask("a", "high", priority=2)
    assert system.queue("cpu") == ["child", "m2"]


def test_those_that_lend_to_one_another_keep_no_rank_alive() -> None:
    """Two hold a unit of a pool of two and wait for what the other holds, which is no deadlock
    while a third holds the other unit. Who was urgent gives up: both are as they were."""
    system = System(a=2, b=1)
    for supply, who in (("a", "x"), ("a", "free"), ("b", "y")):
        system.ask(supply, who)
    in_b, in_a = system.ask("b", "x"), system.ask("a", "y")
    high = system.ask("a", "high", priority=9)
    assert (system.priority(in_a), system.priority(in_b)) == (9, 9)
    system.state.withdraw(high)
    assert (system.priority(in_a), system.priority(in_b)) == (0, 0)


def test_who_is_waited_for_goes_ahead_of_who_waits_for_him_in_one_queue() -> None:
    """A large demand at the head waits for a holder who wants one free unit of the same pool."""
    system = System(a=2, b=1)
    system.ask("b", "small")
    system.ask("a", "holder")
    system.ask("a", "large", units=2, priority=3)
    system.ask("b", "holder")
    small = system.ask("a", "small")
    assert small not in system.supplies["a"].line, "it has the unit that was free"
    assert system.queue("a") == ["large"]


def test_a_tenant_lends_its_turn() -> None:
    """The holder is another tenant's, and goes when it is the turn of whom it keeps waiting."""
    system = System(a=1, cpu=1)
    system.ask("cpu", "first", tenant="globex")
    system.ask("a", "low", tenant="globex", priority=-5)
    for n in range(3):
        system.ask("cpu", f"g{n}", tenant="globex", priority=5)
    system.ask("cpu", "low", tenant="globex", priority=-5)
    system.ask("a", "high", tenant="acme")
    assert system.queue("cpu").index("low") <= 1


@pytest.mark.parametrize("seed", range(150))
def test_random_systems_agree_with_the_naive_fixed_point(seed: int) -> None:
    rng = random.Random(seed)
    units = {f"p{n}": rng.randint(1, 3) for n in range(rng.randint(1, 5))}
    system = System(**units)
    state, supplies = system.state, list(system.supplies.values())
    waiting: list[Demand[str]] = []
    for _ in range(200):
        busy = {who for demand in waiting for who in demand.line}
        holding = [(supply, who) for supply in supplies for who in supply.held if who not in busy]
        roll = rng.random()
        if roll < 0.55:
            who = f"w{rng.randint(0, 14)}"
            if who not in busy:
                above = [f"w{n}" for n in rng.sample(range(15), rng.randint(0, 2))]
                supply = rng.choice(supplies)
                demand = Demand(
                    supply,
                    (who, *(each for each in above if each not in busy and each != who)),
                    units=rng.randint(1, supply.units),
                    tenant=rng.choice(["a", "b"]),
                    priority=rng.randint(0, 5),
                    asked_s=0.0,
                )
                state.ask(demand)
                waiting.append(demand)
        elif roll < 0.85 and holding:
            supply, who = rng.choice(holding)
            state.give_back(supply, who, supply.held[who])
        elif waiting:
            state.withdraw(rng.choice(waiting))
        waiting = [each for each in waiting if each in each.supply.line]
        agree(state, supplies, waiting)


def agree(state: Inheritance[str], supplies: list[Supply[str]], waiting: list[Demand[str]]) -> None:
    lent: dict[Demand[str], dict[str, tuple[float, int]]] = {}
    for each in waiting:
        assert each.own is not None
        lent[each] = {each.tenant: each.own[:2]}
    changed = True
    while changed:
        changed = False
        for each in waiting:
            for other in waiting:
                if any(who in other.supply.held for who in each.line):
                    for tenant, rank in lent[other].items():
                        if rank < lent[each].get(tenant, (float("inf"), 0)):
                            lent[each][tenant] = rank
                            changed = True
    for each in waiting:
        ranks = {tenant: rank[:2] for tenant, rank in each.supply.line.ranks(each).items()}
        assert ranks == lent[each]
    for supply in supplies:
        assert supply.free >= 0
        assert supply.free + sum(supply.held.values()) == supply.units
        first = supply.line.first()
        assert first is None or first.units > supply.free, "nobody in front waits for what is there"
        assert {each for each in waiting if each.supply is supply} == set(supply.line)
