"""Timelines: any state comes back, nobody else's edit is lost, and a death costs nothing."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stageflow import (
    BuildError,
    EffectError,
    EffectUnknown,
    Pipeline,
    Retry,
    Runtime,
    work,
)
from stageflow.stages.work import (
    Irreversible,
    MemoryResource,
    MemoryUndo,
    Restored,
    State,
    StepStanding,
    UndoLog,
    UndoRules,
    WriteRefused,
    put_back,
)
from stageflow.stages.work.undo import records as on_record
from stageflow.stages.work.undo.store import Decide
from stageflow.stages.work.undo.timeline import Timeline

KEYS = "abc"


class Living:
    """Holders, in which whoever is named lives."""

    def __init__(self) -> None:
        self.count = 0
        self.dead: set[str] = set()

    def new(self) -> str:
        self.count += 1
        return str(self.count)

    def is_alive(self, holder: str) -> bool:
        return holder not in self.dead


# -- states come back -------------------------------------------------------------------------

moves = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.sampled_from(KEYS), st.sampled_from(["x", "y", None])),
        st.tuples(st.just("edit"), st.sampled_from(KEYS), st.sampled_from(["x", "z", None])),
        st.tuples(st.just("undo"), st.integers(0, 30), st.none()),
    ),
    max_size=20,
)


class Naive:
    """What happened at each key, in order: values after steps, by number, and after edits."""

    def __init__(self) -> None:
        self.past: dict[str, list[tuple[int | None, str | None]]] = {key: [] for key in KEYS}

    def told(self, texts: dict[str, str], step: int | None) -> None:
        for key, past in self.past.items():
            if (past[-1][1] if past else None) != texts.get(key):
                past.append((step, texts.get(key)))

    def expected(self, key: str, target: int) -> tuple[str | None, bool]:
        """The value after an undo, and whether there is a conflict."""
        value: str | None = None
        later = False
        for step, after in self.past[key]:
            if step is not None and step > target:
                later = True
            elif step is None and later:
                return self._last_edit(key), True
            elif not later:
                value = after
        return value, False

    def _last_edit(self, key: str) -> str | None:
        return next(value for step, value in reversed(self.past[key]) if step is None)


@settings(max_examples=400, deadline=None)
@given(moves)
def test_an_undo_gives_the_state_of_its_step_where_nobody_else_wrote(made: list[Any]) -> None:
    async def story() -> None:
        memory = MemoryResource()
        line = UndoLog(MemoryUndo(), memory).timeline("t", by="test")
        naive, last = Naive(), 0
        for kind, what, value in made:
            if kind == "change":
                last = await line.change(memory, what, value)
                naive.told(memory.texts, last)
            elif kind == "edit":
                if memory.texts.get(what) != value:
                    memory.set(what, value)
                naive.told(memory.texts, None)
            else:
                target = what % (last + 1)
                expected = {key: naive.expected(key, target) for key in KEYS}
                restored = await line.undo_to(target)
                found = {each.key for each in restored.conflicts}
                assert found == {key for key, (_, is_one) in expected.items() if is_one}
                assert [memory.texts.get(key) for key in KEYS] == [
                    text for text, _ in expected.values()
                ]
                for step in (await line.steps())[last:]:
                    naive.past[step.key].append((step.number, memory.texts.get(step.key)))
                last = restored.last_step

    asyncio.run(story())


async def test_an_undo_can_be_undone_and_that_again() -> None:
    memory = MemoryResource()
    line = UndoLog(MemoryUndo(), memory).timeline("t", by="ann")
    await line.change(memory, "a", "one")
    await line.change(memory, "a", "two")
    first = await line.undo_to(1)
    assert memory.texts == {"a": "one"} and first.steps == (2,) and first.last_step == 3
    second = await line.undo_to(2)
    assert memory.texts == {"a": "two"} and second.steps == (3,)
    third = await line.undo_to(0)
    assert memory.texts == {} and third.steps == (4, 3, 2, 1) and not third.conflicts


async def test_an_edit_in_between_is_left_and_reported() -> None:
    memory = MemoryResource()
    line = UndoLog(MemoryUndo(), memory).timeline("t", by="ann")
    await line.change(memory, "a", "ours")
    await line.change(memory, "b", "ours")
    memory.set("a", "theirs")
    seen = await line.preview(0)
    restored = await line.undo_to(0)
    assert memory.texts == {"a": "theirs"}
    assert restored.steps == seen.steps == (2,)
    assert [(each.step, each.key, each.why) for each in restored.conflicts] == [
        (1, "a", "changed by somebody else")
    ]
    assert [each.key for each in seen.conflicts] == ["a"]


async def test_an_edit_that_came_and_went_is_reported() -> None:
    memory = MemoryResource()
    line = UndoLog(MemoryUndo(), memory).timeline("t", by="ann")
    await line.change(memory, "a", "ours")
    memory.set("a", "theirs")
    memory.set("a", "ours")
    (conflict,) = (await line.undo_to(0)).conflicts
    assert memory.texts == {"a": "ours"} and "put back" in conflict.why


async def test_an_edit_below_a_later_change_ends_the_walk_there() -> None:
    memory = MemoryResource()
    line = UndoLog(MemoryUndo(), memory).timeline("t", by="ann")
    await line.change(memory, "a", "first")
    memory.set("a", "theirs")
    await line.change(memory, "a", "second")
    restored = await line.undo_to(0)
    assert memory.texts == {"a": "theirs"} and restored.steps == (2,)
    assert [each.step for each in restored.conflicts] == [1]


async def test_a_change_from_what_is_there_is_made_anew_when_somebody_comes_between() -> None:
    memory = MemoryResource()
    memory.set("n", "1")
    line = UndoLog(MemoryUndo(), memory).timeline("t", by="ann")
    interrupted = False

    def more(text: str | None) -> str:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            memory.set("n", "10")
        return str(int(text or 0) + 1)

    step = await line.change(memory, "n", more)
    assert memory.texts["n"] == "11" and step == 2
    assert [each.standing for each in await line.steps()] == [
        StepStanding.DROPPED,
        StepStanding.ACTED,
    ]


async def test_steps_of_one_node_are_taken_back_and_those_of_others_stay() -> None:
    memory = MemoryResource()
    undo = UndoLog(MemoryUndo(), memory)
    ann, bob = undo.timeline("t", by="ann"), undo.timeline("t", by="bob")
    await ann.change(memory, "a", "1")
    await bob.change(memory, "b", "2")
    await ann.change(memory, "c", "3")
    await bob.change(memory, "c", "4")
    restored = await ann.put_back("ann")
    assert memory.texts == {"b": "2", "c": "4"} and restored.steps == (1,)
    assert [(each.step, each.why) for each in restored.conflicts] == [
        (3, "changed by step 4 of 'bob' since")
    ]
    assert (await bob.put_back("bob")).steps == (4, 2)
    again = await ann.put_back("ann")
    assert memory.texts == {} and again.steps == (3,) and not again.conflicts


# -- deaths -------------------------------------------------------------------------------------


class Died(BaseException):
    """The process is gone."""


class Switch:
    """Dies before or after the n-th thing that is done to the world."""

    def __init__(self, after: int) -> None:
        self.left = after

    def reached(self) -> None:
        if self.left == 0:
            raise Died
        self.left -= 1


class DeadlyUndo(MemoryUndo):
    def __init__(self, inner: MemoryUndo, switch: Switch) -> None:
        self._inner, self._switch = inner, switch

    async def change(self, timeline: str, decide: Decide[Any]) -> Any:
        self._switch.reached()
        answer = await self._inner.change(timeline, decide)
        self._switch.reached()
        return answer

    async def read(self, timeline: str, since: int) -> list[bytes]:
        return await self._inner.read(timeline, since)


class DeadlyResource(MemoryResource):
    def __init__(self, inner: MemoryResource, switch: Switch) -> None:
        self.name, self._inner, self._switch = inner.name, inner, switch

    async def read(self, key: str) -> State:
        return await self._inner.read(key)

    async def write(self, key: str, content: bytes | None, expected: State) -> State:
        self._switch.reached()
        after = await self._inner.write(key, content, expected)
        self._switch.reached()
        return after


async def lived(
    act: Callable[[Timeline, MemoryResource], Coroutine[Any, Any, Any]],
    store: MemoryUndo,
    memory: MemoryResource,
    holders: Living,
    after: int,
) -> bool:
    """Whether a process that dies there came to its end."""
    switch = Switch(after)
    deadly = DeadlyResource(memory, switch)
    undo = UndoLog(DeadlyUndo(store, switch), deadly, holders=holders)
    try:
        await act(undo.timeline("t", by="ann"), deadly)
    except Died:
        holders.dead |= {str(number) for number in range(holders.count + 1)}
        return False
    return True


@pytest.mark.parametrize("second_life", [0, 1, 3, 1_000])
async def test_an_undo_is_finished_wherever_its_process_died(second_life: int) -> None:
    """Died at each point in turn, and its heir at another one."""
    for point in range(100):
        memory, store, holders = MemoryResource(), MemoryUndo(), Living()
        memory.set("c", "theirs")
        line = UndoLog(store, memory, holders=holders).timeline("t", by="ann")
        for number, key in enumerate("abcab"):
            await line.change(memory, key, f"ours {number}")
        memory.set("c", "theirs again")

        async def undone(line: Timeline, _: MemoryResource) -> None:
            await line.undo_to(1)

        is_over = await lived(undone, store, memory, holders, point)
        if not is_over:

            async def recovered(line: Timeline, _: MemoryResource) -> None:
                await line.recover()

            await lived(recovered, store, memory, holders, second_life)
        last = UndoLog(store, memory, holders=holders)
        await last.recover()
        steps = await last.timeline("t", by="ann").steps()
        assert memory.texts in (
            {"a": "ours 0", "c": "theirs again"},
            # It died before its first record.
            {"a": "ours 3", "b": "ours 4", "c": "theirs again"},
        )
        assert (len(memory.texts) == 2) == (len(steps) > 5)
        assert all(each.standing in (StepStanding.ACTED, StepStanding.DROPPED) for each in steps)
        assert await store.unfinished() == []
        if is_over:
            assert point > 5
            return
    raise AssertionError("it never came to its end")


async def test_a_change_is_known_or_not_there_wherever_its_process_died() -> None:
    for point in range(100):
        memory, store, holders = MemoryResource(), MemoryUndo(), Living()

        async def changed(line: Timeline, resource: MemoryResource) -> None:
            await line.change(resource, "a", "ours")

        is_over = await lived(changed, store, memory, holders, point)
        line = UndoLog(store, memory, holders=holders).timeline("t", by="ann")
        acted = [each for each in await line.steps() if each.standing is StepStanding.ACTED]
        assert bool(acted) == (memory.texts == {"a": "ours"})
        await line.undo_to(0)
        assert memory.texts == {}
        if is_over:
            return
    raise AssertionError("it never came to its end")


class Unsteady(MemoryResource):
    """Away while it is told to be."""

    is_away = False

    async def read(self, key: str) -> State:
        if self.is_away:
            raise ConnectionError("away")
        return await super().read(key)

    async def write(self, key: str, content: bytes | None, expected: State) -> State:
        self.is_away = True
        return await self.read(key)


async def test_a_timeline_that_can_not_be_recovered_keeps_no_other_waiting() -> None:
    store, resources = MemoryUndo(), [Unsteady(name) for name in "abc"]
    undo = UndoLog(store, *resources)
    for resource in resources:
        with pytest.raises(ConnectionError):
            await undo.timeline(resource.name, by="test").change(resource, "x", "1")
    assert len(await store.unfinished()) == 3
    resources[2].is_away = False
    with pytest.raises(ConnectionError) as caught:
        await undo.recover()
    assert caught.value.__notes__ == ["1 more timelines could not be recovered"]
    assert len(await store.unfinished()) == 2, "what comes after them was recovered"
    resources[0].is_away = resources[1].is_away = False
    assert await undo.recover() == () and await store.unfinished() == []


async def test_nobody_knows_of_a_change_cut_off_and_overwritten() -> None:
    """1. the intent; 2. death, before or after the act; 3. somebody writes; 4. a person's word."""
    memory, store, holders = MemoryResource(), MemoryUndo(), Living()

    async def changed(line: Timeline, resource: MemoryResource) -> None:
        await line.change(resource, "a", "ours")

    await lived(changed, store, memory, holders, 5)
    assert memory.texts == {"a": "ours"}
    memory.set("a", "theirs")
    line = UndoLog(store, memory, holders=holders).timeline("t", by="bob")
    (step,) = await line.steps()
    assert step.standing is StepStanding.DOUBTED
    (conflict,) = (await line.undo_to(0)).conflicts
    assert "nobody knows" in conflict.why and memory.texts == {"a": "theirs"}
    with pytest.raises(EffectError, match=r"undo\.not_in_doubt"):
        await line.settle(7, happened=False, by="bob")
    await line.settle(1, happened=False, by="bob")
    assert (await line.undo_to(0)).conflicts == ()


