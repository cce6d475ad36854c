"""An undo log at the command line."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stageflow import KeyFile
from stageflow.cli import USAGE, main
from stageflow.stages.work import Irreversible, MemoryResource, UndoLog


async def _posted(payload: bytes, key: str) -> None:
    pass


async def _written(folder: Path) -> None:
    path, orders = folder / "undo.db", MemoryResource("orders")
    letter = Irreversible("letter", _posted)
    async with UndoLog(path, orders) as undo:
        line = undo.timeline("order 7", by="ann")
        await line.change(orders, "7", "paid")
        await line.change(orders, "8", "paid")
        await line.undo_to(1)
        await line.permit(letter, "dear", by="boss")
        await line.send(letter, "dear")
    async with UndoLog(path, orders, keys=KeyFile(folder / "key")) as undo:
        await undo.of_run("r1", by="draft", tenant="acme").change(orders, "9", "new")


@pytest.fixture
def log(in_tmp: Path) -> str:
    """A log with two changes, an undo of one and a letter; and one of a run, sealed."""
    asyncio.run(_written(in_tmp))
    return "undo.db"


def _said(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(arguments) == 0
    return capsys.readouterr().out.splitlines()


def test_timelines_are_listed_last_used_first(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = _said(capsys, "timelines", log)
    assert [line.split()[2:] for line in lines[1:]] == [
        ["acme", "run", "r1"],
        ["default", "order", "7"],
    ]
    assert len(_said(capsys, "timelines", log, "--limit", "1")) == 2


def test_a_timeline_tells_what_was_done_by_whom_and_what_of_it_stands(
    log: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line.split(maxsplit=3) for line in _said(capsys, "timeline", log, "--name", "order 7")]
    assert [" ".join(line[3].split()) for line in lines[1:]] == [
        "ann orders 7 stands",
        "ann orders 8 taken back",
        "ann orders 8 stands, takes back 2",
        "ann letter stands, by leave of boss",
    ]


def test_a_sealed_timeline_needs_its_keys_to_be_shown_and_none_to_be_erased(
    log: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sealed = ("timeline", log, "--run", "r1", "--tenant", "acme")
    assert main(sealed) == 1
    assert "undo.keys" in capsys.readouterr().err
    assert "orders 9" in _said(capsys, *sealed, "--keys", "key")[1]
    assert _said(capsys, *sealed, "--erase") == ["erased"]
    assert _said(capsys, *sealed) == ["nothing is on record in this timeline"]
    assert len(_said(capsys, "timelines", log)) == 2


def test_idle_timelines_are_swept(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _said(capsys, "sweep", log) == ["erased 0 timelines"]
    assert _said(capsys, "sweep", log, "--idle-days", "0") == ["erased 2 timelines"]
    assert _said(capsys, "timelines", log) == ["no timelines yet"]


def test_no_log_is_made_by_looking_for_one(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["timelines", "undo.db"]) == USAGE
    assert "undo.no_log" in capsys.readouterr().err
    assert not Path("undo.db").exists()
