"""Runs that take back what they have done: when, in which order, and what if they can't."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from stageflow import (
    Block,
    BuildError,
    CantTell,
    Context,
    Decision,
    Happened,
    LetStand,
    NotHappened,
    Pipeline,
    Redact,
    Retry,
    RunError,
    Runtime,
    Stage,
    StageOutput,
    guard,
    transform,
    work,
)

QUICK = Retry(attempts=3, base_s=0.001)


class World:
    """What was done, in order, and what goes wrong."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.fails: dict[str, int] = {}
        """Name to how often it fails; it succeeds then."""

    def do(self, name: str) -> str:
        if self.fails.get(name, 0):
            self.fails[name] -= 1
            raise ValueError(f"{name} failed")
        self.log.append(name)
        return name

    def step(self, name: str, after: str | tuple[str, ...] = (), **options: Any) -> Stage[..., Any]:
        """A step that can be undone."""

        async def undo(result: str) -> None:
            self.do(f"-{result}")

        async def body() -> str:
            return self.do(name)

        return work(
            body, name=name, after=after, undo=work(undo, name="undo", retry=QUICK), **options
        )

    def last(self, *after: str, **options: Any) -> Stage[..., Any]:
        """A step without an undo, which fails."""

        async def body() -> str:
            self.do("last")
            raise ValueError("last failed")

        return work(body, name="last", after=after, **options)


@pytest.fixture
def world() -> World:
    return World()


@pytest_asyncio.fixture(params=["memory", "journal"])
async def runtime(request: pytest.FixtureRequest, tmp_path: Any) -> AsyncIterator[Runtime]:
    journal = tmp_path / "runs.db" if request.param == "journal" else None
    async with Runtime(journal=journal) as made:
        yield made


@pytest_asyncio.fixture
async def kept(tmp_path: Any) -> AsyncIterator[Runtime]:
    async with Runtime(journal=tmp_path / "runs.db") as made:
        yield made


def saga(world: World, *more: Stage[..., Any]) -> Pipeline[Any]:
    return Pipeline("saga", [world.step("a"), world.step("b", "a"), world.step("c", "a"), *more])


async def test_a_failed_run_is_taken_back_in_reverse(world: World, runtime: Runtime) -> None:
    run = await saga(world, world.last("b", "c")).using(runtime=runtime).run()
    assert (run.status, run.reason) == ("failed", "error:ValueError")
    assert set(world.log[-3:-1]) == {"-b", "-c"} and world.log[-1] == "-a"
    assert run.undo is not None and set(run.undo.undone) == {"a", "b", "c"}
    assert run.undo.undone[-1] == "a" and run.undo.stuck == run.undo.waiting == ()
    assert run.nodes["a.undo"].state == "ok"
    assert run["a"] == "a"  # what it had done is still told


async def test_a_run_that_ends_well_takes_nothing_back(world: World, runtime: Runtime) -> None:
    run = await saga(world).using(runtime=runtime).run()
    assert run.status == "ok" and run.undo is None
    assert run.nodes["a.undo"].cause == "not_needed"
    assert sorted(world.log) == ["a", "b", "c"]


async def test_a_partial_run_keeps_its_effects(world: World, runtime: Runtime) -> None:
    run = await saga(world, world.last(on_failure="isolate")).using(runtime=runtime).run()
    assert run.status == "partial" and run.undo is None
    assert not any(what.startswith("-") for what in world.log)


async def test_a_blocked_run_is_taken_back(world: World, runtime: Runtime) -> None:
    @guard
    async def strict(b: str) -> Decision:
        return Block("no")

    run = await saga(world, strict).using(runtime=runtime).run()
    assert run.status == "blocked" and run.undo is not None
    assert "b" in run.undo.undone and world.log[-1] == "-a"


async def test_an_undo_is_given_what_the_step_returned_not_what_guards_made_of_it(
    world: World, runtime: Runtime
) -> None:
    @guard
    async def hides(b: str) -> Decision:
        return Redact("hidden")

    run = await saga(world, hides, world.last("b", "c")).using(runtime=runtime).run()
    assert run.status == "failed" and "-b" in world.log and run["b"] == "hidden"


