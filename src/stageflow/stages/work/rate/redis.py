"""Meters in Redis: one script, in which the server's clock counts. Needs the extra `redis`."""

from __future__ import annotations

import math
from typing import Any, Final

from stageflow.stages.work.rate.meter import (
    AGAIN_S,
    COOLDOWN_S,
    DECREASE,
    DECREASE_AGAIN,
    INCREASE,
    Lesson,
    Rate,
    Slot,
)
from stageflow.stages.work.rate.store import FORGET_S, missing_extra, unreachable

PREFIX: Final = "stageflow:rate:"
ANSWER_S: Final = 10.0
_SCRIPT: Final = f"""
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
if ARGV[2] ~= '' then now = tonumber(ARGV[2]) end
local rate, window, tolerance = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local m = redis.call('HMGET', KEYS[1], 'due', 'until', 'exhausted', 'pace', 'paced', 'told')
local due, till = tonumber(m[1] or '0'), tonumber(m[2] or '0')
local exhausted = m[3] == '1'
local pace, paced, told = tonumber(m[4] or '0'), tonumber(m[5] or '0'), tonumber(m[6] or '0')
local function persecond()
  local most = rate
  if told > 0 then most = told end
  if pace <= 0 then return most end
  return math.min(most, pace * (1 + {INCREASE} * math.max(0, now - paced)))
end
local function text(number) return string.format('%.17g', number) end
if ARGV[1] == 'paused' then return {{text(math.max(0, till - now))}} end
if ARGV[1] == 'learn' then
  local pause, said = tonumber(ARGV[6]), tonumber(ARGV[9])
  if said > 0 then told = said end
  if ARGV[8] == '1' and now - paced >= {COOLDOWN_S} then
    local again = now - paced < {AGAIN_S}
    pace = persecond() * (again and {DECREASE_AGAIN} or {DECREASE})
    paced = now
  end
  if pause > 0 and now + pause > till then
    till = now + pause
    exhausted = ARGV[7] == '1'
    due = math.max(due, till + tolerance / persecond())
  end
  redis.call('HSET', KEYS[1], 'due', text(due), 'until', text(till), 'exhausted',
    exhausted and '1' or '0', 'pace', text(pace), 'paced', text(paced), 'told', text(told))
  redis.call('EXPIRE', KEYS[1], {round(FORGET_S)})
  return {{}}
end
local interval = 1 / persecond()
local at = math.max(now, till)
if window > 0 then
  local oldest = redis.call('LINDEX', KEYS[2], window - 1)
  if oldest then at = math.max(at, tonumber(oldest) + window * interval) end
else
  at = math.max(at, due - tolerance * interval)
end
local taken = at - now <= tonumber(ARGV[6])
if taken and window > 0 then
  redis.call('LPUSH', KEYS[2], text(at))
  redis.call('LTRIM', KEYS[2], 0, window - 1)
  redis.call('EXPIRE', KEYS[2], {round(FORGET_S)})
elseif taken then
  redis.call('HSET', KEYS[1], 'due', text(math.max(due, at) + interval))
  redis.call('EXPIRE', KEYS[1], {round(FORGET_S)})
end
return {{text(at - now), taken and 1 or 0, (exhausted and now < till) and 1 or 0, text(interval)}}
"""


class RedisRates:
    """Implements RateStore over the server at `address`, a `redis://` URL. Used from one event
    loop. Raises BuildError `rate.missing_extra` without the client library."""

    def __init__(self, address: str) -> None:
        try:
            import redis.asyncio as client  # an extra
            from redis.exceptions import RedisError
        except ImportError as error:
            raise missing_extra("redis", error) from error
        self._failed = RedisError
        self._client: Any = client.Redis.from_url(
            address, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S
        )
        self._script = self._client.register_script(_SCRIPT)
        self.now_s: float | None = None
        """Another clock than the server's, for tests."""

    async def reserve(self, key: str, rate: Rate, *, wait_max_s: float = math.inf) -> Slot:
        most = min(wait_max_s, 1e15)
        wait, is_taken, is_exhausted, interval = await self._run("reserve", key, rate, most)
        return Slot(float(wait), bool(is_taken), bool(is_exhausted), float(interval))

    async def learn(self, key: str, rate: Rate, lesson: Lesson) -> None:
        pause_s, is_exhausted, is_refusal, per_second = lesson
        flags = int(is_exhausted), int(is_refusal)
        await self._run("learn", key, rate, pause_s, *flags, per_second)

    async def paused_s(self, key: str) -> float:
        (paused,) = await self._run("paused", key, Rate(1))
        return float(paused)

    async def _run(self, what: str, key: str, rate: Rate, *given: float) -> Any:
        place = PREFIX + "{" + key + "}"
        now = "" if self.now_s is None else repr(self.now_s)
        arguments: list[Any] = [what, now, rate.per_second, rate.window, rate.tolerance, *given]
        try:
            return await self._script(keys=[place, f"{place}:taken"], args=arguments)
        except self._failed as error:
            raise unreachable("Redis", error) from error

    async def close(self) -> None:
        await self._client.aclose()
