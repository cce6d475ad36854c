"""Branches: what can never run is refused at build, and nothing else is."""

from __future__ import annotations

import pytest

from stageflow import (
    Branch,
    BranchRef,
    BuildError,
    Pipeline,
    Stage,
    first_of,
    n_of,
    route,
    transform,
)
from stageflow.graph import reach


@route(branches=("a", "b", "c"))
def way() -> Branch:
    return Branch("a")


@transform
def leaf() -> str:
    return "leaf"


@transform
def needs(left: object) -> str:
    return "needs"


@transform
def needs_one(left: object, right: object = None) -> str:
    return "one"


@transform
def needs_both(left: object, right: object) -> str:
    return "both"


A = leaf.named("on_a", when=way.branch("a"))
B = leaf.named("on_b", when=way.branch("b"))
C = leaf.named("on_c", when=way.branch("c"))
A_OR_B = first_of(A, B, name="a_or_b")
B_OR_C = first_of(B, C, name="b_or_c")
HANDLED = [way, A, B, C, A_OR_B, B_OR_C]


def refused(*stages: Stage[..., object]) -> BuildError:
    with pytest.raises(BuildError) as raised:
        Pipeline("p", [*HANDLED, *stages])
    return raised.value


def test_a_stage_on_a_third_branch_can_not_take_a_join_of_the_other_two() -> None:
    error = refused(needs.named("dead", left=A_OR_B, when=way.branch("c")))
    assert (error.code, error.node) == ("graph.unreachable", "dead")
    assert "branch 'a' or 'b' and branch 'c' of route 'way'" in str(error)


def test_two_joins_without_a_branch_in_common_never_have_values_together() -> None:
    only_a = first_of(A, name="only_a")
    error = refused(only_a, needs_both.named("dead", left=only_a, right=B_OR_C))
    assert (error.code, error.node) == ("graph.unreachable", "dead")


def test_joins_with_a_branch_in_common_may_have_values_together() -> None:
    alive = needs_both.named("alive", left=A_OR_B, right=B_OR_C)
    below = needs.named("below", left=alive, when=way.branch("b"))
    Pipeline("p", [*HANDLED, alive, below])
    error = refused(alive, needs.named("dead", left=alive, when=way.branch("a")))
    assert (error.code, error.node) == ("graph.unreachable", "dead")


def test_a_join_of_several_needs_branches_that_run_together() -> None:
    always = leaf.named("always")
    alive = n_of(2, A, B, always, name="alive")
    Pipeline("p", [*HANDLED, always, alive])
    assert refused(always, n_of(3, A, B, always, name="dead")).node == "dead"


def test_a_default_or_an_order_asks_for_no_branch() -> None:
    left = needs_one.named("with_default", left=A, right=B)
    after = leaf.named("later", after=A, when=way.branch("b"))
    Pipeline("p", [*HANDLED, left, after])


def test_what_is_behind_a_dead_stage_is_not_reported_again() -> None:
    dead = needs_both.named("dead", left=A, right=B)
    assert refused(dead, needs.named("behind", left=dead)).node == "dead"


def test_a_branch_that_its_route_does_not_have_is_refused_however_it_was_written() -> None:
    error = refused(leaf.named("dead", when=BranchRef(way, "d")))
    assert (error.code, error.node) == ("graph.unknown_branch", "dead")


def test_a_branch_of_a_stage_that_is_no_route_is_refused() -> None:
    error = refused(leaf.named("dead", when=BranchRef(A, "a")))
    assert (error.code, error.node) == ("stage.no_branches", "dead")


def test_more_alternatives_than_are_kept_are_taken_as_alive() -> None:
    routes = [way.named(f"way{n}") for n in range(reach.WAYS_MAX + 1)]
    sides = [
        leaf.named(f"side{n}{branch}", when=BranchRef(each, branch))
        for n, each in enumerate(routes)
        for branch in "abc"
    ]
    some = first_of(*sides[::3], name="some")
    Pipeline("p", [*routes, *sides, some, needs.named("alive", left=some)])
