"""Work on the database that is done once, however often the connection is lost meanwhile.

A connection that is lost during a statement leaves it unknown whether that was carried out. Then
another connection is opened, the server's process behind the first is ended, so that nothing of
it can come later, and the work says whether what it would have written is there. Only if not, it
is done again. All of it ends when the database was away for `away_s`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import psycopg

from stageflow.journal.admission import damaged
from stageflow.journal.postgres.link import Backend, Link, is_lost, is_rolled_back
from stageflow.model.errors import JournalError
from stageflow.model.marks import reached

ROLLED_BACK_MAX = 5
"""How often a transaction is done again that the database rolled back."""
HOPE_S = 1.0
"""How long after a failure, once patience has ended, nobody tries again."""
_WAIT_S = (0.0, 0.05, 0.2, 0.5, 1.0)
"""Between attempts to reach the database; the last one again and again."""
_DAMAGE = ("XX001", "XX002", "42P01", "42703", "42883", "42P10", "23", "22P0")
"""Corrupted data or index; a table or column that is gone, for our statements never change;
constraints, each of which was checked in the same transaction."""

T = TypeVar("T")
Connection = psycopg.Connection[Any]


@dataclass(slots=True)
class Work(Generic[T]):
    """Something to be done in one transaction, perhaps over several connections."""

    do: Callable[[Connection], T]
    landed: Callable[[Connection], T | None] | None = None
    """Asks the database for what `do` has sent: the result of `do`, or None when there is more to
    be done. `do` sets it before it sends what may be committed; None until then."""


class Access:
    """A link, and the patience with the database behind it. For one thread at a time."""

    def __init__(self, link: Link, *, away_s: float) -> None:
        self.link = link
        self._away_s = away_s
        self._away_until_s: float | None = None
        """Monotonic: when patience ends; None while the database is there."""
        self._tries = 0
        self._failure: psycopg.Error | None = None
        self._failed_s = 0.0

    def durably(self, work: Work[T]) -> T:
        """The result of `work`, once it is certain that it was committed.

        Raises "journal.unreachable" when the database stays away, and what the work raises.
        """
        doubted: Backend | None = None
        rolled_back = 0
        self._check_hope()
        while True:
            try:
                connection = self.link.open()
                with self.link.awaited():
                    if doubted is not None:
                        self.link.end(doubted)
                        doubted = None
                        done = None if work.landed is None else work.landed(connection)
                        if done is not None:
                            reached("unknown_append_found")
                            return self._there(done)
                    return self._there(work.do(connection))
            except psycopg.Error as error:
                if is_rolled_back(error) and rolled_back < ROLLED_BACK_MAX:
                    rolled_back += 1
                    continue
                if not is_lost(error):
                    raise
                reached("connection_lost")
                doubted = doubted or self.link.backend
                self.link.drop()
                self._wait(error)

    def read(self, work: Callable[[Connection], T]) -> T:
        """The result of `work` over one state of the database. Raises "journal.unreachable"."""
        self._check_hope()
        while True:
            try:
                connection = self.link.open()
                with self.link.awaited(), connection.transaction():
                    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                    result = work(connection)
                return self._there(result)
            except psycopg.Error as error:
                if not is_lost(error):
                    raise
                self.link.drop()
                self._wait(error)

    def _there(self, result: T) -> T:
        self._away_until_s, self._tries = None, 0
        return result

    def _check_hope(self) -> None:
        """Whoever stood in line while the database was away fails at once, not one by one."""
        until_s, now_s = self._away_until_s, time.monotonic()
        if until_s is None or now_s < until_s:
            return
        if now_s < self._failed_s + HOPE_S:
            assert self._failure is not None, "a database that is away has failed"
            raise unreachable(self._failure, away_s=self._away_s) from self._failure
        self._away_until_s, self._tries = None, 0  # a later call is as patient as the first

    def _wait(self, error: psycopg.Error) -> None:
        """Before another attempt; "journal.unreachable" when there was time enough."""
        now_s = time.monotonic()
        self._failure, self._failed_s = error, now_s
        if self._away_until_s is None:
            self._away_until_s = now_s + self._away_s
        if now_s >= self._away_until_s:
            raise unreachable(error, away_s=self._away_s) from error
        wait_s = _WAIT_S[min(self._tries, len(_WAIT_S) - 1)]
        time.sleep(min(wait_s, self._away_until_s - now_s))
        self._tries += 1


def unreachable(error: psycopg.Error, *, away_s: float) -> JournalError:
    """The database stays away."""
    return JournalError(
        "journal.unreachable",
        f"the journal's database can't be reached: {_told(error)}",
        expected=f"a database that answers within {away_s:g} s",
        fix="when it is back, resume the run: what was acknowledged is there",
    )


@contextmanager
def translated(code: str) -> Iterator[None]:
    """The driver's errors as JournalError: "journal.damaged", or `code`."""
    try:
        yield
    except psycopg.Error as error:
        if (error.sqlstate or "").startswith(_DAMAGE):
            raise damaged(None, None, f"PostgreSQL says: {_told(error)}") from error
        raise JournalError(
            code,
            f"PostgreSQL says: {_told(error)}",
            expected="a schema that this role may read and write, and room on the disk",
            got=error.sqlstate or type(error).__name__,
            fix="look at the role's rights on the schema, and at the server's log",
        ) from error


def _told(error: psycopg.Error) -> str:
    """The server's words, without the values that its details may quote."""
    text = error.diag.message_primary or str(error).strip().partition("\n")[0]
    return text[:200] or type(error).__name__
