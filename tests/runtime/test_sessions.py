"""Turns of a session: one after another, in order of arrival, each seeing those before it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stageflow import (
    Allow,
    Block,
    BuildError,
    Context,
    Decision,
    Dep,
    Limits,
    Pipeline,
    Redact,
    RunError,
    Runtime,
    StageOutput,
    Window,
    approval,
    enrich,
    guard,
    transform,
)
from stageflow.journal.journal import GroupCommit, Journal
from stageflow.journal.memory import MemoryStore
from stageflow.journal.sqlite import SQLiteStore
from stageflow.journal.store import Owner
from stageflow.model.record import RecordType
from stageflow.testing import memory_journal

GATES: dict[str, asyncio.Event] = {}
"""Text of a turn to what its stage waits for."""
ACTIVE: list[str] = []
"""Texts of turns whose stage is at work."""


@enrich
async def answer(text: str, ctx: Context) -> list[str]:
    """What it sees of earlier turns. Fails, skips and waits when the text says so."""
    assert not ACTIVE, f"{text} runs beside {ACTIVE}"
    ACTIVE.append(text)
    try:
        if text in GATES:
            await GATES[text].wait()
        else:
            await asyncio.sleep(0)
        if text.startswith("fail"):
            raise ValueError(text)
        assert ctx.session is not None
        return [turn.inputs["text"] for turn in ctx.session.turns]
    finally:
        ACTIVE.remove(text)


chat = Pipeline("chat", [answer], inputs={"text": str}, outputs=answer)


@pytest.fixture(autouse=True)
def nothing_waits() -> None:
    GATES.clear()
    ACTIVE.clear()


@pytest.fixture(params=["memory", "journal", "sqlite"])
async def runtime(request: Any, tmp_path: Path) -> AsyncIterator[Runtime]:
    """Without a journal, with one in memory, with one in a file."""
    journal = {"memory": lambda: None, "journal": memory_journal}.get(
        request.param, lambda: tmp_path / "runs.db"
    )()
    async with Runtime(journal=journal) as opened:
        yield opened


async def until(holds: Any) -> None:
    """Lets others run until it does."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  (what holds is no event)
            await asyncio.sleep(0)


# Order


async def test_a_turn_sees_the_turns_before_it(runtime: Runtime) -> None:
    bound = chat.using(runtime=runtime, session="s")
    for number in range(4):
        run = await bound.run(text=str(number))
        assert run.output == [str(before) for before in range(number)]
    assert run.snapshot.session is not None
    assert [turn.output for turn in run.snapshot.session] == [[], ["0"], ["0", "1"]]
    assert [turn.number for turn in run.snapshot.session] == [1, 2, 3]
    assert run.snapshot.session.is_whole and run.snapshot.session.name == "s"


async def test_turns_started_together_run_in_order_of_arrival(runtime: Runtime) -> None:
    bound = chat.using(runtime=runtime, session="s")
    handles = [bound.start(text=str(number)) for number in range(20)]
    for number, handle in enumerate(handles):
        assert (await handle).output == [str(before) for before in range(number)]


async def test_other_sessions_and_other_tenants_wait_for_nobody(runtime: Runtime) -> None:
    GATES["slow"] = asyncio.Event()
    slow = chat.using(runtime=runtime, session="s").start(text="slow")
    await until(lambda: ACTIVE == ["slow"])
    ACTIVE.clear()
    for options in ({"session": "t"}, {"session": "s", "tenant": "other"}):
        run = await chat.using(runtime=runtime, **options).run(text="quick")
        assert run.output == []
    ACTIVE.append("slow")
    GATES["slow"].set()
    assert (await slow).status == "ok"


async def test_a_run_without_a_session_has_none() -> None:
    @transform
    async def alone(ctx: Context) -> bool:
        return ctx.session is None and ctx.snapshot.session is None

    assert (await Pipeline("alone", [alone], outputs=alone).run()).output is True


async def test_only_turns_that_ended_ok_are_seen(runtime: Runtime) -> None:
    bound = chat.using(runtime=runtime, session="s")
    assert (await bound.run(text="a")).status == "ok"
    assert (await bound.run(text="fail b")).status == "failed"
    GATES["c"] = asyncio.Event()
    cut = bound.start(text="c")
    await until(lambda: ACTIVE == ["c"])
    cut.cancel()
    assert (await cut).status == "cancelled"
    assert (await bound.run(text="d")).output == ["a"]
    assert (await bound.run(text="e")).output == ["a", "d"]


