"""What asyncio offers works unchanged under the simulation, whatever the seed."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from stageflow.sim import Sim, simulate

SEEDS = range(200)
Main = Callable[[Sim], Coroutine[Any, Any, None]]


async def sleeps_take_exactly_their_time(sim: Sim) -> None:
    for _ in range(100):
        await asyncio.sleep(0.1)
    assert sim.now() == 10.0
    assert await asyncio.sleep(0.0, "result") == "result"
    assert sim.now() == 10.0


async def a_task_group_waits_for_all(sim: Sim) -> None:
    done: list[int] = []

    async def work(number: int) -> None:
        await asyncio.sleep(number % 3)
        done.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(work(number))
    assert sorted(done) == list(range(10))
    assert [number % 3 for number in done] == sorted(number % 3 for number in done)


async def a_task_group_cancels_the_rest(sim: Sim) -> None:
    cancelled = 0

    async def wait() -> None:
        nonlocal cancelled
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            cancelled += 1
            raise

    async def fail() -> None:
        await asyncio.sleep(1)
        raise KeyError("mine")

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(wait())
            group.create_task(fail())
    assert [type(error) for error in caught.value.exceptions] == [KeyError]
    assert (cancelled, sim.now()) == (5, 1.0)


async def a_timeout_ends_what_is_late_and_nothing_else(sim: Sim) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await asyncio.sleep(3)
    assert sim.now() == 2.0
    async with asyncio.timeout(2) as limit:
        await asyncio.sleep(1)
    assert not limit.expired() and sim.now() == 3.0
    async with asyncio.timeout(2) as limit:
        await asyncio.sleep(0.5)
        limit.reschedule(asyncio.get_running_loop().time() + 5)
        await asyncio.sleep(4)
    assert sim.now() == 7.5


async def a_timeout_at_the_moment_of_completion_is_one_or_the_other(sim: Sim) -> None:
    try:
        async with asyncio.timeout(1):
            await asyncio.sleep(1)
        ended = "done"
    except TimeoutError:
        ended = "late"
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0 and ended in ("done", "late")


async def a_queue_hands_over_everything_in_order(sim: Sim) -> None:
    queue: asyncio.Queue[int] = asyncio.Queue(maxsize=2)
    got: list[int] = []

    async def put() -> None:
        for number in range(20):
            await queue.put(number)
            await asyncio.sleep(sim.rng.choice((0, 0.5)))

    async def take() -> None:
        while len(got) < 20:
            got.append(await queue.get())
            queue.task_done()

    async with asyncio.TaskGroup() as group:
        group.create_task(put())
        group.create_task(take())
    await queue.join()
    assert got == list(range(20))


async def a_lock_lets_one_in(sim: Sim) -> None:
    lock, inside, served = asyncio.Lock(), 0, 0

    async def enter() -> None:
        nonlocal inside, served
        async with lock:
            inside += 1
            assert inside == 1
            try:
                await asyncio.sleep(sim.rng.choice((0, 1)))
                served += 1
            finally:
                inside -= 1

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(enter()) for _ in range(10)]
        await asyncio.sleep(0)
        tasks[3].cancel()
    assert served >= 9 and not lock.locked()


async def a_semaphore_and_a_condition_hold(sim: Sim) -> None:
    semaphore, inside = asyncio.Semaphore(3), 0
    condition, ready = asyncio.Condition(), False

    async def enter() -> None:
        nonlocal inside
        async with condition:
            await condition.wait_for(lambda: ready)
        async with semaphore:
            inside += 1
            assert inside <= 3
            await asyncio.sleep(0)
            inside -= 1

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(enter())
        await asyncio.sleep(1)
        async with condition:
            ready = True
            condition.notify_all()


async def an_event_wakes_all(sim: Sim) -> None:
    event, woken = asyncio.Event(), 0

    async def wait() -> None:
        nonlocal woken
        await event.wait()
        woken += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(wait())
        await asyncio.sleep(1)
        assert woken == 0
        event.set()
    assert woken == 5


async def a_shield_protects(sim: Sim) -> None:
    async def work() -> str:
        await asyncio.sleep(2)
        return "kept"

    inner = asyncio.create_task(work())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await asyncio.shield(inner)
    assert not inner.done() and await inner == "kept"
    assert sim.now() == 2.0


async def gather_and_wait_give_results_in_place(sim: Sim) -> None:
    async def echo(number: int) -> int:
        await asyncio.sleep(sim.rng.random())
        return number

    assert await asyncio.gather(*(echo(number) for number in range(10))) == list(range(10))
    tasks = [asyncio.create_task(echo(number)) for number in range(10)]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) >= 1 and len(done) + len(pending) == 10
    first = [await each for each in asyncio.as_completed(pending)]
    assert len(first) == len(pending)


async def async_generators_are_closed(sim: Sim) -> None:
    closed: list[str] = []

    async def items(name: str) -> AsyncIterator[int]:
        try:
            for number in range(5):
                yield number
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)
            closed.append(name)

    assert [item async for item in items("whole")] == list(range(5))
    dropped = items("dropped")
    assert await anext(dropped) == 0
    del dropped
    await asyncio.sleep(1)
    assert closed == ["whole", "dropped"]


async def context_variables_stay_in_their_task(sim: Sim) -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="outside")
    seen: list[str] = []

    async def work(own: str) -> None:
        name.set(own)
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(lambda: seen.append(name.get()))
        assert name.get() == own
        await asyncio.sleep(1)

    async with asyncio.TaskGroup() as group:
        for own in "abc":
            group.create_task(work(own))
    assert sorted(seen) == ["a", "b", "c"] and name.get() == "outside"
    context = contextvars.copy_context()
    await asyncio.create_task(work("d"), context=context)
    assert context[name] == "d"


async def cancellation_is_delivered_once(sim: Sim) -> None:
    cleaned = 0

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        nonlocal cleaned
        try:
            yield
        finally:
            await asyncio.sleep(1)
            cleaned += 1

    async def work() -> None:
        async with resource():
            await asyncio.sleep(100)

    task = asyncio.create_task(work())
    await asyncio.sleep(sim.rng.choice((0, 1)))
    started = task.get_stack()[-1].f_lasti >= 0
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled() and (cleaned == 1 or not started or sim.now() == 0)


async def callbacks_of_futures_run(sim: Sim) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()
    seen: list[int] = []
    future.add_done_callback(lambda done: seen.append(done.result()))
    loop.call_later(3, future.set_result, 7)
    assert await future == 7 and loop.time() == 3.0
    await asyncio.sleep(0)
    await asyncio.sleep(1)
    assert seen == [7]
    timer = loop.call_later(1, seen.append, 8)
    timer.cancel()
    await asyncio.sleep(2)
    assert seen == [7] and timer.cancelled()


async def tasks_find_themselves(sim: Sim) -> None:
    async def work() -> asyncio.Task[Any] | None:
        await asyncio.sleep(0)
        return asyncio.current_task()

    task: Awaitable[Any] = asyncio.create_task(work(), name="mine")
    assert await task is task
    assert [each.get_name() for each in asyncio.all_tasks()] == ["main"]
    assert asyncio.get_running_loop() is sim.loop is asyncio.get_event_loop()


@pytest.mark.parametrize(
    "main",
    [
        sleeps_take_exactly_their_time,
        a_task_group_waits_for_all,
        a_task_group_cancels_the_rest,
        a_timeout_ends_what_is_late_and_nothing_else,
        a_timeout_at_the_moment_of_completion_is_one_or_the_other,
        a_queue_hands_over_everything_in_order,
        a_lock_lets_one_in,
        a_semaphore_and_a_condition_hold,
        an_event_wakes_all,
        a_shield_protects,
        gather_and_wait_give_results_in_place,
        async_generators_are_closed,
        context_variables_stay_in_their_task,
        cancellation_is_delivered_once,
        callbacks_of_futures_run,
        tasks_find_themselves,
    ],
)
def test_asyncio_holds_its_promises_under_every_seed(main: Main) -> None:
    for seed in SEEDS:
        result = simulate(main, seed=seed)
        assert result.leftover == () and result.unhandled == (), (seed, result)
