"""What may be merged, into which type, and what is refused when a pipeline is built."""

from __future__ import annotations

import operator
from typing import Any

import pytest

from stageflow import BuildError, ContractError, Pipeline, Stage, merge_of, merges, transform


def giver(name: str, returns: Any) -> Stage[..., Any]:
    def give(x: int) -> Any:
        raise AssertionError("never run here")

    give.__annotations__["return"] = returns
    return transform(give, name=name)


def built(*branches: Stage[..., Any], with_: Any, **options: Any) -> Pipeline[Any]:
    joined = merge_of(*branches, with_=with_, name="all", **options)
    return Pipeline("p", [*branches, joined], inputs={"x": int}, outputs=joined)


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        (list[str], list[str], "list[str]"),
        (list[str], list[int], "list[str | int]"),
        (set[str], set[int], "set[str | int]"),
        (dict[str, int], dict[str, str], "dict[str, int | str]"),
        (list[str], set[str], "list[str] | set[str]"),
        (list[str], Any, "Any"),
    ],
)
def test_the_type_of_a_merge_follows_from_its_branches(
    first: Any, second: Any, merged: str
) -> None:
    pipeline = built(giver("a", first), giver("b", second), with_=merges.union)
    contract = pipeline.plan.nodes[pipeline.plan.index["all"]].contract
    assert contract.describe() == merged


def test_a_merge_of_ones_own_says_what_it_takes_and_returns() -> None:
    def longer(first: str, second: str) -> str:
        return max(first, second, key=len)

    assert built(giver("a", str), giver("b", str), with_=longer)
    with pytest.raises(BuildError) as caught:
        built(giver("a", str), giver("b", int), with_=longer)
    assert caught.value.code == "graph.type_mismatch"
    assert caught.value.got == "int from 'b'" and caught.value.expected == "str"

    def counts(first: str, second: str) -> int:
        return len(first + second)

    with pytest.raises(BuildError) as caught:
        built(giver("a", str), giver("b", str), with_=counts)
    assert caught.value.got == "int from the merge itself"


async def awaited(first: Any, second: Any) -> Any:
    return first


@pytest.mark.parametrize("with_", ["union", None, len, awaited, lambda: 1, lambda a, b, c: a])
def test_what_can_not_be_folded_is_refused(with_: Any) -> None:
    with pytest.raises(BuildError) as caught:
        built(giver("a", str), giver("b", str), with_=with_)
    assert caught.value.code == "graph.merge" and caught.value.field == "with_"


def test_a_merge_needs_as_many_branches_as_it_asks_for() -> None:
    with pytest.raises(BuildError) as caught:
        built(giver("a", str), with_=operator.add, at_least=2)
    assert caught.value.code == "graph.join_never_fires"


def test_the_order_of_branches_and_the_merge_are_part_of_the_fingerprint() -> None:
    a, b = giver("a", list[str]), giver("b", list[str])
    prints = {
        pipeline.plan.nodes[pipeline.plan.index["all"]].fingerprint
        for pipeline in (
            built(a, b, with_=merges.union),
            built(b, a, with_=merges.union),
            built(a, b, with_=merges.append),
            built(a, b, with_=merges.append, at_least=2),
        )
    }
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        ([1, 2], [2, 3, 3], [1, 2, 3]),
        ([[1]], [[1], [2]], [[1], [2]]),
        ({1}, {2}, {1, 2}),
        (frozenset({1}), frozenset({2}), frozenset({1, 2})),
        ({"a": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 2}),
    ],
)
def test_a_union_has_everything_once(first: Any, second: Any, merged: Any) -> None:
    assert merges.union(first, second) == merged


def test_nothing_is_lost_without_a_word() -> None:
    with pytest.raises(ContractError) as caught:
        merges.union({"a": 1}, {"a": 2})
    assert caught.value.code == "merge.conflict"
    for merge, first, second in (
        (merges.union, [1], {1}),
        (merges.append, {1}, {1}),
        (merges.union, 1, 1),
    ):
        with pytest.raises(ContractError) as caught:
            merge(first, second)
        assert caught.value.code == "merge.unlike"
