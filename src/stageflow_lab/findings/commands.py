"""`stageflow lab findings`, `findings show ID` and `reproduce ID`."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..arguments import Subparsers, add_json, add_out, handling, write_json
from ..audit import runs_of
from ..discovery import find
from ..report.display import Display
from ..report.terminal import Page, shown
from ..results import ResultStore
from ..verdict import Verdict
from .finding import SEVERITIES, Finding
from .reproduction import EXIT_CODES, Outcome, Reproduction, reproduce
from .store import FindingStore

_LABEL: Final = 12


def add_findings(commands: Subparsers) -> None:
    """Add `findings` with its `show`."""
    parser = commands.add_parser("findings", help="what rows found wrong, gravest first")
    parser.add_argument("--row", action="append", default=[], metavar="ROW")
    parser.add_argument("--severity", action="append", choices=SEVERITIES)
    parser.add_argument("--open", action="store_true", help="only those that still show")
    add_json(parser)
    add_out(parser)
    parser.set_defaults(handler=handling(_list))
    below = parser.add_subparsers(dest="findings_command", metavar="show")
    show = below.add_parser("show", help="everything about one finding")
    show.add_argument("id", metavar="ID", help="an id, or as much of it as is needed")
    add_json(show)
    # Given before `show` it counts as well: the default must not overwrite it.
    show.add_argument("--out", metavar="DIR", default=argparse.SUPPRESS, help="results folder")
    show.set_defaults(handler=handling(_show))


def add_reproduce(commands: Subparsers) -> None:
    """Add `reproduce`."""
    parser = commands.add_parser(
        "reproduce", help="run a finding's row again with its seed; 0 when it shows again"
    )
    parser.add_argument("id", metavar="ID", help="an id, or as much of it as is needed")
    parser.add_argument("--keep", action="store_true", help="keep the scratch folder")
    add_out(parser)
    parser.set_defaults(handler=handling(_reproduce))


def _list(arguments: argparse.Namespace) -> int:
    store = FindingStore(ResultStore.at(arguments.out).root)
    rows = {row.upper() for row in arguments.row}
    chosen = [
        each
        for each in store.all()
        if (not rows or each.row.upper() in rows)
        and (not arguments.severity or each.severity in arguments.severity)
        and (not arguments.open or each.state == "open")
    ]
    if arguments.json is not None:
        write_json(arguments.json, {"findings": [each.to_json() for each in chosen]})
    if arguments.json != "-":
        write_findings(Page(sys.stdout), chosen)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    store = FindingStore(ResultStore.at(arguments.out).root)
    finding = store.get(arguments.id)
    if arguments.json is not None:
        write_json(arguments.json, finding.to_json())
    if arguments.json != "-":
        write_finding(Page(sys.stdout), finding, store=store)
    return 0


def _reproduce(arguments: argparse.Namespace) -> int:
    results = ResultStore.at(arguments.out)
    finding = FindingStore(results.root).get(arguments.id)
    total = 1
    if finding.verdict is Verdict.INVALID:
        found = find([Path(folder) for folder in finding.folders])
        total = runs_of(found[finding.row]) if finding.row in found else 1
    display = Display(Page(sys.stderr), total=total, noun="run")
    shown_again = reproduce(finding, store=results, watcher=display, keep=arguments.keep)
    display.close()
    page = Page(sys.stdout)
    page.line(_sentence(shown_again))
    if shown_again.reason is not None:
        page.line(f"  {shown_again.reason}")
    return EXIT_CODES[shown_again.outcome]


def write_findings(page: Page, findings: Sequence[Finding]) -> None:
    """One line a finding, and the counts."""
    width = max((len(each.id) for each in findings), default=2)
    header = f"{'ID'.ljust(width)}  {'SEVERITY':<8}  {'TYPE':<13}  {'VERDICT':<7}  SEEN  "
    if findings:
        page.line(page.bold(f"{header}{'LAST SEEN':<20}  WHAT"))
    for each in findings:
        verdict = page.verdict(each.verdict, width=7)
        seen = f"{each.count:>4}  {each.last_seen[:19]:<20}"
        head = f"{each.id.ljust(width)}  {each.severity:<8}  {each.type:<13}  {verdict}  {seen}"
        gone = "(not reproduced) " if each.state != "open" else ""
        room = max(30, page.width - width - 66)
        page.line(f"{head}  {textwrap.shorten(gone + each.reason, room, placeholder='…')}")
    counted = Counter(each.severity for each in findings if each.state == "open")
    listed = ", ".join(f"{counted[each]} {each}" for each in SEVERITIES if counted[each])
    page.line(f"{len(findings)} findings" + (f", open: {listed}" if listed else ""))


def write_finding(page: Page, finding: Finding, *, store: FindingStore) -> None:
    """Everything about one finding."""
    page.line(page.bold(f"{finding.id}  {finding.target}"))
    what = f"{finding.severity} {finding.type}, {finding.verdict}, {finding.state}"
    failed = "survived" if finding.verdict is Verdict.INVALID else "failed"
    versions = finding.versions
    made_with = ", ".join(
        f"{name} {versions[name]}"
        for name in ("stageflow", "python", "platform")
        if name in versions
    )
    lines = [
        ("what", what.replace("_", " ")),
        ("row", finding.row),
        ("reason", finding.reason),
        (failed, ", ".join(finding.metrics)),
        ("seen", f"{finding.count} times, {finding.first_seen} to {finding.last_seen}"),
        ("seeds", ", ".join(str(seed) for seed in finding.seeds) + f" ({finding.size})"),
        ("with", made_with),
        ("fingerprint", finding.fingerprint),
    ]
    for label, text in lines:
        if text:
            indent = " " * _LABEL
            filled = textwrap.fill(f"{label:<{_LABEL}}{text}", page.width, subsequent_indent=indent)
            page.line(filled)
    for step in finding.steps:
        page.line(f"{'again':<{_LABEL}}{step}")
    for name in finding.evidence:
        page.line(f"{'evidence':<{_LABEL}}{shown(store.root / name)}")


def _sentence(shown_again: Reproduction) -> str:
    finding = shown_again.finding
    at = f"{finding.row}, {finding.size}, seed {finding.seed}"
    match shown_again.outcome:
        case Outcome.SAME:
            return f"{finding.id} shows again ({at})"
        case Outcome.ALIKE:
            return f"{finding.id} shows again, with other evidence ({at})"
        case Outcome.GONE:
            return f"{finding.id} does not show again: the row is {shown_again.verdict} ({at})"
        case _:
            return f"{finding.id} is undecided: the row is {shown_again.verdict} ({at})"
