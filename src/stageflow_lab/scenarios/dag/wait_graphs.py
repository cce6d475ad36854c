"""Random graphs of waits with one planted cycle, or with the same cycle and a way out of it.

Stages `a0`, `a1`, ... hold units of pools, then wait as their kind of wait says, then send a
message and give back. Who is stuck, and which cycles there are, is worked out here from the plan
alone, by trying (`stuck`) and by walking (`cycles`): slow, and nothing of the engine's.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

STAGES_MAX: Final = 50
LENGTH_MAX: Final = 20
SAME_RUN: Final = ("all", "any", "some", "pool", "any_unit", "child", "any_branch", "some_branches")
ACROSS: Final = ("pool", "any_unit", "child")
"""Kinds of waits between runs; the only ones where nobody waits for messages."""
BY_MESSAGE: Final = ("all", "any", "some")
BY_JOIN: Final = ("any_branch", "some_branches")
BY_POOL: Final = ("pool", "any_unit", "child", "behind")
ESCAPES: Final = ("a free sender or holder", "no closing wait", "a message just sent")
SHARE_OF_FADING: Final = 0.2
"""Of planted cycles: closed by the silent end of the last who could have sent."""
SHARE_MUTE: Final = 0.2
"""Of plans: nobody in them waits for a message, only for pools and child runs."""
SHARE_SHARED: Final = 0.2
"""Of pools whose users are all in one process: shared all the same."""
SHARE_CROWDED: Final = 0.25
"""Of plans: several wait for one message, and its sender waits for them all once it is sent."""
CROWD: Final = 4
CLOSES_S: Final = 1.2
PASSING_S: Final = 1.5
FREE_S: Final = 3.2
"""Seconds after all hold what they hold: when the cycle is closed, how long somebody works who was
just sent a message, and when free stages end."""

Graph = Mapping[str, tuple[int, tuple[str, ...]]]
"""Who waits to how many of whom he needs. Who stands nowhere goes on."""


@dataclass(frozen=True, slots=True)
class PlannedWait:
    """What one stage waits for."""

    kind: str
    of: tuple[int, ...]
    """Stages by number; of "behind", the one it stands behind in a pool's queue."""
    need: int


@dataclass(frozen=True, slots=True)
class Member:
    """One stage."""

    number: int
    run: int
    wait: PlannedWait | None
    """None for a stage that is free, and ends at `at_s`."""
    at_s: float
    """When it begins to wait, or ends."""
    is_silent: bool = False
    """It ends without its message."""
    after: int | None = None
    """The stage whose message it awaits first; it then sends its own, and begins to wait."""
    works_s: float = 0.0
    """How long it goes on after its wait."""

    @property
    def name(self) -> str:
        """Of its node."""
        return f"a{self.number}"


