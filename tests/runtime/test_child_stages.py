"""Pipelines as stages of pipelines: what the parent sees, and what it never does."""

from __future__ import annotations

import asyncio
from typing import Any, NotRequired

import pytest
from pydantic import BaseModel

from stageflow import Context, Pipeline, Retry, Runtime, enrich, guard, transform
from stageflow.model.outputs import Allow, Block, Decision
from stageflow.testing import assert_replays, crash_at_every_record, memory_journal


class Score(BaseModel):
    letters: int


@transform
async def score(text: str) -> Score:
    return Score(letters=len(text))


@transform
async def why(score: Score) -> str:
    return f"{score.letters} letters"


@transform
async def hidden(text: str) -> str:
    return "never seen"


CHECKS = Pipeline("checks", [score, why, hidden], inputs={"text": str}, outputs=[score, why])


@transform
async def question(raw: str) -> str:
    return raw.strip()


@transform
async def answer(quality: Score) -> int:
    return quality.letters * 2


REVIEW = CHECKS.as_stage("review", exports={"quality": score}).named(text=question)
DESK = Pipeline("desk", [question, REVIEW, answer], inputs={"raw": str}, outputs=answer)


async def test_the_parent_sees_the_output_and_the_exports_and_nothing_else() -> None:
    run = await DESK.run(raw=" abc ")
    assert run.output == 6
    assert run["quality"] == Score(letters=3)
    assert run[REVIEW] == {"score": Score(letters=3), "why": "3 letters"}
    assert list(run.snapshot) == ["question", "review", "quality", "answer"]


async def test_a_child_with_one_output_gives_it_as_its_value() -> None:
    only = Pipeline("only", [score], inputs={"text": str}, outputs=score)
    review = only.as_stage("review", exports={"quality": "score"}).named(text=question)
    run = await Pipeline("desk", [question, review, answer], inputs={"raw": str}).run(raw="abcd")
    assert run[review] == run["quality"] == Score(letters=4)
    assert run[answer] == 8


async def test_stages_of_one_name_in_parent_and_child_are_two() -> None:
    """The child's `score` and the parent's lie in two bags; the child's is exported as `inner`."""

    @transform(name="score")
    async def own(raw: str) -> str:
        return f"parent's {raw}"

    seen: list[Any] = []

    @transform
    async def both(score: str, inner: Score) -> str:
        seen.append((score, inner))
        return score

    review = CHECKS.as_stage("review", exports={"inner": score}).named(text="raw")
    desk = Pipeline("desk", [own, review, both], inputs={"raw": str}, outputs=both)
    run = await desk.run(raw="ab")
    assert seen == [("parent's ab", Score(letters=2))]
    assert run["score"] == "parent's ab"


async def test_one_pipeline_stands_twice_under_names_of_their_own() -> None:
    first = CHECKS.as_stage("first", exports={"one": score}).named(text="raw")
    second = CHECKS.as_stage("second", exports={"two": score}).named(text=question)
    run = await Pipeline("desk", [question, first, second], inputs={"raw": str}).run(raw=" abc ")
    assert (run["one"].letters, run["two"].letters) == (5, 3)


async def test_exports_pass_the_guards_of_the_parent() -> None:
    @guard
    def short(quality: Score) -> Decision:
        return Block("too long") if quality.letters > 3 else Allow()

    desk = Pipeline("desk", [question, REVIEW, short, answer], inputs={"raw": str}, outputs=answer)
    assert (await desk.run(raw="abc")).output == 6
    blocked = await desk.run(raw="abcd")
    assert blocked.status == "blocked" and "quality" not in blocked


async def test_a_child_that_fails_fails_its_stage_and_exports_nothing() -> None:
    @transform(name="score")
    async def broken(text: str) -> Score:
        raise ValueError("no")

    checks = Pipeline("checks", [broken], inputs={"text": str}, outputs=broken)
    review = checks.as_stage("review", exports={"quality": broken}).named(
        text=question, on_failure="isolate"
    )

    @transform
    async def plain(question: str) -> str:
        return question

    desk = Pipeline(
        "desk", [question, review, answer, plain], inputs={"raw": str}, outputs=[answer, plain]
    )
    run = await desk.run(raw="abc")
    assert run.status == "partial" and run[plain] == "abc"
    assert run.nodes["quality"].state == "skipped" and run.nodes["quality"].blame == "review"
    assert run.failures["review"].path == ("review", "score")


