"""Orders carried out by processes of their own, each begun afresh."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

_Order = TypeVar("_Order")
_Result = TypeVar("_Result")


def each(
    work: Callable[[_Order], _Result], orders: Sequence[_Order], *, at_once: int
) -> Iterator[tuple[_Order, _Result | None, str]]:
    """Each order with its result, or None and what it raised, in order of completion."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(at_once, mp_context=fresh) as pool:
        asked = {pool.submit(work, order): order for order in orders}
        for future in as_completed(asked):
            error = future.exception()
            if error is None:
                yield asked[future], future.result(), ""
            else:
                yield asked[future], None, f"{type(error).__name__}: {error}"[:300]
