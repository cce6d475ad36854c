"""Results as text: tables of rows, verdicts, and figures against their thresholds."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TextIO

from ..results import AuditResult, Result, Standing
from ..roadmap import RoadmapRow
from ..verdict import Verdict
from .figures import bound_of, duration, mark_of, measured_of

COLOURS: Final[Mapping[Verdict, str]] = MappingProxyType(
    {
        Verdict.PASS: "32",
        Verdict.FAIL: "31",
        Verdict.INVALID: "35",
        Verdict.ERROR: "31",
        Verdict.UNKNOWN: "33",
        Verdict.SKIPPED: "36",
        Verdict.MISSING: "2",
    }
)


@dataclass(frozen=True, slots=True)
class Page:
    """Where text goes, in colour only where a terminal shows it and NO_COLOR is not set."""

    stream: TextIO

    @property
    def coloured(self) -> bool:
        """Whether escape codes may be written."""
        return self.stream.isatty() and not os.environ.get("NO_COLOR")

    @property
    def width(self) -> int:
        """Columns to fill."""
        return min(shutil.get_terminal_size((110, 24)).columns, 140)

    def line(self, text: str = "") -> None:
        """Write one line."""
        self.stream.write(text.rstrip() + "\n")

    def verdict(self, verdict: Verdict, *, width: int = 0) -> str:
        """The verdict's word, padded, coloured where that shows."""
        text = verdict.value.ljust(width)
        return f"\x1b[{COLOURS[verdict]}m{text}\x1b[0m" if self.coloured else text

    def bold(self, text: str) -> str:
        """Emphasised where that shows."""
        return f"\x1b[1m{text}\x1b[0m" if self.coloured else text


def write_results(page: Page, results: Sequence[Result]) -> None:
    """One block a row: its verdict, its metrics, and why it is not a pass."""
    present = [result for result in results if result.verdict is not Verdict.MISSING]
    names = [metric.name for result in present for metric in result.metrics]
    row_width = max((len(result.row) for result in results), default=3)
    name_width = min(max(len(name) for name in [*names, "METRIC"]), 40)
    if present:
        header = f"{'ROW'.ljust(row_width)}  {'VERDICT'.ljust(8)} {'METRIC'.ljust(name_width)}  "
        page.line(page.bold(f"{header}{'MEASURED'.ljust(26)}  {'THRESHOLD'.ljust(16)}  OUTCOME"))
    for result in present:
        _write_result(page, result, row_width=row_width, name_width=name_width)
    missing = [result.row for result in results if result.verdict is Verdict.MISSING]
    if missing:
        listed = f"missing (no scenario yet), {len(missing)}: {', '.join(missing)}"
        page.line(textwrap.fill(listed, page.width, subsequent_indent="  ", break_on_hyphens=False))


def write_summary(page: Page, results: Sequence[Result], *, root: Path) -> None:
    """The counts, where the evidence lies, and how to run again what did not pass."""
    page.line()
    page.line(f"{len(results)} rows: {counts(page, (result.verdict for result in results))}")
    if any(result.evidence for result in results):
        page.line(f"evidence: {shown(root)}")
    for result in results:
        if result.verdict in (Verdict.FAIL, Verdict.ERROR, Verdict.UNKNOWN, Verdict.INVALID):
            page.line(f"again:    {result.reproduce}")


def write_list(page: Page, listed: Sequence[tuple[str, RoadmapRow | None, Standing]]) -> None:
    """Every row with its place in the roadmap and what is known about it."""
    row_width = max((len(row) for row, _, _ in listed), default=3)
    header = f"{'ROW'.ljust(row_width)}  TIER  PHASE  PRIO  {'RISK'.ljust(12)}  "
    page.line(page.bold(f"{header}{'VERDICT'.ljust(8)}  {'KILLED'.ljust(6)}  TARGET"))
    section = None
    for row, entry, standing in listed:
        title = entry.section_title if entry is not None else "Your own rows"
        if title != section:
            section = title
            page.line(page.bold(title))
        place = f"{'-':>4}  {'-':>5}  {'-':<4}  {'-':<12}"
        if entry is not None:
            place = f"{entry.tier:>4}  {entry.phase:>5}  {entry.priority:<4}  {entry.risk:<12}"
        verdict = page.verdict(standing.verdict, width=8)
        text = (
            f"{row.ljust(row_width)}  {place}  {verdict}  {kill_rate(standing.current_audit):<6}  "
        )
        room = max(20, page.width - row_width - 56)
        target = entry.target if entry is not None else ""
        page.line(text + textwrap.shorten(target, room, placeholder="…"))
    page.line()
    page.line(f"{len(listed)} rows: {counts(page, (each.verdict for _, _, each in listed))}")


