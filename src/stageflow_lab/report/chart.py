"""SVG drawings for the report: a value against its threshold, and line charts.

Colours come from the page's style sheet through classes; shapes and labels carry the meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from ..scenario import Picture
from ..verdict import MetricResult
from .figures import bound_of, figure, measured_of

_BAR_WIDTH: Final = 160
_BAR_HEIGHT: Final = 18
_WIDTH: Final = 640
_HEIGHT: Final = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 40, 14, 46
_DASHES: Final = ("", "7 4", "2 3", "9 3 2 3", "1 4", "12 4")
_POINTS_MAX: Final = 400


def bar(metric: MetricResult) -> str:
    """A bar from zero to the value judged, with a tick at the threshold; empty without a figure."""
    value = metric.value if metric.bound is None else metric.bound
    if value is None:
        return ""
    reach = max(abs(float(value)), abs(float(metric.threshold))) * 1.15 or 1.0
    drawn = max(1.0, min(1.0, abs(float(value)) / reach) * _BAR_WIDTH)
    tick = min(1.0, abs(float(metric.threshold)) / reach) * (_BAR_WIDTH - 3) + 1.5
    state = {True: "met", False: "unmet", None: "unjudged"}[metric.passed]
    label = escape(f"{metric.name}: {measured_of(metric)}, threshold {bound_of(metric)}")
    return (
        f'<svg class="bar {state}" role="img" aria-label="{label}" width="{_BAR_WIDTH}" '
        f'height="{_BAR_HEIGHT}" viewBox="0 0 {_BAR_WIDTH} {_BAR_HEIGHT}">'
        f'<rect class="track" y="5" width="{_BAR_WIDTH}" height="8" rx="4"/>'
        f'<rect class="value" y="5" width="{drawn:.1f}" height="8" rx="{min(4.0, drawn / 2):.1f}"/>'
        f'<line class="threshold" x1="{tick:.1f}" x2="{tick:.1f}" y1="1" y2="17"/></svg>'
    )


def line_chart(picture: Picture) -> str:
    """The picture as an SVG with axes, one line a series, and a legend that does not need colour.

    Points that an axis cannot show (not finite, or not above zero on a log axis) are left out; a
    series longer than 400 points is thinned evenly. Empty when nothing can be drawn.
    """
    series = [(name, _drawable(points, picture)) for name, points in picture.series.items()]
    series = [(name, points) for name, points in series if points]
    if not series:
        return ""
    everything = [point for _, points in series for point in points]
    x = _axis([p[0] for p in everything], log=picture.log_x, low=_LEFT, high=_WIDTH - _RIGHT)
    y = _axis([p[1] for p in everything], log=picture.log_y, low=_HEIGHT - _BOTTOM, high=_TOP)
    parts = [_grid(x, y), *(_line(at, points, x, y) for at, (_, points) in enumerate(series))]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="label" x="{middle:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">'
        f"{escape(picture.x_label)}</text>"
    )
    half = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text class="label" transform="translate(14 {half:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(picture.y_label)}</text>'
    )
    names = ", ".join(name for name, _ in series)
    label = escape(f"{picture.title}: {picture.y_label} over {picture.x_label}; lines: {names}")
    drawing = (
        f'<svg class="chart" role="img" aria-label="{label}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}">{"".join(parts)}</svg>'
    )
    return drawing + _legend([name for name, _ in series])


@dataclass(frozen=True, slots=True)
class _Axis:
    """Maps data to pixels; `ticks` are data values."""

    place: Callable[[float], float]
    ticks: Sequence[float]


def _drawable(points: Sequence[tuple[float, float]], picture: Picture) -> list[tuple[float, float]]:
    def fits(x: object, y: object) -> bool:
        return all(
            isinstance(value, int | float) and math.isfinite(value) and (value > 0 or not log)
            for value, log in ((x, picture.log_x), (y, picture.log_y))
        )

    kept = [(float(x), float(y)) for x, y in points if fits(x, y)]
    step = math.ceil(len(kept) / _POINTS_MAX)
    return kept[::step] if step > 1 else kept


def _axis(values: Sequence[float], *, log: bool, low: float, high: float) -> _Axis:
    """`low` and `high` are the pixels of the smallest and the largest value."""
    first, last = min(values), max(values)
    if log:
        floor, ceiling = math.floor(math.log10(first)), math.ceil(math.log10(last))
        ceiling = max(ceiling, floor + 1)
        every = math.ceil((ceiling - floor) / 6)
        ticks = [10.0**power for power in range(floor, ceiling + 1, every)]

        def place(value: float) -> float:
            return low + (math.log10(value) - floor) / (ceiling - floor) * (high - low)

        return _Axis(place, ticks)
    if 0 <= first <= last * 0.5:
        first = 0.0  # a line that starts near zero is read against zero
    step = _nice_step(last - first or abs(last) or 1.0)
    start, end = math.floor(first / step) * step, math.ceil(last / step) * step
    end = end if end > start else start + step
    count = round((end - start) / step)

    def linear(value: float) -> float:
        return low + (value - start) / (end - start) * (high - low)

    return _Axis(linear, [start + step * at for at in range(count + 1)])


def _nice_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, so that a span has about five steps."""
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * nice for nice in (1, 2, 5, 10) if power * nice >= rough * 0.999)


def _grid(x: _Axis, y: _Axis) -> str:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for tick in y.ticks:
        at = y.place(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">'
            f"{escape(figure(_rounded(tick)))}</text>"
        )
    for tick in x.ticks:
        at = x.place(tick)
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">'
            f"{escape(figure(_rounded(tick)))}</text>"
        )
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    return "".join(parts)


def _rounded(value: float) -> float:
    """Steps add up with binary noise; a tick shows none of it."""
    return float(f"{value:.10g}")


def _line(at: int, points: Sequence[tuple[float, float]], x: _Axis, y: _Axis) -> str:
    placed = [(x.place(px), y.place(py)) for px, py in points]
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in placed)
    dash = _DASHES[at % len(_DASHES)]
    drawn = f'<polyline class="line s{at % 6}" stroke-dasharray="{dash}" points="{path}"/>'
    if len(placed) <= 40:
        drawn += "".join(
            f'<circle class="dot s{at % 6}" cx="{px:.1f}" cy="{py:.1f}" r="3"/>'
            for px, py in placed
        )
    return drawn


def _legend(names: Sequence[str]) -> str:
    items = "".join(
        f'<li><svg width="34" height="10" aria-hidden="true"><line class="line s{at % 6}" '
        f'stroke-dasharray="{_DASHES[at % len(_DASHES)]}" x1="1" x2="33" y1="5" y2="5"/></svg>'
        f"{escape(name)}</li>"
        for at, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'
