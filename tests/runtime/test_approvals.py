"""People are asked: durable waits, bound to what was shown, answered once."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel

from stageflow import (
    ContractError,
    JournalError,
    Pipeline,
    RunError,
    Runtime,
    approval,
    first_of,
    transform,
    work,
)
from stageflow.journal.journal import GroupCommit
from stageflow.journal.memory import MemoryStore
from stageflow.model.record import Record, RecordType
from stageflow.sim import Sim, SimJournal, simulate
from stageflow.testing import crash_at_every_record, memory_journal


class Verdict(BaseModel):
    yes: bool


@transform
async def draft(topic: str) -> list[str]:
    return [topic]


signed = approval("signed", Verdict, of=draft)


@work
async def send(draft: list[str], signed: Verdict) -> str:
    return f"{draft[0]}:{signed.yes}"


desk = Pipeline("desk", [draft, signed, send], inputs={"topic": str}, outputs=send)


async def test_a_suspended_run_holds_no_task_and_goes_on_when_answered() -> None:
    async with Runtime(journal=memory_journal()) as runtime:
        run = await desk.using(runtime=runtime).run(topic="hi")
        assert (run.status, run.reason) == ("suspended", "waiting")
        assert len(asyncio.all_tasks()) == 1
        (question,) = await runtime.waiting(run.id, pipeline=desk)
        assert (question.node, question.expects, question.shown) == ("signed", "Verdict", ["hi"])
        handle = await runtime.signal(
            run.id,
            "signed",
            Verdict(yes=True),
            by="ada",
            shown=question.shown_hash,
            pipeline=desk,
        )
        assert (await handle).output == "hi:True"
        assert await runtime.waiting(run.id, pipeline=desk) == []
        (answer,) = [
            r for r in (await runtime.load(run.id)).records if r.node == "signed" and r.is_accepted
        ]
        assert (answer.data["by"], answer.data["shown"]) == ("ada", question.shown_hash)


async def test_an_answer_is_on_record_when_signal_returns() -> None:
    async with Runtime(journal=memory_journal()) as runtime:
        run = await desk.using(runtime=runtime).run(topic="hi")
        handle = await runtime.signal(run.id, "signed", {"yes": True}, by="ada", pipeline=desk)
        records = (await runtime.load(run.id)).records
        assert [r.data["by"] for r in records if r.node == "signed" and r.is_accepted] == ["ada"]
        assert (await handle).output == "hi:True"


async def test_an_answer_that_is_not_on_record_is_no_answer() -> None:
    """
    1. the run is claimed; then the disk is full
    2. signal raises what kept the answer from being recorded
    3. with room on the disk, the run is taken up, asks again, and takes an answer
    """

    class Filling(GroupCommit):
        is_full = False

        async def append(self, run: str, epoch: int, records: tuple[Record, ...]) -> None:
            if self.is_full:
                raise JournalError("journal.write_failed", "no room is left")
            await super().append(run, epoch, records)

    journal = Filling(MemoryStore())
    async with Runtime(journal=journal) as runtime:
        run = await desk.using(runtime=runtime).run(topic="hi")
        journal.is_full = True
        with pytest.raises(JournalError, match="no room"):
            await runtime.signal(run.id, "signed", {"yes": True}, by="ada", pipeline=desk)
        journal.is_full = False
        assert (await runtime.resume(run.id, pipeline=desk)).status == "suspended"
        handle = await runtime.signal(run.id, "signed", {"yes": False}, by="ada", pipeline=desk)
        assert (await handle).output == "hi:False"


async def test_an_answer_is_given_once() -> None:
    async with Runtime(journal=memory_journal()) as runtime:
        run = await desk.using(runtime=runtime).run(topic="hi")
        await (await runtime.signal(run.id, "signed", {"yes": True}, by="ada", pipeline=desk))
        with pytest.raises(RunError) as refused:
            await runtime.signal(run.id, "signed", {"yes": False}, by="eve", pipeline=desk)
        assert refused.value.code == "run.not_waiting"


@pytest.mark.parametrize("later", range(25))
async def test_of_two_answers_at_the_same_time_one_is_taken_and_the_run_is_not_disturbed(
    later: int,
) -> None:
    """
    1. two tasks of one process answer the question of a suspended run, one some steps later
    2. one answer is taken, the other is told that nobody waits; the run goes on once
    """
    sent: list[bool] = []

    @work
    async def post(signed: Verdict) -> bool:
        sent.append(signed.yes)
        await asyncio.sleep(0)
        return signed.yes

    pipeline = Pipeline("desk", [draft, signed, post], inputs={"topic": str}, outputs=post)
    async with Runtime(journal=memory_journal()) as runtime:
        run = await pipeline.using(runtime=runtime).run(topic="hi")

        async def answer(yes: bool, steps: int) -> str:
            for _ in range(steps):
                await asyncio.sleep(0)
            try:
                handle = await runtime.signal(
                    run.id, "signed", {"yes": yes}, by="ada", pipeline=pipeline
                )
            except RunError as error:
                return error.code
            return (await handle).status

        assert await asyncio.gather(answer(True, 0), answer(False, later)) == [
            "ok",
            "run.not_waiting",
        ]
        assert sent == [True]


async def test_a_run_is_resumed_by_one_task_at_a_time() -> None:
    calls: list[str] = []

    @transform
    async def shaky(topic: str) -> str:
        calls.append(topic)
        if len(calls) == 1:
            raise ConnectionError
        await asyncio.sleep(0)
        return topic

    pipeline = Pipeline("desk", [shaky], inputs={"topic": str}, outputs=shaky)
    async with Runtime(journal=memory_journal()) as runtime:
        run = await pipeline.using(runtime=runtime).run(topic="hi")
        both = await asyncio.gather(
            *(runtime.resume(run.id, pipeline=pipeline) for _ in range(2)), return_exceptions=True
        )
        (refused,) = [one for one in both if isinstance(one, JournalError)]
        assert refused.code == "journal.run_is_live"
        assert len(calls) == 2


async def test_the_handle_of_a_suspended_run_takes_no_answer_any_more() -> None:
    async with Runtime(journal=memory_journal()) as runtime:
        handle = desk.using(runtime=runtime).start(topic="hi")
        run = await handle
        with pytest.raises(RunError, match=r"runtime\.signal") as refused:
            await handle.signal("signed", Verdict(yes=True), by="ada")
        assert refused.value.code == "run.not_waiting"
        taken = await runtime.signal(run.id, "signed", Verdict(yes=True), by="ada", pipeline=desk)
        assert (await taken).output == "hi:True"


async def test_a_refused_answer_changes_nothing() -> None:
    async with Runtime(journal=memory_journal()) as runtime:
        run = await desk.using(runtime=runtime).run(topic="hi")
        with pytest.raises(RunError) as stale:
            await runtime.signal(
                run.id, "signed", {"yes": True}, by="eve", shown="0" * 64, pipeline=desk
            )
        assert stale.value.code == "run.answer_stale"
        with pytest.raises(ContractError):
            await runtime.signal(run.id, "signed", {"yes": "perhaps"}, by="eve", pipeline=desk)
        (summary,) = await runtime.runs()
        assert (summary.status, summary.owner) == ("suspended", None)
        handle = await runtime.signal(run.id, "signed", {"yes": False}, by="ada", pipeline=desk)
        assert (await handle).output == "hi:False"


async def test_a_suspended_run_can_be_cancelled() -> None:
    async with Runtime(journal=memory_journal()) as runtime:
        run = await desk.using(runtime=runtime).run(topic="hi")
        ended = await runtime.cancel(run.id, pipeline=desk)
        assert ended.status == "cancelled"
        with pytest.raises(RunError):
            await runtime.signal(run.id, "signed", {"yes": True}, by="ada", pipeline=desk)


async def test_taking_a_suspended_run_up_without_an_answer_leaves_it_suspended() -> None:
    async with Runtime(journal=memory_journal()) as runtime:
        run = await desk.using(runtime=runtime).run(topic="hi")
        assert (await runtime.resume(run.id, pipeline=desk)).status == "suspended"
        assert (await runtime.runs())[0].status == "suspended"


def test_a_question_survives_a_crash_at_every_record() -> None:
    sent: list[str] = []

    @work(keyed=True)
    async def post(draft: list[str], signed: Verdict) -> str:
        sent.append(draft[0])
        return f"{draft[0]}:{signed.yes}"

    pipeline = Pipeline("desk", [draft, signed, post], inputs={"topic": str}, outputs=post)
    crashes = crash_at_every_record(
        pipeline, {"topic": "hi"}, answers={"signed": {"yes": True}}, before_each=sent.clear
    )
    assert [crash.run.output for crash in crashes] == ["hi:True"] * len(crashes)
    assert len(crashes) == 10, "start, intent, outcome, asked, end; claim, answer, post twice, end"
    for crash in crashes:
        records = crash.history.records
        assert sum(r.node == "signed" and r.is_accepted for r in records) == 1
        assert sum(r.type is RecordType.ASKED for r in records) == 1


@pytest.mark.parametrize("how", ["resume", "cancel", "signal"])
def test_whoever_comes_after_the_time_of_a_question_finds_the_run_failed(how: str) -> None:
    short = approval("signed", Verdict, of=draft, expires=60.0)
    pipeline = Pipeline("desk", [draft, short, send], inputs={"topic": str}, outputs=send)

    async def main(sim: Sim) -> tuple[str, str]:
        runtime = Runtime(journal=SimJournal(sim).as_owner("one"), clock=sim.clock)
        run = await pipeline.using(runtime=runtime).run(topic="hi")
        await asyncio.sleep(61)
        if how == "resume":
            run = await runtime.resume(run.id, pipeline=pipeline)
            assert (run.status, run.reason) == ("failed", "expired")
        elif how == "cancel":
            run = await runtime.cancel(run.id, pipeline=pipeline)
            assert (run.status, run.reason) == ("failed", "expired")
        else:
            with pytest.raises(RunError):
                await runtime.signal(run.id, "signed", {"yes": True}, by="eve", pipeline=pipeline)
        (summary,) = await runtime.runs()
        return summary.status, summary.reason

    assert simulate(main, seed=1).value == ("failed", "expired")


def test_a_question_that_nobody_answered_makes_way_for_another_branch() -> None:
    isolated = approval("signed", Verdict, of=draft, expires=60.0, on_failure="isolate")

    @transform
    async def by_person(signed: Verdict) -> str:
        return "a person"

    @transform
    async def by_rule(draft: list[str]) -> str:
        return "the rule"

    either = first_of(by_person, by_rule, name="either")
    after = send.named("after", draft=draft, signed=isolated)
    stages = [draft, isolated, by_person, by_rule, either, after]
    pipeline = Pipeline("desk", stages, inputs={"topic": str}, outputs=either)

    async def main(sim: Sim) -> tuple[str, str, str]:
        runtime = Runtime(journal=SimJournal(sim).as_owner("one"), clock=sim.clock)
        run = await pipeline.using(runtime=runtime).run(topic="hi")
        assert run.status == "suspended"
        await asyncio.sleep(61)
        run = await runtime.resume(run.id, pipeline=pipeline)
        return run.status, run.reason, run[either]

    assert simulate(main, seed=1).value == ("partial", "expired", "the rule")


def test_the_time_of_one_question_runs_on_while_another_is_answered() -> None:
    """
    1. two questions stand, one of them for a minute more
    2. the other is answered, and the run goes on for an hour
    3. the first has expired meanwhile: an answer to it is refused
    """
    short = approval("short", Verdict, of=draft, expires=120.0, on_failure="isolate")

    @transform(timeout=7200.0)
    async def slow(signed: Verdict) -> bool:
        await asyncio.sleep(3600)
        return signed.yes

    pipeline = Pipeline("desk", [draft, short, signed, slow], inputs={"topic": str}, outputs=slow)

    async def main(sim: Sim) -> tuple[str, str, bool]:
        runtime = Runtime(journal=SimJournal(sim).as_owner("one"), clock=sim.clock)
        run = await pipeline.using(runtime=runtime).run(topic="hi")
        await asyncio.sleep(60)
        handle = await runtime.signal(run.id, "signed", {"yes": True}, by="ada", pipeline=pipeline)
        await asyncio.sleep(120)
        with pytest.raises(RunError) as late:
            await runtime.signal(run.id, "short", {"yes": True}, by="eve")
        assert late.value.code == "run.not_waiting"
        run = await handle
        return run.status, run.reason, run[slow]

    assert simulate(main, seed=1).value == ("partial", "expired", True)


def test_a_question_of_a_run_that_failed_is_put_again_with_its_whole_time() -> None:
    """
    1. one branch asks a person, with an hour to answer; the other fails and ends the run
    2. two hours later the run is resumed: the other branch goes on, the question is put again
    3. it is listed, and expires an hour from then
    """
    works = False

    @transform
    async def shaky(draft: list[str]) -> str:
        if not works:
            raise ConnectionError
        return draft[0]

    hour = approval("signed", Verdict, of=draft, expires=3600.0)
    pipeline = Pipeline("desk", [draft, hour, shaky, send], inputs={"topic": str})

    async def main(sim: Sim) -> tuple[str, int, int]:
        nonlocal works
        runtime = Runtime(journal=SimJournal(sim).as_owner("one"), clock=sim.clock)
        run = await pipeline.using(runtime=runtime).run(topic="hi")
        assert run.status == "failed"
        assert await runtime.waiting(run.id, pipeline=pipeline) == []
        works = True
        await asyncio.sleep(7200)
        again = await runtime.resume(run.id, pipeline=pipeline)
        (question,) = await runtime.waiting(run.id, pipeline=pipeline)
        assert question.expires_wall_s is not None
        left_s = question.expires_wall_s - runtime.clock.wall_s()
        await asyncio.sleep(3000)
        handle = await runtime.signal(run.id, "signed", {"yes": True}, by="ada", pipeline=pipeline)
        return again.status, round(left_s), len((await handle).output)

    assert simulate(main, seed=1).value == ("suspended", 3600, 2)


async def test_without_a_journal_the_run_waits_alive_and_its_handle_takes_the_answer() -> None:
    handle = desk.start(topic="hi")
    for _ in range(10):
        await asyncio.sleep(0)
    assert not handle.done
    with pytest.raises(RunError):
        await handle.signal("draft", ["x"], by="eve")
    await handle.signal("signed", Verdict(yes=True), by="ada")
    assert (await handle).output == "hi:True"


def test_a_question_expires_live_and_over_a_restart() -> None:
    short = approval("signed", Verdict, of=draft, expires=60.0)
    pipeline = Pipeline("desk", [draft, short, send], inputs={"topic": str}, outputs=send)

    async def live(sim: Sim) -> tuple[str, str, float]:
        run = await pipeline.run(topic="hi")
        return run.status, run.reason, sim.now()

    assert simulate(live, seed=1).value == ("failed", "expired", 60.0)

    async def restarted(sim: Sim) -> tuple[str, str]:
        journal = SimJournal(sim)
        first = Runtime(journal=journal.as_owner("first"), clock=sim.clock)
        run = await pipeline.using(runtime=first).run(topic="hi")
        journal.kill("first")
        await asyncio.sleep(61)
        second = Runtime(journal=journal.as_owner("second"), clock=sim.clock)
        with pytest.raises(RunError) as late:
            await second.signal(run.id, "signed", {"yes": True}, by="ada", pipeline=pipeline)
        assert late.value.code == "run.not_waiting"
        (summary,) = await second.runs()
        return summary.status, summary.reason

    assert simulate(restarted, seed=1).value == ("failed", "expired")
