"""Documents become passages that can be cited, without markup and without loss of code."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.answer_desk.passages import DOCUMENTS, Passage, read_all, slug

PAGE = """\
.. _label:

*****
Title
*****

Opening with ``code``, a :func:`~os.path.join` and a `link <https://example.org>`_.

.. index:: thing
   single: other

How do I do it?
===============

Like this::

    x = 1
    y = x

.. note::
   Mind the gap.

Then *stop*.
"""

GLOSSARY = """\
.. glossary::

   first term
      What it :term:`means`.

      More about it.

   other
      Else.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "faq-page.rst").write_text(PAGE)
    (tmp_path / "glossary.rst").write_text(GLOSSARY)
    (tmp_path / "LICENSE.rst").write_text(PAGE)
    return tmp_path


def test_each_section_and_each_term_is_a_passage(folder: Path) -> None:
    assert [(passage.source, passage.is_definition) for passage in read_all(folder)] == [
        ("faq-page#title", False),
        ("faq-page#how-do-i-do-it", False),
        ("glossary#first-term", True),
        ("glossary#other", True),
    ]


def test_markup_is_gone_and_code_is_kept(folder: Path) -> None:
    opening, body, term, _ = read_all(folder)
    assert opening.text == "Opening with `code`, a join and a link."
    assert "Like this:\n\n    x = 1\n    y = x" in body.text
    assert "Mind the gap." in body.text
    assert body.text.endswith("Then stop.")
    assert term.text == "What it means.\n\nMore about it."


def test_the_shipped_documents_give_citable_passages() -> None:
    passages = read_all()
    assert len(passages) > 450
    assert len({passage.source for passage in passages}) == len(passages)
    assert all(passage.text.strip() and passage.heading for passage in passages)
    assert not [p.source for p in passages if ":func:`" in p.text or ":term:`" in p.text]


def test_the_documents_ship_with_their_licence_and_are_small() -> None:
    assert "PSF LICENSE AGREEMENT" in (DOCUMENTS / "LICENSE.rst").read_text(encoding="utf-8")
    pages = [path for path in DOCUMENTS.iterdir() if path.name != "LICENSE.rst"]
    assert 10 <= len(pages) <= 30
    assert sum(path.stat().st_size for path in DOCUMENTS.iterdir()) < 1_000_000


def test_a_passage_is_a_value() -> None:
    assert Passage("a#b", "B", "text", False) == Passage("a#b", "B", "text", False)


@pytest.mark.parametrize(
    ("heading", "expected"),
    [("Why does -22 // 10 return -3?", "why-does-22-10-return-3"), ("What's new", "what-s-new")],
)
def test_slugs_are_those_of_the_published_pages(heading: str, expected: str) -> None:
    assert slug(heading) == expected
