"""What nodes of one type share, so that a pipeline of many stages stays small."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stageflow import Pipeline, transform


@transform
def link(x: int) -> int:
    return x + 1


def test_stages_of_one_template_share_one_contract() -> None:
    stages = [link.named("s0"), *(link.named(f"s{n}", x=f"s{n - 1}") for n in range(1, 5))]
    plan = Pipeline("chain", stages, inputs={"x": int}).plan
    assert len({id(node.contract) for node in plan.nodes}) == 1


def test_types_that_are_equal_and_not_the_same_keep_contracts_of_their_own() -> None:
    @transform
    def loose(x: int) -> Annotated[int, Field(gt=0), 1]:
        return x

    @transform
    def strict(loose: int) -> Annotated[int, Field(gt=0), True]:
        return loose

    plan = Pipeline("two", [loose, strict], inputs={"x": int}).plan
    assert plan.nodes[0].contract is not plan.nodes[1].contract
