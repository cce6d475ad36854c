"""The offline author quotes the best passage, says enough, and admits what it does not know."""

from __future__ import annotations

from examples.answer_desk.passages import Passage
from examples.answer_desk.reader import UNKNOWN, define, explain

LONG = "It says a great deal about this matter, in many words. " * 5


def passage(text: str, heading: str = "How do tides work?") -> Passage:
    return Passage("page#tides", heading, text, is_definition=False)


def test_no_evidence_is_no_answer_and_no_source() -> None:
    reply = explain("tides", [])
    assert (reply.text, reply.sources) == (UNKNOWN, [])


def test_the_best_passage_is_cited() -> None:
    assert explain("tides", [passage("The moon.")]).sources == ["page#tides"]


def test_a_bare_yes_is_continued() -> None:
    assert explain("tides", [passage("Yes.\n\nThe moon does it.")]).text == (
        "Yes.\n\nThe moon does it."
    )


def test_words_that_announce_code_keep_their_code() -> None:
    text = f"{LONG.strip()} Try:\n\n    moon()\n\nMore."
    assert explain("tides", [passage(text)]).text.endswith("Try:\n\n    moon()")


def test_the_paragraph_that_speaks_of_the_question_is_added() -> None:
    text = f"{LONG}\n\nNothing here.\n\nAt spring the range is largest."
    assert explain("Is the range of tides largest in spring?", [passage(text)]).text.endswith(
        "At spring the range is largest."
    )


def test_sent_back_it_adds_what_the_feedback_names_and_keeps_what_it_had() -> None:
    text = f"{LONG}\n\nNothing here.\n\nAt spring they are largest.\n\nShips sink. Ships rise."
    sent_back = explain("tides", [passage(text)], ['says nothing of "ship", "spring"'])
    assert sent_back.text == (
        f"{LONG.strip()}\n\nAt spring they are largest.\n\nShips sink. Ships rise."
    )
    assert explain("tides", [passage(text)], ["names no source"]).text == LONG.strip()


def test_a_definition_is_the_first_paragraph_of_its_entry() -> None:
    entry = Passage("glossary#tide", "tide", "Rise and\nfall.\n\nMore.", is_definition=True)
    assert define([entry]).text == "Rise and fall."