def write_audits(page: Page, audits: Sequence[AuditResult]) -> None:
    """One line a sabotage: killed on how many seeds, and whether ordinary use went on."""
    row_width = max((len(audit.row) for audit in audits), default=3)
    names = [each.name for audit in audits for each in audit.sabotages]
    width = max(len(name) for name in [*names, "SABOTAGE"])
    header = f"{'ROW'.ljust(row_width)}  {'SABOTAGE'.ljust(width)}  KILLED  PLAIN   "
    page.line(page.bold(f"{header}METRIC"))
    for audit in audits:
        for each in audit.sabotages:
            plain = "works " if each.plain_works else "BROKEN"
            killed = f"{each.killed}/{each.of}".ljust(6)
            text = f"{audit.row.ljust(row_width)}  {each.name.ljust(width)}  {killed}  {plain}"
            page.line(f"{text}  {each.metric}")
            for escape in each.escapes:
                page.line(f"{' ' * row_width}    survived: {escape}")
            if not each.plain_works:
                page.line(f"{' ' * row_width}    {each.plain_reason}")
        for failure in audit.healthy_failures:
            page.line(f"{audit.row.ljust(row_width)}  without sabotage, {failure}")
        if audit.reason is not None:
            page.line(f"{audit.row.ljust(row_width)}  {audit.reason}")
        page.line(f"{audit.row.ljust(row_width)}  {_audit_word(page, audit)}")


def counts(page: Page, verdicts: Iterable[Verdict]) -> str:
    """ "3 pass, 1 fail", in the order of the verdicts."""
    found = Counter(verdicts)
    return ", ".join(f"{found[each]} {page.verdict(each)}" for each in Verdict if found[each])


def kill_rate(audit: AuditResult | None) -> str:
    """ "2/2" sabotages killed; "-" when never audited."""
    return "-" if audit is None or audit.skipped else f"{audit.killed}/{len(audit.sabotages)}"


def shown(path: Path) -> str:
    """A path relative to here where that is shorter."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _write_result(page: Page, result: Result, *, row_width: int, name_width: int) -> None:
    head = f"{result.row.ljust(row_width)}  {page.verdict(result.verdict, width=8)} "
    blank = " " * (row_width + 11)
    for metric in result.metrics:
        measured, bound = measured_of(metric).ljust(26), bound_of(metric).ljust(16)
        name = metric.name.ljust(name_width)
        page.line(f"{head}{name}  {measured}  {bound}  {mark_of(metric)}")
        head = blank
        if metric.note:
            page.line(f"{blank}  {metric.note}")
    if result.reason is not None:
        why = textwrap.wrap(result.reason, max(40, page.width - len(blank)))
        for text in why:
            page.line(f"{head}{text}")
            head = blank
    for note in result.notes:
        page.line(f"{head}{note}")
        head = blank
    for what, met in (("reached", result.marks), ("fired", result.fired)):
        if met:
            listed = ", ".join(f"{name} {times:,}" for name, times in met.items())
            page.line(textwrap.fill(f"{head}{what} {listed}", page.width, subsequent_indent=blank))
            head = blank
    used = f"{result.size}, seed {result.seed}, {duration(result.duration_s)}"
    page.line(f"{head}{used}")


def _audit_word(page: Page, audit: AuditResult) -> str:
    if audit.skipped:
        return page.verdict(Verdict.SKIPPED)
    killed = f"{audit.killed} of {len(audit.sabotages)} sabotages killed"
    return f"valid, {killed}" if audit.valid else f"{page.verdict(Verdict.INVALID)}, {killed}"
