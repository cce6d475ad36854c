"""Branches that are dead by construction, planted into graphs in which everything else is alive.

Wirings are planted only when the interpreter does not run them in any outcome of the routes. What a
wiring can't express (a branch or a join that is wrong by itself) is written with the public API.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from stageflow import (
    Branch,
    BranchRef,
    BuildError,
    BuildErrors,
    Pipeline,
    Stage,
    n_of,
    route,
    transform,
)

from ...history import History
from ...world import World
from .branching_graphs import Growth, every_outcome, graph_with_routes
from .branching_interpreter import Ended, Placed, end_of, interpret
from .branching_pipelines import Stages

DRAWS_MAX: Final = 400
"""Wirings drawn for one plant before another graph is grown for it."""

Interpreted = tuple[dict[str, Ended], Mapping[str, str]]
"""How every stage ends in one outcome, and what the routes say in it."""

Wiring = Sequence[Placed]
"""Stages to be added to a graph, of which the last is dead."""

Wirings = Callable[[Growth], Iterator[Wiring]]
Writing = Callable[[random.Random, Mapping[str, Stage[..., Any]]], Sequence[Stage[..., Any]]]


def plant(world: World, history: History) -> None:
    """One dead branch a graph, kinds in turn; records what the build said of it."""
    count, stages = world.size["planted"], Stages()
    kinds = [*WIRINGS, *WRITINGS]
    for number in range(count):
        rng = random.Random(world.seed_for("planted", number))
        kind = kinds[number % len(kinds)]
        if kind in WIRINGS:
            said, dead = _wired(rng, WIRINGS[kind], stages)
        else:
            said, dead = _written(rng, WRITINGS[kind], stages)
        history.record("planted", kind=kind, node=dead, said=said)
        world.progress(number + 1, count, "dead branches")


def _wired(rng: random.Random, wirings: Wirings, stages: Stages) -> tuple[list[str], str]:
    while True:
        growth = _grown(rng)
        outcomes = _outcomes(growth)
        for wiring in wirings(growth):
            if _only_last_is_dead(wiring, outcomes):
                graph = [*growth.graph, *wiring]
                return _said(partial(stages.pipeline, graph)), wiring[-1].name


def _only_last_is_dead(wiring: Sequence[Placed], outcomes: Sequence[Interpreted]) -> bool:
    runs = [False for _ in wiring]
    for before, says in outcomes:
        ended = dict(before)
        for number, placed in enumerate(wiring):
            ended[placed.name] = end_of(placed, ended, says)
            runs[number] |= ended[placed.name].executed
    return all(runs[:-1]) and not runs[-1]


def _written(rng: random.Random, writing: Writing, stages: Stages) -> tuple[list[str], str]:
    placed: dict[str, Stage[..., Any]] = {}
    for each in _grown(rng).graph:
        placed[each.name] = stages.stage(each, placed)
    return _said(lambda: Pipeline("planted", [*placed.values(), *writing(rng, placed)])), "dead"


def _grown(rng: random.Random) -> Growth:
    return graph_with_routes(rng, routes=rng.randint(2, 4), branches_max=3)


def _outcomes(growth: Growth) -> list[Interpreted]:
    options = {placed.name: placed.branches for placed in growth.graph if placed.branches}
    return [
        (interpret(growth.graph, outcome.says), outcome.says)
        for outcome in every_outcome(growth.graph, options)
    ]


def _said(build: Callable[[], object]) -> list[str]:
    """The errors of a build, each as its code and the node that it names."""
    try:
        build()
    except BuildErrors as several:
        return [f"{error.code} {error.node}" for error in several.errors]
    except BuildError as error:
        return [f"{error.code} {error.node}"]
    return []


# -- dead wirings ----------------------------------------------------------------------------


def _sides(growth: Growth, count: int) -> Iterator[list[Placed]]:
    """Stages on so many different branches of one route, all such choices in random order."""
    found = []
    for each in growth.graph:
        if len(each.branches) >= count:
            sides = [
                next(p for p in growth.graph if p.when == (each.name, branch))
                for branch in growth.rng.sample(each.branches, count)
            ]
            found.append(sides)
    growth.rng.shuffle(found)
    yield from found


def _takes_two_branches(growth: Growth) -> Iterator[Wiring]:
    for one, other in _sides(growth, 2):
        yield [Placed(name=growth.next_name, takes=(one.name, other.name))]


def _stands_on_another_branch(growth: Growth) -> Iterator[Wiring]:
    for one, other in _sides(growth, 2):
        yield [Placed(name=growth.next_name, takes=(one.name,), when=other.when)]


def _joins_what_never_runs_together(growth: Growth) -> Iterator[Wiring]:
    for one, other in _sides(growth, 2):
        yield [Placed(name=growth.next_name, join="n_of", need=2, of=(one.name, other.name))]


def _takes_a_join_of_the_other_branches(growth: Growth) -> Iterator[Wiring]:
    for one, other, third in _sides(growth, 3):
        join = Placed(name="join", join="first_of", of=(one.name, other.name))
        yield [join, Placed(name=growth.next_name, takes=("join",), when=third.when)]


def _stands_on_a_branch_behind_another(growth: Growth) -> Iterator[Wiring]:
    """Its route runs on one side of an outer route, what it takes on another."""
    for inner in growth.graph:
        if not inner.branches or inner.when is None:
            continue
        for other in growth.graph:
            if other.when and other.when[0] == inner.when[0] and other.when != inner.when:
                on_inner = (inner.name, growth.rng.choice(inner.branches))
                yield [Placed(name=growth.next_name, takes=(other.name,), when=on_inner)]


def _is_any_dead_wiring(growth: Growth) -> Iterator[Wiring]:
    for _ in range(DRAWS_MAX):
        yield [growth.drawn()]


WIRINGS: Final[Mapping[str, Wirings]] = {
    "takes two branches": _takes_two_branches,
    "stands on another branch": _stands_on_another_branch,
    "joins what never runs together": _joins_what_never_runs_together,
    "takes a join of the other branches": _takes_a_join_of_the_other_branches,
    "stands on a branch behind another": _stands_on_a_branch_behind_another,
    "any dead wiring": _is_any_dead_wiring,
}


# -- branches and joins that are wrong by themselves -----------------------------------------


@transform
def dead() -> str:
    """Never runs."""
    return "dead"


def _any_route(
    rng: random.Random, placed: Mapping[str, Stage[..., Any]]
) -> tuple[Stage[..., Any], str]:
    routes = [stage for stage in placed.values() if stage.branches]
    chosen = rng.choice(routes)
    return chosen, rng.choice(chosen.branches or ())


def _nobody_handles(
    rng: random.Random, placed: Mapping[str, Stage[..., Any]]
) -> Sequence[Stage[..., Any]]:
    branches = tuple(rng.sample(("a", "b", "c"), rng.randint(2, 3)))

    @route(branches=branches, name="dead")
    def lonely() -> Branch:
        return Branch(branches[0])

    handlers = [dead.named(f"on_{name}", when=lonely.branch(name)) for name in branches[1:]]
    return [lonely, *handlers]


def _misspelt(
    rng: random.Random, placed: Mapping[str, Stage[..., Any]]
) -> Sequence[Stage[..., Any]]:
    chosen, branch = _any_route(rng, placed)
    return [dead.named(when=BranchRef(chosen, branch + "s"))]


def _no_route(
    rng: random.Random, placed: Mapping[str, Stage[..., Any]]
) -> Sequence[Stage[..., Any]]:
    others = [stage for stage in placed.values() if not stage.branches]
    return [dead.named(when=BranchRef(rng.choice(others), "left"))]


def _joins_too_few(
    rng: random.Random, placed: Mapping[str, Stage[..., Any]]
) -> Sequence[Stage[..., Any]]:
    of = rng.sample(list(placed.values()), rng.randint(1, 3))
    return [n_of(len(of) + 1, *of, name="dead")]


def _joins_one_twice(
    rng: random.Random, placed: Mapping[str, Stage[..., Any]]
) -> Sequence[Stage[..., Any]]:
    one = rng.choice(list(placed.values()))
    return [n_of(2, one, one, name="dead")]


WRITINGS: Final[Mapping[str, Writing]] = {
    "a branch that nobody handles": _nobody_handles,
    "a branch that the route has not": _misspelt,
    "a branch of no route": _no_route,
    "a join of too few": _joins_too_few,
    "a join of one branch twice": _joins_one_twice,
}
