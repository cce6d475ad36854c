"""What methods are given: what is nothing of its kind is refused by name, and does nothing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from stageflow import (
    Connections,
    Context,
    KeyFile,
    Pipeline,
    Runtime,
    StageflowError,
    Worker,
    any_of,
    approval,
    transform,
    work,
)


@transform
async def doubled(x: int) -> int:
    return 2 * x


inner = Pipeline("inner", [doubled], inputs={"x": int}, outputs=doubled)
verdict = approval("verdict", bool, of=doubled)
asking = Pipeline("asking", [doubled, verdict], inputs={"x": int}, outputs=verdict)


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("key", lambda ctx: ctx.step(3, doubled.function, 1)),
        ("function", lambda ctx: ctx.step("a", 3)),
        ("key", lambda ctx: ctx.run(inner, key=3, x=1)),
        ("pipeline", lambda ctx: ctx.run(None, key="a", x=1)),
        ("pipeline", lambda ctx: ctx.run(doubled, key="a", x=1)),
        ("items", lambda ctx: ctx.map(inner, 3)),
        ("items", lambda ctx: ctx.map(inner, {"x": 1})),
        ("items", lambda ctx: ctx.map(inner, [3])),
        ("at_once", lambda ctx: ctx.map(inner, [{"x": 1}], at_once="3")),
        ("function", lambda ctx: ctx.map(inner, [{"x": 1}], key="x")),
        ("key", lambda ctx: ctx.map(inner, [{"x": 1}], key=lambda item: item["x"])),
        ("key", lambda ctx: ctx.send(3, "hello")),
        ("key", lambda ctx: ctx.receive(3, "asker")),
        ("senders", lambda ctx: ctx.receive("a", 3)),
        ("need", lambda ctx: ctx.receive("a", "asker", need="1")),
        ("wait_s", lambda ctx: ctx.hold("a", wait_s="1")),
        ("wait_s", lambda ctx: ctx.clean_read(asyncio.sleep, "a", wait_s=math.nan)),
        ("function", lambda ctx: ctx.clean_read(3, "a")),
    ],
)
async def test_wrong_argument_of_a_context(
    field: str, call: Callable[[Context], Awaitable[Any]]
) -> None:
    @work(name="asker")
    async def asks(x: int, ctx: Context) -> int:
        with pytest.raises(StageflowError) as refused:
            await call(ctx)
        assert (refused.value.code, refused.value.field) == ("run.argument", field)
        return await ctx.run(inner, key="a", x=x)  # nothing has happened under that key

    pipeline = Pipeline("outer", [asks], inputs={"x": int}, outputs=asks)
    assert (await pipeline.run(x=1)).value_or_raise() == 2


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("by", lambda runtime, run: runtime.signal(run, "verdict", True, by="")),
        ("by", lambda runtime, run: runtime.signal(run, "verdict", True, by=3)),
        ("pipeline", lambda runtime, run: runtime.signal(run, "verdict", True, by="a", pipeline=3)),
        ("events", lambda runtime, run: runtime.signal(run, "verdict", True, by="a", events=[3])),
        ("events", lambda runtime, run: runtime.resume(run, events=3)),
        ("pipeline", lambda runtime, run: runtime.waiting(run, pipeline=3)),
        ("pipeline", lambda runtime, run: runtime.result(run, pipeline="asking")),
        ("wait_s", lambda runtime, run: runtime.result(run, wait_s="1")),
        ("limit", lambda runtime, run: runtime.runs(limit=-1)),
        ("limit", lambda runtime, run: runtime.session("a", limit="1")),
        ("before", lambda runtime, run: runtime.session("a", before="1")),
    ],
)
async def test_wrong_argument_of_a_runtime(
    field: str, call: Callable[[Runtime, str], Awaitable[Any]], tmp_path: Path
) -> None:
    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        run = await asking.using(runtime=runtime).run(x=1)
        with pytest.raises(StageflowError) as refused:
            await call(runtime, run.id)
        assert refused.value.code == ("run.option" if field == "events" else "run.argument")
        assert refused.value.field == field
        # It still waits, and nobody else has it.
        answered = await (await runtime.signal(run.id, "verdict", True, by="ann"))
        assert answered.output is True


async def test_wrong_items_of_a_pipeline() -> None:
    for given, at_once, field in (
        ([3], 1, "items"),
        ("ab", 1, "items"),
        ([{"x": 1}], 0, "at_once"),
    ):
        with pytest.raises(StageflowError) as refused:
            async for _ in inner.map(given, at_once=at_once):
                pass
        assert (refused.value.code, refused.value.field) == ("run.argument", field)


@pytest.mark.parametrize("pipelines", [inner, [], {}, 3, [3], {"a:b": 3}])
async def test_a_worker_without_pipelines(pipelines: Any, tmp_path: Path) -> None:
    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        with pytest.raises(StageflowError) as refused:
            Worker(runtime, pipelines)
        assert refused.value.code == "worker.pipelines"
        for given in ({"at_once": "8"}, {"poll_s": math.nan}, {"drain_s": None}):
            with pytest.raises(StageflowError) as refused:
                Worker(runtime, {"a:b": inner}, **given)  # type: ignore[arg-type]
            assert refused.value.code == "worker.bounds"
        with pytest.raises(StageflowError) as refused:
            Worker(runtime, {"a:b": inner}, events=[3])  # type: ignore[list-item]
        assert refused.value.code == "run.option"


@pytest.mark.parametrize(
    ("made", "code", "field"),
    [
        (lambda: work(keyed="no")(doubled.function), "stage.option", "keyed"),
        (lambda: work(pivot=1)(doubled.function), "stage.option", "pivot"),
        (lambda: transform(version=2)(doubled.function), "stage.option", "version"),
        (lambda: transform(after=3)(doubled.function), "stage.option", "after"),
        (lambda: doubled.named("a", after=[3]), "stage.option", "after"),
        (lambda: doubled.named("a", bind=["x"]), "stage.option", "bind"),
        (lambda: approval("a", bool, of=3), "stage.option", "of"),
        (lambda: approval("a", bool, of=doubled, after=3), "stage.option", "after"),
        (lambda: any_of(doubled, 3, name="either"), "stage.option", "branches"),
        (lambda: KeyFile(3), "seal.key_file", "keys"),
        (lambda: Runtime(pools={3: 1}), "runtime.option", "pools"),
        (lambda: Runtime(deps={"": 1}), "runtime.option", "deps"),
        (lambda: Connections(3), "connection.bounds", None),
        (lambda: Connections(dict, size="8"), "connection.bounds", None),
    ],
)
def test_wrong_option(made: Callable[[], Any], code: str, field: str | None) -> None:
    with pytest.raises(StageflowError) as refused:
        made()
    assert (refused.value.code, refused.value.field) == (code, field)
