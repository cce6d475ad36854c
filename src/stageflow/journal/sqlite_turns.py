"""The lines of sessions in an SQLite journal: their tables, and what is done to them.

Each row carries a checksum over its columns, so that a changed byte is "journal.damaged" when the
row is read. Every function runs inside a transaction of the caller's.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from stageflow.journal.admission import IsAlive, damaged
from stageflow.journal.store import Append, RunHeader, SessionTurns
from stageflow.journal.turn_rows import (
    HeadOf,
    checksum_of,
    line_of,
    verified_session,
    verified_turn,
)
from stageflow.journal.turns import Standing, TurnPlace, may_be_ahead, settled, turn_refusal
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


def arrive(writer: sqlite3.Connection, header: RunHeader) -> None:
    """A new turn joins the end of its session's line."""
    assert header.session is not None, "only a run of a session is a turn"
    row = writer.execute(_SESSION_NAMED, (header.tenant, header.session)).fetchone()
    if row is None:
        (last,) = writer.execute("SELECT coalesce(max(session), 0) FROM sessions").fetchone()
        session = last + 1
        _write_session(writer, session, header.tenant, header.session, begun=0)
    else:
        session = verified_session(row)[0]
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
    turn, session = verified_turn(row)
    rows = writer.execute(_BEGUN, (session,)).fetchall()
    rows += writer.execute(_WAITING_BEFORE, (session, turn.arrived)).fetchall()
    others = [other for other, _ in map(verified_turn, rows) if may_be_ahead(other, turn)]
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
        turn, session = verified_turn(row)
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
    session, _, _, begun = verified_session(row)
    stop = _NUMBER_MAX if before is None else before
    return line_of(
        begun,
        reader.execute(_ENDED_OK, (session, stop, limit)).fetchall(),
        (reader.execute(query, (session,)) for query in (_BEGUN, _WAITING)),
        stop=stop,
        limit=limit,
        head_of=head_of,
        is_alive=is_alive,
    )


def _session(connection: sqlite3.Connection, session: int, run: str) -> tuple[int, str, str, int]:
    row = connection.execute(_SESSION_NUMBERED, (session,)).fetchone()
    if row is None:
        raise damaged(run, None, "its session is missing")
    return verified_session(row)


def _write_session(
    writer: sqlite3.Connection, session: int, tenant: str, name: str, *, begun: int
) -> None:
    columns = (session, tenant, name, begun)
    writer.execute(_SET_SESSION, (*columns, checksum_of(columns)))


def _set_turn(writer: sqlite3.Connection, turn: Standing, session: int) -> None:
    arrived, _, _, number, place, checksum = _columns(turn, session)
    writer.execute(_SET_TURN, (number, place, checksum, arrived))


def _columns(turn: Standing, session: int) -> tuple[Any, ...]:
    columns = (turn.arrived, session, turn.run, turn.number, int(turn.place))
    return (*columns, checksum_of(columns))
