"""Ranked retrieval over passages: Okapi BM25 on headings and text.

S. Robertson and H. Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009);
k1 = 1.2 and b = 0.75 are their usual values. Heading words count three times, after the simple
form of BM25F in the same paper.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from .passages import Passage

_K1 = 1.2
_B = 0.75
_HEADING_WEIGHT = 3

_SEE = re.compile(r"^See ([\w\s]+)\.$")
_WORD = re.compile(r"[a-z0-9_]+(?:'[a-z]+)?")
_STOP = frozenset(
    "a an and any are as at be been but by can could do does did doing for from get had has have "
    "how i if in into is isn't it its just many me my no not of on or please should so some such "
    "tell than that the their them then there these they this those to us use used using want "
    "was way we what what's when where which who why will with would you your python".split()
)
_ENDINGS = (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""), ("e", ""))


def terms(text: str) -> list[str]:
    """Lower-case words without the commonest ones, with plain English endings taken off."""
    return [_stem(word) for word in _WORD.findall(text.lower()) if word not in _STOP]


def _stem(word: str) -> str:
    for ending, instead in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)] + instead
            break
    # "running" is "runn" by now; "runs" is "run".
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        word = word[:-1]
    return word


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found, and how well it fits: BM25 points, higher is better."""

    passage: Passage
    score: float


@dataclass(frozen=True, slots=True)
class Index:
    """Passages and the statistics BM25 needs. Built once, then only read; safe to share."""

    passages: tuple[Passage, ...]
    counts: tuple[Counter[str], ...] = field(repr=False)
    weights: dict[str, float] = field(repr=False)
    """Inverse document frequency of every term."""
    mean_length: float

    @classmethod
    def of(cls, passages: Iterable[Passage]) -> Index:
        """Counts every passage once."""
        kept = tuple(passages)
        counts = tuple(
            Counter(terms(passage.heading) * _HEADING_WEIGHT + terms(passage.text))
            for passage in kept
        )
        seen = Counter(term for count in counts for term in count)
        weights = {
            term: math.log(1 + (len(kept) - n + 0.5) / (n + 0.5)) for term, n in seen.items()
        }
        lengths = [count.total() for count in counts]
        return cls(kept, counts, weights, sum(lengths) / max(1, len(lengths)))

    def find(self, query: str, *, at_most: int = 5) -> list[Hit]:
        """The best passages, best first; only those that share a word with the query."""
        wanted = set(terms(query))
        hits = [
            Hit(passage, score)
            for passage, count in zip(self.passages, self.counts, strict=True)
            if (score := self._score(wanted, count)) > 0
        ]
        hits.sort(key=lambda hit: (-hit.score, hit.passage.source))
        return hits[:at_most]

    def define(self, name: str) -> Passage | None:
        """The glossary's entry of exactly this name, plural or not; None when there is none.

        An entry that only says "See another." gives the other.
        """
        asked = terms(name)
        for passage in self.passages:
            if passage.is_definition and asked and terms(passage.heading) == asked:
                other = _SEE.match(passage.text)
                return (self.define(other[1]) if other else None) or passage
        return None

    def coverage(self, query: str, passage: Passage) -> float:
        """How much of the query the passage speaks about, by weight of its words: 0 to 1."""
        wanted = set(terms(query))
        rarest = math.log(1 + 2 * len(self.passages))
        weight = {term: self.weights.get(term, rarest) for term in wanted}
        held = wanted & set(terms(f"{passage.heading} {passage.text}"))
        return sum(weight[term] for term in held) / sum(weight.values()) if wanted else 0.0

    def _score(self, wanted: set[str], count: Counter[str]) -> float:
        length = _K1 * (1 - _B + _B * count.total() / self.mean_length)
        return sum(
            self.weights[term] * count[term] * (_K1 + 1) / (count[term] + length)
            for term in wanted
            if term in count
        )
