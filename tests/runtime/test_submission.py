"""Runs that are queued and taken by workers, over each store that holds a queue."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from stageflow import (
    BuildError,
    Context,
    Dep,
    JournalError,
    Limits,
    Pipeline,
    RunError,
    Runtime,
    Stage,
    StageflowError,
    Worker,
    approval,
    transform,
)
from stageflow.journal.journal import GroupCommit
from stageflow.journal.memory import MemoryStore
from stageflow.journal.opening import opened
from stageflow.model.record import RecordType

TARGET = "shop:desk"


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    """Opens one journal again and again."""
    if request.param == "memory":
        store = MemoryStore()
        return lambda: GroupCommit(store)
    if request.param == "sqlite":
        return lambda: opened(tmp_path / "runs.db")
    url = request.getfixturevalue("postgres_url")
    return lambda: opened(url)


@pytest_asyncio.fixture
async def runtime(journal: Callable[[], Any]) -> AsyncIterator[Runtime]:
    async with Runtime(journal=journal(), limits=Limits(grace_s=0.5)) as one:
        yield one


def desk(visit: Callable[[str], None] = lambda text: None, **options: Any) -> Pipeline[str]:
    @transform
    async def first(text: str) -> str:
        visit(f"first {text}")
        return text + "1"

    @transform
    async def second(first: str) -> str:
        visit(f"second {first}")
        return first + "2"

    stages: list[Stage[..., Any]] = [first, second]
    pipeline = Pipeline("desk", stages, inputs={"text": str}, outputs=second)
    return pipeline.using(target=TARGET, **options)


async def worked(worker: Worker, until: Callable[[], bool] | None = None) -> None:
    """Lets the worker work until `until`, by default until nobody waits and nothing runs."""
    task = asyncio.create_task(worker.run())
    queue = worker.runtime.journal
    async with asyncio.timeout(30):
        while not task.done():
            idle = not worker.running and not await queue.waiting()  # type: ignore[union-attr]
            if until() if until is not None else idle:
                break
            await asyncio.sleep(0.01)
    worker.stop()
    await task


def serving(runtime: Runtime, pipeline: Pipeline[Any], **options: Any) -> Worker:
    return Worker(runtime, [pipeline], poll_s=0.01, **options)


async def test_a_submitted_run_is_run_by_a_worker(runtime: Runtime) -> None:
    pipeline = desk(runtime=runtime, tenant="acme")
    run = await pipeline.submit(text="0")
    assert [(one.status, one.live) for one in await runtime.runs()] == [("queued", False)]
    with pytest.raises(RunError) as caught:
        await runtime.result(run, pipeline=pipeline)
    assert caught.value.code == "run.not_over"
    waiting = asyncio.create_task(runtime.result(run, pipeline=pipeline, wait_s=20))
    worker = serving(runtime, pipeline)
    await worked(worker)
    ended = await waiting
    assert (ended.status, ended.output, ended.identity.tenant) == ("ok", "012", "acme")
    assert (await runtime.load(run)).epoch == 2 and worker.done == 1


async def test_the_result_of_a_run_that_failed_changes_nothing(runtime: Runtime) -> None:
    @transform
    async def fails(text: str) -> str:
        raise ValueError("no")

    pipeline = Pipeline("desk", [fails], inputs={"text": str}, outputs=fails).using(
        target=TARGET, runtime=runtime
    )
    run = await pipeline.submit(text="0")
    await worked(serving(runtime, pipeline))
    before = await runtime.load(run)
    ended = await runtime.result(run, pipeline=pipeline)
    assert ended.status == "failed" and ended.failures["fails"].type == "ValueError"
    assert await runtime.load(run) == before


async def test_the_result_of_a_run_that_waits_for_a_person_is_suspended(runtime: Runtime) -> None:
    @transform
    async def draft(text: str) -> str:
        return text

    asked = approval("asked", bool, of=draft)
    pipeline = Pipeline("desk", [draft, asked], inputs={"text": str}, outputs=asked).using(
        target=TARGET, runtime=runtime
    )
    run = await pipeline.submit(text="0")
    await worked(serving(runtime, pipeline))
    assert (await runtime.result(run, pipeline=pipeline)).status == "suspended"
    ended = await (await runtime.signal(run, "asked", True, by="me", pipeline=pipeline))
    assert (ended.status, ended.output) == ("ok", True)


async def test_no_tenant_starves_another(runtime: Runtime) -> None:
    """One tenant's backlog, at a higher priority, does not keep the others waiting."""
    order: list[str] = []
    pipeline = desk(order.append, runtime=runtime)
    for number in range(6):
        await pipeline.using(tenant="big", priority=9).submit(text=f"big{number}")
    await pipeline.using(tenant="small").submit(text="small")
    await pipeline.using(tenant="tiny").submit(text="tiny")
    await worked(serving(runtime, pipeline, at_once=1))
    served = [text.split()[1] for text in order if text.startswith("first")]
    assert served[:4] == ["big0", "small", "tiny", "big1"]


