"""What stages start or leave running ends with their run: by itself, or killed within the grace."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stageflow import (
    Context,
    Dep,
    Handle,
    Limits,
    Pipeline,
    Run,
    Runtime,
    Stream,
    agent,
    enrich,
    transform,
)
from stageflow.runtime import lingering
from stageflow.runtime.lingering import RUN
from stageflow.sim import Sim, SimResult, simulate

GRACE_S = 0.25
FOREVER_S = 1e6
SEEDS = range(15)


async def refusing(log: list[str]) -> None:
    """Goes on after every cancellation; what kills it still finds its cleanup."""
    try:
        while True:
            try:
                await asyncio.sleep(FOREVER_S)
            except asyncio.CancelledError:
                log.append("refused")
    finally:
        log.append("cleaned")


def cancelled_after(
    wait_s: float, pipeline: Pipeline[Any], seed: int, runtime: Runtime | None = None
) -> SimResult[tuple[Run[Any], float]]:
    """The run and how long its end took after `handle.cancel()`; nothing of it may be left."""

    async def main(sim: Sim) -> tuple[Run[Any], float]:
        own = Runtime(limits=Limits(grace_s=GRACE_S)) if runtime is None else runtime
        handle = pipeline.using(runtime=own).start(x=1)
        await asyncio.sleep(wait_s)
        handle.cancel()
        asked_s = sim.now()
        run = await handle
        return run, sim.now() - asked_s

    result = simulate(main, seed=seed)
    assert result.leftover == ()
    assert result.value[0].status == "cancelled"
    assert result.value[1] <= GRACE_S + 1e-6
    return result


def one(body: Callable[..., Any], maker: Any = enrich) -> Pipeline[Any]:
    return Pipeline("p", [maker(name="stage")(body)], inputs={"x": int})


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stage_that_awaits_a_refusing_task_is_killed_in_time(seed: int) -> None:
    """
    1. the stage awaits a task; its cancellation is passed on to that task
    2. the task goes on, so the stage never hears of the cancellation
    3. at the end of the grace period both are killed, and both clean up
    """
    log: list[str] = []

    async def waits(x: int) -> int:
        try:
            await asyncio.create_task(refusing(log), name="inner")
        finally:
            log.append("stage cleaned")
        return x

    run, took_s = cancelled_after(0.01, one(waits), seed).value
    assert took_s >= GRACE_S
    assert sorted(log) == ["cleaned", "refused", "stage cleaned"]
    assert run.quarantined == ("stage", "inner")


@pytest.mark.parametrize("seed", SEEDS)
def test_tasks_of_a_killed_stage_s_group_end_as_cancelled_and_nobody_is_told(seed: int) -> None:
    """
    1. the stage is cancelled, and its group cancels its tasks, which go on
    2. at the end of the grace period the stage is killed, and its worker's task is over
    3. the tasks are killed: an error of theirs, the group would tell to the loop
    """
    log: list[str] = []
    parts: list[asyncio.Task[None]] = []

    async def waits(x: int) -> int:
        async with asyncio.TaskGroup() as group:
            parts.extend(group.create_task(refusing(log), name="part") for _ in range(2))
        return x

    result = cancelled_after(0.01, one(waits), seed)
    assert sorted(log) == ["cleaned", "cleaned", "refused", "refused"]
    assert result.unhandled == () and all(part.cancelled() for part in parts)
    assert result.value[0].quarantined == ("stage", "part", "part")


@pytest.mark.parametrize("seed", SEEDS)
def test_tasks_that_await_each_other_are_killed_together(seed: int) -> None:
    """
    1. three tasks of a group go on when they are cancelled; two of them await the third
    2. all are killed; whichever is first, its end must not wake another
    """
    log: list[str] = []
    parts: list[asyncio.Task[None]] = []

    async def outer() -> None:
        try:
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await parts[0]
        finally:
            log.append("outer cleaned")

    async def waits(x: int) -> int:
        async with asyncio.TaskGroup() as group:
            parts.append(group.create_task(refusing(log)))
            parts.append(group.create_task(outer()))
            parts.append(group.create_task(outer()))
        return x

    result = cancelled_after(0.01, one(waits), seed)
    assert sorted(set(log)) == ["cleaned", "outer cleaned", "refused"]
    assert result.unhandled == () and all(part.cancelled() for part in parts)


@pytest.mark.parametrize("is_spinning", [False, True])
async def test_whoever_awaits_a_task_that_was_killed_goes_on(is_spinning: bool) -> None:
    """A task that spins ends with an error of its own: its next step is due when it is killed."""
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    kept: list[asyncio.Task[None]] = []

    async def deaf() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0 if is_spinning else FOREVER_S)

    async def leaves(x: int) -> int:
        kept.append(asyncio.create_task(deaf(), name="deaf"))
        await asyncio.sleep(FOREVER_S)
        return x

    runtime = Runtime(limits=Limits(grace_s=0.01))
    handle = one(leaves).using(runtime=runtime).start(x=1)
    await asyncio.sleep(0.01)
    others = [asyncio.create_task(asyncio.wait(kept)) for _ in range(2)]
    handle.cancel()
    assert (await handle).quarantined == ("deaf",)
    await asyncio.gather(*others)
    assert kept[0].cancelled() is not is_spinning and told == []


@pytest.mark.parametrize("seed", SEEDS)
def test_an_async_generator_that_hangs_in_its_cleanup_is_killed_to_its_last_line(seed: int) -> None:
    log: list[str] = []

    async def items(x: int) -> Stream[int]:
        try:
            yield x
            await asyncio.sleep(FOREVER_S)
        finally:
            try:
                await asyncio.sleep(FOREVER_S)
            finally:
                log.append("closed")

    run, _ = cancelled_after(0.01, one(items, agent), seed).value
    assert log == ["closed"]
    assert run.quarantined == ("stage",)


def test_a_task_that_never_waits_for_anything_is_found() -> None:
    kept: list[asyncio.Task[None]] = []

    async def spin() -> None:
        while True:  # noqa: ASYNC110  (it waits for nothing)
            await asyncio.sleep(0)

    async def careless(x: int) -> int:
        kept.append(asyncio.create_task(spin()))
        await asyncio.sleep(0.001)
        return x

    async def main(sim: Sim) -> str:
        # Time stands still while a task spins, so the run is cancelled by a step.
        handle = one(careless).start(x=1)
        sim.at_step(40, handle.cancel)
        return (await handle).status

    result = simulate(main, seed=1)
    assert (result.value, result.leftover) == ("cancelled", ())


def nesting(child: Pipeline[Any], *, apart: bool) -> Pipeline[Any]:
    """A stage that runs `child`, in a task of its own or not, and cleans up for a moment."""

    async def parent(ctx: Context, x: int) -> int:
        try:
            waited: Coroutine[Any, Any, Any] = ctx.run(child, key="only", x=x)
            await (asyncio.create_task(waited, name="apart") if apart else waited)
            await asyncio.sleep(FOREVER_S)
        finally:
            await asyncio.sleep(0.001)
        return x

    return Pipeline("outer", [enrich(parent)], inputs={"x": int})


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_finished_child_left_behind_ends_with_its_parent(seed: int) -> None:
    log: list[str] = []

    async def behind(log: list[str]) -> None:
        try:
            await asyncio.sleep(FOREVER_S)
        finally:
            log.append("ended")

    async def careless(x: int) -> int:
        log.append("begun")
        kept.append(asyncio.create_task(behind(log)))
        await asyncio.sleep(0.001)
        return x

    kept: list[asyncio.Task[None]] = []
    cancelled_after(0.01, nesting(one(careless), apart=False), seed)
    assert log == ["begun", "ended"]


@pytest.mark.parametrize("seed", SEEDS)
def test_only_the_stage_that_ignores_its_cancellation_is_named(seed: int) -> None:
    """
    1. a stage awaits its child run; the child's stage hangs in its cleanup
    2. both graces end at one moment; whichever timer comes first, the child is killed
    3. the parent's stage only waited for that: it is not to blame
    """

    async def hangs(x: int) -> int:
        try:
            await asyncio.sleep(FOREVER_S)
        finally:
            await asyncio.sleep(FOREVER_S)
        return x

    async def waits(ctx: Context, x: int) -> int:
        await ctx.run(one(hangs), key="only", x=x)
        return x

    runtime = Runtime(limits=Limits(grace_s=GRACE_S))
    run, took_s = cancelled_after(0.01, one(waits), seed, runtime).value
    assert took_s >= GRACE_S and run.quarantined == ()
    assert [name for _, name in runtime.quarantined] == ["stage"]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cleanup_is_cancelled_once_whatever_waits_around_it(seed: int) -> None:
    """
    1. a stage runs its child in a task, and ends; the task is left behind
    2. ending the run cancels that task, and the child with it
    3. the child's task group cancels its members; nobody else may do so as well
    """
    log: list[str] = []

    async def member(log: list[str]) -> None:
        try:
            await asyncio.sleep(FOREVER_S)
        finally:
            await asyncio.sleep(0.004)
            log.append("cleaned")

    async def grouped(x: int) -> int:
        async with asyncio.TaskGroup() as group:
            group.create_task(member(log))
            group.create_task(member(log))
        return x

    child = one(grouped)

    async def leaves(ctx: Context, x: int) -> int:
        task = asyncio.create_task(ctx.run(child, key="only", x=x))
        await asyncio.sleep(0.5)
        await task
        return x

    cancelled_after(0.01, one(leaves), seed)
    assert log == ["cleaned", "cleaned"]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_child_in_a_task_of_its_own_is_ended_in_order_and_not_taken_apart(seed: int) -> None:
    log: list[str] = []

    async def tidy(x: int) -> int:
        try:
            await asyncio.sleep(FOREVER_S)
        finally:
            await asyncio.sleep(0.002)
            log.append("tidied")
        return x

    _, took_s = cancelled_after(0.01, nesting(one(tidy), apart=True), seed).value
    assert log == ["tidied"] and took_s < GRACE_S


def test_a_caller_cancelled_while_a_run_that_is_ok_closes_its_deps_leaves_nothing() -> None:
    """
    1. the run is over and ok; a task that a stage forgot is let be
    2. the caller is cancelled while the run closes its deps
    3. the forgotten task is ended after all, and the caller hears of its cancellation
    """

    @asynccontextmanager
    async def slow() -> AsyncIterator[str]:
        yield "dep"
        await asyncio.sleep(0.01)

    kept: list[asyncio.Task[None]] = []

    @enrich
    async def forgets(dep: str, x: int) -> int:
        kept.append(asyncio.create_task(asyncio.sleep(FOREVER_S)))
        return x

    pipeline = Pipeline("f", [forgets], inputs={"x": int}, deps={"dep": str})

    async def main(sim: Sim) -> bool:
        runtime = Runtime(deps={"dep": Dep(slow, scope="run")})
        task = asyncio.create_task(pipeline.using(runtime=runtime).run(x=1))
        await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    result = simulate(main, seed=1)
    assert (result.value, result.leftover) == (True, ())


async def test_a_stage_may_end_its_own_run_in_its_last_step(tmp_path: Path) -> None:
    """
    1. the stage cancels the run that it is part of, and returns without waiting again
    2. its worker goes on to the journal: the cancellation was the stage's, not that commit's
    """
    handles: list[Handle[Any]] = []

    @enrich
    async def ends(x: int) -> int:
        await asyncio.sleep(0)
        handles[0].cancel("from inside")
        return x

    @transform
    async def after(ends: int) -> int:
        return ends

    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        pipeline = Pipeline("s", [ends, after], inputs={"x": int}, outputs=after)
        handles.append(pipeline.using(runtime=runtime).start(x=1))
        run = await handles[0]
        assert (run.status, run.reason) == ("cancelled", "from inside")
        assert (await runtime.load(run.id)).status == "cancelled"


async def test_a_thread_hears_of_its_timeout_and_is_back_before_its_run_is_over() -> None:
    log: list[str] = []
    waits = threading.Event()

    @transform(timeout=0.3, on_failure="isolate")
    def polite(ctx: Context, x: int) -> int:
        while not ctx.cancelled:
            waits.wait(0.001)
        log.append("back")
        return x

    runtime = Runtime(limits=Limits(grace_s=5))
    run = await Pipeline("t", [polite], inputs={"x": int}).using(runtime=runtime).run(x=1)
    assert run.nodes["polite"].reason == "" and run.failures["polite"].reason == "timeout"
    assert log == ["back"] and runtime.threads.stuck == 0 and run.quarantined == ()


async def test_what_a_stage_leaves_open_holds_nothing_of_its_run() -> None:
    """A connection's callbacks run in copies of the context in which it was opened, for as long as
    it is open; so do those of a child process that is kept for the next call."""
    left_open: list[contextvars.Context] = []

    @transform
    async def inner() -> int:
        left_open.append(contextvars.copy_context())
        return 1

    @transform
    async def outer(ctx: Context) -> int:
        left_open.append(contextvars.copy_context())
        return await ctx.run(Pipeline("below", [inner], outputs=inner), key="below")

    run = await Pipeline("above", [outer], outputs=outer).run()
    assert run.output == 1
    kept = [context[RUN] for context in left_open]
    assert [kin is not None and kin.driver for kin in kept] == [None, None]
    assert kept[1] is not None and kept[1].parent is kept[0]


async def test_runs_that_fail_at_one_time_share_a_look_at_all_tasks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = [0]
    context_of = lingering._context_of

    def counted(task: asyncio.Task[Any]) -> contextvars.Context:
        looked[0] += 1
        return context_of(task)

    monkeypatch.setattr(lingering, "_context_of", counted)

    @transform
    async def away() -> int:
        async with asyncio.timeout(30):  # its timer is known to the loop for a while
            await asyncio.sleep(0.01)
            raise ConnectionError("the service is away")

    @transform
    async def refused() -> int:
        raise ConnectionError("the service is away")

    for stage, most in ((away, 2_000), (refused, 0)):
        looked[0] = 0
        pipeline = Pipeline("one", [stage], outputs=stage)
        runs = await asyncio.gather(*(pipeline.run() for _ in range(200)))
        assert {run.status for run in runs} == {"failed"}
        assert looked[0] <= most, "each of 200 runs has looked at the tasks of all"


async def test_a_task_left_behind_ends_also_when_others_fail_at_the_time() -> None:
    left: list[asyncio.Task[None]] = []

    @transform
    async def leaving() -> int:
        left.append(asyncio.create_task(asyncio.sleep(FOREVER_S)))
        await asyncio.sleep(0.01)
        raise ConnectionError("the service is away")

    pipeline = Pipeline("one", [leaving], outputs=leaving)
    await asyncio.gather(*(pipeline.run() for _ in range(50)))
    assert len(left) == 50 and all(task.cancelled() for task in left)
