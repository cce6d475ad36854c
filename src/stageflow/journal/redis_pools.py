"""Shared pools in Redis: the book in one key, the processes' pictures in a hash beside it.

A change is a read of book and clock and a compare-and-set, so that changes of all processes stand
in one line, and a lease ends by the server's clock. Redis keeps what its persistence keeps: a
server that has lost the book gives units anew, whose fences are greater than any before, and
whoever held some learns that they are no longer his. Needs the extra `redis`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from stageflow.journal.address import without
from stageflow.journal.pools import BookReader, PoolBook, Sight
from stageflow.model.errors import BuildError, JournalError

if TYPE_CHECKING:
    import redis as redis_client

LEASE_S: Final = 30.0
ANSWER_S: Final = 10.0
"""Silence of the server after which it counts as away."""
CONTENTIONS_MAX: Final = 256
"""How often another process may come between a read and the write. Each time it has made
progress."""
PREFIX: Final = "stageflow:pools"
_COMPARE_AND_SET: Final = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""

T = TypeVar("T")


class RedisPlace(NamedTuple):
    """Where a book is kept, as an address says."""

    url: str
    lease_s: float
    prefix: str

    @staticmethod
    def parsed(address: str) -> RedisPlace:
        """`redis://host:6379/0?lease_s=30&prefix=name`. BuildError `pool.address`."""
        url, options = without(address, ("lease_s", "prefix"))
        lease = options.get("lease_s", str(LEASE_S))
        prefix = options.get("prefix", PREFIX)
        try:
            lease_s = float(lease)
        except ValueError:
            lease_s = math.nan
        if not 0.1 <= lease_s <= 86_400 or not prefix:
            raise BuildError(
                "pool.address",
                "an address of shared pools has an option that can't be",
                field="lease_s" if prefix else "prefix",
                expected="lease_s: seconds between 0.1 and 86400; prefix: a name",
                got=(lease if prefix else prefix)[:40],
                fix="redis://host:6379/0?lease_s=30",
            )
        return RedisPlace(url, lease_s, prefix)


class RedisPools:
    """Implements PoolStore over the server at `address`. Owns one thread and one connection.

    Raises JournalError `journal.no_driver` without the client library, `journal.unreachable` when
    the server does not answer.
    """

    def __init__(self, address: str) -> None:
        try:
            import redis  # an extra
        except ImportError as error:
            raise JournalError(
                "journal.no_driver",
                "shared pools in Redis need a client library that is not installed",
                expected="redis 5 or later",
                got=str(error)[:200],
                fix="pip install 'stageflow[redis]'",
            ) from error
        self._redis = redis
        self._place = RedisPlace.parsed(address)
        self.lease_s = self._place.lease_s
        self._book_key = f"{self._place.prefix}:book"
        self._pictures_key = f"{self._place.prefix}:pictures"
        self._client: redis_client.Redis | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stageflow-pools")
        self._reader = BookReader()

    async def change(self, decide: Callable[[PoolBook, float], T]) -> T:
        def do(client: Any) -> T:
            for _ in range(CONTENTIONS_MAX):
                before, now_s = self._read(client)
                book = PoolBook.loaded(before) if before else _first(now_s)
                answer = decide(book, now_s)
                after = book.dumped()
                if after == before or client.eval(
                    _COMPARE_AND_SET, 1, self._book_key, before, after
                ):
                    return answer
            raise JournalError(
                "journal.write_failed",
                "the book of shared pools changes all the time",
                expected=f"a write within {CONTENTIONS_MAX} tries",
                fix="share what is held for seconds, or keep the pools in several prefixes",
            )

        return await self._in_thread(do)

    async def read(self) -> tuple[PoolBook, float]:
        def do(client: Any) -> tuple[PoolBook, float]:
            text, now_s = self._read(client)
            return self._reader.book(text) if text else PoolBook(), now_s

        return await self._in_thread(do)

    async def sight(self, owner: str, picture: str) -> Sight:
        def do(client: Any) -> Sight:
            asking = client.pipeline(transaction=True)  # book and pictures of one moment
            asking.hset(self._pictures_key, owner, picture)
            asking.get(self._book_key)
            asking.hgetall(self._pictures_key)
            asking.time()
            _, text, pictures, clock = asking.execute()
            book = self._reader.book(text.decode()) if text else PoolBook()
            known = {key.decode(): value.decode() for key, value in pictures.items()}
            gone = [each for each in known if each not in book.leases]
            if gone:
                client.hdel(self._pictures_key, *gone)
            living = {each: known[each] for each in known if each in book.leases}
            return Sight(_seconds(clock), book, living)

        return await self._in_thread(do)

    async def listen(self, owner: str, wake: Callable[[], None]) -> bool:
        return False

    def unlisten(self, owner: str) -> None:
        pass

    async def close(self) -> None:
        def end() -> None:
            if self._client is not None:
                self._client.close()

        await asyncio.get_running_loop().run_in_executor(self._thread, end)
        self._thread.shutdown()

    def _read(self, client: Any) -> tuple[str, float]:
        """The book's text, "" when there is none, and the clock not before it."""
        asking = client.pipeline(transaction=True)
        asking.get(self._book_key)
        asking.time()
        text, clock = asking.execute()
        return "" if text is None else text.decode(), _seconds(clock)

    async def _in_thread(self, work: Callable[[Any], T]) -> T:
        """In order, and to its end, though the task be cancelled."""

        def do() -> T:
            try:
                if self._client is None:
                    self._client = self._redis.Redis.from_url(
                        self._place.url, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S
                    )
                return work(self._client)
            except self._redis.RedisError as error:
                raise JournalError(
                    "journal.unreachable",
                    f"the server of the shared pools can't be reached: {str(error)[:200]}",
                    expected=f"a Redis that answers within {ANSWER_S:g} s",
                    got=type(error).__name__,
                    fix="when it is back, run again what failed",
                ) from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, do)


def _seconds(clock: tuple[int, int]) -> float:
    return clock[0] + clock[1] / 1e6


def _first(now_s: float) -> PoolBook:
    """A book whose numbers are greater than those of one that was lost."""
    return PoolBook(last_number=round(now_s * 1e6))
