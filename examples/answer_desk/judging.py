"""What the guards ask of an answer: that its sources say it, and that it speaks of the question.

Pure functions over words; the guards in `desk` turn their findings into feedback for the author.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .passages import Passage
from .reader import UNKNOWN, Answer
from .search import terms

_SUPPORTED_MIN = 0.5
"""Least share of a sentence's words that one of the cited passages must hold."""

_SENTENCE_END = re.compile(r"(?<=[.!?:])\s+(?=[A-Z0-9`'\"(>])")
_WORD = re.compile(r"[\w']+")


def sentences(text: str) -> list[str]:
    """Prose cut at its sentences' ends; a block of code is one piece."""
    pieces: list[str] = []
    for block in text.split("\n\n"):
        pieces += [block] if block.startswith("  ") else _SENTENCE_END.split(block.strip())
    return [piece for piece in pieces if piece.strip()]


def cited_texts(answer: Answer, evidence: Iterable[Passage]) -> list[str]:
    """The texts of the passages that the answer cites and that were found, headings first."""
    return [f"{each.heading} {each.text}" for each in evidence if each.source in answer.sources]


def unsupported(answer: Answer, evidence: Sequence[Passage]) -> list[str]:
    """The answer's sentences that none of the passages it cites says."""
    shown = [set(terms(text)) for text in cited_texts(answer, evidence)]
    return [
        sentence
        for sentence in sentences(answer.text)
        if (said := set(terms(sentence)))
        if max((len(said & held) for held in shown), default=0) < _SUPPORTED_MIN * len(said)
    ]


def unspoken(question: str, answer: Answer, evidence: Sequence[Passage]) -> list[str]:
    """Words of the question that the cited passages speak of and the answer does not."""
    if answer.text == UNKNOWN:
        return []
    known = {
        word for each in evidence if each.source in answer.sources for word in terms(each.text)
    }
    said = set(terms(answer.text))
    owed = [word for word in _WORD.findall(question) if known.intersection(terms(word)) - said]
    return list(dict.fromkeys(owed))
