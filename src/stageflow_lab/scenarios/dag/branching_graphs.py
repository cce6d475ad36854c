"""Random graphs with branches, in which every stage can run: for each, some choices are known.

A graph grows stage by stage beside a few worlds, in each of which every route has made a choice. A
stage is placed only when the interpreter runs it in one of them, so that a build which calls it
unreachable is wrong, whatever the build believes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from .branching_interpreter import (
    RAISES,
    SKIPS,
    Ended,
    Graph,
    Joining,
    Placed,
    end_of,
    interpret,
)

WORLDS: Final = 6
TRIES: Final = 8
"""Wirings that are drawn for one stage before it is placed without parents."""
NEAR: Final = 12
"""Most stages take what stands among so many before them: that makes graphs deep."""
BRANCHES: Final = ("left", "right", "middle", "back")
JOINS: Final[tuple[Joining, ...]] = ("first_of", "any_of", "n_of")
KINDS: Final = ("transform", "enrich", "work", "agent")
LASTS_S: Final = (0.0, 0.0, 0.001, 0.001, 0.002, 0.003)
"""Few different times, so that many stages end at the same moment and the schedule decides."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the stages do in one run."""

    says: Mapping[str, str]
    """Every route, and the other stages that give no value."""
    stumbles: frozenset[str] = frozenset()
    """Stages that raise at their first attempt, and do what they say at the next."""


