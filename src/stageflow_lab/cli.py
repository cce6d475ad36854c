"""`stageflow lab`: list, explain, run, audit, report.

`command` is the entry point through which the framework's own command line takes the lab in.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol

from stageflow.model.errors import StageflowError

from . import discovery
from .audit import audit_rows, runs_of
from .discovery import Found
from .errors import LabError
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
from .results import SCHEMA_VERSION, AuditResult, Result, ResultStore, Standing
from .roadmap import PHASE_NAMES, RoadmapRow, entries
from .roadmap.agreement import disagreements
from .runner.batch import RunOptions, run_rows
from .scenario import SIZE_NAMES
from .selection import Filters, select
from .statistics import needed
from .verdict import Verdict, exit_code

USAGE_ERROR: Final = 64  # EX_USAGE of sysexits.h


class Subparsers(Protocol):
    """What `argparse.ArgumentParser.add_subparsers` returns, as far as it is used here."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser:
        """A parser for the command `name`."""


class _Parser(argparse.ArgumentParser):
    """Ends with the exit code of a usage error, not with argparse's own."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE_ERROR, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m stageflow_lab ...` is `stageflow lab ...`."""
    parser = _Parser(prog="python -m stageflow_lab", description=_DESCRIPTION)
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
        dest="lab_command", metavar="COMMAND", required=True, parser_class=_Parser
    )
    known = commands.add_parser("list", help="every row and its last verdict")
    _add_selection(known)
    known.set_defaults(handler=_handling(_list))
    told = commands.add_parser("explain", help="what one row claims, does and measures")
    told.add_argument("row", metavar="ROW")
    _add_places(told)
    told.set_defaults(handler=_handling(_explain))
    run = commands.add_parser("run", help="run rows and judge them")
    _add_selection(run)
    _add_running(run)
    run.add_argument("--size", choices=SIZE_NAMES, default="quick", help="default: quick")
    run.set_defaults(handler=_handling(_run))
    audit = commands.add_parser("audit", help="check that rows fail under their sabotages")
    _add_selection(audit)
    _add_running(audit)
    audit.set_defaults(handler=_handling(_audit))
    report = commands.add_parser("report", help="the last results, as text or one HTML file")
    _add_selection(report)
    report.add_argument("--html", metavar="DIR", help="write DIR/index.html")
    report.set_defaults(handler=_handling(_report))


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rows", nargs="*", metavar="ROW", help="names or quoted globs: 'DAG-*'")
    parser.add_argument("--tier", type=int, action="append", choices=range(1, 11), metavar="1..10")
    parser.add_argument("--phase", type=int, action="append", choices=sorted(PHASE_NAMES))
    parser.add_argument("--priority", action="append", choices=("P0", "P1", "P2"))
    parser.add_argument("--section", action="append", metavar="NAME", help="core, dag, guard, ...")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="as JSON, to FILE or standard output"
    )
    _add_places(parser)


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", help="results folder (default .stageflow/lab)")
    parser.add_argument(
        "--scenarios", action="append", default=[], metavar="DIR", help="further scenario files"
    )


def _add_running(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=_natural, default=1, help="default: 1")
    parser.add_argument("--jobs", type=_positive, default=2, help="rows at a time (default 2)")
    parser.add_argument("--keep", action="store_true", help="keep the scratch folders")
    parser.add_argument(
        "--allow-skipped", action="store_true", help="skipped and missing rows do not fail the run"
    )


def _handling(action: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """`action`, with the errors of users shown as text and given the code of a usage error."""

    def handler(arguments: argparse.Namespace) -> int:
        try:
            return action(arguments)
        except StageflowError as error:
            Page(sys.stderr).line(str(error))
            return USAGE_ERROR
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            sys.stderr.close()
            return 0

    return handler


def _list(arguments: argparse.Namespace) -> int:
    found, store = _places(arguments)
    rows = select(_filters(arguments), found, executing=False)
    listed = [(row, entries().get(row), store.standing(row)) for row in rows]
    if arguments.json is not None:
        _write_json(arguments.json, {"rows": [_listed_json(*each) for each in listed]})
    if arguments.json != "-":
        write_list(Page(sys.stdout), listed)
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    found, store = _places(arguments)
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
            _paragraph(page, name, ", ".join(f"{key} {value}" for key, value in params.items()))
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
    found, store = _places(arguments)
    rows = select(_filters(arguments), found, executing=True)
    display = Display(Page(sys.stderr), total=sum(row in found for row in rows))
    results, interrupted = run_rows(
        rows, found, options=_options(arguments), store=store, watcher=display
    )
    display.close()
    code = exit_code((each.verdict for each in results), allow_skipped=arguments.allow_skipped)
    if arguments.json is not None:
        _write_json(arguments.json, _run_json(results, code=code, interrupted=interrupted))
    if arguments.json != "-":
        page = Page(sys.stdout)
        page.line()
        write_results(page, results)
        write_summary(page, results, root=store.root)
        if interrupted:
            page.line("interrupted: what was finished before is kept")
    return code


def _audit(arguments: argparse.Namespace) -> int:
    found, store = _places(arguments)
    chosen = select(_filters(arguments), found, executing=True)
    rows = [row for row in chosen if row in found]
    missing = [row for row in chosen if row not in found]
    page = Page(sys.stdout)
    runs = sum(runs_of(found[row]) for row in rows)
    display = Display(Page(sys.stderr), total=runs, noun="run")
    audits, interrupted = audit_rows(
        rows, found, options=_options(arguments), store=store, watcher=display
    )
    display.close()
    if arguments.json is not None:
        _write_json(arguments.json, {"audits": [audit.to_json() for audit in audits]})
    if arguments.json != "-":
        page.line()
        write_audits(page, audits)
        if missing:
            page.line(f"{len(missing)} rows have no scenario to audit")
        if interrupted:
            page.line("interrupted: audits that were finished before are kept")
    return _audit_code(audits, missing, interrupted, allow_skipped=arguments.allow_skipped)


def _report(arguments: argparse.Namespace) -> int:
    found, store = _places(arguments)
    rows = select(_filters(arguments), found, executing=False)
    standings = {row: store.standing(row) for row in rows}
    page = Page(sys.stdout)
    if arguments.html is not None:
        target = write_html(Path(arguments.html), standings, root=store.root)
        page.line(f"wrote {shown(target)}")
    if arguments.json is not None:
        results = [each.shown(row) for row, each in standings.items()]
        _write_json(arguments.json, _run_json(results, code=None, interrupted=False))
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


def _places(arguments: argparse.Namespace) -> tuple[Mapping[str, Found], ResultStore]:
    folders = [Path(folder) for folder in arguments.scenarios]
    return discovery.find(folders), ResultStore.at(arguments.out)


def _filters(arguments: argparse.Namespace) -> Filters:
    return Filters(
        patterns=tuple(arguments.rows),
        tiers=tuple(arguments.tier or ()),
        phases=tuple(arguments.phase or ()),
        priorities=tuple(arguments.priority or ()),
        sections=tuple(arguments.section or ()),
    )


def _options(arguments: argparse.Namespace) -> RunOptions:
    return RunOptions(
        size=getattr(arguments, "size", "quick"),
        seed=arguments.seed,
        jobs=arguments.jobs,
        keep=arguments.keep,
        folders=tuple(arguments.scenarios),
    )


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


def _write_json(target: str, data: Mapping[str, Any]) -> None:
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        Path(target).write_text(text, "utf-8")
    except OSError as error:
        raise LabError(
            "lab.output",
            f"{target} cannot be written: {error.strerror}.",
            fix="give a file in a folder that exists and may be written",
        ) from error


def _natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number
