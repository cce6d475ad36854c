"""A journalled run as a person reads it: per attempt, what the node got, gave, and how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stageflow.graph import Node, Plan, Source
from stageflow.journal.store import LoadedRun
from stageflow.model.bag import MISSING
from stageflow.model.record import Record, RecordType
from stageflow.model.values import Freezer, thaw
from stageflow.runtime.history import decode_failure, decode_inputs, decode_value


@dataclass(frozen=True, slots=True)
class AttemptAccount:
    """One attempt of one node, from its intent to its end; or one question, to its answer."""

    node: str
    revision: int
    """1, and more when guards sent the value back."""
    attempt: int
    status: str
    """ok, skip, failed, cancelled or abandoned; running, or waiting for a question, when no end
    is on record."""
    reason: str
    by: str
    """Who answered; "" when nobody was asked or nobody has answered."""
    started_wall_s: float
    duration_s: float | None
    """Between intent and end on disk; None while it has no end."""
    got: dict[str, Any]
    """What it took or showed, by parameter; only values that are on record."""
    gave: Any
    """Its value; MISSING when it has none or no plan was given to decode it."""
    failure: str
    """The failure's text; "" when it did not fail."""


def attempts_of(loaded: LoadedRun, plan: Plan | None) -> list[AttemptAccount]:
    """Every attempt on record, in order of start. Without a plan, values stay undecoded."""
    ends: dict[tuple[str | None, int], Record] = {}
    for record in loaded.records:
        if record.type in (RecordType.OUTCOME, RecordType.ABANDONED):
            ends[(record.node, record.token)] = record
    values = None if plan is None else _Values(loaded, plan)
    accounts = []
    for record in loaded.records:
        if values is not None:
            values.read(record)
        if record.type in (RecordType.INTENT, RecordType.ASKED) and record.node is not None:
            accounts.append(_account(record, ends.get((record.node, record.token)), values))
    return accounts


def _account(begun: Record, end: Record | None, values: _Values | None) -> AttemptAccount:
    assert begun.node is not None, "only attempts have an account"
    failure = None if end is None or end.is_accepted else decode_failure(end)
    has_value = values is not None and end is not None and end.is_accepted
    return AttemptAccount(
        node=begun.node,
        revision=begun.revision,
        attempt=begun.attempt,
        status=_status(begun, end),
        reason="" if end is None else str(end.data.get("reason", "")),
        by="" if end is None else str(end.data.get("by", "")),
        started_wall_s=begun.wall_s,
        duration_s=None if end is None else max(0.0, end.wall_s - begun.wall_s),
        got={} if values is None else values.got(begun.node, begun.data.get("fallback")),
        gave=values.of(end) if has_value and values is not None and end is not None else MISSING,
        failure="" if failure is None else str(failure),
    )


def _status(begun: Record, end: Record | None) -> str:
    if end is None:
        return "waiting" if begun.type is RecordType.ASKED else "running"
    return "abandoned" if end.type is RecordType.ABANDONED else str(end.data["status"])


def final_values(loaded: LoadedRun, plan: Plan) -> dict[str, Any]:
    """Canonical accepted values by node name, redactions applied, inputs that guards gate too."""
    values = _Values(loaded, plan)
    for record in loaded.records:
        values.read(record)
    return values.released


class _Values:
    """A run's values as they stood when it had come to a record: the latest revision of each."""

    def __init__(self, loaded: LoadedRun, plan: Plan) -> None:
        self._plan = plan
        self._freezer = Freezer()
        self._inputs = decode_inputs(plan, loaded.records[0])
        self._raw = {name: value for name, value in self._inputs.items() if name in plan.index}
        """As made: what guards see."""
        self.released = dict(self._raw)
        """As consumers get them."""

    def read(self, record: Record) -> None:
        """Goes on to this record."""
        node = self._node(record.node)
        if node is None or not record.is_accepted:
            return
        value, replaced = decode_value(self._plan, node, record, self._freezer)
        if value is MISSING:  # shredded
            self._raw.pop(node.name, None)
            self.released.pop(node.name, None)
        else:
            self._raw[node.name] = self.released[node.name] = value
        if replaced is not MISSING:
            self.released[record.data["of"]] = replaced

    def of(self, end: Record) -> Any:
        """A private copy of the value of an accepted outcome; MISSING when it was shredded."""
        node = self._node(end.node)
        if node is None:
            return MISSING
        value = decode_value(self._plan, node, end, self._freezer)[0]
        return MISSING if value is MISSING else thaw(value)

    def got(self, name: str, fallback: str | None = None) -> dict[str, Any]:
        """Private copies of what the node takes now, or shows, or has of its fallback."""
        node = self._node(name)
        if node is None:
            return {}
        whole = fallback
        if whole is None and node.shows is not None:
            whole = self._plan.nodes[node.shows].name
        if whole is not None:
            return {whole: thaw(self.released[whole])} if whole in self.released else {}
        got = {}
        for argument in node.arguments:
            value = MISSING
            if argument.source is Source.NODE:
                seen = self._raw if argument.ref in node.gates else self.released
                value = seen.get(self._plan.nodes[argument.ref].name, MISSING)
            elif argument.source is Source.INPUT:
                value = self._inputs.get(argument.ref, MISSING)
            if value is not MISSING:
                got[argument.parameter] = thaw(value)
        return got

    def _node(self, name: str | None) -> Node | None:
        number = None if name is None else self._plan.index.get(name)
        return None if number is None else self._plan.nodes[number]