# -- turns --------------------------------------------------------------------------------------


async def test_two_at_a_time_take_turns() -> None:
    memory = MemoryResource()
    memory.set("n", "0")
    undo = UndoLog(MemoryUndo(), memory)

    async def count(by: str) -> None:
        line = undo.timeline("t", by=by)
        for _ in range(10):
            await line.change(memory, "n", lambda text: str(int(text) + 1))

    await asyncio.gather(*(count(by) for by in "abc"))
    steps = await undo.timeline("t", by="d").steps()
    assert memory.texts["n"] == "30" and len(steps) == 30


async def test_who_waits_in_vain_for_a_turn_is_told() -> None:
    memory = MemoryResource()
    rules = UndoRules(lease_s=60, act_s=20, wait_s=0.05)
    undo = UndoLog(MemoryUndo(), memory, rules=rules)

    async def long(line: Timeline) -> None:
        async with line._turn():
            await asyncio.sleep(1)

    holding = asyncio.ensure_future(long(undo.timeline("t", by="a")))
    await asyncio.sleep(0.01)
    with pytest.raises(EffectError, match=r"undo\.busy"):
        await undo.timeline("t", by="b").change(memory, "a", "x")
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    await undo.timeline("t", by="b").change(memory, "a", "x")


async def test_a_turn_that_has_passed_on_writes_nothing() -> None:
    now_s = 1_000.0
    store = MemoryUndo(wall_s=lambda: now_s)
    memory = MemoryResource()
    undo = UndoLog(store, memory)
    late = undo.timeline("t", by="late")
    with pytest.raises(EffectError, match=r"undo\.fenced"):
        async with late._turn() as turn:
            now_s += 100.0
            await undo.timeline("t", by="next").change(memory, "a", "x")
            await turn.append(on_record.Permitted("d", "late", now_s))
    assert [each.by for each in await late.steps()] == ["next"]


