"""Where results are kept: one folder a row, its last result, its last audit, its evidence.

.stageflow/lab/CORE-001/result.json      the last run
.stageflow/lab/CORE-001/audit.json       the last audit
.stageflow/lab/CORE-001/20260101T120000-quick-7/   history, output, traceback of one run
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from ..errors import LabError
from ..verdict import Verdict
from .audit import AuditResult
from .result import Result

EVIDENCE_KEPT: Final = 10
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known about a row now: its last run and its last audit; None where there is none."""

    result: Result | None
    audit: AuditResult | None

    @property
    def verdict(self) -> Verdict:
        """The verdict to show. A row whose present scenario failed its audit is `invalid`."""
        return self.shown("").verdict

    @property
    def current_audit(self) -> AuditResult | None:
        """The audit, unless the scenario was changed between it and the last run."""
        if self.result is None or self.audit is None:
            return self.audit
        return self.audit if self.audit.scenario_hash == self.result.scenario_hash else None

    def shown(self, row: str) -> Result:
        """The last result as judged with the audit, or one that says why there is none."""
        if self.result is not None:
            return judged_with_audit(self.result, self.audit)
        if self.audit is not None and not self.audit.valid and not self.audit.skipped:
            reason = invalid_because(self.audit)
            return Result(row=row, verdict=Verdict.INVALID, size="quick", seed=1, reason=reason)
        reason = "never run" if self.audit is not None else "no scenario, or never run"
        return Result(row=row, verdict=Verdict.MISSING, size="quick", seed=1, reason=reason)


@dataclass(frozen=True, slots=True)
class ResultStore:
    """Results below `root`. Each file is replaced whole, so readers never see half of one."""

    root: Path

    @classmethod
    def at(cls, folder: str | None) -> ResultStore:
        """The given folder, else STAGEFLOW_LAB_DIR, else `.stageflow/lab` here."""
        chosen = folder or os.environ.get("STAGEFLOW_LAB_DIR") or ".stageflow/lab"
        return cls(Path(chosen).absolute())

    def standing(self, row: str) -> Standing:
        """What is stored about `row`. Raises LabError `lab.result_file` when it cannot be read."""
        folder = self.root / row
        return Standing(
            _read(folder / "result.json", Result.from_json),
            _read(folder / "audit.json", AuditResult.from_json),
        )

    def save_result(self, result: Result) -> None:
        """Make `result` the last one of its row."""
        _write(self.root / result.row / "result.json", result.to_json())

    def save_audit(self, audit: AuditResult) -> None:
        """Make `audit` the last one of its row."""
        _write(self.root / audit.row / "audit.json", audit.to_json())

    def new_evidence(self, row: str, *, label: str) -> Path:
        """An empty folder for one run's evidence; the oldest beyond EVIDENCE_KEPT are removed."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        base = self.root / row
        number = 0
        while True:
            folder = base / (f"{stamp}-{label}" + (f"-{number}" if number else ""))
            try:
                folder.mkdir(parents=True)
                break
            except FileExistsError:
                number += 1
        older = sorted(each for each in base.iterdir() if each.is_dir())
        for each in older[: max(0, len(older) - EVIDENCE_KEPT)]:
            shutil.rmtree(each, ignore_errors=True)
        return folder

    def evidence_in(self, folder: Path) -> tuple[str, ...]:
        """The files of an evidence folder that hold anything, relative to the root."""
        files = sorted(each for each in folder.rglob("*") if each.is_file() and each.stat().st_size)
        return tuple(str(each.relative_to(self.root)) for each in files)


def judged_with_audit(result: Result, audit: AuditResult | None) -> Result:
    """`result` with the audit of the same scenario text; a pass is `invalid` if that failed."""
    current = Standing(result, audit).current_audit
    result = replace(result, audit=current)
    if current is None or result.verdict is not Verdict.PASS or current.skipped or current.valid:
        return result
    return replace(result, verdict=Verdict.INVALID, reason=invalid_because(current))


def invalid_because(audit: AuditResult) -> str:
    """Why a row is invalid whose audit is not valid."""
    if audit.survivors:
        return f"sabotages survived the audit: {', '.join(audit.survivors)}"
    if audit.healthy_failures:
        return f"the audit's healthy runs did not pass: {audit.healthy_failures[0]}"
    return f"the audit could not be done: {audit.reason}"


def _read(path: Path, parse: Callable[[Mapping[str, Any]], _T]) -> _T | None:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    try:
        return parse(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(
            "lab.result_file",
            f"the stored {path.name} of {path.parent.name} cannot be read: {error}",
            fix=f"delete {path.parent.name}/{path.name} in the results folder, run the row again",
        ) from error


def _write(path: Path, data: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", "utf-8")
    part.replace(path)
