"""What may differ from place to place, read from the environment."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """How this desk is set up. A desk with no environment works offline."""

    model: str | None
    """A pydantic-ai model name, or None for the offline author."""
    outbox: Path
    diary: Path | None
    """A file that gets the name of each stage as its body starts; None keeps no diary."""
    pace_s: float
    """Seconds the offline author takes over an answer, as a model would; time to pull a plug."""

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """From `ANSWER_DESK_MODEL`, `_OUTBOX`, `_DIARY` and `_PACE_S`."""
        found = os.environ if environment is None else environment
        diary = found.get("ANSWER_DESK_DIARY")
        return cls(
            model=found.get("ANSWER_DESK_MODEL") or None,
            outbox=Path(found.get("ANSWER_DESK_OUTBOX", ".stageflow/outbox")),
            diary=Path(diary) if diary else None,
            pace_s=float(found.get("ANSWER_DESK_PACE_S", "0")),
        )

    def note(self, stage: str) -> None:
        """Writes the stage's name down, so that a reader can count what ran how often."""
        if self.diary is not None:
            with self.diary.open("a", encoding="utf-8") as file:
                file.write(f"{time.time():.3f} {stage}\n")
