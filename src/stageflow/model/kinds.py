"""The six kinds of stage and what each promises (docs/concepts.md, "Kinds mean something")."""

from __future__ import annotations

import enum
import math


class Kind(enum.Enum):
    """What a stage is for. The value is the name used in journals, events and diagrams."""

    TRANSFORM = "transform"
    ENRICH = "enrich"
    ROUTE = "route"
    GUARD = "guard"
    WORK = "work"
    AGENT = "agent"
    JOIN = "join"
    """A node of the engine's own that waits for several branches; it runs no user code."""
    WAIT = "wait"
    """A node of the engine's own that waits for a person; it runs no user code."""
    CHILD = "child"
    """A node that runs another pipeline; what has effects there is that pipeline's own stages."""
    EXPORT = "export"
    """A node of the engine's own: an output of a child, under the name that its parent gave it."""

    @property
    def timeout_s(self) -> float:
        """Default seconds one attempt may take."""
        return _TIMEOUT_S[self]

    @property
    def has_effects(self) -> bool:
        """True when an attempt that was cut off may have changed the outside world."""
        return self is Kind.WORK


_TIMEOUT_S = {
    Kind.TRANSFORM: 30.0,
    Kind.ENRICH: 30.0,
    Kind.ROUTE: 10.0,
    Kind.GUARD: 10.0,
    Kind.WORK: 60.0,
    Kind.AGENT: 300.0,
    Kind.JOIN: 10.0,
    Kind.WAIT: math.inf,
    Kind.CHILD: 300.0,
    Kind.EXPORT: 10.0,
}