def test_names_and_times_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BuildError, match=r"undo\.rules"):
        UndoRules(lease_s=10.0, act_s=5.0)
    with pytest.raises(BuildError, match=r"undo\.resources"):
        UndoLog(MemoryUndo(), MemoryResource("a"), MemoryResource("a"))


async def test_what_a_timeline_does_not_know_is_named() -> None:
    memory = MemoryResource()
    line = UndoLog(MemoryUndo(), memory).timeline("t", by="a")
    with pytest.raises(EffectError, match="did you mean 'memory'"):
        await line.change("memry", "a", "x")
    with pytest.raises(EffectError, match=r"undo\.unknown_step"):
        await line.undo_to(1)


async def test_timelines_of_tenants_are_apart() -> None:
    memory = MemoryResource()
    undo = UndoLog(MemoryUndo(), memory)
    await undo.timeline("t", by="a", tenant="x").change(memory, "a", "x")
    assert await undo.timeline("t", by="a", tenant="y").steps() == ()


# -- what can't be taken back ---------------------------------------------------------------------


class Post:
    """Counts letters; an answer may be lost."""

    def __init__(self) -> None:
        self.letters: list[tuple[bytes, str]] = []
        self.failing: list[BaseException] = []

    async def send(self, payload: bytes, key: str) -> None:
        error = self.failing.pop(0) if self.failing else None
        if not isinstance(error, ValueError):
            self.letters.append((payload, key))
        if error is not None:
            raise error


