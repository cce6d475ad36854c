"""The last results as one HTML file: no network, no script, light and dark, readable unseen.

Everything that comes from a scenario or a result is escaped here, at the point of output.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib import resources
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

from ..errors import LabError
from ..results import AuditResult, Result, Standing
from ..roadmap import RoadmapRow, entries
from ..scenario import Picture
from ..verdict import MetricResult, Verdict
from .chart import bar, line_chart
from .figures import bound_of, duration, figure, mark_of, measured_of

_GLYPHS: Final[Mapping[Verdict, str]] = MappingProxyType(
    {
        Verdict.PASS: "✓",
        Verdict.FAIL: "✗",
        Verdict.UNKNOWN: "?",
        Verdict.INVALID: "⊘",
        Verdict.ERROR: "!",
        Verdict.SKIPPED: "»",
        Verdict.MISSING: "·",
    }
)
_POINTS_LISTED: Final = 60


def write_html(folder: Path, standings: Mapping[str, Standing], *, root: Path) -> Path:
    """Write `folder/index.html` about `standings`; evidence links lead into `root`.

    Raises LabError `lab.output` when the folder cannot be written.
    """
    target = folder / "index.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        target.write_text(page(standings, evidence=_link_base(folder, root)), "utf-8")
    except OSError as error:
        raise LabError(
            "lab.output",
            f"{target} cannot be written: {error.strerror}.",
            fix="give a folder that may be written",
        ) from error
    return target


def page(standings: Mapping[str, Standing], *, evidence: str) -> str:
    """The whole document. `evidence` is the URL of the results folder, without a last slash."""
    results = {row: standing.shown(row) for row, standing in standings.items()}
    style = (resources.files(__package__) / "report.css").read_text("utf-8")
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    body = "\n".join(
        [
            _summary(results),
            _heat(results),
            _map(results),
            _measured(results, standings, evidence),
            _absent(results),
        ]
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Stageflow lab report</title>
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#rows">Skip to the rows</a>
<header class="top">
<h1>Stageflow lab report</h1>
<p class="soft">{_extent(results)} and their last verdicts, as of {now}. \
Only <em>pass</em> is a pass.</p>
</header>
<main>
{body}
</main>
<footer>Made by <code>stageflow lab report</code>. Figures are judged by their confidence bound \
where one is shown; a row whose sabotage survived its audit is invalid, whatever it measured.\
</footer>
</body>
</html>
"""


def _extent(results: Mapping[str, Result]) -> str:
    listed = sum(row in entries() for row in results)
    own = len(results) - listed
    text = f"{listed} of the roadmap's {len(entries())} rows"
    if listed == len(entries()):
        text = f"All {listed} rows of the roadmap"
    return f"{text} and {own} of your own" if own else text


def _summary(results: Mapping[str, Result]) -> str:
    found = Counter(result.verdict for result in results.values())
    items = "".join(
        f'<li class="{each}"><strong>{found[each]}</strong>'
        f'<span><span aria-hidden="true">{_GLYPHS[each]}</span> {each}</span></li>'
        for each in Verdict
    )
    return f'<ul class="counts" aria-label="Rows by verdict">{items}</ul>'


