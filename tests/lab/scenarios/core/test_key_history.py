"""One line a key: what it shows of loss, duplication, silent overwriting, and of conflicts."""

from __future__ import annotations

import pytest

from stageflow_lab.scenarios.core.key_history import judged

CLEAN = (
    "ok/memory r- va1 wa1 ra1 ga1 ea1 fa1",
    "ok/memory va1 la1 va2 wa2 ga2 ea2 fa2",
    "ok/journal va1 wa1 la2 ga1 p+ ea1 fa1 j1=a1",
    "ok/journal ia1 ga1 ea1 fa1 j1=a1",
    "cancelled/memory r- f-",
    "failed/journal r- f-",
    "dead/journal r- va1 wa1 ea1",
)


@pytest.mark.parametrize("line", CLEAN)
def test_a_clean_line_shows_nothing(line: str) -> None:
    facts = judged(line)
    wrong = (facts.lost, facts.duplicated, facts.overwritten, facts.irregular)
    assert wrong == (0, 0, 0, 0)
    assert facts.raised == facts.injected


@pytest.mark.parametrize(
    "line",
    [
        "ok/memory r- f-",  # an ok run owes every key
        "ok/memory va1 wa1 ea1 f-",
        "cancelled/memory va1 wa1",
        "failed/journal va1 wa1 ea1 fa1",  # not in the journal
    ],
)
def test_a_value_that_was_accepted_or_owed_and_is_missing_is_lost(line: str) -> None:
    assert judged(line).lost == 1


@pytest.mark.parametrize(
    "line",
    [
        "ok/memory va1 wa1 va2 wa2 ea2 fa2",
        "ok/memory va1 wa1 ea1 ea1 fa1",
        "ok/journal va1 wa1 ea1 fa1 j1=a1 j2=a2",
    ],
)
def test_two_accepted_values_are_duplicated_and_no_register(line: str) -> None:
    facts = judged(line)
    assert facts.duplicated == 1
    assert facts.irregular == 1


@pytest.mark.parametrize(
    "line",
    [
        "ok/memory va1 wa2 va2 la2 ga1 ea1 fa1",  # a zombie's value under its successor's name
        "ok/memory va1 wa1 ga1 ea2 fa2",
        "ok/journal va1 wa1 ea1 fa1 j2=a1",
        "ok/memory va1 wa1 p! ea1 fa1",
        "ok/journal va1 wa1 ea1 fa1 q! j1=a1",
    ],
)
def test_a_value_that_is_not_the_accepted_one_overwrites_in_silence(line: str) -> None:
    assert judged(line).overwritten == 1


@pytest.mark.parametrize(
    "line",
    [
        "ok/memory ra1 va1 wa1 ea1 fa1",  # seen before it was written
        "ok/memory va1 wa1 r- ea1 fa1",  # gone again
        "ok/memory va1 wa1 ra2 ea1 fa1",
    ],
)
def test_reads_that_no_register_gives_are_irregular(line: str) -> None:
    assert judged(line).irregular == 1


def test_every_value_that_lost_is_a_conflict_and_has_to_be_told() -> None:
    told = judged("ok/memory va1 la1 va2 wa2 p+ ea2 fa2")
    assert (told.injected, told.raised) == (2, 2)
    silent = judged("ok/memory va1 va2 wa2 p! ea2 fa2")
    assert (silent.injected, silent.raised) == (2, 0)


def test_an_event_about_another_attempt_tells_nothing() -> None:
    facts = judged("ok/memory va1 la2 va2 wa2 ea2 fa2")
    assert (facts.injected, facts.raised) == (1, 0)


def test_a_value_that_lost_is_kept_under_its_own_attempt() -> None:
    assert judged("ok/journal va1 la1 va2 wa2 ea2 fa2 k1=a1 j2=a2").kept == 1
    assert judged("ok/journal va1 la1 va2 wa2 ea2 fa2 k2=a1 j2=a2").kept == 0
    assert judged("ok/journal va1 la1 va2 wa2 ea2 fa2 j2=a2").late == 1
    assert judged("ok/memory va1 la1 va2 wa2 ea2 fa2").late == 0


def test_errors_of_second_writers_have_to_name_both() -> None:
    facts = judged("ok/journal va1 wa1 p+ q~ q= ea1 fa1 j1=a1")
    assert (facts.rogue, facts.named) == (2, 1)
    assert (facts.injected, facts.raised) == (3, 3)


@pytest.mark.parametrize("line", ["", "ok va1", "ok/disk va1", "ok/memory xa1", "ok/memory v"])
def test_what_is_no_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"is no operation|does not say"):
        judged(line)