async def test_a_worker_runs_at_most_so_many_at_once(runtime: Runtime) -> None:
    running, most = 0, 0
    three = asyncio.Barrier(3)

    @transform
    async def counts(text: str) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await three.wait()  # fewer at once would never get past this
        await asyncio.sleep(0)
        running -= 1
        return text

    pipeline = Pipeline("desk", [counts], inputs={"text": str}, outputs=counts).using(
        target=TARGET, runtime=runtime
    )
    runs = [await pipeline.submit(text=str(number)) for number in range(12)]
    await worked(serving(runtime, pipeline, at_once=3))
    assert most == 3
    assert {(await runtime.load(run)).status for run in runs} == {"ok"}


async def test_a_full_queue_refuses_and_takes_again(journal: Callable[[], Any]) -> None:
    limits = Limits(queued=3, queued_per_tenant=2)
    async with Runtime(journal=journal(), limits=limits) as runtime:
        pipeline = desk(runtime=runtime)
        for tenant in ("a", "a", "b"):
            await pipeline.using(tenant=tenant).submit(text="0")
        for tenant in ("a", "c"):
            with pytest.raises(JournalError) as caught:
                await pipeline.using(tenant=tenant).submit(text="0")
            assert caught.value.code == "queue.full"
        assert len(await runtime.runs()) == 3
        await worked(serving(runtime, pipeline))
        await pipeline.using(tenant="a").submit(text="0")


async def test_a_stopped_worker_lets_its_runs_end(runtime: Runtime) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    @transform
    async def waits(text: str) -> str:
        begun.set()
        await go.wait()
        return text

    pipeline = Pipeline("desk", [waits], inputs={"text": str}, outputs=waits).using(
        target=TARGET, runtime=runtime
    )
    run, later = await pipeline.submit(text="0"), await pipeline.submit(text="1")
    worker = serving(runtime, pipeline, at_once=1)
    working = asyncio.create_task(worker.run())
    await begun.wait()
    worker.stop()
    asyncio.get_running_loop().call_later(0.05, go.set)
    await working
    assert (await runtime.load(run)).status == "ok"
    assert (await runtime.load(later)).status == "queued", "it takes none when it was stopped"


async def test_what_a_stopped_worker_lets_go_of_another_finishes(
    journal: Callable[[], Any],
) -> None:
    """
    1. a worker is stopped while a run waits in its second stage, and has no time to drain
    2. the run is nobody's, and nothing is on record of the stage that was stopped
    3. another worker takes it up at once: the first stage does not run again
    """
    visits: Counter[str] = Counter()
    begun = asyncio.Event()
    patient = True

    @transform
    async def first(text: str) -> str:
        visits["first"] += 1
        return text + "1"

    @transform
    async def second(first: str, ctx: Context) -> str:
        visits[f"second {ctx.attempt}"] += 1
        begun.set()
        if patient:
            await asyncio.sleep(3600)
        return first + "2"

    pipeline = Pipeline("desk", [first, second], inputs={"text": str}, outputs=second).using(
        target=TARGET
    )
    async with Runtime(journal=journal()) as runtime:
        run = await pipeline.using(runtime=runtime).submit(text="0")
        await worked(serving(runtime, pipeline, drain_s=0), until=begun.is_set)
        loaded = await runtime.load(run)
        assert loaded.status == "running"
        assert [r.node for r in loaded.records if r.type is RecordType.OUTCOME] == ["first"]
        assert [one.live for one in await runtime.runs()] == [False]
        patient = False
        await worked(serving(runtime, pipeline), until=lambda: visits["second 2"] > 0)
        ended = await runtime.result(run, pipeline=pipeline, wait_s=10)
    assert ended.output == "012" and visits == {"first": 1, "second 1": 1, "second 2": 1}


