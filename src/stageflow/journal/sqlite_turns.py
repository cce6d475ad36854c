"""The lines of sessions in an SQLite journal: their tables, and what is done to them.

Each row carries a checksum over its columns, so that a changed byte is "journal.damaged" when the
row is read. Every function runs inside a transaction of the caller's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from stageflow.journal.admission import Head, IsAlive, damaged
from stageflow.journal.store import Append, EndedTurn, LineTurn, RunHeader, SessionTurns
from stageflow.journal.turns import (
    Standing,
    TurnPlace,
    may_be_ahead,
    settled,
    turn_refusal,
)
from stageflow.model.errors import JournalError
from stageflow.model.record import Record

SCHEMA = """
CREATE TABLE sessions (
  session INTEGER PRIMARY KEY, tenant TEXT NOT NULL, name TEXT NOT NULL, begun INTEGER NOT NULL,
  checksum BLOB NOT NULL, UNIQUE (tenant, name));
CREATE TABLE turns (
  arrived INTEGER PRIMARY KEY, session INTEGER NOT NULL, run TEXT NOT NULL UNIQUE,
  number INTEGER NOT NULL, place INTEGER NOT NULL, checksum BLOB NOT NULL);
CREATE INDEX turns_by_place ON turns(session, place, number);
"""
_SESSION = "SELECT session, tenant, name, begun, checksum FROM sessions"
_SESSION_NAMED = f"{_SESSION} WHERE tenant = ? AND name = ?"
_SESSION_NUMBERED = f"{_SESSION} WHERE session = ?"
_SET_SESSION = "REPLACE INTO sessions VALUES (?, ?, ?, ?, ?)"
_TURN = "SELECT arrived, session, run, number, place, checksum FROM turns"
_TURN_OF_RUN = f"{_TURN} WHERE run = ?"
_BEGUN = f"{_TURN} WHERE session = ? AND place = {TurnPlace.BEGUN}"
_WAITING = f"{_TURN} WHERE session = ? AND place = {TurnPlace.WAITS} ORDER BY number, arrived"
_WAITING_BEFORE = (
    f"{_TURN} WHERE session = ? AND place = {TurnPlace.WAITS} AND number = 0 AND arrived < ?"
)
_ENDED_OK = (
    f"{_TURN} WHERE session = ? AND place = {TurnPlace.ENDED_OK} AND number < ?"
    " ORDER BY number DESC LIMIT ?"
)
_ADD_TURN = "INSERT INTO turns VALUES (?, ?, ?, ?, ?, ?)"
_SET_TURN = "UPDATE turns SET number = ?, place = ?, checksum = ? WHERE arrived = ?"
_NUMBER_MAX = 2**62

HeadOf = Callable[[str], Head]
"""The head of a run, as the transaction will leave it."""
_Turn = tuple[Standing, int]
"""A turn and the number under which its session is kept."""


def arrive(writer: sqlite3.Connection, header: RunHeader) -> None:
    """A new turn joins the end of its session's line."""
    assert header.session is not None, "only a run of a session is a turn"
    row = writer.execute(_SESSION_NAMED, (header.tenant, header.session)).fetchone()
    if row is None:
        (last,) = writer.execute("SELECT coalesce(max(session), 0) FROM sessions").fetchone()
        session = last + 1
        _write_session(writer, session, header.tenant, header.session, begun=0)
    else:
        session = _verified_session(row)[0]
    (last,) = writer.execute("SELECT coalesce(max(arrived), 0) FROM turns").fetchone()
    turn = Standing(header.run, last + 1, 0, TurnPlace.WAITS)
    writer.execute(_ADD_TURN, _columns(turn, session))


def begin(
    writer: sqlite3.Connection,
    append: Append,
    record: Record,
    *,
    head_of: HeadOf,
    is_alive: IsAlive,
) -> JournalError | None:
    """The turn of the appended run begins, or the answer says why not."""
    row = writer.execute(_TURN_OF_RUN, (append.run,)).fetchone()
    if row is None:
        return turn_refusal(append, record, turn=None, ahead=(), begun=0)
    turn, session = _verified_turn(row)
    rows = writer.execute(_BEGUN, (session,)).fetchall()
    rows += writer.execute(_WAITING_BEFORE, (session, turn.arrived)).fetchall()
    others = [other for other, _ in map(_verified_turn, rows) if may_be_ahead(other, turn)]
    ahead = [settled(other, head_of(other.run), is_alive) for other in others]
    for before, after in zip(others, ahead, strict=True):
        if before != after:
            _set_turn(writer, after, session)
    (_, tenant, name, begun) = _session(writer, session, append.run)
    refused = turn_refusal(append, record, turn=turn, ahead=ahead, begun=begun)
    if refused is None:
        _write_session(writer, session, tenant, name, begun=begun + 1)
        _set_turn(writer, turn._replace(number=begun + 1, place=TurnPlace.BEGUN), session)
    return refused


