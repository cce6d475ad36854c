"""The lines of sessions in a PostgreSQL journal: their tables, and what is done to them.

Each row carries a checksum over its columns, so that a changed byte is "journal.damaged" when the
row is read. The row of a session is locked while a turn of it begins, so that two never begin at
once. Every function runs inside a transaction of the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from stageflow.journal.admission import Head, IsAlive, damaged
from stageflow.journal.postgres.access import Connection
from stageflow.journal.postgres.packing import stored
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
  session bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant text NOT NULL, name text NOT NULL,
  begun bigint NOT NULL, checksum bytea NOT NULL, UNIQUE (tenant, name));
CREATE TABLE turns (
  arrived bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant text NOT NULL,
  session bigint NOT NULL, run text NOT NULL UNIQUE, number bigint NOT NULL, place bigint NOT NULL,
  checksum bytea NOT NULL);
CREATE INDEX turns_by_place ON turns (session, place, number);
"""
_SESSION = "SELECT session, tenant, name, begun, checksum FROM sessions"
_SESSION_NAMED = f"{_SESSION} WHERE tenant = %s AND name = %s"
_SESSION_LOCKED = f"{_SESSION} WHERE session = %s FOR UPDATE"
_ADD_SESSION = """
INSERT INTO sessions (tenant, name, begun, checksum) VALUES (%s, %s, 0, '') ON CONFLICT DO NOTHING
"""
_SET_SESSION = "UPDATE sessions SET begun = %s, checksum = %s WHERE session = %s"
_TURN = "SELECT arrived, session, run, number, place, checksum FROM turns"
_TURN_OF_RUN = f"{_TURN} WHERE run = %s"
_BEGUN = f"{_TURN} WHERE session = %s AND place = {TurnPlace.BEGUN:d}"
_WAITING = f"{_TURN} WHERE session = %s AND place = {TurnPlace.WAITS:d} ORDER BY number, arrived"
_WAITING_BEFORE = (
    f"{_TURN} WHERE session = %s AND place = {TurnPlace.WAITS:d} AND number = 0 AND arrived < %s"
)
_ENDED_OK = (
    f"{_TURN} WHERE session = %s AND place = {TurnPlace.ENDED_OK:d} AND number < %s"
    " ORDER BY number DESC LIMIT %s"
)
_ADD_TURN = """
INSERT INTO turns (tenant, session, run, number, place, checksum) VALUES (%s, %s, %s, 0, %s, '')
RETURNING arrived
"""
_SET_TURN = "UPDATE turns SET number = %s, place = %s, checksum = %s WHERE arrived = %s"
_NUMBER_MAX = 2**62

HeadOf = Callable[[str], Head]
"""The head of a run, as the transaction will leave it."""
_Turn = tuple[Standing, int]
"""A turn and the number under which its session is kept."""


def arrive(connection: Connection, header: RunHeader) -> None:
    """A new turn joins the end of its session's line."""
    assert header.session is not None, "only a run of a session is a turn"
    key = (stored(header.tenant), stored(header.session))
    row = connection.execute(_SESSION_NAMED, key, binary=True).fetchone()
    if row is None:
        if connection.execute(_ADD_SESSION, key).rowcount:
            row = connection.execute(_SESSION_NAMED, key, binary=True).fetchone()
            assert row is not None, "it was just made"
            _write_session(connection, row[0], header.tenant, header.session, begun=0)
        row = connection.execute(_SESSION_NAMED, key, binary=True).fetchone()
    if row is None:
        raise damaged(header.run, None, "its session is missing")
    session = _verified_session(row)[0]
    given = (key[0], session, stored(header.run), int(TurnPlace.WAITS))
    added = connection.execute(_ADD_TURN, given, binary=True).fetchone()
    assert added is not None, "an insert that returns"
    _set_turn(connection, Standing(header.run, added[0], 0, TurnPlace.WAITS), session)


