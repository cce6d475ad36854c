"""A store in this process's memory: the same checks as on disk, and gone with the process."""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from stageflow.journal.admission import (
    Head,
    IsAlive,
    claim_record,
    claim_refusal,
    first_head,
    queued_head,
    refusal,
    run_exists,
    summary,
    unknown_run,
)
from stageflow.journal.keys import KEY_BYTES, Keys, LocalKeys
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
from stageflow.journal.shredding import key_changes
from stageflow.journal.store import (
    Append,
    EndedTurn,
    LineTurn,
    LoadedRun,
    Owner,
    RunHeader,
    RunSummary,
    SessionTurns,
)
from stageflow.journal.turns import (
    Standing,
    TurnPlace,
    is_turn,
    may_be_ahead,
    settled,
    turn_begun_by,
    turn_refusal,
)
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
    turn: Standing | None = None
    """None for a run that is no turn of a session."""
    keys: dict[str, bytes] = field(default_factory=dict)
    """Wrapped keys by id."""


@dataclass(slots=True)
class _Session:
    """The turns of one tenant's session. Changed only under the store's lock."""

    begun: int = 0
    line: dict[str, _Run] = field(default_factory=dict)
    """By run: turns that are in line, as far as is known."""
    ended: list[EndedTurn] = field(default_factory=list)
    """Turns that ended ok, the latest last."""


class MemoryStore:
    """Implements Store. Holds encoded lines, so that nobody's later change reaches it."""

    def __init__(
        self,
        *,
        wall_s: Callable[[], float] = time.time,
        is_alive: IsAlive = Owner.is_alive,
    ) -> None:
        """`is_alive` says which owners of turns may still be working on them."""
        self._wall_s = wall_s
        self._is_alive = is_alive
        self._lock = threading.Lock()
        """Protects every field of every run, across each whole method."""
        self._runs: dict[str, _Run] = {}
        self._queue: dict[str, Queued] = {}
        self._served: dict[str, int] = {}
        """By tenant: the number of the last run of it that was taken."""
        self._queued = self._taken = 0
        self._sessions: dict[tuple[str, str], _Session] = {}
        self._arrived = 0
        """Turns that have arrived, in all sessions."""
        self._keys: Keys | None = None

    def create(self, header: RunHeader, owner: Owner, records: tuple[Record, ...]) -> int:
        with self._lock:
            self._create(header, first_head(owner, now_wall_s=self._wall_s()), records)
        return 1

    def _create(self, header: RunHeader, head: Head, records: tuple[Record, ...]) -> None:
        kept = header_of(header_text(header))
        first = Append(header.run, 1, records)
        if header.run in self._runs:
            raise run_exists(header, self._runs[header.run].header)
        run = _Run(kept, head)
        if is_turn(kept):
            run.turn = Standing(kept.run, self._arrived + 1, 0, TurnPlace.WAITS)
        refused = self._added(run, first, encoded(first))
        if refused is not None:
            raise refused
        if run.turn is not None:
            self._arrived += 1
            self._session(kept).line[kept.run] = run

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
            if kept.turn is not None:
                kept.turn = kept.turn._replace(number=0, place=TurnPlace.WAITS)
                self._session(kept.header).line[run] = kept
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

    def erase(self, run: str) -> int:
        with self._lock:
            kept = self._known(run)
            count = len(kept.keys)
            kept.keys.clear()
        return count

    def keys(self) -> Keys:
        """A key-encryption key that is gone with this store."""
        with self._lock:
            if self._keys is None:
                self._keys = LocalKeys(os.urandom(KEY_BYTES))
        return self._keys

    def holds(self, run: str, *, tenant: str) -> bool:
        with self._lock:
            kept = self._runs.get(run)
            return kept is not None and kept.header.tenant == tenant

    def runs(self, *, tenant: str | None = None, limit: int = 50) -> list[RunSummary]:
        with self._lock:
            kept = [run for run in self._runs.values() if tenant in (None, run.header.tenant)]
        kept.sort(key=lambda run: (run.header.created_wall_s, run.header.run), reverse=True)
        return [summary(run.header, run.head) for run in kept[: max(limit, 0)]]

    def turns(
        self, tenant: str, session: str, *, before: int | None = None, limit: int = 50
    ) -> SessionTurns:
        with self._lock:
            known = self._sessions.get((tenant, session))
            if known is None:
                return SessionTurns(0, (), ())
            self._settle(known, known.line.values())
            line = [
                LineTurn(run.header.run, run.turn.number, run.head.status)
                for run in sorted(known.line.values(), key=_place_in_line)
                if run.turn is not None
            ]
            bound = max(limit, 0)
            stop = len(known.ended)
            if before is not None:
                stop = bisect_left(known.ended, before, key=lambda turn: turn.number)
            ended = known.ended[max(stop - bound, 0) : stop]
            return SessionTurns(known.begun, tuple(line[:bound]), tuple(reversed(ended)))

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
        begins = turn_begun_by(append.records)
        if begins is not None:
            refused = self._begun(kept, append, begins)
            if refused is not None:
                return refused
        kept.lines.extend(lines)
        kept.accepted.update(
            ((line.node or "", line.revision), (line.attempt, line.token))
            for line in lines
            if line.accepted
        )
        changes = key_changes(append.records)
        for key_id, wrapped in changes.kept.items():
            kept.keys.setdefault(key_id, bytes(wrapped))
        for key_id in changes.destroyed:
            kept.keys.pop(key_id, None)
        kept.head = kept.head.after(append.records, now_wall_s=self._wall_s())
        self._runs[append.run] = kept
        return None

    # -- turns -------------------------------------------------------------------------------

    def _session(self, header: RunHeader) -> _Session:
        assert header.session is not None
        return self._sessions.setdefault((header.tenant, header.session), _Session())

    def _begun(self, kept: _Run, append: Append, begins: Record) -> JournalError | None:
        """Begin the run's turn, or answer why not and change nothing but what is over."""
        turn = kept.turn
        session = _Session() if turn is None else self._session(kept.header)
        others = [
            run
            for run in session.line.values()
            if run.turn is not None and turn is not None and may_be_ahead(run.turn, turn)
        ]
        self._settle(session, others)
        refused = turn_refusal(
            append,
            begins,
            turn=turn,
            ahead=[run.turn for run in others if run.turn is not None],
            begun=session.begun,
        )
        if refused is None and turn is not None:
            session.begun += 1
            kept.turn = turn._replace(number=session.begun, place=TurnPlace.BEGUN)
        return refused

    def _settle(self, session: _Session, runs: Iterable[_Run]) -> None:
        """Take those out of the line that have ended, or whose owner has."""
        for run in list(runs):
            assert run.turn is not None
            run.turn = settled(run.turn, run.head, self._is_alive)
            if run.turn.place.is_in_line:
                continue
            del session.line[run.header.run]
            if run.turn.place is TurnPlace.ENDED_OK:
                session.ended.append(EndedTurn(run.turn.number, run.header.run))
                session.ended.sort()


def _place_in_line(run: _Run) -> tuple[bool, int]:
    assert run.turn is not None
    return run.turn.place is not TurnPlace.BEGUN, run.turn.arrived


def _loaded(kept: _Run) -> LoadedRun:
    records = tuple(record_of(line) for line in kept.lines)
    head = kept.head
    return LoadedRun(
        kept.header, head.epoch, head.status, head.reason, records, head.owner, dict(kept.keys)
    )
