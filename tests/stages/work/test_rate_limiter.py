"""The limiter: at the pace, fairly, within deadlines, and never twice what must not be."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest

from stageflow import BuildError, RunError
from stageflow.sim import Sim, simulate
from stageflow.stages.work.rate import Rate, RateLimited, RateLimiter
from stageflow.stages.work.rate.meter import Lesson
from stageflow.stages.work.rate.store import MemoryRates


class Reply:
    def __init__(self, status: int, **headers: str) -> None:
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def sending(*statuses: Reply) -> tuple[Callable[[], Awaitable[Reply]], list[float]]:
    """Answers one after another, the last for ever; and when it was asked."""
    left, asked_s = list(statuses), list[float]()

    async def send() -> Reply:
        asked_s.append(asyncio.get_running_loop().time())
        return left.pop(0) if len(left) > 1 else left[0]

    return send, asked_s


def simulated(main: Callable[[], Awaitable[Any]], seed: int = 1) -> Any:
    async def within(sim: Sim) -> Any:
        return await main()

    return simulate(within, seed=seed).value


@pytest.mark.parametrize("seed", range(10))
def test_several_processes_keep_one_pace_whoever_gives_up(seed: int) -> None:
    async def main() -> list[float]:
        loop, rng = asyncio.get_running_loop(), random.Random(seed)
        store, sent = MemoryRates(), list[float]()
        limiters = [RateLimiter(Rate(20, burst=1), store=store) for _ in range(4)]

        async def one(limiter: RateLimiter) -> None:
            await limiter.wait(client=rng.choice("abc"))
            sent.append(loop.time())

        tasks = [loop.create_task(one(rng.choice(limiters))) for _ in range(200)]
        for task in rng.sample(tasks, 60):
            loop.call_later(rng.random() * 8, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        return sent

    sent = simulated(main, seed)
    steps = [b - a for a, b in pairwise(sent)]
    assert min(steps) >= 0.05 - 1e-9
    assert sum(step > 0.051 for step in steps) <= 2, "who gave up left no gap"


def test_clients_take_turns_by_their_weights_however_many_one_sends() -> None:
    async def main() -> Counter[str]:
        limiter, sent = RateLimiter(Rate(10, burst=1), weights={"c": 2.0}), list[str]()

        async def one(client: str) -> None:
            await limiter.wait(client=client)
            sent.append(client)

        asks = [one(client) for client in "a" * 100 + "b" * 20 + "c" * 20]
        await asyncio.gather(*asks)
        return Counter(sent[:40])

    counts = simulated(main)
    assert counts["a"] == pytest.approx(10, abs=1) and counts["b"] == pytest.approx(10, abs=1)
    assert counts["c"] == pytest.approx(20, abs=1)


def test_who_would_come_too_late_is_refused_at_once_with_the_wait() -> None:
    async def main() -> None:
        loop, store = asyncio.get_running_loop(), MemoryRates()
        limiter, other = (RateLimiter(Rate(1, burst=1), store=store) for _ in range(2))
        await other.wait()
        with pytest.raises(RateLimited) as caught:
            await limiter.wait(deadline_s=loop.time() + 0.5)
        assert caught.value.code == "rate.too_late" and not caught.value.is_exhausted
        assert caught.value.retry_after == pytest.approx(1.0) and loop.time() == 0.0
        await store.learn("default", limiter.rate, Lesson(pause_s=60.0, is_exhausted=True))
        with pytest.raises(RateLimited) as caught:
            await limiter.wait(deadline_s=loop.time() + 30.0)
        assert caught.value.is_exhausted and "quota" in str(caught.value)
        assert loop.time() == 0.0

    simulated(main)


def test_behind_many_of_ones_own_it_is_known_at_once_that_it_will_be_too_late() -> None:
    async def main() -> None:
        loop, limiter = asyncio.get_running_loop(), RateLimiter(Rate(1, burst=1))
        tasks = [loop.create_task(limiter.wait(client="a")) for _ in range(10)]
        await asyncio.sleep(0.1)
        with pytest.raises(RateLimited) as caught:
            await limiter.wait(client="a", deadline_s=loop.time() + 5.0)
        assert caught.value.retry_after > 8.0
        await limiter.wait(client="b", deadline_s=loop.time() + 5.0)
        await asyncio.gather(*tasks)

    simulated(main)


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_sent_after_its_deadline_and_everybody_is_told_before(seed: int) -> None:
    async def main() -> int:
        loop, rng = asyncio.get_running_loop(), random.Random(seed)
        limiter, refused = RateLimiter(Rate(10, burst=2)), list[float]()

        async def one() -> None:
            await asyncio.sleep(rng.random())
            deadline_s = loop.time() + rng.random() * 3
            try:
                await limiter.wait(client=rng.choice("ab"), deadline_s=deadline_s)
            except RateLimited:
                refused.append(loop.time())
            assert loop.time() <= deadline_s + 1e-9

        await asyncio.gather(*(one() for _ in range(60)))
        return len(refused)

    assert simulated(main, seed) > 10


def test_a_refused_request_is_sent_again_when_it_may_be_and_not_before() -> None:
    async def main() -> None:
        limiter = RateLimiter(Rate(100))
        send, asked_s = sending(Reply(429, Retry_After="7"), Reply(200))
        assert (await limiter.call(send, repeatable=True)).status == 200
        assert asked_s == [0.0, pytest.approx(7.0)]

    simulated(main)


def test_what_may_not_be_sent_again_is_not_and_the_refusal_says_when_it_might() -> None:
    async def main() -> None:
        limiter = RateLimiter(Rate(100))
        send, asked_s = sending(Reply(429, Retry_After="7"), Reply(200))
        with pytest.raises(RateLimited) as caught:
            await limiter.call(send)
        assert caught.value.code == "rate.refused" and asked_s == [0.0]
        assert caught.value.retry_after == pytest.approx(7.0) and caught.value.is_exhausted

    simulated(main)


def test_an_error_that_is_no_answer_goes_through() -> None:
    async def main() -> None:
        async def send() -> Reply:
            raise ConnectionError("away")

        with pytest.raises(ConnectionError):
            await RateLimiter(Rate(100)).call(send, repeatable=True)

    simulated(main)


def test_a_pause_that_another_process_was_told_holds_those_who_wait_already() -> None:
    async def main() -> None:
        loop, store = asyncio.get_running_loop(), MemoryRates()
        limiter, other = (RateLimiter(Rate(1, burst=1), store=store) for _ in range(2))
        await limiter.wait()
        waiting = loop.create_task(limiter.wait())
        await asyncio.sleep(0.5)
        await other.saw(Reply(429, Retry_After="20"))
        await waiting
        assert loop.time() >= 20.5

    simulated(main)


def test_a_store_that_is_slow_to_answer_keeps_nobody_past_the_deadline() -> None:
    class Slow(MemoryRates):
        async def reserve(self, key: str, rate: Rate, *, wait_max_s: float = 0.0) -> Any:
            await asyncio.sleep(10.0)
            return await super().reserve(key, rate, wait_max_s=wait_max_s)

    async def main() -> None:
        loop, limiter = asyncio.get_running_loop(), RateLimiter(Rate(1), store=Slow())
        with pytest.raises(RateLimited) as caught:
            await limiter.wait(deadline_s=loop.time() + 2.0)
        assert caught.value.code == "rate.too_late" and loop.time() == pytest.approx(2.0)

    simulated(main)


def test_too_many_who_wait_are_refused() -> None:
    async def main() -> None:
        limiter = RateLimiter(Rate(1, burst=1), waiters_max=2)
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(limiter.wait()) for _ in range(3)]
        await asyncio.sleep(0.1)
        with pytest.raises(RunError) as caught:
            await limiter.wait()
        assert caught.value.code == "rate.full"
        await asyncio.gather(*tasks)

    simulated(main)


def test_a_weight_that_is_none_is_refused() -> None:
    with pytest.raises(BuildError) as caught:
        RateLimiter(Rate(1), weights={"a": 0.0})
    assert caught.value.code == "rate.weight"


async def test_who_waits_no_more_is_held_no_more() -> None:
    """However many ask one after another, and have no deadline."""
    limiter = RateLimiter(Rate(100_000))
    for number in range(500):
        await limiter.wait(client=str(number))
        assert len(limiter._soonest) + len(limiter._latest) < 140