async def test_a_final_act_needs_leave_for_it_and_uses_it_up() -> None:
    post = Post()
    letter = Irreversible("letter", post.send)
    line = UndoLog(MemoryUndo()).timeline("t", by="a")
    with pytest.raises(EffectError, match=r"undo\.not_permitted"):
        await line.send(letter, "dear")
    await line.permit(letter, "dear", by="ann")
    with pytest.raises(EffectError, match=r"undo\.not_permitted"):
        await line.send(letter, "other")
    assert await line.send(letter, "dear") == 1
    with pytest.raises(EffectError, match=r"undo\.not_permitted"):
        await line.send(letter, "dear")
    assert [payload for payload, _ in post.letters] == [b"dear"]
    restored: Restored = await line.undo_to(0)
    assert restored.kept == (1,) and restored.steps == () and not restored.conflicts


async def test_leave_runs_out_and_comes_back_when_nothing_happened() -> None:
    now_s = 1_000.0
    post = Post()
    letter = Irreversible("letter", post.send)
    line = UndoLog(MemoryUndo(wall_s=lambda: now_s)).timeline("t", by="a")
    await line.permit(letter, "dear", by="ann", for_s=10)
    post.failing = [ValueError("no stamp")]
    with pytest.raises(ValueError, match="no stamp"):
        await line.send(letter, "dear")
    await line.send(letter, "dear")
    await line.permit(letter, "dear", by="ann", for_s=10)
    now_s += 11
    with pytest.raises(EffectError, match=r"undo\.not_permitted"):
        await line.send(letter, "dear")


