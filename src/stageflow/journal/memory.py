"""A store in this process's memory: the same checks as on disk, and gone with the process."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from stageflow.journal.admission import (
    Head,
    claim_record,
    claim_refusal,
    first_head,
    queued_head,
    refusal,
    run_exists,
    summary,
    unknown_run,
)
from stageflow.journal.line import Line, encoded, header_of, header_text, record_of
from stageflow.journal.queue import (
    QueueBounds,
    Queued,
    Wanted,
    is_orphan,
    may_take,
    next_in_line,
    queue_refusal,
    target_of,
)
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
        self._queue: dict[str, Queued] = {}
        self._served: dict[str, int] = {}
        """By tenant: the number of the last run of it that was taken."""
        self._queued = self._taken = 0

    def create(self, header: RunHeader, owner: Owner, records: tuple[Record, ...]) -> int:
        with self._lock:
            self._create(header, first_head(owner, now_wall_s=self._wall_s()), records)
        return 1

    def _create(self, header: RunHeader, head: Head, records: tuple[Record, ...]) -> None:
        kept = header_of(header_text(header))
        first = Append(header.run, 1, records)
        if header.run in self._runs:
            raise run_exists(header, self._runs[header.run].header)
        refused = self._added(_Run(kept, head), first, encoded(first))
        if refused is not None:
            raise refused

    def commit(self, batch: Sequence[Append]) -> list[JournalError | None]:
        prepared = [encoded(append) for append in batch]
        with self._lock:
            return [
                self._added(self._runs.get(append.run), append, lines)
                for append, lines in zip(batch, prepared, strict=True)
            ]

    def claim(self, run: str, owner: Owner, *, rerun: Sequence[str] | None = None) -> LoadedRun:
        with self._lock:
            return self._claim(run, owner, rerun)

    def _claim(self, run: str, owner: Owner, rerun: Sequence[str] | None) -> LoadedRun:
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
            self._queue.pop(run, None)
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

    def enqueue(
        self,
        header: RunHeader,
        records: tuple[Record, ...],
        *,
        priority: int,
        bounds: QueueBounds,
    ) -> None:
        target = target_of(header)
        with self._lock:
            same = sum(one.tenant == header.tenant for one in self._queue.values())
            refused = queue_refusal(header, bounds, runs=len(self._queue), tenant=same)
            if refused is not None:
                raise refused
            self._create(header, queued_head(now_wall_s=self._wall_s()), records)
            self._queued += 1
            one = Queued(header.run, header.tenant, target, priority, self._queued)
            self._queue[header.run] = one

    def take(self, owner: Owner, wanted: Wanted) -> LoadedRun | None:
        with self._lock:
            for run, kept in self._runs.items():
                if is_orphan(kept.header, kept.head, wanted):
                    return self._claim(run, owner, None)
            mine = [one for one in self._queue.values() if may_take(one, wanted)]
            one = next_in_line(mine, self._served)
            if one is None:
                return None
            self._taken += 1
            self._served[one.tenant] = self._taken
            return self._claim(one.run, owner, None)

    def waiting(self) -> Mapping[str, int]:
        with self._lock:
            return Counter(one.tenant for one in self._queue.values())

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
