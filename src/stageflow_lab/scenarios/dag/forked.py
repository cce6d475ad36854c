"""Work spread over processes, its results in order."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from stageflow.model.marks import MarkCounts, counting, passed_on

T = TypeVar("T")
R = TypeVar("R")


def spread(
    work: Callable[[Sequence[T]], list[R]], asked: Sequence[T], *, workers: int, chunk: int
) -> Iterator[R]:
    """What `work` makes of chunks of what is asked, in order, by so many processes.

    They are forked, not started anew: a sabotage of this process is one of theirs. The marks that
    they come through count here.
    """
    chunks = [asked[first : first + chunk] for first in range(0, len(asked), chunk)]
    if workers == 1 or len(chunks) == 1:
        for each in chunks:
            yield from work(each)
        return
    with multiprocessing.get_context("fork").Pool(min(workers, len(chunks))) as pool:
        for made, marks in pool.imap(partial(_counted, work), chunks):
            passed_on(marks)
            yield from made


def _counted(
    work: Callable[[Sequence[T]], list[R]], chunk: Sequence[T]
) -> tuple[list[R], dict[str, int]]:
    with counting(MarkCounts()) as counts:
        return work(chunk), counts.all()