@dataclass(frozen=True, slots=True)
class Plan:
    """One world of waits."""

    seed: int
    hosts: tuple[int, ...]
    """Of each run: the process it is in."""
    members: tuple[Member, ...]
    length: int
    """Stages on the ring that was planted, or nearly."""
    closer: str
    """Who closes the cycle, by waiting or by ending; "" where none is planted."""
    escape: str
    """What kept the ring from being a cycle; "" where one is planted."""
    shared: frozenset[int]
    """Pools, by the stage that asks for their units, that lie in the shared store."""

    @property
    def is_mute(self) -> bool:
        """Whether nobody waits for messages."""
        return all(
            each.after is None and (each.wait is None or each.wait.kind in BY_POOL)
            for each in self.members
        )

    def holders(self, asker: int) -> tuple[int, ...]:
        """Who holds a unit each of the pool that `asker` wants; empty when it wants none."""
        wait = self.members[asker].wait
        if wait is None or wait.kind not in BY_POOL:
            return ()
        return self.holders(wait.of[0]) if wait.kind == "behind" else wait.of

    def pool(self, asker: int) -> int:
        """The number of that pool: of the stage that stands first for it."""
        wait = self.members[asker].wait
        assert wait is not None, "it asks for one"
        return self.pool(wait.of[0]) if wait.kind == "behind" else asker

    def pools(self) -> dict[int, tuple[int, ...]]:
        """Every pool, by its number, with its holders."""
        return {
            each.number: each.wait.of
            for each in self.members
            if each.wait is not None and each.wait.kind in ("pool", "any_unit", "child")
        }

    def knots(self, *, without: Sequence[str] = ()) -> list[frozenset[str]]:
        """The sets that may be reported: cycles within one process, which are found at once and by
        themselves, and where there are none those through several. Only those that wait for nobody
        else who is stuck: the others may go on when these are broken."""
        graph = self.graph(without=without)
        within = self._within(graph)
        if not cycles(within):
            within = graph
        return [each for each in cycles(within) if not _waits_for_others(each, within)]

    @property
    def is_across(self) -> bool:
        """Whether no cycle is within one process."""
        return not cycles(self._within(self.graph()))

    def _within(self, graph: Graph) -> Graph:
        """Without the waits for pools that processes share."""
        apart = {
            f"{part}{each.number}"
            for each in self.members
            if each.wait is not None
            and each.wait.kind in BY_POOL
            and self.pool(each.number) in self.shared
            for part in ("inner" if each.wait.kind == "child" else "a",)
        }
        return {who: wanted for who, wanted in graph.items() if who not in apart}

    def graph(
        self, *, without: Sequence[str] = (), early: bool = False
    ) -> dict[str, tuple[int, tuple[str, ...]]]:
        """As it stands once everybody waits, and who ends in silence has ended. `early`: while that
        one may still send."""
        found: dict[str, tuple[int, tuple[str, ...]]] = {}
        silent = {each.name for each in self.members if each.is_silent and not early}
        sent = {each.name for each in self.members if each.after is not None}
        for each in self.members:
            wait = each.wait
            if wait is None:
                continue
            of = tuple(self.members[number].name for number in wait.of)
            if wait.kind in BY_MESSAGE:
                hoped = tuple(
                    f"the message of {name}" if name in sent else name
                    for name in of
                    if name not in silent
                )
                found[each.name] = (wait.need, hoped)
            elif wait.kind in BY_JOIN:
                found[each.name] = (1, (f"gate{each.number}",))
                found[f"gate{each.number}"] = (1, (f"join{each.number}",))
                found[f"join{each.number}"] = (wait.need, of)
            elif wait.kind == "child":
                found[each.name] = (1, (f"inner{each.number}",))
                found[f"inner{each.number}"] = (wait.need, of)
            else:
                found[each.name] = (wait.need, of)
        return {name: wanted for name, wanted in found.items() if name not in without}


def stuck(graph: Graph) -> set[str]:
    """Who can never go on, by trying until nothing changes."""
    left = set(graph)
    while True:
        free = {who for who in left if sum(o not in left for o in graph[who][1]) >= graph[who][0]}
        if not free:
            return left
        left -= free


def cycles(graph: Graph) -> list[frozenset[str]]:
    """Those who are stuck and can reach one another."""
    left = stuck(graph)
    reach = {who: _reached(who, graph, left) for who in left}
    groups = {frozenset(o for o in reach[who] if who in reach[o]) for who in left}
    return sorted((group for group in groups if group), key=sorted)


def _waits_for_others(cycle: frozenset[str], graph: Graph) -> bool:
    left = stuck(graph)
    return any(other in left and other not in cycle for who in cycle for other in graph[who][1])


def _reached(start: str, graph: Graph, left: set[str]) -> set[str]:
    found: set[str] = set()
    todo = [start]
    while todo:
        for other in graph[todo.pop()][1]:
            if other in left and other not in found:
                found.add(other)
                todo.append(other)
    return found


# -- drawing -------------------------------------------------------------------------------------


def plan_of(seed: int, *, is_planted: bool, hosts: int | None = None) -> Plan:
    """The plan of a seed. `hosts`: in how many processes, and its cycle through several of them;
    None draws one to three."""
    rng = random.Random(seed)
    for _ in range(1_000):
        drawn = _drawn(rng, seed, is_planted=is_planted, hosts=hosts)
        if _is_meant(drawn) and (hosts is None or not drawn.closer or drawn.is_across):
            return drawn
    raise AssertionError("most that is drawn is meant")


