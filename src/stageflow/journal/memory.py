"""A store in this process's memory: the same checks as on disk, and gone with the process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stageflow.journal.admission import (
    Head,
    claim_record,
    claim_refusal,
    first_head,
    refusal,
    run_exists,
    summary,
    unknown_run,
)
from stageflow.journal.line import Line, encoded, header_of, header_text, record_of
from stageflow.journal.store import Append, LoadedRun, Owner, RunHeader, RunSummary
from stageflow.model.errors import JournalError
from stageflow.model.record import Record


@dataclass(slots=True)
class _Run:
    """What the store keeps of one run. Changed only under the store's lock."""

    header: RunHeader
    head: Head
    lines: list[Line] = field(default_factory=list)
    accepted: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    """(node, revision) to attempt and token of its accepted outcome."""


class MemoryStore:
    """Implements Store. Holds encoded lines, so that nobody's later change reaches it."""

    def __init__(self, *, wall_s: Callable[[], float] = time.time) -> None:
        self._wall_s = wall_s
        self._lock = threading.Lock()
        """Protects every field of every run, across each whole method."""
        self._runs: dict[str, _Run] = {}

    def create(self, header: RunHeader, owner: Owner, records: tuple[Record, ...]) -> int:
        kept = header_of(header_text(header))
        first = Append(header.run, 1, records)
        with self._lock:
            if header.run in self._runs:
                raise run_exists(header, self._runs[header.run].header)
            head = first_head(owner, now_wall_s=self._wall_s())
            refused = self._added(_Run(kept, head), first, encoded(first))
            if refused is not None:
                raise refused
        return 1

    def commit(self, batch: Sequence[Append]) -> list[JournalError | None]:
        prepared = [encoded(append) for append in batch]
        with self._lock:
            return [
                self._added(self._runs.get(append.run), append, lines)
                for append, lines in zip(batch, prepared, strict=True)
            ]

    def claim(self, run: str, owner: Owner, *, rerun: Sequence[str] | None = None) -> LoadedRun:
        with self._lock:
            kept = self._known(run)
            if kept.head.may_go_on(rerun):
                refused = claim_refusal(run, kept.head, owner)
                if refused is not None:
                    raise refused
                kept.head = kept.head.claimed(owner)
                record = claim_record(kept.head, wall_s=self._wall_s(), rerun=rerun)
                append = Append(run, kept.head.epoch, (record,))
                refused = self._added(kept, append, encoded(append))
                assert refused is None, refused
            return _loaded(kept)

    def release(self, run: str, epoch: int) -> None:
        with self._lock:
            kept = self._runs.get(run)
            if kept is not None and kept.head.epoch == epoch:
                kept.head = kept.head._replace(owner_text=None)

    def load(self, run: str) -> LoadedRun:
        with self._lock:
            return _loaded(self._known(run))

    def runs(self, *, tenant: str | None = None, limit: int = 50) -> list[RunSummary]:
        with self._lock:
            kept = [run for run in self._runs.values() if tenant in (None, run.header.tenant)]
        kept.sort(key=lambda run: (run.header.created_wall_s, run.header.run), reverse=True)
        return [summary(run.header, run.head) for run in kept[: max(limit, 0)]]

    def close(self) -> None:
        """Nothing is held outside this object; what it holds stays readable."""

    def _known(self, run: str) -> _Run:
        kept = self._runs.get(run)
        if kept is None:
            raise unknown_run(run)
        return kept

    def _added(
        self, kept: _Run | None, append: Append, lines: tuple[Line, ...] | JournalError
    ) -> JournalError | None:
        """Add `append` to the run whole, or answer why not and change nothing."""
        if kept is None:
            return unknown_run(append.run)
        if isinstance(lines, JournalError):
            return lines
        refused = refusal(append, kept.head, lambda *key: kept.accepted.get(key))
        if refused is not None:
            return refused
        kept.lines.extend(lines)
        kept.accepted.update(
            ((line.node or "", line.revision), (line.attempt, line.token))
            for line in lines
            if line.accepted
        )
        kept.head = kept.head.after(append.records, now_wall_s=self._wall_s())
        self._runs[append.run] = kept
        return None


def _loaded(kept: _Run) -> LoadedRun:
    records = tuple(record_of(line) for line in kept.lines)
    return LoadedRun(kept.header, kept.head.epoch, kept.head.status, kept.head.reason, records)