async def test_a_cancelled_run_is_taken_back_before_it_ends(world: World, runtime: Runtime) -> None:
    reached = asyncio.Event()

    @transform(after=("b", "c"))
    async def waits() -> str:
        reached.set()
        await asyncio.Event().wait()
        return ""

    handle = saga(world, waits).using(runtime=runtime).start()
    await reached.wait()
    handle.cancel()
    run = await handle
    assert run.status == "cancelled" and run.undo is not None and len(run.undo.undone) == 3


async def test_a_run_out_of_time_is_taken_back_in_its_own_time(
    world: World, runtime: Runtime
) -> None:
    @transform(after=("b", "c"))
    async def waits() -> str:
        await asyncio.Event().wait()
        return ""

    run = await saga(world, waits).using(runtime=runtime, deadline=0.05).run()
    assert (run.status, run.reason) == ("failed", "timeout")
    assert run.undo is not None and len(run.undo.undone) == 3


async def test_a_cancellation_does_not_stop_what_takes_back(runtime: Runtime) -> None:
    begun, go = asyncio.Event(), asyncio.Event()
    log: list[str] = []

    async def undo(ctx: Context, result: str) -> None:
        begun.set()
        await go.wait()
        log.append(f"-{result} {ctx.cancelled}")

    @work(undo=undo)
    async def a() -> str:
        return "a"

    @work
    async def b(a: str) -> str:
        raise ValueError

    handle = Pipeline("saga", [a, b]).using(runtime=runtime).start()
    await begun.wait()
    handle.cancel()
    go.set()
    run = await handle
    assert run.status == "failed" and log == ["-a False"]


async def test_an_undo_is_tried_again(world: World, runtime: Runtime) -> None:
    world.fails["-b"] = 2
    run = await saga(world, world.last("b", "c")).using(runtime=runtime).run()
    assert run.status == "failed" and world.log[-1] == "-a"
    assert run.nodes["b.undo"].attempts == 3


async def test_without_a_journal_a_stuck_undo_is_told(world: World) -> None:
    world.fails["-b"] = 99
    run = await saga(world, world.last("b", "c")).run()
    assert (run.status, run.reason) == ("failed", "undo_stuck:b.undo")
    assert run.undo is not None
    assert (run.undo.undone, run.undo.stuck, run.undo.waiting) == (("c",), ("b",), ("a",))
    assert run.failures["b.undo"].message == "-b failed"


Finish = Callable[[Runtime, Pipeline[Any], str, World], Any]


async def _again(runtime: Runtime, pipeline: Pipeline[Any], run: str, world: World) -> Any:
    world.fails.clear()
    return await runtime.resume(run, pipeline=pipeline)


async def _by_hand(runtime: Runtime, pipeline: Pipeline[Any], run: str, world: World) -> Any:
    found = Happened(None)
    return await (await runtime.settle(run, "b.undo", found, by="ann", pipeline=pipeline))


async def _retried(runtime: Runtime, pipeline: Pipeline[Any], run: str, world: World) -> Any:
    world.fails.clear()
    found = NotHappened()
    return await (await runtime.settle(run, "b.undo", found, by="ann", pipeline=pipeline))


async def _left(runtime: Runtime, pipeline: Pipeline[Any], run: str, world: World) -> Any:
    found = LetStand("too small to matter")
    return await (await runtime.settle(run, "b.undo", found, by="ann", pipeline=pipeline))


@pytest.mark.parametrize(
    ("finish", "undone", "left"),
    [
        (_again, ("c", "b", "a"), ()),
        (_by_hand, ("c", "b", "a"), ()),
        (_retried, ("c", "b", "a"), ()),
        (_left, ("c", "a"), ("b",)),
    ],
)
async def test_a_stuck_undo_waits_for_a_person(
    world: World, kept: Runtime, finish: Finish, undone: tuple[str, ...], left: tuple[str, ...]
) -> None:
    world.fails["-b"] = 99
    pipeline = saga(world, world.last("b", "c"))
    run = await pipeline.using(runtime=kept).run()
    assert (run.status, run.reason) == ("suspended", "undo_stuck:b.undo")
    ended = await finish(kept, pipeline, run.id, world)
    assert (ended.status, ended.reason) == ("failed", "error:ValueError")
    assert ended.undo.stuck == ended.undo.waiting == ()
    assert (set(ended.undo.undone), ended.undo.left) == (set(undone), left)
    assert world.log[-1] == "-a" and world.log.count("-a") == 1
    account = await kept.result(run.id, pipeline=pipeline)  # from its records alone
    assert account.undo == ended.undo and account.status == "failed"