def _is_meant(plan: Plan) -> bool:
    """Whether there is one cycle from its closing on and none before it; or none at all."""
    found = cycles(plan.graph())
    if not plan.closer:
        return not stuck(plan.graph())
    if len(found) != 1 or len(found[0]) < plan.length:
        return False
    closer = next(each for each in plan.members if each.name == plan.closer)
    if not closer.is_silent:
        return not stuck(plan.graph(without=_part_names(closer)))
    return not stuck(plan.graph(early=True))


def _part_names(member: Member) -> list[str]:
    return [f"{part}{member.number}" for part in ("a", "gate", "join", "inner")]


def _drawn(rng: random.Random, seed: int, *, is_planted: bool, hosts: int | None) -> Plan:
    length = rng.randint(2, LENGTH_MAX)
    stages = round(rng.triangular(length, STAGES_MAX, length))
    escape = "" if is_planted else rng.choice(ESCAPES)
    processes = hosts or rng.choice((2, 3) if escape == ESCAPES[-1] else (1, 1, 2, 3))
    runs = max(processes, rng.randint(1, 3))
    if length < runs:
        runs = processes = min(length, runs)
    draw = _Draw(rng, length, runs, is_mute=rng.random() < SHARE_MUTE)
    draw.ring()
    if is_planted and rng.random() < SHARE_OF_FADING:
        draw.fade()
    elif escape == "a free sender or holder":
        draw.open_up()
    elif escape == "no closing wait":
        draw.free(0)
    elif escape == "a message just sent":
        draw.pass_on()
    while len(draw.members) < stages:
        draw.bystander()
    draw.crowd(random.Random(f"crowds of {seed}"))
    plan = Plan(
        seed=seed,
        hosts=tuple(run % processes for run in range(runs)),
        members=tuple(draw.members),
        length=length,
        closer="" if escape else draw.members[draw.closer].name,
        escape=escape,
        shared=frozenset(),
    )
    return replace(plan, shared=frozenset(_shared(plan, rng)))