async def test_children_belong_to_their_parents_turn(runtime: Runtime) -> None:
    @transform
    async def asks(text: str, ctx: Context) -> list[str]:
        return await ctx.run(chat, key="child", text=text)

    outer = Pipeline("outer", [asks], inputs={"text": str}, outputs=asks)
    bound = outer.using(runtime=runtime, session="s")
    assert (await bound.run(text="a")).output == []
    assert (await bound.run(text="b")).output == ["a"]
    assert [turn.inputs["text"] for turn in await runtime.session("s", pipeline=outer)] == [
        "b",
        "a",
    ]


# Waiting


async def test_a_waiting_turn_can_be_cancelled(runtime: Runtime) -> None:
    """
    1. the first turn works; three others wait
    2. the second's handle is cancelled, and the third's awaiting task
    3. both end at once, while the first still works; the fourth follows the first
    """
    bound = chat.using(runtime=runtime, session="s")
    GATES["a"] = asyncio.Event()
    first, second = bound.start(text="a"), bound.start(text="b")
    third = asyncio.create_task(bound.run(text="c"))
    await until(lambda: ACTIVE == ["a"])
    fourth = bound.start(text="d")
    second.cancel("not needed")
    ended = await second
    assert (ended.status, ended.reason) == ("cancelled", "not needed")
    third.cancel()
    with pytest.raises(asyncio.CancelledError):
        await third
    assert ACTIVE == ["a"]
    GATES["a"].set()
    assert (await first).status == "ok"
    assert (await fourth).output == ["a"]
    if runtime.journal is not None:
        statuses = [one.status for one in await runtime.runs()]
        assert sorted(statuses) == ["cancelled", "cancelled", "ok", "ok"]


async def test_a_turns_deadline_counts_while_it_waits(runtime: Runtime) -> None:
    bound = chat.using(runtime=runtime, session="s")
    GATES["a"] = asyncio.Event()
    first = bound.start(text="a")
    await until(lambda: ACTIVE == ["a"])
    late = await bound.using(deadline=0.02).run(text="b")
    assert (late.status, late.reason) == ("failed", "timeout")
    GATES["a"].set()
    assert (await first).status == "ok"
    assert (await bound.run(text="c")).output == ["a"]


async def test_a_task_cancelled_before_its_first_step_leaves_the_line(runtime: Runtime) -> None:
    bound = chat.using(runtime=runtime, session="s")
    handle = bound.start(text="a")
    handle._end.cancel()  # type: ignore[attr-defined]
    with pytest.raises(asyncio.CancelledError):
        await handle
    assert (await bound.run(text="b")).output == []


def test_a_start_without_an_event_loop_leaves_no_place_in_the_line() -> None:
    runtime = Runtime()
    bound = chat.using(runtime=runtime, session="s")
    with pytest.raises(RuntimeError, match="no running event loop"):
        bound.start(text="a")
    assert asyncio.run(bound.run(text="b")).output == []


async def test_bad_inputs_leave_no_place_in_the_line(runtime: Runtime) -> None:
    bound = chat.using(runtime=runtime, session="s")
    for _ in range(2):
        with pytest.raises(Exception, match=r"run\.unknown_input"):
            await bound.run(txet="a")
    assert (await bound.run(text="b")).output == []


async def test_a_session_takes_so_many_turns_and_no_more() -> None:
    runtime = Runtime(limits=Limits(turns_waiting=3))
    bound = chat.using(runtime=runtime, session="s")
    handles = [bound.start(text=str(number)) for number in range(3)]
    with pytest.raises(RunError) as refused:
        bound.start(text="3")
    assert refused.value.code == "session.full"
    assert [(await handle).status for handle in handles] == ["ok"] * 3
    assert (await bound.run(text="3")).output == ["0", "1", "2"]


async def test_waiting_turns_hold_nothing_but_their_place(runtime: Runtime) -> None:
    """No stage has started, no dep is open, and nobody polls while turns of one runtime wait."""
    bound = chat.using(runtime=runtime, session="s")
    GATES["a"] = asyncio.Event()
    handles = [bound.start(text=text) for text in ("a", "b", "c")]
    await until(lambda: ACTIVE == ["a"])
    for _ in range(200):
        await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    timers = len(loop._scheduled)  # type: ignore[attr-defined]
    assert timers <= 1, "only the stage that runs has a timer"
    GATES["a"].set()
    assert [(await handle).output for handle in handles] == [[], ["a"], ["a", "b"]]


