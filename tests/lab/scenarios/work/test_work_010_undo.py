"""The check of WORK-010 on small stories: one that passes, and one for every way to fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stageflow.sim import simulate
from stageflow_lab import History, World
from stageflow_lab.scenarios.work.engine_sums import EngineSums
from stageflow_lab.scenarios.work.simulated_undos import story_seen
from stageflow_lab.scenarios.work.undo_facts import Seen, facts_of, noticed, undo_results
from stageflow_lab.scenarios.work.undo_stories import PLACES, Act, Story, drawn, story_of
from stageflow_lab.scenarios.work.undo_truth import (
    Fact,
    Permit,
    Sent,
    StepSeen,
    UndoSeen,
    equal,
)
from stageflow_lab.scenarios.work.work_010_undo import SCENARIO, check, ordinary_use
from stageflow_lab.verdict import Verdict, rule

FILE, OTHER = ("files", "a"), ("files", "b")
ROW, FORM = ("rows", "a"), ("rows", "")


def ours(step: int, value: Any, place: Any = FILE, *, is_undo: bool = False) -> Fact:
    return Fact("ours", place, value, step, is_undo)


def theirs(value: Any, place: Any = FILE) -> Fact:
    return Fact("theirs", place, value)


def step(number: int, value: Any, before: Any, place: Any = FILE, **changed: Any) -> StepSeen:
    made = StepSeen(number, "acted", place, value, before, False, (), "")
    return replace(made, **changed)


def undone(target: int, begin: int, end: int, upto: int, last: int, **changed: Any) -> UndoSeen:
    made = UndoSeen(target, begin, end, upto, last, (), (), (), 0)
    return replace(made, **changed)


def clean(deaths: int = 0) -> Seen:
    """Two changes taken back, and brought back."""
    return Seen(
        "clean",
        facts=[
            ours(1, "one"),
            ours(2, "two"),
            ours(3, None, is_undo=True),
            ours(4, "two", is_undo=True),
        ],
        undos=[
            undone(0, 2, 3, 2, 3, steps=(2, 1), deaths=deaths),
            undone(2, 3, 4, 3, 4, steps=(3,)),
        ],
        steps=[
            step(1, "one", None),
            step(2, "two", "one"),
            step(3, None, "two", undoes=(2, 1)),
            step(4, "two", None, undoes=(3,)),
        ],
        deaths=["record"] * deaths,
    )


def in_conflict(*, reported: bool = True) -> Seen:
    """Somebody writes over the first of two changes, which are taken back."""
    return Seen(
        "in conflict",
        facts=[
            ours(1, "one"),
            ours(2, "x", OTHER),
            theirs("theirs"),
            ours(3, None, OTHER, is_undo=True),
        ],
        undos=[undone(0, 3, 4, 2, 3, steps=(2,), conflicts=(FILE,) if reported else ())],
        steps=[
            step(1, "one", None),
            step(2, "x", None, OTHER),
            step(3, None, "x", OTHER, undoes=(2,)),
        ],
    )


def letters(*sent: Any) -> Seen:
    """A letter, and one that was refused."""
    made = [step(n, None, None, ("letters", "d"), is_final=True) for n in range(1, len(sent) + 1)]
    return Seen("letters", letters=[Permit("x"), *sent], steps=made, refused=1)


def changed_form() -> Seen:
    return Seen(
        "form",
        facts=[
            ours(1, {"text": "one"}, ROW),
            ours(2, {"text": "two"}, ROW),
            Fact("form", FORM, True),
            ours(3, {"text": "one", "lane": 7}, ROW, is_undo=True),
        ],
        undos=[undone(1, 3, 4, 2, 3, steps=(2,))],
        steps=[
            step(1, {"text": "one"}, None, ROW),
            step(2, {"text": "two"}, {"text": "one"}, ROW),
            step(3, {"text": "one", "lane": 7}, {"text": "two", "lane": 7}, ROW, undoes=(2,)),
        ],
    )


ALL = (clean(1), in_conflict(), letters(Sent(1, "x")), changed_form())


def history(*more: Seen, engines: tuple[str, ...] = ("sim", "real"), of: Any = ALL) -> History:
    history = History({})
    for engine in engines:
        sums = EngineSums(engine, kind="stories", deaths=("record", "write"))
        for each in (*of, *more):
            sums.add(facts_of(each))
        if engine == "real":
            sums.counts |= {"over_postgres": 1, "sealed": 1}
        sums.write(history)
    for what in ("record", "write"):
        history.fired(f"died_{what}")
    return history


def ruled(made: History) -> tuple[Verdict, str]:
    ruling = rule(SCENARIO, check(made), size="full")
    return ruling.verdict, ruling.reason or ""


def test_states_that_come_back_and_conflicts_that_are_told_pass() -> None:
    assert ruled(history()) == (Verdict.PASS, "")


def with_facts(seen: Seen, *facts: Fact, **changed: Any) -> Seen:
    return replace(seen, facts=[*facts], **changed)


WRONG: list[tuple[str, Seen]] = [
    (
        "state_back",
        with_facts(clean(), ours(1, "one"), ours(2, "two"), ours(3, "one", is_undo=True)),
    ),
    ("state_back", with_facts(clean(), ours(1, "one"), ours(2, "two"))),
    ("state_back", replace(in_conflict(), undos=[undone(0, 3, 4, 2, 3, conflicts=(OTHER, FILE))])),
    ("conflicts_detected", in_conflict(reported=False)),
    (
        "conflicts_detected",
        with_facts(in_conflict(), ours(1, "one"), theirs("theirs"), ours(3, None, is_undo=True)),
    ),
    (
        "clobbered_edits",
        with_facts(clean(), ours(1, "one"), theirs("theirs"), ours(2, "two"), undos=[]),
    ),
    (
        "clobbered_edits",
        with_facts(clean(), ours(1, "one"), theirs("two"), ours(3, None, is_undo=True), undos=[]),
    ),
    (
        "half_undone_after_restart",
        with_facts(clean(1), ours(1, "one"), ours(2, "two"), undos=[clean(1).undos[0]]),
    ),
    ("half_undone_after_restart", replace(clean(), is_unfinished=True)),
    ("unapproved_irreversible", letters(Sent(1, "x"), Sent(2, "x"))),
    ("unapproved_irreversible", letters(Sent(1, "y"))),
    ("audit_matches", replace(clean(), steps=clean().steps[:-1])),
    ("audit_matches", replace(clean(), steps=[*clean().steps, step(5, "x", "two")])),
    ("audit_matches", replace(clean(), steps=[step(1, "other", None), *clean().steps[1:]])),
    (
        "audit_matches",
        replace(clean(), steps=[*clean().steps[:3], step(4, "two", None, standing="dropped")]),
    ),
    (
        "audit_matches",
        replace(clean(), steps=[*clean().steps, step(5, "x", "two", standing="doubted")]),
    ),
    ("audit_matches", letters()),
]


@pytest.mark.parametrize(("metric", "wrong"), WRONG)
def test_what_is_wrong_fails_on_its_metric(metric: str, wrong: Seen) -> None:
    if metric == "audit_matches" and not wrong.facts and not wrong.steps:
        wrong = replace(wrong, steps=letters(Sent(1, "x")).steps)
    verdict, reason = ruled(history(wrong))
    assert verdict is Verdict.FAIL and metric in reason


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        (history(engines=("sim",)), "no stories were lived: real"),
        (history(of=ALL[1:]), "no process died in an undo"),
        (history(of=(clean(1), letters(Sent(1, "x")), changed_form())), "nobody else had changed"),
        (history(of=ALL[:2] + ALL[3:]), "nothing was sent"),
        (history(of=ALL[:3]), "no table changed its form"),
    ],
)
def test_what_never_happened_decides_nothing(lacking: History, said: str) -> None:
    assert (check(lacking).unknown or "").startswith(said)


def test_processes_that_broke_decide_nothing() -> None:
    made = history()
    made.record("broken", said="Traceback\nValueError: x")
    assert "ValueError: x" in (check(made).unknown or "")


# -- how a place is judged ------------------------------------------------------------------------


def test_an_edit_during_an_undo_counts_from_when_it_came() -> None:
    """Before the undo's write it is a conflict; after it, it is the next one's."""
    before = with_facts(in_conflict(), ours(1, "one"), theirs("theirs"))
    (result,) = undo_results(before, undone(0, 1, 2, 1, 1, conflicts=(FILE,)))
    assert result.is_conflict and result.is_right
    after = with_facts(clean(), ours(1, "one"), ours(2, None, is_undo=True), theirs("theirs"))
    (result,) = undo_results(after, undone(0, 1, 3, 1, 2))
    assert result.is_clean and result.is_right


def test_an_undo_goes_as_far_as_the_last_edit_of_somebody_else() -> None:
    facts = [ours(1, "one"), theirs("theirs"), ours(2, "two"), ours(3, "theirs", is_undo=True)]
    (result,) = undo_results(Seen("x", facts), undone(0, 3, 4, 2, 3, conflicts=(FILE,)))
    assert result.is_conflict and result.is_right
    further = [*facts[:3], ours(3, None, is_undo=True)]
    (result,) = undo_results(Seen("x", further), undone(0, 3, 4, 2, 3, conflicts=(FILE,)))
    assert not result.is_right


def test_what_came_to_an_empty_place_and_went_leaves_no_trace() -> None:
    facts = [ours(1, "one"), ours(2, None), theirs("x"), theirs(None), ours(3, "two")]
    assert noticed(facts) == [facts[0], facts[1], facts[4]]
    kept = [ours(1, "one"), theirs(None), theirs("one")]
    assert noticed(kept) == kept


def test_a_column_that_came_in_between_is_no_difference() -> None:
    assert equal({"text": "x"}, {"text": "x", "lane": 7})
    assert not equal({"text": "x"}, {"text": "x", "lane": 8})
    assert not equal({"text": "x", "lane": 7}, {"text": "x"})


def test_a_column_that_is_gone_makes_a_state_impossible() -> None:
    facts = [
        Fact("form", FORM, True),
        ours(1, {"text": "one", "lane": 7}, ROW),
        ours(2, {"text": "two", "lane": 7}, ROW),
        Fact("form", FORM, False),
    ]
    (result,) = undo_results(Seen("x", facts), undone(1, 4, 4, 2, 2, conflicts=(ROW,)))
    assert result.is_conflict and result.is_right
    (result,) = undo_results(Seen("x", facts), undone(1, 4, 4, 2, 2))
    assert not result.is_right


def test_a_place_in_doubt_is_not_judged() -> None:
    facts = [ours(1, "one"), theirs("theirs")]
    seen = Seen("x", facts, steps=[step(1, "one", None, standing="doubted")], deaths=["write"])
    assert undo_results(seen, undone(0, 2, 2, 1, 1, conflicts=(FILE,))) == []
    assert not facts_of(seen)["wrong"]


# -- stories --------------------------------------------------------------------------------------


def test_stories_are_the_same_for_a_seed_and_go_through_json() -> None:
    stories = drawn(40, 7)
    assert list(stories) == list(drawn(40, 7)) and len(set(stories)) > 30
    assert [story_of(story.as_json()) for story in stories] == list(stories)
    assert all(story.deaths for story in drawn(20, 7, deadly=True))


def test_a_story_is_lived_through_its_deaths() -> None:
    acts = (
        Act("change", PLACES.index(FILE), 1),
        Act("edit", PLACES.index(OTHER), 1),
        Act("change", PLACES.index(OTHER), 2),
        Act("undo", 0, 0),
    )
    story = Story(acts, (0, 7, 9), (None, None, None))

    async def main(sim: Any) -> Seen:
        import random

        return await story_seen(sim, story, "x", random.Random(1))

    seen = simulate(main, seed=1).value
    assert len(seen.deaths) == 3 and not facts_of(seen)["wrong"] and not seen.is_unfinished


def test_the_ordinary_use_is_an_ordinary_use(tmp_path: Path) -> None:
    ordinary_use(World(seed=1, size={}, scratch=tmp_path))
