"""One call of a slow tool: its budget, and what is seen of it from inside."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stageflow import Stage


@dataclass
class Case:
    """Of one call. Times are seconds on the loop's clock."""

    timeout_s: float
    grace_s: float
    place: Path | None = None
    """Where tools of other processes leave word; None in a simulation."""
    due: int = 1
    """Cleanups that must have begun."""
    cleaned: int = 0
    produced: list[int] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)
    """Of the tool and the tools below it, outermost first."""
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)
    """Held here, so that no collector ends what the engine should."""

    @property
    def hang_s(self) -> float:
        """Far longer than anybody may take, and yet not for ever."""
        return 6 * (self.timeout_s + self.grace_s)

    @property
    def step_s(self) -> float:
        """Between two items or signs of life."""
        return self.timeout_s / 9.7

    def clean(self) -> None:
        """A cleanup has run."""
        self.cleaned += 1


@dataclass(frozen=True, slots=True)
class Tool:
    """A stage of one kind, made for a case."""

    stage: Stage[..., Any]
    limit_s: float
    """When the caller must have its answer, the grace period left out."""
    is_fine: bool = False
    """True when it must end ok, whatever its neighbours do."""
