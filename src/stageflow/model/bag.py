"""The append-only record of what every node of a run produced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from stageflow.model.errors import StageflowError
from stageflow.model.marks import reached
from stageflow.model.sparse import made


class _Missing:
    """The value of a node that has none; falsy, and the only one of its kind."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<missing>"

    def __bool__(self) -> bool:
        return False


MISSING = _Missing()


class BagConflict(StageflowError):
    """A second value for a (node, revision) that has one. Names the key and both writers, each by
    attempt, fencing token and owner's epoch, and the merges that were declared for the key."""


class Entry(NamedTuple):
    """One produced value. `value` is canonical (see model/values.py) and never handed out."""

    node: int
    revision: int
    attempt: int
    epoch: int
    token: int
    value: Any


_new = tuple.__new__
"""Makes an Entry without the argument parsing of its constructor: this runs once per stage."""


class OutputBag:
    """One accepted entry per (node, revision). Entries are only ever added; the value of one that
    a guard blocked is blanked.

    `values[node]` is the latest value, or MISSING; one that guards still hold back is there
    already, but in no version. `accepted` lists released entries in order of release: version v
    of the run's state is its first v items.
    """

    __slots__ = (
        "_held",
        "_indexed",
        "_position",
        "accepted",
        "epoch",
        "names",
        "values",
        "withdrawn",
    )

    held: list[Entry] = made(list)
    """Entries that had to pass guards, as they were before; blanked when blocked."""

    def __init__(
        self, nodes: int, *, epoch: int = 1, names: Mapping[str, int] | None = None
    ) -> None:
        """`names` maps node names to numbers, for errors; without it, numbers are shown."""
        self.epoch = epoch
        """The owner's epoch, stamped on every entry."""
        self.names = names
        self.values: list[Any] = [MISSING] * nodes
        self.accepted: list[Entry] = []
        self.withdrawn = bytearray(nodes)
        """1 for a node whose value was blocked: it has none, and can't be given another."""
        self._position: dict[int, int] = {}
        self._indexed = 0

    @property
    def position(self) -> dict[int, int]:
        """Node to its index in `accepted`. Brought up to date when asked, not at every put.

        Several threads may ask at once: each enters the right pairs itself, and says how far it
        came only after that, so that a thread overtaken by another repeats its work at most.
        """
        known = len(self.accepted)
        for place in range(self._indexed, known):
            self._position[self.accepted[place].node] = place
        self._indexed = known
        return self._position

    @property
    def entries(self) -> list[Entry]:
        """Every produced value, released or not, in order of attempt."""
        return sorted([*self.accepted, *self.held], key=lambda entry: entry.token)

    def put(
        self,
        node: int,
        value: Any,
        attempt: int,
        token: int,
        revision: int = 1,
        held: bool = False,  # positional: this is called once per stage
    ) -> None:
        """Appends a node's value. `held` keeps it out of the versions until `release`.

        BagConflict `bag.already_written` when the node has one, or had one that was withdrawn;
        nothing changes then.
        """
        taken = self.values[node] is not MISSING or self.withdrawn[node]
        if taken and not self._is_next_candidate(node, revision):
            raise self._conflict(node, attempt, token)
        self.values[node] = value
        entry = _new(Entry, (node, revision, attempt, self.epoch, token, value))
        (self.held if held else self.accepted).append(entry)

    def replace(self, node: int, value: Any, attempt: int, token: int, revision: int) -> None:
        """A later revision of a value that nobody has taken yet: a guard's decision."""
        self.values[node] = value
        entry = _new(Entry, (node, revision, attempt, self.epoch, token, value))
        self.accepted.append(entry)

    def release(self, node: int, value: Any = MISSING) -> None:
        """A held value passed its guards; `value` replaces it when a guard redacted it."""
        entry = next(e for e in reversed(self.held) if e.node == node)
        if value is not MISSING:
            entry = entry._replace(value=value)
            self.values[node] = value
            reached("redaction_released")
        self.accepted.append(entry)

    def withdraw(self, node: int) -> None:
        """A held value was blocked: nobody may read it any more."""
        reached("guard_blocked")
        self.values[node] = MISSING
        self.withdrawn[node] = 1
        self.held[:] = [e._replace(value=MISSING) if e.node == node else e for e in self.held]

    def _is_next_candidate(self, node: int, revision: int) -> bool:
        """True for a later revision of a value that guards have neither let pass nor blocked."""
        before = [entry.revision for entry in self.held if entry.node == node]
        return (
            bool(before)
            and revision > before[-1]
            and not self.withdrawn[node]
            and not any(entry.node == node for entry in self.accepted)
        )

    def _conflict(self, node: int, attempt: int, token: int) -> BagConflict:
        reached("second_value_refused")
        first = next(e for e in (*self.accepted, *self.held) if e.node == node)
        names = {} if self.names is None else {number: name for name, number in self.names.items()}
        return BagConflict(
            "bag.already_written",
            f"node {names.get(node, node)!r} has a value already, of revision {first.revision}:"
            f" from {_writer(first.attempt, first.token, first.epoch)}",
            node=names.get(node),
            expected="one value per node and revision; declared merges: none",
            got=f"a second value, from {_writer(attempt, token, self.epoch)}",
            fix="give each writer a node of its own, and make one value of them: merge_of(...)",
        )


def _writer(attempt: int, token: int, epoch: int) -> str:
    return f"attempt {attempt} (token {token}, epoch {epoch})"
