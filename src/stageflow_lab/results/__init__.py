"""Stored results: their values, their JSON, the folder they lie in."""

from __future__ import annotations

from .audit import AuditResult, SabotageResult
from .result import SCHEMA_VERSION, Result
from .store import ResultStore, Standing, invalid_because, judged_with_audit

__all__ = [
    "SCHEMA_VERSION",
    "AuditResult",
    "Result",
    "ResultStore",
    "SabotageResult",
    "Standing",
    "invalid_because",
    "judged_with_audit",
]