async def test_a_stuck_undo_that_fails_again_is_stuck_again(world: World, kept: Runtime) -> None:
    world.fails["-b"] = 99
    pipeline = saga(world, world.last("b", "c"))
    run = await pipeline.using(runtime=kept).run()
    again = await kept.resume(run.id, pipeline=pipeline)
    assert (again.status, again.reason) == ("suspended", "undo_stuck:b.undo")
    assert again.nodes["b.undo"].attempts == 6  # a whole budget more
    cancelled = await kept.cancel(run.id, pipeline=pipeline)
    assert cancelled.status == "suspended"  # it is not over because somebody wants it to be


async def test_only_what_is_stuck_can_be_settled(world: World, kept: Runtime) -> None:
    world.fails["-b"] = 99
    pipeline = saga(world, world.last("b", "c"))
    run = await pipeline.using(runtime=kept).run()
    for node, found in (("a.undo", Happened(None)), ("a", Happened("x")), ("b", NotHappened())):
        with pytest.raises(RunError) as caught:
            await kept.settle(run.id, node, found, by="ann", pipeline=pipeline)
        assert caught.value.code == "run.not_stuck"
    assert (await kept.result(run.id, pipeline=pipeline)).status == "suspended"


async def test_a_run_that_is_undone_stays_so(world: World, kept: Runtime) -> None:
    pipeline = saga(world, world.last("b", "c"))
    run = await pipeline.using(runtime=kept).run()
    log = list(world.log)
    again = await kept.resume(run.id, pipeline=pipeline)
    assert again.status == "failed" and again.undo == run.undo and world.log == log


async def test_past_its_pivot_a_run_only_goes_forward(world: World, runtime: Runtime) -> None:
    async def body() -> str:
        return world.do("pivot")

    pivot = work(body, name="pivot", after=("b", "c"), pivot=True)
    world.fails["d"] = 1
    pipeline = saga(world, pivot, world.step("d", "pivot"))
    run = await pipeline.using(runtime=runtime).run()
    assert run.reason == "past_pivot:pivot"
    assert not any(what.startswith("-") for what in world.log)
    if runtime.journal is None:
        assert run.status == "failed"
        return
    assert run.status == "suspended"
    done = await runtime.resume(run.id, pipeline=pipeline)
    assert done.status == "ok" and world.log[-1] == "d" and world.log.count("pivot") == 1


async def test_a_pivot_counts_without_any_undo(world: World, kept: Runtime) -> None:
    async def body() -> str:
        return world.do("pivot")

    pivot = work(body, name="pivot", pivot=True)
    last = world.step("d", "pivot")
    world.fails["d"] = 1
    pipeline = Pipeline("p", [pivot, work(last.function, name="d", after="pivot")])
    run = await pipeline.using(runtime=kept).run()
    assert (run.status, run.reason) == ("suspended", "past_pivot:pivot")
    inner = Pipeline("inner", [pivot, work(last.function, name="d", after="pivot")])
    world.fails["d"] = 1
    outer = Pipeline("outer", [world.step("first"), inner.as_stage("inner").named(after="first")])
    run = await outer.using(runtime=kept).run()
    assert run.reason == "past_pivot:inner" and "-first" not in world.log
    assert (await kept.resume(run.id, pipeline=outer)).status == "ok"


async def test_before_its_pivot_a_run_is_taken_back(world: World, runtime: Runtime) -> None:
    async def body() -> str:
        raise ValueError("pivot failed")

    pivot = work(body, name="pivot", after=("b", "c"), pivot=True)
    run = await saga(world, pivot).using(runtime=runtime).run()
    assert run.status == "failed" and run.undo is not None and len(run.undo.undone) == 3


