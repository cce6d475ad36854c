"""Whether code runs under `stageflow.sim`, which lies above this package."""

from __future__ import annotations

import asyncio


def is_simulated(loop: asyncio.AbstractEventLoop) -> bool:
    """True for a loop that chooses among ready sources: it must be offered choices, not threads."""
    return hasattr(loop, "pick")
