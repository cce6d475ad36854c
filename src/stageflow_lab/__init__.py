"""The stress-testing lab of Stageflow: scenarios, their runner, their audit, their reports.

A scenario file imports everything it needs from here.
"""

from __future__ import annotations

from .errors import LabError
from .history import History, HistoryEvent
from .metric import Measured, Metric, counted, share, zero_claim
from .ratio import Rounds, ratio, ratio_of, slope, timed_pairs, timed_rounds
from .sabotage import Sabotage, patched, sabotage
from .scenario import Judgement, Picture, Scenario, Sizes
from .world import World

__all__ = [
    "History",
    "HistoryEvent",
    "Judgement",
    "LabError",
    "Measured",
    "Metric",
    "Picture",
    "Rounds",
    "Sabotage",
    "Scenario",
    "Sizes",
    "World",
    "counted",
    "patched",
    "ratio",
    "ratio_of",
    "sabotage",
    "share",
    "slope",
    "timed_pairs",
    "timed_rounds",
    "zero_claim",
]