def bring_back(writer: sqlite3.Connection, run: str) -> None:
    """A claimed turn goes back into the line, where it was."""
    row = writer.execute(_TURN_OF_RUN, (run,)).fetchone()
    if row is not None:  # a run from before sessions were kept is none
        turn, session = _verified_turn(row)
        _set_turn(writer, turn._replace(number=0, place=TurnPlace.WAITS), session)


def listed(
    reader: sqlite3.Connection,
    tenant: str,
    name: str,
    *,
    before: int | None,
    limit: int,
    head_of: HeadOf,
    is_alive: IsAlive,
) -> SessionTurns:
    """Where the session stands; one that is not there has no turns."""
    row = reader.execute(_SESSION_NAMED, (tenant, name)).fetchone()
    if row is None:
        return SessionTurns(0, (), ())
    session, _, _, begun = _verified_session(row)
    stop = _NUMBER_MAX if before is None else before
    rows = reader.execute(_ENDED_OK, (session, stop, limit)).fetchall()
    ended = [_ended(turn) for turn, _ in map(_verified_turn, rows)]
    line: list[LineTurn] = []
    for query in (_BEGUN, _WAITING):
        for row in reader.execute(query, (session,)):
            turn, _ = _verified_turn(row)
            head = head_of(turn.run)
            after = settled(turn, head, is_alive)
            if after.place is TurnPlace.ENDED_OK and after.number < stop:
                ended.append(_ended(after))
            elif after.place.is_in_line:
                line.append(LineTurn(turn.run, turn.number, head.status))
            if len(line) == limit:
                break
    ended.sort(reverse=True)
    return SessionTurns(begun, tuple(line[:limit]), tuple(ended[:limit]))


def _ended(turn: Standing) -> EndedTurn:
    return EndedTurn(turn.number, turn.run)


def _session(connection: sqlite3.Connection, session: int, run: str) -> tuple[int, str, str, int]:
    row = connection.execute(_SESSION_NUMBERED, (session,)).fetchone()
    if row is None:
        raise damaged(run, None, "its session is missing")
    return _verified_session(row)


def _write_session(
    writer: sqlite3.Connection, session: int, tenant: str, name: str, *, begun: int
) -> None:
    columns = (session, tenant, name, begun)
    writer.execute(_SET_SESSION, (*columns, _checksum(columns)))


def _set_turn(writer: sqlite3.Connection, turn: Standing, session: int) -> None:
    arrived, _, _, number, place, checksum = _columns(turn, session)
    writer.execute(_SET_TURN, (number, place, checksum, arrived))


def _columns(turn: Standing, session: int) -> tuple[Any, ...]:
    columns = (turn.arrived, session, turn.run, turn.number, int(turn.place))
    return (*columns, _checksum(columns))


def _verified_session(row: tuple[Any, ...]) -> tuple[int, str, str, int]:
    try:
        session, tenant, name, begun, checksum = row
        columns = (session, tenant.decode(), name.decode(), begun)
        if checksum != _checksum(columns):
            raise ValueError("its checksum does not fit")
    except (TypeError, ValueError, AttributeError) as error:
        raise damaged(None, None, "a session can't be read") from error
    return columns


def _verified_turn(row: tuple[Any, ...]) -> _Turn:
    run = row[2].decode("utf-8", "backslashreplace") if type(row[2]) is bytes else repr(row[2])
    try:
        arrived, session, text, number, place, checksum = row
        if checksum != _checksum((arrived, session, text.decode(), number, place)):
            raise ValueError("its checksum does not fit")
        return Standing(run, arrived, number, TurnPlace(place)), session
    except (TypeError, ValueError, AttributeError) as error:
        raise damaged(run, None, "its turn can't be read") from error


def _checksum(columns: tuple[Any, ...]) -> bytes:
    return blake2b(repr(columns).encode(), digest_size=16, person=b"session").digest()
