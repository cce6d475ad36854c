"""A tenant's handle: its own runs as ever, and nothing of others, not even that they are there."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from stageflow import (
    BuildError,
    Context,
    EventType,
    JournalError,
    LetStand,
    Pipeline,
    Runtime,
    Subscription,
    TenantRuntime,
    approval,
    transform,
)
from stageflow.journal.journal import GroupCommit
from stageflow.journal.memory import MemoryStore
from stageflow.journal.opening import opened

OPERATORS: dict[str, str] = {
    "aclose": "ends the runtime for everybody",
    "local": "makes a runtime",
    "tenant": "makes the handle",
    "taken_up": "of workers, who serve all tenants",
    "taking_up": "of the engine",
    "expect_heir": "of the engine",
    "needs_journal": "the journal of all",
    "owe": "of the engine",
    "paid": "of the engine",
    "begin": "of the engine: pipeline.using(runtime=handle)",
    "child": "of the engine",
    "to_take_back": "of the engine",
    "taken_back": "of the engine",
    "open_deps": "of the engine",
    "open_shared_deps": "of workers, who serve all tenants",
    "needed_deps": "of workers, who serve all tenants",
    "close_deps": "of the engine",
    "shares_deps": "of the engine",
}
"""Public methods of Runtime that a handle has not, each with its reason."""

Endpoint = Callable[[TenantRuntime, str], Awaitable[Any]]
ENDPOINTS: dict[str, Endpoint] = {
    "load": lambda one, run: one.load(run),
    "refused": lambda one, run: one.refused(run),
    "resume": lambda one, run: one.resume(run, pipeline=desk),
    "result": lambda one, run: one.result(run, pipeline=desk),
    "waiting": lambda one, run: one.waiting(run, pipeline=desk),
    "signal": lambda one, run: one.signal(run, "signed", True, by="eve", pipeline=desk),
    "cancel": lambda one, run: one.cancel(run, pipeline=desk),
    "settle": lambda one, run: one.settle(
        run, "signed", LetStand("let it be"), by="eve", pipeline=desk
    ),
    "undo": lambda one, run: one.undo(run, pipeline=desk),
    "erase": lambda one, run: one.erase(run),
}


@transform
async def draft(text: str) -> str:
    return f"draft of {text}"


signed = approval("signed", bool, of=draft)


@transform
async def sent(draft: str, signed: bool) -> str:
    return f"{draft}: {signed}"


desk = Pipeline("desk", [draft, signed, sent], inputs={"text": str}, outputs=sent)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "memory":
        return GroupCommit(MemoryStore())
    if request.param == "sqlite":
        return opened(tmp_path / "runs.db")
    return opened(request.getfixturevalue("postgres_url"))


@pytest_asyncio.fixture
async def runtime(journal: Any) -> AsyncIterator[Runtime]:
    async with Runtime(journal=journal, events=[Subscription()]) as one:
        yield one


def test_every_public_method_of_a_runtime_is_a_handles_or_the_operators() -> None:
    public = {name for name in vars(Runtime) if not name.startswith("_")}
    handles = {name for name in vars(TenantRuntime) if not name.startswith("_")} - {"name"}
    assert public == handles | OPERATORS.keys(), "decide who may call it, and test it here"
    assert not handles & OPERATORS.keys()
    by_id = {
        name
        for name in handles
        if "run" in inspect.signature(getattr(TenantRuntime, name)).parameters
    }
    assert by_id == ENDPOINTS.keys()


async def test_a_handle_does_for_its_own_runs_what_the_runtime_does(runtime: Runtime) -> None:
    acme = runtime.tenant("acme")
    run = await desk.using(runtime=acme).run(text="a")
    assert run.status == "suspended" and run.identity.tenant == "acme"
    assert [line.header.run for line in await acme.runs()] == [run.id]
    assert (await acme.load(run.id)).header.tenant == "acme"
    assert await acme.refused(run.id) == ()
    (question,) = await acme.waiting(run.id, pipeline=desk)
    assert question.shown == "draft of a"
    handle = await acme.signal(run.id, "signed", True, by="ada", pipeline=desk)
    assert (await handle).output == "draft of a: True"
    assert (await acme.result(run.id, pipeline=desk)).output == "draft of a: True"
    assert (await acme.resume(run.id, pipeline=desk)).status == "ok"
    other = await desk.using(runtime=acme).run(text="b")
    assert (await acme.cancel(other.id, pipeline=desk)).status == "cancelled"
    assert runtime.refusals.count == 0


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_a_foreign_run_and_none_are_refused_alike_and_told(
    runtime: Runtime, endpoint: str
) -> None:
    mine, theirs = runtime.tenant("acme"), runtime.tenant("globex")
    run = await desk.using(runtime=theirs).run(text="secret")
    before = await runtime.load(run.id)
    said = []
    for asked in (run.id, "0" * 26):
        with pytest.raises(JournalError) as refused:
            await ENDPOINTS[endpoint](mine, asked)
        assert refused.value.code == "journal.unknown_run"
        said.append(str(refused.value).replace(asked, "RUN"))
    assert said[0] == said[1]
    assert await runtime.load(run.id) == before, "the run is as it was"
    told = [
        (event.tenant, event.run, event.reason)
        for event in runtime.events[0].drain()
        if event.type is EventType.ACCESS_REFUSED
    ]
    kept = [(each.tenant, each.run, each.endpoint) for each in runtime.refusals.last]
    assert told == kept == [("acme", run.id, endpoint), ("acme", "0" * 26, endpoint)]


async def test_a_foreign_run_is_refused_while_it_is_taken_up_and_nobody_waits_for_that(
    runtime: Runtime,
) -> None:
    """
    1. globex's run is being taken up: whoever would take it up as well waits
    2. acme, which asks for it meanwhile, is answered at once, as for a run that does not exist
    """
    run = await desk.using(runtime=runtime.tenant("globex")).run(text="secret")
    async with runtime.taking_up(run.id), asyncio.timeout(5):
        for endpoint in ENDPOINTS.values():
            with pytest.raises(JournalError, match="unknown_run"):
                await endpoint(runtime.tenant("acme"), run.id)


async def test_a_run_under_way_is_its_tenants_only() -> None:
    """Without a journal, too: nothing else knows of the run then."""
    entered, release = asyncio.Event(), asyncio.Event()

    @transform
    async def slow(client: str) -> str:
        entered.set()
        await release.wait()
        return client

    pipeline = Pipeline("slow", [slow], outputs=slow, deps={"client": str})
    async with Runtime(deps={"client": lambda: "c"}) as runtime:
        mine, theirs = runtime.tenant("acme"), runtime.tenant("globex")
        handle = pipeline.using(runtime=theirs).start()
        await entered.wait()
        codes = set()
        for run in (handle.run_id, "0" * 26):
            with pytest.raises(BuildError) as refused:
                await mine.cancel(run)
            codes.add(refused.value.code)
        assert codes == {"runtime.no_journal"}
        assert (await theirs.cancel(handle.run_id)).status == "cancelled"
        assert (await handle).status == "cancelled"


async def test_sessions_and_request_keys_of_one_name_are_each_tenants_own(
    runtime: Runtime,
) -> None:
    outputs = []
    for name in ("acme", "globex"):
        one = Pipeline("one", [draft], inputs={"text": str}, outputs=draft).using(
            runtime=runtime.tenant(name), session="s", request_key="k"
        )
        outputs.append((await one.run(text=name)).output)
        (turn,) = await runtime.tenant(name).session("s", pipeline=one)
        assert turn.inputs == {"text": name}
    assert outputs == ["draft of acme", "draft of globex"]


async def test_a_pipeline_that_is_bound_to_a_tenant_stays_with_it() -> None:
    async with Runtime() as runtime:
        bound = desk.using(runtime=runtime.tenant("acme"))
        for leave in (
            lambda: bound.using(tenant="globex"),
            lambda: bound.using(runtime=runtime.tenant("globex")),
            lambda: desk.using(runtime=runtime.tenant("acme"), tenant="globex"),
            lambda: desk.using(tenant="globex").using(runtime=runtime.tenant("acme")),
        ):
            with pytest.raises(BuildError) as refused:
                leave()
            assert refused.value.code == "tenant.bound"
            assert "globex" not in str(refused.value)
        assert bound.using(tenant="acme").options.tenant == "acme"
        assert bound.override(draft="x").options.within == "acme"


async def test_no_run_id_can_be_tried_through_a_handle() -> None:
    """Whether an id is taken would tell of another's run; both orders of saying it are refused."""
    async with Runtime() as runtime:
        for ask in (
            lambda: desk.using(runtime=runtime.tenant("acme"), run_id="r1"),
            lambda: desk.using(run_id="r1").using(runtime=runtime.tenant("acme")),
        ):
            with pytest.raises(BuildError) as refused:
                ask()
            assert refused.value.code == "tenant.run_id"