async def test_a_final_act_in_doubt_is_a_persons() -> None:
    post = Post()
    letter = Irreversible("letter", post.send)
    line = UndoLog(MemoryUndo()).timeline("t", by="a")
    await line.permit(letter, "dear", by="ann")
    post.failing = [TimeoutError()]
    with pytest.raises(EffectUnknown, match=r"undo\.unknown"):
        await line.send(letter, "dear")
    assert [each.standing for each in await line.steps()] == [StepStanding.DOUBTED]
    await line.settle(1, happened=False, by="ann")
    await line.send(letter, "dear")


# -- in a run -------------------------------------------------------------------------------------


async def test_a_saga_takes_back_what_its_steps_changed() -> None:
    memory = MemoryResource()
    store = MemoryUndo()

    @work(keyed=True, undo=put_back)
    async def edited(ctx: Any, undo: UndoLog, text: str) -> str:
        line = undo.of(ctx)
        await line.change("memory", "a", text)
        await line.change("memory", "b", text)
        return text

    @work(keyed=True, undo=put_back)
    async def renamed(ctx: Any, undo: UndoLog, edited: str) -> str:
        await undo.of(ctx).change("memory", "a", f"{edited}!")
        return edited

    @work
    async def checked(renamed: str) -> str:
        raise ValueError("no")

    pipeline = Pipeline(
        "edits", [edited, renamed, checked], inputs={"text": str}, deps={"undo": UndoLog}
    )
    async with Runtime(deps={"undo": lambda: UndoLog(store, memory)}) as runtime:
        run = await pipeline.using(runtime=runtime).run(text="new")
        assert run.status == "failed" and run.undo is not None
        assert set(run.undo.undone) == {"edited", "renamed"} and memory.texts == {}


async def test_a_stage_that_is_executed_again_changes_nothing_twice() -> None:
    memory = MemoryResource()
    memory.set("n", "0")
    attempts = []

    @work(keyed=True, retry=Retry(attempts=3, base_s=0.01))
    async def counted(ctx: Any, undo: UndoLog) -> str:
        line = undo.of(ctx)
        first = await line.change("memory", "n", lambda text: str(int(text) + 1))
        second = await line.change("memory", "n", lambda text: str(int(text) + 1))
        attempts.append((first, second))
        if len(attempts) < 3:
            raise ConnectionError
        return "done"

    pipeline = Pipeline("counts", [counted], deps={"undo": UndoLog})
    async with Runtime(deps={"undo": lambda: UndoLog(MemoryUndo(), memory)}) as runtime:
        run = await pipeline.using(runtime=runtime).run()
    assert run.status == "ok", run.failures
    assert attempts == [(1, 2)] * 3 and memory.texts["n"] == "2"


async def test_a_stage_that_asks_twice_for_its_timeline_goes_on_counting() -> None:
    memory = MemoryResource()

    @work(keyed=True)
    async def edited(ctx: Any, undo: UndoLog) -> int:
        await undo.of(ctx).change("memory", "a", "1")
        return await undo.of(ctx).change("memory", "b", "2")

    pipeline = Pipeline("edits", [edited], outputs=edited, deps={"undo": UndoLog})
    async with Runtime(deps={"undo": lambda: UndoLog(MemoryUndo(), memory)}) as runtime:
        run = await pipeline.using(runtime=runtime).run()
    assert run.output == 2 and memory.texts == {"a": "1", "b": "2"}


async def test_a_stage_that_goes_back_does_so_once() -> None:
    memory = MemoryResource()
    store = MemoryUndo()
    attempts = 0

    @work(keyed=True, retry=Retry(attempts=2, base_s=0.01))
    async def edited(ctx: Any, undo: UndoLog) -> str:
        nonlocal attempts
        attempts += 1
        line = undo.of(ctx)
        await line.change("memory", "a", "1")
        restored = await line.undo_to(0)
        await line.change("memory", "b", "2")
        if attempts == 1:
            raise ConnectionError
        return str(restored.steps)

    pipeline = Pipeline("edits", [edited], outputs=edited, deps={"undo": UndoLog})
    async with Runtime(deps={"undo": lambda: UndoLog(store, memory)}) as runtime:
        run = await pipeline.using(runtime=runtime).run()
    assert run.output == "(1,)" and memory.texts == {"b": "2"} and attempts == 2
    undo = UndoLog(store, memory)
    assert len(await undo.of_run(run.id, by="ann").steps()) == 3


