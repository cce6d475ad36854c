"""Meters in PostgreSQL: one row each, changed by one statement, in which the server's clock counts.

The statement calls a function that is made beside its table, `stageflow_rates`, when it is missing.
Commits are not waited for: what a power cut takes is a moment of the pace. Needs the extra
`postgres`.
"""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

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
from stageflow.stages.work.rate.store import missing_extra, unreachable

if TYPE_CHECKING:
    import psycopg

_TABLE_LOCK: Final = 0x53465254
"""Two processes that make the table at one moment would meet in the catalogue: "SFRT"."""
_TABLE: Final = f"""
CREATE TABLE IF NOT EXISTS stageflow_rates (
  key text PRIMARY KEY, due_s float8 NOT NULL DEFAULT 0, until_s float8 NOT NULL DEFAULT 0,
  is_exhausted boolean NOT NULL DEFAULT false, pace float8 NOT NULL DEFAULT 0,
  paced_s float8 NOT NULL DEFAULT 0, told float8 NOT NULL DEFAULT 0,
  taken_s float8[] NOT NULL DEFAULT '{{}}');
CREATE OR REPLACE FUNCTION stageflow_rate(
  what text, named text, at_time float8, rate float8, win int, tolerance float8,
  wait_max float8, pause float8, exhausts boolean, refuses boolean, says float8,
  OUT wait_s float8, OUT is_taken boolean, OUT exhausted boolean, OUT interval_s float8)
LANGUAGE plpgsql AS $$
DECLARE m stageflow_rates; now_s float8; at_s float8; per float8;
BEGIN
  INSERT INTO stageflow_rates(key) VALUES (named) ON CONFLICT DO NOTHING;
  SELECT * INTO m FROM stageflow_rates WHERE key = named FOR UPDATE;
  now_s := coalesce(at_time, extract(epoch FROM clock_timestamp())::float8);
  is_taken := false;
  IF what = 'paused' THEN wait_s := greatest(0, m.until_s - now_s); RETURN; END IF;
  IF what = 'learn' AND says > 0 THEN m.told := says; END IF;
  per := CASE WHEN m.told > 0 THEN m.told ELSE rate END;
  IF m.pace > 0 THEN
    per := least(per, m.pace * (1 + {INCREASE} * greatest(0, now_s - m.paced_s)));
  END IF;
  IF what = 'learn' THEN
    IF refuses AND now_s - m.paced_s >= {COOLDOWN_S} THEN
      per := per * CASE WHEN now_s - m.paced_s < {AGAIN_S} THEN {DECREASE_AGAIN}
        ELSE {DECREASE} END;
      m.pace := per; m.paced_s := now_s;
    END IF;
    IF pause > 0 AND now_s + pause > m.until_s THEN
      m.until_s := now_s + pause; m.is_exhausted := exhausts;
      m.due_s := greatest(m.due_s, m.until_s + tolerance / per);
    END IF;
  ELSE
    interval_s := 1 / per; at_s := greatest(now_s, m.until_s);
    IF win > 0 THEN
      IF cardinality(m.taken_s) >= win THEN
        at_s := greatest(at_s, m.taken_s[cardinality(m.taken_s) - win + 1] + win * interval_s);
      END IF;
    ELSE
      at_s := greatest(at_s, m.due_s - tolerance * interval_s);
    END IF;
    wait_s := at_s - now_s; is_taken := wait_s <= wait_max;
    exhausted := m.is_exhausted AND now_s < m.until_s;
    IF is_taken AND win > 0 THEN
      m.taken_s := m.taken_s || at_s;
      m.taken_s := m.taken_s[greatest(1, cardinality(m.taken_s) - win + 1):];
    ELSIF is_taken THEN
      m.due_s := greatest(m.due_s, at_s) + interval_s;
    END IF;
  END IF;
  UPDATE stageflow_rates SET due_s = m.due_s, until_s = m.until_s,
    is_exhausted = m.is_exhausted, pace = m.pace, paced_s = m.paced_s, told = m.told,
    taken_s = m.taken_s WHERE key = named;
END $$"""
_CALL: Final = (
    "SELECT * FROM stageflow_rate(%s::text, %s::text, %s::float8, %s::float8, %s::int, %s::float8,"
    " %s::float8, %s::float8, %s::boolean, %s::boolean, %s::float8)"
)


class PostgresRates:
    """Implements RateStore over the database at `address`, a `postgresql://` URL. Owns one thread
    and one connection. Raises BuildError `rate.missing_extra` without psycopg."""

    def __init__(self, address: str) -> None:
        try:
            import psycopg  # an extra
        except ImportError as error:
            raise missing_extra("postgres", error) from error
        self._psycopg = psycopg
        self._address = address
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stageflow-rates")
        self._connection: psycopg.Connection[Any] | None = None
        self.now_s: float | None = None
        """Another clock than the server's, for tests."""

    async def reserve(self, key: str, rate: Rate, *, wait_max_s: float = math.inf) -> Slot:
        wait_s, is_taken, is_exhausted, interval_s = await self._run(
            "reserve", key, rate, wait_max_s, Lesson()
        )
        return Slot(wait_s, is_taken, is_exhausted, interval_s)

    async def learn(self, key: str, rate: Rate, lesson: Lesson) -> None:
        await self._run("learn", key, rate, 0.0, lesson)

    async def paused_s(self, key: str) -> float:
        return float((await self._run("paused", key, Rate(1), 0.0, Lesson()))[0])

    async def _run(self, what: str, key: str, rate: Rate, most_s: float, lesson: Lesson) -> Any:
        given = (what, key, self.now_s, rate.per_second, rate.window, rate.tolerance)
        arguments = (*given, most_s, *lesson)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._asked, arguments)

    def _asked(self, arguments: tuple[Any, ...]) -> Any:
        try:
            if self._connection is None or self._connection.closed:
                self._connection = self._opened()
            row = self._connection.execute(_CALL, arguments).fetchone()
        except self._psycopg.Error as error:
            raise unreachable("PostgreSQL", error) from error
        assert row is not None, "a function returns a row"
        return row

    def _opened(self) -> psycopg.Connection[Any]:
        connection = self._psycopg.connect(self._address, connect_timeout=10, autocommit=True)
        connection.execute("SET synchronous_commit TO off")
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_TABLE_LOCK,))
            connection.execute(_TABLE.encode())
        return connection

    async def close(self) -> None:
        def end() -> None:
            if self._connection is not None:
                self._connection.close()

        await asyncio.get_running_loop().run_in_executor(self._thread, end)
        self._thread.shutdown()
