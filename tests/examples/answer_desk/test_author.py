"""What a model is asked: passages with their names, the question, and why it is asked again."""

from __future__ import annotations

from examples.answer_desk.author import prompt
from examples.answer_desk.passages import Passage

PASSAGE = Passage("page#tides", "Tides", "The moon.", is_definition=False)


def test_a_model_is_given_the_passages_and_the_question() -> None:
    assert prompt("Why?", [PASSAGE], ()) == (
        '<passage source="page#tides">\nThe moon.\n</passage>\n\nQuestion: Why?'
    )


def test_a_model_that_is_asked_again_is_told_why() -> None:
    asked = prompt("Why?", [PASSAGE], ("names no source", 'says nothing of "spring"'))
    assert asked.endswith('was sent back: names no source; says nothing of "spring"')