# The window


async def test_a_window_holds_so_many_turns(runtime: Runtime) -> None:
    bound = chat.using(runtime=runtime, session="s", window=Window(turns=2))
    for text in "abcd":
        run = await bound.run(text=text)
    assert run.output == ["b", "c"]
    assert run.snapshot.session is not None and not run.snapshot.session.is_whole
    assert (await bound.using(window=Window(turns=1)).run(text="e")).output == ["d"]
    assert (await bound.using(window=Window(turns=0)).run(text="f")).output == []


async def test_a_window_holds_so_many_bytes(runtime: Runtime) -> None:
    bound = chat.using(runtime=runtime, session="s", window=Window(bytes=25_000))
    for letter in "abcd":
        run = await bound.run(text=letter * 10_000)
        assert run.status == "ok"
    assert run.snapshot.session is not None
    assert [turn.inputs["text"][0] for turn in run.snapshot.session] == ["c"]


async def test_what_left_the_window_stays_readable(tmp_path: Path) -> None:
    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        bound = chat.using(runtime=runtime, session="s", window=Window(turns=2))
        hashes = {}
        for number in range(9):
            run = await bound.run(text=str(number))
            assert run.snapshot.session is not None
            for turn in run.snapshot.session:
                hashes[turn.number] = turn.content_hash
        found = await runtime.session("s", pipeline=chat, limit=4)
        while found[-1].number > 1:
            found += await runtime.session("s", before=found[-1].number, limit=4, pipeline=chat)
        assert [turn.inputs["text"] for turn in found] == [str(n) for n in range(8, -1, -1)]
        assert {turn.number: turn.content_hash for turn in found[1:]} == hashes
        assert await runtime.session("s", tenant="other", pipeline=chat) == []


async def test_a_larger_window_is_read_from_the_journal(tmp_path: Path) -> None:
    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        bound = chat.using(runtime=runtime, session="s", window=Window(turns=1))
        for number in range(40):
            await bound.run(text=str(number))
        wide = bound.using(window=Window(turns=35))
        assert (await wide.run(text="x")).output == [str(n) for n in range(5, 40)]


@pytest.mark.parametrize("given", [{"turns": -1}, {"bytes": -1}, {"turns": 1.5}, {"turns": 10**9}])
def test_a_window_that_is_none_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(BuildError) as refused:
        Window(**given)
    assert refused.value.code == "session.window"


# What is seen


async def test_what_is_seen_can_not_be_changed(runtime: Runtime) -> None:
    @transform
    async def changes(words: list[str], ctx: Context) -> list[str]:
        assert ctx.session is not None
        for turn in ctx.session.turns:
            turn.inputs["words"].append("in")
            turn.inputs["more"] = 1
            turn.output.append("out")
            turn["changes"].append("node")
            turn.outputs.clear()
        return words

    pipeline = Pipeline("changes", [changes], inputs={"words": list[str]}, outputs=changes)
    bound = pipeline.using(runtime=runtime, session="s")
    await bound.run(words=["a"])
    before = (await bound.run(words=["b"])).snapshot
    after = (await bound.run(words=["c"])).snapshot
    assert before.session is not None and after.session is not None
    first, second = after.session.turns
    assert (first.inputs, first.output) == ({"words": ["a"]}, ["a"])
    assert first.content_hash == before.session.turns[0].content_hash
    assert second.output == ["b"]
    with pytest.raises(KeyError):
        first["nobody"]


async def test_the_session_is_part_of_the_snapshots_hash(runtime: Runtime) -> None:
    @transform
    async def same(text: str) -> str:
        return text

    pipeline = Pipeline("same", [same], inputs={"text": str}, outputs=same)
    alone = (await pipeline.using(runtime=runtime).run(text="x")).snapshot.content_hash
    hashes = [
        (await pipeline.using(runtime=runtime, session=s).run(text="x")).snapshot.content_hash
        for s in ("s", "t", "s", "t")
    ]
    assert hashes[0] == hashes[1] and hashes[2] == hashes[3]
    assert len({alone, hashes[0], hashes[2]}) == 3


