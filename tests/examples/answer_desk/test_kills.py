"""The desk's process killed at each of its records: real processes, real SIGKILL, SQLite on disk.

1. a process runs the desk up to its editor; a second brings the editor's word; one of them is
   killed as soon as record n is on disk (`after`), or just before it is (`before`), when what it
   tells has happened already
2. the next process takes the run up, and brings the editor's word when none is on record
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parent / "killed_desk_process.py"


@pytest.fixture(scope="module", params=["after", "before"])
def moment(request: pytest.FixtureRequest) -> str:
    """Whether the kill falls after the record's write or before it."""
    return str(request.param)


@pytest.fixture(scope="module")
def kills(moment: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the next process made of the run, for a kill at each record; the last was none."""
    told = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path_factory.mktemp(moment)), moment],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    return [json.loads(line) for line in told.stdout.splitlines()]


BODIES = (
    "question polite evidence sort_of_question explanation draft cited_explanation complete "
    "letter reply released filed"
).split()


def test_a_kill_falls_at_every_record(kills: list[dict[str, Any]], moment: str) -> None:
    whole = kills[-1]["records"]
    found = [kill["records"] for kill in kills[:-1]]
    cut_off = {name for kill in kills for name in kill["cut_off"]}
    if moment == "after":
        # The first two are written together, when the run is made.
        assert found == [2, *range(2, whole + 1)] and whole >= 38
        # Nothing has followed from the record: what was cut off is the stage whose step it tells
        # of, or a guard beside the one whose outcome it is.
        assert cut_off <= {"explanation", "cited_explanation", "complete"}
    else:
        # A store writes a claim in one piece: nothing lies between it and what was before it.
        claims = {kill["records"] for kill in kills if kill["last"] == "claimed"}
        assert set(found) == set(range(2, whole)) - {seq - 1 for seq in claims}
        assert cut_off == set(BODIES)


def test_the_result_is_that_of_a_run_nobody_killed(kills: list[dict[str, Any]]) -> None:
    assert {kill["status"] for kill in kills} == {"ok"}
    assert {kill["revisions"] for kill in kills} == {2}
    assert len({json.dumps(kill["output"]) for kill in kills}) == 1
    assert "exactly once, when the function is defined" in kills[0]["output"]["text"]


def test_no_finished_stage_or_step_runs_again(kills: list[dict[str, Any]]) -> None:
    """Every body that starts after the kill gives a result that was not on record before it."""
    for kill in kills:
        owed = {name: n for name, n in kill["finished"].items() if name in BODIES}
        assert kill["started"] == owed, f"at record {kill['at']}"
        assert kill["lost"] == kill["twice"] == []


def test_a_step_on_record_is_not_called_again_by_the_stage_that_is(
    kills: list[dict[str, Any]],
) -> None:
    within = [kill for kill in kills if kill["last"] == "step"]
    starts = [(kill["started"]["explanation"], kill["started"].get("draft", 0)) for kill in within]
    assert starts == [(2, 1), (1, 0)]  # one step a revision


def test_one_answer_is_filed(kills: list[dict[str, Any]], moment: str) -> None:
    """Also when the first process had filed it and died before it could say so."""
    assert {kill["letters"] for kill in kills} == {1}
    assert any("filed" in kill["cut_off"] for kill in kills) == (moment == "before")


def test_the_editor_is_asked_again_only_while_no_word_is_on_record(
    kills: list[dict[str, Any]],
) -> None:
    assert [kill["waited"] for kill in kills] == [not kill["answered_before"] for kill in kills]
    assert {kill["waited"] for kill in kills} == {True, False}
