"""The pure state machine of a run: events in, records and actions out."""

from stageflow.scheduler.actions import Action, Ask, End, Launch, Stop, Wait
from stageflow.scheduler.deadlock import (
    AwaitedEnds,
    PoolState,
    Waits,
    cycles,
    knots,
    own_cycle,
    stuck,
)
from stageflow.scheduler.inheritance import Demand, Inheritance, Supply
from stageflow.scheduler.line import RankedLine, Ranks
from stageflow.scheduler.program import Program
from stageflow.scheduler.recovery import put_questions, replay, take_over
from stageflow.scheduler.saga import NEEDS_PERSON, UNDOES, Move, Stand, next_move
from stageflow.scheduler.scheduler import ABANDONED_MAX, Scheduler
from stageflow.scheduler.sighting import Sighting, standing
from stageflow.scheduler.stagnation import Complaint, SentBack, stall_of
from stageflow.scheduler.state import Cause, NodeState
from stageflow.scheduler.undoing import PAST_PIVOT, in_doubt, stands_of
from stageflow.scheduler.wording import text_of, wording_of

__all__ = [
    "ABANDONED_MAX",
    "NEEDS_PERSON",
    "PAST_PIVOT",
    "UNDOES",
    "Action",
    "Ask",
    "AwaitedEnds",
    "Cause",
    "Complaint",
    "Demand",
    "End",
    "Inheritance",
    "Launch",
    "Move",
    "NodeState",
    "PoolState",
    "Program",
    "RankedLine",
    "Ranks",
    "Scheduler",
    "SentBack",
    "Sighting",
    "Stand",
    "Stop",
    "Supply",
    "Wait",
    "Waits",
    "cycles",
    "in_doubt",
    "knots",
    "next_move",
    "own_cycle",
    "put_questions",
    "replay",
    "stall_of",
    "standing",
    "stands_of",
    "stuck",
    "take_over",
    "text_of",
    "wording_of",
]
