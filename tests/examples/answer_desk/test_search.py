"""Retrieval ranks what speaks of the question first, and knows when nothing does."""

from __future__ import annotations

import pytest

from examples.answer_desk.passages import Passage, read_all
from examples.answer_desk.search import Index, terms


@pytest.fixture(scope="module")
def library() -> Index:
    return Index.of(read_all())


def passage(source: str, heading: str, text: str, *, is_definition: bool = False) -> Passage:
    return Passage(source, heading, text, is_definition)


def test_words_meet_whatever_their_ending() -> None:
    assert terms("sorting sorted sorts") == terms("sort sort sort")
    assert terms("running runs") == terms("run run")
    assert terms("queries") == terms("query")


def test_common_words_are_not_searched() -> None:
    assert terms("How do I use this in Python?") == []


def test_rare_words_weigh_more_than_frequent_ones() -> None:
    index = Index.of(
        [passage(f"p#{n}", "Page", "apple tree") for n in range(9)]
        + [passage("p#rare", "Page", "quince tree")]
    )
    assert index.find("apple quince")[0].passage.source == "p#rare"


def test_a_heading_counts_more_than_the_text_below() -> None:
    index = Index.of(
        [passage("p#text", "Other words", "tides here"), passage("p#head", "Tides", "words here")]
    )
    assert index.find("tides")[0].passage.source == "p#head"


def test_what_shares_no_word_is_not_found() -> None:
    assert Index.of([passage("p#a", "Tides", "the moon")]).find("sourdough") == []


def test_an_empty_library_finds_nothing() -> None:
    assert Index.of([]).find("anything") == []


def test_equal_scores_come_in_a_stable_order() -> None:
    index = Index.of([passage(f"p#{n}", "Tides", "moon") for n in (3, 1, 2)])
    assert [hit.passage.source for hit in index.find("tides")] == ["p#1", "p#2", "p#3"]


def test_definitions_are_found_by_name_and_followed_once(library: Index) -> None:
    for name, source in {
        "duck typing": "glossary#duck-typing",
        "iterators": "glossary#iterator",
        "GIL": "glossary#global-interpreter-lock",
    }.items():
        found = library.define(name)
        assert found is not None and found.source == source


def test_a_part_of_a_name_defines_nothing(library: Index) -> None:
    assert library.define("the difference between a list and a tuple") is None
    assert library.define("") is None


def test_coverage_is_the_share_of_what_was_asked() -> None:
    known = passage("p#a", "Tides", "moon")
    index = Index.of([known])
    assert index.coverage("tides moon", known) == 1.0
    assert 0.0 < index.coverage("tides sourdough", known) < 0.5
    assert index.coverage("the", known) == 0.0
