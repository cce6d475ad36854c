"""Batteries for WORK stages: bodies that change the outside world, and what keeps count of it.

What they promise is told in docs/effects.md.
"""

from stageflow.stages.work.idempotency import Effect, idempotent
from stageflow.stages.work.ledger.entry import LedgerRules
from stageflow.stages.work.ledger.ledger import Ledger
from stageflow.stages.work.ledger.memory import MemoryEffects

__all__ = ["Effect", "Ledger", "LedgerRules", "MemoryEffects", "idempotent"]
