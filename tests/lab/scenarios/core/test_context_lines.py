"""One line a key of a tree of runs: what it shows of change, loss, misleading and late values."""

from __future__ import annotations

import pytest

from stageflow_lab.scenarios.core.context_lines import is_misled, judged

CLEAN = (
    "own ok/memory va1 h= wa1 o+a1 f+a1",
    "own ok/memory xa1 o- va2 wa2 la1 o+a2 f+a2",
    "own ok/journal o- xa1 va2 wa2 o+a2 va1 la1 j+a2 ka1",
    "own ok/journal o+a1 vb2 j+a1",  # taken over: what another owner's attempt gave
    "own dead/journal va1 wa1 o+a1 j+b2",  # its successor's journal is not its own
    "own cancelled/memory o- f-",
    "export ok/memory wa1 o^ f^",
    "child partial/journal xa1 o- wa2 o^",
)


@pytest.mark.parametrize("line", CLEAN)
def test_a_clean_line_shows_nothing(line: str) -> None:
    facts = judged(line)
    assert not (facts.changed or facts.lost or facts.misled or facts.late)
    assert facts.owed == facts.kept


@pytest.mark.parametrize(
    "line",
    [
        "own ok/memory wa1 o!below f+a1",
        "own ok/memory wa1 o+a1 f!beside",
        "own ok/memory wa1 o!defaced",
        "own ok/memory o+a1 f+a2",  # two values, one after the other
        "own ok/memory va1 h! wa1 o+a1",
    ],
)
def test_a_key_that_holds_what_its_run_did_not_write_has_changed(line: str) -> None:
    assert judged(line).changed


@pytest.mark.parametrize(
    "line",
    ["own ok/memory wa1 o+a1 o-", "own ok/memory wa1 f-", "export ok/memory o^ f-"],
)
def test_a_value_that_was_there_and_is_missing_is_lost(line: str) -> None:
    assert judged(line).lost


@pytest.mark.parametrize(
    "line", ["export ok/memory o!below", "child ok/memory wa1 o!defaced", "export ok/memory o+a1"]
)
def test_an_export_that_is_something_else_misleads(line: str) -> None:
    assert judged(line).misled


@pytest.mark.parametrize(
    "line",
    [
        "own ok/memory xa1 va1 la1 o+a1",
        "own ok/memory xa1 va1 wa2 o+a1",  # told as the second attempt's, and is not
        "export ok/memory wa1 o~",
        "child ok/memory wa2 f~",
    ],
)
def test_a_value_of_what_was_given_up_is_accepted_late(line: str) -> None:
    assert judged(line).late


def test_a_late_value_is_owed_to_the_journal_unless_its_owner_lost_the_run() -> None:
    assert judged("own ok/journal xa1 va1 la1 wa2").owed == 1
    assert judged("own ok/journal xa1 va1 la1 wa2 ka1").kept == 1
    assert judged("own dead/journal xa1 va1 la1").owed == 0
    assert judged("own ok/memory xa1 va1 la1 wa2").owed == 0
    assert judged("own ok/journal xa1 la1").owed == 0  # it raised: there is no value


@pytest.mark.parametrize(
    ("line", "misled"),
    [
        ("take own +", False),
        ("take own !below", True),
        ("take own -", True),
        ("take export ^", False),
        ("take export ~", True),
        ("take export !defaced", True),
        ("take given +", False),
        ("take given ^", False),
        ("take given !beside", True),
    ],
)
def test_an_argument_is_what_its_stage_declares(line: str, misled: bool) -> None:
    assert is_misled(line) is misled


@pytest.mark.parametrize(
    "line", ["own ok", "own ok/disk va1", "stray ok/memory", "own ok/memory q"]
)
def test_what_is_no_line_of_a_key_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        judged(line)


def test_what_is_no_line_of_an_argument_is_refused() -> None:
    with pytest.raises(ValueError):
        is_misled("take stray +")
