"""Runs that wait for a worker: what a queue promises, for whatever store holds it.

A submitted run is in the journal from the start, with its inputs, and owned by nobody. Workers take
runs one at a time. Tenants take turns: the one that was served longest ago is next, so that none
waits behind another's backlog. Within a tenant, higher priority goes first, then age. A claim of
any other kind takes the run out of the queue as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from stageflow.journal.admission import Head, IsAlive
from stageflow.journal.store import RUNNING, LoadedRun, Owner, RunHeader
from stageflow.model.errors import JournalError
from stageflow.model.record import Record


class QueueBounds(NamedTuple):
    """How many runs may wait."""

    runs: int
    tenant: int
    """Of one tenant."""


class Wanted(NamedTuple):
    """What a worker takes."""

    targets: Sequence[str]
    """`module:attr` of the pipelines that it has."""
    epochs_max: int
    """A run with so many owners before is left alone: it may be what kills them."""
    passed_over: Collection[str] = ()
    """Runs that this worker could not go on with."""


class Queued(NamedTuple):
    """One run in the queue."""

    run: str
    tenant: str
    target: str
    priority: int
    number: int
    """Grows with every run that was queued."""


@runtime_checkable
class QueueStore(Protocol):
    """What a Store adds to hold a queue; raises what Store raises."""

    def enqueue(
        self,
        header: RunHeader,
        records: tuple[Record, ...],
        *,
        priority: int,
        bounds: QueueBounds,
    ) -> None:
        """Create a run that nobody owns, with status "queued".

        Raises "queue.full" when `bounds` are reached, and what `create` raises.
        """
        ...

    def take(self, owner: Owner, wanted: Wanted) -> LoadedRun | None:
        """Claim the next run for `owner`; None when there is none.

        An orphan of `wanted.targets` comes first: it was served before. Child runs are left to
        their parents. Two callers never get one run.
        """
        ...

    def waiting(self) -> Mapping[str, int]:
        """How many runs wait, by tenant."""
        ...


def next_in_line(queued: Iterable[Queued], served: Mapping[str, int]) -> Queued | None:
    """Who is next; `served` grows with each time a tenant's run was taken."""
    return min(
        queued,
        key=lambda one: (served.get(one.tenant, 0), -one.priority, one.number),
        default=None,
    )


def may_take(one: Queued, wanted: Wanted) -> bool:
    """Whether a worker takes this run."""
    return one.target in wanted.targets and one.run not in wanted.passed_over


def is_orphan(
    header: RunHeader, head: Head, wanted: Wanted, *, is_alive: IsAlive = Owner.is_alive
) -> bool:
    """Whether a worker takes this run, because its owner has ended."""
    if head.status != RUNNING or head.epoch > wanted.epochs_max or header.parent is not None:
        return False
    if header.target not in wanted.targets or header.run in wanted.passed_over:
        return False
    return head.owner is None or is_alive(head.owner) is False


def passing_over(run: str, wanted: Wanted, error: JournalError) -> Wanted:
    """What is wanted after `run` turned out to be damaged; other errors are raised.

    A damaged run leaves the queue: it is for the one who asks for it, and must stop no worker.
    """
    if error.code != "journal.damaged":
        raise error
    return wanted._replace(passed_over=(*wanted.passed_over, run))


def queue_refusal(
    header: RunHeader, bounds: QueueBounds, *, runs: int, tenant: int
) -> JournalError | None:
    """Why no further run may wait while so many do; None when it may."""
    for waiting, bound, whose in (
        (runs, bounds.runs, ""),
        (tenant, bounds.tenant, " of its tenant"),
    ):
        if waiting >= bound:
            return JournalError(
                "queue.full",
                f"the queue takes no further run{whose}",
                pipeline=header.pipeline,
                expected=f"fewer than {bound} waiting runs{whose}",
                got=f"{waiting}",
                fix="submit later, or run more workers; Limits(queued=..., queued_per_tenant=...)",
            )
    return None


def target_of(header: RunHeader) -> str:
    """Where a worker finds the pipeline of a run that it is to run."""
    if header.target is None:
        raise JournalError(
            "queue.no_target",
            "a worker could not find the pipeline of this run",
            pipeline=header.pipeline,
            expected="a pipeline at the top of a module, or using(target='module:attr')",
            fix="define the pipeline at the top of a module that workers can import",
        )
    return header.target
