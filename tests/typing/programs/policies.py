"""Fallbacks, merges and overrides keep the types of what they stand in for."""

from __future__ import annotations

import operator
from typing import assert_type

from stageflow import Branch, Pipeline, Stage, enrich, merge_of, merges, route, transform


@enrich
async def spare(text: str) -> list[str]:
    return [text]


@enrich(fallback=spare)
async def notes(text: str) -> list[str]:
    return [text]


@enrich(fallback="spare", on_failure="isolate")
async def by_name(text: str) -> list[str]:
    return [text]


@route(fallback="other_way")
def way(text: str) -> Branch:
    return Branch("left")


@transform
def length(text: str) -> int:
    return len(text)


@transform(fallback=3)  # refused: mypy, pyright
def wrong_fallback(text: str) -> int:
    return len(text)


renamed = notes.named("second", fallback=spare)
united = merge_of(notes, spare, with_=merges.union, name="united")
appended = merge_of(notes, spare, with_=merges.append, name="appended")
assert_type(united, Stage[[], list[str]])
assert_type(appended, Stage[[], list[str]])


def longer(first: list[str], second: list[str]) -> list[str]:
    return max(first, second, key=len)


def add(first: int, second: int) -> int:
    return first + second


merged = merge_of(notes, spare, with_=longer, name="merged", at_least=2)
summed = merge_of(length, length.named("again"), with_=operator.add, name="summed")
merge_of(notes, spare, with_=add, name="wrong")  # refused: mypy, pyright
merge_of(notes, spare, name="nothing_to_fold")  # refused: mypy, pyright
notes.named(fallback=3)  # refused: mypy, pyright

pipeline = Pipeline("typed", [notes, spare, merged], inputs={"text": str}, outputs=merged)
assert_type(pipeline.override(notes=["fake"]), Pipeline[list[str]])


async def run_types() -> None:
    run = await pipeline.override(spare=["fake"]).run(text="some")
    assert_type(run.output, list[str])
    assert_type(run[notes], list[str])
    assert_type(run[renamed], list[str])
    assert_type(run[merged], list[str])
    assert_type(run[summed], int)
    assert_type(run.nodes["notes"].fallback, str | None)
