"""What clients of a limited service get wrong, as sabotages of WORK-004."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from stageflow.stages.work.rate import answer, limiter
from stageflow.stages.work.rate.limiter import RateLimiter
from stageflow.stages.work.rate.meter import Meter
from stageflow.stages.work.rate.store import MemoryRates

from ...sabotage import Sabotage, patched, sabotage


@sabotage(metric="early")
def date_form_ignored() -> Iterator[None]:
    """A Retry-After that is a date is taken for none."""
    with patched(answer, "_date_s", lambda value: None):
        yield


@sabotage(metric="early")
def limiter_per_worker() -> Iterator[None]:
    """Each process keeps the pace for itself."""
    with patched(limiter, "opened", lambda place: MemoryRates()):
        yield


@sabotage(metric="refused_steady")
def refusals_teach_nothing() -> Iterator[None]:
    """A refusal is waited out, and then all goes on as fast as before."""
    original = Meter.learn

    def learn(self: Meter, rate: Any, lesson: Any, *, now_s: float) -> None:
        original(self, rate, lesson._replace(is_refusal=False), now_s=now_s)

    with patched(Meter, "learn", learn), patched(limiter, "lesson_of", _untaught):
        yield


def _untaught(*given: Any, **options: Any) -> Any:
    return answer.lesson_of(*given, **options)._replace(is_refusal=False)


@sabotage(metric="throughput")
def refusals_stop_for_long() -> Iterator[None]:
    """After a refusal nothing is sent for ten seconds, whatever the service says."""

    def lesson_of(*given: Any, **options: Any) -> Any:
        lesson = answer.lesson_of(*given, **options)
        return lesson._replace(pause_s=max(10.0, lesson.pause_s) if lesson.is_refusal else 0.0)

    with patched(limiter, "lesson_of", lesson_of):
        yield


@sabotage(metric="deadlines_kept")
def deadlines_not_looked_at() -> Iterator[None]:
    """Whoever waits is served when its turn comes, however late that is."""
    original = RateLimiter.wait

    async def wait(self: RateLimiter, *, client: str = "", deadline_s: float = 0.0) -> None:
        await original(self, client=client)

    with patched(RateLimiter, "wait", wait):
        yield


@sabotage(metric="repeats")
def everything_is_sent_again() -> Iterator[None]:
    """A request that must not be sent twice is, after a refusal."""
    original = RateLimiter.call

    async def call(self: RateLimiter, send: Any, **options: Any) -> Any:
        return await original(self, send, **{**options, "repeatable": True})

    with patched(RateLimiter, "call", call):
        yield


@sabotage(metric="exhausted_told")
def exhausted_taken_for_pace() -> Iterator[None]:
    """A used-up quota is told as if the next request were a moment away."""
    original = RateLimiter._late

    def late(self: RateLimiter, wait_s: float) -> Any:
        self._is_exhausted = False
        return original(self, wait_s)

    with patched(RateLimiter, "_late", late):
        yield


DEFECTS: Final[tuple[Sabotage, ...]] = (
    date_form_ignored,
    limiter_per_worker,
    refusals_teach_nothing,
    refusals_stop_for_long,
    deadlines_not_looked_at,
    everything_is_sent_again,
    exhausted_taken_for_pace,
)


def applied(name: str | None) -> AbstractContextManager[None]:
    """The defect `name` while entered, in a process of the load; nothing for None."""
    by_name = {each.name: each for each in DEFECTS}
    return nullcontext() if name is None else by_name[name].apply()
