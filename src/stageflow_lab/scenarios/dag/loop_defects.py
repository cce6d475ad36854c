"""What a framework gets wrong about loops that go nowhere, as sabotages of DAG-003."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from stageflow import Candidate, Progress, Run, Stall
from stageflow.runtime import loops
from stageflow.scheduler import Scheduler, SentBack, stagnation, stall_of

from ...sabotage import Sabotage, patched, sabotage


@sabotage(metric="recall")
def exact_hash_only() -> Iterator[None]:
    """A turn repeats another only when their values have the same hash."""
    with (
        patched(stagnation, "_other_words", lambda *_: None),
        patched(stagnation, "_complaints_back", lambda *_: None),
    ):
        yield


@sabotage(metric="recall")
def reset_when_route_changes() -> Iterator[None]:
    """What was seen is forgotten whenever other guards send a value back than the turn before."""

    def forgetful(turns: Sequence[SentBack], policy: Progress) -> Stall | None:
        routes = [{complaint.guard for complaint in turn.complaints} for turn in turns]
        changes = [at for at in range(1, len(turns)) if routes[at] != routes[at - 1]]
        return stall_of(turns[max(changes, default=0) :], policy)

    with patched(loops, "stall_of", forgetful):
        yield


@sabotage(metric="exact_latest")
def one_more_turn_of_proof() -> Iterator[None]:
    """A loop is given up a turn later than its policy says."""

    def hesitant(turns: Sequence[SentBack], policy: Progress) -> Stall | None:
        more = None if policy.repeats is None else policy.repeats + 1
        return stall_of(turns, Progress(more, policy.similarity))

    with patched(loops, "stall_of", hesitant):
        yield


@sabotage(metric="benign_stops")
def direction_not_looked_at() -> Iterator[None]:
    """Texts that are alike are taken for one another, though each adds to the one before."""
    with (
        patched(stagnation, "moves_on", lambda *_: False),
        patched(stagnation, "_grows", lambda *_: False),
    ):
        yield


@sabotage(metric="best_returned")
def last_candidate_returned() -> Iterator[None]:
    """A loop that was given up returns the last candidate for the best."""

    def last(self: Run[Any], key: Any) -> Any:
        kept: list[Candidate] = self.candidates(key)
        return self[key] if key in self else kept[-1].value

    with patched(Run, "best", last):
        yield


@sabotage(metric="bound_exceeded")
def bound_off_by_one() -> Iterator[None]:
    """A stage may be sent back once more than its revisions allow."""
    original = Scheduler._revise_if_wished

    def generous(self: Scheduler, actions: list[Any]) -> None:
        counted = self.revision
        self.revision = [number - 1 for number in counted]
        try:
            original(self, actions)
        finally:
            self.revision = [number + 1 for number in self.revision]

    with (
        patched(Scheduler, "_revise_if_wished", generous),
        patched(loops, "stall_of", lambda *_: None),
    ):
        yield


DEFECTS: Final[tuple[Sabotage, ...]] = (
    exact_hash_only,
    reset_when_route_changes,
    one_more_turn_of_proof,
    direction_not_looked_at,
    last_candidate_returned,
    bound_off_by_one,
)
