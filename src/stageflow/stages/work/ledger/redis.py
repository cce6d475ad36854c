"""A ledger's entries in Redis: compare and set, with the server's time. Needs the extra `redis`.

Redis keeps what its persistence keeps: with `appendfsync everysec`, its default when the log is on,
a power cut may lose the last second, and an effect of that second may be done again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

from stageflow.model.errors import EffectError
from stageflow.stages.work.ledger.entry import EXPIRING, EffectEntry
from stageflow.stages.work.ledger.store import (
    Decide,
    Within,
    closed,
    contended,
    decoded,
    encoded,
    no_transactions,
    unreachable,
)
from stageflow.stages.work.threads import ThreadConnections

if TYPE_CHECKING:
    import redis as redis_client

CONNECTIONS_MAX = 4
CONTENTIONS_MAX = 256
"""How often another one may come between a read and the write of one key. Each time somebody else
has made progress with it."""
PREFIX = "stageflow:effect:"
EXPIRY_SLACK_S = 86_400.0
"""Redis forgets a key so long after it has expired; until then the entry says so itself."""
_COMPARE_AND_SET = """
local old = redis.call('GET', KEYS[1])
if (old or '') ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1])
elseif ARGV[3] == '' then redis.call('SET', KEYS[1], ARGV[2])
else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""

T = TypeVar("T")


class RedisEffects:
    """Implements EffectStore over the server at `address`, a `redis://` URL.

    Raises EffectError `effect.missing_extra` without the client library.
    """

    def __init__(self, address: str, *, connections: int = CONNECTIONS_MAX) -> None:
        try:
            import redis  # an extra
        except ImportError as error:
            raise EffectError(
                "effect.missing_extra",
                "a ledger in Redis needs its client library",
                expected="redis 5 or later",
                fix="pip install 'stageflow[redis]'",
            ) from error
        self._redis = redis
        self._address = address
        self._connections = ThreadConnections(
            self._opened, self._closed, most=connections, closed=closed
        )

    def _opened(self) -> redis_client.Redis:
        return self._redis.Redis.from_url(self._address, socket_timeout=30.0)

    def _closed(self, client: redis_client.Redis) -> None:
        client.close()

    async def change(self, key: str, decide: Decide[T]) -> T:
        def work(client: redis_client.Redis) -> T:
            try:
                return self._changed(client, PREFIX + key, key, decide)
            except self._redis.RedisError as error:
                raise unreachable("Redis", error) from error

        return await self._connections.use(work)

    def _changed(self, client: Any, name: str, key: str, decide: Decide[T]) -> T:
        for _ in range(CONTENTIONS_MAX):
            reading = client.pipeline(transaction=True)
            reading.get(name)
            reading.time()
            data, (seconds, micros) = reading.execute()
            now_s = seconds + micros / 1e6
            entry = None if data is None else decoded(data, key)
            changed, answer = decide(entry, now_s)
            if changed is entry or self._set(client, name, data or b"", changed, now_s):
                return answer
        raise contended(key, CONTENTIONS_MAX)

    def _set(
        self, client: Any, name: str, before: bytes, entry: EffectEntry | None, now_s: float
    ) -> bool:
        after = b"" if entry is None else encoded(entry)
        life: int | str = ""
        if entry is not None and entry.state in EXPIRING and math.isfinite(entry.until_s):
            life = max(1, round((entry.until_s - now_s + EXPIRY_SLACK_S) * 1000))
        return bool(client.eval(_COMPARE_AND_SET, 1, name, before, after, life))

    async def change_within(self, key: str, decide: Within[T]) -> T:
        raise no_transactions("Redis")

    async def sweep(self, *, skew_s: float) -> int:
        """Nothing: Redis forgets by itself."""
        return 0

    async def close(self) -> None:
        await self._connections.close()
