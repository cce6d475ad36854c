"""Guards send values back: revisions, feedback, bounds, best candidates, and what consumers see."""

from __future__ import annotations

import asyncio

import pytest

from stageflow import (
    Allow,
    Block,
    Context,
    Decision,
    Feedback,
    Pipeline,
    Progress,
    Redact,
    Retry,
    Revise,
    Run,
    Runtime,
    StageFailed,
    Stall,
    agent,
    first_of,
    guard,
    transform,
)
from stageflow.testing import assert_replays, crash_at_every_record, memory_journal


@agent(revisions=4)
async def draft(topic: str, feedback: Feedback | None) -> str:
    return topic if feedback is None else f"{topic}{'!' * (feedback.revision - 1)}"


@guard
async def loud(draft: str) -> Decision:
    return Allow() if draft.count("!") >= 2 else Revise("louder", score=draft.count("!"))


@transform
async def printed(draft: str) -> str:
    return f"<{draft}>"


async def test_consumers_get_the_accepted_revision_only() -> None:
    run = await Pipeline(
        "loop", [draft, loud, printed], inputs={"topic": str}, outputs=printed
    ).run(topic="hi")
    assert (run.status, run.output, run[draft]) == ("ok", "<hi!!>", "hi!!")
    assert run.nodes["draft"].revision == 3
    assert run.nodes["printed"].attempts == 1
    assert [(one.value, one.feedback) for one in run.candidates(draft)] == [
        ("hi", ("louder",)),
        ("hi!", ("louder",)),
    ]


async def test_every_attempt_of_a_revision_sees_its_number() -> None:
    seen: list[tuple[int, int]] = []

    @agent(revisions=3, retry=Retry(attempts=2, base_s=0.0), name="draft")
    async def counted(ctx: Context, topic: str) -> str:
        seen.append((ctx.revision, ctx.attempt))
        if len(seen) == 3:
            raise OSError("again")
        return topic + "!" * (ctx.revision - 1)

    run = await Pipeline("loop", [counted, loud], inputs={"topic": str}, outputs=counted).run(
        topic="hi"
    )
    assert (run.status, run.output) == ("ok", "hi!!")
    assert seen == [(1, 1), (2, 1), (3, 1), (3, 2)]


async def test_a_loop_that_never_passes_ends_exhausted_with_its_best_candidate() -> None:
    scores = {"hi": 0.2, "hi!": 0.9, "hi!!": 0.9, "hi!!!": 0.1}

    @guard
    async def never(draft: str) -> Decision:
        return Revise("no", score=scores[draft])

    run = await Pipeline("loop", [draft, never], inputs={"topic": str}, outputs=draft).run(
        topic="hi"
    )
    assert (run.status, run.reason) == ("failed", "exhausted")
    assert len(run.candidates(draft)) == 4
    assert run.best(draft) == "hi!!", "the latest of the highest"
    with pytest.raises(StageFailed, match="exhausted"):
        _ = run.output


async def test_a_value_that_comes_back_unchanged_ends_the_loop() -> None:
    made = 0

    @agent(revisions=50)
    async def stubborn(topic: str, feedback: Feedback | None) -> list[str]:
        nonlocal made
        made += 1
        return [topic]

    @guard
    async def never(stubborn: list[str]) -> Decision:
        return Revise("something else")

    run = await Pipeline("loop", [stubborn, never], inputs={"topic": str}, outputs=stubborn).run(
        topic="hi"
    )
    assert run.reason == "exhausted"
    assert made == 3, "one that comes back once may be chance"
    assert run.stall(stubborn) == Stall("repeat", 1, since=1, revision=3)
    assert "the same value came again" in str(run.failure)
    assert [one.guards for one in run.candidates(stubborn)] == [("never",)] * 3


async def test_a_loop_that_may_repeat_itself_is_ended_by_its_bound() -> None:
    @agent(revisions=6, progress=Progress(repeats=None))
    async def stubborn(topic: str, feedback: Feedback | None) -> str:
        return topic

    @guard
    async def never(stubborn: str) -> Decision:
        return Revise("something else")

    run = await Pipeline("loop", [stubborn, never], inputs={"topic": str}, outputs=stubborn).run(
        topic="hi"
    )
    assert (run.reason, run.stall(stubborn), len(run.candidates(stubborn))) == (
        "exhausted",
        None,
        6,
    )


