"""Decorators keep the type of what a stage returns, however they and the function are written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

from stageflow import (
    Allow,
    Block,
    Branch,
    Context,
    Decision,
    Pipeline,
    Retry,
    Runtime,
    Session,
    StageOutput,
    Stream,
    Turn,
    Window,
    agent,
    enrich,
    first_of,
    guard,
    route,
    transform,
    work,
)


class Answer:
    """A value of the user's own."""

    text: str


@transform
def plain(text: str) -> int:
    return len(text)


@transform(timeout=2.0, name="other")
def with_options(text: str) -> int:
    return len(text)


@enrich
async def awaited(plain: int) -> list[str]:
    return [str(plain)]


@enrich(retry=Retry(attempts=2))
async def awaited_with_options(plain: int) -> list[str]:
    return [str(plain)]


@agent
async def streamed(text: str) -> AsyncIterator[str]:
    yield text


@agent(timeout=1.0)
async def streamed_as_stream(text: str) -> Stream[str]:
    yield text


@transform
def generated(text: str) -> Iterator[int]:
    yield len(text)


@agent
async def explicit(text: str) -> Answer | StageOutput:
    return StageOutput.skip("nothing to say") if not text else Answer()


@work(keyed=True)
def filed(explicit: Answer, ctx: Context) -> str | None:
    return ctx.effect_key


@guard
def any_decision(plain: int) -> Decision:
    return Allow() if plain else Block("empty")


@guard(of="explicit")
async def one_decision(explicit: Answer, plain: int) -> Allow:
    return Allow()


@route(branches=("left", "right"))
def way(plain: int) -> Branch:
    return Branch("left")


class Retriever:
    """An object with `execute` is a stage too."""

    async def execute(self, text: str) -> list[str]:
        return [text]


retrieved = enrich(Retriever(), name="retrieved")
joined = first_of(plain, explicit, name="joined")
renamed = plain.named("second", text=with_options)


async def run_types() -> None:
    pipeline = Pipeline("typed", [plain, awaited], inputs={"text": str}, outputs=awaited)
    run = await pipeline.run(text="some")
    assert_type(run.output, list[str])
    assert_type(run[plain], int)
    assert_type(run[with_options], int)
    assert_type(run[awaited], list[str])
    assert_type(run[awaited_with_options], list[str])
    assert_type(run[streamed], list[str])
    assert_type(run[streamed_as_stream], list[str])
    assert_type(run[generated], list[int])
    assert_type(run[explicit], Answer)
    assert_type(run[filed], str | None)
    assert_type(run[any_decision], Decision)
    assert_type(run[one_decision], Allow)
    assert_type(run[way], Branch)
    assert_type(run[retrieved], list[str])
    assert_type(run[joined], int | Answer)
    assert_type(run[renamed], int)
    inner = pipeline.as_stage("inner", exports={"given": awaited})
    outer = Pipeline("outer", [inner], inputs={"text": str}, outputs=inner)
    assert_type((await outer.run(text="some")).output, list[str])


async def session_types(ctx: Context, runtime: Runtime) -> None:
    pipeline = Pipeline("typed", [plain, awaited], inputs={"text": str}, outputs=awaited)
    bound = pipeline.using(session="s", window=Window(turns=3), request_key="k", tenant="t")
    assert_type(bound, Pipeline[list[str]])
    run = await bound.start(text="some")
    assert_type(run.output, list[str])
    assert_type(run.snapshot.session, Session | None)
    assert_type(ctx.session, Session | None)
    assert_type(await runtime.session("s", limit=3), list[Turn])
    if ctx.session is not None:
        for turn in ctx.session:
            assert_type(turn.number, int)
        assert_type(ctx.session.turns, tuple[Turn, ...])
