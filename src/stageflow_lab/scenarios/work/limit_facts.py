"""What was seen of calls under limits, and what it comes to: limits exceeded, order, utilization.

A log is plain data, made alike by simulated and by real processes; `judged` is a pure function of
it. A call asks, enters with its units, and leaves; or it gives up before it has entered. Units are
idle when somebody who waits could have them under every limit, by a search in the order of asking:
so what a large request keeps free at the head of a line counts as idle too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, NamedTuple

SAME_INSTANT_S: Final = 1e-9
EXAMPLES_MAX: Final = 5


class Bounds(NamedTuple):
    """The limits: over all tools, of each tool, and of each tenant within a tool."""

    total: int
    tools: Mapping[str, int]
    tenants: Mapping[str, int]
    """Tool to the units of each tenant; tools that are not named have no such limit."""


class Call(NamedTuple):
    """One call of a tool."""

    tool: str
    tenant: str
    units: int
    line: str = ""
    """Whose order is promised among themselves: of a class, or of a process and a class."""


class Step(NamedTuple):
    """Something that a call did. `fence`: of the grant, where there is one."""

    at_s: float
    kind: str
    """`asks`, `enters`, `leaves`, `gives_up`."""
    call: int
    fence: int = 0


@dataclass
class Facts:
    """Of one log."""

    calls: int = 0
    grants: int = 0
    exceeded: int = 0
    overtaken: int = 0
    pairs: int = 0
    """Grants that could have overtaken somebody."""
    reached: Counter[str] = field(default_factory=Counter)
    """Which limits were full at some time: `total`, `tool`, `tenant`."""
    busy_unit_s: float = 0.0
    """While somebody waited."""
    idle_unit_s: float = 0.0
    """That somebody who waited could have had."""
    told: list[str] = field(default_factory=list)


class Inside:
    """Units in use."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.total = 0
        self.tools: Counter[str] = Counter()
        self.tenants: Counter[tuple[str, str]] = Counter()

    def add(self, call: Call, sign: int = 1) -> None:
        self.total += sign * call.units
        self.tools[call.tool] += sign * call.units
        self.tenants[call.tool, call.tenant] += sign * call.units

    def over(self, call: Call) -> list[str]:
        """The limits that are exceeded where `call` counts."""
        return [name for name, used, most in self._limits(call) if used > most]

    def full(self, call: Call) -> list[str]:
        return [name for name, used, most in self._limits(call) if used == most]

    def fits(self, call: Call) -> bool:
        return all(used + call.units <= most for _, used, most in self._limits(call))

    def _limits(self, call: Call) -> Iterable[tuple[str, int, int]]:
        yield "total", self.total, self.bounds.total
        yield "tool", self.tools[call.tool], self.bounds.tools[call.tool]
        share = self.bounds.tenants.get(call.tool)
        if share is not None:
            yield "tenant", self.tenants[call.tool, call.tenant], share

    def copy(self) -> Inside:
        other = Inside(self.bounds)
        other.total = self.total
        other.tools, other.tenants = self.tools.copy(), self.tenants.copy()
        return other


def judged(
    bounds: Bounds,
    calls: Mapping[int, Call],
    steps: Sequence[Step],
    *,
    from_s: float = 0.0,
    until_s: float = math.inf,
) -> Facts:
    """What a log comes to. Utilization counts from `from_s`, when all processes were at work, up to
    `until_s`, when the load ended."""
    facts, inside, waiting = Facts(calls=len(calls)), Inside(bounds), dict[int, Call]()
    last_s = from_s
    for step in sorted(steps, key=lambda each: (each.at_s, each.kind != "leaves")):
        end_s = min(step.at_s, until_s)
        if waiting and end_s > last_s:
            idle = _idle(inside, waiting.values())
            facts.idle_unit_s += idle * (end_s - last_s)
            facts.busy_unit_s += inside.total * (end_s - last_s)
        last_s = max(last_s, end_s)
        call = calls[step.call]
        if step.kind == "asks":
            waiting[step.call] = call
        elif step.kind == "gives_up":
            waiting.pop(step.call, None)
        elif step.kind == "leaves":
            inside.add(call, -1)
        else:
            waiting.pop(step.call, None)
            inside.add(call)
            facts.grants += 1
            facts.reached.update(inside.full(call))
            over = inside.over(call)
            facts.exceeded += bool(over)
            if over and len(facts.told) < EXAMPLES_MAX:
                facts.told.append(f"{call} exceeded {', '.join(over)} at {step.at_s:.3f} s")
    _judge_order(facts, calls, steps)
    return facts


def _idle(inside: Inside, waiting: Iterable[Call]) -> int:
    """Units that those who wait could have now."""
    if inside.total >= inside.bounds.total:
        return 0
    found, then = 0, None
    for call in waiting:
        then = inside.copy() if then is None else then
        if then.fits(call):
            then.add(call)
            found += call.units
    return found


def _judge_order(facts: Facts, calls: Mapping[int, Call], steps: Sequence[Step]) -> None:
    """Of each line, those who were granted, in the order of asking: nobody before an earlier one.

    By the fences where there are any; else by when they entered, where one instant is no order."""
    entered = {step.call: step for step in steps if step.kind == "enters"}
    lines: dict[tuple[str, str, str], list[Step]] = {}
    for step in steps:
        if step.kind == "asks" and step.call in entered:
            call = calls[step.call]
            lines.setdefault((call.line, call.tool, call.tenant), []).append(entered[step.call])
    for key, grants in lines.items():
        for earlier, later in pairwise(grants):
            facts.pairs += 1
            if earlier.fence and later.fence:
                is_overtaken = later.fence < earlier.fence
            else:
                is_overtaken = later.at_s < earlier.at_s - SAME_INSTANT_S
            facts.overtaken += is_overtaken
            if is_overtaken and len(facts.told) < EXAMPLES_MAX:
                facts.told.append(f"call {later.call} overtook {earlier.call} in {key}")


def plain(facts: Facts) -> dict[str, Any]:
    """As a history keeps it."""
    return {
        "calls": facts.calls,
        "grants": facts.grants,
        "exceeded": facts.exceeded,
        "overtaken": facts.overtaken,
        "pairs": facts.pairs,
        "reached": dict(facts.reached),
        "busy_unit_s": facts.busy_unit_s,
        "idle_unit_s": facts.idle_unit_s,
        "told": facts.told,
    }