async def test_a_guard_that_finds_something_new_keeps_the_loop_going() -> None:
    """The verdict of the guard that speaks last counts: it has heard the others.

    1. the text is only reworded, and `first` says for the third time what it said before
    2. `second` then says something that nobody has said yet
    3. another revision is made
    """
    texts = [
        "the parcel left our warehouse on monday and arrives on friday",
        "on monday the parcel left our warehouse and arrives on friday",
        "on friday the parcel arrives and left our warehouse on monday",
    ]

    @agent(revisions=9)
    async def text(feedback: Feedback | None) -> str:
        turn = 1 if feedback is None else feedback.revision
        return texts[turn - 1] if turn <= 3 else "sorry, and a voucher"

    @guard
    async def first(text: str) -> Decision:
        return Allow() if "sorry" in text else Revise("say sorry")

    @guard
    async def second(text: str) -> Decision:
        await asyncio.sleep(0)  # speaks after the first
        return Revise("offer compensation") if text == texts[2] else Allow()

    run = await Pipeline("loop", [text, first, second], inputs={}, outputs=text).run()
    assert run.output == "sorry, and a voucher"
    assert run.stall(text) is None


async def test_a_join_that_is_sent_back_gives_the_same_and_is_given_up_at_once() -> None:
    @transform
    async def one(topic: str) -> str:
        return topic

    either = first_of(one, name="either")

    @guard(of="either")
    async def never(either: str) -> Decision:
        return Revise("another")

    run = await Pipeline("loop", [one, either, never], inputs={"topic": str}, outputs=either).run(
        topic="hi"
    )
    assert (run.reason, run.nodes["either"].revision) == ("exhausted", 2)


async def test_what_was_seen_is_on_record_and_the_same_after_a_restart() -> None:
    @agent(revisions=9)
    async def text(feedback: Feedback | None) -> str:
        return "ab"[(1 if feedback is None else feedback.revision) % 2]

    @guard
    async def never(text: str) -> Decision:
        return Revise("no")

    pipeline = Pipeline("loop", [text, never], inputs={}, outputs=text)
    async with Runtime(journal=memory_journal()) as runtime:
        run = await pipeline.using(runtime=runtime).run()
        assert run.stall(text) == Stall("cycle", 2, since=1, revision=4)
        await assert_replays(runtime, run.id, pipeline=pipeline)


def test_a_loop_that_gets_nowhere_ends_alike_wherever_it_was_cut_off() -> None:
    @agent(revisions=9)
    async def text(feedback: Feedback | None) -> str:
        return "same"

    @guard
    async def never(text: str) -> Decision:
        return Revise("no")

    pipeline = Pipeline("loop", [text, never], inputs={}, outputs=text)
    crashes = crash_at_every_record(pipeline, {})
    # One that had ended and is taken up again makes one more.
    assert {str(crash.run.stall(text)) for crash in crashes} == {
        "the same value came again, from revision 1 to 3",
        "the same value came again, from revision 2 to 4",
    }


async def test_a_block_beats_a_wish_for_revision() -> None:
    @guard
    async def strict(draft: str) -> Decision:
        return Block("never")

    run = await Pipeline("loop", [draft, loud, strict], inputs={"topic": str}, outputs=draft).run(
        topic="hi"
    )
    assert (run.status, run.reason) == ("blocked", "guard:strict")
    assert run.nodes["draft"].revision == 1


async def test_a_redaction_of_a_revision_that_was_sent_back_counts_no_longer() -> None:
    """
    1. `mask` redacts the first revision, `loud` sends it back
    2. both are asked about the second; `mask` allows it
    3. the second revision is released as it is
    """

    @guard
    async def mask(draft: str) -> Decision:
        return Redact("***") if draft == "hi" else Allow()

    run = await Pipeline("loop", [draft, loud, mask], inputs={"topic": str}, outputs=draft).run(
        topic="hi"
    )
    assert run.output == "hi!!"


