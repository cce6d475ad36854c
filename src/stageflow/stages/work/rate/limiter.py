"""Requests at the pace that a service permits, fairly between clients, and never in vain.

Slots come from a meter that all processes share (`meter`, `store`). A process takes them one at a
time, waits for each, and gives it to whoever is then first in its line: clients take turns by their
weights (`stageflow.scheduler.line`), so a client that asks for a thousand slows down only itself,
and who has given up leaves no gap. One of those who wait does that for all; there is no task
besides.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Final, TypeVar

from stageflow.model.errors import BuildError, RunError
from stageflow.model.forms import is_count, is_number
from stageflow.scheduler.line import Rank, RankedLine
from stageflow.stages.work.rate.answer import EXHAUSTED_S, Answer, RateLimited, lesson_of
from stageflow.stages.work.rate.meter import Lesson, Rate, Slot, wrong_option
from stageflow.stages.work.rate.store import RateStore, opened

WAITERS_MAX: Final = 10_000
SURE_S: Final = 0.005
"""Whoever has waited longer for a slot asks once more whether the service has said to pause."""
ROUNDS_MAX: Final = 100_000
"""Slots that one waiter takes for others before it is its turn; each goes to somebody."""

T = TypeVar("T")


class _Waiter:
    """Somebody in line."""

    __slots__ = ("client", "signal", "units", "until_s")

    def __init__(self, client: str, until_s: float) -> None:
        self.client = client
        self.units = 1
        self.until_s = until_s
        self.signal: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """True: it has a slot. False: it is to take slots for all."""


class RateLimiter:
    """Keeps the pace of one service, called `key` by all processes that share `store`.

    `store` is an address of Redis or PostgreSQL, a RateStore, or None for this process alone.
    `weights` are the shares of clients that wait at the same time, 1 for those not named. At most
    `waiters_max` wait. Used from one event loop; close it (`async with`, or `aclose`) when it has a
    store of its own. Raises BuildError `rate.option`, `rate.address`, `rate.missing_extra`,
    `rate.weight`.
    """

    def __init__(
        self,
        rate: Rate,
        *,
        key: str = "default",
        store: RateStore | str | None = None,
        weights: Mapping[str, float] | None = None,
        waiters_max: int = WAITERS_MAX,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        _check_limiter(rate, key, weights, waiters_max)
        self.rate = rate
        self.key = key
        self._store = opened(store)
        self._wall_s = wall_s
        self._waiters_max = waiters_max
        self._line: RankedLine[_Waiter] = RankedLine(_checked({} if weights is None else weights))
        self._asking: Counter[str] = Counter()
        """Client to how many of its wait."""
        self._asked = 0
        self._server: _Waiter | None = None
        """Who takes slots for all; None when nobody waits, or it is about to be told."""
        self._next_s = 0.0
        """On the loop's clock: when the next slot comes, as far as is known."""
        self._slot_s: float | None = None
        """Of a slot that was taken and nobody has yet: who takes slots may be stopped meanwhile."""
        self._is_tight = False
        """Whether slots follow one another by whole intervals, since nothing is saved up."""
        self._soonest: list[tuple[float, int, _Waiter]] = []
        """A heap of those who wait by their deadlines, those who are gone among them."""
        self._latest: list[tuple[float, int, _Waiter]] = []
        """The same with negative deadlines."""
        self._is_exhausted = False
        self._interval_s = 1.0 / rate.per_second
        self._told = 0.0
        """Requests a second, as the service said last."""

    async def __aenter__(self) -> RateLimiter:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the store. Nobody may wait any more."""
        await self._store.close()

    # -- one slot --------------------------------------------------------------------------------

    async def wait(self, *, client: str = "", deadline_s: float = math.inf) -> None:
        """Returns when a request may be sent. `deadline_s` is on the event loop's clock, as
        `ctx.deadline_s` is.

        RateLimited `rate.too_late`, at once when it is known that the permitted instant lies beyond
        the deadline, with the seconds it would take; `rate.full` when too many wait already.
        BuildError `rate.option` for a deadline that is no number.
        """
        loop = asyncio.get_running_loop()
        _check_request(client, deadline_s)
        self._refuse_late(client, loop.time(), deadline_s)
        if len(self._line) >= self._waiters_max:
            raise RunError(
                "rate.full",
                f"too many wait for a request to {self.key!r}",
                expected=f"at most {self._waiters_max} waiting",
                fix="send fewer at a time, or raise RateLimiter(waiters_max=...)",
            )
        waiter = _Waiter(client, deadline_s)
        self._asked += 1
        self._enter(waiter)
        timer = None
        if math.isfinite(deadline_s):
            timer = loop.call_at(deadline_s, self._too_late, waiter)
        try:
            await self._served(waiter)
        finally:
            if timer is not None:
                timer.cancel()
            self._gone(waiter)
        if loop.time() > deadline_s:  # it was served, and this process was not let run
            raise self._late(0.0)

    def _enter(self, waiter: _Waiter) -> None:
        self._line.put(waiter, {waiter.client: Rank(0.0, self._asked, 0, 0)})
        self._asking[waiter.client] += 1
        heapq.heappush(self._soonest, (waiter.until_s, self._asked, waiter))
        heapq.heappush(self._latest, (-waiter.until_s, self._asked, waiter))
        for heap in (self._soonest, self._latest):
            if len(heap) > 2 * len(self._line) + 64:
                heap[:] = [each for each in heap if each[2] in self._line]
                heapq.heapify(heap)

    async def _served(self, waiter: _Waiter) -> None:
        """Until it has its slot; takes slots for others when nobody else does."""
        for _ in range(ROUNDS_MAX):
            if self._server is None:
                self._server = waiter
            if self._server is not waiter:
                if await waiter.signal:
                    return
                waiter.signal = asyncio.get_running_loop().create_future()
                continue
            until_s = waiter.until_s if math.isfinite(waiter.until_s) else None
            try:
                async with asyncio.timeout_at(until_s):  # the store may be slow to answer
                    await self._serve_one(waiter)
            except TimeoutError:
                raise self._late(max(0.0, self._next_s - waiter.until_s)) from None
            if waiter.signal.done():
                if waiter.signal.result():
                    return
                waiter.signal = asyncio.get_running_loop().create_future()
        raise AssertionError("each slot goes to somebody, and one of them to this one")

    async def _serve_one(self, server: _Waiter) -> None:
        """Takes a slot, waits for it, and gives it to who is first then."""
        loop = asyncio.get_running_loop()
        if self._slot_s is None or loop.time() - self._slot_s > self._interval_s:
            self._slot_s = None  # one from long ago is no slot any more
            last_s = self._last_s()
            slot = await self._store.reserve(self.key, self.rate, wait_max_s=last_s - loop.time())
            self._know(slot)
            if not slot.is_taken:
                return  # nobody can wait for it: all have been told
        assert self._slot_s is not None, "it is taken"
        if self._slot_s > loop.time():
            is_sure = self._slot_s - loop.time() <= SURE_S
            await _until(self._slot_s, server)
            if not is_sure and (pause_s := await self._store.paused_s(self.key)) > 0:
                # Said meanwhile, to another process perhaps.
                self._slot_s, self._next_s = None, loop.time() + pause_s
                self._is_exhausted = pause_s >= EXHAUSTED_S
                self._tell_late()
                return
        first = self._line.first()
        if first is not None:
            self._slot_s = None
            self._line.take(first)
            if not first.signal.done():
                first.signal.set_result(True)

    def _last_s(self) -> float:
        """The latest deadline of those who wait."""
        while self._latest and self._latest[0][2] not in self._line:
            heapq.heappop(self._latest)
        return -self._latest[0][0] if self._latest else -math.inf

    def _know(self, slot: Slot) -> None:
        self._next_s = asyncio.get_running_loop().time() + slot.wait_s
        self._is_exhausted = slot.is_exhausted
        self._interval_s = slot.interval_s
        self._is_tight = slot.wait_s > 0 and not self.rate.window
        if slot.is_taken:
            self._slot_s = self._next_s
        self._tell_late()

    def _gone(self, waiter: _Waiter) -> None:
        """Waits no more, for whatever reason; somebody else serves then, if it did."""
        if waiter in self._line:
            self._line.drop(waiter)
        self._asking[waiter.client] -= 1
        if not self._asking[waiter.client]:
            del self._asking[waiter.client]
        if self._server is waiter:
            self._server = None
            heir = self._line.first()
            if heir is not None:
                self._server = heir
                if not heir.signal.done():
                    heir.signal.set_result(False)

    # -- deadlines -------------------------------------------------------------------------------

    def _refuse_late(self, client: str, now_s: float, deadline_s: float) -> None:
        """Before it waits: when even at the earliest it would be too late."""
        ahead = self._asking[client] if self._is_tight and self._next_s > now_s else 0
        at_s = max(now_s, self._next_s + ahead * self._interval_s)
        if at_s > deadline_s:
            raise self._late(at_s - now_s)

    def _tell_late(self) -> None:
        """Those whose deadline lies before the next slot."""
        now_s = asyncio.get_running_loop().time()
        while self._soonest and self._soonest[0][0] < max(now_s, self._next_s):
            waiter = heapq.heappop(self._soonest)[2]
            if waiter in self._line:
                self._refuse(waiter, self._late(max(0.0, self._next_s - now_s)))

    def _refuse(self, waiter: _Waiter, error: RateLimited) -> None:
        self._line.drop(waiter)
        if not waiter.signal.done():
            waiter.signal.set_exception(error)

    def _too_late(self, waiter: _Waiter) -> None:
        if waiter in self._line and not waiter.signal.done():
            now_s = asyncio.get_running_loop().time()
            self._refuse(waiter, self._late(max(0.0, self._next_s - now_s)))

    def _late(self, wait_s: float) -> RateLimited:
        why = "its quota is used up" if self._is_exhausted else "others are ahead"
        return RateLimited(
            "rate.too_late",
            f"a request to {self.key!r} would come after its deadline: {why}",
            retry_after=wait_s,
            is_exhausted=self._is_exhausted,
            expected="a deadline after the permitted instant",
            got=f"a wait of {wait_s:.3f} s",
            fix="give it more time, or ask again after error.retry_after seconds",
        )

    # -- requests --------------------------------------------------------------------------------

    async def saw(self, response: Any) -> Answer | None:
        """Learns from an answer, or from an error that carries one, and shares that; None when it
        was neither. `call` does it by itself."""
        answer = Answer.of(response)
        if answer is None:
            return None
        lesson = lesson_of(answer, wall_s=self._wall_s(), interval_s=self._interval_s)
        if not lesson.is_empty and not self._is_known(lesson):
            await self._store.learn(self.key, self.rate, lesson)
        return answer

    def _is_known(self, lesson: Lesson) -> bool:
        """A rate that was told before, and nothing else."""
        if lesson._replace(per_second=0.0).is_empty and lesson.per_second == self._told:
            return True
        self._told = lesson.per_second or self._told
        return False

    async def call(
        self,
        send: Callable[[], Awaitable[T]],
        *,
        client: str = "",
        deadline_s: float = math.inf,
        repeatable: bool = False,
        attempts: int = 5,
    ) -> T:
        """What `send` returns, sent when it may be: an answer with `status_code` or `status`, and
        `headers`.

        A refusal (429, or 503 with Retry-After) is learned from. With `repeatable`, for requests
        that may be sent again, `send` is called again at the permitted instant, `attempts` times in
        all; else the refusal is raised as RateLimited `rate.refused`, and never sent again.
        RateLimited `rate.too_late` as in `wait`. What `send` raises goes through. BuildError
        `rate.option` for `attempts` below 1.
        """
        if not is_count(attempts, least=1):
            fix = "call(send, repeatable=True, attempts=5)"
            raise wrong_option("a call", "attempts", "a whole number from 1 on", attempts, fix)
        left = attempts if repeatable else 1
        while True:
            await self.wait(client=client, deadline_s=deadline_s)
            left -= 1
            try:
                response = await send()
            except Exception as error:
                answer = await self.saw(error)
                if answer is None or not answer.is_refusal or not left:
                    raise
            else:
                answer = await self.saw(response)
                if answer is None or not answer.is_refusal:
                    return response
            if not left:
                raise await self._refused(answer)

    async def _refused(self, answer: Answer) -> RateLimited:
        pause_s = await self._store.paused_s(self.key)
        lesson = lesson_of(answer, wall_s=self._wall_s(), interval_s=self._interval_s)
        return RateLimited(
            "rate.refused",
            f"{self.key!r} refused a request with {answer.status}",
            retry_after=max(pause_s, lesson.pause_s),
            is_exhausted=lesson.is_exhausted,
            expected="an answer within the attempts that the call may make",
            got=f"{answer.status}, to be asked again in {max(pause_s, lesson.pause_s):.3f} s",
            fix="call(..., repeatable=True) for what may be sent again, or lower the Rate",
        )


async def _until(at_s: float, waiter: _Waiter) -> None:
    """Waits on the loop's clock. Raises RateLimited as soon as the waiter is told that it is too
    late."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(at_s):
            await asyncio.shield(waiter.signal)


