"""The line of a session: which turn may begin, decided alike for every store. Pure.

A turn is a run that a user started in a session. It arrives, waits, begins, and is over. Numbers
are given in order of beginning, and a turn that is taken up again begins again, under a number of
its own. So the turns that ended ok with a number below n are the same for ever once turn n has
begun; that is what lets a resumed turn see again just what it saw at first.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple

from stageflow.journal.admission import Head, IsAlive
from stageflow.journal.store import OK, QUEUED, RUNNING, SUSPENDED, Append, LineTurn, RunHeader
from stageflow.model.errors import JournalError
from stageflow.model.marks import reached
from stageflow.model.record import Record, RecordType


class TurnPlace(enum.IntEnum):
    """Where a turn stands. The numbers are what stores keep."""

    OVER = 0
    """It ended, and not ok."""
    ENDED_OK = 1
    LEFT = 2
    """It has no owner, or a dead one, and another turn has begun since; a claim brings it back."""
    WAITS = 3
    BEGUN = 4

    @property
    def is_in_line(self) -> bool:
        return self >= TurnPlace.WAITS


class Standing(NamedTuple):
    """What a store keeps of a turn besides its run."""

    run: str
    arrived: int
    """Grows with every turn that arrives in the store."""
    number: int
    """In order of beginning; 0 until it has begun, and again once it is claimed."""
    place: TurnPlace


def is_turn(header: RunHeader) -> bool:
    """Children belong to their parent's turn."""
    return header.session is not None and header.parent is None


def turn_begun_by(records: Iterable[Record]) -> Record | None:
    """The record among `records` that begins a turn."""
    for record in records:
        if record.type is RecordType.TURN and record.data.get("turn"):
            return record
    return None


def settled(turn: Standing, head: Head, is_alive: IsAlive) -> Standing:
    """`turn` as it stands by what became of its run and of its owner."""
    if head.is_finished:
        # A turn that ended without having begun is none that later ones see.
        is_seen = head.status == OK and turn.number > 0
        return turn._replace(place=TurnPlace.ENDED_OK if is_seen else TurnPlace.OVER)
    owner = head.owner
    # One that is queued is in nobody's way: it may be taken after those that came later.
    is_left = head.status in (RUNNING, QUEUED) if owner is None else is_alive(owner) is False
    if is_left:
        return turn._replace(place=TurnPlace.LEFT)
    return turn


def may_be_ahead(other: Standing, of: Standing) -> bool:
    """Whether `other` would be in the way, if it has not ended."""
    if other.run == of.run or not other.place.is_in_line:
        return False
    return other.place is TurnPlace.BEGUN or other.arrived < of.arrived


def turn_refusal(
    append: Append,
    record: Record,
    *,
    turn: Standing | None,
    ahead: Iterable[Standing],
    begun: int,
) -> JournalError | None:
    """Why `record` can't begin `turn`; None when it can. `ahead` are settled."""
    if turn is None:
        return _not_its_turn(append.run, "a run that is a turn of a session", "a run that is none")
    for other in ahead:
        if may_be_ahead(other, turn):
            return _not_its_turn(
                append.run,
                "no turn before it in its session",
                f"run {other.run!r}, which " + ("has begun" if other.number else "waits"),
            )
    if record.data["turn"] != begun + 1:
        return _not_its_turn(append.run, f"number {begun + 1}", f"number {record.data['turn']}")
    return None


def in_the_way(run: str, line: Iterable[LineTurn]) -> LineTurn | None:
    """Who keeps `run` from beginning, as a listing shows it; its own entry may be missing there."""
    has_passed = False
    for other in line:
        if other.run == run:
            has_passed = True
        elif other.status == SUSPENDED or other.number or not has_passed:
            return other
    return None


def _not_its_turn(run: str, expected: str, got: str) -> JournalError:
    reached("turn_made_to_wait")
    return JournalError(
        "journal.not_its_turn",
        f"run {run!r} can't begin now: the turns of a session run one after another",
        expected=expected,
        got=got,
        fix="look at the session's turns, and try again when those before it are over",
    )