@dataclass(slots=True)
class Growth:
    """A graph as far as it has grown."""

    rng: random.Random
    threads: bool = False
    """Some stages run in threads."""
    stops: float = 0.0
    """Share of stages whose failure ends the run."""
    graph: list[Placed] = field(default_factory=list)
    says: list[dict[str, str]] = field(default_factory=lambda: [{} for _ in range(WORLDS)])
    worlds: list[dict[str, Ended]] = field(default_factory=lambda: [{} for _ in range(WORLDS)])
    unhandled: list[tuple[str, str]] = field(default_factory=list)
    """Branches, as (route, branch), that no stage has in its `when` yet."""
    handled: list[tuple[str, str]] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The stages so far."""
        return [placed.name for placed in self.graph]

    @property
    def next_name(self) -> str:
        """What the next stage is called."""
        return f"n{len(self.graph)}"

    def ends(self, placed: Placed) -> list[Ended]:
        """How it would end in each world."""
        worlds = zip(self.worlds, self.says, strict=True)
        return [end_of(placed, ended, says) for ended, says in worlds]

    def add(self, placed: Placed, ends: Sequence[Ended] | None = None) -> None:
        """Places it. A route says each of its branches in another one of the worlds it runs in."""
        ends = self.ends(placed) if ends is None else ends
        if placed.branches:
            at = [world for world, end in enumerate(ends) if end.executed]
            self.rng.shuffle(at)
            for turn, world in enumerate(at):
                self.says[world][placed.name] = placed.branches[turn % len(placed.branches)]
            self.unhandled += [(placed.name, branch) for branch in placed.branches]
        for ended, end in zip(self.worlds, ends, strict=True):
            ended[placed.name] = end
        if placed.when in self.unhandled:
            self.unhandled.remove(placed.when)
            self.handled.append(placed.when)
        self.graph.append(placed)

    def grow(self, branches: int = 0) -> None:
        """Adds a stage or a join, or a route with so many branches, that runs in enough worlds."""
        for _ in range(TRIES):
            placed = self.drawn(BRANCHES[:branches])
            ends = self.ends(placed)
            if sum(end.executed for end in ends) >= max(1, branches):
                self.add(self._behaving(placed), ends)
                return
        self.add(self._behaving(Placed(name=self.next_name, branches=BRANCHES[:branches])))

    def handle_all(self) -> None:
        """A stage for each branch that has none."""
        while self.unhandled:
            self.add(self._behaving(Placed(name=self.next_name, when=self.unhandled[0])))

    def drawn(self, branches: tuple[str, ...] = ()) -> Placed:
        """Any wiring of the next stage, whether it can run or not."""
        rng = self.rng
        near = self.names[-NEAR:] if rng.random() < 0.7 else self.names
        after = tuple(rng.sample(near, 1)) if near and rng.random() < 0.15 else ()
        if not branches and len(near) >= 2 and rng.random() < 0.3:
            of = tuple(rng.sample(near, rng.randint(2, min(5, len(near)))))
            join = rng.choice(JOINS)
            return Placed(
                name=self.next_name,
                join=join,
                of=of,
                need=rng.randint(1, len(of)) if join == "n_of" else 1,
                after=after,
                when=self._when(0.2),
            )
        parents = rng.sample(near, min(len(near), rng.choice((0, 1, 1, 1, 2, 2, 3))))
        needed = sum(rng.random() < 0.6 for _ in parents)
        return Placed(
            name=self.next_name,
            takes=tuple(parents[:needed]),
            may_take=tuple(parents[needed:]),
            after=after,
            when=self._when(0.55),
            branches=branches,
        )

    def _when(self, share: float) -> tuple[str, str] | None:
        """A branch for that share of the stages, preferably one that has no stage yet."""
        rng = self.rng
        several = self.unhandled if rng.random() < 0.8 else self.handled
        return rng.choice(several) if several and rng.random() < share else None

    def _behaving(self, wired: Placed) -> Placed:
        """The same wiring with a kind, a place and a time to run; a join has none of its own."""
        rng = self.rng
        if wired.join is not None:
            return wired
        places = ("await", "await", "loop", *(["thread"] if self.threads else []))
        return replace(
            wired,
            kind="route" if wired.branches else rng.choice(KINDS),
            place=rng.choice(places),
            lasts_s=rng.choice(LASTS_S),
            tries=rng.choice((1, 1, 2)),
            stops=rng.random() < self.stops,
        )


def random_graph(rng: random.Random, *, size: int, threads: bool = False) -> Graph:
    """A graph of `size` stages; in a quarter of all graphs some failures end the run."""
    growth = Growth(rng, threads=threads, stops=0.5 if rng.random() < 0.25 else 0.0)
    routes = rng.uniform(0.1, 0.35)
    while (room := size - len(growth.graph) - len(growth.unhandled)) > 0:
        growth.grow(branches=rng.choice((2, 2, 3, 4)) if room > 4 and rng.random() < routes else 0)
    growth.handle_all()
    return growth.graph


def graph_with_routes(rng: random.Random, *, routes: int, branches_max: int) -> Growth:
    """A small graph with exactly so many routes, of at most so many branches each."""
    growth = Growth(rng)
    for _ in range(routes):
        for _ in range(rng.choice((0, 1, 1, 2))):
            growth.grow()
        growth.grow(branches=rng.randint(2, branches_max))
    for _ in range(rng.randint(2, 5)):
        growth.grow()
    growth.handle_all()
    for _ in range(rng.randint(1, 4)):
        growth.grow()
    return growth


def random_outcome(rng: random.Random, graph: Graph) -> Outcome:
    """Mostly values and branches; now and then a skip, a failure, or a failure at first."""
    says: dict[str, str] = {}
    stumbles = []
    for placed in graph:
        if placed.join is not None:
            continue
        if placed.branches:
            says[placed.name] = rng.choice(placed.branches)
        if rng.random() < (0.12 if placed.branches else 0.06):
            says[placed.name] = rng.choice((SKIPS, RAISES))
        if placed.tries > 1 and rng.random() < 0.3:
            stumbles.append(placed.name)
    return Outcome(says, frozenset(stumbles))


def options_of(rng: random.Random, graph: Graph, outcomes_max: int) -> dict[str, Sequence[str]]:
    """What each route may do: all its branches, and to skip or to raise as far as there is room."""
    options = {placed.name: list(placed.branches) for placed in graph if placed.branches}
    count = 1
    for several in options.values():
        count *= len(several)
    extended = list(options)
    rng.shuffle(extended)
    for name in extended:
        for other in (RAISES, SKIPS):
            size = len(options[name])
            if count // size * (size + 1) <= outcomes_max:
                options[name].append(other)
                count = count // size * (size + 1)
    return dict(options)


def every_outcome(graph: Graph, options: Mapping[str, Sequence[str]]) -> Iterator[Outcome]:
    """Every routing outcome once. A route that does not run has none."""
    stack: list[dict[str, str]] = [{}]
    while stack:
        says = stack.pop()
        undecided = {name: several[0] for name, several in options.items() if name not in says}
        ended = interpret(graph, {**undecided, **says})
        # Whether the first undecided route runs depends only on what is decided.
        route = next((name for name in undecided if ended[name].executed), None)
        if route is None:
            yield Outcome({**undecided, **says})
        else:
            stack += [{**says, route: option} for option in options[route]]
