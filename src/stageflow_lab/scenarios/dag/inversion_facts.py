"""What the times of a set's requests say of waits, of ended boosts, and of what was told.

Nothing is asked of the runtime here: who was served while who waited is seen from the times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from .task_sets import EXECUTOR, TaskSet

Facts: TypeAlias = dict[str, Any]
NEVER: Final = -1


@dataclass(slots=True, eq=False)
class Held:
    """One request for units: who asked, and when it was asked, granted and given back, in ticks."""

    task: str
    priority: int
    """The task's own."""
    pool: str
    units: int
    asked_ticks: int = NEVER
    granted_ticks: int = NEVER
    released_ticks: int = NEVER

    @property
    def wait_ticks(self) -> int:
        return self.granted_ticks - self.asked_ticks

    def waits_at(self, at_ticks: float) -> bool:
        """True when it surely waits then; at its very ends nobody can say."""
        return self.asked_ticks < at_ticks < self.granted_ticks

    def holds_at(self, at_ticks: float) -> bool:
        return self.granted_ticks < at_ticks < self.released_ticks


def facts_of(
    tasks: TaskSet,
    held: Sequence[Held],
    *,
    bounds_ticks: Sequence[int],
    slack_ticks: float,
    told: Mapping[str, Sequence[str]],
) -> Facts:
    """`told`: task to those whom the event about its last wait above its bound named."""
    highest = tasks.tasks[0].name
    own = [each for each in held if each.task == highest]
    waits: dict[str, int] = dict.fromkeys((task.name for task in tasks.tasks), 0)
    for each in held:
        waits[each.task] += each.wait_ticks
    tried, kept = _restored(held)
    long = [
        each.asked_ticks + bound_ticks + slack_ticks
        for each, bound_ticks in zip(own, bounds_ticks, strict=True)
        if each.wait_ticks > bound_ticks
    ]
    return {
        "waits": [each.wait_ticks for each in own],
        "stage_waits": waits,
        "inversions": sum(_is_inverted(each, held) for each in own),
        "boosts_tried": tried,
        "boosts_kept": kept,
        "long_waits": len(long),
        "was_told": highest in told,
        "long_told": highest in told and sorted(told[highest]) == _chain(own, held, long),
    }


def _is_inverted(request: Held, held: Sequence[Held]) -> bool:
    """True when a lower stage held units of the pool while this request waited for it."""
    return request.pool != EXECUTOR and any(
        other.pool == request.pool
        and other.priority < request.priority
        and other.granted_ticks <= request.asked_ticks < other.released_ticks
        for other in held
        if other.task != request.task and request.wait_ticks > 0
    )


def _chain(own: Sequence[Held], held: Sequence[Held], long: Sequence[float]) -> list[str]:
    """Those on whom the last long wait depended when it was told."""
    if not long:
        return []
    at_ticks = long[-1]
    waiting = {each.task: each for each in held if each.waits_at(at_ticks)}
    reached: set[str] = set()
    look = [each.pool for each in own if each.waits_at(at_ticks)]
    pools = set(look)
    while look:
        pool = look.pop()
        for each in held:
            if each.pool == pool and each.holds_at(at_ticks):
                reached.add(each.task)
                awaited = waiting.get(each.task)
                if awaited is not None and awaited.pool not in pools:
                    pools.add(awaited.pool)
                    look.append(awaited.pool)
    return sorted(reached)


def _restored(held: Sequence[Held]) -> tuple[int, int]:
    """(times that a boost had ended and its stage asked again, holding nothing, where somebody
    more urgent waited; those of them in which it was served before him)."""
    by_task: dict[str, list[Held]] = {}
    for each in held:
        by_task.setdefault(each.task, []).append(each)
    tried = kept = 0
    for mine in by_task.values():
        for later in _after_boosts(mine, held):
            contended = [each for each in later if _met_by_more_urgent(each, held)]
            tried += bool(contended)
            kept += any(_passed_more_urgent(each, held) for each in contended)
    return tried, kept


def _after_boosts(mine: Sequence[Held], held: Sequence[Held]) -> Iterator[list[Held]]:
    """For each outermost section at whose end somebody more urgent waited for its pool: what the
    stage asked the executor for between that and its next section."""
    outer = list(_outermost(mine))
    for number, each in enumerate(outer):
        rest = outer[number + 1 :]
        until_ticks = rest[0].asked_ticks if rest else math.inf
        if any(
            other.priority > each.priority
            and other.pool == each.pool
            and other.asked_ticks < each.released_ticks <= other.granted_ticks
            for other in held
        ):
            yield [
                later
                for later in mine
                if later.pool == EXECUTOR and each.released_ticks <= later.asked_ticks < until_ticks
            ]


def _outermost(mine: Sequence[Held]) -> Iterator[Held]:
    """Sections of one stage that lie in no other; in order of asking."""
    until_ticks = 0
    for each in mine:
        if each.pool != EXECUTOR and each.asked_ticks >= until_ticks:
            until_ticks = each.released_ticks
            yield each


def _met_by_more_urgent(request: Held, held: Sequence[Held]) -> bool:
    """True when somebody more urgent waited for the same units at some time while it did."""
    return any(
        other.pool == request.pool
        and other.priority > request.priority
        and other.asked_ticks < request.granted_ticks
        and other.granted_ticks > request.asked_ticks
        for other in held
    )


def _passed_more_urgent(request: Held, held: Sequence[Held]) -> bool:
    """True when somebody more urgent was waiting when it was served, and waited on."""
    return any(
        other.pool == request.pool
        and other.priority > request.priority
        and other.asked_ticks < request.granted_ticks < other.granted_ticks
        for other in held
    )
