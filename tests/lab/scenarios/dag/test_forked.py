"""Work over processes: in order, and counted where it was asked for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from stageflow.model.marks import MarkCounts, counting, reached
from stageflow_lab.scenarios.dag.forked import spread


def squares(numbers: Sequence[int]) -> list[int]:
    for number in numbers:
        if number % 2:
            reached("late_write")
    return [number * number for number in numbers]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_spread_comes_back_in_order_with_its_marks(workers: int) -> None:
    with counting(MarkCounts()) as counts:
        assert list(spread(squares, range(9), workers=workers, chunk=2)) == [
            number * number for number in range(9)
        ]
    assert counts.all() == {"late_write": 4}
