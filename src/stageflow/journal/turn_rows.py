"""What the SQL stores share of the lines of sessions: verified rows, and the line read from them.

Each row carries a checksum over its columns, so that a changed byte is "journal.damaged" when the
row is read. Text comes from the store as bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any

from stageflow.journal.admission import Head, IsAlive, damaged
from stageflow.journal.store import EndedTurn, LineTurn, SessionTurns
from stageflow.journal.turns import Standing, TurnPlace, settled

HeadOf = Callable[[str], Head]
"""The head of a run, as the transaction will leave it."""
Turn = tuple[Standing, int]
"""A turn and the number under which its session is kept."""


def verified_session(row: tuple[Any, ...]) -> tuple[int, str, str, int]:
    """(session, tenant, name, turns begun) of a row, which ends with its checksum."""
    try:
        session, tenant, name, begun, checksum = row
        columns = (session, tenant.decode(), name.decode(), begun)
        if checksum != checksum_of(columns):
            raise ValueError("its checksum does not fit")
    except (TypeError, ValueError, AttributeError) as error:
        raise damaged(None, None, "a session can't be read") from error
    return columns


def verified_turn(row: tuple[Any, ...]) -> Turn:
    """The turn of a row: arrived, session, run, number, place, checksum."""
    run = row[2].decode("utf-8", "backslashreplace") if type(row[2]) is bytes else repr(row[2])
    try:
        arrived, session, text, number, place, checksum = row
        if checksum != checksum_of((arrived, session, text.decode(), number, place)):
            raise ValueError("its checksum does not fit")
        return Standing(run, arrived, number, TurnPlace(place)), session
    except (TypeError, ValueError, AttributeError) as error:
        raise damaged(run, None, "its turn can't be read") from error


def checksum_of(columns: tuple[Any, ...]) -> bytes:
    """16 bytes over the other columns of a row."""
    return blake2b(repr(columns).encode(), digest_size=16, person=b"session").digest()


def line_of(
    begun: int,
    ended_ok: Iterable[tuple[Any, ...]],
    in_line: Iterable[Iterable[tuple[Any, ...]]],
    *,
    stop: int,
    limit: int,
    head_of: HeadOf,
    is_alive: IsAlive,
) -> SessionTurns:
    """Where a session stands, by its rows: the turns that ended ok, the latest first, and those in
    line, the begun ones before the waiting. `stop`: no number from here on was asked for."""
    ended = [EndedTurn(turn.number, turn.run) for turn, _ in map(verified_turn, ended_ok)]
    line: list[LineTurn] = []
    for rows in in_line:
        for turn, _ in map(verified_turn, rows):
            head = head_of(turn.run)
            after = settled(turn, head, is_alive)
            if after.place is TurnPlace.ENDED_OK and after.number < stop:
                ended.append(EndedTurn(after.number, after.run))
            elif after.place.is_in_line:
                line.append(LineTurn(turn.run, turn.number, head.status))
            if len(line) == limit:
                break
    ended.sort(reverse=True)
    return SessionTurns(begun, tuple(line[:limit]), tuple(ended[:limit]))
