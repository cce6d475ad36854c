"""Selecting rows: names, globs, filters, and the nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest

from stageflow_lab import LabError
from stageflow_lab.discovery import Found
from stageflow_lab.roadmap import entries
from stageflow_lab.selection import Filters, select

OWN = {"MINE-001": Found("MINE-001", Path("mine.py"))}


def test_nothing_given_means_every_row_and_the_users_own() -> None:
    assert select(Filters(), OWN, executing=False) == (*entries(), "MINE-001")


def test_names_ignore_case_and_globs_match_prefixes() -> None:
    assert select(Filters(patterns=("core-001",)), {}, executing=False) == ("CORE-001",)
    assert len(select(Filters(patterns=("DAG-*",)), {}, executing=False)) == 10
    assert select(Filters(patterns=("MINE-*",)), OWN, executing=True) == ("MINE-001",)


def test_filters_narrow_together() -> None:
    chosen = Filters(tiers=(1,), priorities=("P0",), sections=("dag",))
    assert select(chosen, OWN, executing=True) == ("DAG-001", "DAG-002", "DAG-003")
    assert len(select(Filters(phases=(1,)), {}, executing=True)) == 16


def test_running_follows_the_execution_order() -> None:
    rows = select(Filters(patterns=("CORE-*",)), {}, executing=True)
    assert rows.index("CORE-010") < rows.index("CORE-005")


@pytest.mark.parametrize(
    ("filters", "code", "near"),
    [
        (Filters(patterns=("COR-001",)), "lab.unknown_row", "CORE-001"),
        (Filters(patterns=("XYZ-*",)), "lab.unknown_row", "lab list"),
        (Filters(sections=("gard",)), "lab.unknown_section", "guard"),
    ],
)
def test_what_does_not_exist_gets_the_nearest_name(filters: Filters, code: str, near: str) -> None:
    with pytest.raises(LabError) as caught:
        select(filters, {}, executing=False)
    assert caught.value.code == code and near in (caught.value.fix or "")
