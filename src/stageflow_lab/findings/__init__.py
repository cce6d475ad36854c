"""What scenarios found wrong: one finding per defect as seen, kept, counted, reproducible."""

from __future__ import annotations

from .finding import Finding, FindingType, Severity, State, fingerprint_of, is_finding
from .store import FindingStore

__all__ = [
    "Finding",
    "FindingStore",
    "FindingType",
    "Severity",
    "State",
    "fingerprint_of",
    "is_finding",
]