async def test_a_child_run_goes_on_with_its_parent_at_another_worker(
    journal: Callable[[], Any],
) -> None:
    """
    1. a stage waits for a child run, whose second stage waits; the worker lets go
    2. another worker executes the stage again: the child goes on, its first stage is not repeated
    """
    visits: Counter[str] = Counter()
    begun = asyncio.Event()
    patient = True

    @transform
    async def one(text: str) -> str:
        visits["one"] += 1
        return text + "1"

    @transform
    async def two(one: str) -> str:
        visits["two"] += 1
        begun.set()
        if patient:
            await asyncio.sleep(3600)
        return one + "2"

    child = Pipeline("child", [one, two], inputs={"text": str}, outputs=two)

    @transform
    async def parent(text: str, ctx: Context) -> str:
        return await ctx.run(child, key="c", text=text)

    pipeline = Pipeline("desk", [parent], inputs={"text": str}, outputs=parent).using(target=TARGET)
    async with Runtime(journal=journal()) as first, Runtime(journal=journal()) as second:
        run = await pipeline.using(runtime=first).submit(text="0")
        await worked(serving(first, pipeline, drain_s=0), until=begun.is_set)
        patient = False
        await worked(serving(second, pipeline), until=lambda: visits["two"] > 1)
        ended = await second.result(run, pipeline=pipeline, wait_s=10)
    assert ended.output == "012" and visits == {"one": 1, "two": 2}


async def test_a_run_that_a_worker_cannot_go_on_with_is_left_to_others(runtime: Runtime) -> None:
    """
    1. a worker is stopped when the first stage has ended
    2. another has a changed first stage: it says so once, and leaves the run alone
    3. a third one, with the pipeline as it was, finishes the run
    """
    reached, go = asyncio.Event(), False

    @transform
    async def first(text: str) -> str:
        return text + "1"

    @transform
    async def second(first: str) -> str:
        reached.set()
        if not go:
            await asyncio.sleep(3600)
        return first + "2"

    @transform(name="first")
    async def changed(text: str) -> int:
        return 1

    @transform(name="second")
    async def counts(first: int) -> str:
        return ""

    def built(*stages: Stage[..., Any]) -> Pipeline[Any]:
        pipeline = Pipeline("desk", stages, inputs={"text": str}, outputs=stages[-1])
        return pipeline.using(target=TARGET, runtime=runtime)

    run = await built(first, second).submit(text="0")
    await worked(serving(runtime, built(first, second), drain_s=0), until=reached.is_set)
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    other = serving(runtime, built(changed, counts))
    await worked(other, until=lambda: bool(told) and not other._to_release)
    assert [context["exception"].code for context in told] == ["journal.changed_node"]
    go = True
    reached.clear()
    await worked(serving(runtime, built(first, second)), until=reached.is_set)
    ended = await runtime.result(run, pipeline=built(first, second), wait_s=10)
    assert ended.output == "012"


async def test_a_queued_run_can_be_cancelled_and_resumed_by_its_id(runtime: Runtime) -> None:
    pipeline = desk(runtime=runtime)
    one, two = await pipeline.submit(text="0"), await pipeline.submit(text="0")
    assert (await runtime.cancel(one, pipeline=pipeline)).status == "cancelled"
    assert (await runtime.resume(two, pipeline=pipeline)).output == "012"
    assert await runtime.needs_journal().waiting() == {}  # type: ignore[attr-defined]


async def test_submitted_turns_of_a_session_run_in_order_and_see_each_other(
    runtime: Runtime,
) -> None:
    @transform
    async def counted(text: str, ctx: Context) -> str:
        return f"{text} after {len(ctx.session.turns)}"

    pipeline = Pipeline("desk", [counted], inputs={"text": str}, outputs=counted).using(
        target=TARGET, runtime=runtime, session="s"
    )
    runs = [await pipeline.submit(text=str(number)) for number in range(4)]
    await worked(serving(runtime, pipeline, at_once=3))
    told = [(await runtime.result(run, pipeline=pipeline, wait_s=10)).output for run in runs]
    assert told == [f"{number} after {number}" for number in range(4)]