class Counting(GroupCommit):
    """Notes what is asked of it."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.asked: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name in ("load", "claim", "append", "holds", "turns"):
            self.asked.append(name)
        return super().__getattribute__(name)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_a_foreign_run_takes_the_same_work_as_none(endpoint: str) -> None:
    journal = Counting()
    async with Runtime(journal=journal) as runtime:
        run = await desk.using(runtime=runtime.tenant("globex")).run(text="secret")
        work = []
        for asked in (run.id, "0" * 26):
            journal.asked.clear()
            with pytest.raises(JournalError):
                await ENDPOINTS[endpoint](runtime.tenant("acme"), asked)
            work.append(tuple(journal.asked))
    assert work == [("holds",)] * 2


async def test_what_is_kept_of_a_refusal_is_bounded() -> None:
    async with Runtime(journal=GroupCommit(MemoryStore())) as runtime:
        for _ in range(1_001):
            with pytest.raises(JournalError):
                await runtime.tenant("acme").load("x" * 10_000)
        assert (runtime.refusals.count, len(runtime.refusals.last)) == (1_001, 1_000)
        assert {each.run for each in runtime.refusals.last} == {"x" * 100}


async def test_no_two_tenants_have_an_effect_key_in_common() -> None:
    """Names that read alike when they are written one after the other are two names."""

    @transform
    async def key(ctx: Context) -> str:
        return ctx.effect_key

    one = Pipeline("one", [key], outputs=key)
    pairs = (("a", "b\0c"), ("a\0b", "c"), ("a", "b"), ("\ud800", "c"))
    keys = {(await one.using(tenant=t, run_id=r).run()).output for t, r in pairs}
    assert len(keys) == len(pairs)


@pytest.mark.parametrize("name", ["", "a\0b", "a\nb", "\ud800", "x" * 201, None, 7])
async def test_a_name_that_could_stand_for_another_is_refused(name: Any) -> None:
    async with Runtime() as runtime:
        with pytest.raises(BuildError) as refused:
            runtime.tenant(name)
        assert refused.value.code == "tenant.name"
