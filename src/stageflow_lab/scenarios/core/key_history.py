"""What happened to one key of a run, as a line of operations, and what that line shows.

A key is one node of one run. Operations stand in the order in which they happened:

    va1      attempt 1 of owner a had a value and was about to return it
    wa1      the run accepted the value of that attempt; la1: it refused it as late
    ia1      a new owner of the run found that value in the journal, accepted
    ra1 r-   somebody read the key in mid-run and saw that value, or none
    ga1      a dependant was given that value
    ea1      the bag holds an accepted entry with that value
    fa1 f-   the finished run shows that value, or none
    j1=a1    the journal holds an accepted outcome: of attempt 1, with that value
    k1=a1    the journal holds a refused outcome: of attempt 1, with that value
    p+ q+    a second writer put or appended a value and got an error that names both writers;
             p~ q~: one that does not; q=: one about something else; p! q!: it was not refused

The first word says how the run ended and where its values were kept: `ok/memory`, `ok/journal`,
`dead/journal` for an owner that lost its run to another one. Keys that differ in nothing else have
the same line, so that millions of them are a short list of lines with counts.
"""

from __future__ import annotations

from typing import NamedTuple

NONE = "-"
READS = frozenset("rgfe")


class KeyFacts(NamedTuple):
    """What one line shows; 0 or 1 unless said otherwise."""

    lost: int
    """An accepted value, or one that an ok run owes, is missing somewhere later."""
    duplicated: int
    """Two accepted values."""
    overwritten: int
    """What is read or kept is not the value that was accepted, and nobody was told."""
    irregular: int
    """Not the history of a write-once register."""
    injected: int
    """Values that lost against another one, or that a second writer brought: a count."""
    raised: int
    """Those of `injected` that were refused with an error or an event: a count."""
    late: int
    """Values of attempts that lost, in journalled runs: a count."""
    kept: int
    """Those of `late` that the journal kept, under their attempt: a count."""
    rogue: int
    """Conflicts of a second writer about the key itself: a count."""
    named: int
    """Those of `rogue` that named both writers, key and merges: a count."""
    retried: bool
    """More than one attempt had a value or was needed."""


def judged(line: str) -> KeyFacts:
    """What the line shows. ValueError for a line that is none."""
    how, _, rest = line.partition(" ")
    status, _, place = how.partition("/")
    if place not in ("memory", "journal"):
        raise ValueError(f"{how!r} does not say how a run ended and where it was kept")
    operations = rest.split()
    of = _by_kind(operations)
    written = of["w"] + of["i"]
    accepted = written[0] if written else None
    seen = of["r"] + of["g"] + of["f"] + of["e"]
    values = [author for author in seen if author != NONE]
    journal = [outcome.partition("=") for outcome in of["j"]]
    values += [author for _, _, author in journal]
    overwritten = (
        any(author != accepted for author in values)
        or any(attempt != author[1:] for attempt, _, author in journal)
        or "!" in of["p"] + of["q"]
    )
    duplicated = len(written) > 1 or len(of["e"]) > 1 or len(of["j"]) > 1
    lost = _is_lost(status, place, of, accepted)
    losers = [author for author in of["v"] if author != accepted]
    told = [author for author in losers if author in of["l"]]
    rogue = of["p"] + of["q"]
    kept = {tuple(outcome.split("=")) for outcome in of["k"]}
    is_kept = place == "journal" and status != "dead"
    return KeyFacts(
        lost=int(lost),
        duplicated=int(duplicated),
        overwritten=int(overwritten),
        irregular=int(duplicated or not _is_register(operations)),
        injected=len(losers) + len(rogue),
        raised=len(told) + sum(mark != "!" for mark in rogue),
        late=len(losers) if is_kept else 0,
        kept=sum((author[1:], author) in kept for author in losers) if is_kept else 0,
        rogue=sum(mark in "+~!" for mark in rogue),
        named=rogue.count("+"),
        retried=len(of["v"]) > 1 or any(author[1:] != "1" for author in written),
    )


def _by_kind(operations: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {kind: [] for kind in "vwlirgefjkpq"}
    for operation in operations:
        if operation[0] not in found or len(operation) < 2:
            raise ValueError(f"{operation!r} is no operation")
        found[operation[0]].append(operation[1:])
    return found


def _is_lost(status: str, place: str, of: dict[str, list[str]], accepted: str | None) -> bool:
    if status == "dead":
        return False  # what it accepted and did not write down was never anybody else's to see
    if accepted is None:
        return status == "ok"
    missing = NONE in of["f"] or not of["e"]
    return missing or (place == "journal" and not of["j"])


def _is_register(operations: list[str]) -> bool:
    """True when reads see nothing before the one write and its value from then on."""
    value = NONE
    for operation in operations:
        kind, author = operation[0], operation[1:]
        if kind in "wi":
            if value != NONE:
                return False
            value = author
        elif kind in READS and author != value:
            return False
    return True
