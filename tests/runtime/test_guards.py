"""What guards let pass, to whom, and when."""

from __future__ import annotations

import asyncio
from typing import Any, NotRequired

import pytest

from stageflow import (
    Allow,
    Block,
    Branch,
    Decision,
    Pipeline,
    Redact,
    RunError,
    StageOutput,
    any_of,
    enrich,
    first_of,
    guard,
    route,
    transform,
)


@transform
async def draft(text: str) -> str:
    return text


@transform
async def final(draft: str) -> str:
    return f"<{draft}>"


def desk(*guards: Any, inputs: Any = None) -> Pipeline[Any]:
    return Pipeline("desk", [draft, final, *guards], inputs=inputs or {"text": str}, outputs=final)


async def test_everyone_waits_for_all_guards_and_gets_the_guarded_value() -> None:
    order: list[str] = []

    @guard
    async def slow(draft: str) -> Decision:
        await asyncio.sleep(0.002)
        order.append("slow")
        return Redact(draft.replace("4242", "****"))

    @guard
    async def quick(draft: str) -> Decision:
        order.append(f"quick saw {draft}")
        return Allow()

    @transform
    async def late(draft: str) -> str:
        order.append("consumer")
        return draft

    run = await Pipeline("d", [draft, slow, quick, late], inputs={"text": str}).run(text="no 4242")
    assert run["late"] == run[draft] == "no ****" == run.snapshot["draft"]
    assert order == ["quick saw no 4242", "slow", "consumer"]


async def test_a_block_keeps_the_value_from_everyone_and_says_why() -> None:
    @guard
    async def polite(draft: str) -> Decision:
        return Block("rude")

    run = await desk(polite).run(text="a")
    assert (run.status, run.reason) == ("blocked", "guard:polite")
    assert draft not in run and "draft" not in run.snapshot
    with pytest.raises(RunError) as caught:
        _ = run.output
    assert caught.value.code == "run.no_value"
    assert "'polite'" in str(caught.value) and "rude" in str(caught.value)
    assert run.nodes["final"].state == "blocked" and run.nodes["final"].blame == "polite"


async def test_any_block_wins_over_any_number_of_others() -> None:
    @guard
    async def allows(draft: str) -> Decision:
        return Allow()

    @guard
    async def redacts(draft: str) -> Decision:
        return Redact("x")

    @guard
    async def blocks(draft: str) -> Decision:
        await asyncio.sleep(0.001)
        return Block("no")

    run = await desk(allows, redacts, blocks).run(text="a")
    assert run.status == "blocked" and draft not in run


async def test_two_redactions_of_one_value_block_it() -> None:
    @guard
    async def one(draft: str) -> Decision:
        return Redact("1")

    run = await desk(one, one.named("two")).run(text="a")
    assert (run.status, run.reason) == ("blocked", "guard:two")


@pytest.mark.parametrize("how", ["raises", "times out", "says nothing", "skips", "wrong type"])
async def test_a_guard_that_does_not_decide_blocks(how: str) -> None:
    @guard(timeout=0.003)
    async def broken(draft: str) -> Any:
        if how == "raises":
            raise ValueError
        if how == "times out":
            await asyncio.sleep(10)
        if how == "skips":
            return StageOutput.skip()
        return Redact(7) if how == "wrong type" else None

    run = await desk(broken).run(text="a")
    assert (run.status, run.reason) == ("blocked", "guard:broken") and draft not in run


async def test_a_block_that_reaches_no_output_leaves_the_run_ok() -> None:
    @guard
    async def no(side: str) -> Decision:
        return Block("no")

    side = draft.named("side")
    run = await desk(side, no).run(text="a")
    assert run.status == "ok" and side not in run and run.output == "<a>"


async def test_a_join_takes_another_branch_when_one_is_blocked() -> None:
    @guard
    async def no(draft: str) -> Decision:
        return Block("no")

    plan_b = draft.named("plan_b")
    chosen = first_of(draft, plan_b, name="chosen")
    run = await Pipeline(
        "j", [draft, no, plan_b, chosen], inputs={"text": str}, outputs=chosen
    ).run(text="a")
    assert (run.status, run.output) == ("ok", "a") and draft not in run