def _check_limiter(rate: Any, key: Any, weights: Any, waiters_max: Any) -> None:
    fix, what = "RateLimiter(Rate(50), key='search')", "a rate limiter"
    if not isinstance(rate, Rate):
        raise wrong_option(what, "rate", "a Rate", rate, fix)
    if not (isinstance(key, str) and key):
        raise wrong_option(what, "key", "text of at least one character", key, fix)
    if weights is not None and not isinstance(weights, Mapping):
        raise wrong_option(what, "weights", "a dict of clients to numbers", weights, fix)
    if not is_count(waiters_max, least=1):
        raise wrong_option(what, "waiters_max", "a whole number from 1 on", waiters_max, fix)


def _check_request(client: Any, deadline_s: Any) -> None:
    fix = "wait(client='acme', deadline_s=ctx.deadline_s)"
    if not isinstance(client, str):
        raise wrong_option("a request", "client", "the client's name, or nothing", client, fix)
    if not is_number(deadline_s):
        expected = "a time of the event loop's clock; math.inf, or nothing, for none"
        raise wrong_option("a request", "deadline_s", expected, deadline_s, fix)


def _checked(weights: Mapping[str, float]) -> Mapping[str, float]:
    for client, weight in weights.items():
        if not is_number(weight) or not 0 < weight < math.inf:
            raise BuildError(
                "rate.weight",
                f"client {client!r} has no weight",
                field=client,
                expected="a number above 0; clients that are not named have 1",
                got=repr(weight)[:80],
                fix=f"RateLimiter(rate, weights={{{client!r}: 2.0}})",
            )
    return dict(weights)
