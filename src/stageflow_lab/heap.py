"""A heap that does not disturb: garbage collections look only at what is made meanwhile."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def still_heap() -> Iterator[None]:
    """What is alive now, pipelines too, is left out of garbage collections meanwhile.

    How often and how long a full collection walks what was there before is settled by the heap,
    not by the runs: what these make is collected as ever.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
