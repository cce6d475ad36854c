"""`stageflow lab`: list, explain, run, audit, report, findings, reproduce.

`command` is the entry point through which the framework's own command line takes the lab in.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from . import discovery
from .arguments import (
    Parser,
    Subparsers,
    add_places,
    add_running,
    add_selection,
    handling,
    places,
    row_filters,
    run_options,
    write_json,
)
from .audit import audit_rows, runs_of
from .discovery import Found
from .findings.commands import add_findings, add_reproduce
from .metric import Metric
from .report.display import Display
from .report.figures import figure
from .report.html import write_html
from .report.terminal import (
    Page,
    kill_rate,
    shown,
    write_audits,
    write_list,
    write_results,
    write_summary,
)
from .results import SCHEMA_VERSION, AuditResult, Result, Standing
from .roadmap import RoadmapRow, entries
from .roadmap.agreement import disagreements
from .runner.batch import run_rows
from .scenario import SIZE_NAMES
from .selection import Filters, select
from .statistics import needed
from .verdict import Verdict, exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m stageflow_lab ...` is `stageflow lab ...`."""
    parser = Parser(prog="python -m stageflow_lab", description=_DESCRIPTION)
    _commands(parser)
    chosen = parser.parse_args(arguments)
    handler: Callable[[argparse.Namespace], int] = chosen.handler
    return handler(chosen)


def command(subparsers: Subparsers) -> None:
    """Add `lab` to the framework's commands; each sets `handler`, a function from args to code."""
    lab = subparsers.add_parser(
        "lab", help="stress-test the roadmap's rows", description=_DESCRIPTION
    )
    _commands(lab)


_DESCRIPTION: Final = "Runs the roadmap's 308 rows as executable scenarios with measured verdicts."


def _commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(
        dest="lab_command", metavar="COMMAND", required=True, parser_class=Parser
    )
    known = commands.add_parser("list", help="every row and its last verdict")
    add_selection(known)
    known.set_defaults(handler=handling(_list))
    told = commands.add_parser("explain", help="what one row claims, does and measures")
    told.add_argument("row", metavar="ROW")
    add_places(told)
    told.set_defaults(handler=handling(_explain))
    run = commands.add_parser("run", help="run rows and judge them")
    add_selection(run)
    add_running(run)
    run.add_argument("--size", choices=SIZE_NAMES, default="quick", help="default: quick")
    run.set_defaults(handler=handling(_run))
    audit = commands.add_parser("audit", help="check that rows fail under their sabotages")
    add_selection(audit)
    add_running(audit)
    audit.set_defaults(handler=handling(_audit))
    report = commands.add_parser("report", help="the last results, as text or one HTML file")
    add_selection(report)
    report.add_argument("--html", metavar="DIR", help="write DIR/index.html")
    report.set_defaults(handler=handling(_report))
    add_findings(commands)
    add_reproduce(commands)


def _list(arguments: argparse.Namespace) -> int:
    found, store = places(arguments)
    rows = select(row_filters(arguments), found, executing=False)
    listed = [(row, entries().get(row), store.standing(row)) for row in rows]
    if arguments.json is not None:
        write_json(arguments.json, {"rows": [_listed_json(*each) for each in listed]})
    if arguments.json != "-":
        write_list(Page(sys.stdout), listed)
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    found, store = places(arguments)
    (row,) = select(Filters(patterns=(arguments.row,)), found, executing=False)[:1]
    page = Page(sys.stdout)
    entry = entries().get(row)
    if entry is not None:
        page.line(page.bold(f"{entry.id}  {entry.target}"))
        place = f"tier {entry.tier} ({entry.tier_title}), {entry.section_title}"
        page.line(f"{place}, phase {entry.phase}, {entry.priority}, risk {entry.risk.lower()}")
        for label in ("claim", "builds", "load", "passes", "anchor"):
            _paragraph(page, label, getattr(entry, label))
        for defect in entry.sabotages:
            _paragraph(page, "sabotage", defect)
    if row in found:
        _explain_scenario(page, found[row], store.standing(row))
    else:
        page.line("\nno scenario yet: `lab run` reports this row as missing")
    return 0


def _explain_scenario(page: Page, found: Found, standing: Standing) -> None:
    scenario = discovery.load(found)
    page.line(page.bold(f"\nscenario {found.origin}"))
    if found.row not in entries():
        _paragraph(page, "claim", scenario.claim)
    for name in SIZE_NAMES:
        params = scenario.sizes.params(name)
        if params is not None:
            told = [f"{key} {value}" for key, value in params.items()]
            told += [
                f"{key} = {scenario.sizes.totals[key]} = {scenario.sizes.total(key, name):,g}"
                for key in scenario.sizes.totals
            ]
            _paragraph(page, name, ", ".join(told))
    for metric in scenario.metrics:
        bound = f"{metric.name} {metric.op} {figure(metric.threshold, metric.unit)}"
        loose = metric.quick_threshold
        quick = "" if loose is None else f" ({figure(loose, metric.unit)} at quick)"
        if metric.bound is not None:
            bound += f" by its {metric.bound} bound{_least_n(metric)}"
        kind = "metric" if metric.gate else "reported"
        _paragraph(page, kind, f"{bound}{quick}{'. ' if metric.doc else ''}{metric.doc}")
    for each in scenario.sabotages:
        _paragraph(page, "defect", f"{each.name} -> {each.metric}: {each.defect}")
    for label, values in (
        ("needs", scenario.components),
        ("faults", scenario.faults),
        ("marks", scenario.marks),
    ):
        if values:
            _paragraph(page, label, ", ".join(values))
    entry = entries().get(found.row)
    for difference in disagreements(scenario, entry) if entry is not None else ():
        _paragraph(page, "differs", difference)
    killed = (
        f", sabotages killed {kill_rate(standing.current_audit)}" if standing.current_audit else ""
    )
    page.line(f"last verdict: {page.verdict(standing.verdict)}{killed}")