def _heat(results: Mapping[str, Result]) -> str:
    heads = "".join(
        f'<th scope="col" class="v"><span aria-hidden="true">{_GLYPHS[each]}</span> {each}</th>'
        for each in Verdict
    )
    lines = []
    for title, rows in _tiers(results):
        found = Counter(results[row].verdict for row in rows)
        cells = "".join(_heat_cell(each, found[each], len(rows)) for each in Verdict)
        lines.append(f'<tr><th scope="row">{escape(title)}</th>{cells}</tr>')
    return (
        '<h2>Tiers and verdicts</h2><div class="heat scroll"><table>'
        "<caption>Rows of each tier by verdict; the deeper a cell, the larger its share.</caption>"
        f'<thead><tr><th scope="col">Tier</th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _heat_cell(verdict: Verdict, count: int, of: int) -> str:
    if count == 0:
        return '<td class="none">0</td>'
    depth = round(12 + 48 * count / of)
    return f'<td class="some {verdict}" style="--share:{depth}%">{count}</td>'


def _map(results: Mapping[str, Result]) -> str:
    lines = []
    for section, rows in _sections(results):
        tiles = "".join(
            f'<a class="tile {results[row].verdict}" href="#{escape(row)}" '
            f'title="{escape(row)}: {results[row].verdict}" '
            f'aria-label="{escape(row)}: {results[row].verdict}">'
            f"{_GLYPHS[results[row].verdict]}</a>"
            for row in rows
        )
        lines.append(f"<div><dt>{escape(section)}</dt><dd>{tiles}</dd></div>")
    return f'<h2>Every row</h2><div class="card"><dl class="map">{"".join(lines)}</dl></div>'


def _measured(
    results: Mapping[str, Result], standings: Mapping[str, Standing], evidence: str
) -> str:
    rows = [row for row, result in results.items() if result.verdict is not Verdict.MISSING]
    if not rows:
        return (
            '<h2 id="rows">Measured rows</h2><p class="card">No row has been run yet. '
            "<code>stageflow lab run --phase 1</code> runs the first phase.</p>"
        )
    articles = (_article(row, results[row], standings[row], evidence) for row in rows)
    return '<h2 id="rows">Measured rows</h2>' + "\n".join(articles)


def _article(row: str, result: Result, standing: Standing, evidence: str) -> str:
    entry = entries().get(row)
    target, place, claim = "", "the user's own row", ""
    if entry is not None:
        target, claim = entry.target, entry.claim
        place = f"tier {entry.tier}, phase {entry.phase}, {entry.priority}, {entry.risk}"
    parts = [
        f'<article class="card {result.verdict}" id="{escape(row)}">',
        f'<div class="head"><h3>{escape(row)} {escape(target)}</h3>{_badge(result.verdict)}'
        f'<span class="place">{escape(place)}</span></div>',
        f'<p class="claim">{escape(claim)}</p>' if claim else "",
        f'<p class="reason">{escape(result.reason)}</p>' if result.reason is not None else "",
        _metric_table(row, result.metrics),
        *(f"<p>{escape(note)}</p>" for note in result.notes),
        *(_figure(picture) for picture in result.pictures),
        _audit(standing.current_audit, row),
        _facts(result, evidence) if standing.result is not None else "",
        "</article>",
    ]
    return "\n".join(part for part in parts if part)


def _metric_table(row: str, metrics: Sequence[MetricResult]) -> str:
    if not metrics:
        return ""
    lines = "".join(_metric_line(metric) for metric in metrics)
    return (
        f'<div class="scroll"><table><caption>Figures of {escape(row)} against their thresholds'
        '</caption><thead><tr><th scope="col">Metric</th><th scope="col" class="n">Measured</th>'
        '<th scope="col" class="n">Threshold</th><th scope="col" class="n">n</th>'
        '<th scope="col">Value and threshold</th><th scope="col">Outcome</th></tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _metric_line(metric: MetricResult) -> str:
    notes = "".join(
        f'<span class="note">{escape(text)}</span>' for text in (metric.doc, metric.note) if text
    )
    met = metric.passed is True
    style, glyph = ("met", "✓") if met else ("unmet", "✗" if metric.passed is False else "?")
    return (
        f'<tr><th scope="row">{escape(metric.name)}{notes}</th>'
        f'<td class="n">{escape(measured_of(metric))}</td>'
        f'<td class="n">{escape(bound_of(metric))}</td>'
        f'<td class="n">{escape(figure(metric.n))}</td><td>{bar(metric)}</td>'
        f'<td class="{style}"><span aria-hidden="true">{glyph}</span> '
        f"{escape(mark_of(metric))}</td></tr>"
    )


def _figure(picture: Picture) -> str:
    drawing = line_chart(picture)
    if not drawing:
        return ""
    points = [(name, x, y) for name, line in picture.series.items() for x, y in line]
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="n">{escape(figure(x))}</td>'
        f'<td class="n">{escape(figure(y))}</td></tr>'
        for name, x, y in points[:_POINTS_LISTED]
    )
    more = len(points) - _POINTS_LISTED
    rest = f"<p>{more} more points are in the evidence.</p>" if more > 0 else ""
    return (
        f"<figure><figcaption>{escape(picture.title)}</figcaption>{drawing}"
        f"<details><summary>The points as a table</summary><table>"
        f"<caption>{escape(picture.title)}</caption><thead><tr>"
        f'<th scope="col">Line</th><th scope="col" class="n">{escape(picture.x_label)}</th>'
        f'<th scope="col" class="n">{escape(picture.y_label)}</th></tr></thead>'
        f"<tbody>{lines}</tbody></table>{rest}</details></figure>"
    )


def _audit(audit: AuditResult | None, row: str) -> str:
    if audit is None:
        return (
            '<p class="soft">Not audited: nothing shows yet that this row can fail. '
            f"<code>stageflow lab audit {escape(row)}</code></p>"
        )
    if audit.skipped or audit.reason is not None:
        return f'<p class="reason">Audit: {escape(audit.reason or "skipped")}</p>'
    lines = "".join(
        f'<tr><th scope="row">{escape(each.name)}<span class="note">{escape(each.defect)}</span>'
        f'</th><td>{escape(each.metric)}</td><td class="n">{each.killed} of {each.of}</td>'
        f"<td>{'works' if each.plain_works else 'broken'}</td>"
        f'<td class="{"met" if each.caught else "unmet"}">'
        f"{'✓ killed' if each.caught else '✗ survived'}</td></tr>"
        for each in audit.sabotages
    )
    weak = "".join(
        f'<p class="reason">Healthy run, {escape(e)}</p>' for e in audit.healthy_failures
    )
    return (
        f'<div class="scroll"><table><caption>Sabotages: {audit.killed} of {len(audit.sabotages)} '
        f"killed, at {audit.scale:.0%} of the quick size</caption><thead><tr>"
        '<th scope="col">Seeded defect</th><th scope="col">Metric</th>'
        '<th scope="col" class="n">Seeds caught</th><th scope="col">Plain use</th>'
        f'<th scope="col">Outcome</th></tr></thead><tbody>{lines}</tbody></table></div>{weak}'
    )


def _facts(result: Result, evidence: str) -> str:
    versions = result.versions
    packages = versions.get("packages") or {}
    params = ", ".join(f"{key} {figure_of(value)}" for key, value in result.params.items())
    facts = [
        ("Run", f"{result.size}, seed {result.seed}, {duration(result.duration_s)}"),
        ("Parameters", params),
        ("Memory peak", figure(result.memory_peak_bytes, "bytes")),
        (
            "Versions",
            f"stageflow {versions.get('stageflow', '?')}, Python {versions.get('python', '?')}, "
            f"{versions.get('platform', '?')}, {versions.get('cpus', '?')} CPUs",
        ),
        ("Packages", ", ".join(f"{name} {version}" for name, version in packages.items())),
    ]
    lines = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts if text)
    lines += f"<dt>Again</dt><dd><code>{escape(result.reproduce)}</code></dd>"
    links = ", ".join(
        f'<a href="{escape(evidence)}/{escape(quote(path))}">{escape(Path(path).name)}</a>'
        for path in result.evidence
    )
    if links:
        lines += f"<dt>Evidence</dt><dd>{links}</dd>"
    return f'<dl class="facts">{lines}</dl>'


