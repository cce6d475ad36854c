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


def durably(link: Link, work: Work[T], *, away_s: float) -> T:
    """The result of `work`, once it is certain that it was committed.

    Raises "journal.unreachable" when the database stays away, and what the work raises.
    """
    doubted: Backend | None = None
    patience = _Patience(away_s)
    rolled_back = 0
    while True:
        try:
            connection = link.open()
            with link.awaited():
                if doubted is not None:
                    link.end(doubted)
                    doubted = None
                    done = None if work.landed is None else work.landed(connection)
                    if done is not None:
                        reached("unknown_append_found")
                        return done
                return work.do(connection)
        except psycopg.Error as error:
            if is_rolled_back(error) and rolled_back < ROLLED_BACK_MAX:
                rolled_back += 1
                continue
            if not is_lost(error):
                raise
            reached("connection_lost")
            doubted = doubted or link.backend
            link.drop()
            patience.wait(error)


def read(link: Link, work: Callable[[Connection], T], *, away_s: float) -> T:
    """The result of `work` over one state of the database. Raises "journal.unreachable"."""
    patience = _Patience(away_s)
    while True:
        try:
            connection = link.open()
            with link.awaited(), connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                return work(connection)
        except psycopg.Error as error:
            if not is_lost(error):
                raise
            link.drop()
            patience.wait(error)


class _Patience:
    """Waits between attempts, and ends them."""

    def __init__(self, away_s: float) -> None:
        self._away_s = away_s
        self._until_s: float | None = None
        self._tries = 0

    def wait(self, error: psycopg.Error) -> None:
        """Before another attempt; "journal.unreachable" when there was time enough."""
        now_s = time.monotonic()
        if self._until_s is None:
            self._until_s = now_s + self._away_s
        if now_s >= self._until_s:
            raise unreachable(error, away_s=self._away_s) from error
        time.sleep(min(_WAIT_S[min(self._tries, len(_WAIT_S) - 1)], self._until_s - now_s))
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
