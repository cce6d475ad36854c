"""Shared connections: one whose use was cut off is never used again, however that was hidden."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from stageflow import (
    BuildError,
    Connections,
    Dep,
    Pipeline,
    RunError,
    Runtime,
    enrich,
)


class Wire:
    """A connection as most protocols have it: answers come in the order of the requests."""

    def __init__(self) -> None:
        self.answers: deque[str] = deque()
        self.closed = False
        self.tenant = ""
        self.pending = asyncio.Event()
        """Set while an answer is awaited."""

    async def ask(self, text: str, *, wait_s: float = 0.0) -> str:
        assert not self.closed
        self.answers.append(text)
        self.pending.set()
        await asyncio.sleep(wait_s)
        return self.answers.popleft()

    async def rows(self, texts: list[str]) -> AsyncIterator[str]:
        self.answers.extend(texts)
        while self.answers:
            await asyncio.sleep(0)
            yield self.answers.popleft()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Wire]:
        yield self

    async def refuse(self, error: Exception) -> None:
        raise error

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.closed = True


async def asked(pool: Connections[Wire], text: str) -> str:
    async with pool.take() as wire:
        return await wire.ask(text)


async def clean(pool: Connections[Wire]) -> None:
    """Whoever comes next is answered what it asked."""
    assert [await asked(pool, text) for text in "xyz"] == ["x", "y", "z"]


async def test_a_connection_is_used_again_after_it_was_used_well() -> None:
    async with Connections(Wire) as pool:
        await clean(pool)
        async with pool.take() as wire:
            assert [text async for text in wire.rows(["a", "b"])] == ["a", "b"]
            async with wire.transaction() as same:
                assert await same.ask("c") == "c"
        await clean(pool)
        assert (pool.opened, pool.reused, pool.discarded, pool.idle, pool.used) == (1, 6, 0, 1, 0)


async def cancelled(pool: Connections[Wire]) -> None:
    task = asyncio.ensure_future(holding(pool))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def holding(pool: Connections[Wire]) -> None:
    async with pool.take() as wire:
        await wire.ask("secret", wait_s=60)


async def timed_out_and_caught(pool: Connections[Wire]) -> None:
    async with pool.take() as wire:
        try:
            async with asyncio.timeout(0.01):
                await wire.ask("secret", wait_s=60)
        except TimeoutError:
            pass


async def waited_for_and_caught(pool: Connections[Wire]) -> None:
    """The shape of the leak of 20 March 2023: the caller's task sees no cancellation at all."""
    async with pool.take() as wire:
        with suppress(TimeoutError):
            await asyncio.wait_for(wire.ask("secret", wait_s=60), 0.01)


async def timed_out_in_a_transaction(pool: Connections[Wire]) -> None:
    async with pool.take() as wire, wire.transaction() as same:
        with suppress(TimeoutError):
            await asyncio.wait_for(same.ask("secret", wait_s=60), 0.01)


async def read_half_of_the_rows(pool: Connections[Wire]) -> None:
    async with pool.take() as wire:
        async for _ in wire.rows(["a", "secret"]):
            break


async def left_a_task_at_work(pool: Connections[Wire]) -> None:
    async with pool.take() as wire:
        task = asyncio.ensure_future(wire.ask("secret", wait_s=0.02))
        await asyncio.sleep(0)
    await task


async def raised_in_its_block(pool: Connections[Wire]) -> None:
    with pytest.raises(ValueError, match="mine"):
        async with pool.take():
            raise ValueError("mine")


async def lost_its_peer(pool: Connections[Wire]) -> None:
    async with pool.take() as wire:
        with pytest.raises(ConnectionResetError):
            await wire.refuse(ConnectionResetError())


@pytest.mark.parametrize(
    "use",
    [
        cancelled,
        timed_out_and_caught,
        waited_for_and_caught,
        timed_out_in_a_transaction,
        read_half_of_the_rows,
        left_a_task_at_work,
        raised_in_its_block,
        lost_its_peer,
    ],
)
async def test_one_whose_use_was_cut_off_is_closed_and_not_used_again(
    use: Callable[[Connections[Wire]], Any],
) -> None:
    wires: list[Wire] = []

    def opened() -> Wire:
        wires.append(Wire())
        return wires[-1]

    async with Connections(opened, size=1) as pool:
        await use(pool)
        await clean(pool)
        assert pool.discarded == 1 and [wire.closed for wire in wires] == [True, False]


async def test_an_answer_that_says_no_is_an_answer() -> None:
    async with Connections(Wire) as pool:
        async with pool.take() as wire:
            with pytest.raises(ValueError, match="no such key"):
                await wire.refuse(ValueError("no such key"))
        assert (pool.discarded, pool.idle) == (0, 1)


async def test_a_connection_can_not_be_used_after_its_block() -> None:
    async with Connections(Wire) as pool:
        async with pool.take() as wire:
            ask = wire.ask
            late = wire.ask("late")
        for use in (lambda: wire.tenant, lambda: ask("x"), lambda: wire.ask):
            with pytest.raises(RunError) as refused:
                use()
            assert refused.value.code == "connection.over"
        with pytest.raises(RunError, match=r"connection\.over"):
            await late
        await clean(pool)


async def test_each_tenant_is_bound_when_it_takes_over_from_another() -> None:
    bound: list[str] = []

    async def bind(wire: Wire, tenant: str) -> None:
        bound.append(tenant)
        await asyncio.sleep(0)
        wire.tenant = tenant

    @enrich
    async def whose(pool: Connections[Wire]) -> str:
        async with pool.take() as wire:
            return wire.tenant

    desk = Pipeline("t", [whose], deps={"pool": Connections}, outputs=whose)
    async with Runtime(deps={"pool": Connections(Wire, size=1, bind=bind)}) as runtime:
        seen = [
            (await desk.using(runtime=runtime, tenant=tenant).run()).output for tenant in "aabba"
        ]
    assert seen == ["a", "a", "b", "b", "a"] and bound == ["a", "b", "a"]


