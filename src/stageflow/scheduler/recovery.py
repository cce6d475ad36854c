"""Rebuilds a run's state from its records, through the methods that made them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stageflow.model.errors import JournalError
from stageflow.model.marks import reached
from stageflow.model.record import SETTLE_RUN, UNDO_RUN, Record, RecordType
from stageflow.scheduler.actions import Action, Ask, Launch, Wait
from stageflow.scheduler.scheduler import Scheduler
from stageflow.scheduler.state import NodeState


def replay(scheduler: Scheduler, records: Sequence[Record]) -> list[Record]:
    """Feeds recorded events, in order, to a fresh scheduler. Actions are dropped: they happened.

    Returns the records that the scheduler wrote itself meanwhile, under its own numbers.

    Records of nodes that the plan no longer has are passed over; the caller has refused plans
    that changed under a finished node. JournalError `journal.diverged` when an outcome belongs to
    a node that could not have run.
    """
    for record in records:
        _feed(scheduler, record)
        scheduler.seq = record.seq
    written, scheduler.records = scheduler.records, []
    return written


def take_over(scheduler: Scheduler, records: Sequence[Record]) -> list[Action]:
    """After `replay`, for a run that has not ended: what the new owner must do.

    Each attempt of the dead owner is closed by one `abandoned`; nodes that became ready without
    an intent or a question on record get theirs now; waits between attempts go on. The new
    records are in `scheduler.records`.
    """
    on_record = _begun(records)
    actions = put_questions(scheduler, records)
    for node, status in enumerate(list(scheduler.status)):
        token = scheduler.token[node]
        if status is NodeState.RUNNING:
            if (scheduler.nodes[node].name, token) in on_record:
                actions += scheduler.abandoned(node, token)
            else:
                scheduler.restate_intent(node)
                actions.append(Launch(node))
        elif status is NodeState.RETRYING:
            actions.append(Wait(node, token, 0.0))
    return actions


def put_questions(scheduler: Scheduler, records: Sequence[Record]) -> list[Action]:
    """After `replay`: the questions that stand. One that is not on record is put now, as when a
    run that failed goes on, or its owner died between a value and the question about it."""
    on_record = _begun(records)
    return [
        Ask(node, scheduler.token[node], None)
        if (scheduler.nodes[node].name, scheduler.token[node]) in on_record
        else scheduler.restate_question(node)
        for node, status in enumerate(scheduler.status)
        if status is NodeState.PARKED
    ]


def _begun(records: Sequence[Record]) -> set[tuple[str | None, int]]:
    """(node, token) of every attempt and question on record."""
    begun = (RecordType.INTENT, RecordType.ASKED)
    return {(record.node, record.token) for record in records if record.type in begun}


def _feed(scheduler: Scheduler, record: Record) -> None:
    node = -1
    if record.node is not None:
        node = scheduler.plan.index.get(record.node, -1)
        if node == -1:
            return
    match record.type:
        case RecordType.RUN_STARTED:
            index = scheduler.plan.index
            scheduler.start([index[name] for name in record.data.get("absent", ())])
        case RecordType.INTENT:
            _intent(scheduler, node, record)
        case RecordType.OUTCOME:
            _outcome(scheduler, node, record)
        case RecordType.ABANDONED:
            if scheduler.status[node] is NodeState.RUNNING:
                scheduler.abandoned(node, record.token)
        case RecordType.CANCEL:
            scheduler.cancel(
                record.data.get("reason", ""),
                status=record.data["status"],
                defers=record.data.get("defers", False),
            )
        case RecordType.ASKED:
            if scheduler.status[node] is NodeState.PARKED:
                scheduler.token[node] = record.token
                scheduler.tokens = max(scheduler.tokens, record.token)
        case RecordType.CLAIMED:
            # A run whose end was decided but not reached when its owner died is still ending.
            index = scheduler.plan.index
            names = record.data.get("rerun", ())
            rerun = {index[name] for name in names if name in index}
            ending = scheduler.ending
            if SETTLE_RUN in names:
                pass  # what the person says is on record next
            elif scheduler.undoing is not None or UNDO_RUN in names:
                scheduler.undo("undone", rerun=rerun)
            elif ending is not None and ending.status != "ok" and scheduler.running == 0:
                reached("run_reopened")
                scheduler.reopened(rerun)
        case (
            RecordType.RETRY_DUE
            | RecordType.LATE
            | RecordType.STEP
            | RecordType.TURN
            | RecordType.RUN_ENDED
        ):
            pass


def _intent(scheduler: Scheduler, node: int, record: Record) -> None:
    if scheduler.status[node] is NodeState.RETRYING:
        scheduler.retry_due(node, scheduler.token[node])
    if scheduler.status[node] is NodeState.RUNNING:
        # The record is the truth about tokens: a changed plan may hand them out in another order.
        scheduler.token[node] = record.token
        scheduler.tokens = max(scheduler.tokens, record.token)


def _outcome(scheduler: Scheduler, node: int, record: Record) -> None:
    data = record.data
    done: list[Action] | None
    if data.get("settled"):
        found = {"ok": "happened", "skip": "left"}.get(data["status"], "not_happened")
        scheduler.settled(node, found, {})
        return
    match data["status"]:
        case "ok" if scheduler.status[node] is NodeState.PARKED:
            done = scheduler.answered(node, record.token, {})
        case "ok":
            done = scheduler.completed(
                node, record.token, _control(scheduler, data), data.get("stalled")
            )
        case "not_happened":
            done = scheduler.not_happened(node, record.token)
        case "skip":
            done = scheduler.skipped(node, record.token, data.get("reason", ""))
        case "failed" if data.get("reason") == "expired":
            done = scheduler.expired(node, record.token)
        case "failed":
            done = scheduler.failed(
                node,
                record.token,
                data.get("reason", ""),
                retryable=data.get("retries", False),
                cut_off=data.get("cut_off", False),
                unknown=data.get("unknown", False),
            )
        case _:
            done = scheduler.cancelled(
                node,
                record.token,
                by_stage=data.get("by_stage", False),
                unstarted=data.get("unstarted", False),
                reason=data.get("reason", ""),
            )
    if done is None:
        raise JournalError(
            "journal.diverged",
            f"record {record.seq} is an outcome of a node that could not have run then",
            pipeline=scheduler.plan.name,
            node=record.node,
            fix="resume with the pipeline that wrote this run, or start a new run",
        )


def _control(scheduler: Scheduler, data: Any) -> tuple[str, Any] | None:
    kind = data.get("control")
    if kind is None:
        return None
    if kind == "branch":
        return kind, data["branch"]
    if kind in ("redact", "revise"):
        return kind, scheduler.plan.index[data["of"]]
    return kind, None
