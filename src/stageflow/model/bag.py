"""The append-only record of what every node of a run produced."""

from __future__ import annotations

from typing import Any, NamedTuple

from stageflow.model.errors import StageflowError


class _Missing:
    """The value of a node that has none; falsy, and the only one of its kind."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<missing>"

    def __bool__(self) -> bool:
        return False


MISSING = _Missing()


class BagConflict(StageflowError):
    """A second value for a (node, revision) that has one; both writers are named."""


class Entry(NamedTuple):
    """One produced value. `value` is canonical (see model/values.py) and never handed out."""

    node: int
    revision: int
    attempt: int
    epoch: int
    token: int
    value: Any


class OutputBag:
    """One accepted entry per (node, revision). Entries are only ever added; the value of one that
    a guard blocked is blanked.

    `values[node]` is the latest released value, or MISSING; a value that guards still hold back is
    in `entries` already and in `values`, but in no version. `accepted` lists released entries in
    order of release: version v of the run's state is its first v items.
    """

    __slots__ = ("accepted", "entries", "epoch", "position", "values")

    def __init__(self, nodes: int, *, epoch: int = 1) -> None:
        self.epoch = epoch
        """The owner's epoch, stamped on every entry."""
        self.values: list[Any] = [MISSING] * nodes
        self.entries: list[Entry] = []
        self.accepted: list[Entry] = []
        self.position: dict[int, int] = {}
        """Node to its index in `accepted`."""

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

        BagConflict `bag.already_written` when this (node, revision) has one; nothing changes then.
        """
        if self.values[node] is not MISSING:
            self._conflict(node, attempt, token)
        entry = _entry((node, revision, attempt, self.epoch, token, value))
        self.values[node] = value
        self.entries.append(entry)
        if not held:
            self.position[node] = len(self.accepted)
            self.accepted.append(entry)

    def release(self, node: int, value: Any = MISSING) -> None:
        """A held value passed its guards; `value` replaces it when a guard redacted it."""
        entry = next(e for e in reversed(self.entries) if e.node == node)
        if value is not MISSING:
            entry = entry._replace(value=value)
            self.values[node] = value
            self.entries.append(entry)
        self.position[node] = len(self.accepted)
        self.accepted.append(entry)

    def withdraw(self, node: int) -> None:
        """A held value was blocked: nobody may read it any more."""
        self.values[node] = MISSING
        self.entries = [
            e._replace(value=MISSING) if e.node == node else e for e in self.entries
        ]

    def _conflict(self, node: int, attempt: int, token: int) -> None:
        first = next(e for e in reversed(self.entries) if e.node == node)
        raise BagConflict(
            "bag.already_written",
            f"node {node} has a value already, from attempt {first.attempt} (token {first.token})",
            got=f"another from attempt {attempt} (token {token})",
            expected="one accepted value per node and revision",
            fix="a stage returns once; a late attempt's value is refused",
        )


def _entry(fields: tuple[int, int, int, int, int, Any]) -> Entry:
    return tuple.__new__(Entry, fields)