def _absent(results: Mapping[str, Result]) -> str:
    rows = {row: each for row, each in results.items() if each.verdict is Verdict.MISSING}
    if not rows:
        return ""
    blocks = []
    for section, names in _sections(rows):
        items = "".join(
            f'<li id="{escape(row)}"><strong>{escape(row)}</strong> {escape(_target(row))}</li>'
            for row in names
        )
        blocks.append(
            f'<details class="section"><summary>{escape(section)} ({len(names)})</summary>'
            f'<ul class="absent">{items}</ul></details>'
        )
    head = f"<h2>Missing rows ({len(rows)})</h2>"
    return f'{head}<div class="card">{"".join(blocks)}</div>'


def figure_of(value: object) -> str:
    """A parameter: numbers as figures, anything else as it prints."""
    return figure(value) if isinstance(value, int | float) else str(value)


def _badge(verdict: Verdict) -> str:
    return (
        f'<span class="badge {verdict}"><span aria-hidden="true">{_GLYPHS[verdict]}</span> '
        f"{verdict}</span>"
    )


def _tiers(rows: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    def title(row: str) -> str:
        entry = entries().get(row)
        return "Your own rows" if entry is None else f"{entry.tier} {_short(entry)}"

    for name, each in groupby(rows, key=title):
        yield name, list(each)


def _short(entry: RoadmapRow) -> str:
    return entry.tier_title.partition(" (")[0]


def _sections(rows: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    def title(row: str) -> str:
        entry = entries().get(row)
        return "Your own rows" if entry is None else entry.section_title

    for name, each in groupby(rows, key=title):
        yield name, list(each)


def _target(row: str) -> str:
    entry = entries().get(row)
    return "" if entry is None else entry.target


def _link_base(folder: Path, root: Path) -> str:
    return quote(Path(os.path.relpath(root, folder)).as_posix())
