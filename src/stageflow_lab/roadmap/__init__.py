"""The 308 rows of the roadmap as data."""

from __future__ import annotations

from .entries import RoadmapRow, entries, execution_order, sabotages_of, section_of
from .phases import PHASE_NAMES

__all__ = ["PHASE_NAMES", "RoadmapRow", "entries", "execution_order", "sabotages_of", "section_of"]