def _least_n(metric: Metric) -> str:
    assert metric.bound is not None
    least = needed(metric.bound, float(metric.threshold), misses=metric.misses)
    return ", which no n can reach" if least is None else f", which needs n = {least:,}"


def _paragraph(page: Page, label: str, text: str) -> None:
    if text:
        indent = " " * 10
        page.line(textwrap.fill(f"{label:<10}{text}", page.width, subsequent_indent=indent))


def _run(arguments: argparse.Namespace) -> int:
    found, store = places(arguments)
    rows = select(row_filters(arguments), found, executing=True)
    display = Display(Page(sys.stderr), total=sum(row in found for row in rows))
    results, interrupted = run_rows(
        rows, found, options=run_options(arguments), store=store, watcher=display
    )
    display.close()
    code = exit_code((each.verdict for each in results), allow_skipped=arguments.allow_skipped)
    if arguments.json is not None:
        write_json(arguments.json, _run_json(results, code=code, interrupted=interrupted))
    if arguments.json != "-":
        page = Page(sys.stdout)
        page.line()
        write_results(page, results)
        write_summary(page, results, root=store.root)
        if interrupted:
            page.line("interrupted: what was finished before is kept")
    return code


def _audit(arguments: argparse.Namespace) -> int:
    found, store = places(arguments)
    chosen = select(row_filters(arguments), found, executing=True)
    rows = [row for row in chosen if row in found]
    missing = [row for row in chosen if row not in found]
    page = Page(sys.stdout)
    runs = sum(runs_of(found[row]) for row in rows)
    display = Display(Page(sys.stderr), total=runs, noun="run")
    audits, interrupted = audit_rows(
        rows, found, options=run_options(arguments), store=store, watcher=display
    )
    display.close()
    if arguments.json is not None:
        write_json(arguments.json, {"audits": [audit.to_json() for audit in audits]})
    if arguments.json != "-":
        page.line()
        write_audits(page, audits)
        if missing:
            page.line(f"{len(missing)} rows have no scenario to audit")
        if interrupted:
            page.line("interrupted: audits that were finished before are kept")
    return _audit_code(audits, missing, interrupted, allow_skipped=arguments.allow_skipped)


def _report(arguments: argparse.Namespace) -> int:
    found, store = places(arguments)
    rows = select(row_filters(arguments), found, executing=False)
    standings = {row: store.standing(row) for row in rows}
    page = Page(sys.stdout)
    if arguments.html is not None:
        target = write_html(Path(arguments.html), standings, root=store.root)
        page.line(f"wrote {shown(target)}")
    if arguments.json is not None:
        results = [each.shown(row) for row, each in standings.items()]
        write_json(arguments.json, _run_json(results, code=None, interrupted=False))
    if arguments.html is None and arguments.json is None:
        results = [standing.shown(row) for row, standing in standings.items()]
        write_results(page, results)
        write_summary(page, results, root=store.root)
    return 0


def _audit_code(
    audits: Sequence[AuditResult],
    missing: Sequence[str],
    interrupted: bool,
    *,
    allow_skipped: bool,
) -> int:
    def verdict(audit: AuditResult) -> Verdict:
        if audit.skipped:
            return Verdict.SKIPPED
        return Verdict.PASS if audit.valid else Verdict.INVALID

    verdicts = [verdict(audit) for audit in audits]
    verdicts += [Verdict.MISSING] * bool(missing)
    verdicts += [Verdict.UNKNOWN] * interrupted
    return exit_code(verdicts, allow_skipped=allow_skipped)


def _run_json(results: Sequence[Result], *, code: int | None, interrupted: bool) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "results": [result.to_json() for result in results],
        "verdicts": dict(Counter(result.verdict.value for result in results)),
        "exit_code": code,
        "interrupted": interrupted,
    }


def _listed_json(row: str, entry: RoadmapRow | None, standing: Standing) -> dict[str, Any]:
    audit = standing.current_audit
    return {
        "row": row,
        "target": entry.target if entry is not None else None,
        "tier": entry.tier if entry is not None else None,
        "section": entry.section if entry is not None else None,
        "phase": entry.phase if entry is not None else None,
        "priority": entry.priority if entry is not None else None,
        "risk": entry.risk if entry is not None else None,
        "verdict": standing.verdict.value,
        "sabotages_killed": None if audit is None else audit.killed,
        "sabotages": None if audit is None else len(audit.sabotages),
    }
