"""Annotations resolve where the stage is decorated, else when its pipeline is built."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from typing import Any

import pytest

from stageflow import BuildError, Pipeline, StageOutput, Stream, agent, transform


def test_classes_of_the_decorating_function_are_known() -> None:
    class Note(str):
        """Known only here."""

    @transform
    def note(text: str) -> Note:
        return Note(text)

    @transform(name="plain")
    def read(note: Note) -> str:
        return str(note)

    assert note.returns is Note and read.parameters[0].annotation is Note


@transform
def early(text: str) -> Later:
    return Later(text)


@dataclass(frozen=True)
class Later:
    """Defined after the stage that returns it."""

    text: str


def test_what_is_defined_later_is_known_when_the_pipeline_is_built() -> None:
    assert early.unresolved is not None
    built = Pipeline("desk", [early], inputs={"text": str}, outputs=early)
    (node,) = built.plan.nodes
    assert node.stage is not None and node.stage.returns is Later
    run = asyncio.run(built.run(text="a"))
    assert run.output == Later("a")


def test_a_name_that_nobody_knows_is_told_when_the_pipeline_is_built() -> None:
    @transform
    def odd(text: Unheard) -> str:  # type: ignore[name-defined]  # noqa: F821
        return ""

    with pytest.raises(BuildError) as caught:
        Pipeline("desk", [odd], inputs={"text": str})
    assert (caught.value.code, caught.value.node) == ("stage.annotation", "odd")
    assert "Unheard" in str(caught.value)


def test_outcomes_are_no_part_of_the_value_and_streams_are_lists() -> None:
    @transform
    def maybe(text: str) -> str | StageOutput:
        return text

    @agent
    async def words(text: str) -> Stream[str]:
        for word in text.split():
            yield word

    @transform
    def anything(text: Any):  # type: ignore[no-untyped-def]
        return text

    assert maybe.returns is str and words.returns == list[str] and anything.returns is Any


def test_an_object_with_execute_is_a_stage() -> None:
    class Retriever:
        def __init__(self, k: int) -> None:
            self.k = k

        async def execute(self, text: str) -> list[str]:
            return [text] * self.k

    evidence = transform(Retriever(2), name="evidence")
    built = Pipeline("desk", [evidence], inputs={"text": str}, outputs=evidence)
    assert asyncio.run(built.run(text="a")).output == ["a", "a"]
    assert evidence.mode == "async" and evidence.parameters[0].annotation is str


def test_an_annotation_that_can_not_be_evaluated_is_told_too() -> None:
    @transform
    def odd(text: int | "str") -> str:  # type: ignore[operator]  # noqa: UP037
        return ""

    with pytest.raises(BuildError) as caught:
        Pipeline("desk", [odd], inputs={"text": str})
    assert (caught.value.code, caught.value.node) == ("stage.annotation", "odd")
    assert "unsupported operand" in str(caught.value)


class Shout:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __call__(self, text: str) -> str:
        return text + self.mark


class AsyncShout(Shout):
    async def __call__(self, text: str) -> str:  # type: ignore[override]
        return text + self.mark


class Runner(Shout):
    execute = AsyncShout("!")


def with_mark(mark: str, text: str) -> str:
    return text + mark


async def with_mark_later(mark: str, text: str) -> str:
    return text + mark


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (functools.partial(with_mark, "!"), "with_mark"),
        (functools.partial(functools.partial(with_mark_later), "!"), "with_mark_later"),
        (Shout("!"), "shout"),
        (AsyncShout("!"), "asyncshout"),
        (Shout("!").__call__, "__call__"),
        (Runner("?"), "runner"),
    ],
)
def test_partials_and_objects_that_can_be_called_are_stages(body: Any, name: str) -> None:
    stage = transform(body)
    assert stage.name == name
    assert [(each.name, each.annotation) for each in stage.parameters] == [("text", str)]
    assert stage.returns is str
    run = asyncio.run(Pipeline("desk", [stage], inputs={"text": str}, outputs=stage).run(text="a"))
    assert run.output == "a!"


@pytest.mark.parametrize("body", [functools.partial(with_mark, "!"), Shout("!")])
def test_a_child_process_must_find_what_it_is_to_call(body: Any) -> None:
    stage = transform(place="process", name="shout")(body)
    with pytest.raises(BuildError) as caught:
        asyncio.run(Pipeline("desk", [stage], inputs={"text": str}, outputs=stage).run(text="a"))
    assert caught.value.code == "stage.place_process"
