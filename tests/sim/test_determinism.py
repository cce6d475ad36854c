"""Equal seeds give equal runs: in every process, under every hash seed, on any heap."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
import uuid
import weakref
from functools import partial

from stageflow.model.ids import RunIds
from stageflow.sim import Sim, simulate

PROGRAM = """
import asyncio, gc, sys, weakref
junk = [object() for _ in range(int(sys.argv[1]))]
gc.set_threshold(int(sys.argv[2]))
from stageflow.sim import simulate

class Subscriber:
    def __init__(self, loop):
        self.future = loop.create_future()

async def items():
    try:
        while True:
            yield 1
    finally:
        await asyncio.sleep(0)

async def main(sim):
    subscribers = weakref.WeakSet()
    kept = []
    async def wait(number):
        subscriber = Subscriber(sim.loop)
        kept.append(subscriber)
        subscribers.add(subscriber)
        await subscriber.future
        sim.note(f"{number} {asyncio.current_task().get_name()}")
        cycle = [items()]
        cycle.append(cycle)
        await anext(cycle[0])
    tasks = {asyncio.create_task(wait(n)) for n in range(30)}
    await asyncio.sleep(1)
    for subscriber in subscribers:  # by address
        subscriber.future.set_result(None)
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:  # by hash
        task.cancel()
    try:
        async with asyncio.TaskGroup() as group:
            for n in range(30):
                group.create_task(asyncio.shield(asyncio.sleep(n % 3)))
            await asyncio.sleep(1)
            raise ValueError
    except ExceptionGroup:
        pass
    await asyncio.sleep(sim.rng.random())

for seed in range(5):
    print(simulate(main, seed=seed).trace_hash)
"""


def test_the_trace_is_equal_in_every_process() -> None:
    def traces(hash_seed: str, junk: int, threshold: int) -> str:
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", PROGRAM, str(junk), str(threshold)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stderr == ""
        return ran.stdout

    first = traces("0", 0, 700)
    assert len(set(first.split())) == 5
    for hash_seed, junk, threshold in (("1", 0, 1), ("2", 12_345, 700), ("random", 7, 50)):
        assert traces(hash_seed, junk, threshold) == first


def test_the_trace_is_equal_on_a_used_heap() -> None:
    async def main(sim: Sim) -> None:
        subscribers: weakref.WeakSet[asyncio.Event] = weakref.WeakSet()
        kept = [asyncio.Event() for _ in range(50)]
        subscribers.update(kept)
        async with asyncio.TaskGroup() as group:
            for event in kept:
                group.create_task(event.wait())
            await asyncio.sleep(1)
            for event in subscribers:
                event.set()

    junk: list[object] = []
    traces = set()
    for number in range(50):
        junk += [bytearray(number + 1) for _ in range(number * 7 % 31)]
        del junk[:: number % 5 + 2]
        traces.add(simulate(main, seed=4).trace_hash)
    assert len(traces) == 1


def test_sets_of_tasks_and_futures_iterate_in_order_of_creation() -> None:
    async def main(sim: Sim) -> None:
        tasks = [asyncio.create_task(asyncio.sleep(1), name=f"{n:02}") for n in range(40)]
        futures = [sim.loop.create_future() for _ in range(40)]
        assert [t.get_name() for t in set(tasks)] == sorted(t.get_name() for t in set(tasks))
        assert [futures.index(f) for f in set(futures)] == sorted(
            futures.index(f) for f in set(futures)
        )
        await asyncio.gather(*tasks)

    simulate(main, seed=1)


def test_other_seeds_and_other_notes_give_other_traces() -> None:
    async def main(sim: Sim, note: str = "") -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(asyncio.sleep(0))
        if note:
            sim.note(note)

    assert len({simulate(main, seed=seed).trace_hash for seed in range(100)}) == 100
    noted = {simulate(partial(main, note=note), seed=1).trace_hash for note in ("a", "b")}
    assert len(noted | {simulate(main, seed=1).trace_hash}) == 3


def test_virtual_time_alone_changes_the_trace() -> None:
    async def main(sim: Sim, delay_s: float) -> None:
        await asyncio.sleep(delay_s)

    traces = {simulate(partial(main, delay_s=delay), seed=1).trace_hash for delay in (1.0, 1.5)}
    assert len(traces) == 2


def test_clocks_and_entropy_come_from_the_seed() -> None:
    async def main(sim: Sim) -> tuple[object, ...]:
        started = time.time(), time.monotonic()
        await asyncio.sleep(90)
        assert time.time() - started[0] == 90 == time.monotonic() - started[1]
        assert time.time() == sim.wall() == sim.clock.wall_s() == time.time_ns() / 1e9
        assert sim.clock.monotonic_s() == sim.now() == 90
        return (
            started,
            RunIds(place=b"")(),
            uuid.uuid4(),
            os.urandom(8),
            random.random(),
            sim.rng.random(),
        )

    first = simulate(main, seed=1).value
    assert simulate(main, seed=1).value == first
    other = simulate(main, seed=2).value
    assert first[0] == other[0] and not set(first[1:]) & set(other[1:])


def test_the_global_random_state_is_given_back() -> None:
    async def main(sim: Sim) -> None:
        random.random()

    state = random.getstate()
    simulate(main, seed=1)
    assert random.getstate() == state
