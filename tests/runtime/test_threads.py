"""Sync stages get threads of their own, up to the pool's bound."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from stageflow import Pipeline, Runtime, transform
from stageflow.runtime.driver import Driver
from stageflow.runtime.threads import ThreadPool


async def _all_at_once(pool: ThreadPool, calls: int, call: Callable[[], object]) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(calls):
            group.create_task(pool.call(call))


async def test_as_many_calls_run_at_once_as_the_pool_allows_also_when_some_threads_are_idle() -> (
    None
):
    """1 two threads become idle, 2 eight calls come in one step of the loop, before either thread
    wakes, 3 each call waits for the other seven: two idle threads are not enough for eight."""
    pool = ThreadPool(8, Runtime().pools)
    two, eight = threading.Barrier(2), threading.Barrier(8)
    await _all_at_once(pool, 2, lambda: two.wait(5))
    await _all_at_once(pool, 8, lambda: eight.wait(5))


async def test_never_more_calls_run_at_once_than_the_pool_allows() -> None:
    pool = ThreadPool(3, Runtime().pools)
    together = threading.Barrier(3)
    lock = threading.Lock()
    running, peak = 0, 0

    def call() -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        together.wait(5)
        with lock:
            running -= 1

    await _all_at_once(pool, 30, call)
    assert peak == 3


async def test_a_thread_that_waits_for_its_next_call_holds_nothing_of_the_last() -> None:
    @dataclass
    class Note:
        text: str

    made: list[weakref.ref[Note]] = []

    def note() -> Note:
        kept = Note("all that the stage was given and made")
        made.append(weakref.ref(kept))
        return kept

    @transform
    def whole() -> Note:
        return note()

    @transform
    def pieces():  # type: ignore[no-untyped-def]
        yield note()

    for stage in (whole, pieces):
        run = await Pipeline("one", [stage], outputs=stage).run()
        assert made and run.status == "ok"
        del run
        for _ in range(200):  # less than an idle thread waits
            if not (held := [each for each in made if each() is not None]):
                break
            await asyncio.sleep(0.01)
        assert not held, stage.name
        made.clear()


async def test_idle_threads_end_with_their_runtime(sound_runs: list[Driver]) -> None:
    """Also with that of a pipeline that nobody has any more: a program may make thousands."""

    @transform
    def one() -> int:
        made.append(threading.current_thread())
        return 1

    made: list[threading.Thread] = []
    for _ in range(3):
        await Pipeline("one", [one], outputs=one).run()
    async with Runtime() as runtime:
        await Pipeline("one", [one], outputs=one).using(runtime=runtime).run()
    sound_runs.clear()  # which hold their runtimes
    gc.collect()
    begun_s = time.monotonic()
    for thread in made:
        await asyncio.to_thread(thread.join)
    assert time.monotonic() - begun_s < 2, "an idle thread waits for 5 seconds"
    async with runtime:
        run = await Pipeline("one", [one], outputs=one).using(runtime=runtime).run()
    assert run.is_ok, "others are begun when there is work again"


async def test_a_thread_that_is_busy_when_it_is_dismissed_ends_with_its_call() -> None:
    pool = ThreadPool(2, Runtime().pools)

    def call() -> threading.Thread:
        pool.dismiss()
        return threading.current_thread()

    thread = await pool.call(call)
    begun_s = time.monotonic()
    await asyncio.to_thread(thread.join)
    assert time.monotonic() - begun_s < 2, "an idle thread waits for 5 seconds"
    assert await pool.call(int) == 0, "others are begun when there is work again"
