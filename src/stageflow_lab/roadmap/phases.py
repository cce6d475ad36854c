"""In which of the roadmap's five phases a row runs, and in what order within it.

The roadmap's "Execution Priority Order" names phases for most rows; the rest are placed by one
rule: the rest of Tier 1 runs in phase 2, Tiers 6 and 8 in phase 3.
"""

from __future__ import annotations

from typing import Final

PHASE_NAMES: Final = {
    1: "Foundation",
    2: "Stage Reliability",
    3: "Infrastructure",
    4: "Industry Verticals",
    5: "Continuous",
}

_FIRST_IN_TIER_2: Final = frozenset(
    {"GUARD-001", "GUARD-002", "GUARD-003", "GUARD-004", "WORK-001", "WORK-002"}
)
_PHASE_OF_TIER: Final = {1: 2, 2: 2, 3: 3, 4: 4, 5: 2, 6: 3, 7: 3, 8: 3, 9: 5, 10: 5}
_FIRST_VERTICALS: Final = ("FIN", "HEALTH", "DEF")


def phase_of(row: str, *, tier: int, priority: str) -> int:
    """The phase 1..5 of `row`. `priority` is "P0", "P1" or "P2"."""
    if tier == 1 and priority == "P0":
        return 1
    if row in _FIRST_IN_TIER_2:
        return 1
    return _PHASE_OF_TIER[tier]


def rank_in_phase(row: str, *, phase: int, priority: str) -> tuple[int, int]:
    """Sort key within a phase: named verticals first in phase 4, then by priority."""
    prefix = row.rpartition("-")[0]
    later = int(phase == 4 and prefix not in _FIRST_VERTICALS)
    return later, int(priority.removeprefix("P"))