async def test_all_guards_judge_every_revision_and_their_feedback_is_joined() -> None:
    seen: list[tuple[str, ...]] = []

    @agent
    async def text(topic: str, feedback: Feedback | None) -> str:
        if feedback is not None:
            seen.append(feedback.texts)
        return f"{topic}{len(seen)}"

    @guard
    async def first(text: str) -> Decision:
        return Allow() if text == "hi2" else Revise("a")

    @guard
    async def second(text: str) -> Decision:
        return Allow() if text in ("hi1", "hi2") else Revise("b")

    run = await Pipeline("loop", [text, first, second], inputs={"topic": str}, outputs=text).run(
        topic="hi"
    )
    assert run.output == "hi2"
    assert [tuple(sorted(texts)) for texts in seen] == [("a", "b"), ("a",)]


async def test_retries_and_revisions_count_apart() -> None:
    failures = iter([True, False, True, False, True, False])

    @agent(retry=Retry(attempts=2, base_s=0.0))
    async def shaky(topic: str, feedback: Feedback | None) -> str:
        if next(failures):
            raise OSError("again")
        return f"{topic}{'' if feedback is None else feedback.revision}"

    @guard
    async def third(shaky: str) -> Decision:
        return Allow() if shaky == "hi3" else Revise("more")

    run = await Pipeline("loop", [shaky, third], inputs={"topic": str}, outputs=shaky).run(
        topic="hi"
    )
    assert run.output == "hi3"
    assert (run.nodes["shaky"].revision, run.nodes["shaky"].attempts) == (3, 2)


async def test_a_revision_of_an_input_blocks_since_nobody_can_make_it() -> None:
    @guard
    async def judge(topic: str) -> Decision:
        return Revise("another")

    @transform
    async def use(topic: str) -> str:
        return topic

    run = await Pipeline("loop", [judge, use], inputs={"topic": str}, outputs=use).run(topic="hi")
    assert run.status == "blocked"


async def test_a_loop_is_replayed_from_its_records() -> None:
    pipeline = Pipeline("loop", [draft, loud, printed], inputs={"topic": str}, outputs=printed)
    async with Runtime(journal=memory_journal()) as runtime:
        run = await pipeline.using(runtime=runtime).run(topic="hi")
        await assert_replays(runtime, run.id, pipeline=pipeline)
        again: Run[str] = await runtime.resume(run.id, pipeline=pipeline)
        assert again.output == "<hi!!>"
        assert [one.value for one in again.candidates(draft)] == ["hi", "hi!"]


def test_a_loop_survives_a_crash_at_every_record() -> None:
    made: list[str] = []

    @agent(revisions=4)
    async def counted(topic: str, feedback: Feedback | None) -> str:
        text = topic if feedback is None else f"{topic}{'!' * (feedback.revision - 1)}"
        made.append(text)
        return text

    @guard
    async def judge(counted: str) -> Decision:
        return Allow() if counted.count("!") >= 2 else Revise("louder")

    pipeline = Pipeline("loop", [counted, judge], inputs={"topic": str}, outputs=counted)
    crashes = crash_at_every_record(pipeline, {"topic": "hi"}, before_each=made.clear)
    assert len(crashes) >= 13
    assert all(crash.run.output == "hi!!" for crash in crashes)
    for crash in crashes:
        accepted = [(r.node, r.revision) for r in crash.history.records if r.is_accepted]
        assert len(accepted) == len(set(accepted)) == 6


@pytest.mark.parametrize("passes", [True, False])
async def test_a_loop_that_gets_nowhere_falls_back_once(passes: bool) -> None:
    made: list[str] = []

    @transform
    async def plain(topic: str) -> str:
        made.append("plain")
        return "plain"

    @agent(revisions=9, fallback=plain)
    async def text(topic: str, feedback: Feedback | None) -> str:
        made.append("text")
        return "same"

    @guard(of="text")
    async def judge(text: str) -> Decision:
        return Allow() if passes and text == "plain" else Revise("no")

    run = await Pipeline("loop", [text, plain, judge], inputs={"topic": str}, outputs=text).run(
        topic="hi"
    )
    assert made == ["text", "text", "text", "plain"]
    assert str(run.stall(text)) == "the same value came again, from revision 1 to 3"
    assert run.reason == ("" if passes else "exhausted")
