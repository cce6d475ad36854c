"""Stages that no choice of branches can ever reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from stageflow.graph.plan import Role
from stageflow.graph.stage import Join

Choices = Mapping[int, str]
"""Route number to the branch that must be chosen."""

Ways = tuple[Choices, ...]
"""Alternatives, any one of which suffices: ({},) is always, () is never."""

Why = Callable[[Sequence[str]], str]
"""Why a stage can't run, given the names of the nodes."""

ALWAYS: Final[Ways] = ({},)
NEEDS: Final = Role.VALUE | Role.RAW | Role.WHEN | Role.FALLBACK
"""Roles of parents without which a stage does not run. Combining flags costs; once is enough."""

WAYS_MAX: Final = 32
"""Alternatives kept per stage; of more, only what they have in common."""


def unreachable(
    order: Sequence[int],
    parents: Sequence[Mapping[int, Role]],
    whens: Mapping[int, tuple[int, str]],
    joins: Mapping[int, Join],
) -> Iterator[tuple[int, Why]]:
    """Each stage that can't run whatever the routes choose, with a function that says why.

    A stage that needs two branches of one route, directly or through its parents, is dead; a join
    is dead when no `need` of its branches can run together. What is behind a dead stage is not
    reported again. Whatever is reported is dead. Nothing dead is missed as long as no stage has
    more than WAYS_MAX alternatives: the general question is as hard as satisfiability, and what is
    in doubt is taken as alive. Time per edge is bounded; stages with equal needs share one value.
    """
    ways: list[Ways] = [ALWAYS] * len(parents)
    for number in order:
        needs: list[Ways] = []
        dead: Why | None = None
        for parent, role in parents[number].items():
            if role & NEEDS:
                needs.append(ways[parent])
        when = whens.get(number)
        if when is not None:
            needs.append(({when[0]: when[1]},))
        join = joins.get(number)
        if join is not None:
            branches = [p for p, role in parents[number].items() if role & Role.OPTIONAL]
            some = _some(join.need, [ways[branch] for branch in branches])
            if not some:
                dead = _never_together(join.need)
            needs.append(some)
        found = ALWAYS
        for need in needs:
            both = _both(found, need)
            if not both:
                dead = dead or _clash(found, need)
                break
            found = both
        if dead is not None:
            yield number, dead
            found = ALWAYS
        ways[number] = found


def _both(left: Ways, right: Ways) -> Ways:
    """What both have; () when no alternative of one goes with one of the other."""
    if right is ALWAYS or left is right:
        return left
    if left is ALWAYS:
        return right
    return _few(
        {**one, **other}
        for one in left
        for other in right
        if all(one.get(route, branch) == branch for route, branch in other.items())
    )


def _either(left: Ways, right: Ways) -> Ways:
    if left is ALWAYS or right is ALWAYS:
        return ALWAYS
    return left if left is right or not right else _few((*left, *right))


def _some(need: int, branches: Sequence[Ways]) -> Ways:
    """How at least `need` of the branches have values together."""
    need -= sum(1 for branch in branches if branch is ALWAYS)
    if need <= 0:
        return ALWAYS
    # reached[n]: how n of the branches looked at so far have values together.
    reached: list[Ways] = [ALWAYS, *[()] * need]
    for branch in branches:
        if branch is not ALWAYS:
            for count in range(need, 0, -1):
                more = _both(reached[count - 1], branch) if reached[count - 1] else ()
                reached[count] = _either(reached[count], more)
    return reached[need]


def _few(alternatives: Iterator[Choices] | Ways) -> Ways:
    """The alternatives without those that ask for more than another does; at most WAYS_MAX."""
    kept = list({frozenset(each.items()): each for each in alternatives}.values())
    if len(kept) > WAYS_MAX:
        common = set(kept[0].items()).intersection(*(each.items() for each in kept))
        kept = [dict(common)]
    elif len(kept) > 1:
        kept = [each for each in kept if not any(other.items() < each.items() for other in kept)]
    return ALWAYS if kept == [{}] else tuple(kept)


def _clash(left: Ways, right: Ways) -> Why:
    """Names the route on which all alternatives differ, when there is one."""
    for route in left[0]:
        ours, theirs = ({each.get(route) for each in ways} for ways in (left, right))
        if None not in ours | theirs and not ours & theirs:
            return lambda names: (
                f"it needs both branch {_or(ours)} and branch {_or(theirs)} "
                f"of route {names[route]!r}"
            )
    return lambda names: "the branches that it needs are never chosen together"


def _or(branches: set[str | None]) -> str:
    return " or ".join(sorted(repr(branch) for branch in branches))


def _never_together(need: int) -> Why:
    return lambda names: f"no {need} of its branches can run in one run"
