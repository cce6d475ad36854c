"""Where meters are kept: in this process, or in a server that all processes reach."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from stageflow.model.errors import BuildError, RunError
from stageflow.model.forms import form_of, scheme_of
from stageflow.stages.work.rate.meter import Lesson, Meter, Rate, Slot

METERS_MAX: Final = 10_000
FORGET_S: Final = 86_400.0
"""After which a server may forget a meter that nobody asked for."""


class RateStore(Protocol):
    """Each call is one atomic change of the meter called `key`, by the store's clock, in one round
    trip. Raises RunError `rate.store` when the server does not answer."""

    async def reserve(self, key: str, rate: Rate, *, wait_max_s: float = math.inf) -> Slot: ...

    async def learn(self, key: str, rate: Rate, lesson: Lesson) -> None: ...

    async def paused_s(self, key: str) -> float:
        """For how long nothing may be sent."""
        ...

    async def close(self) -> None: ...


class MemoryRates:
    """Implements RateStore for one process, and for simulations of several. `now_s` is its clock,
    by default the event loop's. Keeps the 10,000 meters that were asked for last."""

    def __init__(self, *, now_s: Callable[[], float] | None = None) -> None:
        self._now_s = _loop_time_s if now_s is None else now_s
        self._meters: OrderedDict[str, Meter] = OrderedDict()

    def _meter(self, key: str) -> Meter:
        meter = self._meters.setdefault(key, Meter())
        self._meters.move_to_end(key)
        if len(self._meters) > METERS_MAX:
            self._meters.popitem(last=False)
        return meter

    async def reserve(self, key: str, rate: Rate, *, wait_max_s: float = math.inf) -> Slot:
        return self._meter(key).reserve(rate, now_s=self._now_s(), wait_max_s=wait_max_s)

    async def learn(self, key: str, rate: Rate, lesson: Lesson) -> None:
        self._meter(key).learn(rate, lesson, now_s=self._now_s())

    async def paused_s(self, key: str) -> float:
        return self._meter(key).paused_s(self._now_s())

    async def close(self) -> None:
        return None


def opened(place: str | RateStore | None) -> RateStore:
    """A store as it is, or the one at an address; None: this process alone. BuildError
    `rate.address`."""
    if place is None:
        return MemoryRates()
    if not isinstance(place, str):
        if not hasattr(place, "reserve"):
            raise _unknown(form_of(place))
        return place
    if place.startswith(("redis://", "rediss://", "unix://")):
        from stageflow.stages.work.rate.redis import RedisRates  # an extra

        return RedisRates(place)
    if place.startswith(("postgresql://", "postgres://")):
        from stageflow.stages.work.rate.postgres import PostgresRates  # an extra

        return PostgresRates(place)
    raise _unknown(f"{scheme_of(place)}..." if place else form_of(place))


def _unknown(got: str) -> BuildError:
    return BuildError(
        "rate.address",
        "this address of a rate limiter's store is not known",
        field="store",
        expected="redis://host:6379/0, postgresql://host/database, a RateStore, or nothing",
        got=got,
        fix="RateLimiter(rate, store='redis://host:6379/0')",
    )


def missing_extra(extra: str, error: ImportError) -> BuildError:
    """The client library of a server is not installed."""
    return BuildError(
        "rate.missing_extra",
        "this store of a rate limiter needs a client library that is not installed",
        field="store",
        expected=f"the extra {extra!r}",
        got=str(error)[:200],
        fix=f"pip install 'stageflow[{extra}]'",
    )


def unreachable(server: str, error: BaseException) -> RunError:
    """The server does not answer."""
    return RunError(
        "rate.store",
        f"the rate limiter's {server} does not answer: {str(error)[:200]}",
        expected=f"a {server} that all processes reach",
        got=type(error).__name__,
        fix="when it is back, run again what failed",
    )


def _loop_time_s() -> float:
    return asyncio.get_running_loop().time()
