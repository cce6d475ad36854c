"""The numbers of a Load line, by the size that must reach them.

The catalogue writes a Load in one of two ways. Tiers 1 to 3 and 5 to 10 name the sizes: what stands
between `quick` or `full` and the next semicolon, sentence, closing parenthesis or size is that
size's, all else is for both; or full's, where only quick is named ("1,000 repeats (quick 100)").
The verticals write `quick / full` pairs: of a clause with one such
slash the left side is quick's and the right side full's, of one with several only the number
before each slash is quick's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..scenario import Sizes

# A count: it continues no word, name, version, option or power. \u00d7 is the multiplication sign.
_COUNT: Final = re.compile(
    r"(?<![\w.,^])(?<!\s-)(?<![A-Za-z]-)(?<![\d)]:)"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
    r"(?:\u00d7(?P<base>10)\^(?P<power>\d+)|\^(?P<alone>\d+))?"
    r"(?:\s?(?P<scale>million|M|k)\b)?"
    r"(?![\w^])"
)
_SCALES: Final = {"million": 1e6, "M": 1e6, "k": 1e3}
_MARKER: Final = re.compile(
    r"\b(?P<quick>[Qq]uick)\b|\b(?P<full>[Ff]ull)\b(?=:|\s+(?:[≥~]|up to |to |\u00d7 )?\d)"
)
_END: Final = re.compile(r"[;)]|\.\s+(?=[A-Z])")
_NAME_DIGITS: Final = 4
"""Thousands are written with a comma, so that four bare digits are a year or a standard."""


@dataclass(frozen=True, slots=True)
class LoadNumber:
    """A number of a Load line: as written, and its value without its unit."""

    text: str
    value: float


def load_numbers(text: str) -> Mapping[str, tuple[LoadNumber, ...]]:
    """What "quick" and "full" must reach, in the order of the text."""
    found: dict[str, list[LoadNumber]] = {"quick": [], "full": []}
    parts = list(_named(text) if _MARKER.search(text) else _paired(text))
    sizes = {size for size, _ in parts}
    rest = ("full",) if "quick" in sizes and "full" not in sizes else ("quick", "full")
    for size, part in parts:
        numbers = list(_counts(part))
        for name in rest if size is None else (size,):
            found[name] += numbers
    return {name: tuple(numbers) for name, numbers in found.items()}


def unreached(sizes: Sizes, load: str) -> Iterator[str]:
    """A sentence per number of the Load line that no value or total of its size is as large as."""
    needed = load_numbers(load)
    for name in ("quick", "full"):
        params = sizes.params(name)
        totals = [sizes.total(each, name) for each in sizes.totals]
        largest = max([*_values((params or {}).values()), *totals], default=0.0)
        told: set[str] = set()
        for number in needed[name]:
            if number.value > largest and number.text not in told:
                told.add(number.text)
                yield (
                    f"no value of the {name} size reaches the {number.text} of the Load line; "
                    f"the largest is {largest:,g}"
                )


def _named(text: str) -> Iterator[tuple[str | None, str]]:
    """(size, part) with size None for both; the parts follow each other without a gap."""
    at, size = 0, None
    while at < len(text):
        marker, end = _MARKER.search(text, at), _END.search(text, at) if size else None
        stop = min((m.start() for m in (marker, end) if m is not None), default=len(text))
        yield size, text[at:stop]
        if marker is not None and marker.start() == stop:
            size, at = "quick" if marker["quick"] else "full", marker.end()
        else:
            size, at = None, stop + 1


def _paired(text: str) -> Iterator[tuple[str | None, str]]:
    for clause in text.split(";"):
        pieces = clause.split(" / ")
        if len(pieces) == 1:
            yield None, clause
        elif len(pieces) == 2:
            yield "quick", pieces[0]
            yield "full", pieces[1]
        else:
            for at, piece in enumerate(pieces):
                before = list(_COUNT.finditer(piece))
                cut = before[-1].start() if before and at < len(pieces) - 1 else len(piece)
                yield "full", piece[:cut]
                yield "quick", piece[cut:]


def _counts(text: str) -> Iterator[LoadNumber]:
    for match in _COUNT.finditer(text):
        digits = match["digits"]
        value = float(digits.replace(",", ""))
        if "," not in digits and len(digits.partition(".")[0]) >= _NAME_DIGITS:
            continue
        if match["alone"]:
            if value != 10:
                continue  # 2^53 is a value to be met with, not a count of anything
            value **= float(match["alone"])
        if match["power"]:
            value *= 10.0 ** float(match["power"])
        value *= _SCALES.get(match["scale"] or "", 1.0)
        yield LoadNumber(match[0].strip(), value)


def _values(values: Iterable[Any]) -> Iterator[float]:
    for value in values:
        if isinstance(value, Mapping):
            yield from _values(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            yield from _values(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield float(value)
