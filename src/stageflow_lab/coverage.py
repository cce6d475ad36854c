"""Whether a run came where it meant to go: the marks it reached, the faults that fired.

A scenario that never met what it is about passes by doing nothing. So its header names the marks
that it must reach (`stageflow.model.marks`) and the faults that it injects, and a run without them
decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from .history import History
from .scenario import Scenario

FAULTS_FIRED: Final = "faults_fired"
"""A gate metric of this name accounts for all faults of its scenario: none need be told singly."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What was met: marks and faults by name, with how often."""

    marks: Mapping[str, int] = field(default_factory=dict)
    fired: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, history: History, marks: Mapping[str, int]) -> Coverage:
        """The faults that the load told by `History.fired`, and `marks` as counted."""
        return cls(dict(marks), history.faults_fired())


def vacuous(scenario: Scenario, coverage: Coverage) -> str | None:
    """Why the run decides nothing: a mark never reached, a fault never fired; None when it may."""
    missed = [name for name in scenario.marks if not coverage.marks.get(name)]
    silent = [name for name in scenario.faults if not coverage.fired.get(name)]
    accounted = scenario.metric(FAULTS_FIRED)
    if accounted is not None and accounted.gate:
        silent = []
    said = []
    if missed:
        said.append(f"never reached: {', '.join(missed)}")
    if silent:
        said.append(f"never fired: {', '.join(silent)}")
    return "; ".join(said) or None
