"""Batteries for WORK stages: bodies that change the outside world, and what keeps count of it.

What they promise is told in docs/effects.md and docs/undo.md.
"""

from stageflow.stages.work.idempotency import Effect, idempotent
from stageflow.stages.work.ledger.entry import LedgerRules
from stageflow.stages.work.ledger.ledger import Ledger
from stageflow.stages.work.ledger.memory import MemoryEffects
from stageflow.stages.work.undo.files import Files
from stageflow.stages.work.undo.log import Conflict, Restored, StepStanding, TimelineStep
from stageflow.stages.work.undo.memory import MemoryResource, MemoryUndo
from stageflow.stages.work.undo.postgres_rows import PostgresRows
from stageflow.stages.work.undo.records import State
from stageflow.stages.work.undo.resource import (
    Changed,
    FormLost,
    Irreversible,
    Resource,
    WriteRefused,
)
from stageflow.stages.work.undo.rows import Rows
from stageflow.stages.work.undo.timeline import Timeline, TimelineLook
from stageflow.stages.work.undo.undo_log import TimelineSummary, UndoLog, UndoRules, put_back
from stageflow.stages.work.undo.web import Body, WebResources

__all__ = [
    "Body",
    "Changed",
    "Conflict",
    "Effect",
    "Files",
    "FormLost",
    "Irreversible",
    "Ledger",
    "LedgerRules",
    "MemoryEffects",
    "MemoryResource",
    "MemoryUndo",
    "PostgresRows",
    "Resource",
    "Restored",
    "Rows",
    "State",
    "StepStanding",
    "Timeline",
    "TimelineLook",
    "TimelineStep",
    "TimelineSummary",
    "UndoLog",
    "UndoRules",
    "WebResources",
    "WriteRefused",
    "idempotent",
    "put_back",
]