async def test_a_submitted_turn_sees_the_one_before_it_that_is_still_cleaning_up(
    journal: Callable[[], Any],
) -> None:
    """
    1. a worker drives three turns of a session; the first has ended on record, and closes a dep
    2. the second may begin, by the journal; it sees the first even so
    """

    @asynccontextmanager
    async def slow() -> AsyncIterator[str]:
        yield "client"
        await asyncio.sleep(0.1)

    @transform
    async def counted(text: str, client: str, ctx: Context) -> str:
        return f"{text} after {len(ctx.session.turns)}"

    pipeline = Pipeline(
        "desk", [counted], inputs={"text": str}, deps={"client": str}, outputs=counted
    )
    async with Runtime(journal=journal(), deps={"client": Dep(slow, scope="run")}) as runtime:
        pipeline = pipeline.using(target=TARGET, runtime=runtime, session="s")
        runs = [await pipeline.submit(text=str(number)) for number in range(3)]
        await worked(serving(runtime, pipeline, at_once=3))
        told = [(await runtime.result(run, pipeline=pipeline, wait_s=10)).output for run in runs]
    assert told == [f"{number} after {number}" for number in range(3)]


async def test_a_turn_that_is_taken_first_does_not_wait_for_one_that_is_queued(
    runtime: Runtime,
) -> None:
    """The second turn has the higher priority, and the worker one place: it must not wait."""
    order: list[str] = []
    pipeline = desk(order.append, runtime=runtime, session="s")
    first = await pipeline.submit(text="a")
    second = await pipeline.using(priority=5).submit(text="b")
    await worked(serving(runtime, pipeline, at_once=1))
    assert [text for text in order if text.startswith("first")] == ["first b", "first a"]
    assert {(await runtime.load(run)).status for run in (first, second)} == {"ok"}


async def test_a_request_is_submitted_once(runtime: Runtime) -> None:
    pipeline = desk(runtime=runtime).using(request_key="k")
    run = await pipeline.submit(text="0")
    assert await pipeline.submit(text="0") == run
    with pytest.raises(RunError) as caught:
        await pipeline.submit(text="1")
    assert caught.value.code == "run.request_changed"
    assert (await pipeline.run(text="0")).output == "012", "who asks again may do it itself"
    assert await runtime.needs_journal().waiting() == {}  # type: ignore[attr-defined]


async def test_a_deadline_counts_from_the_submission(runtime: Runtime) -> None:
    begun = asyncio.Event()

    @transform
    async def waits(text: str) -> str:
        begun.set()
        await asyncio.sleep(3600)
        return text

    pipeline = Pipeline("desk", [waits], inputs={"text": str}, outputs=waits).using(
        target=TARGET, runtime=runtime, deadline=0.2
    )
    run = await pipeline.submit(text="0")
    await worked(serving(runtime, pipeline))
    ended = await runtime.result(run, pipeline=pipeline)
    assert (ended.status, ended.reason) == ("failed", "timeout")


async def test_what_cannot_be_queued_is_refused_with_its_code(tmp_path: Path) -> None:
    @transform
    async def only(text: str) -> str:
        return text

    nowhere = Pipeline("desk", [only], inputs={"text": str}, outputs=only)
    with pytest.raises(BuildError) as caught:
        await nowhere.submit(text="0")
    assert caught.value.code == "runtime.no_journal"
    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        with pytest.raises(JournalError) as refused:
            await nowhere.using(runtime=runtime).submit(text="0")
        assert refused.value.code == "queue.no_target"
        with pytest.raises(JournalError) as refused:
            Worker(runtime, [nowhere])
        assert refused.value.code == "queue.no_target"
        for wrong in ({"at_once": 0}, {"poll_s": 0}, {"drain_s": -1}):
            with pytest.raises(BuildError) as caught:
                Worker(runtime, {TARGET: nowhere}, **wrong)  # type: ignore[arg-type]
            assert caught.value.code == "worker.bounds"


