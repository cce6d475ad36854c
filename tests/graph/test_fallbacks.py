"""Which node may be whose fallback, and what a fallback changes of a plan."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow import (
    Allow,
    Branch,
    BuildError,
    Decision,
    Pipeline,
    Stage,
    guard,
    route,
    transform,
)
from stageflow.graph import Role


@transform
def spare(x: int) -> int:
    return x


@transform
def other(x: int) -> int:
    return x


@transform(fallback=spare)
def main(x: int) -> int:
    return x


@transform
def taker(main: int) -> int:
    return main


@guard
def strict(main: int) -> Decision:
    return Allow()


def built(*stages: Stage[..., Any], outputs: Any = None) -> Pipeline[Any]:
    return Pipeline("p", stages, inputs={"x": int}, outputs=outputs)


def refused(*stages: Stage[..., Any]) -> BuildError:
    with pytest.raises(BuildError) as caught:
        built(*stages)
    return caught.value


def test_a_fallback_is_no_output_and_takes_none_away() -> None:
    plan = built(main, spare).plan
    assert [plan.nodes[number].name for number in plan.outputs] == ["main"]
    plan = built(main, spare, outputs=[main, spare]).plan
    assert len(plan.outputs) == 2


def test_a_fallback_is_part_of_both_fingerprints() -> None:
    def prints(*stages: Stage[..., Any]) -> dict[str, str]:
        return {node.name: node.fingerprint for node in built(*stages).plan.nodes}

    without = prints(main.named(fallback=other), spare, other)
    with_one = prints(main, spare, other)
    assert without["main"] != with_one["main"]
    assert without["spare"] != with_one["spare"] and without["other"] != with_one["other"]


def test_a_fallback_is_drawn() -> None:
    pipeline = built(main, spare, taker)
    assert "fallback of main" in pipeline.draw()
    assert "main -. falls back to .-> spare" in pipeline.draw("mermaid")
    parents = dict(pipeline.plan.parents[pipeline.plan.index["spare"]])
    assert parents == {pipeline.plan.index["main"]: Role.FALLBACK}


def test_a_name_that_is_no_node_comes_with_the_nearest() -> None:
    error = refused(main.named(fallback="spar"), spare)
    assert (error.code, error.field, error.fix) == (
        "graph.unknown_stage",
        "fallback",
        "did you mean 'spare'?",
    )
    assert refused(main).code == "graph.unknown_stage"


def test_another_type_is_refused() -> None:
    @transform
    def text(x: int) -> str:
        return str(x)

    error = refused(main.named(fallback=text), text)
    assert (error.code, error.field) == ("graph.type_mismatch", "fallback")
    assert (error.expected, error.got) == ("int", "str from 'text'")


@pytest.mark.parametrize("fallback", [taker, spare.named("late", after=main), strict])
def test_a_fallback_does_not_wait_for_its_node(fallback: Stage[..., Any]) -> None:
    error = refused(main.named(fallback=fallback.name), fallback)
    assert error.code == "graph.fallback" and error.got == fallback.name


def test_a_fallback_behind_its_node_is_a_cycle() -> None:
    behind = spare.named("behind", x=taker)
    assert refused(main.named(fallback=behind), taker, behind).code == "graph.cycle"


def test_fallbacks_end_somewhere_and_stand_for_one_node() -> None:
    assert refused(main.named(fallback="main")).code == "graph.fallback"
    error = refused(main.named(fallback="spare"), spare.named(fallback="main"))
    assert error.code == "graph.fallback" and "itself" in str(error)
    error = refused(main, spare, other.named(fallback=spare))
    assert error.code == "graph.fallback"
    assert error.fix == "place it twice: fallback=spare.named('spare_b')"


def test_a_guard_has_no_fallback_and_a_route_has_a_route() -> None:
    assert refused(main, spare, strict.named(fallback=spare)).code == "graph.fallback"

    @route(branches=("a", "b"))
    def way(x: int) -> Branch:
        return Branch("a")

    @route(branches=("a", "c"))
    def elsewhere(x: int) -> Branch:
        return Branch("c")

    assert refused(way.named(fallback=spare), spare).code == "graph.fallback"
    assert refused(main.named(fallback=way), way).code == "graph.fallback"
    error = refused(way.named(fallback=elsewhere), elsewhere)
    assert error.code == "graph.fallback" and "'c'" in str(error)


def test_guards_must_not_need_to_know_what_becomes_of_the_fallback() -> None:
    @guard(of="main")
    def compares(main: int, spare: int) -> Decision:
        return Allow()

    error = refused(main, spare, compares)
    assert error.code == "graph.fallback" and "before they have decided" in str(error)
    both = guard(lambda main, spare: Allow(), name="both")
    assert refused(main, spare, both).code in ("graph.fallback", "graph.cycle", "build.several")
    assert built(main, spare, strict, strict.named("of_spare", main="spare"))


def test_a_fallback_on_another_branch_than_its_node_can_never_run() -> None:
    @route(branches=("a", "b"))
    def way(x: int) -> Branch:
        return Branch("a")

    error = refused(way, main.named(when=way.branch("a")), spare.named(when=way.branch("b")), taker)
    assert error.code == "graph.unreachable" and error.node == "spare"
