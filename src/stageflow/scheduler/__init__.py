"""The pure state machine of a run: events in, records and actions out."""

from stageflow.scheduler.actions import Action, Ask, End, Launch, Stop, Wait
from stageflow.scheduler.deadlock import AwaitedEnds, PoolState, Waits, cycles
from stageflow.scheduler.inheritance import Demand, Inheritance, Supply
from stageflow.scheduler.line import RankedLine, Ranks
from stageflow.scheduler.program import Program
from stageflow.scheduler.recovery import put_questions, replay, take_over
from stageflow.scheduler.scheduler import ABANDONED_MAX, Scheduler
from stageflow.scheduler.sighting import Sighting, standing
from stageflow.scheduler.stagnation import Complaint, SentBack, stall_of
from stageflow.scheduler.state import Cause, NodeState
from stageflow.scheduler.wording import text_of, wording_of

__all__ = [
    "ABANDONED_MAX",
    "Action",
    "Ask",
    "AwaitedEnds",
    "Cause",
    "Complaint",
    "Demand",
    "End",
    "Inheritance",
    "Launch",
    "NodeState",
    "PoolState",
    "Program",
    "RankedLine",
    "Ranks",
    "Scheduler",
    "SentBack",
    "Sighting",
    "Stop",
    "Supply",
    "Wait",
    "Waits",
    "cycles",
    "put_questions",
    "replay",
    "stall_of",
    "standing",
    "take_over",
    "text_of",
    "wording_of",
]