async def test_inputs_are_gated_like_nodes() -> None:
    seen: list[str] = []

    @guard
    async def clean(text: str) -> Decision:
        return Redact("clean") if "secret" in text else Allow()

    @transform
    async def reads(text: str) -> str:
        seen.append(text)
        return text

    pipeline = Pipeline("i", [reads, clean], inputs={"text": str}, outputs=reads)
    assert (await pipeline.run(text="secret")).output == "clean"
    assert (await pipeline.run(text="plain")).output == "plain"
    assert seen == ["clean", "plain"]


async def test_an_optional_gated_input_may_be_absent() -> None:
    judged: list[str] = []

    @guard
    async def clean(note: str) -> Decision:
        judged.append(note)
        return Allow()

    @transform
    async def reads(note: str = "none") -> str:
        return note

    inputs = {"note": NotRequired[str]}
    with pytest.raises(Exception, match=r"graph\.optional_input"):
        Pipeline("o", [reads, clean], inputs=inputs)

    @guard
    async def lenient(note: str = "") -> Decision:
        judged.append(note)
        return Allow()

    pipeline = Pipeline("o", [reads, lenient], inputs=inputs, outputs=reads)
    assert (await pipeline.run(note="a")).output == "a"
    run = await pipeline.run()
    assert (run.status, run.output) == ("ok", "none")


async def test_a_guard_of_several_values_says_which_it_redacts() -> None:
    other = draft.named("other")

    @guard
    async def both(draft: str, other: str) -> Decision:
        return Redact("x", of="other")

    @guard
    async def vague(draft: str, other: str) -> Decision:
        return Redact("x")

    run = await Pipeline("b", [draft, other, both], inputs={"text": str}).run(text="a")
    assert (run[draft], run[other]) == ("a", "x")
    run = await Pipeline("b", [draft, other, vague], inputs={"text": str}).run(text="a")
    assert run.status == "blocked"
    assert run.failures["vague"].reason == "contract.decision_of"


async def test_a_guard_that_waits_for_more_sees_a_value_that_another_has_blocked() -> None:
    """
    1. `quick` blocks the draft at once
    2. `wary` judges the draft too, once it has `facts`; what it says of them must not depend on 1
    """
    seen: list[str] = []

    @enrich
    async def facts(text: str) -> str:
        await asyncio.sleep(0.002)
        return "facts"

    @guard
    async def quick(draft: str) -> Decision:
        return Block("no")

    @guard
    async def wary(draft: str, facts: str) -> Decision:
        seen.append(draft)
        return Allow()

    use = draft.named("use", text=facts)
    run = await Pipeline(
        "w", [draft, facts, quick, wary, use], inputs={"text": str}, outputs=use
    ).run(text="a")
    assert (run.status, run.output, seen) == ("ok", "facts", ["a"])
    assert run.failures == {} and draft not in run


async def test_a_guard_on_a_branch_not_taken_does_not_hold_the_value() -> None:
    @route(branches=("check", "trust"))
    async def way(text: str) -> Branch:
        return Branch("check" if "?" in text else "trust")

    @guard(when=way.branch("check"))
    async def strict(draft: str) -> Decision:
        return Block("checked")

    trusting = draft.named("trusting", when=way.branch("trust"))
    pipeline = desk(way, strict, trusting)
    assert (await pipeline.run(text="a")).status == "ok"
    assert (await pipeline.run(text="a?")).status == "blocked"


async def test_a_route_must_choose_a_branch_that_something_handles() -> None:
    @route
    async def way(text: str) -> Any:
        return Branch(text) if text != "none" else "left"

    left = draft.named("left", when=way.branch("left"))
    pipeline = Pipeline("r", [way, left], inputs={"text": str}, outputs=left)
    assert (await pipeline.run(text="left")).output == "left"
    run = await pipeline.run(text="lefd")
    assert run.failure is not None and run.failure.reason == "contract.unknown_branch"
    assert "did you mean 'left'?" in run.failure.message
    assert (await pipeline.run(text="none")).reason == "contract.no_branch"


async def test_any_of_takes_the_first_and_the_others_run_on() -> None:
    @enrich
    async def slow(text: str) -> str:
        await asyncio.sleep(0.003)
        return "slow"

    @enrich
    async def fast(text: str) -> str:
        return "fast"

    one = any_of(slow, fast, name="one")
    run = await Pipeline("a", [slow, fast, one], inputs={"text": str}, outputs=one).run(text="a")
    assert run.output == "fast" and run[slow] == "slow"
