"""The offline author: answers in the documents' own words, and cites where they stand."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import BaseModel

from .passages import Passage
from .search import terms

UNKNOWN = "These documents do not say."

_QUOTED = re.compile(r'"([^"\n]+)"')

_SAYS_LITTLE = 240
"""Characters below which an opening is continued by the paragraph after it."""


class Answer(BaseModel):
    """What the desk replies. Without sources it is no answer, and says so."""

    text: str
    sources: list[str]
    """Passages the text rests on, as `page#heading`."""


def define(evidence: Sequence[Passage]) -> Answer:
    """The first paragraph of the term's entry, which leads the evidence."""
    entry = evidence[0]
    return Answer(text=_paragraphs(entry.text)[0], sources=[entry.source])


def explain(question: str, evidence: Sequence[Passage], feedback: Sequence[str] = ()) -> Answer:
    """The opening of the best passage, and the part of it that speaks most of the question.

    Sent back, it adds the parts that speak of what the feedback names in quotation marks.
    """
    if not evidence:
        return Answer(text=UNKNOWN, sources=[])
    best = evidence[0]
    paragraphs = _paragraphs(best.text)
    # What the heading already says is no reason to prefer one of its paragraphs to another.
    asked = set(terms(question)) - set(terms(best.heading))
    spoken = [len(asked & set(terms(paragraph))) for paragraph in paragraphs]
    taken = {*range(_opening(paragraphs)), spoken.index(max(spoken))}
    for word in terms(" ".join(_QUOTED.findall("\n".join(feedback)))):
        if not any(word in terms(paragraphs[place]) for place in taken):
            taken.update(_speaking(word, paragraphs)[:1])
    text = "\n\n".join(paragraphs[place] for place in sorted(taken))
    return Answer(text=text, sources=[best.source])


def _speaking(word: str, paragraphs: Sequence[str]) -> list[int]:
    """The places of the paragraphs that hold the word."""
    return [place for place, text in enumerate(paragraphs) if word in terms(text)]


def _opening(paragraphs: Sequence[str]) -> int:
    """How many paragraphs to open with: enough to say something, none that ends on a colon."""
    length = 0
    for n, paragraph in enumerate(paragraphs, start=1):
        length += len(paragraph)
        if length >= _SAYS_LITTLE and not paragraph.endswith(":"):
            return n
    return len(paragraphs)


def _paragraphs(text: str) -> list[str]:
    """Prose with its lines joined; code stays as it is, and stays with the words before it."""
    paragraphs: list[str] = []
    for block in text.split("\n\n"):
        is_code = block.startswith("  ")
        if is_code and paragraphs and (paragraphs[-1].endswith(":") or "\n  " in paragraphs[-1]):
            paragraphs[-1] += "\n\n" + block
        else:
            paragraphs.append(block if is_code else " ".join(block.split()))
    return paragraphs
