"""A request key makes a call repeatable: one run per tenant and key, whoever asks how often."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stageflow import (
    BuildError,
    JournalError,
    Limits,
    Pipeline,
    RunError,
    Runtime,
    approval,
    enrich,
    transform,
)
from stageflow.journal.journal import GroupCommit, Journal
from stageflow.journal.memory import MemoryStore
from stageflow.journal.store import Owner
from stageflow.testing import memory_journal

RAN: Counter[str] = Counter()
GATES: dict[str, asyncio.Event] = {}


@enrich
async def answer(text: str, secret: str) -> str:
    RAN[text] += 1
    if text in GATES:
        await GATES[text].wait()
    if text == "fail":
        raise ValueError("no")
    return f"{text} {RAN[text]}"


desk = Pipeline("desk", [answer], inputs={"text": str, "secret": str}, outputs=answer)


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()
    GATES.clear()


@pytest.fixture(params=["memory", "journal", "sqlite"])
async def runtime(request: Any, tmp_path: Path) -> AsyncIterator[Runtime]:
    journal = {"memory": lambda: None, "journal": memory_journal}.get(
        request.param, lambda: tmp_path / "runs.db"
    )()
    async with Runtime(journal=journal) as opened:
        yield opened


async def until(holds: Any) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  (what holds is no event)
            await asyncio.sleep(0)


async def test_a_repeated_request_gets_the_run_of_the_first(runtime: Runtime) -> None:
    bound = desk.using(runtime=runtime, request_key="k")
    first = await bound.run(text="a", secret="s")
    again = await bound.run(text="a", secret="s")
    assert (again.id, again.status, again.output) == (first.id, "ok", "a 1")
    assert again[answer] == "a 1" and again.nodes["answer"].attempts == 1
    assert again.snapshot.content_hash == first.snapshot.content_hash
    assert (await bound.using(request_key="other").run(text="a", secret="s")).output == "a 2"


async def test_a_request_repeated_while_it_runs_waits_for_it(runtime: Runtime) -> None:
    GATES["a"] = asyncio.Event()
    bound = desk.using(runtime=runtime, request_key="k")
    handles = [bound.start(text="a", secret="s") for _ in range(10)]
    await until(lambda: RAN["a"])
    handles.append(bound.start(text="a", secret="s"))
    assert len({handle.run_id for handle in handles}) == 1
    GATES["a"].set()
    assert [(await handle).output for handle in handles] == ["a 1"] * 11


async def test_another_request_under_the_key_is_refused_without_values(runtime: Runtime) -> None:
    bound = desk.using(runtime=runtime, request_key="k")
    await bound.run(text="a", secret="hunter2")
    for inputs, field in (
        ({"text": "a", "secret": "hunter3"}, "secret"),
        ({"text": "b", "secret": "hunter2"}, "text"),
    ):
        with pytest.raises(RunError) as refused:
            await bound.run(**inputs)
        assert (refused.value.code, refused.value.field) == ("run.request_changed", field)
        assert "hunter" not in str(refused.value)
    other = Pipeline("other", [answer], inputs={"text": str, "secret": str}, outputs=answer)
    with pytest.raises(RunError) as refused:
        await other.using(runtime=runtime, request_key="k").run(text="a", secret="hunter2")
    assert refused.value.field == "pipeline"
    with pytest.raises(RunError) as refused:
        await bound.using(session="s").run(text="a", secret="hunter2")
    assert refused.value.field == "session"
    assert RAN == {"a": 1}


async def test_a_changed_request_is_refused_while_the_first_runs(runtime: Runtime) -> None:
    GATES["a"] = asyncio.Event()
    bound = desk.using(runtime=runtime, request_key="k")
    first = bound.start(text="a", secret="s")
    await until(lambda: RAN["a"])
    with pytest.raises(RunError) as refused:
        await bound.run(text="b", secret="s")
    assert refused.value.code == "run.request_changed"
    GATES["a"].set()
    assert (await first).output == "a 1"


async def test_tenants_with_one_key_do_not_meet(runtime: Runtime) -> None:
    runs = [
        await desk.using(runtime=runtime, request_key=key, tenant=tenant).run(text=text, secret="")
        for tenant, key, text in (
            ("a", "bc", "1"),
            ("ab", "c", "2"),
            ("a", "c", "3"),
            ("", "abc", "4"),
        )
    ]
    assert len({run.id for run in runs}) == 4
    assert [run.output for run in runs] == ["1 1", "2 1", "3 1", "4 1"]


async def test_a_run_that_failed_is_the_answer_too(runtime: Runtime) -> None:
    bound = desk.using(runtime=runtime, request_key="k")
    first = await bound.run(text="fail", secret="s")
    again = await bound.run(text="fail", secret="s")
    assert (first.status, again.status, RAN["fail"]) == ("failed", "failed", 1)
    assert again.reason == first.reason
    assert again.failure is not None and again.failure.type == "ValueError"


async def test_one_caller_that_gives_up_leaves_the_run_to_the_others(runtime: Runtime) -> None:
    GATES["a"] = asyncio.Event()
    bound = desk.using(runtime=runtime, request_key="k")
    first = bound.start(text="a", secret="s")
    await until(lambda: RAN["a"])
    second = asyncio.create_task(bound.run(text="a", secret="s"))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    with pytest.raises(JournalError) as late:
        await bound.using(deadline=0.01).run(text="a", secret="s")
    assert late.value.code == "journal.run_is_live"
    GATES["a"].set()
    assert (await first).output == "a 1"


async def test_a_handle_cancels_the_run_for_all(runtime: Runtime) -> None:
    GATES["a"] = asyncio.Event()
    bound = desk.using(runtime=runtime, request_key="k")
    first = bound.start(text="a", secret="s")
    await until(lambda: RAN["a"])
    second = bound.start(text="a", secret="s")
    second.cancel("enough")
    assert [(await handle).status for handle in (first, second)] == ["cancelled"] * 2


async def test_who_waits_for_a_cancelled_caller_gets_the_cancelled_run(runtime: Runtime) -> None:
    GATES["a"] = asyncio.Event()
    bound = desk.using(runtime=runtime, request_key="k")
    first = asyncio.create_task(bound.run(text="a", secret="s"))
    await until(lambda: RAN["a"])
    second = bound.start(text="a", secret="s")
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await second).status == "cancelled"


async def test_a_repeated_stream_ends_and_gives_the_run(runtime: Runtime) -> None:
    bound = desk.using(runtime=runtime, request_key="k")
    await bound.run(text="a", secret="s")
    async with bound.stream(text="a", secret="s") as stream:
        assert [item async for item in stream] == []
        assert (await stream.result()).output == "a 1"


async def test_a_repeated_turn_takes_no_second_place(runtime: Runtime) -> None:
    bound = desk.using(runtime=runtime, session="s")
    GATES["a"] = asyncio.Event()
    first = bound.using(request_key="1").start(text="a", secret="s")
    await until(lambda: RAN["a"])
    second = bound.using(request_key="2").start(text="b", secret="s")
    repeated = [bound.using(request_key="2").start(text="b", secret="s") for _ in range(3)]
    again = bound.using(request_key="1").start(text="a", secret="s")
    GATES["a"].set()
    assert [(await handle).output for handle in (first, again)] == ["a 1"] * 2
    assert [(await handle).output for handle in (second, *repeated)] == ["b 1"] * 4
    assert (await bound.using(request_key="1").run(text="a", secret="s")).output == "a 1"
    run = await bound.run(text="c", secret="s")
    assert run.snapshot.session is not None
    assert [turn.inputs["text"] for turn in run.snapshot.session] == ["a", "b"]


async def test_a_suspended_run_is_the_answer_until_it_is_answered() -> None:
    @transform
    async def draft(text: str) -> str:
        return text

    signed = approval("signed", bool, of=draft)
    asks = Pipeline("asks", [draft, signed], inputs={"text": str}, outputs=signed)
    async with Runtime(journal=memory_journal()) as runtime:
        bound = asks.using(runtime=runtime, request_key="k")
        first = await bound.run(text="a")
        again = await bound.run(text="a")
        assert (first.status, again.status, again.id) == ("suspended", "suspended", first.id)
        await (await runtime.signal(first.id, "signed", True, by="ada", pipeline=asks))
        assert (await bound.run(text="a")).output is True


async def test_a_run_that_somebody_chose_the_id_of_is_not_given_away() -> None:
    ours = desk.using(tenant="ours", request_key="k").start(text="a", secret="s")
    await ours
    async with Runtime(journal=memory_journal()) as other:
        await desk.using(runtime=other, tenant="theirs", run_id=ours.run_id).run(
            text="a", secret="s"
        )
        with pytest.raises(JournalError) as refused:
            await desk.using(runtime=other, tenant="ours", request_key="k").run(
                text="a", secret="s"
            )
        assert refused.value.code == "journal.run_exists"


async def test_a_request_can_not_wait_for_itself(runtime: Runtime) -> None:
    @transform
    async def again(text: str) -> str:
        return (await bound.run(text=text)).output

    bound = Pipeline("again", [again], inputs={"text": str}, outputs=again).using(
        runtime=runtime, request_key="k"
    )
    run = await bound.run(text="a")
    assert run.failure is not None and run.failure.reason == "run.waits_for_itself"


def test_a_run_has_its_id_from_one_place() -> None:
    with pytest.raises(BuildError) as refused:
        desk.using(run_id="r").using(request_key="k")
    assert refused.value.code == "run.two_ids"


async def test_in_memory_so_many_keys_are_remembered() -> None:
    runtime = Runtime(limits=Limits(requests=2))
    bound = desk.using(runtime=runtime)
    for key in "abc":
        await bound.using(request_key=key).run(text="x", secret="s")
    assert (await bound.using(request_key="c").run(text="x", secret="s")).output == "x 3"
    assert (await bound.using(request_key="a").run(text="x", secret="s")).output == "x 4"
    assert len(runtime.requests.ended) == 2 and not runtime.requests.live


def journal_of(store: MemoryStore, *, pid: int, boot: str = "an earlier boot") -> Journal:
    """The store as another process of this host sees it."""
    owner = Owner.this_process()
    return GroupCommit(store, owner=Owner(owner.host, boot, pid, 7))


async def test_a_request_whose_process_died_is_resumed_by_its_repetition() -> None:
    store = MemoryStore()
    GATES["a"] = asyncio.Event()
    dead = Runtime(journal=journal_of(store, pid=7))
    handle = desk.using(runtime=dead, request_key="k").start(text="a", secret="s")
    await until(lambda: RAN["a"])

    async def nowhere(*args: Any) -> None:
        raise ConnectionError("the process is dead")

    dead.journal.append = nowhere  # type: ignore[union-attr, method-assign]
    GATES.pop("a").set()
    with pytest.raises(ConnectionError):
        await handle
    await dead.aclose()
    async with Runtime(journal=journal_of(store, pid=8)) as runtime:
        bound = desk.using(runtime=runtime, request_key="k")
        with pytest.raises(RunError) as refused:
            await bound.run(text="a", secret="other")
        assert refused.value.code == "run.request_changed"
        run = await bound.run(text="a", secret="s")
        assert (run.id, run.output) == (handle.run_id, "a 2")
        assert (await bound.run(text="a", secret="s")).output == "a 2"


async def test_another_runtime_of_this_process_is_not_robbed(tmp_path: Path) -> None:
    GATES["a"] = asyncio.Event()
    path = tmp_path / "runs.db"
    async with Runtime(journal=path) as one, Runtime(journal=path) as two:
        first = desk.using(runtime=one, request_key="k").start(text="a", secret="s")
        await until(lambda: RAN["a"])
        with pytest.raises(JournalError) as refused:
            await desk.using(runtime=two, request_key="k").run(text="a", secret="s")
        assert refused.value.code == "journal.run_is_live"
        GATES["a"].set()
        assert (await first).output == "a 1"
        again = await desk.using(runtime=two, request_key="k").run(text="a", secret="s")
        assert again.output == "a 1"


async def test_a_repetition_does_not_end_the_turn_that_it_repeats(tmp_path: Path) -> None:
    """
    1. one runtime of this process works on a keyed turn; another one is asked for it, and refuses
    2. a further turn there waits for it, and does not take it for one that was cut off
    """
    GATES["a"] = asyncio.Event()
    path = tmp_path / "runs.db"
    async with Runtime(journal=path) as one, Runtime(journal=path) as two:
        mine, theirs = (desk.using(runtime=runtime, session="s") for runtime in (one, two))
        first = mine.using(request_key="k").start(text="a", secret="s")
        await until(lambda: RAN["a"])
        with pytest.raises(JournalError):
            await theirs.using(request_key="k").run(text="a", secret="s")
        late = await theirs.using(deadline=0.05).run(text="b", secret="s")
        assert (late.status, late.reason) == ("failed", "timeout")
        after = theirs.start(text="c", secret="s")
        GATES["a"].set()
        assert (await first).output == "a 1"
        assert (await after).output == "c 1"


async def test_a_request_that_ends_badly_while_it_is_taken_up_is_not_run_again() -> None:
    """
    1. a run is live elsewhere when a repetition looks at it
    2. it fails and ends before the repetition claims it
    3. the repetition gets the failed run, and leaves it as it is
    """
    store = MemoryStore()
    GATES["fail"] = asyncio.Event()
    elsewhere = Runtime(journal=journal_of(store, pid=7))
    first = desk.using(runtime=elsewhere, request_key="k").start(text="fail", secret="s")
    await until(lambda: RAN["fail"])
    async with Runtime(journal=journal_of(store, pid=8)) as runtime:
        assert runtime.journal is not None
        load = runtime.journal.load

        async def slow(run: str) -> Any:
            seen = await load(run)
            if not first.done:
                GATES["fail"].set()
                await first
            return seen

        runtime.journal.load = slow  # type: ignore[method-assign]
        run = await desk.using(runtime=runtime, request_key="k").run(text="fail", secret="s")
        assert (run.status, RAN["fail"]) == ("failed", 1)
        assert (await runtime.load(run.id)).epoch == 1
    await elsewhere.aclose()


async def test_who_waits_for_a_run_that_the_journal_fails_is_told(tmp_path: Path) -> None:
    GATES["a"] = asyncio.Event()
    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        bound = desk.using(runtime=runtime, request_key="k")
        first = bound.start(text="a", secret="s")
        await until(lambda: RAN["a"])
        second = bound.start(text="a", secret="s")
        watching = runtime.active[first.run_id].watch()

        async def fails(*args: Any) -> None:
            raise OSError("the disk is full")

        runtime.journal.append = fails  # type: ignore[union-attr, method-assign]
        GATES["a"].set()
        for handle in (first, second):
            with pytest.raises(OSError, match="full"):
                await handle
        with pytest.raises(asyncio.CancelledError):
            await watching
