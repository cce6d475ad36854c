"""Kept values: one execution for equal arguments, each tenant's own, bounded, never too old."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from stageflow import (
    Allow,
    Block,
    BuildError,
    Cache,
    Context,
    Decision,
    Dep,
    Limits,
    Pipeline,
    Redact,
    Runtime,
    StageOutput,
    enrich,
    guard,
    transform,
    work,
)
from stageflow.journal.journal import GroupCommit
from stageflow.journal.memory import MemoryStore
from stageflow.runtime.cache import CacheKey, ResultCache


class Clock:
    now = 1_000.0

    def wall_s(self) -> float:
        return self.now


async def entered(text: str) -> None:
    """A stage that waits; for ever when it is asked for `slow`."""
    await asyncio.sleep(60 if text == "slow" else 0)


def counted(calls: list[str], *, answer: str = "", **options: Any) -> Pipeline[list[str]]:
    """A pipeline of one cached stage that notes each call."""

    @enrich(cache=Cache(ttl=60.0), **options)
    async def notes(text: str) -> list[str]:
        calls.append(text)
        await entered(text)
        return [answer or text]

    return Pipeline("notes", [notes], inputs={"text": str}, outputs=notes)


@pytest.mark.parametrize("journal", [lambda: None, lambda: GroupCommit(MemoryStore())])
async def test_equal_arguments_are_one_execution_for_each_tenant(
    journal: Callable[[], Any],
) -> None:
    calls: list[str] = []
    desk = counted(calls)
    async with Runtime(journal=journal()) as runtime:
        for tenant in ("a", "b", "a", "b"):
            for text in ("x", "y"):
                run = await desk.using(runtime=runtime, tenant=tenant).run(text=text)
                assert run.output == [text]
                run.output.append("changed by its owner")
        assert calls == ["x", "y", "x", "y"]
        assert (runtime.cache.hits, runtime.cache.misses, len(runtime.cache)) == (4, 4, 4)
        runtime.cache.forget("a")
        assert len(runtime.cache) == 2 and runtime.cache.size_bytes > 0
        await desk.using(runtime=runtime, tenant="b").run(text="x")
        assert len(calls) == 4


async def test_two_closures_of_one_name_and_two_versions_are_two_stages() -> None:
    calls: list[str] = []
    async with Runtime() as runtime:
        for desk in (
            counted(calls, answer="one"),
            counted(calls, answer="two"),
            counted(calls, version="2"),
        ):
            await desk.using(runtime=runtime).run(text="x")
    assert calls == ["x"] * 3


async def test_a_value_is_not_given_once_it_is_too_old_or_the_clock_was_set_back() -> None:
    calls: list[str] = []
    desk, clock = counted(calls), Clock()
    async with Runtime(clock=clock) as runtime:  # type: ignore[arg-type]
        for step_s, calls_then in ((0.0, 1), (59.5, 1), (0.5, 2), (-1.0, 3), (60.0, 4)):
            clock.now += step_s
            await desk.using(runtime=runtime).run(text="x")
            assert len(calls) == calls_then
        assert len(runtime.cache) == 1


async def test_only_values_are_kept() -> None:
    calls: list[int] = []

    @transform(cache=Cache())
    async def odd(x: int) -> int | StageOutput:
        calls.append(x)
        if x == 0:
            raise ValueError
        return StageOutput.skip("none") if x == 1 else x

    desk = Pipeline("odd", [odd], inputs={"x": int}, outputs=odd)
    async with Runtime() as runtime:
        for x in (0, 0, 1, 1, 2, 2):
            await desk.using(runtime=runtime).run(x=x)
    assert calls == [0, 0, 1, 1, 2]


async def test_a_cancelled_execution_leaves_nothing() -> None:
    calls: list[str] = []
    desk = counted(calls)
    async with Runtime() as runtime:
        handle = desk.using(runtime=runtime).start(text="slow")
        await asyncio.sleep(0.01)
        assert calls == ["slow"]
        handle.cancel()
        assert (await handle).status == "cancelled"
        assert len(runtime.cache) == 0


async def test_a_guard_is_asked_once_for_equal_content_and_its_redaction_is_not_kept() -> None:
    calls: list[str] = []

    @transform
    async def draft(text: str) -> str:
        return text

    @guard(cache=Cache())
    async def polite(draft: str) -> Decision:
        calls.append(draft)
        if draft == "secret":
            return Redact("***")
        return Block("rude") if draft == "rude" else Allow()

    @transform
    async def sent(draft: str) -> str:
        return draft

    desk = Pipeline("d", [draft, polite, sent], inputs={"text": str}, outputs=sent)
    async with Runtime() as runtime:
        ends = []
        for text in ("hi", "rude", "secret") * 2:
            run = await desk.using(runtime=runtime).run(text=text)
            ends.append(run.output if run.is_ok else run.reason)
    assert ends == ["hi", "guard:polite", "***"] * 2
    assert calls == ["hi", "rude", "secret", "secret"]


async def test_what_reads_a_dep_of_one_run_or_a_fake_is_executed_each_time() -> None:
    calls: list[str] = []

    @enrich(cache=Cache(ttl=60.0))
    async def read(db: str) -> str:
        calls.append(db)
        return db

    desk = Pipeline("d", [read], deps={"db": str}, outputs=read)
    async with Runtime(deps={"db": Dep(lambda: "own", scope="run")}) as runtime:
        for _ in range(2):
            await desk.using(runtime=runtime).run()
    async with Runtime(deps={"db": lambda: "shared"}) as runtime:
        for _ in range(2):
            await desk.using(runtime=runtime).run()
            await desk.override(db="fake").using(runtime=runtime).run()
            await desk.override(read="never called").using(runtime=runtime).run()
    assert calls == ["own", "own", "shared", "fake", "fake"]


async def test_a_sync_stage_in_a_thread_is_kept_too() -> None:
    calls: list[int] = []

    @transform(cache=Cache())
    def doubled(x: int) -> int:
        calls.append(x)
        return 2 * x

    desk = Pipeline("d", [doubled], inputs={"x": int}, outputs=doubled)
    async with Runtime() as runtime:
        assert [(await desk.using(runtime=runtime).run(x=2)).output for _ in range(3)] == [4] * 3
    assert calls == [2]


async def test_limits_of_nothing_keep_nothing() -> None:
    calls: list[str] = []
    desk = counted(calls)
    for limits in (Limits(cache_entries=0), Limits(cache_bytes=10)):
        async with Runtime(limits=limits) as runtime:
            for _ in range(2):
                await desk.using(runtime=runtime).run(text="x")
            assert len(runtime.cache) == runtime.cache.size_bytes == 0
    assert len(calls) == 4


def key(tenant: str, number: int) -> CacheKey:
    return CacheKey(tenant, (), len, "1", "c", (("x", str(number)),))


def test_who_fills_the_cache_drives_out_its_own_values() -> None:
    cache = ResultCache(entries_max=10, bytes_max=10_000)
    cache.put(key("small", 0), "kept", size_bytes=10, now_wall_s=0.0)
    for number in range(100):
        cache.put(key("large", number), number, size_bytes=10, now_wall_s=0.0)
    cache.put(key("large", 1_000), "large", size_bytes=5_000, now_wall_s=0.0)
    cache.put(key("large", 1_001), "too large", size_bytes=10_000, now_wall_s=0.0)
    assert cache.get(key("small", 0), ttl_s=None, now_wall_s=0.0) == "kept"
    assert cache.get(key("large", 99), ttl_s=None, now_wall_s=0.0) == 99
    assert not cache.get(key("large", 0), ttl_s=None, now_wall_s=0.0)
    assert not cache.get(key("large", 1_001), ttl_s=None, now_wall_s=0.0)
    assert len(cache) == 10 and cache.size_bytes <= 10_000
    for tenant in ("small", "large"):
        cache.forget(tenant)
    assert len(cache) == cache.size_bytes == 0


def test_what_can_not_be_kept_is_a_build_error() -> None:
    async def reads(text: str) -> str:
        return text

    async def told(text: str, ctx: Context) -> str:
        return text

    async def yields(text: str) -> Any:
        yield text

    def codes(make: Callable[[], Any]) -> str:
        with pytest.raises(BuildError) as refused:
            make()
        return refused.value.code

    assert codes(lambda: enrich(reads, cache=Cache())) == "stage.cache"
    assert codes(lambda: transform(yields, cache=Cache())) == "stage.cache"
    assert codes(lambda: transform(reads, cache=60)) == "stage.cache"  # type: ignore[call-overload]
    assert codes(lambda: work(reads, cache=Cache())) == "stage.unknown_option"
    stage = transform(told, cache=Cache())
    assert codes(lambda: Pipeline("d", [stage], inputs={"text": str})) == "stage.cache"
    for ttl in (0, -1, True, "1", float("nan")):
        assert codes(lambda ttl=ttl: Cache(ttl=ttl)) == "policy.cache"  # type: ignore[misc]
