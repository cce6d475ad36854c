"""The world a load runs in: its seed, its size, a place to write, and how to tell progress."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stageflow.model.marks import MarkCounts

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What `load` is given. All randomness comes from `rng` or from seeds made by `seed_for`.

    `size` holds the parameters of `size_name`, already scaled; `scale` is 1.0, or 0.1 in an audit.
    `scratch` is an empty folder of this run, removed afterwards. `deadline` is a `time.monotonic()`
    instant after which the runner kills the process; None when there is no limit. `sabotage` names
    the defect already applied in this process, or None. `marks` counts what this process and the
    tasks of its load reach; what other processes or threads of the load reached is added by hand.
    """

    seed: int
    size: Mapping[str, Any]
    scratch: Path
    size_name: str = "quick"
    scale: float = 1.0
    deadline: float | None = None
    sabotage: str | None = None
    report: Progress | None = None
    marks: MarkCounts = field(default_factory=MarkCounts)
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rng", random.Random(self.seed))

    def seed_for(self, *labels: object) -> int:
        """A 63-bit seed that depends on the world's seed and `labels` only, not on call order."""
        text = "\x1f".join(str(part) for part in (self.seed, *labels))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Tell how far the load is. Cheap enough to call per item; the display thins it out."""
        if self.report is not None:
            self.report(done, total, note)

    def time_left(self) -> float:
        """Seconds until the runner ends this run; infinite without a limit, never below 0."""
        if self.deadline is None:
            return float("inf")
        return max(0.0, self.deadline - time.monotonic())
