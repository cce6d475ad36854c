"""What an escape attempt is, and the corpus of 150: ways out that were tried on real sandboxes.

An attempt is Python text that is given `inputs`: what there is to be had around it (`Ground`). It
is harmless where it succeeds, so that it is first shown to succeed without a sandbox. What it says
of itself is not believed, except that a system call beyond the policy was answered.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .escape_files import FILES, GRANTED, PROC, SYMLINKS
from .escape_floods import CAPS, FLOODS
from .escape_network import DOORS, NETWORK
from .escape_python import GADGETS, HOOKS, SECRETS
from .escape_system import DAEMONS, DESCRIPTORS, SYSCALLS


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way out. `cap` names the cap that it tries to pass; None for the others."""

    name: str
    family: str
    code: str
    cap: str | None = None


_SOURCES: Final[Mapping[str, Mapping[str, str]]] = {
    "gadget": GADGETS,
    "door": DOORS,
    "granted": GRANTED,
    "bomb": FLOODS,
    "daemon": DAEMONS,
    "file": FILES,
    "socket": NETWORK,
    "syscall": SYSCALLS,
    "symlink": SYMLINKS,
    "proc": PROC,
    "environment": SECRETS,
    "import": HOOKS,
    "descriptor": DESCRIPTORS,
}
FAMILIES: Final = tuple(_SOURCES)


def corpus() -> list[Attempt]:
    """All attempts, family by family."""
    return [
        Attempt(name, family, code, CAPS.get(name))
        for family, each in _SOURCES.items()
        for name, code in each.items()
    ]


def chosen(count: int, rng: random.Random) -> list[Attempt]:
    """`count` of the corpus, at least one of each family: each in turn gives one, in an order of
    the seed's."""
    decks: dict[str, list[Attempt]] = {family: [] for family in FAMILIES}
    for attempt in corpus():
        decks[attempt.family].append(attempt)
    for deck in decks.values():
        rng.shuffle(deck)
    return _in_turn(list(decks.values()), max(count, len(decks)))


def _in_turn(decks: Sequence[list[Attempt]], count: int) -> list[Attempt]:
    found: list[Attempt] = []
    while len(found) < count and any(decks):
        for deck in decks:
            if deck and len(found) < count:
                found.append(deck.pop())
    return found
