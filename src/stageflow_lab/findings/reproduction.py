"""Running a finding's row again with its own seed and size, and saying whether it shows again."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from .. import discovery
from ..audit import audit_rows
from ..results import ResultStore
from ..runner.batch import RunOptions, run_rows
from ..runner.schedule import Watcher
from ..verdict import Verdict
from .finding import Finding, State, failed, fingerprint_of, result_of_audit
from .store import FindingStore


class Outcome(enum.StrEnum):
    """What a reproduction showed.

    SAME: the same fingerprint. ALIKE: a metric of the finding failed again (a sabotage survived
    again), with other evidence. GONE: a verdict came, and nothing of the finding with it.
    UNDECIDED: no verdict came: unknown, error, skipped, no scenario, interrupted.
    """

    SAME = "same"
    ALIKE = "alike"
    GONE = "gone"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Reproduction:
    """The outcome, the verdict behind it and its reason."""

    outcome: Outcome
    verdict: Verdict
    reason: str | None
    finding: Finding
    """As stored afterwards."""


EXIT_CODES: Final[Mapping[Outcome, int]] = MappingProxyType(
    {Outcome.SAME: 0, Outcome.ALIKE: 0, Outcome.GONE: 1, Outcome.UNDECIDED: 2}
)
"""0 says that the finding was shown again, 1 that it was not, 2 that nothing was decided."""


def reproduce(
    finding: Finding, *, store: ResultStore, watcher: Watcher, keep: bool = False
) -> Reproduction:
    """Run, or audit, the finding's row again with its seed and size.

    The run counts as any other: it becomes the row's last result, and a failure is recorded. A
    finding that did not show is marked so. Raises LabError when a scenario folder is gone.
    """
    found = discovery.find([Path(folder) for folder in finding.folders])
    options = RunOptions(
        size=finding.size, seed=finding.seed, jobs=1, keep=keep, folders=finding.folders
    )
    if finding.verdict is Verdict.INVALID and finding.row in found:
        audits, interrupted = audit_rows(
            [finding.row], found, options=options, store=store, watcher=watcher
        )
        if interrupted or not audits or audits[0].skipped:
            reason = audits[0].reason if audits else "interrupted"
            return Reproduction(Outcome.UNDECIDED, Verdict.UNKNOWN, reason, finding)
        result = result_of_audit(audits[0]) if not audits[0].valid else None
        if result is None:
            return _told(finding, Outcome.GONE, Verdict.PASS, None, store)
    else:
        (result,), _ = run_rows([finding.row], found, options=options, store=store, watcher=watcher)
    if result.verdict not in (Verdict.PASS, Verdict.FAIL, Verdict.INVALID):
        return Reproduction(Outcome.UNDECIDED, result.verdict, result.reason, finding)
    outcome = Outcome.GONE
    if result.verdict is finding.verdict:
        if fingerprint_of(result) == finding.fingerprint:
            outcome = Outcome.SAME
        elif set(failed(result)) & set(finding.metrics):
            outcome = Outcome.ALIKE
    return _told(finding, outcome, result.verdict, result.reason, store)


def _told(
    finding: Finding, outcome: Outcome, verdict: Verdict, reason: str | None, store: ResultStore
) -> Reproduction:
    findings = FindingStore(store.root)
    kept = findings.get(finding.id)
    state: State = "not_reproduced" if outcome is Outcome.GONE else "open"
    if kept.state != state:
        kept = findings.mark(kept, state)
    return Reproduction(outcome, verdict, reason, kept)
