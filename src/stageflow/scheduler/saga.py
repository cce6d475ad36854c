"""What a run that did not end well has to take back, what of it is due, and how that ends.

Pure: from what stands where to the next move. A saga ends done, undone, or stuck with the names of
what a person must look at; there is nothing else (Garcia-Molina and Salem, "Sagas", SIGMOD 1987).
Before anything is taken back, every doubt is settled: whether an effect happened decides whether it
is owed an undo, and whether a pivot happened decides the direction.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from typing import NamedTuple

UNDOES = ("failed", "blocked", "cancelled")
"""How a run ends that takes its effects back. One that ends `partial` keeps them: its failures were
declared to be bearable (`on_failure="isolate"`)."""


NEEDS_PERSON = ("undo_stuck", "past_pivot")
"""What the reason of a saga begins with, before a colon and a node, that is neither done nor
undone."""


class Stand(enum.Enum):
    """Where the undo of one effect stands."""

    OWED = "owed"
    """The effect is done, or may be; nothing was begun."""
    RUNNING = "running"
    """An attempt is handed out, or between two."""
    UNDONE = "undone"
    STUCK = "stuck"
    """It failed for good, or nobody knows what it did: a person is needed."""
    LEFT = "left"
    """A person, or the undo itself, said that the effect stays."""
    DOUBT = "doubt"
    """Nobody knows whether the effect itself happened, and nobody could find out."""


class Move(NamedTuple):
    """What is to be done now. Nothing begins and nothing runs: the taking back has ended."""

    begins: tuple[int, ...]
    """Nodes whose undo is due, in order."""
    stuck: tuple[int, ...]
    """Nodes that need a person, in order; other undos may still be running."""
    is_over: bool
    """True when nothing is running and nothing is due."""


def next_move(stands: Mapping[int, Stand], later: Mapping[int, Collection[int]]) -> Move:
    """What follows from where every owed undo stands.

    `stands` has the nodes with an effect to take back, `later` of each undoable node those that
    depend on it. An undo is due when all of those that have an effect are undone, or left.
    """
    settled = {node for node, stand in stands.items() if stand in (Stand.UNDONE, Stand.LEFT)}
    begins = tuple(
        node
        for node in sorted(stands)
        if stands[node] is Stand.OWED
        and all(other in settled for other in later[node] if other in stands)
    )
    stuck = tuple(n for n in sorted(stands) if stands[n] in (Stand.STUCK, Stand.DOUBT))
    is_over = not begins and Stand.RUNNING not in stands.values()
    return Move(begins, stuck, is_over)
