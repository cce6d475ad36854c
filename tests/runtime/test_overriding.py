"""Pipelines with fakes in them: what may replace what, what stays, and who sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import pytest
from pydantic import BaseModel

from stageflow import (
    Allow,
    Block,
    Branch,
    BuildError,
    Context,
    Decision,
    Dep,
    InputError,
    JournalError,
    Pipeline,
    Runtime,
    Stream,
    agent,
    approval,
    enrich,
    first_of,
    guard,
    merge_of,
    merges,
    route,
    transform,
    work,
)
from stageflow.testing import Script, crash_at_every_record, memory_journal

CALLED: list[str] = []


@pytest.fixture(autouse=True)
def nothing_called() -> None:
    CALLED.clear()


class Db:
    """The real thing, which no test may reach."""

    async def look_up(self, text: str) -> list[str]:
        CALLED.append("real db")
        return ["real"]


class Answer(BaseModel):
    text: str
    sources: list[str]


@enrich
async def evidence(question: str, db: Db) -> list[str]:
    return await db.look_up(question)


@agent
async def answer(question: str, evidence: list[str]) -> Answer:
    CALLED.append("model")
    return Answer(text=" ".join(evidence), sources=evidence)


@guard
async def honest(answer: Answer) -> Decision:
    return Allow() if answer.sources else Block("no sources")


@work
async def filed(answer: Answer) -> str:
    CALLED.append("filed")
    return answer.text


DESK = Pipeline(
    "desk",
    [evidence, answer, honest, filed],
    inputs={"question": str},
    outputs=filed,
    deps={"db": Db},
)


class FakeDb:
    """Not of the class, but with all that it has."""

    def __init__(self, found: list[str]) -> None:
        self.found = found

    async def look_up(self, text: str) -> list[str]:
        return self.found


async def test_a_dep_is_replaced_by_an_instance_or_a_factory() -> None:
    run = await DESK.override(db=FakeDb(["tides"])).run(question="why?")
    assert run.output == "tides" and "real db" not in CALLED
    opened: list[str] = []

    @asynccontextmanager
    async def fake() -> AsyncIterator[FakeDb]:
        opened.append("open")
        yield FakeDb([str(len(opened))])
        opened.append("close")

    for made in (fake, Dep(fake, scope="tenant")):
        opened.clear()
        pipeline = DESK.override(db=made)
        assert (await pipeline.run(question="why?")).output == "1"
        assert (await pipeline.run(question="why?")).output == "3"
        assert opened == ["open", "close"] * 2


async def test_a_node_is_replaced_by_a_value_a_function_or_a_stage() -> None:
    async def asks(question: str) -> list[str]:
        return [question]

    @transform(timeout=1.0)
    async def stage(question: str) -> list[str]:
        return [question.upper()]

    for fake, expected in (
        (["a", "b"], "a b"),
        (asks, "why?"),
        (lambda question: [question * 2], "why?why?"),
        (stage, "WHY?"),
        (Script([["scripted"]]), "scripted"),
    ):
        run = await DESK.override(db=FakeDb([]), evidence=fake).run(question="why?")
        assert run.output == expected, fake
        assert run[evidence] == expected.split(" ") if fake == ["a", "b"] else True
        assert run[answer].text == expected


async def test_the_original_is_not_changed() -> None:
    plan, options = DESK.plan, DESK.options
    other = DESK.override(db=FakeDb([]), evidence=["x"])
    assert DESK.plan is plan and DESK.options is options
    assert other.plan is not plan and other.plan.name == "desk"
    with pytest.raises(InputError):
        await DESK.run(question="why?")


async def test_overrides_add_up_and_the_last_one_counts() -> None:
    once = DESK.override(db=FakeDb(["first"]))
    assert (await once.override(answer=Answer(text="x", sources=["s"])).run(question="?")).output
    twice = once.override(evidence=["second"]).override(evidence=["third"])
    assert (await twice.run(question="?")).output == "third"
    assert (await twice.override(db=FakeDb([])).run(question="?"))[evidence] == ["third"]


async def test_guards_still_judge_what_a_fake_gives() -> None:
    fakes = DESK.override(db=FakeDb([]), answer=Answer(text="trust me", sources=[]))
    run = await fakes.run(question="?")
    assert (run.status, run.reason) == ("blocked", "guard:honest") and not CALLED

    def allows() -> Decision:
        return Allow()

    for verdict in (Allow(), allows, lambda answer: Allow()):
        run = await fakes.override(honest=verdict).run(question="?")
        assert run.output == "trust me", verdict
    run = await DESK.override(db=FakeDb(["x"]), honest=Block("never")).run(question="?")
    assert run.status == "blocked"


async def test_a_value_is_a_copy_each_time() -> None:
    fake = ["x"]
    pipeline = DESK.override(db=FakeDb([]), evidence=fake)
    fake.append("y")
    run = await pipeline.run(question="?")
    run[evidence].append("z")
    assert (await pipeline.run(question="?"))[evidence] == ["x"]


@pytest.mark.parametrize(
    ("fakes", "code", "says"),
    [
        ({"evidense": []}, "override.unknown_name", "did you mean 'evidence'?"),
        ({"database": 1}, "override.unknown_name", "one of db, evidence, answer"),
        ({"question": "x"}, "override.unknown_name", "inputs are given to run(question=...)"),
        ({"evidence": "text"}, "override.type", "list[str]"),
        ({"evidence": [1]}, "override.type", "list[str]"),
        ({"answer": {"text": "x"}}, "override.type", "Answer"),
        ({"honest": True}, "override.type", "a Decision"),
        ({"evidence": answer}, "override.type", "list[str]"),
        ({"honest": evidence}, "override.type", "a guard"),
        ({"db": "localhost"}, "override.type", "give it look_up"),
        ({"db": object}, "override.type", "give it look_up"),
    ],
)
def test_fakes_are_checked_when_they_are_given(fakes: Any, code: str, says: str) -> None:
    with pytest.raises(BuildError) as caught:
        DESK.override(**fakes)
    assert caught.value.code == code and says in str(caught.value)


def test_a_function_is_checked_by_what_it_says_of_itself() -> None:
    def wrong(question: str) -> int:
        return 1

    with pytest.raises(BuildError) as caught:
        DESK.override(evidence=wrong)
    assert caught.value.code == "override.type" and caught.value.got == "int"

    def asks(questions: str) -> list[str]:
        return []

    with pytest.raises(BuildError) as caught:
        DESK.override(evidence=asks)
    assert caught.value.code == "graph.unknown_name" and "'question'" in str(caught.value)


async def test_what_a_function_gives_goes_through_the_nodes_contract() -> None:
    run = await DESK.override(db=FakeDb([]), evidence=lambda: "text").run(question="?")
    assert (run.status, run.reason) == ("failed", "contract.violated")
    run = await DESK.override(db=FakeDb([]), answer=lambda: {"text": "t", "sources": ["s"]}).run(
        question="?"
    )
    assert run[answer] == Answer(text="t", sources=["s"])


class Clock(Protocol):
    zone: str

    def now(self) -> float: ...


def test_protocols_and_other_types_of_deps() -> None:
    @transform
    def told(clock: Clock, name: str, limits: dict[str, int]) -> float:
        return clock.now()

    pipeline = Pipeline(
        "p", [told], outputs=told, deps={"clock": Clock, "name": str, "limits": dict[str, int]}
    )

    class Stopped:
        zone = "UTC"

        def now(self) -> float:
            return 7.0

    class Zoneless:
        def now(self) -> float:
            return 7.0

    fakes = {"clock": Stopped(), "name": "x", "limits": {"a": 1}}
    assert asyncio.run(pipeline.override(**fakes).run()).output == 7.0
    assert asyncio.run(pipeline.override(**{**fakes, "clock": Stopped}).run()).output == 7.0
    for wrong in ({"clock": Zoneless()}, {"name": 3}, {"limits": ["a"]}):
        with pytest.raises(BuildError):
            pipeline.override(**wrong)


async def test_routes_joins_streams_and_approvals_are_replaced_too() -> None:
    @route(branches=("a", "b"))
    async def way(question: str) -> Branch:
        return Branch("a")

    @transform(when=way.branch("a"))
    async def first(question: str) -> list[str]:
        return ["first"]

    @transform(when=way.branch("b"))
    async def second(question: str) -> list[str]:
        return ["second"]

    chosen = first_of(first, second, name="chosen")

    @agent
    async def said(chosen: list[str]) -> Stream[str]:
        for word in chosen:
            yield word

    asked = approval("asked", str, of=said)
    pipeline = Pipeline(
        "p",
        [way, first, second, chosen, said, asked],
        inputs={"question": str},
        outputs=[said, asked],
    )
    fakes = pipeline.override(asked="yes")
    run = await fakes.run(question="?")
    assert run.output == {"said": ["first"], "asked": "yes"}
    assert (await fakes.override(way=Branch("b")).run(question="?"))[said] == ["second"]
    assert (await fakes.override(second=["x"], way=Branch("b")).run(question="?"))[said] == ["x"]
    assert (await fakes.override(chosen=["joined"]).run(question="?"))[said] == ["joined"]
    async with fakes.override(said=["one", "two"]).stream(question="?") as stream:
        assert [item.item async for item in stream] == ["one", "two"]
    with pytest.raises(BuildError) as caught:
        pipeline.override(way=Branch("c"))
    assert caught.value.code == "override.type"


async def test_fallbacks_and_merges_stay_where_they_are() -> None:
    @enrich
    async def spare(question: str) -> list[str]:
        return ["spare"]

    @enrich(fallback=spare)
    async def main(question: str) -> list[str]:
        return ["main"]

    both = merge_of(main, spare, with_=merges.union, name="both")
    pipeline = Pipeline("p", [main, spare, both], inputs={"question": str}, outputs=both)

    def fails(question: str) -> list[str]:
        raise ConnectionError

    assert (await pipeline.override(main=fails).run(question="?")).output == ["spare"]
    assert (await pipeline.override(main=["fake"]).run(question="?")).output == ["fake"]


async def test_runs_that_a_stage_starts_see_the_faked_deps_under_their_names() -> None:
    inner = Pipeline(
        "inner", [evidence], inputs={"question": str}, outputs=evidence, deps={"db": Db}
    )

    @transform
    async def outer(question: str, db: Db, child: Pipeline[Any], ctx: Context) -> list[str]:
        return await ctx.run(child, key="child", question=question)

    pipeline = Pipeline(
        "outer",
        [outer],
        inputs={"question": str},
        outputs=outer,
        deps={"db": Db, "child": Pipeline},
    )
    made: list[FakeDb] = []

    def fake() -> FakeDb:
        made.append(FakeDb([str(len(made))]))
        return made[-1]

    faked = pipeline.override(db=fake, child=inner)
    assert (await faked.run(question="?")).output == ["0"] and len(made) == 1, "one for both runs"
    nearer = faked.override(child=inner.override(db=FakeDb(["the child's own"])))
    assert (await nearer.run(question="?")).output == ["the child's own"]
    stubbed = faked.override(child=inner.override(evidence=["stub"]))
    assert (await stubbed.run(question="?")).output == ["stub"]
    assert not CALLED


async def test_the_runtimes_own_deps_stay_real() -> None:
    @transform
    async def both(question: str, db: Db, name: str) -> str:
        return f"{name} {await db.look_up(question)}"

    pipeline = Pipeline(
        "p", [both], inputs={"question": str}, outputs=both, deps={"name": str, "db": Db}
    )
    async with Runtime(deps={"name": "real", "db": Db}) as runtime:
        faked = pipeline.using(runtime=runtime).override(db=FakeDb(["fake"]))
        assert (await faked.run(question="?")).output == "real ['fake']"
        assert (await pipeline.using(runtime=runtime).run(question="?")).output == "real ['real']"


async def test_a_run_with_fakes_is_not_taken_up_by_the_real_pipeline() -> None:
    def fails(answer: Answer) -> str:
        raise RuntimeError

    async with Runtime(journal=memory_journal(), deps={"db": Db}) as runtime:
        faked = DESK.using(runtime=runtime).override(evidence=["x"], filed=fails)
        run = await faked.run(question="?")
        assert run.status == "failed"
        with pytest.raises(JournalError) as caught:
            await runtime.resume(run.id, pipeline=DESK)
        assert caught.value.code == "journal.changed_node" and "evidence" in str(caught.value)
        again = await runtime.resume(run.id, pipeline=faked)
        assert again[answer].text == "x"


def test_a_run_with_fakes_survives_a_crash_at_every_record() -> None:
    faked = DESK.override(db=FakeDb(["x"]), filed="done")
    for crash in crash_at_every_record(faked, {"question": "?"}, rerun=["filed"]):
        assert crash.run.output == "done"
    assert "filed" not in CALLED and "real db" not in CALLED
