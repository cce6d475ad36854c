"""What happened to one key of one run in a tree of runs, as a line, and what that line shows.

A key is one node of one run as one owner saw it. Operations stand in the order in which they
happened; `who` is an owner and an attempt, as in `a1`:

    va1      attempt 1 was about to return its value
    wa1      the run accepted that attempt; xa1: it ended without a value; la1: it came too late
    o+a1     a stage of the run saw this key with its own value, made by attempt 1
    o-       a stage saw no value
    f+a1 f-  the finished run shows it; j+a1: its journal holds it as accepted
    ka1      the journal holds the late value of attempt 1, refused
    h= h!    while this stage ran, the snapshot that it had been given kept its hash, or did not

Instead of `+a1` an export that is what its child's stage gave is seen as `^`, and as `~` when that
value is of a child that had been given up. What is neither is told by where it was made:
`!below` by a child, `!above` by a parent, `!beside` by another run, `!defaced` by nobody.

    own ok/memory va1 wa1 o+a1 f+a1         the line of a key: its sort, its run's end, where kept
    take export ^                           a stage was given, for an export it declares, that
"""

from __future__ import annotations

from typing import Final, NamedTuple

ABSENT: Final = "-"
SORTS: Final = frozenset({"own", "export", "child"})
SEEN: Final = frozenset("ofj")


class ContextFacts(NamedTuple):
    """What one line shows; counts of 0 or 1 unless said otherwise."""

    changed: bool
    """A key that is no export holds, or held, what its own run did not write; or a hash moved."""
    lost: bool
    """A value that had been accepted or seen was missing later."""
    misled: bool
    """An export, or what a stage was given for what it declares, was something else."""
    late: bool
    """A value of an attempt or a child that had been given up was accepted."""
    refused: int
    """Values that came too late and were refused: a count."""
    owed: int
    """Those of `refused` that the run's journal should have kept: a count."""
    kept: int
    """Those of `owed` that it did: a count."""


def judged(line: str) -> ContextFacts:
    """What a key's line shows. ValueError for a line that is none."""
    sort, how, *operations = line.split()
    status, _, place = how.partition("/")
    if sort not in SORTS or place not in ("memory", "journal"):
        raise ValueError(f"{line!r} is not the line of a key")
    made: set[str] = set()
    over: set[str] = set()
    taken: set[str] = set()
    refused: set[str] = set()
    kept: set[str] = set()
    seen: list[str] = []
    lost = moved = late = False
    for operation in operations:
        kind, what = operation[0], operation[1:]
        if kind == "j" and status == "dead":
            continue  # what its successor wrote was never this owner's
        if kind in SEEN:
            lost = lost or (what == ABSENT and (bool(taken) or any(s != ABSENT for s in seen)))
            seen.append(what)
        elif kind == "h":
            moved = moved or what == "!"
        elif kind in "vwxlk":
            {"v": made, "w": taken, "x": over, "l": refused, "k": kept}[kind].add(what)
        else:
            raise ValueError(f"{operation!r} is no operation")
    values = {what for what in seen if what != ABSENT}
    foreign = any(what.startswith("!") for what in values)
    own = {what[1:] for what in values if what.startswith("+")}
    # What another owner's attempt gave is in no `w` of this one.
    owners = {who[0] for who in taken}
    late = any(who in over | refused or (who[0] in owners and who not in taken) for who in own)
    late = late or "~" in values
    owes = refused & made if place == "journal" and status != "dead" else set()
    return ContextFacts(
        changed=moved or (sort == "own" and (foreign or len(own) > 1)),
        lost=lost,
        misled=sort != "own" and (foreign or bool(own)),
        late=late,
        refused=len(refused),
        owed=len(owes),
        kept=len(owes & kept),
    )


def is_misled(line: str) -> bool:
    """Whether a `take` line tells of something else than what was declared."""
    word, sort, what = line.split()
    if word != "take" or sort not in ("own", "export", "given"):
        raise ValueError(f"{line!r} is not the line of an argument")
    return what != ("^" if sort == "export" else "+") if sort != "given" else what not in "+^"
