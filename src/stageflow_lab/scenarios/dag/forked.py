"""Work spread over processes, its results in order."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def spread(
    work: Callable[[Sequence[T]], list[R]], asked: Sequence[T], *, workers: int, chunk: int
) -> Iterator[R]:
    """What `work` makes of chunks of what is asked, in order, by so many processes.

    They are forked, not started anew: a sabotage of this process is one of theirs.
    """
    chunks = [asked[first : first + chunk] for first in range(0, len(asked), chunk)]
    if workers == 1 or len(chunks) == 1:
        for each in chunks:
            yield from work(each)
        return
    with multiprocessing.get_context("fork").Pool(min(workers, len(chunks))) as pool:
        for made in pool.imap(work, chunks):
            yield from made
