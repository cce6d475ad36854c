"""A journalled run as a person reads it: per attempt, what the node got, gave, and how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stageflow.graph import Plan, Source
from stageflow.journal.store import LoadedRun
from stageflow.model.bag import MISSING
from stageflow.model.record import Record, RecordType
from stageflow.model.values import Freezer, thaw
from stageflow.runtime.history import decode_failure, decode_inputs, decode_value


@dataclass(frozen=True, slots=True)
class AttemptAccount:
    """One attempt of one node, from its intent to its end."""

    node: str
    attempt: int
    status: str
    """ok, skip, failed, cancelled, abandoned, or running when no end is on record."""
    reason: str
    started_wall_s: float
    duration_s: float | None
    """Between intent and end on disk; None while it has no end."""
    got: dict[str, Any]
    """What it took, by parameter; only values that are on record."""
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
    values = {} if plan is None else _values(loaded, plan)
    inputs = {} if plan is None else decode_inputs(plan, loaded.records[0])
    accounts = []
    for record in loaded.records:
        if record.type is not RecordType.INTENT or record.node is None:
            continue
        end = ends.get((record.node, record.token))
        failure = None if end is None or end.is_accepted else decode_failure(end)
        accounts.append(
            AttemptAccount(
                node=record.node,
                attempt=record.attempt,
                status=_status(end),
                reason="" if end is None else str(end.data.get("reason", "")),
                started_wall_s=record.wall_s,
                duration_s=None if end is None else max(0.0, end.wall_s - record.wall_s),
                got={} if plan is None else _got(plan, record.node, values, inputs),
                gave=thaw(values[record.node])
                if end is not None and end.is_accepted and record.node in values
                else MISSING,
                failure="" if failure is None else str(failure),
            )
        )
    return accounts


def _status(end: Record | None) -> str:
    if end is None:
        return "running"
    return "abandoned" if end.type is RecordType.ABANDONED else str(end.data["status"])


def final_values(loaded: LoadedRun, plan: Plan) -> dict[str, Any]:
    """Canonical accepted values by node name, redactions applied, inputs that guards gate too."""
    values = {n: v for n, v in decode_inputs(plan, loaded.records[0]).items() if n in plan.index}
    freezer = Freezer()
    for record in loaded.records:
        number = None if record.node is None else plan.index.get(record.node)
        if record.is_accepted and number is not None:
            node = plan.nodes[number]
            values[node.name], replaced = decode_value(plan, node, record, freezer)
            if replaced is not MISSING:
                values[record.data["of"]] = replaced
    return values


def _values(loaded: LoadedRun, plan: Plan) -> dict[str, Any]:
    values, freezer = {}, Freezer()
    for record in loaded.records:
        number = None if record.node is None else plan.index.get(record.node)
        if record.is_accepted and number is not None:
            node = plan.nodes[number]
            values[node.name] = decode_value(plan, node, record, freezer)[0]
    return values


def _got(plan: Plan, name: str, values: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    number = plan.index.get(name)
    if number is None:
        return {}
    got = {}
    for argument in plan.nodes[number].arguments:
        if argument.source is Source.NODE:
            parent = plan.nodes[argument.ref].name
            value = values.get(parent, inputs.get(parent, MISSING))
        elif argument.source is Source.INPUT:
            value = inputs.get(argument.ref, MISSING)
        else:
            continue
        if value is not MISSING:
            got[argument.parameter] = thaw(value)
    return got