class _Draw:
    """A plan that is being drawn."""

    def __init__(self, rng: random.Random, length: int, runs: int, *, is_mute: bool) -> None:
        self.rng = rng
        self.length = length
        self.runs = runs
        self.is_mute = is_mute
        self.members: list[Member] = []
        self.closer = 0

    def ring(self) -> None:
        """Each stage of the ring waits for the next, and perhaps for others that can't help."""
        run_of = [number * self.runs // self.length for number in range(self.length)]
        for number in range(self.length):
            at_s = self.rng.uniform(0.1, 0.9)
            self.members.append(Member(number, run_of[number], None, at_s))
        for number in range(self.length):
            target = (number + 1) % self.length
            wait = self._link(number, target)
            self.members[number] = replace(self.members[number], wait=wait)
        closes_s = CLOSES_S + self.rng.uniform(0.0, 0.5)
        self.members[0] = replace(self.members[0], at_s=closes_s)

    def _link(self, number: int, target: int) -> PlannedWait:
        rng = self.rng
        same = self.members[number].run == self.members[target].run
        kind = rng.choice(SAME_RUN if same and not self.is_mute else ACROSS)
        others = [
            each.number
            for each in self.members
            if each.number not in (number, target)
            and (kind in BY_POOL or each.run == self.members[number].run)
        ]
        rng.shuffle(others)
        if kind in ("pool", "child"):
            return PlannedWait(kind, (target,), 1)
        if kind in ("any", "any_unit", "any_branch"):
            return PlannedWait(kind, (target, *others[: rng.randint(0, 2)]), 1)
        if kind == "all":
            of = (target, *others[: rng.randint(0, 2)])
            return PlannedWait(kind, of, len(of))
        of = (target, *others[: rng.randint(1, 3)])
        return PlannedWait(kind, of, rng.randint(1, len(of)))

    def fade(self) -> None:
        """Somebody hopes for a stage that will end in silence, and closes the cycle by that."""
        able = [
            each
            for each in self.members
            if each.wait is not None and each.wait.kind in ("any", "some")
        ]
        if not able:
            return
        chosen = self.rng.choice(able)
        assert chosen.wait is not None
        closes_s = CLOSES_S + self.rng.uniform(0.0, 0.5)
        number = self._add(Member(0, chosen.run, None, closes_s, is_silent=True))
        wait = replace(chosen.wait, kind="some", of=(*chosen.wait.of, number), need=1)
        self.members[chosen.number] = replace(chosen, wait=wait)
        self.closer = number
        self._hurry()

    def _hurry(self) -> None:
        """The first stage closes nothing: it waits as early as the others."""
        self.members[0] = replace(self.members[0], at_s=self.rng.uniform(0.1, 0.9))

    def open_up(self) -> None:
        """One link of the ring gets a way out that is free."""
        chosen = self.members[self.rng.randrange(self.length)]
        assert chosen.wait is not None
        number = self._add(Member(0, chosen.run, None, self._free_s()))
        kind = {"pool": "any_unit", "child": "any_unit", "all": "any"}.get(
            chosen.wait.kind, chosen.wait.kind
        )
        wait = PlannedWait(kind, (*chosen.wait.of, number), 1)
        self.members[chosen.number] = replace(self.members[chosen.number], wait=wait)

    def free(self, number: int) -> None:
        """Waits for nothing."""
        self.members[number] = replace(self.members[number], wait=None, at_s=self._free_s())

    def pass_on(self) -> None:
        """The ring is one in pictures of different moments only. The last of it waits for a
        message, gets it, and works on; its sender begins to wait for the first just then."""
        self._hurry()
        last = self.members[self.length - 1]
        at_s = CLOSES_S + self.rng.uniform(0.0, 0.5)
        first = self._add(Member(0, last.run, None, at_s))
        sender = self._add(Member(0, last.run, PlannedWait("pool", (0,), 1), at_s, after=first))
        self.members[last.number] = replace(
            last, wait=PlannedWait("all", (sender,), 1), works_s=PASSING_S
        )

    def bystander(self) -> None:
        """Free, or waiting for somebody of the others; nobody waits for it."""
        rng = self.rng
        run = rng.randrange(self.runs)
        target = rng.choice(self.members)
        if rng.random() < 0.3 or target.is_silent:
            self._add(Member(0, run, None, self._free_s()))
            return
        kinds = ("pool", "behind") if self.is_mute else ("all", "pool", "behind", "any_branch")
        kind = "pool" if target.run != run else rng.choice(kinds)
        at_s = rng.uniform(0.1, 0.9)
        if kind == "behind":
            if target.wait is None or target.wait.kind not in ("pool", "any_unit"):
                kind = kinds[0]
            else:
                at_s = target.at_s + 0.05
        self._add(Member(0, run, PlannedWait(kind, (target.number,), 1), at_s))

    def crowd(self, rng: random.Random) -> None:
        """Two who wait for the same message, and hold what its sender wants of both then."""
        if self.is_mute or len(self.members) + CROWD > STAGES_MAX:
            return
        if rng.random() >= SHARE_CROWDED:
            return
        run = rng.randrange(self.runs)
        at_s = CLOSES_S + rng.uniform(0.0, 0.5)
        first = self._add(Member(0, run, None, at_s))
        sender = first + 1
        both = (sender + 1, sender + 2)
        self._add(Member(0, run, PlannedWait("pool", both, 2), at_s, after=first))
        for _ in both:
            self._add(Member(0, run, PlannedWait("all", (sender,), 1), rng.uniform(0.1, 0.9)))

    def _free_s(self) -> float:
        return FREE_S + self.rng.uniform(0.0, 1.0)

    def _add(self, member: Member) -> int:
        number = len(self.members)
        self.members.append(replace(member, number=number))
        return number


def _shared(plan: Plan, rng: random.Random) -> list[int]:
    """Pools whose users are in several processes, and some of the others."""
    found = []
    for number, holders in sorted(plan.pools().items()):
        askers = [
            each.number
            for each in plan.members
            if each.wait is not None
            and each.wait.kind in BY_POOL
            and plan.pool(each.number) == number
        ]
        users = {plan.hosts[plan.members[each].run] for each in (*askers, *holders)}
        several = len(set(plan.hosts)) > 1
        if len(users) > 1 or (several and rng.random() < SHARE_SHARED):
            found.append(number)
    return found
