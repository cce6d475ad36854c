"""Meters: never more than the rate permits, and every store gives the slots of the pure one."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import random
import socket
import uuid
from typing import Any

import pytest

from stageflow import BuildError
from stageflow.stages.work.rate import Rate
from stageflow.stages.work.rate.meter import Lesson, Meter
from stageflow.stages.work.rate.store import MemoryRates, opened

ALGORITHMS = ("token_bucket", "gcra", "sliding_window")
SERVERS = {
    "redis": ("redis://127.0.0.1:6379/0", 6379, "redis"),
    "postgres": ("postgresql://postgres@127.0.0.1:5432/test", 5432, "psycopg"),
}


def drawn(rng: random.Random) -> Rate:
    algorithm: Any = rng.choice(ALGORITHMS)
    burst = None if algorithm == "sliding_window" else rng.choice((None, 1, 3))
    return Rate(rng.randint(1, 8), rng.choice((0.5, 1.0, 10.0)), burst, algorithm)


@pytest.mark.parametrize("seed", range(60))
def test_slots_never_come_faster_than_the_rate(seed: int) -> None:
    rng = random.Random(seed)
    rate, meter, now_s = drawn(rng), Meter(), 100.0
    slots = []
    for _ in range(200):
        now_s += rng.expovariate(rate.per_second * 2)
        slots.append(now_s + meter.reserve(rate, now_s=now_s).wait_s)
    assert slots == sorted(slots), "in the order of asking"
    most = rate.permits if rate.window else rate.tolerance + 1
    for first in range(len(slots)):
        for count in range(most + 1, min(len(slots) - first, 40)):
            span_s = slots[first + count - 1] - slots[first]
            if rate.window:
                floor_s = (count - 1) // rate.permits * rate.per_s
            else:
                floor_s = (count - most) / rate.per_second
            assert span_s >= floor_s - 1e-6
    assert slots[-1] - slots[0] <= 200 / rate.per_second + rate.per_s + 100 / rate.per_second


def test_a_slot_beyond_what_the_asker_can_wait_is_not_taken() -> None:
    rate, meter = Rate(1, per_s=10.0), Meter()
    assert meter.reserve(rate, now_s=0.0).wait_s == 0
    refused = meter.reserve(rate, now_s=0.0, wait_max_s=9.0)
    assert (refused.wait_s, refused.is_taken) == (10.0, False)
    assert meter.reserve(rate, now_s=0.0, wait_max_s=10.0).is_taken


def test_after_a_pause_nothing_that_was_saved_up_is_sent_at_once() -> None:
    rate, meter = Rate(10, burst=10), Meter()
    meter.learn(rate, Lesson(pause_s=30.0, is_exhausted=True), now_s=0.0)
    slots = [meter.reserve(rate, now_s=1.0) for _ in range(4)]
    assert all(each.is_exhausted for each in slots)
    assert [round(each.wait_s, 6) for each in slots] == [29.0, 29.1, 29.2, 29.3]


def test_refusals_of_one_second_slow_down_once_and_calm_speeds_up_again() -> None:
    rate, meter = Rate(100), Meter()
    for _ in range(20):
        meter.learn(rate, Lesson(is_refusal=True), now_s=50.0)
    assert meter.per_second(rate, 50.0) == pytest.approx(95.0)
    assert meter.per_second(rate, 52.0) == pytest.approx(96.9)
    assert meter.per_second(rate, 500.0) == 100.0
    meter.learn(rate, Lesson(is_refusal=True), now_s=52.0)
    assert meter.per_second(rate, 52.0) == pytest.approx(96.9 * 0.8), "far too fast"


def test_what_a_service_tells_replaces_the_rate() -> None:
    rate, meter = Rate(100, burst=1), Meter()
    meter.learn(rate, Lesson(per_second=4.0), now_s=0.0)
    waits = [meter.reserve(rate, now_s=0.0).wait_s for _ in range(3)]
    assert waits == [0.0, 0.25, 0.5]


@pytest.fixture(params=list(SERVERS))
async def server(request: pytest.FixtureRequest) -> Any:
    """A store at a server, whose clock the test sets."""
    address, port, module = SERVERS[request.param]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"the client library {module} is not installed")
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex(("127.0.0.1", port)):
            pytest.skip(f"no {request.param} listens here")
    store = opened(address)
    yield store
    await store.close()


async def forget(store: Any, key: str) -> None:
    if hasattr(store, "_client"):
        place = "stageflow:rate:{" + key + "}"
        await store._client.delete(place, f"{place}:taken")
    else:
        store._connection.execute("DELETE FROM stageflow_rates WHERE key = %s", (key,))


@pytest.mark.parametrize("seed", range(12))
async def test_a_server_gives_the_slots_of_the_pure_meter(server: Any, seed: int) -> None:
    rng, key = random.Random(seed), f"test-{uuid.uuid4().hex}"
    rate, now_s = drawn(rng), 1_700_000_000.0
    pure = MemoryRates(now_s=lambda: now_s)
    try:
        for _ in range(60):
            now_s += rng.expovariate(rate.per_second * 2)
            server.now_s = now_s
            if rng.random() < 0.2:
                lesson = Lesson(
                    rng.choice((0.0, 0.3, 7.0)),
                    rng.random() < 0.5,
                    rng.random() < 0.5,
                    rng.choice((0.0, 0.0, 5.0)),
                )
                await server.learn(key, rate, lesson)
                await pure.learn(key, rate, lesson)
            most_s = rng.choice((math.inf, 1.0))
            got = await server.reserve(key, rate, wait_max_s=most_s)
            expected = await pure.reserve(key, rate, wait_max_s=most_s)
            assert got == pytest.approx(expected, abs=1e-5)
            assert await server.paused_s(key) == pytest.approx(await pure.paused_s(key), abs=1e-5)
    finally:
        await forget(server, key)


async def test_by_a_servers_clock_slots_of_all_who_share_it_come_at_the_rate(server: Any) -> None:
    key, rate = f"test-{uuid.uuid4().hex}", Rate(100, burst=1)
    try:
        loop = asyncio.get_running_loop()
        await server.reserve(key, rate)
        began_s = loop.time()
        slots = await asyncio.gather(*(server.reserve(key, rate) for _ in range(20)))
        took_s = loop.time() - began_s
        assert max(each.wait_s for each in slots) >= 0.2 - took_s - 0.01
    finally:
        await forget(server, key)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"permits": 0}, "permits"),
        ({"permits": True}, "permits"),
        ({"permits": 5, "per_s": 0.0}, "per_s"),
        ({"permits": 5, "per_s": math.nan}, "per_s"),
        ({"permits": 5, "burst": 0}, "burst"),
        ({"permits": 5, "burst": 2, "algorithm": "sliding_window"}, "burst"),
        ({"permits": 5, "algorithm": "leaky"}, "algorithm"),
    ],
)
def test_a_rate_that_cannot_be_is_refused(options: Any, field: str) -> None:
    with pytest.raises(BuildError) as caught:
        Rate(**options)
    assert (caught.value.code, caught.value.field) == ("rate.option", field)


def test_an_address_that_is_not_known_is_refused() -> None:
    with pytest.raises(BuildError) as caught:
        opened("mysql://host")
    assert caught.value.code == "rate.address"
