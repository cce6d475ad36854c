"""Whether a failed attempt is worth another one: what it was, whose it is, and what is left.

One layer retries. When a stage started a run that failed, and the node where it failed has a Retry
of its own, that node had its attempts: a further one here would multiply them, once more at every
level of nesting. So the layer next to the dependency decides, however the error was wrapped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stageflow.graph import Node
from stageflow.model.classification import Classification, ErrorKind, classify
from stageflow.model.classification.sign import Basis
from stageflow.model.classification.types import links
from stageflow.model.errors import StageflowError
from stageflow.model.policy import Retry
from stageflow.runtime.failure import StageFailed

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver


class Verdict(NamedTuple):
    """What an exception means for its stage."""

    retryable: bool
    final: str
    """Why not, as Failure.final has it; "" when the policy has nothing to say."""
    after_s: float | None
    """Seconds that the failure itself asks to wait."""
    in_doubt: bool
    """A request may have been done that was sent without a key."""
    is_healthy: bool
    """The dependency answered: what failed is the request."""


def verdict(node: Node, error: BaseException, now_s: float) -> Verdict:
    """Of an exception that a stage raised; the budget and the deadline are not asked yet."""
    found = classify(error, now_s=now_s)
    in_doubt = found.in_doubt and node.kind.has_effects and not isinstance(error, StageflowError)
    healthy = found.kind is ErrorKind.PERMANENT
    retry = node.retry
    if retry is None or not isinstance(error, Exception):
        return Verdict(False, "", found.retry_after_s, in_doubt, healthy)
    final = _final(retry, error, found) or _untold(node, error, found)
    if node.undoes is not None and found.basis < Basis.STATUS:
        final = ""  # the alternative is a person, who can only try again
    retryable = not final and (retry.on is None or isinstance(error, retry.on))
    return Verdict(retryable, final, found.retry_after_s, in_doubt, healthy)


def _final(retry: Retry, error: Exception, found: Classification) -> str:
    below = [link for link, loose in links(error) if isinstance(link, StageFailed) and not loose]
    if any(each.failure.retries for each in below):
        return "nested"
    if isinstance(error, StageflowError):
        return "permanent"  # a broken contract, a refused call
    if found.kind is not ErrorKind.PERMANENT:
        return ""
    return "" if found.basis <= Basis.TYPE and retry.names(error) else "permanent"


def _untold(node: Node, error: Exception, found: Classification) -> str:
    """Of an effect without a key, an error that nobody can place is no word that nothing happened,
    unless the policy names it."""
    keyed = node.stage is not None and node.stage.keyed
    if found.is_placed or keyed or not node.kind.has_effects:
        return ""
    return "" if node.retry is not None and node.retry.names(error) else "unplaced"


def refusal(driver: Driver, node: Node, after_s: float | None) -> str:
    """Why there is no further attempt now, though the failure is worth one: `deadline`, `budget`;
    "" when there is, and then it is taken from the budget."""
    retry = node.retry
    assert retry is not None, "only who has a policy tries again"
    now_s = driver.time()
    if driver.deadline_s is not None and node.undoes is None:
        wait_s = driver.scheduler.next_wait_s(node.index, after_s)
        if now_s + wait_s + retry.least_s >= driver.deadline_s:
            return "deadline"
    if retry.dependency is not None:
        return "" if driver.runtime.dependencies.take(retry.dependency, now_s) else "budget"
    return ""
