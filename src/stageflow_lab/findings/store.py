"""Where findings are kept: one file each below `findings/` in the results folder.

findings/CORE-001-3fa91c20.json    the finding
findings/CORE-001-3fa91c20/        the evidence of its last sighting, out of reach of the rows' own
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from stageflow.model.errors import nearest

from ..errors import LabError
from ..results import AuditResult, Result
from .finding import SEVERITIES, Finding, State, is_finding, result_of_audit

FOLDER: Final = "findings"


@dataclass(frozen=True, slots=True)
class FindingStore:
    """Findings below `root`, a results folder. Each file is replaced whole.

    One process writes at a time, as with results: two that record the same finding at one moment
    may count it once.
    """

    root: Path

    @property
    def folder(self) -> Path:
        """The folder of the findings; it may not exist yet."""
        return self.root / FOLDER

    def record(self, result: Result) -> Finding | None:
        """Keep what `result` shows, with its evidence; None when it shows nothing wrong."""
        if not is_finding(result):
            return None
        fresh = Finding.of(result, evidence=())
        fresh = replace(fresh, evidence=self._kept(fresh.id, result.evidence))
        known = self._known(fresh.id)
        finding = fresh if known is None else known.seen_again(fresh)
        self._write(finding)
        return finding

    def record_audit(
        self, audit: AuditResult, *, evidence: tuple[str, ...] = (), folders: tuple[str, ...] = ()
    ) -> Finding | None:
        """Keep that a row can't fail; None when its audit is valid or was skipped.

        `folders` are the user's scenario folders, for the reproduction.
        """
        if audit.valid or audit.skipped:
            return None
        return self.record(result_of_audit(audit, evidence=evidence, folders=folders))

    def mark(self, finding: Finding, state: State) -> Finding:
        """Keep that the finding was, or was not, shown again."""
        changed = replace(finding, state=state)
        self._write(changed)
        return changed

    def all(self) -> list[Finding]:
        """Open ones first, the gravest first, then the latest. Raises `lab.finding_file`."""
        found = [_read(path) for path in self._files()]
        found.sort(key=lambda each: each.last_seen, reverse=True)
        found.sort(key=lambda each: (each.state != "open", SEVERITIES.index(each.severity)))
        return found

    def get(self, id_: str) -> Finding:
        """The finding of that id, or of the only id that starts so, in any case.

        Raises LabError `lab.unknown_finding` when there is none, or more than one.
        """
        ids = [path.stem for path in self._files()]
        wanted = id_.upper()
        matching = [each for each in ids if each.upper() == wanted] or [
            each for each in ids if each.upper().startswith(wanted) and wanted
        ]
        if len(matching) == 1:
            return _read(self.folder / f"{matching[0]}.json")
        close = nearest(id_, ids)
        raise LabError(
            "lab.unknown_finding",
            f"{len(matching)} findings are called {id_!r}."
            if matching
            else f"there is no finding {id_!r} in this results folder.",
            expected=", ".join(sorted(matching)[:5]) if matching else "the id of a finding",
            got=id_,
            fix="give more of the id"
            if matching
            else f"did you mean {close}?"
            if close
            else "`stageflow lab findings` lists them; --out names the results folder",
        )

    def _known(self, id_: str) -> Finding | None:
        path = self.folder / f"{id_}.json"
        return _read(path) if path.is_file() else None

    def _files(self) -> Iterable[Path]:
        return sorted(self.folder.glob("*.json")) if self.folder.is_dir() else ()

    def _write(self, finding: Finding) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{finding.id}.json"
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(finding.to_json(), indent=1, allow_nan=False) + "\n", "utf-8")
        part.replace(path)

    def _kept(self, id_: str, evidence: Iterable[str]) -> tuple[str, ...]:
        """Copies: a row keeps the evidence of its last runs only, a finding its own for good."""
        target = self.folder / id_
        shutil.rmtree(target, ignore_errors=True)
        kept = []
        for name in evidence:
            source = self.root / name
            # Below the run's own folder the path says what it is; the run's stamp is not needed.
            inside = Path(*Path(name).parts[2:]) if len(Path(name).parts) > 2 else Path(name)
            copy = target / inside
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            kept.append(str(copy.relative_to(self.root)))
        return tuple(kept)


def _read(path: Path) -> Finding:
    try:
        return Finding.from_json(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabError(
            "lab.finding_file",
            f"the stored finding {path.stem} cannot be read: {error}",
            fix=f"delete {FOLDER}/{path.name} in the results folder; the next sighting renews it",
        ) from error
