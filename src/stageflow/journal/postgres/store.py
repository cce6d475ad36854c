"""The store: appends are one statement that writes only if the run stands where it is believed to.

The store keeps the head of each run that it writes (the run's owner is its only writer), decides by
it what is admitted, and sends heads and lines as one statement that compares the heads' checksums
first: one round trip and one transaction for a batch of any size. Where a comparison fails, or
anything is refused, the rest of the batch is decided again in a transaction that locks the heads.
Either way nothing is written that does not follow the head that the database holds.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

import psycopg

from stageflow.journal.admission import (
    Head,
    claim_record,
    claim_refusal,
    first_head,
    owner_text,
    queued_head,
)
from stageflow.journal.postgres import statements as sql
from stageflow.journal.postgres import turns, waiting
from stageflow.journal.postgres.access import Access, Connection, Work, translated, unreachable
from stageflow.journal.postgres.address import Address, parsed
from stageflow.journal.postgres.batch import Batch, Begin, Known, follows
from stageflow.journal.postgres.creation import Creation
from stageflow.journal.postgres.lease import BEATS, Heartbeat
from stageflow.journal.postgres.link import Link, Watch, is_lost
from stageflow.journal.postgres.packing import Texts, stored
from stageflow.journal.postgres.rows import absent, found, is_text, refused_write, run_rows
from stageflow.journal.postgres.schema import prepare
from stageflow.journal.postgres.statements import Columns, NewHead
from stageflow.journal.queue import QueueBounds, Wanted, passing_over, target_of
from stageflow.journal.store import (
    Append,
    LoadedRun,
    Owner,
    RefusedWrite,
    RunHeader,
    RunSummary,
    SessionTurns,
)
from stageflow.journal.turns import is_turn, turn_begun_by
from stageflow.journal.verification import (
    verified_head,
    verified_run,
    verified_summary,
)
from stageflow.model.errors import JournalError
from stageflow.model.marks import reached
from stageflow.model.record import Record

HEADS_MAX = 100_000
"""Heads that are kept in memory; a run past it costs one more read."""
_LISTING_MAX = 1_000_000

T = TypeVar("T")
_Claimed = tuple[LoadedRun, NewHead | None]
"""A run, and where it stands now that it was claimed; None when it was only read."""


class PostgresStore:
    """Implements Store in a schema of a PostgreSQL database, which is made when it is missing.

    `url`: as libpq takes it, and the settings of `Address` as further query parameters. Holds
    three connections at most: for writing, for reading, for the lease. Raises JournalError
    "journal.unreachable", "journal.newer_schema", "journal.foreign_file", "journal.cannot_open",
    BuildError "runtime.journal".

    A tenant in the address scopes the store: the runs of others are "journal.unknown_run", and
    writing one is "journal.other_tenant".
    """

    def __init__(self, url: str | Address, *, wall_s: Callable[[], float] = time.time) -> None:
        self._address = parsed(url) if isinstance(url, str) else url
        self._wall_s = wall_s
        self._is_closed = False
        self._tell_lost: Callable[[str], None] | None = None
        self._begin()
        _STORES.add(self)

    def _begin(self) -> None:
        """As in a new process: own connections and threads, and nothing known of any run."""
        self._pid = os.getpid()
        self._writing = threading.Lock()
        """Held while `_writer` is used, and while `_heads` and `_driven` get entries."""
        self._reading = threading.Lock()
        """Held while `_reader` is used. Where both are needed, `_writing` is taken first."""
        self._heads: OrderedDict[str, NewHead] = OrderedDict()
        """Where the runs stand that were written last; a guess, which every statement checks."""
        self._driven: dict[str, tuple[int, str]] = {}
        """Runs that were created or claimed here and have not ended: epoch, owner's text."""
        self._left: dict[str, int] = {}
        """Runs whose appends failed because the database was away, and their epochs: nobody drives
        them any more, and once it is back they are to be released."""
        self._renewed_s: float | None = None
        """When a statement of `_writer` last renewed the lease, monotonic."""
        self._writer = Link(self._address, name="writes")
        self._reader = Link(self._address, name="reads")
        self._written = Access(self._writer, away_s=self._address.away_s)
        self._reads = Access(self._reader, away_s=self._address.away_s)
        beats = Link(self._address, name="lease")
        self._watch = Watch(self._address.answer_s, (self._writer, self._reader, beats))
        self._heartbeat = Heartbeat(
            beats,
            self._address.lease_s,
            driven=self._driven_now,
            lost=self._lost,
            also=self._release_left,
        )
        self._watch.start()
        try:
            with translated("journal.cannot_open"):
                self._prepare()
        except BaseException:
            self._watch.stop()
            self._writer.drop()
            raise

    def _prepare(self) -> None:
        try:
            connection = self._writer.open()
            with self._writer.awaited():
                prepare(connection, self._address.schema)
        except psycopg.Error as error:
            if is_lost(error):
                raise unreachable(error, away_s=self._address.away_s) from error
            raise

    # -- the protocol ------------------------------------------------------------------------

    def create(self, header: RunHeader, owner: Owner, records: tuple[Record, ...]) -> int:
        self._check_tenant(header)
        creation = Creation(header, first_head(owner, now_wall_s=self._wall_s()), records)

        def do(connection: Connection) -> bool:
            work.landed = lambda again: creation.is_there(again) or None
            lease_s = self._address.lease_s if self._must_renew() else None
            if is_turn(header):
                with connection.transaction():
                    creation.insert(connection, lease_s=lease_s)
                    self._arrive(connection, header, owner, records)
            else:
                creation.insert(connection, lease_s=lease_s)
            return True

        work = Work(do)
        with self._writes():
            self._written.durably(work)
            self._renewed()
            self._drives(header.run, creation.new)
        return 1

    def _arrive(
        self, connection: Connection, header: RunHeader, owner: Owner, records: tuple[Record, ...]
    ) -> None:
        """A new turn joins its session's line, and begins if its records say so."""
        turns.arrive(connection, header)
        begins = turn_begun_by(records)
        if begins is None:
            return
        one = Batch((Append(header.run, 1, records),))
        begin = self._beginning(connection, {}, one)
        refused = begin(one.items[0], begins)
        if refused is not None:
            raise refused

    def commit(self, batch: Sequence[Append]) -> list[JournalError | None]:
        one = Batch(batch)

        def do(connection: Connection) -> list[JournalError | None]:
            self._send_as_believed(connection, one, work)
            if one.open:
                reached("commit_decided_again")
                self._send_under_locks(connection, one, work)
            return one.in_order()

        work = Work(do)
        with self._writes():
            try:
                return self._written.durably(work) if batch else []
            except JournalError as error:
                if error.code == "journal.unreachable":
                    self._leave(one)
                raise

    def claim(self, run: str, owner: Owner, *, rerun: Sequence[str] | None = None) -> LoadedRun:
        def do(connection: Connection) -> _Claimed:
            with connection.transaction():
                return self._claimed(connection, run, owner, rerun, work)

        work = Work(do)
        with self._writes():
            return self._taken(self._written.durably(work))

    def release(self, run: str, epoch: int) -> None:
        work = Work(lambda connection: self._released(connection, {run: epoch}))
        with self._writes():
            self._written.durably(work)

    def load(self, run: str) -> LoadedRun:
        rows = self._read(lambda connection: run_rows(connection, run))
        return verified_run(run, rows)[0]

    def erase(self, run: str) -> int:
        """As Store.erase. What it deletes, the database's vacuum takes from its files."""

        def do(connection: Connection) -> int:
            with connection.transaction():
                run_rows(connection, run)
                return connection.execute(sql.ERASE, (stored(run),)).rowcount

        with self._writes():
            return self._written.durably(Work(do))

    def holds(self, run: str, *, tenant: str) -> bool:
        if not (is_text(run) and is_text(tenant)):
            return False
        known = (stored(run), stored(tenant))

        def work(connection: Connection) -> bool:
            if self._address.tenant is None:
                connection.execute(sql.NARROW, known[1:])
            return connection.execute(sql.HOLDS, known).fetchone() is not None

        return self._read(work)

    def runs(self, *, tenant: str | None = None, limit: int = 50) -> list[RunSummary]:
        if tenant is not None and not is_text(tenant):
            return []
        bound = min(max(limit, 0), _LISTING_MAX)
        key = None if tenant is None else stored(tenant)
        where = "" if tenant is None else "WHERE runs.tenant = %s"
        query = sql.LISTING.format(where=where)

        def rows(connection: Connection) -> tuple[list[Any], set[str]]:
            if key is not None and self._address.tenant is None:
                connection.execute(sql.NARROW, (key,))
            known = (bound,) if key is None else (key, bound)
            found = connection.execute(query, known, binary=True).fetchall()
            living = connection.execute(sql.LIVING, binary=True).fetchall()
            return found, {owner.decode() for (owner,) in living}

        listed, living = self._read(rows)
        found = [
            verified_summary(row, is_alive=lambda owner: owner_text(owner) in living)
            for row in listed
        ]
        return [one for one in found if tenant is None or one.header.tenant == tenant]

    def turns(
        self, tenant: str, session: str, *, before: int | None = None, limit: int = 50
    ) -> SessionTurns:
        if not (is_text(tenant) and is_text(session)):
            return SessionTurns(0, (), ())
        bound = min(max(limit, 0), _LISTING_MAX)

        def work(connection: Connection) -> SessionTurns:
            def head_of(run: str) -> Head:
                found = _head(connection, run)
                if isinstance(found, JournalError):
                    raise found
                return found[0]

            return turns.listed(
                connection,
                tenant,
                session,
                before=before,
                limit=bound,
                head_of=head_of,
                is_alive=lambda owner: _lives(connection, owner_text(owner)),
            )

        return self._read(work)

    def refused(self, run: str) -> tuple[RefusedWrite, ...]:
        """What former owners of `run` wrote too late, oldest first; at most REFUSED_MAX."""
        if not is_text(run):
            return ()
        rows = self._read(
            lambda connection: connection.execute(
                sql.REFUSED, (stored(run),), binary=True
            ).fetchall()
        )
        return tuple(refused_write(row) for row in rows)

    def when_lost(self, tell: Callable[[str], None]) -> None:
        """`tell` is called, on another thread, with each run that another owner has taken."""
        self._tell_lost = tell

    # -- the queue ---------------------------------------------------------------------------

    def enqueue(
        self,
        header: RunHeader,
        records: tuple[Record, ...],
        *,
        priority: int,
        bounds: QueueBounds,
    ) -> None:
        self._check_tenant(header)
        target_of(header)
        creation = Creation(header, queued_head(now_wall_s=self._wall_s()), records)
        schema = self._address.schema

        def do(connection: Connection) -> bool:
            work.landed = lambda again: creation.is_there(again) or None
            with connection.transaction():
                creation.insert(connection, lease_s=None)
                if is_turn(header):
                    turns.arrive(connection, header)
                waiting.put(connection, header, priority=priority, bounds=bounds, schema=schema)
            return True

        work = Work(do)
        with self._writes():
            self._written.durably(work)

    def take(self, owner: Owner, wanted: Wanted) -> LoadedRun | None:
        def do(connection: Connection) -> _Claimed | None:
            still = wanted
            with connection.transaction():
                while True:
                    run = waiting.orphan(connection, still) or waiting.pick(connection, still)
                    if run is None:
                        return None
                    try:
                        return self._claimed(connection, run, owner, None, work)
                    except JournalError as error:
                        still = passing_over(run, still, error)
                        waiting.remove(connection, run)

        work: Work[_Claimed | None] = Work(do)
        with self._writes():
            claimed = self._written.durably(work)
            return None if claimed is None else self._taken(claimed)

    def waiting(self) -> Mapping[str, int]:
        return self._read(waiting.counts)

    def close(self) -> None:
        """Gives back the runs that are still driven here; a second close does nothing."""
        if os.getpid() != self._pid:
            self._is_closed = True  # the connections are the parent's
            return
        with self._writing:
            if self._is_closed:
                return
            self._is_closed = True
            self._heartbeat.stop()
            left = {run: epoch for run, (epoch, _) in self._driven.items()}
            with suppress(psycopg.Error, JournalError):  # else their lease expires
                if left and self._writer.is_open:
                    connection = self._writer.open()
                    with self._writer.awaited():
                        self._released(connection, left)
            self._watch.stop()
            self._writer.drop()
            with self._reading:
                self._reader.drop()

    # -- a batch -----------------------------------------------------------------------------

    def _send_as_believed(self, connection: Connection, one: Batch, work: Work[Any]) -> None:
        """Writes what follows the heads that are kept here; what does not stays open."""
        if one.begins_turns():
            return
        known = {run: self._heads[run] for run in one.runs() if run in self._heads}
        columns = one.plan(known, lambda *_: None, now_wall_s=self._wall_s())
        if columns is None or any(one.planned.values()):
            return
        work.landed = lambda again: self._settled(one, found(again, columns))
        try:
            rows = connection.execute(sql.WRITE, columns.parameters(), prepare=True, binary=True)
        except psycopg.errors.UniqueViolation:
            return  # a second accepted outcome: which one it is, the locked heads tell
        self._settled(one, {run.decode() for (run,) in rows.fetchall()})

    def _send_under_locks(self, connection: Connection, one: Batch, work: Work[Any]) -> None:
        """Decides what is open by the heads that are there, and writes it."""

        def accepted(run: str, node: str, revision: int) -> tuple[int, int] | None:
            key = (stored(run), stored(node), revision)
            return connection.execute(sql.ACCEPTED, key, binary=True).fetchone()

        work.landed = None
        with connection.transaction():
            known = self._locked(connection, one.runs())
            begin = self._beginning(connection, known, one)
            columns = one.plan(known, accepted, now_wall_s=self._wall_s(), begin=begin)
            assert columns is not None, "every run's head is known"
            if columns.heads:
                work.landed = lambda again: self._settled(
                    one, None if found(again, columns) else set()
                )
                connection.execute(sql.WRITE, columns.parameters(), binary=True)
            late = one.late(known)
            if late.lines:
                connection.execute(sql.REFUSE, late.parameters())
        self._settled(one, None)

    def _beginning(self, connection: Connection, known: Known, one: Batch) -> Begin:
        """Begins turns for `one`, whose heads are `known`, in the transaction of `connection`."""

        def head_of(run: str) -> Head:
            found = one.heads.get(run) or known.get(run) or _head(connection, run)
            if isinstance(found, JournalError):
                raise found
            return found[0]

        def begin(append: Append, record: Record) -> JournalError | None:
            mine = head_of(append.run).owner
            try:
                return turns.begin(
                    connection,
                    append,
                    record,
                    head_of=head_of,
                    is_alive=lambda owner: owner == mine or _lives(connection, owner_text(owner)),
                    leave=lambda run: self._left_alone(connection, run),
                )
            except JournalError as error:
                return error

        return begin

    def _left_alone(self, connection: Connection, run: str) -> bool:
        """Takes the owner from a run whose lease has expired; False when it has moved meanwhile."""
        found = _head(connection, run)
        if isinstance(found, JournalError):
            raise found
        head, last = found
        columns = Columns()
        columns.move(run, found, (head._replace(owner_text=None), last))
        row = connection.execute(sql.WRITE, columns.parameters(), binary=True).fetchone()
        return row is not None

    def _locked(self, connection: Connection, runs: list[str]) -> dict[str, NewHead | JournalError]:
        known: dict[str, NewHead | JournalError] = {}
        names = Texts([run for run in runs if is_text(run)])
        for row in connection.execute(f"{sql.HEAD} FOR UPDATE", (names,), binary=True).fetchall():
            run = row[0].decode()
            try:
                known[run] = verified_head(run, row)
            except JournalError as error:
                known[run] = error
        for run in runs:
            if run not in known:
                known[run] = absent(connection, run)
        return known

    def _settled(self, one: Batch, moved: set[str] | None) -> list[JournalError | None] | None:
        """What was planned counts: all of it (`moved` None), or that of some runs.

        All answers, or None while some items are open.
        """
        for place, answer in one.planned.items():
            append = one.items[place]
            if moved is None or append.run in moved:
                one.answers[place] = answer
                if answer is not None and answer.code == "journal.stale_owner":
                    self._forget(append.run, append.epoch)
        for run, new in one.heads.items():
            if moved is None or run in moved:
                self._stands(run, new)
            else:
                self._heads.pop(run, None)
        one.planned, one.heads = {}, {}
        return None if one.open else one.in_order()

    def _claimed(
        self,
        connection: Connection,
        run: str,
        owner: Owner,
        rerun: Sequence[str] | None,
        work: Work[Any],
    ) -> _Claimed:
        """The run as `owner` has it from now on; as it is when nobody can have it any more."""
        if is_text(run):
            connection.execute("SELECT 1 FROM heads WHERE run = %s FOR UPDATE", (stored(run),))
        loaded, head, last = verified_run(run, run_rows(connection, run))
        if not head.may_go_on(rerun):
            return loaded, None
        live = head.owner_text is not None and _lives(connection, head.owner_text)
        refused = claim_refusal(run, head, owner, is_alive=lambda _: live)
        if refused is not None:
            raise refused
        claimed = head.claimed(owner)
        record = claim_record(claimed, wall_s=self._wall_s(), rerun=rerun)
        columns, new = follows(run, (head, last), claimed, record)
        records = (*loaded.records, record)
        loaded = replace(
            loaded,
            epoch=claimed.epoch,
            status=claimed.status,
            reason=claimed.reason,
            records=records,
            owner=owner,
        )
        work.landed = lambda again: (loaded, new) if found(again, columns) else None
        connection.execute(sql.LEASE, (stored(owner_text(owner)), self._address.lease_s))
        connection.execute(sql.WRITE, columns.parameters(), binary=True)
        waiting.remove(connection, run)
        if is_turn(loaded.header):
            turns.bring_back(connection, run)
        return loaded, new

    def _released(self, connection: Connection, runs: Mapping[str, int]) -> None:
        """Leaves unfinished runs to nobody; passes over those that are not theirs any more."""
        with connection.transaction():
            columns = Columns()
            for run, found in self._locked(connection, list(runs)).items():
                if isinstance(found, JournalError):
                    continue
                head, last = found
                if head.epoch == runs[run] and head.owner_text is not None:
                    columns.move(run, (head, last), (head._replace(owner_text=None), last))
            if columns.heads:
                connection.execute(sql.WRITE, columns.parameters(), binary=True)
        for run, epoch in runs.items():
            self._forget(run, epoch)

    def _taken(self, claimed: _Claimed) -> LoadedRun:
        loaded, new = claimed
        if new is not None:
            self._drives(loaded.header.run, new)
        return loaded

    # -- what is known here ------------------------------------------------------------------

    def _drives(self, run: str, new: NewHead) -> None:
        """The run was created or claimed by an owner of this process."""
        head = new[0]
        if head.owner_text is not None:
            self._driven[run] = (head.epoch, head.owner_text)
            self._heartbeat.start()
        self._stands(run, new)

    def _stands(self, run: str, new: NewHead) -> None:
        if new[0].owner_text is None:
            self._driven.pop(run, None)
        self._heads[run] = new
        self._heads.move_to_end(run)
        if len(self._heads) > HEADS_MAX:
            self._heads.popitem(last=False)

    def _forget(self, run: str, epoch: int) -> None:
        self._heads.pop(run, None)
        if self._driven.get(run, (0, ""))[0] == epoch:
            del self._driven[run]

    def _leave(self, one: Batch) -> None:
        for place in one.open:
            append = one.items[place]
            if self._driven.get(append.run, (0, ""))[0] == append.epoch:
                self._forget(append.run, append.epoch)
                self._left[append.run] = append.epoch

    def _release_left(self, connection: Connection) -> None:
        while self._left:
            run, epoch = next(iter(self._left.items()))
            self._released(connection, {run: epoch})
            self._left.pop(run, None)

    def _driven_now(self) -> dict[str, tuple[int, str]]:
        # Without `_writing`: a writer that waits for the database must not stop the heartbeat.
        while True:
            with suppress(RuntimeError):  # it was changed while it was copied
                return dict(self._driven)

    def _lost(self, run: str) -> None:
        reached("run_lost")
        self._driven.pop(run, None)
        if self._tell_lost is not None:
            self._tell_lost(run)

    def _must_renew(self) -> bool:
        """Whether a new run must renew the lease, because the heartbeat may not have yet."""
        every_s = self._address.lease_s / BEATS
        return self._renewed_s is None or time.monotonic() > self._renewed_s + every_s

    def _renewed(self) -> None:
        if self._must_renew():
            self._renewed_s = time.monotonic()

    # -- connections -------------------------------------------------------------------------

    @contextmanager
    def _writes(self) -> Iterator[None]:
        self._begin_anew_in_child()
        with self._writing:
            self._check_open()
            with translated("journal.write_failed"):
                yield

    def _read(self, work: Callable[[Connection], T]) -> T:
        self._begin_anew_in_child()
        with self._reading:
            self._check_open()
            with translated("journal.read_failed"):
                return self._reads.read(work)

    def _begin_anew_in_child(self) -> None:
        if os.getpid() != self._pid and not self._is_closed:
            self._begin()

    def leave_to_parent(self) -> None:
        """In a forked child, before anything else: the connections stay the parent's."""
        for link in (self._writer, self._reader, self._heartbeat.link):
            link.leave_to_parent()

    def _check_tenant(self, header: RunHeader) -> None:
        if self._address.tenant not in (None, header.tenant):
            raise JournalError(
                "journal.other_tenant",
                "this journal is for the runs of one tenant",
                pipeline=header.pipeline,
                expected="a run of the tenant that the journal's address names",
                got="a run of another tenant",
                fix="pipeline.using(tenant=...), or an address without tenant=",
            )

    def _check_open(self) -> None:
        if self._is_closed:
            raise JournalError(
                "journal.closed",
                "the store was closed",
                expected="an open store",
                fix="end every run before the journal is closed, or open it again",
            )


_STORES: weakref.WeakSet[PostgresStore] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for store in list(_STORES):
        store.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _head(connection: Connection, run: str) -> NewHead | JournalError:
    """Where the run stands, without a lock."""
    row = connection.execute(sql.HEAD, (Texts([run]),), binary=True).fetchone()
    if row is None:
        return absent(connection, run)
    try:
        return verified_head(run, row)
    except JournalError as error:
        return error


def _lives(connection: Connection, owner: str) -> bool:
    """Whether the owner with that text has a lease that has not expired."""
    row = connection.execute(sql.LIVE, (stored(owner),)).fetchone()
    return row is not None and bool(row[0])
