"""Several nodes contribute to one value: in declared order, whatever comes first."""

from __future__ import annotations

import asyncio
import itertools
import operator
from typing import Any

import pytest

from stageflow import (
    Block,
    Decision,
    Pipeline,
    Run,
    StageOutput,
    first_of,
    guard,
    merge_of,
    merges,
    transform,
)
from stageflow.sim import Sim, simulate
from stageflow.testing import crash_at_every_record


def note(name: str, *, after_s: float = 0.0, gives: Any = None) -> Any:
    async def body(x: int) -> list[str]:
        await asyncio.sleep(after_s)
        if isinstance(gives, BaseException):
            raise gives
        return gives if gives is not None else [name, "shared"]

    return transform(body, name=name, on_failure="isolate")


def desk(*branches: Any, with_: Any = merges.union, **options: Any) -> Pipeline[Any]:
    joined = merge_of(*branches, with_=with_, name="notes", **options)
    return Pipeline("desk", [joined, *branches], inputs={"x": int}, outputs=joined)


@pytest.mark.parametrize("waits", list(itertools.permutations([0.0, 1.0, 2.0])))
def test_values_are_merged_in_declared_order_whatever_comes_first(waits: Any) -> None:
    pipeline = desk(*(note(n, after_s=s) for n, s in zip("abc", waits, strict=True)))

    async def main(sim: Sim) -> Run[Any]:
        return await pipeline.run(x=1)

    assert simulate(main, seed=1).value.output == ["a", "shared", "b", "c"]


def test_equal_inputs_give_equal_values_under_every_schedule() -> None:
    pipeline = desk(*(note(n, after_s=0.001) for n in "abcdef"), with_=operator.add)

    async def main(sim: Sim) -> Run[Any]:
        return await pipeline.run(x=1)

    found = {tuple(simulate(main, seed=seed).value.output) for seed in range(40)}
    assert found == {tuple(word for name in "abcdef" for word in (name, "shared"))}


async def test_branches_without_a_value_are_left_out_down_to_the_least() -> None:
    branches = note("a"), note("b", gives=StageOutput.skip("none")), note("c", gives=OSError("x"))
    run = await desk(*branches).run(x=1)
    assert run.output == ["a", "shared"] and run.status == "partial"
    run = await desk(*branches, at_least=2).run(x=1)
    assert run.nodes["notes"].state == "skipped"
    assert (run.nodes["notes"].cause, run.nodes["notes"].blame) == ("parent_failed", "c")
    run = await desk(note("a"), note("b", gives=StageOutput.skip("none")), at_least=2).run(x=1)
    assert run.nodes["notes"].cause == "too_few_values"


async def test_a_merge_changes_nobodys_value() -> None:
    def greedy(first: list[str], second: list[str]) -> list[str]:
        first += second
        return first

    a, b = note("a"), note("b")
    run = await desk(a, b, with_=greedy).run(x=1)
    assert run[a] == ["a", "shared"] and run.output == ["a", "shared", "b", "shared"]


async def test_a_merge_that_fails_or_breaks_its_type_is_a_failure_of_the_join() -> None:
    @transform
    async def one(x: int) -> dict[str, int]:
        return {"k": 1}

    @transform
    async def two(x: int) -> dict[str, int]:
        return {"k": 2}

    run = await desk(one, two).run(x=1)
    assert (run.status, run.reason) == ("failed", "merge.conflict")
    assert run[one] == {"k": 1} and run[two] == {"k": 2}, "both values are kept"
    run = await desk(one, two, with_=lambda first, second: "neither").run(x=1)
    assert run.reason == "contract.violated"
    run = await desk(one, two, with_=operator.or_).run(x=1)
    assert run.output == {"k": 2}


async def test_the_value_of_a_guarded_branch_is_merged_when_it_is_released() -> None:
    @guard
    async def strict(a: list[str]) -> Decision:
        return Block("no")

    a, b = note("a"), note("b")
    joined = merge_of(a, b, with_=merges.union, name="notes")
    pipeline = Pipeline("desk", [a, b, strict, joined], inputs={"x": int}, outputs=joined)
    run = await pipeline.run(x=1)
    assert run.status == "ok" and run.output == ["b", "shared"]


def test_a_crash_at_every_record_merges_the_same() -> None:
    crashes = crash_at_every_record(desk(note("a"), note("b"), note("c")), {"x": 1})
    assert [crash.run.output for crash in crashes] == [["a", "shared", "b", "c"]] * len(crashes)


async def test_the_order_of_a_joins_branches_stands_whatever_it_comes_after() -> None:
    a, b = note("a"), note("b")
    chosen = first_of(a, b, name="chosen").named(after=b)
    run = await Pipeline("p", [a, b, chosen], inputs={"x": int}, outputs=chosen).run(x=1)
    assert run.output == ["a", "shared"]
