"""When a loop gets nowhere: scripts of turns, and the turn at which each is given up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from stageflow import BuildError, Progress, Stall
from stageflow.runtime.loops import turn_of
from stageflow.scheduler import stall_of, text_of, wording_of
from stageflow.scheduler.wording import distance, says_same_numbers, similarity

REWORDED = (
    "The parcel left our warehouse on Monday and reaches you on Friday. Keep the packaging: returns"
    " are free of charge.",
    "On Monday your parcel was sent from the warehouse, and it will reach you on Friday. Returns"
    " are free of charge if you keep the packaging.",
    "Free of charge are returns in the packaging that you kept. Our warehouse sent the parcel on"
    " Monday; on Friday it reaches you.",
    "You are reached by the parcel on Friday, as it left the warehouse on Monday. When the"
    " packaging is kept, a return is free of charge.",
)
NOTES = (
    "The bridge was closed in March.",
    "Nobody knows who painted the northern lighthouse.",
    "A farmer sold seven lanterns to the museum.",
    "The ledger of the harbour went missing in a storm.",
    "Rye bread needs a day and a warm kitchen.",
    "Her brother repaired the yellow tram by accident.",
    "Two telescopes were auctioned at the request of the mayor.",
    "The orchestra postponed an unfinished sonata.",
    "An astronomer translated the oldest manuscript.",
)
OTHERS = (
    "Our office moves to the second floor this summer.",
    "Please bring your own cup.",
    "Parking behind the house is not allowed any more.",
    "Visitors get a badge from the porter.",
    "Lunch is served between noon and two.",
    "Ask the caretaker for a spare key.",
    "Bicycles belong into the shed.",
)
GROWING = tuple(" ".join(NOTES[: n + 1]) for n in range(len(NOTES)))


def ended(
    values: Sequence[Any],
    said: Sequence[Any] = ("no",),
    scores: Sequence[float] = (0.0,),
    policy: Progress = Progress(),  # noqa: B008  (a value)
) -> Stall | None:
    """The first reason to give up the loop of these values; complaints and scores start anew when
    there are fewer. A complaint is a text, or a dict of guards and texts."""
    turns = []
    for number, value in enumerate(values):
        what = said[number % len(said)]
        complaints = what.items() if isinstance(what, dict) else [("guard", what)]
        turns.append(turn_of(value, complaints, scores[number % len(scores)]))
        stall = stall_of(turns, policy)
        if stall is not None:
            return stall
    return None


@pytest.mark.parametrize("period", range(1, 8))
@pytest.mark.parametrize("before", [0, 3])
def test_a_circle_ends_two_turns_past_its_period(period: int, before: int) -> None:
    values = [f"<{n}>" for n in "xyz"[:before]] + [
        f"value {'abcdefg'[n % period]}" for n in range(20)
    ]
    stall = ended(values)
    kind = "repeat" if period == 1 else "cycle"
    assert stall == Stall(kind, period, since=before + 1, revision=before + period + 2)


def test_values_of_any_type_may_come_again() -> None:
    assert ended([b"\0", 1.5, b"\0", 1.5]) == Stall("cycle", 2, since=1, revision=4)


def test_the_same_in_other_words_is_the_same() -> None:
    stall = ended(REWORDED)
    assert stall is not None
    assert (stall.kind, stall.revision) == ("paraphrase", 3)


def test_equal_values_only_when_the_policy_says_so() -> None:
    assert ended(REWORDED, policy=Progress(similarity=1.0)) is None
    assert ended("aaaa", policy=Progress(repeats=1)) == Stall("repeat", 1, since=1, revision=2)
    assert ended("aaaaaaaa", policy=Progress(repeats=None)) is None


@pytest.mark.parametrize(
    "values",
    [
        GROWING,
        GROWING[::-1],
        [{f"f{n}": note for n, note in enumerate(NOTES[:k])} for k in range(1, 9)],
        ["hi", "hi!", "hi!!", "hi!!!"],
        [" ".join((*OTHERS[:n], *NOTES[n:7])) for n in range(7)],
        [50.0, 25.0, 37.5, 31.25, 34.375, 35.9375],
        [f"It weighs {x} tonnes, as far as the photograph shows" for x in (50, 25, 37, 31, 34)],
        NOTES,
    ],
    ids=["grows", "shrinks", "filled", "louder", "rewritten", "halves", "in words", "anew"],
)
def test_slow_honest_work_is_left_alone(values: Sequence[Any]) -> None:
    assert ended(values) is None


def test_one_fall_back_is_left_alone() -> None:
    assert ended((*GROWING[:5], GROWING[2], *GROWING[5:])) is None
    assert ended((*GROWING[:3], GROWING[2], *GROWING[3:])) is None


def test_a_better_score_and_a_new_complaint_are_progress() -> None:
    assert ended(REWORDED, scores=(0.1, 0.2, 0.3, 0.4)) is None
    assert ended(REWORDED, said=NOTES) is None
    assert (
        ended(REWORDED, said=["3 claims are left", "2 claims are left", "1 claim is left"]) is None
    )


def test_neither_helps_a_value_that_is_equal() -> None:
    assert ended("aaa", said=NOTES, scores=(0.1, 0.2, 0.3)) is not None


def test_complaints_that_come_back_end_the_loop_though_every_value_is_new() -> None:
    said = ("cite a source", "shorten it", "be friendly")
    assert ended(NOTES, said=said) == Stall("rotation", 3, since=1, revision=5)
    by_guard = ({"a": "no"}, {"b": "no"}, {"c": "no"})
    assert ended(NOTES, said=by_guard) == Stall("rotation", 3, since=1, revision=5)
    flapping = ({"a": "no"}, {"a": "no", "b": "no"})
    assert ended(NOTES, said=flapping) == Stall("rotation", 2, since=1, revision=4)


def test_complaints_may_come_back_while_the_text_adds_up_or_scores_better() -> None:
    assert ended(GROWING, said=("too long", "too short")) is None
    assert ended(NOTES, said=("too long", "too short"), scores=[n / 9 for n in range(9)]) is None


def test_one_complaint_all_along_is_no_rotation() -> None:
    assert ended(NOTES, said=("be friendly",)) is None


def test_texts_with_other_numbers_do_not_say_the_same() -> None:
    text = "The parcel left on Monday and reaches you within {} days at the latest, we think"
    assert ended([text.format(n) for n in (9, 4, 7, 2)]) is None
    counting = "Attempt {}: the parcel left our warehouse on Monday and it reaches you on Friday"
    assert ended([counting.format(n) for n in (1, 2, 3, 4)]) is not None


def test_ids_and_moments_say_nothing() -> None:
    one = wording_of("sent 2030-01-02T10:11:12Z as 6f9619ff-8b86-d011-b42d-00cf4fc964ff")
    other = wording_of("sent 2031-12-02T00:00:00Z as deadbeef8b86d011b42d00cf4fc964ff")
    assert similarity(one, other) == 1.0
    assert says_same_numbers(one, other, lag=1, counts=False)


def test_distance_is_a_metric() -> None:
    texts = [wording_of(text) for text in (*REWORDED, *NOTES)]
    for a in texts:
        assert distance(a, a) == 0
        for b in texts:
            assert distance(a, b) == distance(b, a)
            for c in texts:
                assert distance(a, c) <= distance(a, b) + distance(b, c)


def test_text_of_tells_every_field_or_nothing() -> None:
    assert text_of({"a": [1, "b"], "c": None}) == "a\n1\nb\nc\nNone"
    assert text_of([b"raw"]) is None
    assert text_of("x" * 60_000) is None
    assert text_of({"b", "a"}) == "a\nb"


@pytest.mark.parametrize("given", [{"repeats": 0}, {"repeats": True}, {"similarity": 0.0}])
def test_a_policy_that_means_nothing_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(BuildError) as caught:
        Progress(**given)
    assert caught.value.code == "policy.progress"
