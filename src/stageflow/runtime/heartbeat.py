"""Signs of life: a stage that promises one every `heartbeat` seconds is stopped when it is silent.

As in Temporal (https://docs.temporal.io/encyclopedia/detecting-activity-failures): an attempt may
take long, so that its timeout says little about whether it still works, and silence says it soon.
What a sign was given with is there for the next attempt. A sign only notes the time; the timer that
looks is the one of all timeouts.
"""

from __future__ import annotations

import math
from typing import Any

from stageflow.model.errors import StageflowError


class Heartbeats:
    """The last signs of the attempts of one run, by node. Any thread may give one."""

    __slots__ = ("_details", "_last")

    def __init__(self) -> None:
        self._last: dict[int, tuple[int, float]] = {}
        self._details: dict[int, Any] = {}

    def begin(self, node: int) -> None:
        """An attempt begins: what was given with the sign before is kept, the sign is not."""
        self._last.pop(node, None)

    def give(self, node: int, attempt: int, now_s: float, details: Any) -> None:
        """`details` None leaves those that are there."""
        self._last[node] = (attempt, now_s)
        if details is not None:
            self._details[node] = details

    def details(self, node: int) -> Any:
        """Those given last; None when there are none."""
        return self._details.get(node)

    def due_s(self, node: int, attempt: int, started_s: float, heartbeat_s: float) -> float:
        """When the next sign is due, at the latest."""
        of, last_s = self._last.get(node, (attempt, started_s))
        return (max(last_s, started_s) if of == attempt else started_s) + heartbeat_s

    def forget(self, node: int) -> None:
        """It has its value: nothing of this is needed any more."""
        self._last.pop(node, None)
        self._details.pop(node, None)


def check_promised(heartbeat_s: float, node: str) -> None:
    """StageflowError `stage.no_heartbeat` for a sign of a stage that promises none."""
    if heartbeat_s == math.inf:
        raise StageflowError(
            "stage.no_heartbeat",
            f"stage {node!r} gives a heartbeat that nobody waits for",
            node=node,
            expected="a stage with heartbeat=SECONDS",
            fix="give its decorator heartbeat=..., longer than the longest silence that is normal",
        )