async def test_several_outputs_are_seen_by_name(runtime: Runtime) -> None:
    @transform
    async def one(text: str) -> str:
        return text + "1"

    @transform
    async def two(text: str, ctx: Context) -> list[Any]:
        assert ctx.session is not None
        return [turn.output for turn in ctx.session]

    both = Pipeline("both", [one, two], inputs={"text": str}, outputs=[one, two])
    bound = both.using(runtime=runtime, session="s")
    await bound.run(text="a")
    run = await bound.run(text="b")
    assert run[two] == [{"one": "a1", "two": []}]


async def test_a_turn_is_seen_as_its_guards_let_it_pass(runtime: Runtime) -> None:
    """Also by a process that reads it from the journal: see the test below."""
    bound = guarded.using(runtime=runtime, session="s")
    first = await bound.run(text="secret", note="n")
    assert first.output == "SECRET, hidden" and first.status == "ok"
    second = await bound.run(text="b", note="n")
    assert second.snapshot.session is not None
    (turn,) = second.snapshot.session
    assert (turn.inputs, turn.output) == (
        {"text": "hidden", "note": "n"},
        "SECRET, hidden",
    )


@guard
async def hides(text: str) -> Decision:
    return Redact("hidden") if text == "secret" else Allow()


@transform
async def told(text: str) -> str:
    return "SECRET, " + text


guarded = Pipeline("guarded", [hides, told], inputs={"text": str, "note": str}, outputs=told)


@guard
async def refuses(extra: str) -> Decision:
    return Block("no")


@transform
async def uses(extra: str) -> str:
    return extra


@transform
async def plain(text: str) -> str:
    return text


partly = Pipeline(
    "partly", [refuses, uses, plain], inputs={"text": str, "extra": str}, outputs=plain
)


async def test_another_process_reads_what_guards_let_pass(tmp_path: Path) -> None:
    for pipeline, inputs, seen in (
        (guarded, {"text": "secret", "note": "n"}, {"text": "hidden", "note": "n"}),
        (partly, {"text": "a", "extra": "blocked"}, {"text": "a"}),
    ):
        path = tmp_path / f"{pipeline.name}.db"
        async with Runtime(journal=path) as runtime:
            here = pipeline.using(runtime=runtime, session="s")
            first = await here.run(**inputs)
            if first.status != "ok":
                continue
            second = await here.run(**inputs)
        async with Runtime(journal=path) as runtime:
            third = await pipeline.using(runtime=runtime, session="s").run(**inputs)
        assert second.snapshot.session is not None and third.snapshot.session is not None
        kept, read = second.snapshot.session.turns[0], third.snapshot.session.turns[0]
        assert kept.inputs == read.inputs == seen
        assert (kept.output, kept.content_hash) == (read.output, read.content_hash)
        assert kept._past.size_bytes == read._past.size_bytes


