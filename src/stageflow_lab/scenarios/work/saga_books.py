"""What receivers have booked, and what that says of a saga: judged from the books alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from .saga_specs import Saga, later_than

START_CENTS = 1_000
"""On every account at first."""


class Post(NamedTuple):
    """One booking that a receiver has made. `number` grows."""

    number: int
    saga: str
    leg: str
    is_undo: bool
    key: str


class Books(Protocol):
    """The receivers' side: outlives every process."""

    def book(self, saga: Saga, leg: str, *, is_undo: bool, key: str, honours_keys: bool) -> None:
        """Books the leg, or takes it back; a receiver that honours keys books a key once."""
        ...

    def has(self, saga: str, leg: str, *, is_undo: bool) -> bool:
        """Whether it stands booked now; or is taken back now, after it was."""
        ...

    def tried(self, saga: str, leg: str, *, is_undo: bool) -> int:
        """How often it was asked for, this time counted."""
        ...

    def mend(self, saga: str) -> None:
        """Whatever refuses this saga's requests does so no more."""
        ...

    def is_mended(self, saga: str) -> bool:
        """Whether it was mended."""
        ...

    def balance(self, account: str) -> int:
        """Cents."""
        ...


class MemoryBooks:
    """Of a simulation."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self._balances: Counter[str] = Counter()
        self._tries: Counter[tuple[str, str, bool]] = Counter()
        self._mended: set[str] = set()
        self._booked: Counter[tuple[str, str, bool]] = Counter()
        self._keys: set[str] = set()

    def book(self, saga: Saga, leg: str, *, is_undo: bool, key: str, honours_keys: bool) -> None:
        if honours_keys and key in self._keys:
            return
        self._keys.add(key)
        self._booked[saga.name, leg, is_undo] += 1
        self.posts.append(Post(len(self.posts) + 1, saga.name, leg, is_undo, key))
        account, cents = booking(saga, leg, is_undo=is_undo)
        self._balances[account] += cents

    def has(self, saga: str, leg: str, *, is_undo: bool) -> bool:
        return stands(
            self._booked[saga, leg, False], self._booked[saga, leg, True], is_undo=is_undo
        )

    def tried(self, saga: str, leg: str, *, is_undo: bool) -> int:
        self._tries[saga, leg, is_undo] += 1
        return self._tries[saga, leg, is_undo]

    def mend(self, saga: str) -> None:
        self._mended.add(saga)

    def is_mended(self, saga: str) -> bool:
        return saga in self._mended

    def balance(self, account: str) -> int:
        return START_CENTS + self._balances[account]


def stands(done: int, undone: int, *, is_undo: bool) -> bool:
    """As `Books.has`. A pipeline within a saga may run anew after it took itself back."""
    return 0 < done == undone if is_undo else done > undone


def booking(saga: Saga, leg: str, *, is_undo: bool) -> tuple[str, int]:
    """(account, cents) of a leg, or of its undo."""
    found = next(each for each in saga.legs() if each.name == leg)
    return found.account, -found.cents if is_undo else found.cents


@dataclass
class Followed:
    """What became of one saga, as whoever drove it saw it."""

    saga: Saga
    status: str = ""
    reason: str = ""
    stuck: list[str] = field(default_factory=list)
    """Reasons with which it was suspended, each settled by a person."""
    dishonest: list[str] = field(default_factory=list)
    """Reports of something as stuck that was not."""
    died: list[str] = field(default_factory=list)
    """Points at which processes of it died."""


class Judged(NamedTuple):
    """What the books say of a saga."""

    end: str
    """done, undone, or why it is neither."""
    is_legal: bool
    net_cents: int
    owed: int
    """Compensations that it owed."""
    right: int
    """Of these: made exactly once, and after those of all later steps."""


def judged(followed: Followed, posts: Sequence[Post]) -> Judged:
    """The end of one saga. `posts` are its own, in order."""
    saga = followed.saga
    done = Counter(post.leg for post in posts if not post.is_undo)
    undone = Counter(post.leg for post in posts if post.is_undo)
    legs = saga.legs()
    net = sum(leg.cents * (done[leg.name] - undone[leg.name]) for leg in legs)
    end, is_legal = _end(followed, done, undone)
    owed = right = 0
    if end != "done":
        # Where each was taken back for the last time: what runs anew is taken back anew.
        place = {post.leg: post.number for post in posts if post.is_undo}
        later = later_than(saga.parts)
        for leg in legs:
            own = [post for post in posts if post.leg == leg.name]
            if not own:
                continue
            owed += 1
            right += _alternate(own) and all(
                place[other] < place[leg.name] for other in later[leg.name] & place.keys()
            )
    return Judged(end, is_legal, net, owed, right)


def _alternate(posts: Sequence[Post]) -> bool:
    """Done, undone, done, undone: each under a key of its own, and undone in the end."""
    turns = [post.is_undo for post in posts]
    keys = {post.key for post in posts}
    return turns == [False, True] * (len(turns) // 2) and len(keys) == len(turns)


def _end(followed: Followed, done: Counter[str], undone: Counter[str]) -> tuple[str, bool]:
    names = [leg.name for leg in followed.saga.legs()]
    if followed.dishonest:
        return f"reported as stuck what was not: {followed.dishonest[0]}", False
    if followed.status == "ok":
        is_done = all(done[name] - undone[name] == 1 for name in names)
        return ("done", True) if is_done else ("said done, and is not", False)
    if followed.status in ("failed", "cancelled", "blocked"):
        is_undone = all(done[name] == undone[name] for name in names)
        return ("undone", True) if is_undone else ("said undone, and is not", False)
    return f"{followed.status}: {followed.reason}", False
