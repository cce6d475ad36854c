"""What a tool said, checked, and how it came to be the value that is handed on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from stageflow.stages.work.tools.rules import RepairKind

T = TypeVar("T")
EXTERNAL: Final = "external"
"""The label of whatever a tool brought in: nobody here has said it."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a value came from and what was done to it."""

    tool: str
    bytes: int
    """Of the text as it came; of a value that is no text, of its JSON."""
    sha256: str
    """Of the same bytes, 64 hexadecimal digits."""
    contract: str
    """The hash of the contract that it passed."""
    repairs: tuple[RepairKind, ...] = ()
    """In the order in which they were made; none of them loses anything."""
    duplicated: int = 0
    """Names that stood twice in an object, under `duplicates="report"`; the last one counts."""
    rounded: int = 0
    """Numbers with more digits than a double keeps."""
    labels: frozenset[str] = frozenset({EXTERNAL})


@dataclass(frozen=True, slots=True)
class ToolOutput(Generic[T]):
    """A checked value and its provenance. The value has passed its contract and its invariants;
    whether what it says is true, or meant well, no check can know."""

    value: T
    provenance: Provenance
