"""Which run holds which name until its saga has ended: a small table, changed in one step.

The countermeasure that Frank and Zahle call a semantic lock ("Semantic ACID properties in
multidatabases using remote procedure calls and update propagations", Software: Practice and
Experience 28(1), 1998): others can tell that what they would read may yet be taken back. Readers
take nothing: each take of a name has a number, so that a reader sees whether somebody came between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol


class Held(NamedTuple):
    """Where one name stands. One that nobody ever took is (None, 0)."""

    holder: str | None
    """The run that holds it; None when it is free."""
    taken: int
    """How often it was taken: grows each time."""


FREE = Held(None, 0)


class LockStore(Protocol):
    """Names and their holders. Each call is one step: nobody sees half of it."""

    async def take(self, names: Sequence[str], holder: str) -> Mapping[str, Held]:
        """Takes all of `names`, or none and tells which are in the way. What it holds already it
        takes once more."""
        ...

    async def look(self, names: Sequence[str]) -> Mapping[str, Held]:
        """Where each of `names` stands, all at one moment."""
        ...

    async def drop(self, holder: str) -> None:
        """Gives back all that `holder` holds."""
        ...

    async def free(self, seen: Mapping[str, Held]) -> None:
        """Gives back those names that still stand as they were seen."""
        ...

    async def close(self) -> None:
        """Releases files and threads."""
        ...


def taken(
    table: Mapping[str, Held], names: Sequence[str], holder: str
) -> tuple[dict[str, Held], dict[str, Held]]:
    """(what changes, what is in the way): one of the two is empty."""
    there = {name: table.get(name, FREE) for name in names}
    others = {name: held for name, held in there.items() if held.holder not in (None, holder)}
    if others:
        return {}, others
    return {name: Held(holder, held.taken + 1) for name, held in there.items()}, {}


class MemoryLocks:
    """Of one process, or of a simulation: nothing is kept."""

    def __init__(self) -> None:
        self._table: dict[str, Held] = {}

    async def take(self, names: Sequence[str], holder: str) -> Mapping[str, Held]:
        changed, others = taken(self._table, names, holder)
        self._table.update(changed)
        return others

    async def look(self, names: Sequence[str]) -> Mapping[str, Held]:
        return {name: self._table.get(name, FREE) for name in names}

    async def drop(self, holder: str) -> None:
        for name, held in self._table.items():
            if held.holder == holder:
                self._table[name] = held._replace(holder=None)

    async def free(self, seen: Mapping[str, Held]) -> None:
        for name, held in seen.items():
            if self._table.get(name) == held:
                self._table[name] = held._replace(holder=None)

    async def close(self) -> None:
        return None
