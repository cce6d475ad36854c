"""Fallbacks in the runtime: whose value consumers get, what stays readable, what a crash costs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel, Field

from stageflow import (
    Allow,
    Block,
    Branch,
    Context,
    Decision,
    Feedback,
    JournalError,
    Pipeline,
    Redact,
    Retry,
    Revise,
    Run,
    RunError,
    Runtime,
    StageFailed,
    StageOutput,
    approval,
    enrich,
    guard,
    route,
    transform,
    work,
)
from stageflow.journal.store import LoadedRun
from stageflow.model.record import RecordType
from stageflow.runtime.account import attempts_of
from stageflow.sim import Sim, SimJournal, simulate
from stageflow.testing import assert_replays, crash_at_every_record, memory_journal


@enrich
async def cached(question: str) -> str:
    return f"cached {question}"


@enrich(fallback=cached)
async def searched(question: str) -> str:
    raise ConnectionError("the index is away")


@transform
async def answer(searched: str) -> str:
    return f"<{searched}>"


def desk(*stages: Any, outputs: Any = answer) -> Pipeline[Any]:
    return Pipeline("desk", stages, inputs={"question": str}, outputs=outputs)


async def test_consumers_get_the_fallbacks_value_under_the_nodes_name() -> None:
    run = await desk(searched, cached, answer).run(question="tides")
    assert (run.status, run.reason, run.output) == ("ok", "", "<cached tides>")
    assert run[searched] == run[cached] == "cached tides"
    node = run.nodes["searched"]
    assert (node.state, node.fallback, node.attempts) == ("ok", "cached", 1)


async def test_the_failure_stays_readable() -> None:
    @enrich(fallback=cached, retry=Retry(attempts=3, base_s=0.001))
    async def fails(question: str) -> str | StageOutput:
        if question == "raise":
            raise ConnectionError("away") from TimeoutError("no answer")
        return StageOutput.fail("no such index", data={"index": question})

    pipeline = desk(fails, cached, outputs=fails)
    run = await pipeline.run(question="tides")
    assert run.status == "ok" and run.failure is None
    assert run.failures["fails"].data == {"index": "tides"}
    run = await pipeline.run(question="raise")
    failure = run.failures["fails"]
    assert failure.reason == "error:ConnectionError"
    assert "caused by TimeoutError: no answer" in failure.traceback
    assert run.nodes["fails"].attempts == 3


async def test_a_fallback_is_skipped_when_it_is_not_needed() -> None:
    called: list[str] = []

    @enrich
    async def unused(question: str) -> str:
        called.append(question)
        return question

    @enrich(fallback=unused)
    async def works(question: str) -> str:
        return question.upper()

    run = await desk(works, unused, outputs=None).run(question="tides")
    assert (run.status, run.output) == ("ok", {"works": "TIDES"}) and not called
    node = run.nodes["unused"]
    assert (node.state, node.cause, node.blame) == ("skipped", "not_needed", "works")
    assert run.nodes["works"].fallback is None
    with pytest.raises(RunError, match="not_needed"):
        run[unused]


async def test_when_both_fail_the_nodes_own_failure_is_raised_and_names_the_others() -> None:
    @enrich
    async def spare(question: str) -> str:
        raise KeyError("nothing cached")

    pipeline = desk(searched.named(fallback=spare), spare, answer)
    run = await pipeline.run(question="tides")
    assert (run.status, run.reason) == ("failed", "error:ConnectionError")
    assert list(run.failures) == ["searched", "spare"]
    with pytest.raises(StageFailed) as caught:
        run.value_or_raise()
    assert caught.value.failure.node == "searched"
    assert isinstance(caught.value.original, ConnectionError)
    assert "nothing cached" in caught.value.__notes__[0]


class Scored(BaseModel):
    score: float = Field(ge=0, le=1)


async def test_a_value_that_breaks_the_nodes_contract_is_a_failure_that_keeps_the_first() -> None:
    @transform
    async def unscored(question: str) -> Any:
        return {"score": 7}

    @transform(fallback=unscored)
    async def scored(question: str) -> Scored:
        raise ValueError("no model")

    run = await desk(scored, unscored, outputs=scored).run(question="tides")
    failure = run.failures["scored"]
    assert (run.status, run.reason) == ("failed", "error:ValueError")
    assert failure.reason == "error:ValueError"
    assert "no model" in failure.message and "'unscored'" in failure.message
    assert "score" in failure.message


async def test_a_value_is_taken_through_the_nodes_contract() -> None:
    @transform
    async def plain(question: str) -> Any:
        return {"score": 0.5}

    @transform(fallback=plain)
    async def scored(question: str) -> Scored:
        raise ValueError("no model")

    run = await desk(scored, plain, outputs=scored).run(question="tides")
    assert run.output == Scored(score=0.5)


async def test_guards_of_the_node_and_of_the_fallback_both_gate_the_value() -> None:
    seen: list[str] = []

    @guard
    async def redacts(cached: str) -> Decision:
        seen.append(f"redacts saw {cached}")
        return Redact(cached.replace("tides", "****"))

    @guard
    async def checks(searched: str) -> Decision:
        seen.append(f"checks saw {searched}")
        return Block("stale") if "4242" in searched else Allow()

    pipeline = desk(searched, cached, answer, redacts, checks)
    run = await pipeline.run(question="tides")
    assert run.output == "<cached ****>" and run[searched] == "cached ****"
    assert seen == ["redacts saw cached tides", "checks saw cached ****"]
    run = await pipeline.run(question="4242")
    assert (run.status, run.reason) == ("blocked", "guard:checks")
    assert searched not in run and run.failures["searched"].reason == "error:ConnectionError"


async def test_a_loop_that_never_passes_ends_with_the_fallbacks_value() -> None:
    heard: list[Any] = []

    @transform
    async def canned(question: str) -> str:
        return "I can't say."

    @transform(fallback=canned, revisions=2)
    async def written(question: str, feedback: Feedback | None) -> str:
        heard.append(feedback)
        return f"surely {question} {len(heard)}"

    @guard
    async def modest(written: str) -> Decision:
        return Revise("be modest", score=0.1) if "surely" in written else Allow()

    run = await desk(written, canned, modest, outputs=written).run(question="tides")
    assert (run.status, run.output) == ("ok", "I can't say.")
    node = run.nodes["written"]
    assert (node.revision, node.fallback, len(heard)) == (3, "canned", 2)
    assert run.failures["written"].reason == "exhausted"
    kept = [(one.value, one.feedback) for one in run.candidates(written)]
    assert kept == [("surely tides 1", ("be modest",)), ("surely tides 2", ("be modest",))]


async def test_a_route_takes_the_branch_of_its_fallback() -> None:
    @route
    async def by_length(question: str) -> Branch:
        return Branch("short" if len(question) < 9 else "long")

    @route(branches=("short", "long"), fallback=by_length)
    async def by_model(question: str) -> Branch:
        raise ConnectionError

    @transform(when=by_model.branch("short"))
    async def brief(question: str) -> str:
        return "brief"

    @transform(when=by_model.branch("long"))
    async def thorough(question: str) -> str:
        return "thorough"

    pipeline = desk(by_model, by_length, brief, thorough, outputs=None)
    assert (await pipeline.run(question="tides")).output == {"brief": "brief"}
    assert (await pipeline.run(question="why tides?")).output == {"thorough": "thorough"}


@pytest.mark.parametrize("place", ["loop", "thread"])
async def test_sync_stages_and_streams_fall_back_too(place: Any) -> None:
    @transform(place=place)
    def spare(question: str) -> list[str]:
        return [question]

    @transform(place=place, fallback=spare)
    def listed(question: str) -> list[str]:
        raise OSError

    @transform
    async def numbers(listed: list[str]) -> int:
        return len(listed)

    run = await desk(listed, spare, numbers, outputs=numbers).run(question="x")
    assert run.output == 1


async def test_a_timeout_falls_back_and_the_late_value_is_refused() -> None:
    @enrich(timeout=0.01, fallback=cached)
    async def slow(question: str) -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            return "too late"
        return question

    run = await desk(slow, cached, outputs=slow).run(question="tides")
    assert run.output == "cached tides" and run.failures["slow"].reason == "timeout"


async def test_a_cancelled_run_does_not_fall_back() -> None:
    called: list[str] = []

    @enrich
    async def spare(question: str) -> str:
        called.append("spare")
        return question

    @enrich(fallback=spare)
    async def waits(question: str) -> str:
        await asyncio.sleep(10)
        return question

    handle = desk(waits, spare, outputs=waits).start(question="tides")
    await asyncio.sleep(0)
    handle.cancel()
    run = await handle
    assert run.status == "cancelled" and not called
    assert {name: node.state for name, node in run.nodes.items()} == {
        "waits": "cancelled",
        "spare": "cancelled",
    }


async def test_a_child_pipeline_falls_back_and_a_parent_sees_only_its_value() -> None:
    child = desk(searched, cached, answer)

    @transform
    async def outer(question: str, ctx: Context) -> str:
        return await ctx.run(child, key="child", question=question)

    run = await desk(outer, outputs=outer).run(question="tides")
    assert run.status == "ok" and run.output == "<cached tides>" and not run.failures


def _accepted(history: LoadedRun) -> list[tuple[str | None, int]]:
    return [(r.node, r.revision) for r in history.records if r.is_accepted]


def test_a_crash_at_every_record_leaves_one_accepted_value_each() -> None:
    ran: list[str] = []

    @guard
    async def decent(cached: str) -> Decision:
        ran.append("decent")
        return Redact(cached + "!")

    @guard
    async def safe(found: str) -> Decision:
        return Allow()

    @enrich
    async def third(question: str) -> str:
        ran.append("third")
        return f"third {question}"

    @enrich(fallback=third, name="cached")
    async def second(question: str) -> str:
        raise KeyError("nothing cached")

    @work(fallback=second, keyed=True)
    async def found(question: str) -> str:
        raise ConnectionError("away")

    @transform
    async def said(found: str) -> str:
        return f"<{found}>"

    pipeline = desk(found, second, third, safe, decent, said, outputs=said)
    crashes = crash_at_every_record(pipeline, {"question": "tides"}, before_each=ran.clear)
    assert len(crashes) > 15
    for crash in crashes:
        assert (crash.run.status, crash.run.output) == ("ok", "<third tides!>"), crash.records
        assert crash.run.failures["found"].reason == "error:ConnectionError"
        assert crash.run.nodes["found"].fallback == "cached"
        accepted = _accepted(crash.history)
        assert len(set(accepted)) == len(accepted)
        assert {"found", "cached", "third"} <= {name for name, _ in accepted}


def test_a_loop_that_falls_back_survives_a_crash_at_every_record() -> None:
    @transform
    async def canned(question: str) -> str:
        return "I can't say."

    @transform(fallback=canned, revisions=2)
    async def written(question: str, feedback: Feedback | None) -> str:
        return f"surely {question} {0 if feedback is None else feedback.revision}"

    @guard
    async def modest(written: str) -> Decision:
        return Revise("be modest") if "surely" in written else Redact(written + "..")

    pipeline = desk(written, canned, modest, outputs=written)
    for crash in crash_at_every_record(pipeline, {"question": "tides"}):
        assert crash.run.output == "I can't say...", crash.records
        assert [one.feedback for one in crash.run.candidates(written)] == [("be modest",)] * 2
        accepted = _accepted(crash.history)
        assert len(set(accepted)) == len(accepted)


async def test_the_records_replay_and_say_whose_value_it_is() -> None:
    pipeline = desk(searched, cached, answer)
    async with Runtime(journal=memory_journal()) as runtime:
        run = await pipeline.using(runtime=runtime).run(question="tides")
        await assert_replays(runtime, run.id, pipeline=pipeline)
        records = (await runtime.load(run.id)).records
        taken = [r for r in records if r.type is RecordType.INTENT and "fallback" in r.data]
        assert [(r.node, r.data["fallback"]) for r in taken] == [("searched", "cached")]
        again = await runtime.resume(run.id, pipeline=pipeline)
        assert again.output == run.output and again.failures["searched"].node == "searched"
        assert again.nodes["searched"].fallback == "cached"


async def test_a_run_that_waits_for_a_person_as_its_fallback_is_taken_up() -> None:
    asked = approval("asked", str, of="drafted")

    @transform
    async def drafted(question: str) -> str:
        return question

    @transform(fallback=asked)
    async def decided(drafted: str) -> str:
        raise ValueError("not sure")

    pipeline = desk(drafted, decided, asked, outputs=decided)
    async with Runtime(journal=memory_journal()) as runtime:
        run = await pipeline.using(runtime=runtime).run(question="refund?")
        assert run.status == "suspended"
        handle = await runtime.signal(run.id, "asked", "yes", by="Ann", pipeline=pipeline)
        done = await handle
    assert (done.status, done.output) == ("ok", "yes")
    assert done.nodes["decided"].fallback == "asked"


@pytest.mark.parametrize("seed", range(60))
def test_a_run_cancelled_at_any_moment_ends_and_is_taken_up(seed: int) -> None:
    """
    1. stages, fallbacks and guards wait a little; the run is cancelled at some moment
    2. it ends as cancelled, or was over before
    3. taken up again, it ends ok, with one accepted value for each node and revision
    """

    @enrich
    async def third(question: str) -> str:
        await asyncio.sleep(0.001)
        return f"third {question}"

    @enrich(fallback=third)
    async def second(question: str) -> str:
        await asyncio.sleep(0.001)
        raise KeyError("nothing")

    @enrich(fallback=second, retry=Retry(attempts=2, base_s=0.001))
    async def first(question: str) -> str:
        await asyncio.sleep(0.001)
        raise ConnectionError("away")

    @guard
    async def of_third(third: str) -> Decision:
        await asyncio.sleep(0.001)
        return Redact(third + "!")

    @guard
    async def of_first(first: str) -> Decision:
        await asyncio.sleep(0.001)
        return Allow()

    pipeline = desk(first, second, third, of_third, of_first, outputs=first)

    async def main(sim: Sim) -> tuple[str, Run[Any], LoadedRun]:
        journal = SimJournal(sim)
        async with Runtime(journal=journal.as_owner("a"), clock=sim.clock) as runtime:
            handle = pipeline.using(runtime=runtime).start(question="tides")
            await asyncio.sleep(0.0003 * seed)
            handle.cancel()
            status = (await handle).status
            again = await runtime.resume(handle.run_id, pipeline=pipeline)
            return status, again, await runtime.load(handle.run_id)

    status, again, history = simulate(main, seed=seed).value
    assert status in ("cancelled", "ok")
    assert (again.status, again.output) == ("ok", "third tides!")
    accepted = _accepted(history)
    assert len(set(accepted)) == len(accepted)


async def test_a_run_that_fell_back_is_not_taken_up_with_another_fallback() -> None:
    @transform
    async def breaks(searched: str) -> str:
        raise ValueError

    async with Runtime(journal=memory_journal()) as runtime:
        run = (
            await desk(searched, cached, breaks, outputs=breaks)
            .using(runtime=runtime)
            .run(question="tides")
        )
        assert run.status == "failed" and run[searched] == "cached tides"
        other = cached.named("other")
        changed = desk(searched.named(fallback=other), other, breaks, outputs=breaks)
        with pytest.raises(JournalError) as caught:
            await runtime.resume(run.id, pipeline=changed)
        assert caught.value.code == "journal.changed_node" and "searched" in str(caught.value)


async def test_a_person_reads_whose_value_an_attempt_took() -> None:
    pipeline = desk(searched, cached, answer)
    async with Runtime(journal=memory_journal()) as runtime:
        run = await pipeline.using(runtime=runtime).run(question="tides")
        accounts = attempts_of(await runtime.load(run.id), pipeline.plan)
    told = [(one.status, one.got, one.gave) for one in accounts if one.node == "searched"]
    assert told[0][:2] == ("failed", {"question": "tides"})
    assert told[1] == ("ok", {"cached": "cached tides"}, "cached tides")