async def test_a_child_that_is_given_up_leaves_its_parent_as_it_was() -> None:
    """
    1. the stage's time is over while its child's stage waits; that one swallows its cancellation
    2. the next attempt's child ends in time
    3. the first child's stage returns a value all the same
    """
    began: list[str] = []

    @enrich(name="score")
    async def stubborn(text: str, ctx: Context) -> Score:
        began.append(ctx.identity.run)
        if len(began) == 1:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(0.01)
            return Score(letters=99)
        return Score(letters=1)

    checks = Pipeline("checks", [stubborn], inputs={"text": str}, outputs=[stubborn])
    review = checks.as_stage("review", exports={"quality": stubborn}).named(
        text=question, timeout=0.05, retry=Retry(attempts=2, base_s=0.001)
    )
    desk = Pipeline("desk", [question, review, answer], inputs={"raw": str}, outputs=answer)
    run = await desk.run(raw="abc")
    assert run.is_ok and run.output == 2 and len(set(began)) == 2


async def test_optional_inputs_of_the_child_may_be_left_out() -> None:
    @transform
    async def greet(name: str, title: str = "Dr") -> str:
        return f"{title} {name}"

    greeting = Pipeline(
        "greeting", [greet], inputs={"name": str, "title": NotRequired[str]}, outputs=greet
    )
    desk = Pipeline(
        "desk",
        [greeting.as_stage("hello", exports={"said": greet})],
        inputs={"name": str, "title": NotRequired[str]},
        outputs=["said"],
    )
    assert (await desk.run(name="Who")).output == {"said": "Dr Who"}
    assert (await desk.run(name="Who", title="Mr")).output == {"said": "Mr Who"}


async def test_journalled_exports_keep_their_type_and_replay() -> None:
    async with Runtime(journal=memory_journal()) as runtime:
        run = await DESK.using(runtime=runtime).run(raw=" abc ")
        again = await runtime.resume(run.id, pipeline=DESK)
        assert again["quality"] == Score(letters=3)
        assert again[REVIEW]["score"] == Score(letters=3)
        await assert_replays(runtime, run.id, pipeline=DESK)


def test_a_crash_anywhere_gives_the_same_context() -> None:
    crashes = crash_at_every_record(DESK, {"raw": " abc "})
    assert len(crashes) > 8
    for crash in crashes:
        assert crash.run.is_ok and crash.run.output == 6, crash.records
        assert crash.run["quality"] == Score(letters=3)


def test_a_child_is_drawn_with_its_exports() -> None:
    drawn = DESK.draw()
    assert "child     review" in drawn and "export    quality" in drawn
    assert "review --> quality" in DESK.draw("mermaid")


@pytest.mark.parametrize("form", [[score], {"score": score}, ["score"], {"score": "score"}])
def test_exports_are_given_as_stages_or_names(form: Any) -> None:
    stage = CHECKS.as_stage("review", exports=form).named(text=question)
    desk = Pipeline("desk", [question, stage], inputs={"raw": str}, outputs=["score"])
    assert [node.name for node in desk.plan.nodes] == ["question", "review", "score"]


async def test_a_child_its_exports_and_what_takes_them_are_replaced_in_tests() -> None:
    run = await DESK.override(answer=5).run(raw="abc")
    assert run.output == 5 and run["quality"] == Score(letters=3) and run[REVIEW]["why"]
    assert (await DESK.override(quality=Score(letters=9)).run(raw="abc")).output == 18
    fake = {"score": Score(letters=7), "why": "because"}
    run = await DESK.override(review=fake).run(raw="abc")
    assert run.output == 14 and run[REVIEW] == fake


async def test_a_child_that_fails_falls_back_and_exports_the_others_value() -> None:
    @transform(name="score")
    async def broken(text: str) -> Score:
        raise ValueError("no")

    first = Pipeline("first", [broken], inputs={"text": str}, outputs=[broken])
    other = Pipeline("other", [score], inputs={"text": str}, outputs=[score])
    spare = other.as_stage("spare").named(text=question)
    review = first.as_stage("review", exports={"quality": broken}).named(
        text=question, fallback=spare
    )
    desk = Pipeline("desk", [question, review, spare, answer], inputs={"raw": str}, outputs=answer)
    run = await desk.run(raw="abc")
    assert run.output == 6 and run["quality"] == Score(letters=3)
    assert run.failures["review"].path == ("review", "score")
