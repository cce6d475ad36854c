"""What a stage may return besides a plain value: outcomes, decisions, branches, streams."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, TypeAlias, TypeVar

from stageflow.model.errors import ContractError

T = TypeVar("T")


class OutcomeKind(enum.Enum):
    """How one attempt ended, as the scheduler sees it."""

    OK = "ok"
    SKIP = "skip"
    CANCEL = "cancel"
    FAIL = "fail"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class StageOutput:
    """An explicit ending of a stage; make one with `ok`, `skip`, `cancel`, `fail` or `retry`.

    A plain returned value means `StageOutput.ok(value)`. Returned and raised failures behave alike.
    """

    kind: OutcomeKind
    value: Any = None
    reason: str = ""
    data: Any = None
    """The stage's own data about a failure; readable on the run as `run.failure.data`."""
    after_s: float | None = None
    """Seconds to wait before the next attempt, when the stage knows (Retry-After)."""

    def __post_init__(self) -> None:
        _check_text(self, "reason", self.reason)
        if self.after_s is not None:
            _check_number(self, "after_s", self.after_s)

    @classmethod
    def ok(cls, value: Any) -> StageOutput:
        """The stage's value."""
        return cls(OutcomeKind.OK, value)

    @classmethod
    def skip(cls, reason: str = "") -> StageOutput:
        """No value, and that is no failure; dependants are skipped too, joins decide themselves."""
        return cls(OutcomeKind.SKIP, reason=reason)

    @classmethod
    def cancel(cls, reason: str = "") -> StageOutput:
        """Ends the whole run as `cancelled`."""
        return cls(OutcomeKind.CANCEL, reason=reason)

    @classmethod
    def fail(cls, reason: str, *, data: Any = None) -> StageOutput:
        """A failure, treated like a raised one, but never retried."""
        return cls(OutcomeKind.FAIL, reason=reason, data=data)

    @classmethod
    def retry(cls, reason: str = "", *, after_s: float | None = None) -> StageOutput:
        """Another attempt under the node's Retry policy; a failure when it has none."""
        return cls(OutcomeKind.RETRY, reason=reason, after_s=after_s)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a guard returns: Allow, Block, Redact or Revise."""


@dataclass(frozen=True, slots=True)
class Allow(Decision):
    """The guarded values may pass unchanged."""


@dataclass(frozen=True, slots=True)
class Block(Decision):
    """The guarded values pass to nobody; what needs them ends as blocked."""

    reason: str

    def __post_init__(self) -> None:
        _check_text(self, "reason", self.reason)


@dataclass(frozen=True, slots=True)
class Redact(Decision):
    """The guarded value is replaced, under its original name and contract.

    `of` names the parameter that is replaced; needed when the guard gates more than one.
    """

    value: Any
    of: str | None = None

    def __post_init__(self) -> None:
        _check_text(self, "of", self.of, or_none=True)


@dataclass(frozen=True, slots=True)
class Revise(Decision):
    """The guarded node is asked for another revision; `feedback` reaches it as `Feedback`.

    `of` names the parameter, needed when the guard gates more than one. `score` ranks candidates:
    when no revision passes, the one with the highest score is `Run.best`.
    """

    feedback: str
    of: str | None = None
    score: float = 0.0

    def __post_init__(self) -> None:
        _check_text(self, "feedback", self.feedback)
        _check_text(self, "of", self.of, or_none=True)
        _check_number(self, "score", self.score)


@dataclass(frozen=True, slots=True)
class Inquiry:
    """What `reconcile` found out about an effect that was cut off: Happened, NotHappened or
    CantTell."""


@dataclass(frozen=True, slots=True)
class Happened(Inquiry):
    """The effect took place; `value` is what the stage would have returned."""

    value: Any


@dataclass(frozen=True, slots=True)
class NotHappened(Inquiry):
    """The effect did not take place and will not any more: the stage may run again."""


@dataclass(frozen=True, slots=True)
class CantTell(Inquiry):
    """Nobody knows; the effect stays unknown, and a person must look."""

    reason: str = ""

    def __post_init__(self) -> None:
        _check_text(self, "reason", self.reason)


@dataclass(frozen=True, slots=True)
class LetStand(Inquiry):
    """What a person may say of an undo that is stuck: the effect stays as it is, and what was done
    before it may be taken back."""

    reason: str

    def __post_init__(self) -> None:
        _check_text(self, "reason", self.reason)


@dataclass(frozen=True, slots=True)
class Feedback:
    """What the guards said about the revision before; a stage takes it as a parameter."""

    texts: tuple[str, ...]
    """One per guard that asked for the revision, in order of their decisions."""
    revision: int
    """The revision that is being made: 2, 3, ..."""


@dataclass(frozen=True, slots=True)
class Branch:
    """What a route returns: the branch to take, how sure it is (0 to 1), and why."""

    name: str
    confidence: float = field(default=1.0, kw_only=True)
    reason: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        _check_text(self, "name", self.name)
        _check_text(self, "reason", self.reason)
        _check_number(self, "confidence", self.confidence)


def _check_text(said: Any, name: str, value: Any, *, or_none: bool = False) -> None:
    if not isinstance(value, str) and not (or_none and value is None):
        raise _wrong(said, name, "text, or None" if or_none else "text", value)


def _check_number(said: Any, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or value != value:
        raise _wrong(said, name, "a number", value)


def _wrong(said: Any, name: str, expected: str, value: Any) -> ContractError:
    kind = type(said).__name__
    return ContractError(
        "contract.said",
        f"the {name} of a {kind} is no {expected.partition(',')[0].removeprefix('a ')}",
        field=name,
        expected=expected,
        got="nan" if isinstance(value, float) and value != value else type(value).__name__,
        fix=f"give {expected}: {kind}(..., {name}=...)",
    )


Stream: TypeAlias = AsyncIterator[T]
"""Return annotation of a generator stage: items reach `.stream` one by one, the node's value is the
list of all of them."""
