"""The lines of sessions in a PostgreSQL journal: their tables, and what is done to them.

Each row carries a checksum over its columns, so that a changed byte is "journal.damaged" when the
row is read. The row of a session is locked while a turn of it begins, so that two never begin at
once. Every function runs inside a transaction of the caller's.
"""

from __future__ import annotations

from collections.abc import Callable

from stageflow.journal.admission import IsAlive, damaged
from stageflow.journal.postgres.access import Connection
from stageflow.journal.postgres.packing import stored
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
    session = verified_session(row)[0]
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
    _, session = verified_turn(row)
    _, tenant, name, begun = _locked(connection, session, append.run)
    row = connection.execute(_TURN_OF_RUN, (stored(append.run),), binary=True).fetchone()
    assert row is not None, "turns are never deleted"
    turn, _ = verified_turn(row)
    rows = connection.execute(_BEGUN, (session,), binary=True).fetchall()
    rows += connection.execute(_WAITING_BEFORE, (session, turn.arrived), binary=True).fetchall()
    others = [other for other, _ in map(verified_turn, rows) if may_be_ahead(other, turn)]
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
    turn, session = verified_turn(row)
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
    session, _, _, begun = verified_session(row)
    stop = _NUMBER_MAX if before is None else before
    return line_of(
        begun,
        connection.execute(_ENDED_OK, (session, stop, limit), binary=True).fetchall(),
        (
            connection.execute(query, (session,), binary=True).fetchall()
            for query in (_BEGUN, _WAITING)
        ),
        stop=stop,
        limit=limit,
        head_of=head_of,
        is_alive=is_alive,
    )


def _locked(connection: Connection, session: int, run: str) -> tuple[int, str, str, int]:
    row = connection.execute(_SESSION_LOCKED, (session,), binary=True).fetchone()
    if row is None:
        raise damaged(run, None, "its session is missing")
    return verified_session(row)


def _write_session(
    connection: Connection, session: int, tenant: str, name: str, *, begun: int
) -> None:
    checksum = checksum_of((session, tenant, name, begun))
    connection.execute(_SET_SESSION, (begun, checksum, session))


def _set_turn(connection: Connection, turn: Standing, session: int) -> None:
    columns = (turn.arrived, session, turn.run, turn.number, int(turn.place))
    given = (turn.number, int(turn.place), checksum_of(columns), turn.arrived)
    connection.execute(_SET_TURN, given)
