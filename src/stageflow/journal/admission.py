"""What a run may add to its history: the checks that every store makes, and their refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from stageflow.journal.store import (
    OK,
    QUEUED,
    RUNNING,
    SUSPENDED,
    Append,
    Owner,
    RunHeader,
    RunSummary,
)
from stageflow.model.errors import JournalError
from stageflow.model.marks import reached
from stageflow.model.record import UNDO_RUN, Record, RecordType

Accepted = Callable[[str, int], tuple[int, int] | None]
"""Attempt and token of the accepted outcome that (node, revision) has in the store, or None."""
IsAlive = Callable[[Owner], bool | None]
"""Whether an owner still works on its runs; None when that can't be told."""


class Head(NamedTuple):
    """Where a run stands: what decides whether the next append is taken."""

    epoch: int
    owner_text: str | None
    """The owner as JSON, because every append carries it on and few look at it; None once the run
    ended or was suspended."""
    status: str
    reason: str
    records: int
    """How many there are, which is the last one's seq."""
    updated_wall_s: float

    @property
    def owner(self) -> Owner | None:
        return None if self.owner_text is None else Owner(*json.loads(self.owner_text))

    @property
    def is_finished(self) -> bool:
        return self.status not in (RUNNING, SUSPENDED, QUEUED)

    @property
    def is_nobodys(self) -> bool:
        """Whether it waits for an owner: queued, or released before it had ended. A run without any
        record is still being made."""
        waits = self.owner_text is None and self.status in (RUNNING, QUEUED)
        return waits and self.records > 0

    def may_go_on(self, rerun: Sequence[str] | None) -> bool:
        """Whether a claim takes the run over; else it only reads it."""
        return not self.is_finished or (
            rerun is not None and (self.status != OK or UNDO_RUN in rerun)
        )

    def after(self, records: tuple[Record, ...], *, now_wall_s: float) -> Head:
        """The head once `records` are written."""
        head = self._replace(records=self.records + len(records), updated_wall_s=now_wall_s)
        for record in records:
            if record.type is RecordType.RUN_ENDED:
                status, reason = (_utf8(record.data.get(key)) for key in ("status", "reason"))
                head = head._replace(status=status, reason=reason, owner_text=None)
        return head

    def claimed(self, owner: Owner) -> Head:
        """The head under its next owner, before the CLAIMED record is counted."""
        return self._replace(
            epoch=self.epoch + 1, owner_text=owner_text(owner), status=RUNNING, reason=""
        )


def first_head(owner: Owner, *, now_wall_s: float) -> Head:
    """A run that has an owner and no record yet."""
    return Head(1, owner_text(owner), RUNNING, "", records=0, updated_wall_s=now_wall_s)


def queued_head(*, now_wall_s: float) -> Head:
    """A run that waits for its first owner, and has no record yet."""
    return Head(1, None, QUEUED, "", records=0, updated_wall_s=now_wall_s)


def refusal(append: Append, head: Head, accepted: Accepted) -> JournalError | None:
    """Why `append` can't follow `head`; None when it can."""
    if append.epoch != head.epoch:
        reached("stale_owner_refused")
        return JournalError(
            "journal.stale_owner",
            f"run {append.run!r} is owned by another epoch",
            expected=f"epoch {head.epoch}",
            got=f"epoch {append.epoch}",
            fix="stop this run here: another process claimed it and goes on with it",
        )
    if head.is_nobodys:
        return JournalError(
            "journal.stale_owner",
            f"run {append.run!r} is owned by nobody",
            expected="an owner that claimed it",
            got="one that has released it, or none",
            fix="claim the run first: runtime.resume(run), or a worker",
        )
    ours: dict[tuple[str, int], tuple[int, int]] = {}
    has_ended = head.is_finished
    for place, record in enumerate(append.records, start=head.records + 1):
        if record.seq != place:
            return JournalError(
                "journal.out_of_order",
                f"a record of run {append.run!r} does not follow the last one",
                node=record.node,
                expected=f"seq {place}",
                got=f"seq {record.seq}",
                fix="append in order of seq, one append of a run after the other",
            )
        ends = record.type is RecordType.RUN_ENDED
        if has_ended and (ends or record.is_accepted):
            return JournalError(
                "journal.run_ended",
                f"run {append.run!r} has ended and keeps its outcome",
                node=record.node,
                expected="only what was late",
                got=record.type.value,
                fix="start a new run",
            )
        has_ended = has_ended or (ends and record.data.get("status") != SUSPENDED)
        if record.is_accepted:
            key = (record.node or "", record.revision)
            first = ours.get(key) or accepted(*key)
            if first is not None:
                return JournalError(
                    "journal.already_accepted",
                    f"run {append.run!r} already has the accepted outcome of this node",
                    node=record.node,
                    expected=f"one accepted outcome of revision {record.revision}, which is that"
                    f" of attempt {first[0]} (token {first[1]}); declared merges: none",
                    got=f"a second one, from attempt {record.attempt} (token {record.token})",
                    fix="keep the second outcome as a LATE record, with its value as the payload",
                )
            ours[key] = (record.attempt, record.token)
    return None


