"""Runs that are taken up again in another runtime: what is kept, what is refused, what runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from stageflow import (
    Allow,
    Block,
    BuildError,
    CantTell,
    Context,
    Decision,
    Happened,
    JournalError,
    NotHappened,
    Pipeline,
    Retry,
    RunError,
    Runtime,
    StageOutput,
    guard,
    transform,
    work,
)

Opened = Callable[[], Runtime]


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    """Makes a runtime over the same journal; all are closed at the end."""
    made: list[Runtime] = []

    def make() -> Runtime:
        made.append(Runtime(journal=tmp_path / "runs.db"))
        return made[-1]

    yield make
    for runtime in made:
        await runtime.aclose()


class Desk:
    """Three stages of which the second fails as long as it is told to."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fails = True
        self.version = "1"

    def pipeline(self, *, first: str = "1", second: str = "1") -> Pipeline[str]:
        @transform(version=first)
        async def one(text: str) -> str:
            self.ran.append("one")
            return text

        @transform(version=second)
        async def two(one: str) -> str:
            self.ran.append("two")
            if self.fails:
                raise ConnectionError
            return one + "2"

        @transform
        async def three(two: str) -> str:
            self.ran.append("three")
            return two + "3"

        return Pipeline("desk", [one, two, three], inputs={"text": str}, outputs=three)


async def failed(desk: Desk, opened: Opened) -> str:
    run = await desk.pipeline().using(runtime=opened()).run(text="a")
    assert run.status == "failed" and desk.ran == ["one", "two"]
    desk.fails = False
    return run.id


async def test_a_failed_run_goes_on_at_the_broken_link(opened: Opened) -> None:
    desk = Desk()
    run_id = await failed(desk, opened)
    run = await opened().resume(run_id, pipeline=desk.pipeline())
    assert (run.status, run.output, desk.ran) == ("ok", "a23", ["one", "two", "two", "three"])
    assert run["one"] == "a" and run.snapshot.inputs == {"text": "a"}
    assert run.failure is None and run.nodes["two"].attempts == 2


async def test_a_run_that_is_ok_is_given_back_without_running(opened: Opened) -> None:
    desk = Desk()
    desk.fails = False
    done = await desk.pipeline().using(runtime=opened()).run(text="a")
    ran = list(desk.ran)
    runtime = opened()
    run = await runtime.resume(done.id, pipeline=desk.pipeline())
    assert (run.status, run.output, desk.ran) == ("ok", "a23", ran)
    assert run.snapshot.content_hash == done.snapshot.content_hash
    assert (await runtime.load(done.id)).epoch == 1


async def test_a_run_that_fails_again_can_be_taken_up_again(opened: Opened) -> None:
    desk = Desk()
    run_id = await failed(desk, opened)
    desk.fails = True
    for _ in range(3):
        assert (await opened().resume(run_id, pipeline=desk.pipeline())).status == "failed"
    desk.fails = False
    assert (await opened().resume(run_id, pipeline=desk.pipeline())).status == "ok"
    assert desk.ran.count("one") == 1 and desk.ran.count("two") == 5


async def test_a_changed_finished_node_is_refused_with_a_diff(opened: Opened) -> None:
    desk = Desk()
    run_id = await failed(desk, opened)
    with pytest.raises(JournalError) as caught:
        await opened().resume(run_id, pipeline=desk.pipeline(first="2"))
    assert (caught.value.code, caught.value.node) == ("journal.changed_node", "one")
    assert "one: was" in str(caught.value)
    gone = Pipeline("desk", [desk.pipeline().plan.nodes[2].stage.named(two="x")], inputs={"x": str})
    with pytest.raises(JournalError) as caught:
        await opened().resume(run_id, pipeline=gone)
    assert "one: is gone" in str(caught.value)
    assert desk.ran == ["one", "two"]


async def test_a_changed_unfinished_node_is_accepted(opened: Opened) -> None:
    desk = Desk()
    run_id = await failed(desk, opened)
    run = await opened().resume(run_id, pipeline=desk.pipeline(second="2"))
    assert (run.status, run.output) == ("ok", "a23")


async def test_a_run_that_does_not_know_its_pipeline_says_so(opened: Opened) -> None:
    desk = Desk()
    run_id = await failed(desk, opened)
    with pytest.raises(JournalError) as caught:
        await opened().resume(run_id)
    assert caught.value.code == "journal.no_target"
    with pytest.raises(JournalError) as caught:
        await opened().resume("nobody")
    assert caught.value.code == "journal.unknown_run"
    with pytest.raises(RunError) as wrong:
        await opened().resume(run_id, pipeline=desk.pipeline(), rerun=["twoo"])
    assert wrong.value.code == "run.unknown_node"


