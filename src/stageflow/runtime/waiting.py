"""Questions that runs put to people, and taking a suspended run up to answer one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stageflow.journal.store import SUSPENDED
from stageflow.model.errors import RunError
from stageflow.model.record import Record, RecordType
from stageflow.model.values import content_hash, thaw
from stageflow.runtime.account import final_values
from stageflow.runtime.arguments import check_pipeline
from stageflow.runtime.driver import Driver
from stageflow.runtime.events import Subscription
from stageflow.runtime.recovery import locate, recovered
from stageflow.scheduler import Action

if TYPE_CHECKING:
    from stageflow.runtime.pipeline import Pipeline
    from stageflow.runtime.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Waiting:
    """One question that stands."""

    run: str
    node: str
    expects: str
    """The type of the answer, as a person writes it."""
    json_schema: Mapping[str, Any]
    """JSON Schema of the answer, to make a form from; empty when its type has none."""
    shown: Any
    """The value that the answer is about; a private copy."""
    shown_hash: str
    """Give it back with the answer: it binds the answer to this content."""
    asked_wall_s: float
    expires_wall_s: float | None


async def questions(runtime: Runtime, run: str, *, pipeline: Pipeline[Any] | None) -> list[Waiting]:
    """The open questions on record, oldest first."""
    check_pipeline(pipeline)
    loaded = await runtime.load(run)
    plan = (locate(loaded.header) if pipeline is None else pipeline).plan
    asked: dict[str, Record] = {}
    for record in loaded.records:
        if record.type is RecordType.ASKED and record.node is not None:
            asked[record.node] = record
        elif record.type is RecordType.OUTCOME and record.node in asked:
            del asked[record.node]
        elif record.type is RecordType.RUN_ENDED and record.data["status"] != "suspended":
            asked.clear()
    values = final_values(loaded, plan)
    found = []
    for name, record in asked.items():
        node = plan.nodes[plan.find(name)]
        assert node.shows is not None
        value = values[plan.nodes[node.shows].name]
        found.append(
            Waiting(
                run=run,
                node=name,
                expects=node.contract.describe(),
                json_schema=node.contract.json_schema(),
                shown=thaw(value),
                shown_hash=content_hash(value),
                asked_wall_s=record.wall_s,
                expires_wall_s=record.data["expires_wall_s"],
            )
        )
    return found


async def reopened_for(
    runtime: Runtime,
    run: str,
    *,
    pipeline: Pipeline[Any] | None,
    events: Sequence[Subscription],
    statuses: Sequence[str] = (SUSPENDED,),
) -> tuple[Driver, list[Action]]:
    """A driver for a run that waits, which somebody wants to answer or cancel."""
    loaded = await runtime.load(run)
    if loaded.status not in statuses:
        raise RunError(
            "run.not_waiting",
            f"run {run} is not suspended",
            pipeline=loaded.header.pipeline,
            expected=f"a run that is {' or '.join(statuses)}",
            got=loaded.status,
            fix="look at runtime.runs(); an interrupted run is taken up by resume",
        )
    return await recovered(runtime, run, pipeline=pipeline, rerun=(), events=events)
