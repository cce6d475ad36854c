"""The example, really killed and really resumed: finished work is not repeated, one answer filed.

1. the first process runs question, polite, evidence, sort_of_question, and starts explanation
2. SIGKILL
3. the second process resumes: explanation again, then cited and filed
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from stageflow_lab import outage
from stageflow_lab.errors import LabError


def test_a_killed_run_is_taken_up_without_repeating_what_had_finished(
    root: Path, tmp_path: Path
) -> None:
    seen = outage.stage_outage(root, tmp_path / "desk", question="How do I copy an object?")
    assert seen.problems == ()
    assert {"question", "evidence", "sort_of_question"} <= set(seen.finished_before)
    assert seen.started["evidence"] == 1
    assert seen.started["explanation"] == 2
    assert seen.accepted["filed"] == seen.letters == 1
    assert "copy.deepcopy" in seen.answer


def test_an_example_that_never_gets_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError) as caught:
        outage.stage_outage(tmp_path, tmp_path / "desk", question="How?")
    assert caught.value.code == "lab.outage"


@pytest.mark.parametrize(
    ("diary", "before", "after", "letters", "problem"),
    [
        ("evidence evidence explanation explanation", "evidence", "", 1, "evidence had finished"),
        ("evidence explanation explanation", "evidence", "filed filed", 1, "filed was accepted 2"),
        ("evidence explanation explanation", "evidence", "filed", 2, "2 answers were filed"),
        ("evidence explanation explanation", "", "filed", 1, "nothing had finished"),
        ("evidence explanation", "evidence", "filed", 1, "cut off by the kill, ran 1 times"),
    ],
)
def test_each_broken_promise_is_told(
    tmp_path: Path, diary: str, before: str, after: str, letters: int, problem: str
) -> None:
    (tmp_path / "diary.txt").write_text("".join(f"1.0 {name}\n" for name in diary.split()))
    (tmp_path / "outbox").mkdir()
    for number in range(letters):
        (tmp_path / "outbox" / f"{number}.json").touch()
    seen = outage.compared(
        tmp_path,
        run="r1",
        before=Counter(before.split()),
        after=Counter(after.split()),
        output=json.dumps({"text": "so"}),
    )
    assert [text for text in seen.problems if problem in text]