def begin(
    connection: Connection,
    append: Append,
    record: Record,
    *,
    head_of: HeadOf,
    is_alive: IsAlive,
    leave: Callable[[str], bool],
) -> JournalError | None:
    """The turn of the appended run begins, or the answer says why not.

    `leave` takes the owner from a run that is passed over: it may be alive after all, stopped or
    cut off past its lease, and must not go on beside the turn that begins. False when it did go on.
    """
    row = connection.execute(_TURN_OF_RUN, (stored(append.run),), binary=True).fetchone()
    if row is None:
        return turn_refusal(append, record, turn=None, ahead=(), begun=0)
    _, session = _verified_turn(row)
    _, tenant, name, begun = _locked(connection, session, append.run)
    row = connection.execute(_TURN_OF_RUN, (stored(append.run),), binary=True).fetchone()
    assert row is not None, "turns are never deleted"
    turn, _ = _verified_turn(row)
    rows = connection.execute(_BEGUN, (session,), binary=True).fetchall()
    rows += connection.execute(_WAITING_BEFORE, (session, turn.arrived), binary=True).fetchall()
    others = [other for other, _ in map(_verified_turn, rows) if may_be_ahead(other, turn)]
    ahead = [settled(other, head_of(other.run), is_alive) for other in others]
    for place, (before, after) in enumerate(zip(others, ahead, strict=True)):
        if after.place is TurnPlace.LEFT and not leave(after.run):
            ahead[place] = before
        elif before != after:
            _set_turn(connection, after, session)
    refused = turn_refusal(append, record, turn=turn, ahead=ahead, begun=begun)
    if refused is None:
        _write_session(connection, session, tenant, name, begun=begun + 1)
        begins = turn._replace(number=begun + 1, place=TurnPlace.BEGUN)
        _set_turn(connection, begins, session)
    return refused


def bring_back(connection: Connection, run: str) -> None:
    """A claimed turn goes back into the line, where it was."""
    row = connection.execute(_TURN_OF_RUN, (stored(run),), binary=True).fetchone()
    if row is None:
        raise damaged(run, None, "its turn is missing")
    turn, session = _verified_turn(row)
    _set_turn(connection, turn._replace(number=0, place=TurnPlace.WAITS), session)


def listed(
    connection: Connection,
    tenant: str,
    name: str,
    *,
    before: int | None,
    limit: int,
    head_of: HeadOf,
    is_alive: IsAlive,
) -> SessionTurns:
    """Where the session stands; one that is not there has no turns."""
    key = (stored(tenant), stored(name))
    row = connection.execute(_SESSION_NAMED, key, binary=True).fetchone()
    if row is None:
        return SessionTurns(0, (), ())
    session, _, _, begun = _verified_session(row)
    stop = _NUMBER_MAX if before is None else before
    rows = connection.execute(_ENDED_OK, (session, stop, limit), binary=True).fetchall()
    ended = [_ended(turn) for turn, _ in map(_verified_turn, rows)]
    line: list[LineTurn] = []
    for query in (_BEGUN, _WAITING):
        for row in connection.execute(query, (session,), binary=True).fetchall():
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


def _locked(connection: Connection, session: int, run: str) -> tuple[int, str, str, int]:
    row = connection.execute(_SESSION_LOCKED, (session,), binary=True).fetchone()
    if row is None:
        raise damaged(run, None, "its session is missing")
    return _verified_session(row)


def _write_session(
    connection: Connection, session: int, tenant: str, name: str, *, begun: int
) -> None:
    checksum = _checksum((session, tenant, name, begun))
    connection.execute(_SET_SESSION, (begun, checksum, session))


def _set_turn(connection: Connection, turn: Standing, session: int) -> None:
    columns = (turn.arrived, session, turn.run, turn.number, int(turn.place))
    given = (turn.number, int(turn.place), _checksum(columns), turn.arrived)
    connection.execute(_SET_TURN, given)


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
    run = row[2].decode("utf-8", "backslashreplace")
    try:
        arrived, session, text, number, place, checksum = row
        if checksum != _checksum((arrived, session, text.decode(), number, place)):
            raise ValueError("its checksum does not fit")
        return Standing(run, arrived, number, TurnPlace(place)), session
    except (TypeError, ValueError, AttributeError) as error:
        raise damaged(run, None, "its turn can't be read") from error


def _checksum(columns: tuple[Any, ...]) -> bytes:
    return blake2b(repr(columns).encode(), digest_size=16, person=b"session").digest()
