"""What a loop of revisions has made so far, as its progress test compares it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from stageflow.model.bag import MISSING
from stageflow.model.outputs import Revise
from stageflow.model.progress import Stall
from stageflow.model.values import content_hash, thaw
from stageflow.scheduler import Complaint, SentBack, stall_of, text_of, wording_of

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver


def stall_after(driver: Driver, number: int, wish: tuple[str, Revise]) -> Stall | None:
    """Why the node's loop should be given up when its latest value is sent back with what guards
    have said so far and this `wish` of a guard; None when it may go on, or is no loop."""
    stage = driver.nodes[number].stage
    candidates = driver.candidates.get(number)
    value = driver.bag.values[number]
    if stage is None or not candidates or value is MISSING or stage.progress.repeats is None:
        return None
    turns = driver.sent_back.setdefault(number, [])
    for candidate in candidates[len(turns) :]:
        complaints = zip(candidate.guards, candidate.feedback, strict=True)
        turns.append(turn_of(candidate.value, complaints, candidate.score))
    wishes = [*driver.wishes.get(number, ()), wish]
    latest = turn_of(
        value,
        [(guard, each.feedback) for guard, each in wishes],
        min(each.score for _, each in wishes),
    )
    return stall_of([*turns, latest], stage.progress)


def turn_of(frozen: Any, complaints: Iterable[tuple[str, str]], score: float) -> SentBack:
    """A revision as the progress test compares it. `frozen` is its canonical value, `complaints`
    are guards and what each said."""
    text = text_of(thaw(frozen))
    return SentBack(
        content_hash(frozen),
        None if text is None else wording_of(text),
        tuple(Complaint(guard, wording_of(said)) for guard, said in complaints),
        score,
    )
