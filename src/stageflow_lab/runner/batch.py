"""Running rows and keeping what they gave."""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..discovery import Found
from ..findings import FindingStore
from ..results import Result, ResultStore, judged_with_audit
from ..verdict import Verdict
from .request import Request
from .schedule import Watcher, run_all


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How rows are run. `jobs` run at a time; `keep` leaves scratch folders in place."""

    size: str = "quick"
    seed: int = 1
    jobs: int = 2
    keep: bool = False
    folders: tuple[str, ...] = ()


def run_rows(
    rows: Sequence[str],
    found: Mapping[str, Found],
    *,
    options: RunOptions,
    store: ResultStore,
    watcher: Watcher,
) -> tuple[list[Result], bool]:
    """Run `rows`; results in their order, stored, and whether the user interrupted.

    A row without a scenario gives `missing`. What fails is recorded as a finding. An interrupted
    row does not replace its last result.
    """
    label = f"{options.size}-{options.seed}"
    requests = [
        Request(
            found=found[row],
            size=options.size,
            seed=options.seed,
            evidence=store.new_evidence(row, label=label),
            scratch=new_scratch(),
            keep=options.keep,
            folders=options.folders,
        )
        for row in rows
        if row in found
    ]
    results, interrupted = run_all(requests, at_once=options.jobs, watcher=watcher)
    done: dict[str, Result] = {}
    for request, result in zip(requests, results, strict=True):
        done[result.row] = _kept(result, request, store, interrupted=interrupted)
    return [done[row] if row in done else _missing(row, options) for row in rows], interrupted


def new_scratch() -> Path:
    """A path for a scratch folder; the runner makes it and removes it."""
    return Path(tempfile.gettempdir()) / f"stageflow-lab-{uuid.uuid4().hex[:12]}"


def _kept(result: Result, request: Request, store: ResultStore, *, interrupted: bool) -> Result:
    with contextlib.suppress(OSError):
        request.evidence.rmdir()  # it is empty when the row never started
    evidence = store.evidence_in(request.evidence)
    result = replace(result, evidence=evidence)
    if interrupted and (result.reason or "").startswith("interrupted"):
        return result
    # Stored as run: a later audit may clear a row that is invalid today, or the reverse.
    store.save_result(result)
    shown = judged_with_audit(result, store.standing(result.row).audit)
    FindingStore(store.root).record(shown)
    return shown


def _missing(row: str, options: RunOptions) -> Result:
    return Result(
        row=row,
        verdict=Verdict.MISSING,
        size=options.size,
        seed=options.seed,
        reason="no scenario yet",
    )
