"""When a loop of revisions is given up before its bound: the policy, and what was seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from stageflow.model.errors import BuildError

StallKind: TypeAlias = Literal["repeat", "cycle", "paraphrase", "rotation"]


@dataclass(frozen=True, slots=True)
class Progress:
    """When a stage that guards send back again and again is given up before `revisions=`.

    `repeats` revisions in a row that brought nothing new end the loop: with 2, the default, one
    that runs in a circle of p revisions is ended p + 2 after it began, and one that falls back once
    is left alone. None: only `revisions=` ends it. `similarity`, between 0 and 1, is the share of
    letter trigrams (Dice) from which one text may be another in other words; with 1.0 only equal
    values and complaints that come back count. docs/guards-and-loops.md says what is new.
    """

    repeats: int | None = 2
    similarity: float = 0.6

    def __post_init__(self) -> None:
        given = self.repeats
        if given is not None and (
            isinstance(given, bool) or not isinstance(given, int) or given < 1
        ):
            raise BuildError(
                "policy.progress",
                "repeats of a Progress is no number of turns",
                field="repeats",
                expected="an integer of 1 or more, or None",
                got=repr(given)[:80],
                fix="Progress(repeats=2)",
            )
        alike = self.similarity
        is_number = isinstance(alike, (int, float)) and not isinstance(alike, bool)
        if not is_number or not 0 < alike <= 1:
            raise BuildError(
                "policy.progress",
                "similarity of a Progress is no share",
                field="similarity",
                expected="a number above 0, at most 1",
                got=repr(alike)[:80],
                fix="Progress(similarity=0.6)",
            )


@dataclass(frozen=True, slots=True)
class Stall:
    """Why a loop was given up: what came again, how long its period is, and since when."""

    kind: StallKind
    """repeat: the same value; cycle: the same values in turn; paraphrase: earlier values in other
    words; rotation: complaints that had been met come back, one after the other."""
    period: int
    """Revisions from the last one back to what it repeats."""
    since: int
    """The revision with which the loop began."""
    revision: int
    """The last revision that was made."""

    def __str__(self) -> str:
        what = {
            "repeat": "the same value came again",
            "cycle": f"values came again in a cycle of {self.period}",
            "paraphrase": "earlier values came again in other words",
            "rotation": f"complaints came again in a cycle of {self.period}",
        }[self.kind]
        return f"{what}, from revision {self.since} to {self.revision}"

    def data(self) -> dict[str, Any]:
        """As a record holds it."""
        return {
            "kind": self.kind,
            "period": self.period,
            "since": self.since,
            "revision": self.revision,
        }
