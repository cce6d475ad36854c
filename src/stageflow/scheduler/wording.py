"""How alike two texts are, and how far one is from another: by letters, words and numbers.

Similarity asks whether one text may be another in other words: Dice's coefficient over the letter
trigrams of their words, in whatever order, so that long words weigh more than particles and a
changed ending changes little (Broder, "On the resemblance and containment of documents", 1997).
Distance also counts the order of words and the punctuation, since an edit may be nothing else.
Numbers are compared as they are: two texts with other numbers do not say the same.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

TEXT_MAX: Final = 50_000
"""Characters that are compared; longer texts are only ever equal or not."""
FEATURES_MIN: Final = 24
"""Trigrams below which two texts are too short to be called alike unless their words are equal:
half a dozen words, of which a single one makes the meaning."""

# Ids and moments, which differ each time and say nothing.
_NONCE: Final = re.compile(
    r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
    r"|\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,}\b"
    r"|\b\d{4}-\d\d-\d\d(?:[t ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:z|[+-]\d\d:?\d\d)?)?"
)
_TOKEN: Final = re.compile(
    r"(?P<number>(?:(?<![\w.])-)?\d+(?:[.,]\d+)*)|(?P<word>[^\W\d_]+)|(?P<mark>[^\w\s])"
)
_DEPTH_MAX: Final = 50


class Wording(NamedTuple):
    """A text taken apart; made by `wording_of`."""

    shape: Counter[str]
    """Trigrams of the words; words of up to three letters as they are."""
    moves: Counter[str]
    """Everything in which an edit may show: `shape`, neighbouring words, punctuation."""
    numbers: tuple[str, ...]
    """In the order of the text."""
    words: int


def wording_of(text: str) -> Wording:
    """Takes a text apart; letter case, white space, ids and moments do not count."""
    shape: list[str] = []
    moves: list[str] = []
    numbers: list[str] = []
    words, before = 0, ""
    for token in _TOKEN.finditer(_NONCE.sub(" ", text.casefold())):
        if word := token["word"]:
            words += 1
            shape += _trigrams(word)
            moves.append(f"{before} {word}")
            before = word
        elif mark := token["mark"]:
            moves.append(f"{mark}.")
        else:
            numbers.append(token["number"])
    return Wording(Counter(shape), Counter(shape + moves), tuple(numbers), words)


def _trigrams(word: str) -> list[str]:
    return [word] if len(word) <= 3 else [word[at : at + 3] for at in range(len(word) - 2)]


def similarity(one: Wording, other: Wording, *, least: int = FEATURES_MIN) -> float:
    """Between 0 and 1; 1 for the same words in any order. Texts of fewer than `least` trigrams
    have the same words or are not alike."""
    if one.shape == other.shape:
        return 1.0
    sizes = one.shape.total(), other.shape.total()
    if min(sizes) < least:
        return 0.0
    return 2.0 * _shared(one.shape, other.shape) / sum(sizes)


def distance(one: Wording, other: Wording) -> int:
    """How many features one has and the other has not; a metric."""
    shared = _shared(one.moves, other.moves)
    return one.moves.total() + other.moves.total() - 2 * shared


def _shared(one: Counter[str], other: Counter[str]) -> int:
    """How many features both have; as `(one & other).total()`, several times faster."""
    if len(one) > len(other):
        one, other = other, one
    there = other.get
    return sum(min(count, there(feature, 0)) for feature, count in one.items())


def says_same_numbers(one: Wording, other: Wording, *, lag: int, counts: bool) -> bool:
    """True when both name the same numbers. With `counts`, one that is `lag` higher in the later
    text `other` is a counter of turns and the same."""
    old, new = Counter(one.numbers), Counter(other.numbers)
    if old == new:
        return True
    if not counts or len(one.numbers) != len(other.numbers):
        return False
    pairs = zip(_whole((old - new).elements()), _whole((new - old).elements()), strict=True)
    return all(a is not None and b is not None and b - a == lag for a, b in pairs)


def _whole(numbers: Iterator[str]) -> list[int | None]:
    whole = [int(each) if each.isdecimal() and len(each) < 10 else None for each in numbers]
    return sorted(whole, key=lambda each: -1 if each is None else each)


def text_of(value: Any) -> str | None:
    """Everything that a value says, field by field; None when it holds what is no text, or more
    than TEXT_MAX characters."""
    parts: list[str] = []
    if not _tell(value, parts, 0):
        return None
    text = "\n".join(parts)
    return text if len(text) <= TEXT_MAX else None


def _tell(value: Any, parts: list[str], depth: int) -> bool:
    if depth > _DEPTH_MAX:
        return False
    if value is None or isinstance(value, (str, bool, int, float)):
        parts.append(str(value.value if isinstance(value, enum.Enum) else value))
        return True
    if isinstance(value, (enum.Enum, datetime.date, datetime.time)):
        parts.append(str(value))
        return True
    fields = _fields(value)
    if fields is not None:
        return all(
            _tell(name, parts, depth + 1) and _tell(each, parts, depth + 1)
            for name, each in fields.items()
        )
    if isinstance(value, (list, tuple)):
        return all(_tell(each, parts, depth + 1) for each in value)
    if isinstance(value, (set, frozenset)):
        told = [text_of(each) for each in value]
        parts += sorted(each for each in told if each is not None)
        return None not in told
    return False


def _fields(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, Mapping):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    named = getattr(type(value), "model_fields", None)  # a pydantic model
    return {name: getattr(value, name) for name in named} if isinstance(named, dict) else None
