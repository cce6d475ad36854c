"""The four kinds of errors, and what one sign of them weighs."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class ErrorKind(enum.Enum):
    """What an error says about another attempt. The value is the name used in events and docs."""

    PERMANENT = "permanent"
    """The same request fails again: a person, or another request, is needed."""
    TRANSIENT = "transient"
    """Nothing was done, and a later attempt may succeed."""
    THROTTLED = "throttled"
    """Refused for its rate: a later attempt may succeed, and an early one makes things worse."""
    UNKNOWN = "outcome-unknown"
    """It may have been done: asked again only where that does no harm."""


class Basis(enum.IntEnum):
    """What a verdict rests on, from the weakest to the strongest."""

    NOTHING = 0
    WORDING = 1
    """The text of a message."""
    PROGRAM = 2
    """The type of an error of Python's own that a stage raises for itself, as ValueError."""
    TYPE = 3
    """The exception's type, or its name."""
    STATUS = 4
    """A number or code of a standard: HTTP, SQLSTATE, errno, gRPC."""
    CODE = 5
    """A code for machines that the service itself put into its answer."""
    SAID = 6
    """The service says outright whether to try again."""


@dataclass(frozen=True, slots=True)
class Sign:
    """One thing seen in an error, and what it means."""

    kind: ErrorKind
    basis: Basis
    evidence: str
    by_phase: bool = False
    """True when it turns on whether the request had been sent."""


ADVICE: Final = {
    ErrorKind.PERMANENT: "don't repeat it: change the request, the credentials or the code",
    ErrorKind.TRANSIENT: "repeat it after a jittered wait, within a budget",
    ErrorKind.THROTTLED: "repeat it no sooner than the service asks, and send less",
    ErrorKind.UNKNOWN: "repeat reads and keyed requests; of other effects find out what happened",
}
UNPLACED: Final = "nothing says what it means; repeat it only where repeating does no harm"


@dataclass(frozen=True, slots=True)
class Classification:
    """What an error means for another attempt, and why."""

    kind: ErrorKind
    basis: Basis
    """What the verdict rests on; NOTHING when no part of the error was recognised."""
    evidence: tuple[str, ...]
    """What was seen, the decisive sign first. Codes and names of types, no text of messages."""
    advice: str
    """One sentence for whoever handles it."""
    retry_after_s: float | None = None
    """Seconds that the service asks to wait, at least 0; None when it does not say."""
    in_doubt: bool = False
    """True when some part of it was cut off from a receiver that may have done what it was asked;
    also for a group of errors of which another part is permanent."""

    @property
    def is_placed(self) -> bool:
        """False when nothing was recognised, and the kind is only the careful assumption."""
        return self.basis is not Basis.NOTHING
