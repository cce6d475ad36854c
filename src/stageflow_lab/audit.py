"""Whether a scenario can fail: every sabotage must turn its named metric red, on every seed.

Each sabotage runs at a tenth of the quick size on five seeds, in processes of its own. It is
killed when the metric it names fails; an error or an unknown kills nothing unless that metric
failed too. Ordinary use must go on under the sabotage, and the healthy scenario must pass at the
same size on the same seeds; else the red proves a crash, or a load that is too weak.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from . import discovery
from .discovery import Found
from .errors import LabError
from .findings import FindingStore
from .results import AuditResult, Result, ResultStore, SabotageResult
from .runner.batch import RunOptions, new_scratch
from .runner.request import Mode, Request
from .runner.schedule import Watcher, run_all
from .sabotage import Sabotage
from .scenario import Scenario
from .verdict import Verdict

SCALE: Final = 0.1
SEEDS: Final = 5


@dataclass(frozen=True, slots=True)
class _Plan:
    """The requests of one row: per sabotage its seeds and one plain run, and the healthy seeds."""

    found: Found
    scenario: Scenario
    evidence: Path
    killing: Mapping[str, Sequence[Request]]
    plain: Mapping[str, Request]
    healthy: Sequence[Request]

    def requests(self) -> Iterator[Request]:
        yield from self.healthy
        for name, each in self.killing.items():
            yield self.plain[name]
            yield from each


def audit_rows(
    rows: Sequence[str],
    found: Mapping[str, Found],
    *,
    options: RunOptions,
    store: ResultStore,
    watcher: Watcher,
) -> tuple[list[AuditResult], bool]:
    """Audit `rows`, all of which have scenarios; stored results, and whether Ctrl-C came.

    A row that can't fail is recorded as a finding. An interrupted audit stores nothing for the rows
    it did not complete and does not return them.
    """
    started = time.monotonic()
    broken: dict[str, AuditResult] = {}
    plans: dict[str, _Plan] = {}
    for row in rows:
        try:
            plans[row] = _plan(found[row], options, store)
        except LabError as error:
            broken[row] = _unaudited(found[row], options, str(error).splitlines()[0])
    requests = [request for plan in plans.values() for request in plan.requests()]
    results, interrupted = run_all(requests, at_once=options.jobs, watcher=watcher)
    by_folder = {
        request.evidence: result for request, result in zip(requests, results, strict=True)
    }
    audits = []
    for row in rows:
        audit = broken.get(row) or _audit(plans[row], by_folder, options)
        audit = replace(audit, duration_s=round(time.monotonic() - started, 3))
        if row in plans:
            _keep_only_escapes(plans[row], by_folder)
        if not (interrupted and audit.reason == "interrupted"):
            store.save_audit(audit)
            FindingStore(store.root).record_audit(
                audit, evidence=_evidence(plans, row, store), folders=options.folders
            )
            audits.append(audit)
    return audits, interrupted


def _evidence(plans: Mapping[str, _Plan], row: str, store: ResultStore) -> tuple[str, ...]:
    return store.evidence_in(plans[row].evidence) if row in plans else ()


def runs_of(found: Found) -> int:
    """How many processes the audit of a row starts; 0 for one whose file does not import."""
    try:
        sabotages = len(discovery.load(found).sabotages)
    except LabError:
        return 0
    return SEEDS + sabotages * (SEEDS + 1)


def _plan(found: Found, options: RunOptions, store: ResultStore) -> _Plan:
    scenario = discovery.load(found)
    evidence = store.new_evidence(found.row, label="audit")
    seeds = range(options.seed, options.seed + SEEDS)

    def request(seed: int, sabotage: str | None, mode: Mode = "judge") -> Request:
        label = f"{sabotage or 'healthy'}-{mode if mode == 'plain' else seed}"
        return Request(
            found=found,
            size="quick",
            seed=seed,
            evidence=evidence / label,
            scratch=new_scratch(),
            mode=mode,
            scale=SCALE,
            sabotage=sabotage,
            folders=options.folders,
        )

    names = [each.name for each in scenario.sabotages]
    return _Plan(
        found=found,
        scenario=scenario,
        evidence=evidence,
        killing={name: [request(seed, name) for seed in seeds] for name in names},
        plain={name: request(options.seed, name, "plain") for name in names},
        healthy=[request(seed, None) for seed in seeds],
    )


def _audit(plan: _Plan, results: Mapping[Path, Result], options: RunOptions) -> AuditResult:
    healthy = [results[request.evidence] for request in plan.healthy]
    blank = _unaudited(plan.found, options, None)
    mine = [results[request.evidence] for request in plan.requests()]
    if any((each.reason or "").startswith("interrupted") for each in mine):
        return replace(blank, reason="interrupted")
    if all(each.verdict is Verdict.SKIPPED for each in healthy):
        return replace(blank, reason=healthy[0].reason, skipped=True)
    if not plan.scenario.sabotages:
        return replace(blank, reason="declares no sabotage, so nothing shows that it can fail")
    return replace(
        blank,
        sabotages=tuple(_sabotage(plan, each, results) for each in plan.scenario.sabotages),
        healthy_failures=tuple(
            f"seed {each.seed}: {each.verdict}, {each.reason}"
            for each in healthy
            if each.verdict is not Verdict.PASS
        ),
    )


def _sabotage(plan: _Plan, each: Sabotage, results: Mapping[Path, Result]) -> SabotageResult:
    runs = [results[request.evidence] for request in plan.killing[each.name]]
    plain = results[plan.plain[each.name].evidence]
    escaped = [run for run in runs if not _killed(run, each.metric)]
    return SabotageResult(
        name=each.name,
        metric=each.metric,
        defect=each.defect,
        killed=len(runs) - len(escaped),
        of=len(runs),
        plain_works=plain.verdict is Verdict.PASS,
        plain_reason=plain.reason,
        escapes=tuple(f"seed {run.seed}: {_instead(run, each.metric)}" for run in escaped),
    )


def _killed(run: Result, metric: str) -> bool:
    measured = run.metric(metric)
    return measured is not None and measured.passed is False


def _instead(run: Result, metric: str) -> str:
    measured = run.metric(metric)
    if run.verdict in (Verdict.PASS, Verdict.FAIL) and measured is not None:
        return f"{run.verdict}, {metric} was {measured.value}"
    return f"{run.verdict}, {run.reason}"


def _keep_only_escapes(plan: _Plan, results: Mapping[Path, Result]) -> None:
    """Remove the evidence of what went as it should: only surprises are worth the disk."""
    metrics = {each.name: each.metric for each in plan.scenario.sabotages}
    for request in plan.requests():
        run = results[request.evidence]
        expected = run.verdict is Verdict.PASS
        if request.mode == "judge" and request.sabotage is not None:
            expected = _killed(run, metrics[request.sabotage])
        if expected:
            shutil.rmtree(request.evidence, ignore_errors=True)
    if plan.evidence.is_dir() and not any(plan.evidence.iterdir()):
        plan.evidence.rmdir()


def _unaudited(found: Found, options: RunOptions, reason: str | None) -> AuditResult:
    return AuditResult(
        row=found.row,
        scale=SCALE,
        seeds=tuple(range(options.seed, options.seed + SEEDS)),
        sabotages=(),
        healthy_failures=(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        duration_s=0.0,
        scenario_hash=found.text_hash(),
        reason=reason,
    )