async def test_an_effect_in_doubt_is_looked_up_before_anything_is_taken_back(
    world: World, runtime: Runtime
) -> None:
    asked: list[str] = []

    async def looked_up() -> Happened:
        asked.append("?")
        return Happened("slow")

    async def undo(result: str) -> None:
        world.do(f"-{result}")

    @work(undo=undo, reconcile=looked_up, timeout=math.inf)
    async def slow() -> str:
        world.do("slow")
        await asyncio.Event().wait()
        return "slow"

    run = await saga(world, slow, world.last("b", "c")).using(runtime=runtime).run()
    assert run.status == "failed" and asked == ["?"]
    assert run.undo is not None and "slow" in run.undo.undone and "-slow" in world.log


async def test_a_keyed_effect_in_doubt_is_sent_again_to_learn_of_it(
    world: World, runtime: Runtime
) -> None:
    there: set[str] = set()

    async def undo(result: str) -> None:
        world.do(f"-{result}")

    @work(undo=undo, keyed=True)
    async def slow(ctx: Context) -> str:
        is_first = ctx.effect_key not in there
        there.add(ctx.effect_key)
        world.do("sent")
        if is_first:
            raise ConnectionError("no answer")
        return "slow"

    run = await saga(world, slow).using(runtime=runtime).run()
    assert run.status == "failed" and world.log.count("sent") == 2
    assert run.undo is not None and "slow" in run.undo.undone


async def test_a_person_settles_a_step_in_doubt(world: World, kept: Runtime) -> None:
    async def lost() -> CantTell:
        return CantTell()

    async def undo(result: str) -> None:
        world.do(f"-{result}")

    @work(undo=undo, reconcile=lost, after="a", timeout=0.01)
    async def slow() -> str:
        await asyncio.Event().wait()
        return "slow"

    @work(after=("b", "c"))
    async def last() -> str:
        await asyncio.sleep(0.05)
        raise ValueError

    pipeline = saga(world, slow, last)
    for found, undone in ((Happened("found"), True), (NotHappened(), False)):
        world.log.clear()
        run = await pipeline.using(runtime=kept).run()
        assert (run.status, run.reason) == ("suspended", "undo_stuck:slow")
        assert run.undo is not None and run.undo.waiting == ("a",)
        handle = await kept.settle(run.id, "slow", found, by="ann", pipeline=pipeline)
        ended = await handle
        assert ended.status == "failed" and world.log[-1] == "-a"
        assert ("-found" in world.log) is undone


async def test_a_person_says_that_an_unknown_effect_happened(kept: Runtime) -> None:
    @work(timeout=0.01)
    async def sent() -> str:
        await asyncio.Event().wait()
        return ""

    @transform
    async def told(sent: str) -> str:
        return f"{sent}!"

    pipeline = Pipeline("post", [sent, told], outputs=told)
    run = await pipeline.using(runtime=kept).run()
    assert (run.status, run.reason) == ("suspended", "effect_unknown")
    with pytest.raises(Exception, match="str"):
        await kept.settle(run.id, "sent", Happened(7), by="ann", pipeline=pipeline)
    done = await (await kept.settle(run.id, "sent", Happened("it"), by="ann", pipeline=pipeline))
    assert done.output == "it!"
    assert (await kept.result(run.id, pipeline=pipeline)).output == "it!"


async def test_a_done_run_is_taken_back_on_demand(world: World, kept: Runtime) -> None:
    pipeline = saga(world)
    run = await pipeline.using(runtime=kept).run()
    assert run.status == "ok"
    undone = await kept.undo(run.id, pipeline=pipeline)
    assert (undone.status, undone.reason) == ("cancelled", "undone")
    assert undone.undo is not None and len(undone.undo.undone) == 3
    again = await kept.undo(run.id, pipeline=pipeline)
    assert again.undo == undone.undo and world.log.count("-a") == 1
    plain = Pipeline("plain", [transform(lambda: 1, name="one", place="loop")])
    run = await plain.using(runtime=kept).run()
    with pytest.raises(RunError) as caught:
        await kept.undo(run.id, pipeline=plain)
    assert caught.value.code == "run.not_undoable"


