"""Names that sagas hold, and reads that see nothing which may yet be taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stageflow import (
    BuildError,
    Context,
    Pipeline,
    Retry,
    RunError,
    Runtime,
    transform,
    work,
)
from stageflow.journal.locks import Held, LockStore, MemoryLocks
from stageflow.journal.sqlite_locks import SQLiteLocks

STORES = ("memory", "sqlite", "postgres")


@pytest.fixture
def stores(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], LockStore]:
    """Makes stores of a kind, all over the same place where others can reach it."""

    def make(kind: str) -> LockStore:
        if kind == "memory":
            return MemoryLocks()
        if kind == "sqlite":
            return SQLiteLocks(tmp_path / "locks.db")
        url = request.getfixturevalue("postgres_url")  # skips where no server is
        from stageflow.journal.postgres.locks import PostgresLocks

        return PostgresLocks(url)

    return make


@pytest.mark.parametrize("store", STORES)
async def test_a_store_gives_all_names_or_none(
    store: str, stores: Callable[[str], LockStore]
) -> None:
    locks = stores(store)
    await locks.drop("nobody")
    assert await locks.take(["a", "b"], "one") == {}
    assert await locks.take(["b", "c"], "two") == {"b": Held("one", 1)}
    assert await locks.look(["b", "c"]) == {"b": Held("one", 1), "c": Held(None, 0)}
    assert await locks.take(["b"], "one") == {}
    await locks.free({"a": Held("one", 1), "b": Held("one", 1)})  # b was taken again since
    assert await locks.look(["a", "b"]) == {"a": Held(None, 1), "b": Held("one", 2)}
    await locks.drop("one")
    assert await locks.take(["a", "b", "c"], "two") == {}
    assert await locks.look(["b"]) == {"b": Held("two", 3)}
    await locks.close()


@pytest.mark.parametrize("store", STORES)
async def test_names_and_holders_are_any_texts(
    store: str, stores: Callable[[str], LockStore]
) -> None:
    locks = stores(store)
    names = ["", "a\0b", "\u043a'", "%s", "A", "a"]
    assert await locks.take(names, "one") == {}
    assert await locks.look(names) == dict.fromkeys(names, Held("one", 1))
    await locks.free({"nobody's": Held(None, 0), "a\0b": Held("two", 1), "a": Held("one", 1)})
    assert [held.holder for held in (await locks.look(names)).values()] == ["one"] * 5 + [None]
    await locks.close()


@pytest.mark.parametrize("store", STORES[1:])
async def test_two_processes_never_hold_one_name(
    store: str, stores: Callable[[str], LockStore]
) -> None:
    """1 both take a and b, in opposite orders  2 one gets both names  3 it gives them back."""
    one, two = stores(store), stores(store)

    async def turns(locks: LockStore, who: str, names: list[str]) -> int:
        got = 0
        for _ in range(20):
            others = await locks.take(names, who)
            if others:
                assert {held.holder for held in others.values()} == {
                    "two" if who == "one" else "one"
                }
                continue
            got += 1
            assert {held.holder for held in (await locks.look(names)).values()} == {who}
            await locks.drop(who)
        return got

    async with asyncio.TaskGroup() as group:
        counts = [
            group.create_task(turns(one, "one", ["a", "b"])),
            group.create_task(turns(two, "two", ["b", "a"])),
        ]
    taken = sum(each.result() for each in counts)
    assert await one.look(["a", "b"]) == dict.fromkeys("ab", Held(None, taken))
    assert min(each.result() for each in counts) > 0 or taken == 20
    await one.close()
    await two.close()


async def test_what_one_runtime_holds_in_postgresql_is_not_read_by_another(
    postgres_url: str,
) -> None:
    held, go = asyncio.Event(), asyncio.Event()

    @work
    async def moved(ctx: Context) -> None:
        await ctx.hold("a")
        held.set()
        await go.wait()

    one = Runtime(journal=postgres_url, locks=postgres_url)
    other = Runtime(journal=postgres_url, locks=postgres_url)
    async with one, other:
        handle = Pipeline("move", [moved]).using(runtime=one).start()
        await held.wait()
        with pytest.raises(RunError) as caught:
            await other.clean_read(_nothing, "a", wait_s=0.05)
        assert caught.value.code == "lock.busy"
        go.set()
        assert (await handle).status == "ok"
        await other.clean_read(_nothing, "a", wait_s=5)


def test_an_address_of_one_tenant_is_refused(postgres_url: str) -> None:
    with pytest.raises(BuildError) as caught:
        Runtime(journal=postgres_url, locks=f"{postgres_url}&tenant=acme")
    assert caught.value.code == "lock.shared_scope"


async def _nothing() -> None:
    return None


async def test_what_a_saga_holds_is_not_read_before_it_has_ended() -> None:
    balance = {"a": 10, "b": 0}
    moved = asyncio.Event()
    go = asyncio.Event()

    async def back(result: int) -> None:
        balance["a"] += result

    @work(undo=back)
    async def taken(ctx: Context) -> int:
        await ctx.hold("a", "b")
        balance["a"] -= 4
        return 4

    @work
    async def given(taken: int) -> None:
        moved.set()
        await go.wait()
        raise ValueError("no")

    async def total() -> int:
        return sum(balance.values())

    runtime = Runtime()
    handle = Pipeline("move", [taken, given]).using(runtime=runtime).start()
    await moved.wait()
    assert await total() == 6
    with pytest.raises(RunError) as caught:
        await runtime.clean_read(total, "a", "b", wait_s=0.05)
    assert caught.value.code == "lock.busy" and handle.run_id in str(caught.value)
    reading = asyncio.ensure_future(runtime.clean_read(total, "a", "b"))
    go.set()
    assert await reading == 10
    assert (await handle).status == "failed"


async def test_a_read_that_a_saga_came_between_is_made_again() -> None:
    runtime, values = Runtime(), []

    @work
    async def one(ctx: Context) -> None:
        await ctx.hold("a")

    changes = Pipeline("changes", [one]).using(runtime=runtime)

    async def read() -> int:
        values.append(len(values))
        if len(values) == 1:
            await changes.run()
        return values[-1]

    assert await runtime.clean_read(read, "a") == 1


async def test_a_child_holds_for_the_outermost_run() -> None:
    runtime = Runtime()
    seen: list[Any] = []

    @work
    async def one(ctx: Context) -> str:
        await ctx.hold("a")
        return ""

    inner = Pipeline("inner", [one], outputs=one)

    @transform
    async def after(ctx: Context, inner: str) -> None:
        with pytest.raises(RunError):
            await ctx.clean_read(read, "a", wait_s=0.01)
        seen.append("held")

    async def read() -> None: ...

    await Pipeline("outer", [inner.as_stage("inner"), after]).using(runtime=runtime).run()
    assert seen == ["held"]
    await runtime.clean_read(read, "a", wait_s=0.0)


async def test_one_waits_for_the_other() -> None:
    runtime, order = Runtime(), []

    @work
    async def one(ctx: Context, name: str) -> None:
        await ctx.hold("a")
        order.append(name)
        await asyncio.sleep(0.02)
        order.append(name)

    both = Pipeline("both", [one], inputs={"name": str}).using(runtime=runtime)
    await asyncio.gather(both.run(name="x"), both.run(name="y"))
    assert order in (["x", "x", "y", "y"], ["y", "y", "x", "x"])


async def test_a_suspended_saga_holds_on_and_an_ended_one_is_not_waited_for(
    tmp_path: Path,
) -> None:
    broken = True

    async def back(result: str) -> None:
        if broken:
            raise ValueError("stuck")

    @work(undo=back)
    async def one(ctx: Context) -> str:
        await ctx.hold("a")
        return ""

    @work
    async def two(one: str) -> None:
        raise ValueError("no")

    async def read() -> str:
        return "clean"

    quick = work(back, name="back", retry=Retry(attempts=1))
    one = work(one.function, name="one", undo=quick)
    pipeline = Pipeline("p", [one, two])
    options: dict[str, Any] = {"journal": tmp_path / "runs.db", "locks": tmp_path / "locks.db"}
    async with Runtime(**options) as runtime:
        run = await pipeline.using(runtime=runtime).run()
        assert run.status == "suspended"
    async with Runtime(**options) as runtime:
        with pytest.raises(RunError):
            await runtime.clean_read(read, "a", wait_s=0.05)
        broken = False
        ended = await runtime.resume(run.id, pipeline=pipeline)
        assert ended.status == "failed"
        assert await runtime.clean_read(read, "a", wait_s=0.0) == "clean"
        # A process that dies between the end and giving back leaves this:
        store = SQLiteLocks(tmp_path / "locks.db")
        key = f"{len('default')} defaulta"
        await store.take([key], run.id)
        await store.close()
        assert await runtime.clean_read(read, "a", wait_s=5.0) == "clean"


async def test_tenants_hold_names_of_their_own() -> None:
    runtime = Runtime()

    @work
    async def one(ctx: Context) -> None:
        await ctx.hold("a")

        async def read() -> str:
            return "free"

        assert await runtime.clean_read(read, "a", tenant="other", wait_s=0.0) == "free"

    run = await Pipeline("p", [one]).using(runtime=runtime, tenant="mine").run()
    assert run.status == "ok"


async def test_what_locks_need_is_told(tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        Runtime(locks="locks.db")
    assert caught.value.code == "lock.no_journal"

    async def read() -> None: ...

    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        with pytest.raises(RunError) as refused:
            await runtime.clean_read(read, "a")
    assert refused.value.code == "lock.no_store"
    with pytest.raises(RunError) as refused:
        await Runtime().clean_read(read)
    assert refused.value.code == "lock.names"
