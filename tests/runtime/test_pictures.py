"""Pictures of several processes: a look that mixes moments shows no cycle that never was."""

from __future__ import annotations

import json
from typing import Any

from stageflow.journal.pools import PoolBook, PoolEntry, SharedState, Sight
from stageflow.runtime.picture import sighting_of
from stageflow.scheduler import cycles, standing


def picture(made_s: float, waits: dict[str, tuple[int, list[str]]], **numbers: int) -> str:
    """Of one process, without local pools."""
    ends = {who: {"need": need, "of": of} for who, (need, of) in waits.items()}
    given: dict[str, Any] = {"made_s": made_s, "pools": {}, "ends": ends, "told": {}}
    return json.dumps({**given, "numbers": numbers})


def book(*asks: tuple[str, str, str, str, int]) -> PoolBook:
    """(pool, holder's owner and who, asker's owner and who, ticket), all pools of one unit."""
    found = PoolBook()
    for pool, holder, asker, _, ticket in asks:
        held, wants = holder.split(), asker.split()
        found.pools[pool] = SharedState(
            1,
            [PoolEntry(f"h{pool}", held[0], held[1], 1, 1, 1)],
            [PoolEntry(f"q{pool}", wants[0], wants[1], 1, ticket)],
        )
    return found


CROSSED = book(("x", "A t1", "B t1", "", 3), ("y", "B t1", "A t2", "", 4))
"""B t1 has y and wants x, which A t1 has; A t2 wants y."""


def test_a_cycle_that_stands_in_two_looks() -> None:
    first = {"A": picture(1.0, {"t1": (1, ["t2"])}, t1=7, t2=8), "B": picture(1.1, {}, t1=1)}
    again = {"A": picture(2.0, {"t1": (1, ["t2"])}, t1=7, t2=8), "B": picture(2.1, {}, t1=1)}
    earlier = sighting_of(Sight(1.5, CROSSED, first))
    later = sighting_of(Sight(2.5, CROSSED, again))
    (found,) = cycles(standing(earlier, later))
    assert found == {"A t1", "A t2", "B t1"}


def test_an_old_picture_makes_nothing_sure() -> None:
    """A t1 was waiting for A t2 when the picture was made, and nobody has looked since."""
    old = {"A": picture(1.0, {"t1": (1, ["t2"])}, t1=7), "B": picture(1.1, {}, t1=1)}
    earlier = sighting_of(Sight(1.5, CROSSED, old))
    later = sighting_of(Sight(2.5, CROSSED, {**old, "B": picture(2.1, {}, t1=1)}))
    assert cycles(later.waits), "it looks like one"
    assert not cycles(standing(earlier, later))


def test_a_wait_that_began_anew_is_not_the_same() -> None:
    first = {"A": picture(1.0, {"t1": (1, ["t2"])}, t1=7), "B": picture(1.1, {}, t1=1)}
    again = {"A": picture(2.0, {"t1": (1, ["t2"])}, t1=9), "B": picture(2.1, {}, t1=1)}
    earlier = sighting_of(Sight(1.5, CROSSED, first))
    later = sighting_of(Sight(2.5, CROSSED, again))
    assert not cycles(standing(earlier, later))


def test_who_waits_in_the_book_waits_for_nothing_of_an_older_picture() -> None:
    """
    1. A t3 waits for a message of A t4, says the picture
    2. since then it has it, and stands in the book for the free unit that A t4 has: no cycle
    """
    asked = book(("x", "A t5", "A t3", "", 3))
    old = {"A": picture(1.0, {"t3": (1, ["t4"]), "t4": (1, ["t3"])}, t3=7, t4=8)}
    seen = sighting_of(Sight(1.5, asked, old))
    assert not cycles(seen.waits)
    assert "A t3" not in seen.waits.ends