def test_a_simulated_journal_has_no_queue() -> None:
    from stageflow.sim import Sim, simulate
    from stageflow.sim.journal import SimJournal

    async def main(sim: Sim) -> str:
        runtime = Runtime(journal=SimJournal(sim), clock=sim.clock)
        with pytest.raises(BuildError) as caught:
            await desk(runtime=runtime).submit(text="0")
        return caught.value.code

    assert simulate(main, seed=1).value == "runtime.no_queue"


class Down:
    """A dep that can't be opened the first `failures` times."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.left = failures
        self.error = OSError("nobody listens there") if error is None else error
        self.opened = 0

    async def __call__(self) -> str:
        if self.left:
            self.left -= 1
            raise self.error
        self.opened += 1
        return "open"


def needing(runtime: Runtime, name: str = "desk") -> Pipeline[str]:
    @transform
    async def asked(text: str, client: str) -> str:
        return f"{text} {client}"

    pipeline = Pipeline(name, [asked], inputs={"text": str}, outputs=asked, deps={"client": str})
    return pipeline.using(target=f"shop:{name}", runtime=runtime)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the loop's exception handler is told; and a worker's first pause is a short one."""
    monkeypatch.setattr("stageflow.runtime.worker.PAUSE_S", 0.02)
    told: list[str] = []
    monkeypatch.setattr(
        asyncio.BaseEventLoop,
        "call_exception_handler",
        lambda loop, context: told.append(context["message"]),
    )
    return told


async def test_runs_wait_in_the_queue_while_a_dep_of_all_is_away(
    journal: Callable[[], Any], heard: list[str]
) -> None:
    client = Down(3)
    async with Runtime(journal=journal(), deps={"client": Dep(client)}) as runtime:
        needs = needing(runtime)
        waits = await needs.submit(text="a")
        await worked(serving(runtime, needs))
        ended = await runtime.result(waits, pipeline=needs)
        assert (ended.status, ended.output, client.opened) == ("ok", "a open", 1)
        assert (await runtime.load(waits)).epoch == 2, "it was taken once"
    assert heard == ["runs of shop:desk wait: this worker lacks a dep"] * 3


async def test_other_pipelines_go_on_while_a_dep_is_away(
    journal: Callable[[], Any], heard: list[str]
) -> None:
    async with Runtime(journal=journal(), deps={"client": Dep(Down(1_000))}) as runtime:
        needs, plain = needing(runtime, "needy"), desk(runtime=runtime)
        waits, goes = await needs.submit(text="a"), await plain.submit(text="0")
        worker = Worker(runtime, [needs, plain], poll_s=0.01)
        await worked(worker, lambda: worker.done == 1)
        assert (await runtime.result(goes, pipeline=plain)).output == "012"
        assert (await runtime.load(waits)).status == "queued"


@pytest.mark.parametrize(
    "error", [OSError("down"), JournalError("journal.unreachable", "the journal of a client")]
)
async def test_a_run_whose_own_dep_is_away_waits(
    error: Exception, journal: Callable[[], Any], heard: list[str]
) -> None:
    client = Down(2, error)
    async with Runtime(journal=journal(), deps={"client": Dep(client, scope="run")}) as runtime:
        needs = needing(runtime)
        run = await needs.submit(text="a")
        await worked(serving(runtime, needs), lambda: client.opened == 1)
        assert (await runtime.result(run, pipeline=needs, wait_s=5)).output == "a open"
        assert (await runtime.load(run)).epoch == 4, "it was taken three times"
    assert heard == [f"run {run} waits: it can't have a dep"] * 2


async def test_who_resumes_without_a_dep_leaves_the_run_to_others(
    journal: Callable[[], Any],
) -> None:
    async with Runtime(journal=journal(), deps={"client": "open"}) as runtime:
        run = await needing(runtime).submit(text="a")
    async with Runtime(journal=journal(), deps={"client": Dep(Down(1))}) as runtime:
        pipeline = needing(runtime)
        with pytest.raises(RunError) as caught:
            await runtime.resume(run, pipeline=pipeline)
        assert caught.value.code == "runtime.dep_open"
        assert [each.live for each in await runtime.runs()] == [False]
        assert (await runtime.resume(run, pipeline=pipeline)).output == "a open"


async def test_a_worker_that_lacks_a_dep_is_not_made(runtime: Runtime) -> None:
    with pytest.raises(StageflowError) as caught:
        serving(runtime, needing(runtime))
    assert caught.value.code == "run.missing_dep"