async def test_an_undo_takes_what_the_step_took(runtime: Runtime) -> None:
    seen: list[Any] = []

    async def undo(result: str, cents: int, made: str, ctx: Context, note: str = "none") -> None:
        seen.append((result, cents, made, ctx.node, note))

    @transform
    async def made(cents: int) -> str:
        return f"made {cents}"

    @work(undo=undo)
    async def charge(made: str, cents: int) -> str:
        return f"charged {cents}"

    @work
    async def last(charge: str) -> str:
        raise ValueError

    pipeline = Pipeline("shop", [made, charge, last], inputs={"cents": int, "note": str})
    await pipeline.using(runtime=runtime).run(cents=5, note="hi")
    assert seen == [("charged 5", 5, "made 5", "charge.undo", "hi")]


async def test_what_an_undo_gives_has_the_labels_of_what_it_took(runtime: Runtime) -> None:
    async def undo(result: str) -> str:
        return f"undone {result}"

    @work(undo=undo, labels="secret")
    async def charge() -> str:
        return "charged"

    @work
    async def last(charge: str) -> str:
        raise ValueError

    run = await Pipeline("shop", [charge, last]).using(runtime=runtime).run()
    assert run["charge.undo"] == "undone charged"
    assert run.labels("charge.undo") == run.labels("charge") == {"secret"}


async def test_an_undo_that_skips_leaves_the_effect(world: World, runtime: Runtime) -> None:
    async def undo(result: str) -> StageOutput:
        return StageOutput.skip("it has lapsed by itself")

    @work(undo=undo)
    async def offer() -> str:
        return "offer"

    run = await saga(world, offer, world.last("b", "c")).using(runtime=runtime).run()
    assert run.status == "failed" and run.undo is not None and run.undo.left == ("offer",)


@pytest.mark.parametrize(
    ("options", "undo"),
    [
        ({"pivot": True}, lambda result: None),
        ({"revisions": 3}, lambda result: None),
        ({}, 7),
        ({}, transform(lambda result: None, name="t")),
        ({}, work(lambda result: None, name="t", on_failure="isolate")),
    ],
)
def test_what_can_not_undo_is_refused(options: dict[str, Any], undo: Any) -> None:
    with pytest.raises(BuildError) as caught:
        work(lambda: 1, name="a", undo=undo, **options)
    assert caught.value.code == "stage.undo"


def test_an_undo_takes_nothing_else() -> None:
    def undo(reslt: int) -> None: ...

    with pytest.raises(BuildError) as caught:
        Pipeline("p", [work(lambda: 1, name="a", undo=undo)])
    assert caught.value.code == "graph.undo_parameter" and "'result'" in str(caught.value)


def test_an_undo_takes_the_type_that_the_step_gives() -> None:
    def undo(result: list[str]) -> None: ...

    def body() -> int:
        return 1

    with pytest.raises(BuildError) as caught:
        Pipeline("p", [work(body, name="a", undo=undo)])
    assert caught.value.code == "graph.type_mismatch"


# -- children ------------------------------------------------------------------------------------


async def test_a_done_child_is_taken_back_with_its_parent(world: World, runtime: Runtime) -> None:
    inner = saga(world)
    outer = Pipeline(
        "outer",
        [world.step("first"), inner.as_stage("inner").named(after="first"), world.last("inner")],
    )
    run = await outer.using(runtime=runtime).run()
    assert run.status == "failed" and run.undo is not None
    assert run.undo.undone == ("inner", "first")
    assert world.log[-2:] == ["-a", "-first"] and len(world.log) == 9


async def test_a_child_that_fails_is_taken_back_once(world: World, runtime: Runtime) -> None:
    inner = saga(world, world.last("b", "c"))
    outer = Pipeline("outer", [world.step("first"), inner.as_stage("inner").named(after="first")])
    run = await outer.using(runtime=runtime).run()
    assert run.status == "failed" and world.log[-2:] == ["-a", "-first"]
    assert len(world.log) == len(set(world.log)) == 9