async def test_a_run_of_this_runtime_is_not_resumed_beside_itself(opened: Opened) -> None:
    @transform
    async def waits(text: str) -> str:
        await asyncio.sleep(30)
        return text

    desk = Pipeline("w", [waits], inputs={"text": str})
    runtime = opened()
    handle = desk.using(runtime=runtime, run_id="r").start(text="a")
    while not await runtime.runs():  # noqa: ASYNC110  (the journal has no event)
        await asyncio.sleep(0.001)
    with pytest.raises(JournalError) as caught:
        await runtime.resume("r", pipeline=desk)
    assert caught.value.code == "journal.run_is_live"
    handle.cancel()
    assert (await handle).status == "cancelled"


async def test_a_runtime_without_a_journal_can_not_resume() -> None:
    with pytest.raises(BuildError) as caught:
        await Runtime().resume("r")
    assert caught.value.code == "runtime.no_journal"


async def test_a_cancelled_run_may_be_taken_up_and_finished(opened: Opened) -> None:
    ran: list[str] = []

    @transform
    async def one(text: str) -> str:
        ran.append("one")
        return text

    @transform
    async def two(one: str) -> str | StageOutput:
        ran.append("two")
        return StageOutput.cancel("later") if ran.count("two") == 1 else one

    desk = Pipeline("c", [one, two], inputs={"text": str}, outputs=two)
    run = await desk.using(runtime=opened()).run(text="a")
    assert (run.status, run.reason) == ("cancelled", "by_stage")
    again = await opened().resume(run.id, pipeline=desk)
    assert (again.status, again.output, ran) == ("ok", "a", ["one", "two", "two"])


async def test_a_block_holds_after_a_restart(opened: Opened) -> None:
    """
    1. a guard blocks while another stage, which fails, ends the run
    2. another process takes the run up: nobody gets the blocked value
    """
    taken: list[str] = []
    fails = True

    @transform
    async def draft(text: str) -> str:
        return text

    @guard
    async def strict(draft: str) -> Decision:
        await asyncio.sleep(0)
        return Block("no")

    @transform
    async def use(draft: str) -> str:
        taken.append(draft)
        return draft

    @transform
    async def other(text: str) -> str:
        if fails:
            raise ConnectionError
        return text

    desk = Pipeline("b", [other, draft, strict, use], inputs={"text": str}, outputs=other)
    run = await desk.using(runtime=opened()).run(text="secret")
    assert run.status == "failed"
    fails = False
    again = await opened().resume(run.id, pipeline=desk)
    assert again.status == "ok" and taken == []
    assert draft not in again and again.nodes["use"].state == "blocked"


async def test_a_run_that_is_given_back_has_the_content_hash_that_it_had(opened: Opened) -> None:
    @transform
    async def text() -> str:
        return "a"

    @guard
    async def polite(text: str) -> Decision:
        return Allow()

    pipeline = Pipeline("guarded", [text, polite], outputs=text)
    run = await pipeline.using(runtime=opened()).run()
    again = await opened().resume(run.identity.run, pipeline=pipeline)
    assert again.snapshot.content_hash == run.snapshot.content_hash


async def test_values_that_no_other_process_can_decode_are_refused_before_the_run(
    opened: Opened,
) -> None:
    class Local:
        """Lives in this function only."""

    @transform
    async def makes(text: str) -> Local:
        return Local()

    with pytest.raises(BuildError) as caught:
        await Pipeline("l", [makes], inputs={"text": str}).using(runtime=opened()).run(text="a")
    assert (caught.value.code, caught.value.node) == ("codec.undecodable", "makes")


async def test_values_of_undeclared_types_fail_at_their_producer(opened: Opened) -> None:
    from dataclasses import dataclass

    @dataclass
    class Hidden:
        x: int

    @transform
    async def makes(text: str) -> Any:
        return Hidden(1)

    @transform
    async def takes(makes: Any) -> str:
        return "taken"

    run = (
        await Pipeline("h", [makes, takes], inputs={"text": str})
        .using(runtime=opened())
        .run(text="a")
    )
    assert run.status == "failed" and run.failure is not None
    assert run.failure.node == "makes" and "Hidden" in run.failure.message
    assert takes not in run


