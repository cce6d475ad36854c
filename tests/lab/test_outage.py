"""The example, really killed and really resumed: finished work is not repeated, one answer filed.

1. the first process runs question, polite, evidence, sort_of_question and explanation; a guard
   sends the explanation back, and it starts again
2. SIGKILL
3. the second process resumes: the second explanation again, then up to the editor
4. the third brings the editor's word; the answer is filed
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from stageflow_lab import outage
from stageflow_lab.errors import LabError
from stageflow_lab.outage import Seen
from stageflow_lab.tour import QUESTION


def test_a_killed_run_is_taken_up_without_repeating_what_had_finished(
    root: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    seen = outage.stage_outage(root, tmp_path / "desk", question=QUESTION, tell=told.append)
    assert seen.problems == ()
    assert [told[0].partition(",")[2], told[1]] == [
        " in revision 2 of explanation",
        "make lab approves, in a third process",
    ]
    assert seen.before.finished[("explanation", 1)] == seen.before.finished[("draft", 1)] == 1
    assert ("explanation", 2) not in seen.before.finished
    assert seen.after.started["evidence"] == 1
    assert seen.after.started["explanation"] == seen.after.started["draft"] == 3
    assert seen.after.count("release") == seen.after.count("filed") == seen.letters == 1
    assert "Default values are created exactly once" in seen.answer


def test_an_example_that_never_gets_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError) as caught:
        outage.stage_outage(tmp_path, tmp_path / "desk", question="How?")
    assert caught.value.code == "lab.outage"


def test_a_question_that_never_loops_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="never came to revision 2"):
        outage.stage_outage(root, tmp_path / "desk", question="What is a generator?")


ONE = {("evidence", 1): 1, ("explanation", 1): 1}
TWO = {**ONE, ("explanation", 2): 1, ("filed", 1): 1}
STARTED = {"evidence": 1, "explanation": 2}
ENDED = {"evidence": 1, "explanation": 3, "filed": 1}


@pytest.mark.parametrize(
    ("before", "after", "letters", "problem"),
    [
        ((STARTED, ONE), (ENDED, TWO), 1, None),
        ((STARTED, ONE), ({**ENDED, "evidence": 2}, TWO), 1, "evidence ran 1 times after the kill"),
        ((STARTED, ONE), ({**ENDED, "explanation": 4}, TWO), 1, "2 times after the kill, 1 were"),
        ((STARTED, ONE), (ENDED, {**TWO, ("filed", 1): 2}), 1, "of filed was accepted 2 times"),
        ((STARTED, ONE), (ENDED, TWO), 2, "2 answers were filed"),
        ((STARTED, ONE), (ENDED, TWO), 0, "0 answers were filed"),
        ((STARTED, {}), (ENDED, TWO), 1, "nothing had finished"),
        (({**STARTED, "explanation": 1}, ONE), (ENDED, TWO), 1, "was not cut off"),
    ],
)
def test_each_broken_promise_is_told(
    tmp_path: Path,
    before: tuple[dict[str, int], dict[tuple[str, int], int]],
    after: tuple[dict[str, int], dict[tuple[str, int], int]],
    letters: int,
    problem: str | None,
) -> None:
    (tmp_path / "outbox").mkdir()
    for number in range(letters):
        (tmp_path / "outbox" / f"{number}.json").touch()
    seen = outage.compared(
        tmp_path,
        run="r1",
        before=Seen(Counter(before[0]), Counter(before[1])),
        after=Seen(Counter(after[0]), Counter(after[1])),
        output=json.dumps({"text": "so"}),
    )
    if problem is None:
        assert seen.problems == ()
    else:
        assert [text for text in seen.problems if problem in text]