async def test_a_child_that_its_parent_ends_is_taken_back_by_it(
    world: World, runtime: Runtime
) -> None:
    reached = asyncio.Event()

    @transform(after=("b", "c"))
    async def waits() -> str:
        reached.set()
        await asyncio.Event().wait()
        return ""

    @transform
    async def breaks() -> str:
        await reached.wait()
        raise ValueError

    outer = Pipeline("outer", [saga(world, waits).as_stage("inner"), breaks])
    run = await outer.using(runtime=runtime).run()
    assert run.status == "failed" and run.undo is not None and run.undo.undone == ("inner",)
    assert world.log[-1] == "-a" and len(world.log) == 6


async def test_a_child_cut_off_by_its_timeout_goes_on_when_it_is_tried_again(
    world: World, kept: Runtime
) -> None:
    times = 0

    @transform(after=("b", "c"))
    async def waits() -> str:
        nonlocal times
        times += 1
        if times == 1:
            await asyncio.Event().wait()
        return "done"

    inner = saga(world, waits).as_stage("inner").named(timeout=0.3, retry=QUICK)
    run = await Pipeline("outer", [inner]).using(runtime=kept).run()
    assert run.status == "ok" and sorted(world.log) == ["a", "b", "c"]


async def test_a_stage_that_runs_children_undoes_them_itself(
    world: World, runtime: Runtime
) -> None:
    inner = saga(world)

    async def undo(ctx: Context) -> None:
        await ctx.undo(inner, key="two")
        await ctx.undo(inner, key="one")
        await ctx.undo(inner, key="three")  # there was none

    @work(undo=undo)
    async def both(ctx: Context) -> str:
        await ctx.run(inner, key="one")
        await ctx.run(inner, key="two")
        return ""

    run = await Pipeline("outer", [both, world.last("both")]).using(runtime=runtime).run()
    assert run.status == "failed" and run.undo is not None and run.undo.undone == ("both",)
    assert world.log.count("-a") == 2


async def test_a_child_that_took_itself_back_runs_anew_when_its_parent_goes_forward(
    world: World, kept: Runtime
) -> None:
    keys: list[str] = []

    @work(after=("b", "c"))
    async def tail(ctx: Context) -> str:
        keys.append(ctx.effect_key)
        return world.do("tail")

    async def body() -> str:
        return world.do("pivot")

    world.fails["tail"] = 1
    inner = saga(world, tail)
    pivot = work(body, name="pivot", pivot=True)
    outer = Pipeline("outer", [pivot, inner.as_stage("inner").named(after="pivot")])
    run = await outer.using(runtime=kept).run()
    assert (run.status, run.reason) == ("suspended", "past_pivot:pivot")
    assert world.log[-1] == "-a"
    done = await kept.resume(run.id, pipeline=outer)
    assert done.status == "ok" and world.log[-1] == "tail"
    assert [world.log.count(each) for each in ("a", "-a", "b", "-b")] == [2, 1, 2, 1]
    assert len(set(keys)) == 2  # it is another run, and its effects are others
    undone = await kept.undo(run.id, pipeline=outer)
    assert undone.reason == "past_pivot:pivot" and world.log[-1] == "tail"


async def test_a_child_that_is_stuck_makes_its_parent_so(world: World, kept: Runtime) -> None:
    world.fails["-b"] = 99
    inner = saga(world)
    outer = Pipeline("outer", [inner.as_stage("inner"), world.last("inner")])
    run = await outer.using(runtime=kept).run()
    assert (run.status, run.reason) == ("suspended", "undo_stuck:inner.undo")
    assert run.failures["inner.undo"].reason == "run.undo_stuck"
    world.fails.clear()
    ended = await kept.resume(run.id, pipeline=outer)
    assert ended.status == "failed" and world.log[-1] == "-a" and world.log.count("-b") == 1


async def test_a_child_past_its_pivot_is_not_taken_for_undone(
    world: World, runtime: Runtime
) -> None:
    async def body() -> str:
        return world.do("pivot")

    pivot = work(body, name="pivot", after=("b", "c"), pivot=True)
    world.fails["d"] = 99
    inner = saga(world, pivot, world.step("d", "pivot"))
    outer = Pipeline("outer", [world.step("first"), inner.as_stage("inner").named(after="first")])
    run = await outer.using(runtime=runtime).run()
    assert run.reason == "past_pivot:inner"
    assert not any(what.startswith("-") for what in world.log)
    if runtime.journal is None:
        assert run.status == "failed"
        return
    assert run.status == "suspended" and run.undo is None
    again = await runtime.resume(run.id, pipeline=outer)
    assert (again.status, again.reason) == ("suspended", "past_pivot:inner")
    world.fails.clear()
    done = await runtime.resume(run.id, pipeline=outer)
    assert done.status == "ok" and world.log[-1] == "d" and world.log.count("pivot") == 1


