"""What a run of a graph with branches should be, read off the documented rules, stage by stage.

Written from docs/concepts.md ("Wiring", "Branches", "Failure") and from nothing else: it shares no
code and no idea with the scheduler. There are no events in it. How a stage ends follows from how
its parents ended, so one pass in an order of dependence is enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Joining = Literal["first_of", "any_of", "n_of"]

SKIPS: Final = "!skips"
RAISES: Final = "!raises"
"""What a stage may do besides giving a value; a route that does neither says a branch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A stage of a graph: its wiring by names, and how it is to be run."""

    name: str
    takes: tuple[str, ...] = ()
    """Parents whose value it needs."""
    may_take: tuple[str, ...] = ()
    """Parents for whose value it has a default."""
    after: tuple[str, ...] = ()
    when: tuple[str, str] | None = None
    """(route, branch)."""
    join: Joining | None = None
    of: tuple[str, ...] = ()
    """The join's branches; it needs `need` of them."""
    need: int = 1
    branches: tuple[str, ...] = ()
    """Not empty: a route."""
    kind: str = "transform"
    place: str = "await"
    """"await", "loop", or "thread" (on a real loop only)."""
    lasts_s: float = 0.0
    tries: int = 1
    """Attempts it has under its retry policy."""
    stops: bool = False
    """Its failure ends the run; otherwise it is isolated."""


Graph = Sequence[Placed]
"""Every stage stands behind its parents."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a stage ends. `accounts` are the true answers to "how, why, by whom?"."""

    executed: bool
    accounts: frozenset[str]
    is_ok: bool = False
    failures: frozenset[str] = frozenset()
    """The stages by whose failure it has no value."""
    took: tuple[str, ...] = ()
    """Parents whose values it was given."""


def interpret(graph: Graph, says: Mapping[str, str]) -> dict[str, Ended]:
    """How every stage ends when each does what it `says`; those not named give a value."""
    ended: dict[str, Ended] = {}
    for placed in graph:
        ended[placed.name] = end_of(placed, ended, says)
    return ended


def end_of(placed: Placed, ended: Mapping[str, Ended], says: Mapping[str, str]) -> Ended:
    """How one stage ends, given its parents' ends."""
    needed = placed.takes
    if placed.when is not None:
        route, branch = placed.when
        if ended[route].is_ok and says[route] != branch:
            return Ended(False, _skipped("branch_not_taken", [route]))
        needed = (*needed, route)
    lacking = [name for name in needed if not ended[name].is_ok]
    # To a default and to an order a skip is fine, and a failure is not. To a join both are.
    others = (*placed.may_take, *(name for name in placed.after if name not in placed.of))
    lacking += [name for name in others if ended[name].failures]
    if placed.join is not None and not lacking:
        missing = [name for name in placed.of if not ended[name].is_ok]
        if len(placed.of) - len(missing) < placed.need:
            lacking = [name for name in missing if ended[name].failures]
            if not lacking:
                return Ended(False, _skipped("too_few_values", [placed.name]))
    failures = frozenset[str]().union(*(ended[name].failures for name in lacking))
    if failures:
        return Ended(False, _skipped("parent_failed", failures), failures=failures)
    if lacking:
        return Ended(False, _skipped("parent_skipped", lacking))
    took = tuple(name for name in (*placed.takes, *placed.may_take) if ended[name].is_ok)
    match says.get(placed.name):
        case "!skips":
            return Ended(True, _skipped("own", [placed.name]), took=took)
        case "!raises":
            account = frozenset([f"failed own {placed.name}"])
            return Ended(True, account, failures=frozenset([placed.name]), took=took)
        case _:
            return Ended(True, frozenset(["ok"]), is_ok=True, took=took)


def _skipped(cause: str, blames: Iterable[str]) -> frozenset[str]:
    return frozenset(f"skipped {cause} {blame}" for blame in blames)