async def test_one_that_could_not_be_bound_is_nobodys() -> None:
    refuses = True

    def bind(wire: Wire, tenant: str) -> None:
        wire.tenant = tenant
        if refuses:
            raise ConnectionError("no such role")

    async with Connections(Wire, size=1, bind=bind) as pool:
        with pytest.raises(ConnectionError):
            async with pool.take(tenant="a"):
                pass
        refuses = False
        async with pool.take(tenant="a") as wire:
            assert wire.tenant == "a"
        assert pool.discarded == 1
        with pytest.raises(RunError) as refused:
            async with pool.take():
                pass
        assert refused.value.code == "connection.no_tenant"


@pytest.mark.parametrize("says", [False, ValueError("odd")])
async def test_one_that_fails_its_check_is_closed(says: Any) -> None:
    def check(wire: Wire) -> bool:
        if isinstance(says, Exception):
            raise says
        return bool(says)

    async with Connections(Wire, check=check) as pool:
        assert await asked(pool, "a") == "a"
        assert (pool.discarded, pool.idle) == (1, 0)


async def test_never_more_than_size_are_open_and_who_asks_first_is_served_first() -> None:
    living, most, served = 0, 0, []

    class Counted(Wire):
        def __init__(self) -> None:
            nonlocal living, most
            super().__init__()
            living += 1
            most = max(most, living)

        async def aclose(self) -> None:
            nonlocal living
            await asyncio.sleep(0.001)
            living -= 1

    async def use(number: int) -> None:
        async with pool.take() as wire:
            served.append(number)
            await asyncio.sleep(0)
            if number % 3 == 0:
                raise ValueError
            await wire.ask("x")

    async with Connections(Counted, size=2) as pool:
        tasks = [asyncio.ensure_future(use(number)) for number in range(30)]
        await asyncio.sleep(0)
        tasks[7].cancel()
        await asyncio.wait(tasks)
        assert served == [number for number in range(30) if number != 7]
        async with asyncio.timeout(5.0):
            while pool.used:  # noqa: ASYNC110 - one that broke is closed beside the next
                await asyncio.sleep(0.001)
        assert most == 2 and 1 <= pool.idle <= 2
    assert living == 0


async def test_one_that_is_served_and_cancelled_at_once_takes_no_place() -> None:
    async with Connections(Wire, size=1) as pool:
        async with pool.take():
            waiter = asyncio.ensure_future(asked(pool, "a"))
            await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert pool.used == 0
        await clean(pool)


async def test_who_gave_up_waiting_counts_no_more_and_is_given_nothing() -> None:
    async with Connections(Wire, size=1, waiters=1) as pool:
        async with pool.take():
            for _ in range(3):
                waiter = asyncio.ensure_future(asked(pool, "a"))
                await asyncio.sleep(0)
                waiter.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiter
            task = asyncio.ensure_future(asked(pool, "b"))
            await asyncio.sleep(0)
        assert await task == "b"
        assert pool.used == 0


async def test_who_waits_when_the_end_comes_is_told_so() -> None:
    pool = Connections(Wire, size=1)
    async with pool.take():
        waiter = asyncio.ensure_future(asked(pool, "a"))
        await asyncio.sleep(0)
        await pool.aclose()
    with pytest.raises(RunError, match=r"connection\.closed"):
        await waiter
    await pool.aclose()
    assert (pool.opened, pool.used, pool.idle) == (1, 0, 0)


async def test_bounds_and_the_end_are_told() -> None:
    with pytest.raises(BuildError, match=r"connection\.bounds"):
        Connections(Wire, size=0)
    pool = Connections(Wire, size=1, waiters=0)
    async with pool, pool.take():
        with pytest.raises(RunError, match=r"connection\.full"):
            await asked(pool, "a")
    with pytest.raises(RunError, match=r"connection\.closed"):
        await asked(pool, "a")
    assert (pool.discarded, pool.used) == (1, 0), "what came back after the end was closed"


async def test_one_that_takes_too_long_to_close_is_let_go() -> None:
    async def close(wire: Wire) -> None:
        await asyncio.sleep(60)

    async with Connections(Wire, size=1, close=close, close_s=0.01) as pool:
        await raised_in_its_block(pool)
        await clean(pool)


def test_a_pool_serves_one_loop_after_another() -> None:
    pool = Connections(Wire)
    for _ in range(2):
        assert asyncio.run(asked(pool, "a")) == "a"
    assert (pool.opened, pool.discarded) == (2, 1)


async def test_a_killed_stage_gives_its_place_back_and_its_connection_to_nobody() -> None:
    from stageflow import Limits

    @enrich
    async def stubborn(pool: Connections[Wire]) -> str:
        async with pool.take() as wire:
            while True:
                try:
                    await wire.ask("secret", wait_s=60)
                except asyncio.CancelledError:
                    continue

    desk = Pipeline("t", [stubborn], deps={"pool": Connections}, outputs=stubborn)
    pool = Connections(Wire, size=1)
    async with Runtime(deps={"pool": Dep(lambda: pool)}, limits=Limits(grace_s=0.05)) as runtime:
        handle = desk.using(runtime=runtime, tenant="a").start()
        await asyncio.sleep(0.02)
        handle.cancel()
        assert (await handle).status == "cancelled"
        await clean(pool)
        assert pool.discarded == 1