async def test_a_child_is_asked_for_its_pivot_before_anything_is_taken_back(
    world: World, kept: Runtime
) -> None:
    """1. the child passes its pivot, and goes on. 2. a stage beside it fails: the child is ended.
    3. nothing may be taken back, in the parent neither."""
    passed = asyncio.Event()
    ends = True

    async def body() -> str:
        return world.do("pivot")

    @transform(after="pivot")
    async def waits() -> str:
        passed.set()
        if ends:
            await asyncio.Event().wait()
        return "done"

    @transform
    async def breaks() -> str:
        await passed.wait()
        if ends:
            raise ValueError
        return ""

    pivot = work(body, name="pivot", after=("b", "c"), pivot=True)
    inner = saga(world, pivot, waits)
    outer = Pipeline("outer", [world.step("first"), inner.as_stage("inner"), breaks])
    run = await outer.using(runtime=kept).run()
    assert (run.status, run.reason) == ("suspended", "past_pivot:inner")
    assert not any(what.startswith("-") for what in world.log)
    ends = False
    done = await kept.resume(run.id, pipeline=outer)
    assert done.status == "ok" and sorted(world.log) == ["a", "b", "c", "first", "pivot"]


@pytest.mark.parametrize("happened", [True, False])
async def test_nothing_is_taken_back_while_a_child_does_not_know_of_its_pivot(
    world: World, kept: Runtime, happened: bool
) -> None:
    """1. nobody knows whether the child's pivot happened. 2. its parent fails beside it. 3. the
    parent's other steps stay until a person has said so: the run may have to go forward."""

    @work(timeout=0.01, pivot=True, after=("b", "c"))
    async def pivot() -> str:
        if "pivot asked" in world.log:
            return world.do("pivot")
        world.log.append("pivot asked")
        await asyncio.Event().wait()
        return ""

    inner = saga(world, pivot)
    outer = Pipeline("outer", [world.step("first"), inner.as_stage("inner")])
    run = await outer.using(runtime=kept).run()
    assert run.status == "suspended"
    stuck = run.reason
    assert not any(what.startswith("-") for what in world.log), stuck
    child = next(each for each in await kept.runs() if each.header.parent == run.id)
    found = Happened("pivot") if happened else NotHappened()
    child_id = child.header.run
    await (await kept.settle(child_id, "pivot", found, by="ann", pipeline=inner))
    ended = await kept.resume(run.id, pipeline=outer)
    if happened:
        assert not any(what.startswith("-") for what in world.log), ended.reason
    else:
        assert ended.status == "failed" and "-first" in world.log and "-a" in world.log


async def test_a_child_before_its_pivot_is_taken_back_first(world: World, kept: Runtime) -> None:
    async def body() -> str:
        raise ValueError("no pivot")

    pivot = work(body, name="pivot", after=("b", "c"), pivot=True)
    inner = saga(world, pivot)
    outer = Pipeline("outer", [world.step("first"), inner.as_stage("inner").named(after="first")])
    run = await outer.using(runtime=kept).run()
    assert run.status == "failed" and world.log[-2:] == ["-a", "-first"]


async def test_only_an_undo_undoes_children(runtime: Runtime, world: World) -> None:
    @work
    async def wrong(ctx: Context) -> None:
        await ctx.undo(saga(world), key="x")

    run = await Pipeline("p", [wrong]).using(runtime=runtime).run()
    assert run.reason == "run.not_an_undo"


async def test_a_stage_that_says_cancel_takes_back(world: World, runtime: Runtime) -> None:
    @transform(after=("b", "c"))
    async def enough() -> StageOutput:
        return StageOutput.cancel("enough")

    run = await saga(world, enough).using(runtime=runtime).run()
    assert run.status == "cancelled" and world.log[-1] == "-a"
