"""A turn's values: taken from a run that has just ended, or decoded from one on record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stageflow.graph import Plan
from stageflow.journal.store import LoadedRun, RunHeader
from stageflow.model.bag import MISSING
from stageflow.model.errors import RunError, StageflowError
from stageflow.model.labels import NONE
from stageflow.model.record import Record, RecordType
from stageflow.model.session import PastTurn, TurnValues
from stageflow.model.values import Freezer, thaw
from stageflow.runtime.history import decode_inputs, decode_value
from stageflow.runtime.recovery import locate
from stageflow.scheduler import NodeState

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver
    from stageflow.runtime.pipeline import Pipeline

PlanOf = Callable[[RunHeader], Plan]


def plan_finder(plan: Plan | None) -> PlanOf:
    """Finds the plan of a past run: `plan` for runs of a pipeline of its name, else by target."""

    def find(header: RunHeader) -> Plan:
        if plan is not None and plan.name == header.pipeline:
            return plan
        pipeline: Pipeline[Any] = locate(header)
        return pipeline.plan

    return find


def visible_in(driver: Driver) -> dict[str, Any]:
    """What the end of a turn tells about its values, so that they can be found on record."""
    plan, status = driver.plan, driver.scheduler.status
    outputs = [plan.nodes[n].name for n in plan.outputs if status[n] is NodeState.OK]
    hidden = [
        name
        for name, spec in plan.inputs.items()
        if spec.node is not None and name in driver.inputs and status[spec.node] is not NodeState.OK
    ]
    told: dict[str, Any] = {"output": outputs[0]} if plan.single_output else {"outputs": outputs}
    return {**told, "hidden": hidden} if hidden else told


def ended_here(driver: Driver, number: int) -> PastTurn:
    """The turn of a run that has just ended ok."""
    plan, bag = driver.plan, driver.bag
    told = visible_in(driver)
    inputs = {}
    for name, value in driver.inputs.items():
        if name not in told.get("hidden", ()):
            node = plan.inputs[name].node
            inputs[name] = value if node is None else bag.values[node]
    names = [told["output"]] if "output" in told else told["outputs"]
    outputs = {name: bag.values[plan.index[name]] for name in names}
    values = TurnValues(inputs, outputs, "output" in told)
    size = _size_here(driver, values)
    labels = driver.flow.turn(driver) if driver.flows else NONE
    return PastTurn(number, driver.identity.run, size, lambda: values, labels)


def on_record(number: int, loaded: LoadedRun, plan_of: PlanOf) -> PastTurn:
    """The turn of a run in the journal. Holds what is needed of its records, undecoded."""
    told: dict[str, Any] = {}
    labels = NONE
    for record in loaded.records:
        if record.type is RecordType.RUN_ENDED and "turn" in record.data:
            told, labels = record.data["turn"], frozenset(record.labels)
    names = [told["output"]] if "output" in told else told.get("outputs", [])
    first = loaded.records[0]
    kept = [
        record
        for record in loaded.records
        if record.is_accepted and (record.node in names or record.data.get("control") == "redact")
    ]
    sizes = {record.node: len(record.payload or b"") for record in kept if record.node in names}
    size = len(first.payload or b"") + sum(sizes.values())
    slim = replace(loaded, records=(first, *kept))
    return PastTurn(
        number,
        loaded.header.run,
        size,
        lambda: _decoded(slim, names, told, number, plan_of),
        labels,
    )


def sizes_of(records: tuple[Record, ...]) -> dict[int, int]:
    """Bytes of each payload by its attempt's token, of the inputs by 0."""
    sizes = {0: len(records[0].payload or b"")}
    for record in records:
        if record.type is RecordType.OUTCOME:
            sizes[record.token] = len(record.payload or b"")
    return sizes


def _decoded(
    slim: LoadedRun, names: list[str], told: dict[str, Any], number: int, plan_of: PlanOf
) -> TurnValues:
    try:
        plan = plan_of(slim.header)
        return _values(plan, slim.records, names, told)
    except (StageflowError, KeyError) as error:
        raise RunError(
            "session.unreadable",
            f"turn {number} of session {slim.header.session!r} can't be read with the pipelines"
            " that are here",
            pipeline=slim.header.pipeline,
            expected="the pipeline that ran it, with the types it had then",
            got=error.code if isinstance(error, StageflowError) else "other nodes than it had",
            fix="define the pipeline at the top of a module, keep its types, or begin a session",
        ) from error


def _values(
    plan: Plan, records: tuple[Record, ...], names: list[str], told: dict[str, Any]
) -> TurnValues:
    inputs = decode_inputs(plan, records[0])
    outputs: dict[str, Any] = {}
    freezer = Freezer()
    for record in records[1:]:
        node = plan.nodes[plan.index[record.node or ""]]
        value, replaced = decode_value(plan, node, record, freezer)
        if node.name in names:
            outputs[node.name] = value
        if replaced is not MISSING:
            of = record.data["of"]
            (outputs if of in names else inputs)[of] = replaced
    hidden = told.get("hidden", ())
    seen = {name: value for name, value in inputs.items() if name not in hidden}
    return TurnValues(
        {name: value for name, value in seen.items() if name in plan.inputs},
        {name: outputs[name] for name in names},
        "output" in told,
    )


def _size_here(driver: Driver, values: TurnValues) -> int:
    """In bytes, as `on_record` would find it."""
    if driver.history is not None:
        sizes, tokens = driver.history.sizes or {}, driver.scheduler.token
        return sizes.get(0, 0) + sum(
            sizes.get(tokens[driver.plan.index[name]], 0) for name in values.outputs
        )
    contracts = {name: spec.contract for name, spec in driver.plan.inputs.items()}
    size = sum(_encoded_size(contracts[name], value) for name, value in values.inputs.items())
    for name, value in values.outputs.items():
        node = driver.plan.nodes[driver.plan.index[name]]
        size += _encoded_size(node.contract, value)
    return size


def _encoded_size(contract: Any, value: Any) -> int:
    try:
        return len(contract.encode(value))
    except StageflowError:  # of a type that only this process knows: nearly its size as text
        return len(repr(thaw(value)))