def claim_refusal(
    run: str,
    head: Head,
    owner: Owner,
    *,
    unknown_is_dead: bool = False,
    is_alive: IsAlive = Owner.is_alive,
) -> JournalError | None:
    """Why `owner` can't take `run` over; None when it can."""
    holder = head.owner
    if holder is None or holder == owner:
        return None
    live = is_alive(holder)
    if live:
        return JournalError(
            "journal.run_is_live",
            f"run {run!r} is being worked on by a process that is alive",
            expected="a run whose owner has ended",
            got=f"process {holder.pid} of host {holder.host!r}",
            fix="wait for it, or end that process first",
        )
    if live is None and not unknown_is_dead:
        return JournalError(
            "journal.owner_unknown",
            f"run {run!r} belongs to a process that can't be looked at from here",
            expected="a run whose owner is known to have ended",
            got=f"process {holder.pid} of host {holder.host!r}",
            fix="when that host or container is gone, open SQLiteStore(path, unknown_is_dead=True)",
        )
    return None


def claim_record(head: Head, *, wall_s: float, rerun: Sequence[str] | None) -> Record:
    """The line that tells of the takeover by `head.owner`, and what it was allowed."""
    owner = head.owner
    assert owner is not None, "a claimed run has its owner"
    data: dict[str, Any] = {"pid": owner.pid, "epoch": head.epoch}
    if rerun is not None:
        data["rerun"] = list(rerun)
    return Record(RecordType.CLAIMED, head.records + 1, wall_s=wall_s, data=data)


def summary(header: RunHeader, head: Head, *, is_alive: IsAlive = Owner.is_alive) -> RunSummary:
    """One line of a listing."""
    owner = head.owner
    live = False if owner is None else is_alive(owner)
    return RunSummary(
        header,
        head.status,
        head.reason,
        head.records,
        head.epoch,
        owner,
        live,
        head.updated_wall_s,
    )


def unknown_run(run: object) -> JournalError:
    """No run of that id is in the store."""
    return JournalError(
        "journal.unknown_run",
        f"no run {run!r} in this journal",
        expected="the id of a run in this journal",
        fix="list the runs, and check that this is the journal that the run was started with",
    )


class Named(NamedTuple):
    """What a refusal tells of a run that has no header here."""

    run: str
    tenant: str
    pipeline: str
    created_wall_s: float | None = None


def run_exists(new: RunHeader | Named, old: RunHeader | Named) -> JournalError:
    """A second run under an id that is taken; another tenant's run is not described."""
    reached("second_run_refused")
    known = "a run"
    if old.tenant == new.tenant:
        known = f"a run of {old.pipeline!r}"
        if old.created_wall_s is not None:
            known += f" made at {old.created_wall_s:.3f}"
    return JournalError(
        "journal.run_exists",
        f"{known} already has the id {new.run!r} and was left as it is; the new run of"
        f" {new.pipeline!r} was not begun",
        pipeline=new.pipeline,
        expected="an id that no run has",
        fix="let the runtime give the id, or resume the run that exists",
    )


def damaged(run: str | None, seq: int | None, what: str) -> JournalError:
    """What the store gives back is not what was written."""
    reached("damage_found")
    place = "the journal" if run is None else f"run {run!r}"
    place = place if seq is None else f"record {seq} of {place}"
    return JournalError(
        "journal.damaged",
        f"{place} is not what was written: {what}",
        expected="bytes that fit their checksum",
        fix="restore the file from a backup; the other runs can still be read by their id",
    )


def owner_text(owner: Owner) -> str:
    """The owner as a head holds it: equal for equal owners."""
    return json.dumps([owner.host, owner.boot, owner.pid, owner.started])


def _utf8(value: object) -> str:
    text = "" if value is None else str(value)
    return text.encode("utf-8", "backslashreplace").decode()
