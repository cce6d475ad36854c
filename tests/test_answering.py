"""Questions as a person reads them, and answers as a person types them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import pytest
from pydantic import BaseModel, TypeAdapter

from stageflow.answering import answer_of, asked_text, example, shown_text, whole_hash
from stageflow.contracts import contract_of
from stageflow.runtime.waiting import Waiting


class Money(BaseModel):
    amount: float
    currency: Literal["EUR", "USD"]


class Refund(BaseModel):
    approved: bool
    money: Money | None
    tags: list[str]
    note: str = ""


class Tree(BaseModel):
    parts: Tree | None


def waiting(shown: Any, annotation: Any = bool, expires_wall_s: float | None = None) -> Waiting:
    contract = contract_of(annotation)
    return Waiting(
        run="r1",
        node="word",
        expects=contract.describe(),
        json_schema=contract.json_schema(),
        shown=shown,
        shown_hash="ab" * 32,
        asked_wall_s=0.0,
        expires_wall_s=expires_wall_s,
    )


@pytest.mark.parametrize(
    "annotation", [Refund, bool, str, int, list[str], Literal["a", "b"], Money]
)
def test_the_example_of_an_answer_is_an_answer(annotation: Any) -> None:
    value = example(contract_of(annotation).json_schema())
    assert TypeAdapter(annotation).validate_python(value) is not None


def test_a_type_within_itself_has_an_example_that_ends() -> None:
    assert repr(example(contract_of(Tree).json_schema())).count("parts") <= 8


def test_what_json_cannot_say_is_left_out_of_a_form() -> None:
    class Odd(BaseModel):
        yes: bool
        day: date | Callable[[], int] = print

    assert example(contract_of(Odd).json_schema()) == {"yes": True}
    assert contract_of(Callable[[], int]).json_schema() == contract_of(Any).json_schema() == {}
    assert example({}) is None


def test_what_is_typed_is_text_for_a_str_and_json_for_the_rest() -> None:
    assert answer_of(waiting("x", str), "true") == "true"
    assert answer_of(waiting("x", bool), "true") is True
    assert answer_of(waiting("x", Money), '{"amount": 1}') == {"amount": 1}
    assert answer_of(waiting("x", bool), "perhaps") == "perhaps"  # its contract refuses it


def test_the_beginning_of_a_hash_stands_for_it_and_nothing_else_does() -> None:
    question = waiting("x")
    assert whole_hash(question, None) == question.shown_hash
    assert whole_hash(question, question.shown_hash[:12]) == question.shown_hash
    assert whole_hash(question, "") == ""
    assert whole_hash(question, question.shown_hash[:11]) == question.shown_hash[:11]
    assert whole_hash(question, "cd" * 6) == "cd" * 6


def test_long_texts_keep_their_lines_and_short_ones_stand_by_their_names() -> None:
    @dataclass
    class Letter:
        to: str
        text: str
        sources: list[str]
        parts: dict[str, int]

    letter = Letter("ada", "one\n\n    two", ["a", "b"], {"x": 1})
    assert shown_text(waiting(letter)) == (
        "    to: ada\n    text:\n      one\n\n          two\n"
        "    sources:\n      - a\n      - b\n    parts:\n      x: 1"
    )
    assert shown_text(waiting([])) == "    []"
    assert shown_text(waiting({"a": None, "b": ""})) == "    a: null\n    b: "


def test_nothing_shown_can_move_the_cursor_or_turn_the_writing() -> None:
    sly = {"text": "pay 5\x1b[2K\rpay 5000\x08", "\x1b[8mname": "safe\u202egnp"}
    text = shown_text(waiting(sly))
    assert all(one.isprintable() or one == "\n" for one in text)
    assert "\\x1b[2K" in text and "pay 5000" in text and "\\u202e" in text


def test_a_question_says_until_when_and_whether_that_is_over() -> None:
    question = waiting("x", expires_wall_s=1000.0)
    assert "(over)" not in asked_text(question, now_s=999.0)
    assert "(over)" in asked_text(question, now_s=1000.0)
    assert "until" not in asked_text(waiting("x"), now_s=0.0)


def test_the_command_can_be_typed_as_it_stands() -> None:
    text = asked_text(waiting("x", Money), options=["--root", "my runs"], now_s=0.0)
    assert text.endswith(
        "answer with a Money:\n  stageflow signal r1 word --root 'my runs' --by YOU "
        """--value '{"amount": 0.0, "currency": "EUR"}'\n"""
    )