@pytest.mark.parametrize("by", ["sibling", "cancel", "timeout"])
async def test_an_effect_that_was_stopped_is_not_repeated_unasked(opened: Opened, by: str) -> None:
    """
    1. mail is under way, without a key, when a sibling fails, the run is cancelled, or it times out
    2. resumed, the run is suspended: nobody knows whether the mail went out
    3. with `rerun` it goes out
    """
    sent: list[str] = []
    under_way, cut = asyncio.Event(), True

    @work(timeout=0.05 if by == "timeout" else 60, retry=Retry(attempts=3, base_s=0.0))
    async def mailed(text: str) -> str:
        sent.append(text)
        under_way.set()
        if cut:
            await asyncio.Event().wait()
        return text

    @transform
    async def other(text: str) -> str:
        await under_way.wait()
        if cut and by == "sibling":
            raise ConnectionError
        return text

    desk = Pipeline("post", [mailed, other], inputs={"text": str})
    handle = desk.using(runtime=opened()).start(text="a")
    if by == "cancel":
        await under_way.wait()
        handle.cancel()
    first = await handle
    ended = {"sibling": "failed", "cancel": "cancelled", "timeout": "suspended"}
    assert (first.status, first.nodes["mailed"].state) == (ended[by], "unknown")
    cut = False
    again = await opened().resume(first.id, pipeline=desk)
    assert (again.status, again.reason) == ("suspended", "effect_unknown") and sent == ["a"]
    allowed = await opened().resume(first.id, pipeline=desk, rerun=["mailed"])
    assert allowed.status == "ok" and sent == ["a", "a"]


@pytest.mark.parametrize("found", ["happened", "not", "cant_tell", "raises", "late"])
async def test_reconcile_is_asked_what_a_cut_off_attempt_did(opened: Opened, found: str) -> None:
    """
    1. mail is under way when the run is cancelled; resumed, `reconcile` is asked, with what the
       stage takes
    2. what happened is the stage's value; what did not is done; else a person is asked
    3. whoever resumes once more asks once more, until it is known
    """
    sent: list[str] = []
    asked: list[tuple[str, str]] = []
    under_way = asyncio.Event()

    async def looked_up(ctx: Context, text: str) -> Happened | NotHappened | CantTell:
        asked.append((text, ctx.effect_key))
        if found == "late":
            await asyncio.Event().wait()
        if found == "raises":
            raise ConnectionError
        return {"happened": Happened("seen"), "not": NotHappened(), "cant_tell": CantTell("?")}[
            found
        ]

    @work(reconcile=looked_up, timeout=0.2 if found == "late" else 60)
    async def mailed(text: str) -> str:
        sent.append(text)
        under_way.set()
        if len(sent) == 1:
            await asyncio.Event().wait()
        return text

    desk = Pipeline("post", [mailed], inputs={"text": str}, outputs=mailed)
    handle = desk.using(runtime=opened()).start(text="a")
    await under_way.wait()
    handle.cancel()
    first = await handle
    assert (first.status, first.nodes["mailed"].state, asked) == ("cancelled", "unknown", [])
    again = await opened().resume(first.id, pipeline=desk)
    assert len(asked) == 1 and asked[0][0] == "a"
    if found in ("happened", "not"):
        assert again.output == {"happened": "seen", "not": "a"}[found]
        assert sent == ["a"] * (1 if found == "happened" else 2)
        return
    assert (again.status, again.reason, sent) == ("suspended", "effect_unknown", ["a"])
    found = "happened"
    once_more = await opened().resume(first.id, pipeline=desk)
    assert once_more.output == "seen" and len(asked) == 2 and sent == ["a"]


async def test_the_effect_key_outlives_the_attempt_and_tells_runs_apart(opened: Opened) -> None:
    keys: list[str] = []

    @work(keyed=True)
    async def pays(text: str, ctx: Context) -> str:
        keys.append(ctx.effect_key)
        if len(keys) == 1:
            raise ConnectionError
        return text

    desk = Pipeline("k", [pays], inputs={"text": str})
    first = await desk.using(runtime=opened()).run(text="a")
    await opened().resume(first.id, pipeline=desk)
    await desk.using(runtime=opened()).run(text="a")
    await desk.using(runtime=opened(), tenant="other", run_id=first.id + "x").run(text="a")
    assert keys[0] == keys[1] and len(set(keys)) == 3
