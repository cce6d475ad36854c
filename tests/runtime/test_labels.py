"""Labels follow a value to all that is made from it, through everything that can carry it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from stageflow import (
    Allow,
    Block,
    Branch,
    BuildError,
    Cache,
    Context,
    Decision,
    Dep,
    Feedback,
    Pipeline,
    Redact,
    Revise,
    RunError,
    Runtime,
    Window,
    agent,
    approval,
    enrich,
    first_of,
    guard,
    merge_of,
    merges,
    route,
    transform,
    work,
)
from stageflow.journal.journal import GroupCommit
from stageflow.journal.memory import MemoryStore
from stageflow.model.record import RecordType


def memory() -> GroupCommit:
    return GroupCommit(MemoryStore())


@transform
async def plain(text: str) -> str:
    return text


@enrich(labels="payroll")
async def wages(text: str) -> str:
    return f"wages of {text}"


@transform
async def answer(plain: str, wages: str) -> str:
    return f"{plain}: {wages}"


@guard(of="answer", clears="payroll")
async def released(answer: str) -> Decision:
    return Redact("***") if "hide" in answer else Allow()


@transform
async def sent(answer: str) -> str:
    return answer


STAGES = (plain, wages, answer, sent)


async def test_a_value_has_the_labels_of_all_it_is_made_of() -> None:
    desk = Pipeline("d", STAGES, inputs={"text": str}, outputs=sent)
    run = await desk.using(labels="personal").run(text="x")
    assert run.labels("plain") == {"personal"}
    assert run.labels(wages) == run.labels(answer) == run.labels(sent) == {"personal", "payroll"}
    assert (await desk.run(text="x")).labels(plain) == frozenset()


@pytest.mark.parametrize("text", ["x", "hide"])
async def test_only_a_guard_that_says_so_takes_one_away(text: str) -> None:
    desk = Pipeline("d", [*STAGES, released], inputs={"text": str}, outputs=sent)
    run = await desk.using(labels="personal").run(text=text)
    assert run.labels(sent) == run.labels(answer) == {"personal"}
    assert run.labels(wages) == {"personal", "payroll"}

    @guard(of="answer")
    async def looked_at(answer: str) -> Decision:
        return Allow()

    desk = Pipeline("d", [*STAGES, looked_at], inputs={"text": str}, outputs=sent)
    assert (await desk.run(text=text)).labels(sent) == {"payroll"}


async def test_a_gated_input_is_cleared_by_its_guard() -> None:
    @guard(of="text", clears=("personal", "payroll"))
    async def masked(text: str) -> Decision:
        return Redact("***")

    desk = Pipeline("d", [masked, plain], inputs={"text": str}, outputs=plain)
    run = await desk.using(labels=("personal", "legal")).run(text="x")
    assert run.labels("text") == run.labels(plain) == {"legal"}


async def test_a_dep_labels_what_is_made_with_it() -> None:
    @enrich
    async def found(text: str, crm: str) -> str:
        return crm

    desk = Pipeline("d", [found, plain], inputs={"text": str}, deps={"crm": str})
    async with Runtime(deps={"crm": Dep(lambda: "c", labels="customer")}) as runtime:
        run = await desk.using(runtime=runtime).run(text="x")
        assert (run.labels(found), run.labels(plain)) == ({"customer"}, frozenset())
        faked = await desk.override(crm="fake").using(runtime=runtime).run(text="x")
        assert faked.labels(found) == frozenset()


async def test_joins_merges_branches_and_fallbacks_carry_them() -> None:
    @route(branches=("a",))
    async def which(wages: str) -> Branch:
        return Branch("a")

    @transform(when=which.branch("a"))
    async def chosen(text: str) -> str:
        return "constant"

    @transform(labels="broken", fallback="wages")
    async def failing(text: str) -> str:
        raise ValueError

    either = first_of(plain, wages, name="either")

    @transform
    async def some(text: str) -> list[str]:
        return [text]

    @transform(labels="more")
    async def more(text: str) -> list[str]:
        return [text]

    both = merge_of(some, more, with_=merges.append, name="both")
    desk = Pipeline(
        "d",
        [plain, wages, which, chosen, failing, either, some, more, both],
        inputs={"text": str},
        outputs=[chosen, failing, either, both],
    )
    run = await desk.run(text="x")
    assert run.labels(chosen) == {"payroll"}, "that it was chosen tells of the wages"
    assert run.labels(failing) == {"broken", "payroll"}
    assert run.labels("both") == {"more"}
    assert run.labels("either") in ({"payroll"}, frozenset()), "of those that had come by then"


async def test_what_takes_ctx_can_read_the_whole_run() -> None:
    seen: list[frozenset[str]] = []

    @agent(after=wages)
    async def looks(ctx: Context) -> str:
        seen.append(ctx.labels)
        return str(ctx.snapshot["wages"])

    desk = Pipeline("d", [wages, looks], inputs={"text": str}, outputs=looks)
    run = await desk.using(labels="personal").run(text="x")
    assert run.labels(looks) == seen[0] == {"personal", "payroll"}


async def test_a_revision_has_the_labels_of_who_asked_for_it() -> None:
    @agent
    async def draft(text: str, feedback: Feedback | None) -> str:
        return text if feedback is None else feedback.texts[0]

    @guard(of="draft")
    async def judged(draft: str, wages: str) -> Decision:
        return Allow() if draft == wages else Revise(wages)

    desk = Pipeline("d", [draft, judged, wages], inputs={"text": str}, outputs=draft)
    run = await desk.run(text="x")
    assert (run.output, run.labels(draft)) == ("wages of x", {"payroll"})


@pytest.mark.parametrize("journal", [lambda: None, memory])
async def test_children_take_them_along_and_bring_them_back(journal: Callable[[], Any]) -> None:
    @transform
    async def inner(given: str) -> str:
        return given

    @transform(labels="inside")
    async def marked(inner: str) -> str:
        return inner

    child = Pipeline("child", [inner, marked], inputs={"given": str}, outputs=marked)
    below: list[frozenset[str]] = []

    @transform
    async def looked(given: str, ctx: Context) -> str:
        below.append(ctx.labels)
        return given

    other = Pipeline("other", [looked], inputs={"given": str}, outputs=looked)

    @agent
    async def parent(wages: str, ctx: Context) -> str:
        await ctx.run(other, key="o", given="x")
        return await ctx.run(child, key="c", given="x")

    desk = Pipeline("d", [wages, parent], inputs={"text": str}, outputs=parent)
    async with Runtime(journal=journal()) as runtime:
        run = await desk.using(runtime=runtime).run(text="x")
    assert run.labels(parent) == {"payroll", "inside"}
    assert below == [{"payroll"}]


@pytest.mark.parametrize("journal", [lambda: None, memory])
async def test_later_turns_of_a_session_are_labelled_by_what_they_see(
    journal: Callable[[], Any],
) -> None:
    """
    1. a turn's input is labelled; its guard clears one of two labels of the answer
    2. the next turn sees that turn, and its values have what is left
    3. one that sees nothing has none
    """
    desk = Pipeline("d", [*STAGES, released], inputs={"text": str}, outputs=sent)
    async with Runtime(journal=journal()) as runtime:
        one = desk.using(runtime=runtime, session="s")
        assert (await one.using(labels="personal").run(text="x")).labels(sent) == {"personal"}
        assert (await one.run(text="y")).labels(plain) == {"personal"}
        blind = one.using(window=Window(turns=0))
        assert (await blind.run(text="z")).labels(plain) == frozenset()


async def test_turns_that_are_looked_up_in_the_journal_have_their_labels() -> None:
    desk = Pipeline("d", [*STAGES, released], inputs={"text": str}, outputs=sent)
    store = MemoryStore()
    async with Runtime(journal=GroupCommit(store)) as runtime:
        await desk.using(runtime=runtime, session="s", labels="personal").run(text="x")
    async with Runtime(journal=GroupCommit(store)) as runtime:
        run = await desk.using(runtime=runtime, session="s").run(text="y")
        assert run.labels(plain) == {"personal"}


async def test_records_carry_them_and_a_resumed_run_has_them_again() -> None:
    """
    1. a run is suspended after labelled values were made
    2. another runtime reads its account, and resumes it: all labels are as they would have been
    """
    signed = approval("signed", bool, of=answer)

    @work
    async def filed(answer: str, signed: bool) -> str:
        return answer

    desk = Pipeline("d", [plain, wages, answer, signed, filed], inputs={"text": str}, outputs=filed)
    store = MemoryStore()
    async with Runtime(journal=GroupCommit(store)) as runtime:
        run = await desk.using(runtime=runtime, labels="personal").run(text="x")
        assert run.status == "suspended"
    async with Runtime(journal=GroupCommit(store)) as runtime:
        seen = await runtime.result(run.id, pipeline=desk)
        assert seen.labels(answer) == {"personal", "payroll"}
        handle = await runtime.signal(run.id, "signed", True, by="ada", pipeline=desk)
        ended = await handle
        assert ended.labels(filed) == ended.labels("signed") == {"personal", "payroll"}
        records = (await runtime.load(run.id)).records
    assert records[0].labels == ("personal",)
    made = {r.node: r.labels for r in records if r.is_accepted}
    assert made["plain"] == ("personal",)
    assert made["filed"] == made["signed"] == made["wages"] == ("payroll", "personal")


async def test_failures_and_steps_are_records_with_labels_too() -> None:
    @agent
    async def fails(wages: str, ctx: Context) -> str:
        await ctx.step("s", str.upper, wages)
        raise ValueError(wages)

    desk = Pipeline("d", [wages, fails], inputs={"text": str}, outputs=fails)
    async with Runtime(journal=memory()) as runtime:
        run = await desk.using(runtime=runtime).run(text="x")
        records = (await runtime.load(run.id)).records
    told = [r.labels for r in records if r.node == "fails" and r.payload is not None]
    assert [r.type for r in records if r.node == "fails" and r.payload is not None] == [
        RecordType.STEP,
        RecordType.OUTCOME,
    ]
    assert told == [("payroll",), ("payroll",)]
    assert run.labels(fails) == frozenset(), "it has no value"


async def test_a_kept_value_is_one_of_its_labels() -> None:
    calls: list[str] = []

    @transform(cache=Cache())
    async def shouted(text: str) -> str:
        calls.append(text)
        return text.upper()

    desk = Pipeline("d", [shouted], inputs={"text": str}, outputs=shouted)
    async with Runtime() as runtime:
        for labels in ("personal", "personal", "payroll", ()):
            run = await desk.using(runtime=runtime, labels=labels).run(text="x")
            assert run.labels(shouted) == frozenset((labels,) if labels else ())
    assert len(calls) == 3


async def test_a_stage_is_not_begun_with_what_it_does_not_accept() -> None:
    mailed: list[str] = []

    @work(accepts="public")
    async def mail(plain: str) -> str:
        mailed.append(plain)
        return plain

    desk = Pipeline("d", [plain, mail], inputs={"text": str}, outputs=mail)
    assert (await desk.run(text="a")).is_ok
    assert (await desk.using(labels="public").run(text="b")).is_ok
    run = await desk.using(labels=("public", "personal")).run(text="c")
    assert run.status == "failed" and run.failures["mail"].reason == "label.refused"
    assert "personal" in run.failures["mail"].message
    assert mailed == ["a", "b"]


async def test_a_request_that_comes_again_with_more_labels_is_another_request() -> None:
    desk = Pipeline("d", [plain], inputs={"text": str}, outputs=plain)
    async with Runtime(journal=memory()) as runtime:
        one = desk.using(runtime=runtime, request_key="k", labels=("a", "b"))
        await one.run(text="x")
        assert (await one.using(labels="a").run(text="x")).labels(plain) == {"a", "b"}
        with pytest.raises(RunError, match="labels"):
            await one.using(labels="c").run(text="x")


async def text_of(text: str) -> str:
    return text


def test_what_no_run_can_accept_and_what_is_no_label_are_build_errors() -> None:
    @work(accepts=())
    async def mail(answer: str) -> str:
        return answer

    stages = (plain, wages, answer, mail)
    with pytest.raises(BuildError) as refused:
        Pipeline("d", stages, inputs={"text": str}, outputs=mail)
    assert refused.value.code == "graph.label" and "payroll" in str(refused.value)
    Pipeline("d", [*stages, released], inputs={"text": str}, outputs=mail)
    for odd in ("", "a\0", 7, ("a", ""), ("x" * 101,)):
        with pytest.raises(BuildError) as refused:
            transform(labels=odd)(text_of)  # type: ignore[call-overload]
        assert refused.value.code == "label.name"
    with pytest.raises(BuildError, match=r"stage\.unknown_option"):
        transform(clears="payroll")(text_of)  # type: ignore[call-overload]


async def test_a_late_value_is_refused_with_its_labels() -> None:
    import threading

    release = threading.Event()

    @enrich(timeout=0.05, on_failure="isolate")
    def slow(wages: str) -> str:
        release.wait(5)
        return wages

    @transform
    async def other(wages: str) -> str:
        await asyncio.sleep(0.3)
        release.set()
        await asyncio.sleep(0.1)
        return "x"

    desk = Pipeline("d", [wages, slow, other], inputs={"text": str}, outputs=other)
    async with Runtime(journal=memory()) as runtime:
        run = await desk.using(runtime=runtime).run(text="x")
        records = (await runtime.load(run.id)).records
    assert [r.labels for r in records if r.type is RecordType.LATE] == [("payroll",)]


async def test_blocked_values_tell_nothing() -> None:
    @guard(of="wages")
    async def never(wages: str) -> Decision:
        return Block("no")

    desk = Pipeline("d", [wages, never], inputs={"text": str}, outputs=wages)
    run = await desk.run(text="x")
    assert run.status == "blocked" and run.labels(wages) == frozenset()
