"""What a runtime is made of: a mistake is told before anything is opened."""

from __future__ import annotations

import math
from typing import Any

import pytest

from stageflow import (
    BuildError,
    CircuitBreaker,
    Dependency,
    Limits,
    Retry,
    RetryBudget,
    Runtime,
    Subscription,
)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("journal", 5),
        ("journal", ""),
        ("deps", ["db"]),
        ("pools", ["gpu"]),
        ("weights", 2),
        ("locks", 5),
        ("dependencies", ["search"]),
        ("keys", 5),
        ("sealed", "some"),
        ("limits", {"threads": 1}),
        ("events", print),
        ("events", [print]),
        ("adapters", [int]),
        ("clock", 5),
    ],
)
def test_parts_of_a_runtime_have_their_forms(part: str, value: Any) -> None:
    with pytest.raises(BuildError) as caught:
        Runtime(**{part: value})
    assert (caught.value.code, caught.value.field) == ("runtime.option", part)


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("threads", 0),
        ("threads", "4"),
        ("threads", True),
        ("processes", 0),
        ("depth", 0),
        ("owners", 0),
        ("stream_items", 0),
        ("queued", -1),
        ("stuck_threads", -1),
        ("cache_bytes", 0.5),
        ("grace_s", -1),
        ("grace_s", math.nan),
        ("close_s", "1"),
        ("scan_s", 0),
        ("aging_s", 0),
    ],
)
def test_limits_are_counts_and_seconds(limit: str, value: Any) -> None:
    with pytest.raises(BuildError) as caught:
        Limits(**{limit: value})
    assert (caught.value.code, caught.value.field) == ("runtime.limits", limit)


def test_limits_at_their_bounds() -> None:
    Limits(grace_s=0, aging_s=math.inf, stuck_threads=None, queued=0, cache_entries=0)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("attempts", "3"),
        ("attempts", True),
        ("attempts", 1.5),
        ("base_s", "1"),
        ("max_s", math.nan),
        ("factor", None),
        ("jitter", "some"),
        ("on", TimeoutError),
        ("on", ("TimeoutError",)),
        ("dependency", ""),
        ("dependency", 5),
    ],
)
def test_a_retry_has_its_form(option: str, value: Any) -> None:
    with pytest.raises(BuildError) as caught:
        Retry(**{option: value})
    assert caught.value.code == "policy.retry"
    assert option in (caught.value.field or "")


def test_a_wait_that_no_float_can_hold_is_the_longest() -> None:
    retry = Retry(attempts=100, factor=1e9, max_s=7.0, jitter="none")
    assert retry.wait_s(attempt=90, seed=1, node="a", after_s=None) == 7.0


@pytest.mark.parametrize("size", [0, -1, "10", True])
def test_a_queue_of_events_has_room(size: Any) -> None:
    with pytest.raises(BuildError, match=r"runtime\.option"):
        Subscription(queue_max=size)


@pytest.mark.parametrize(
    "made",
    [
        lambda: Dependency(5),  # type: ignore[arg-type]
        lambda: Dependency(breaker=RetryBudget()),  # type: ignore[arg-type]
        lambda: RetryBudget(ratio="0.1"),  # type: ignore[arg-type]
        lambda: RetryBudget(reserve=0.5),  # type: ignore[arg-type]
        lambda: CircuitBreaker(calls_min="2"),  # type: ignore[arg-type]
        lambda: CircuitBreaker(window_s=math.nan),
    ],
)
def test_bounds_of_a_dependency_have_their_forms(made: Any) -> None:
    with pytest.raises(BuildError, match=r"policy\.dependency"):
        made()
