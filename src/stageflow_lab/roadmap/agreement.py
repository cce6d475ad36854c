"""Whether a scenario's header says what the catalogue says about its row.

The claim is the catalogue's, word for word. Every defect of the Sabotage line has a sabotage.
Every number of the Pass line is accounted for: one that is a bound (after a comparison sign, a
zero, a percentage, N of N) is the threshold of a gate metric of its own; one that only describes
the measurement ("at depth 200") is such a threshold or stands in a gate metric's name or doc.
Every number of the Load line is reached by some value of its size: this notices a size that was
made smaller than the catalogue's, not one that counts the wrong thing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..scenario import Scenario
from .entries import RoadmapRow
from .loads import unreached

# A number that continues no word or name: not the 95 of P95, the 1 of F1 or f+1, the 9 of kill -9.
# \u2212 is the minus sign, \u00d7 the multiplication sign.
_NUMBER: Final = re.compile(
    r"(?<![\w@^.+-])(?P<open>\[)?(?P<sign>[≤≥<>=±~]=?|\+-|\+/-)?\s?(?<![\w@^.])"
    r"(?P<minus>\u2212)?(?P<digits>\d+(?:,\d{3})*(?:\.\d+)?(?:\^\d+)?)"
    r"(?:/(?P<of>\d[\d,]*))?"
    r"(?P<unit>%|\u00d7|x\b|\s?(?:KiB|MiB|GiB|KB|MB|GB|bytes|ms|µs|s|min|h|points?)\b)?"
    r"(?![\w^])"
)
_SCALES: Final = {
    "%": 0.01,
    "points": 0.01,
    "point": 0.01,
    "KiB": 1024.0,
    "MiB": 1024.0**2,
    "GiB": 1024.0**3,
    "KB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "ms": 1e-3,
    "µs": 1e-6,
    "min": 60.0,
    "h": 3600.0,
}


@dataclass(frozen=True, slots=True)
class PassNumber:
    """A number of a Pass line: as written, the thresholds that would state it, and its role."""

    text: str
    values: tuple[float, ...]
    is_bound: bool


def disagreements(scenario: Scenario, entry: RoadmapRow) -> list[str]:
    """What differs between a scenario and its row in the catalogue, as sentences; empty if none."""
    found = []
    if scenario.row != entry.id:
        found.append(f"the scenario is of {scenario.row}, the catalogue's row is {entry.id}")
    if scenario.claim != entry.claim:
        found.append(f"the claim is not the catalogue's, which reads: {entry.claim}")
    lacking = len(entry.sabotages) - len(scenario.sabotages)
    if lacking > 0:
        listed = "; ".join(entry.sabotages)
        found.append(f"{lacking} sabotages too few; the catalogue lists: {listed}")
    if not scenario.metrics:
        found.append("there are no metrics")
    if not scenario.sizes.quick or not scenario.sizes.full:
        found.append("the quick or the full size is empty")
    found.extend(_unmeasured(scenario, entry.passes))
    found.extend(unreached(scenario.sizes, entry.load))
    return found


def pass_numbers(text: str) -> list[PassNumber]:
    """The numbers of a Pass line, in order."""
    return [_number(match) for match in _NUMBER.finditer(text)]


def _unmeasured(scenario: Scenario, passes: str) -> Iterator[str]:
    gates = [metric for metric in scenario.metrics if metric.gate]
    free = [float(metric.threshold) for metric in gates]
    words = " ".join(f"{metric.name} {metric.doc}" for metric in gates)
    stated = {number.text for number in pass_numbers(words)}
    for number in sorted(pass_numbers(passes), key=lambda each: not each.is_bound):
        match = next((value for value in free if _states(value, number)), None)
        if number.is_bound:
            if match is None:
                yield f"no gate metric of its own has the threshold {number.text} of the Pass line"
            else:
                free.remove(match)
        elif number.text not in stated and not any(
            _states(float(metric.threshold), number) for metric in gates
        ):
            yield f"no gate metric states the {number.text} of the Pass line"


def _states(threshold: float, number: PassNumber) -> bool:
    return any(abs(threshold - value) <= 1e-9 * max(1.0, abs(value)) for value in number.values)


def _number(match: re.Match[str]) -> PassNumber:
    written = match["digits"].rstrip(",")
    base, _, power = written.replace(",", "").partition("^")
    value = float(base) ** float(power) if power else float(base)
    unit = (match["unit"] or "").strip()
    values = [value]
    if unit in _SCALES:
        values.append(value * _SCALES[unit])
    if match["minus"]:
        values += [-each for each in values]
    whole = match["of"] is not None and float(match["of"].replace(",", "")) == value
    if whole:
        values.append(1.0)
    sign = match["sign"] or ""
    zero = written == "0" and match["open"] is None
    is_bound = bool(sign) or whole or zero or (unit == "%" and value == 100)
    text = written + (f"/{match['of']}" if match["of"] else "") + unit
    return PassNumber(text, tuple(values), is_bound)
