"""Stages that no choice of branches can ever reach."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from stageflow.graph.plan import Role
from stageflow.graph.stage import Join

Choices = Mapping[int, str]
"""Route number to the branch that must be chosen."""

_COMBINATIONS_MAX = 4096


def unreachable(
    order: Sequence[int],
    parents: Sequence[Mapping[int, Role]],
    whens: Mapping[int, tuple[int, str]],
    joins: Mapping[int, Join],
) -> Iterator[tuple[int, Callable[[Sequence[str]], str]]]:
    """Each stage that can't run whatever the routes choose, with a function that says why.

    A stage that needs two branches of one route, directly or through its parents, is dead; a join
    is dead when no `need` of its branches can run together. Joins with more than 4,096
    combinations are taken as alive, so there are no false reports. Linear but for those joins;
    stages with equal needs share one mapping.
    """
    needs: list[Choices] = [{}] * len(parents)
    for number in order:
        need: Choices = {}
        dead: Callable[[Sequence[str]], str] | None = None
        for parent, role in parents[number].items():
            if role & (Role.VALUE | Role.RAW | Role.WHEN):
                need, clash = _both(need, needs[parent])
                dead = dead or clash
        when = whens.get(number)
        if when is not None:
            need, clash = _both(need, {when[0]: when[1]})
            dead = dead or clash
        join = joins.get(number)
        if join is not None:
            branches = [p for p, role in parents[number].items() if role & Role.OPTIONAL]
            common = _of_join(join.need, [needs[branch] for branch in branches])
            if common is None:
                dead = dead or _never_together(join.need)
            else:
                need, clash = _both(need, common)
                dead = dead or clash
        if dead is not None:
            yield number, dead
            need = {}
        needs[number] = need


def _both(left: Choices, right: Choices) -> tuple[Choices, Callable[[Sequence[str]], str] | None]:
    if not right or left is right:
        return left, None
    if not left:
        return right, None
    for route, branch in right.items():
        if left.get(route, branch) != branch:
            return left, _clash(route, left[route], branch)
    return {**left, **right}, None


def _of_join(need: int, branches: Sequence[Choices]) -> Choices | None:
    """What holds whenever the join fires; None when it never can."""
    if need == 1:
        common = dict(branches[0])
        for other in branches[1:]:
            common = {r: b for r, b in common.items() if other.get(r) == b}
        return common
    combinations = itertools.combinations(branches, need)
    for tried, several in enumerate(combinations):
        if tried >= _COMBINATIONS_MAX:
            return {}
        together: Choices | None = {}
        for choices in several:
            assert together is not None
            together, clash = _both(together, choices)
            if clash is not None:
                together = None
                break
        if together is not None:
            return {}
    return None


def _clash(route: int, first: str, second: str) -> Callable[[Sequence[str]], str]:
    return lambda names: (
        f"it needs both branch {first!r} and branch {second!r} of route {names[route]!r}"
    )


def _never_together(need: int) -> Callable[[Sequence[str]], str]:
    return lambda names: f"no {need} of its branches can run in one run"