async def test_a_name_that_stands_for_another_change_is_refused() -> None:
    memory = MemoryResource()
    line = UndoLog(MemoryUndo(), memory).timeline("t", by="ann")
    assert await line.change(memory, "a", "1", op="first") == 1
    assert await line.change(memory, "a", "2", op="first") == 1
    with pytest.raises(EffectError, match=r"undo\.other_op"):
        await line.change(memory, "b", "1", op="first")
    assert memory.texts == {"a": "1"}


async def test_leave_that_is_given_again_under_one_name_is_given_once() -> None:
    post = Post()
    letter = Irreversible("letter", post.send)
    line = UndoLog(MemoryUndo()).timeline("t", by="a")
    for _ in range(2):
        await line.permit(letter, "dear", by="ann", op="asked")
        await line.send(letter, "dear", op="sent")
    with pytest.raises(EffectError, match=r"undo\.not_permitted"):
        await line.send(letter, "dear")
    assert len(post.letters) == 1


async def test_a_receiver_that_recognises_keys_is_asked_again() -> None:
    post = Post()
    letter = Irreversible("letter", post.send, keyed=True)
    line = UndoLog(MemoryUndo()).timeline("t", by="a")
    await line.permit(letter, "dear", by="ann")
    post.failing = [TimeoutError()]
    with pytest.raises(TimeoutError):
        await line.send(letter, "dear", op="first")
    assert await line.send(letter, "dear", op="first") == 1
    assert len(post.letters) == 2 and len({key for _, key in post.letters}) == 1
    assert [each.standing for each in await line.steps()] == [StepStanding.ACTED]


class Strict(MemoryResource):
    """Refuses a text for good."""

    async def write(self, key: str, content: bytes | None, expected: State) -> State:
        if content == b"taken":
            raise WriteRefused("undo.refused", "somebody else has it")
        return await super().write(key, content, expected)


async def test_what_a_resource_refuses_is_a_conflict_and_blocks_nothing() -> None:
    strict = Strict()
    strict.set("a", "taken")
    line = UndoLog(MemoryUndo(), strict).timeline("t", by="ann")
    await line.change(strict, "a", "free")
    await line.change(strict, "b", "1")
    restored = await line.undo_to(0)
    assert restored.steps == (2,) and strict.texts == {"a": "free"}
    assert [(each.step, each.why) for each in restored.conflicts] == [
        (1, "its resource refuses it: undo.refused")
    ]
    with pytest.raises(WriteRefused):
        await line.change(strict, "c", "taken")
    await line.change(strict, "c", "1")
    assert [each.standing for each in await line.steps()][-2:] == [
        StepStanding.DROPPED,
        StepStanding.ACTED,
    ]


async def test_a_turn_that_can_not_be_used_is_let_go() -> None:
    store, memory = MemoryUndo(), MemoryResource()
    undo = UndoLog(store, memory, rules=UndoRules(wait_s=0.0))
    await undo.timeline("t", by="ann").change(memory, "a", "1")
    (records,) = store._records.values()
    kept = records[0]
    records[0] = kept[:-1] + bytes([kept[-1] ^ 1])
    for _ in range(2):
        with pytest.raises(EffectError, match=r"undo\.damaged"):
            await undo.timeline("t", by="ann").steps()
    records[0] = kept
    assert len(await undo.timeline("t", by="ann").steps()) == 1


async def test_a_cancelled_wait_for_a_turn_leaves_none_behind() -> None:
    memory = MemoryResource()
    undo = UndoLog(MemoryUndo(), memory, rules=UndoRules(wait_s=0.0))
    for rounds in range(12):
        task = asyncio.ensure_future(undo.timeline("t", by="ann").change(memory, "a", str(rounds)))
        for _ in range(rounds):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await undo.timeline("t", by="ann").steps()


def test_a_resource_in_memory_is_copied_as_it_is() -> None:
    memory = MemoryResource()
    memory.set("a", "x")
    assert copy.deepcopy(memory).texts == {"a": "x"}
