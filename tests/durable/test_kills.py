"""A process killed after each of its journal's records, and the next one that goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stageflow import JournalError, Pipeline, Runtime, transform

PROGRAM = Path(__file__).parent / "killed_desk.py"


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def kills(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What the next process made of the run, for a kill after each record; the last was none."""
    folder = tmp_path_factory.mktemp("kills")
    journal = str(folder / "runs.db")
    if request.param == "postgres":
        journal = request.getfixturevalue("postgres_urls")() + "&lease_s=0.3"
    told = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), journal],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    return [json.loads(line) for line in told.stdout.splitlines()]


def test_a_kill_falls_after_every_record(kills: list[dict[str, Any]]) -> None:
    whole = kills[-1]["records"]
    assert [kill["records"] for kill in kills[1:-1]] == list(range(2, whole + 1)) and whole >= 20


def test_the_result_is_that_of_an_undisturbed_run(kills: list[dict[str, Any]]) -> None:
    assert {json.dumps(kill["output"]) for kill in kills} == {'["the", "*", "2"]'}
    assert {tuple(kill["status"]) for kill in kills} == {("ok", "ok")}


def test_no_finished_node_runs_again(kills: list[dict[str, Any]]) -> None:
    assert all(kill["repeated"] == [] for kill in kills)
    # A stage that fails once and is cut off once is entered three times, no stage more often.
    assert 2 <= max(kill["most"] for kill in kills) <= 3


def test_each_cut_off_attempt_is_told_as_abandoned_once(kills: list[dict[str, Any]]) -> None:
    assert all(kill["abandoned"] == kill["open"] for kill in kills)
    assert {name for kill in kills for name in kill["open"]} >= {"clean", "way", "saved", "answer"}


def test_only_an_effect_without_a_key_suspends_the_run(kills: list[dict[str, Any]]) -> None:
    assert [kill["suspended"] for kill in kills] == ["sent" in kill["open"] for kill in kills]
    assert any(kill["suspended"] for kill in kills)


def test_an_effect_runs_again_under_the_same_key(kills: list[dict[str, Any]]) -> None:
    assert {kill["keys"] for kill in kills} == {1}
    assert any("saved" in kill["open"] for kill in kills)


async def test_a_live_run_is_not_taken_over_and_a_dead_one_is(tmp_path: Path) -> None:
    """
    1. another process runs; resuming its run here is refused
    2. it is killed; now the run is resumed
    """

    @transform
    async def waits(text: str) -> str:
        return text

    desk = Pipeline("held", [waits], inputs={"text": str}, outputs=waits)
    child = subprocess.Popen(  # noqa: ASYNC220  (starts a program, and does not wait for it)
        [sys.executable, str(PROGRAM), str(tmp_path), str(tmp_path / "held.db"), "hold"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        async with Runtime(journal=tmp_path / "held.db") as runtime:
            (listed,) = await runtime.runs()
            assert (listed.status, listed.live) == ("running", True)
            with pytest.raises(JournalError) as caught:
                await runtime.resume("r", pipeline=desk)
            assert caught.value.code == "journal.run_is_live"
            child.kill()
            child.wait()
            assert [one.live for one in await runtime.runs()] == [False]
            run = await runtime.resume("r", pipeline=desk)
            assert (run.status, run.output) == ("ok", "a")
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
