"""Small scenarios, written as files, for the lab to find, run and audit."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from stageflow_lab.results import ResultStore

TALLY = '''
from stageflow_lab import (
    History, Judgement, Metric, Scenario, Sizes, counted, patched, sabotage,
)


class Register:
    """The component under test: counts what it is given."""

    def __init__(self):
        self.total = 0

    def add(self, amount):
        self.total += amount


@sabotage(metric="lost")
def every_tenth_lost():
    """An addition is lost when the total ends in nine."""
    original = Register.add

    def add(self, amount):
        if self.total % 10 != 9:
            original(self, amount)

    with patched(Register, "add", add):
        yield


def load(world):
    register = Register()
    history = History(world.size)
    for done in range(world.size["adds"]):
        register.add(1)
        world.progress(done + 1, world.size["adds"], "adds")
    history.record("total", added=world.size["adds"], total=register.total)
    return history


def check(history):
    last = history.last("total").data
    return Judgement({"lost": counted(last["added"] - last["total"], last["added"])})


def plain(world):
    register = Register()
    register.add(1)
    assert register.total == 1


SETTINGS = dict(
    claim="every addition counts",
    sizes=Sizes(quick={"adds": 1_000}, full={"adds": 10_000}),
    metrics=(Metric("lost", "==", 0, "additions"),),
    sabotages=(every_tenth_lost,),
    plain=plain,
)
'''

WriteCase = Callable[..., str]


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """An empty folder of scenario files."""
    folder = tmp_path / "cases"
    folder.mkdir()
    return folder


@pytest.fixture
def case(cases: Path) -> WriteCase:
    """Write one scenario: `body` may redefine load, check, or change SETTINGS."""

    def write(row: str, body: str = "") -> str:
        text = f"{TALLY}\n{textwrap.dedent(body)}\n"
        text += f'\nSCENARIO = Scenario(row="{row}", load=load, check=check, **SETTINGS)\n'
        (cases / f"{row.lower().replace('-', '_')}.py").write_text(text, "utf-8")
        return row

    return write


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    """An empty results folder."""
    return ResultStore(tmp_path / "results")