async def test_turns_of_another_pipeline_are_seen_too(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    async with Runtime(journal=path) as runtime:
        await guarded.using(runtime=runtime, session="s", target=f"{__name__}:guarded").run(
            text="a", note="n"
        )
        run = await chat.using(runtime=runtime, session="s").run(text="b")
        assert run.output == ["a"]


async def test_a_turn_that_can_not_be_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    async with Runtime(journal=path) as runtime:
        lost = Pipeline("lost", [plain], inputs={"text": str}, outputs=plain)
        await lost.using(runtime=runtime, session="s").run(text="a")
        other = Pipeline("chat", [plain], inputs={"text": str}, outputs=plain)
        await other.using(runtime=runtime, session="t").run(text="a")
    async with Runtime(journal=path) as runtime:
        for session in ("s", "t"):
            run = await chat.using(runtime=runtime, session=session).run(text="b")
            if session == "s":
                assert run.failure is not None and run.failure.reason == "session.unreadable"
            assert run.snapshot.session is not None
            with pytest.raises(RunError) as refused:
                _ = run.snapshot.session.turns[0].output
            assert refused.value.code == "session.unreadable"


# Suspended turns

signed = approval("signed", bool, of=plain)
desk = Pipeline("desk", [plain, signed], inputs={"text": str}, outputs=signed)


async def test_nothing_follows_a_suspended_turn_until_it_is_over() -> None:
    """
    1. a turn waits for a person; the next one, and one that waits already, are refused
    2. it is answered; now the next one runs and sees it
    """
    async with Runtime(journal=memory_journal()) as runtime:
        bound = desk.using(runtime=runtime, session="s")
        first, second = bound.start(text="a"), bound.start(text="b")
        assert (await first).status == "suspended"
        with pytest.raises(RunError) as refused:
            await second
        assert refused.value.code == "session.suspended"
        assert (await first).id in str(refused.value)
        with pytest.raises(RunError) as refused:
            await bound.run(text="c")
        assert refused.value.code == "session.suspended"
        statuses = [(one.status, one.reason) for one in await runtime.runs()]
        assert statuses == [("cancelled", "session_suspended")] * 2 + [("suspended", "waiting")]
        answered = await runtime.signal(first.run_id, "signed", True, by="ada", pipeline=desk)
        assert (await answered).status == "ok"
        run = await chat.using(runtime=runtime, session="s").run(text="d")
        assert run.output == ["a"]


async def test_a_suspended_turn_that_is_cancelled_frees_its_session() -> None:
    async with Runtime(journal=memory_journal()) as runtime:
        first = await desk.using(runtime=runtime, session="s").run(text="a")
        await runtime.cancel(first.id, pipeline=desk)
        assert (await chat.using(runtime=runtime, session="s").run(text="b")).output == []


async def test_without_a_journal_the_next_turn_waits_for_the_answer() -> None:
    runtime = Runtime()
    first = desk.using(runtime=runtime, session="s").start(text="a")
    second = chat.using(runtime=runtime, session="s").start(text="b")
    await until(lambda: first._driver.scheduler.parked)
    await first.signal("signed", True, by="ada")
    assert (await first).status == "ok"
    assert (await second).output == ["a"]


# Crashes


def journal_of(store: MemoryStore, *, dead: bool = False) -> Journal:
    """The store as another process sees it; of a process that is dead."""
    owner = Owner.this_process()
    return GroupCommit(store, owner=Owner(owner.host, "an earlier boot", 7, 7) if dead else owner)


async def cut_off(
    store: MemoryStore, text: str, *, waits: bool = False, pipeline: Pipeline[Any] = chat
) -> str:
    """A turn whose process died in it, or while it waited for another one."""
    runtime = Runtime(journal=journal_of(store, dead=True))
    GATES[text] = asyncio.Event()
    handle = pipeline.using(runtime=runtime, session="s").start(text=text)
    if waits:
        assert runtime.journal is not None
        while not [run for run in await runtime.runs() if run.header.run == handle.run_id]:
            pass
    else:
        await until(lambda: text in ACTIVE)
    handle._end.cancel()  # type: ignore[attr-defined]
    journal = runtime.journal

    async def nowhere(*args: Any) -> None:
        raise ConnectionError("the process is dead")

    journal.append = nowhere  # type: ignore[union-attr, method-assign]
    with pytest.raises((asyncio.CancelledError, Exception)):
        await handle
    GATES.pop(text).set()
    ACTIVE.clear()
    await runtime.aclose()
    return handle.run_id


async def test_a_crashed_turn_holds_nobody_up_and_sees_later_what_it_saw_first() -> None:
    """
    1. two turns end; the process of the third dies in it
    2. the fourth and fifth follow at once, without it
    3. the third is resumed: it sees the first two, as it did before
    4. the sixth sees all, the third as the last
    """
    store = MemoryStore()
    async with Runtime(journal=journal_of(store)) as runtime:
        bound = chat.using(runtime=runtime, session="s")
        for text in "ab":
            await bound.run(text=text)
        third = await cut_off(store, "c")
        assert (await bound.run(text="d")).output == ["a", "b"]
        assert (await bound.run(text="e")).output == ["a", "b", "d"]
        resumed = await runtime.resume(third, pipeline=chat)
        assert resumed.output == ["a", "b"]
        assert resumed.snapshot.session is not None and resumed.snapshot.session.is_whole
        assert (await bound.run(text="f")).output == ["a", "b", "d", "e", "c"]
        again = await runtime.resume(third, pipeline=chat)
        assert again.snapshot.session is not None
        assert [turn.inputs["text"] for turn in again.snapshot.session] == ["a", "b"]


async def test_a_resumed_turn_waits_for_the_one_that_runs() -> None:
    store = MemoryStore()
    async with Runtime(journal=journal_of(store)) as runtime:
        bound = chat.using(runtime=runtime, session="s")
        crashed = await cut_off(store, "a")
        GATES["b"] = asyncio.Event()
        second = bound.start(text="b")
        await until(lambda: ACTIVE == ["b"])
        resuming = asyncio.create_task(runtime.resume(crashed, pipeline=chat))
        for _ in range(50):
            await asyncio.sleep(0)
        assert ACTIVE == ["b"]
        GATES["b"].set()
        assert (await second).output == []
        assert (await resuming).output == []
        assert (await bound.run(text="c")).output == ["b", "a"]


async def test_a_turn_that_died_while_it_waited_can_be_resumed(tmp_path: Path) -> None:
    store = MemoryStore()
    async with Runtime(journal=journal_of(store)) as runtime:
        bound = chat.using(runtime=runtime, session="s")
        GATES["a"] = asyncio.Event()
        first = bound.start(text="a")
        await until(lambda: ACTIVE == ["a"])
        waited = await cut_off(store, "b", waits=True)
        GATES["a"].set()
        ACTIVE.append("a")
        ACTIVE.clear()
        ACTIVE.append("a")
        assert (await first).status == "ok"
        assert (await bound.run(text="c")).output == ["a"]
        resumed = await runtime.resume(waited, pipeline=chat)
        assert resumed.output == ["a", "c"]
        types = [record.type for record in (await runtime.load(waited)).records]
        assert types.count(RecordType.TURN) == 1


async def test_resumed_and_waiting_turns_do_not_hold_each_other_up() -> None:
    """
    1. two turns are cut off; a third works, a fourth waits for it
    2. both are resumed, the later one first: each has its old place in the line, not the one here
    3. the third ends; then come the resumed ones as they had arrived, and the fourth
    """
    store = MemoryStore()
    order: list[str] = []

    @enrich
    async def ordered(text: str) -> str:
        order.append(text)
        if text in GATES:
            await GATES[text].wait()
        return text

    pipeline = Pipeline("ordered", [ordered], inputs={"text": str}, outputs=ordered)
    async with Runtime(journal=journal_of(store)) as runtime:
        one, two = await cut_off(store, "1"), await cut_off(store, "2")
        bound = pipeline.using(runtime=runtime, session="s")
        GATES["3"] = asyncio.Event()
        third = bound.start(text="3")
        await until(lambda: order == ["3"])
        fourth = bound.start(text="4")
        resuming = [asyncio.create_task(runtime.resume(run, pipeline=chat)) for run in (two, one)]
        for _ in range(200):
            await asyncio.sleep(0)
        assert order == ["3"] and not ACTIVE
        GATES["3"].set()
        second, first = [await task for task in resuming]
        assert (await third).status == (await fourth).status == "ok"
        latest = await runtime.session("s", pipeline=chat)
        assert [turn.run for turn in latest] == [fourth.run_id, two, one, third.run_id]
        assert (first.output, second.output) == ([], [])


async def test_deps_of_a_turn_are_opened_when_its_turn_comes(tmp_path: Path) -> None:
    opened: list[str] = []

    def database() -> str:
        opened.append("open")
        return "db"

    @transform
    async def asks(text: str, db: str) -> str:
        return text + db

    using_db = Pipeline("asks", [asks], inputs={"text": str}, outputs=asks, deps={"db": str})
    for journal in (None, tmp_path / "runs.db"):
        opened.clear()
        async with Runtime(journal=journal, deps={"db": Dep(database, scope="run")}) as runtime:
            GATES["a"] = asyncio.Event()
            first = chat.using(runtime=runtime, session="s").start(text="a")
            await until(lambda: ACTIVE == ["a"])
            second = using_db.using(runtime=runtime, session="s").start(text="b")
            for _ in range(50):
                await asyncio.sleep(0)
            assert not opened
            GATES["a"].set()
            assert (await first).status == "ok" and (await second).output == "bdb"
            assert opened == ["open"]


async def test_a_dep_that_can_not_be_opened_ends_its_turn(tmp_path: Path) -> None:
    def broken() -> str:
        raise ConnectionError("no database")

    @transform
    async def asks(text: str, db: str) -> str:
        return text + db

    using_db = Pipeline("asks", [asks], inputs={"text": str}, outputs=asks, deps={"db": str})
    for journal in (None, tmp_path / "runs.db"):
        async with Runtime(journal=journal, deps={"db": broken}) as runtime:
            GATES["a"] = asyncio.Event()
            first = chat.using(runtime=runtime, session="s").start(text="a")
            await until(lambda: ACTIVE == ["a"])
            waiting = using_db.using(runtime=runtime, session="s").start(text="b")
            await asyncio.sleep(0)
            GATES["a"].set()
            for handle in (waiting, using_db.using(runtime=runtime, session="s").start(text="c")):
                with pytest.raises(RunError) as caught:
                    await handle
                assert caught.value.code == "runtime.dep_open"
            assert (await first).status == "ok"
            assert (await chat.using(runtime=runtime, session="s").run(text="d")).output == ["a"]
            if journal is not None:
                statuses = [(one.status, one.reason) for one in await runtime.runs()]
                assert ("running", "") not in statuses and ("failed", "deps") in statuses


async def test_a_stage_can_not_wait_for_its_own_session(runtime: Runtime) -> None:
    bound = chat.using(runtime=runtime, session="s")

    @transform
    async def asks(text: str, ctx: Context) -> str:
        return await ctx.run(inner, key="inner", text=text)

    @transform
    async def again(text: str) -> list[str]:
        return (await bound.run(text=text)).output

    @transform
    async def elsewhere(text: str) -> list[str]:
        return (await bound.using(session="t").run(text=text)).output

    inner = Pipeline("inner", [again], inputs={"text": str}, outputs=again)
    for stage in (again, asks):
        outer = Pipeline("outer", [stage], inputs={"text": str}, outputs=stage)
        run = await outer.using(runtime=runtime, session="s").run(text="a")
        assert run.failure is not None and run.failure.reason == "run.waits_for_itself"
    other = Pipeline("other", [elsewhere], inputs={"text": str}, outputs=elsewhere)
    assert (await other.using(runtime=runtime, session="s").run(text="a")).output == []


async def test_an_answer_that_comes_while_a_resumed_turn_waits_is_kept_until_it_begins() -> None:
    """
    1. a turn with an open question is cut off in another of its stages
    2. it is resumed, and waits for a turn that works; meanwhile the question is answered
    3. the other turn ends: the answer goes on record behind what the resumed turn held back
    """
    store = MemoryStore()
    question = approval("question", bool, of=plain)

    @transform
    async def both(answer: list[str], question: bool) -> bool:
        return question

    slow = Pipeline("slow", [plain, answer, question, both], inputs={"text": str}, outputs=both)
    async with Runtime(journal=journal_of(store)) as runtime:
        crashed = await cut_off(store, "a", pipeline=slow)
        GATES["b"] = asyncio.Event()
        other = chat.using(runtime=runtime, session="s").start(text="b")
        await until(lambda: ACTIVE == ["b"])
        resuming = asyncio.create_task(runtime.resume(crashed, pipeline=slow))
        await until(lambda: crashed in runtime.active)
        signed_by = asyncio.create_task(
            runtime.signal(crashed, "question", True, by="ada", pipeline=slow)
        )
        for _ in range(100):
            await asyncio.sleep(0)
        assert not signed_by.done()
        GATES["b"].set()
        assert (await other).status == "ok"
        assert (await (await signed_by)).output is True
        assert (await resuming).output is True


async def test_a_failed_turn_that_is_resumed_takes_a_place_of_its_own() -> None:
    failing = {"now": True}

    @transform
    async def shaky(text: str, ctx: Context) -> list[str] | StageOutput:
        assert ctx.session is not None
        if text == "b" and failing["now"]:
            raise ValueError
        return [turn.inputs["text"] for turn in ctx.session]

    pipeline = Pipeline("shaky", [shaky], inputs={"text": str}, outputs=shaky)
    async with Runtime(journal=memory_journal()) as runtime:
        bound = pipeline.using(runtime=runtime, session="s")
        await bound.run(text="a")
        failed = await bound.run(text="b")
        await bound.run(text="c")
        failing["now"] = False
        assert (await runtime.resume(failed.id, pipeline=pipeline)).output == ["a"]
        assert (await bound.run(text="d")).output == ["a", "c", "b"]


async def test_a_turn_whose_end_was_not_written_holds_nobody_up() -> None:
    """
    1. the disk fails while a turn runs: its caller gets the error, the journal holds it for live
    2. the disk works again; the next turn ends that run as failed, and runs
    3. the cut off turn can still be resumed
    """
    journal = memory_journal()
    async with Runtime(journal=journal) as runtime:
        bound = chat.using(runtime=runtime, session="s")
        await bound.run(text="a")
        works = journal.append

        async def fails(*args: Any) -> None:
            raise OSError("the disk is full")

        journal.append = fails  # type: ignore[method-assign]
        with pytest.raises(OSError, match="full"):
            await bound.run(text="b")
        journal.append = works  # type: ignore[method-assign]
        assert (await bound.run(text="c")).output == ["a"]
        listed = [(one.status, one.reason) for one in await runtime.runs()]
        assert listed == [("ok", ""), ("failed", "engine"), ("ok", "")]
        cut_off_run = (await runtime.runs())[1].header.run
        assert (await runtime.resume(cut_off_run, pipeline=chat)).output == ["a"]
        assert (await bound.run(text="d")).output == ["a", "c", "b"]


# Bounds


async def test_without_a_journal_idle_sessions_are_forgotten_past_the_limit() -> None:
    runtime = Runtime(limits=Limits(sessions=3))
    for name in "abcd":
        await chat.using(runtime=runtime, session=name).run(text=name)
    outputs = {}
    for name in "dba":
        outputs[name] = (await chat.using(runtime=runtime, session=name).run(text="x")).output
    assert outputs == {"d": ["d"], "b": ["b"], "a": []}


async def test_with_a_journal_a_forgotten_session_is_read_again() -> None:
    async with Runtime(journal=memory_journal(), limits=Limits(sessions=1)) as runtime:
        for name in "abab":
            await chat.using(runtime=runtime, session=name).run(text=name)
        run = await chat.using(runtime=runtime, session="a").run(text="x")
        assert run.output == ["a", "a"]


async def test_sessions_that_all_have_a_turn_are_not_forgotten() -> None:
    runtime = Runtime(limits=Limits(sessions=2))
    GATES["a"] = asyncio.Event()
    handles = []
    for name in "ab":
        handles.append(chat.using(runtime=runtime, session=name).start(text="a"))
    with pytest.raises(RunError) as refused:
        chat.using(runtime=runtime, session="c").start(text="a")
    assert refused.value.code == "session.too_many"
    GATES["a"].set()
    await until(lambda: len(ACTIVE) <= 1)
    for handle in handles:
        handle.cancel()
        await handle


async def test_a_session_in_memory_stays_small(sound_runs: list[Any]) -> None:
    runtime = Runtime()
    bound = chat.using(runtime=runtime, session="s", window=Window(turns=4))
    for number in range(300):
        await bound.run(text=f"{number}" * 100)
    line = runtime.sessions.known("default", "s")
    assert line is not None and len(line.turns) == 4 and not line.arrivals and not line.entering
    sound_runs.clear()
    gc.collect()
    drivers = [one for one in gc.get_objects() if type(one).__name__ == "Driver"]
    assert len(drivers) < 20, "runs of earlier turns are let go"


async def test_two_runtimes_over_one_file_keep_one_line(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    async with Runtime(journal=path) as one, Runtime(journal=path) as two:
        bound = [chat.using(runtime=runtime, session="s") for runtime in (one, two)]
        handles = [bound[number % 2].start(text=str(number)) for number in range(8)]
        outputs = [(await handle).output for handle in handles]
    assert sorted(len(output) for output in outputs) == list(range(8))
    longest = max(outputs, key=len)
    assert all(output == longest[: len(output)] for output in outputs)


async def test_a_file_of_before_sessions_is_opened(tmp_path: Path) -> None:
    import sqlite3
    from contextlib import closing

    path = tmp_path / "runs.db"
    with closing(SQLiteStore(path)):
        pass
    with closing(sqlite3.connect(path)) as file:
        tables = "DROP TABLE turns; DROP TABLE sessions; DROP TABLE queue; DROP TABLE served;"
        tables += "DROP TABLE keys;"
        file.executescript(f"{tables} DROP INDEX heads_running; PRAGMA user_version = 1;")
    async with Runtime(journal=path) as runtime:
        bound = chat.using(runtime=runtime, session="s")
        await bound.run(text="a")
        assert (await bound.run(text="b")).output == ["a"]
