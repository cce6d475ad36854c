"""Wall time, as the runtime asks for it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where unix time comes from. Monotonic time is the event loop's."""

    def wall_s(self) -> float:
        """Unix time in seconds."""
        ...


class SystemClock:
    """This machine's clock."""

    __slots__ = ()

    def wall_s(self) -> float:
        """Unix time in seconds."""
        return time.time()
