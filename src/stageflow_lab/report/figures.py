"""How figures read, in the terminal and in the report alike."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ..metric import Number
from ..verdict import MetricResult

_BINARY: Final = ("KiB", "MiB", "GiB", "TiB")
_SIGNS: Final[Mapping[str, str]] = MappingProxyType({"==": "=", "<=": "≤", ">=": "≥"})
_TIMES: Final = "\N{MULTIPLICATION SIGN}"


def figure(value: Number | None, unit: str = "") -> str:
    """A number as people read it: thousands separated, four significant digits, its unit.

    `bytes` become KiB and up, `s` below one become ms or µs, `x` follows without a space.
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if unit == "bytes" and abs(value) >= 1024:
        return _bytes(float(value))
    if unit == "s" and value != 0 and abs(value) < 1:
        small = abs(value) < 1e-3
        return f"{_plain(value * (1e6 if small else 1e3))} {'µs' if small else 'ms'}"
    if unit == "%":
        return f"{_plain(value)}%"
    if unit in ("x", _TIMES):
        return f"{_plain(value)}{_TIMES}"
    return f"{_plain(value)} {unit}".rstrip()


def bound_of(metric: MetricResult) -> str:
    """The threshold with its operator: "≤ 1.5 s"."""
    loose = " (quick)" if metric.loosened else ""
    return f"{_SIGNS.get(metric.op, metric.op)} {figure(metric.threshold, metric.unit)}{loose}"


def measured_of(metric: MetricResult) -> str:
    """The value, with the bound that was judged when there is one."""
    text = figure(metric.value, metric.unit)
    if metric.bound is not None and metric.bound != metric.value:
        text += f" (bound {figure(metric.bound, metric.unit)})"
    return text


def mark_of(metric: MetricResult) -> str:
    """The metric's outcome in a word."""
    if metric.passed is None:
        return "no figure"
    met = "met" if metric.passed else "not met"
    return met if metric.gate else f"{met}, not judged"


def duration(seconds: float) -> str:
    """A duration: "0.4 s", "12 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7_200:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def _plain(value: Number) -> str:
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _bytes(value: float) -> str:
    power = 0
    while abs(value) >= 1024 and power < len(_BINARY):
        value /= 1024
        power += 1
    return f"{value:.4g} {_BINARY[power - 1]}"
