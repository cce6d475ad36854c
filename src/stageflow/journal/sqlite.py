"""Runs in one SQLite file: durable at every commit, shared by the processes of one host.

WAL with synchronous=FULL: a commit is on the disk when it returns, and readers work beside the
writer (https://www.sqlite.org/wal.html). WAL needs shared memory, so a network file system is no
place for the file. The file is made readable by its owner only.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from stageflow.journal import sqlite_queue, sqlite_turns
from stageflow.journal.admission import (
    Head,
    claim_record,
    claim_refusal,
    damaged,
    first_head,
    queued_head,
    refusal,
    run_exists,
    unknown_run,
)
from stageflow.journal.keys import KeyFile, Keys
from stageflow.journal.line import (
    Line,
    chained,
    encoded,
    head_columns,
    header_checksum,
    header_text,
)
from stageflow.journal.queue import QueueBounds, Wanted, is_orphan, passing_over
from stageflow.journal.shredding import key_changes
from stageflow.journal.store import (
    Append,
    LoadedRun,
    Owner,
    RunHeader,
    RunSummary,
    SessionTurns,
)
from stageflow.journal.turns import is_turn, turn_begun_by
from stageflow.journal.verification import (
    RunRows,
    verified_head,
    verified_header,
    verified_run,
    verified_summary,
)
from stageflow.journal.write_ahead import switch_to_wal
from stageflow.model.errors import JournalError
from stageflow.model.record import Record

SCHEMA_VERSION = 3
APPLICATION_ID = 0x53464A4C
"""Tells a journal from other SQLite files: "SFJL" (https://www.sqlite.org/pragma.html)."""
INLINE_BYTES_MAX = 64 * 1024
"""A larger payload lies apart, once for all records with the same content."""
BUSY_S = 10.0
FORK_WAIT_S = 30.0

_KEYS = """
CREATE TABLE keys (
  run TEXT NOT NULL, id TEXT NOT NULL, wrapped BLOB NOT NULL, PRIMARY KEY (run, id)) WITHOUT ROWID
"""
_SCHEMA = f"""
CREATE TABLE runs (
  run TEXT PRIMARY KEY, tenant TEXT NOT NULL, created_wall_s REAL NOT NULL,
  header TEXT NOT NULL, checksum BLOB NOT NULL);
CREATE INDEX runs_by_time ON runs(created_wall_s, run);
CREATE INDEX runs_by_tenant ON runs(tenant, created_wall_s, run);
CREATE TABLE heads (
  run TEXT PRIMARY KEY, epoch INTEGER NOT NULL, owner TEXT, status TEXT NOT NULL,
  reason TEXT NOT NULL, records INTEGER NOT NULL, updated_wall_s REAL NOT NULL,
  last BLOB NOT NULL, checksum BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE records (
  run TEXT NOT NULL, seq INTEGER NOT NULL, epoch INTEGER NOT NULL, type TEXT NOT NULL, node TEXT,
  revision INTEGER NOT NULL, attempt INTEGER NOT NULL, token INTEGER NOT NULL,
  wall_s REAL NOT NULL, accepted INTEGER NOT NULL, data TEXT NOT NULL, contract TEXT NOT NULL,
  labels TEXT NOT NULL, key_id TEXT NOT NULL, payload BLOB, content BLOB,
  previous BLOB NOT NULL, checksum BLOB NOT NULL, PRIMARY KEY (run, seq));
CREATE UNIQUE INDEX accepted_once ON records(run, node, revision) WHERE accepted = 1;
CREATE TABLE contents (content BLOB PRIMARY KEY, payload BLOB NOT NULL);
{_KEYS};
{sqlite_turns.SCHEMA}
{sqlite_queue.SCHEMA}
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
_UPDATES = {
    1: f"{sqlite_turns.SCHEMA}\n{sqlite_queue.SCHEMA}\n",
    2: f"{_KEYS};\n",
}
"""What each version before this one lacks. Version 1 knew no sessions and no queue, and its runs
are no turns; version 2 knew no keys, and its payloads are not sealed."""
_SETTINGS = (
    "synchronous = FULL",
    "fullfsync = ON",  # on macOS a plain fsync leaves data in the drive's cache
    "checkpoint_fullfsync = ON",
    "journal_size_limit = 67108864",
    "cell_size_check = ON",
    "trusted_schema = OFF",
    "secure_delete = ON",  # a key that was destroyed is zeros in the file
)
_HEAD = (
    "SELECT run, epoch, owner, status, reason, records, updated_wall_s, last, checksum"
    " FROM heads WHERE run = ?"
)
_HOLDS = "SELECT 1 FROM runs WHERE run = ? AND tenant = ?"
_HEADER = "SELECT run, tenant, created_wall_s, header, checksum FROM runs WHERE run = ?"
_LINES = """
SELECT run, seq, epoch, type, node, revision, attempt, token, wall_s, accepted, data, contract,
  labels, key_id, coalesce(records.payload, contents.payload), records.content, previous, checksum
FROM records LEFT JOIN contents ON contents.content = records.content
WHERE run = ? ORDER BY seq
"""
_LISTING = """
SELECT runs.run, tenant, created_wall_s, header, runs.checksum, heads.run, epoch, owner, status,
  reason, records, updated_wall_s, last, heads.checksum
FROM runs LEFT JOIN heads ON heads.run = runs.run
{where} ORDER BY created_wall_s DESC, runs.run DESC LIMIT ?
"""
_LISTING_MAX = 1_000_000
_ACCEPTED = (
    "SELECT attempt, token FROM records"
    " WHERE run = ? AND node = ? AND revision = ? AND accepted = 1 LIMIT 1"
)
_ADD_LINE = f"INSERT INTO records VALUES ({', '.join('?' * 18)})"
_ADD_CONTENT = "INSERT OR IGNORE INTO contents VALUES (?, ?)"
_SET_HEAD = f"REPLACE INTO heads VALUES ({', '.join('?' * 9)})"
_ADD_KEY = "INSERT OR IGNORE INTO keys VALUES (?, ?, ?)"
_DROP_KEY = "DELETE FROM keys WHERE run = ? AND id = ?"
_KEYS_OF = "SELECT id, wrapped FROM keys WHERE run = ?"
_ADD_RUN = "INSERT INTO runs VALUES (?, ?, ?, ?, ?)"


class SQLiteStore:
    """Implements Store over the file at `path`, which is made when it is missing.

    `busy_s`: how long a write waits for another process's. `unknown_is_dead`: let `claim` take a
    run over whose owner was on another host or in another container; give it only when that one
    is known to be gone. Raises JournalError "journal.newer_schema", "journal.foreign_file",
    "journal.damaged", "journal.cannot_open".
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_s: float = BUSY_S,
        unknown_is_dead: bool = False,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._path = Path(path).absolute()
        self._busy_s = busy_s
        self._unknown_is_dead = unknown_is_dead
        self._wall_s = wall_s
        self._is_closed = False
        self._writing = threading.Lock()
        """Held while `_writer` is used: one transaction at a time."""
        self._reading = threading.Lock()
        """Held while `_reader` is used. Where both are needed, `_writing` is taken first."""
        self._open()
        self._be_quiet_at_forks()

    @property
    def path(self) -> Path:
        """The file, as an absolute path."""
        return self._path

    def create(self, header: RunHeader, owner: Owner, records: tuple[Record, ...]) -> int:
        head = first_head(owner, now_wall_s=self._wall_s())
        with self._transaction() as writer:
            self._create(writer, header, head, records)
        return 1

    def _create(
        self,
        writer: sqlite3.Connection,
        header: RunHeader,
        head: Head,
        records: tuple[Record, ...],
    ) -> None:
        text = header_text(header)
        first = Append(header.run, 1, records)
        lines = encoded(first)
        row = writer.execute(_HEADER, (header.run,)).fetchone()
        if row is not None:
            raise run_exists(header, verified_header(header.run, row)[0])
        start = header_checksum(text)
        columns = (header.run, header.tenant, header.created_wall_s, text, start)
        writer.execute(_ADD_RUN, columns)
        if is_turn(header):
            sqlite_turns.arrive(writer, header)
        heads = {header.run: (head, start)}
        refused = self._added(writer, heads, first, lines)
        if refused is not None:
            raise refused
        _write_heads(writer, heads)

    def commit(self, batch: Sequence[Append]) -> list[JournalError | None]:
        prepared = [encoded(append) for append in batch]
        with self._transaction() as writer:
            heads: dict[str, tuple[Head, bytes]] = {}
            answers = [
                self._added(writer, heads, append, lines)
                for append, lines in zip(batch, prepared, strict=True)
            ]
            _write_heads(writer, heads)
        return answers

    def claim(self, run: str, owner: Owner, *, rerun: Sequence[str] | None = None) -> LoadedRun:
        with self._transaction() as writer:
            return self._claim(writer, run, owner, rerun)

    def _claim(
        self, writer: sqlite3.Connection, run: str, owner: Owner, rerun: Sequence[str] | None
    ) -> LoadedRun:
        loaded, head, last = verified_run(run, _rows(writer, run))
        if not head.may_go_on(rerun):
            return loaded
        refused = claim_refusal(run, head, owner, unknown_is_dead=self._unknown_is_dead)
        if refused is not None:
            raise refused
        head = head.claimed(owner)
        record = claim_record(head, wall_s=self._wall_s(), rerun=rerun)
        heads = {run: (head, last)}
        append = Append(run, head.epoch, (record,))
        refused = self._added(writer, heads, append, encoded(append))
        assert refused is None, f"the new owner's first record was refused: {refused}"
        _write_heads(writer, heads)
        sqlite_queue.remove(writer, run)
        if is_turn(loaded.header):
            sqlite_turns.bring_back(writer, run)
        records = (*loaded.records, record)
        return replace(
            loaded,
            epoch=head.epoch,
            status=head.status,
            reason=head.reason,
            records=records,
            owner=head.owner,
        )

    def release(self, run: str, epoch: int) -> None:
        with self._transaction() as writer:
            try:
                head, last = _head(writer, run)
            except JournalError:
                return  # unknown or damaged: nobody's already
            if head.epoch == epoch and head.owner_text is not None:
                _write_heads(writer, {run: (head._replace(owner_text=None), last)})

    def load(self, run: str) -> LoadedRun:
        with self._snapshot() as reader:
            rows = _rows(reader, run)
        return verified_run(run, rows)[0]

    def erase(self, run: str) -> int:
        with self._transaction() as writer:
            _head(writer, run)
            return writer.execute("DELETE FROM keys WHERE run = ?", (run,)).rowcount

    def keys(self) -> Keys:
        """A key-encryption key in a file beside this one, named as it and ".key"."""
        return KeyFile(f"{self._path}.key")

    def holds(self, run: str, *, tenant: str) -> bool:
        if not (_is_text(run) and _is_text(tenant)):
            return False
        with self._snapshot() as reader:
            return reader.execute(_HOLDS, (run, tenant)).fetchone() is not None

    def runs(self, *, tenant: str | None = None, limit: int = 50) -> list[RunSummary]:
        """The latest runs, newest first.

        A run whose state is damaged is listed as "damaged". One whose header is damaged belongs
        to nobody for sure: it is listed only without `tenant`, by its id alone.
        """
        if tenant is not None and not _is_text(tenant):
            return []
        where, known = ("", ()) if tenant is None else ("WHERE tenant = ?", (tenant,))
        bound = min(max(limit, 0), _LISTING_MAX)
        with self._snapshot() as reader:
            rows = reader.execute(_LISTING.format(where=where), (*known, bound)).fetchall()
        found = (verified_summary(row) for row in rows)
        return [one for one in found if tenant is None or one.header.tenant == tenant]

    def turns(
        self, tenant: str, session: str, *, before: int | None = None, limit: int = 50
    ) -> SessionTurns:
        if not (_is_text(tenant) and _is_text(session)):
            return SessionTurns(0, (), ())
        bound = min(max(limit, 0), _LISTING_MAX)
        with self._snapshot() as reader:
            return sqlite_turns.listed(
                reader,
                tenant,
                session,
                before=before,
                limit=bound,
                head_of=lambda run: _head(reader, run)[0],
                is_alive=self._is_alive,
            )

    def enqueue(
        self,
        header: RunHeader,
        records: tuple[Record, ...],
        *,
        priority: int,
        bounds: QueueBounds,
    ) -> None:
        with self._transaction() as writer:
            self._create(writer, header, queued_head(now_wall_s=self._wall_s()), records)
            sqlite_queue.put(writer, header, priority=priority, bounds=bounds)

    def take(self, owner: Owner, wanted: Wanted) -> LoadedRun | None:
        with self._transaction() as writer:
            while True:
                run = self._orphan(writer, wanted) or sqlite_queue.pick(writer, wanted)
                if run is None:
                    return None
                try:
                    return self._claim(writer, run, owner, None)
                except JournalError as error:
                    wanted = passing_over(run, wanted, error)
                    sqlite_queue.remove(writer, run)

    def _orphan(self, writer: sqlite3.Connection, wanted: Wanted) -> str | None:
        for run in sqlite_queue.running(writer):
            with suppress(JournalError):  # damaged: for the one who asks for it
                head, _ = _head(writer, run)
                row = writer.execute(_HEADER, (run,)).fetchone()
                header, _ = verified_header(run, row)
                if is_orphan(header, head, wanted, is_alive=self._is_alive):
                    return run
        return None

    def _is_alive(self, owner: Owner) -> bool | None:
        """As a claim would see it."""
        live = owner.is_alive()
        return False if live is None and self._unknown_is_dead else live

    def waiting(self) -> Mapping[str, int]:
        with self._snapshot() as reader:
            return sqlite_queue.counts(reader)

    def close(self) -> None:
        """Write the log back into the file and let go of it; a second close does nothing."""
        with self._writing, self._reading:
            if self._is_closed:
                return
            self._is_closed = True
            self._reader.close()
            with suppress(sqlite3.Error):  # another process still reads: its close does this
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._writer.close()

    def _open(self) -> None:
        with _translated("journal.cannot_open", self._path):
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                _make_private(self._path)
            except OSError as error:
                raise sqlite3.OperationalError(type(error).__name__) from error
            self._writer = self._connection()
            try:
                _prepare(self._writer, self._path, wait_s=self._busy_s)
                self._reader = self._connection()
                self._reader.execute("PRAGMA query_only = ON")
            except BaseException:
                self._writer.close()
                raise
        self._pid = os.getpid()

    def _connection(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path,
            timeout=self._busy_s,
            isolation_level=None,
            check_same_thread=False,
        )
        # Damaged text must reach our own check instead of failing inside the driver.
        connection.text_factory = bytes
        for setting in _SETTINGS:
            connection.execute(f"PRAGMA {setting}")
        return connection

    def _check_open(self) -> None:
        if self._is_closed:
            raise JournalError(
                "journal.closed",
                "the store was closed",
                expected="an open store",
                fix="end every run before the journal is closed, or open it again",
            )

    def _be_quiet_at_forks(self) -> None:
        """Keep transactions out of forks, so that a child's copies are at rest."""
        known = weakref.ref(self)
        held: list[threading.Lock] = []

        def before() -> None:
            store = known()
            for lock in () if store is None else (store._writing, store._reading):
                if lock.acquire(timeout=FORK_WAIT_S):
                    held.append(lock)

        def after() -> None:
            while held:
                held.pop().release()

        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=before, after_in_parent=after, after_in_child=after)

    def _open_anew_in_child(self) -> None:
        """In a forked child: give the inherited connections up and open own ones.

        Sharing them corrupts files (https://www.sqlite.org/howtocorrupt.html, section 2.6); only
        leaving them open is no better, because SQLite would then believe that this process holds
        the file locks which only its parent holds.
        """
        if os.getpid() == self._pid:
            return
        with self._writing, self._reading:
            if os.getpid() != self._pid and not self._is_closed:
                self._reader.close()
                self._writer.close()
                self._open()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, durable when the block has ended."""
        self._open_anew_in_child()
        with self._writing:
            self._check_open()
            with _translated("journal.write_failed", self._path):
                self._writer.execute("BEGIN IMMEDIATE")
                try:
                    yield self._writer
                    self._writer.execute("COMMIT")
                finally:
                    if self._writer.in_transaction:
                        self._writer.execute("ROLLBACK")

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """One state of the file for several statements."""
        self._open_anew_in_child()
        with self._reading:
            self._check_open()
            with _translated("journal.read_failed", self._path):
                self._reader.execute("BEGIN")
                try:
                    yield self._reader
                finally:
                    if self._reader.in_transaction:
                        self._reader.execute("ROLLBACK")

    def _added(
        self,
        writer: sqlite3.Connection,
        heads: dict[str, tuple[Head, bytes]],
        append: Append,
        lines: tuple[Line, ...] | JournalError,
    ) -> JournalError | None:
        """Add `append` to its run and to `heads`, or answer why not and change nothing."""
        run = append.run
        try:
            head, last = heads[run] if run in heads else _head(writer, run)
        except JournalError as error:
            return error
        if isinstance(lines, JournalError):
            return lines
        refused = refusal(
            append,
            head,
            lambda *key: writer.execute(_ACCEPTED, (run, *key)).fetchone(),
        )
        if refused is not None:
            return refused
        begins = turn_begun_by(append.records)
        if begins is not None:
            refused = sqlite_turns.begin(
                writer,
                append,
                begins,
                head_of=lambda run: (heads[run] if run in heads else _head(writer, run))[0],
                is_alive=self._is_alive,
            )
            if refused is not None:
                return refused
        rows = []
        for line in lines:
            checksum = chained(last, line)
            apart = line.payload is not None and len(line.payload) > INLINE_BYTES_MAX
            if apart:
                writer.execute(_ADD_CONTENT, (line.content, line.payload))
            payload, content = (None, line.content) if apart else (line.payload, None)
            rows.append(
                (run, line.seq, append.epoch, *line[1:12], payload, content, last, checksum)
            )
            last = checksum
        writer.executemany(_ADD_LINE, rows)
        changes = key_changes(append.records)
        if changes.kept:
            writer.executemany(_ADD_KEY, [(run, *key) for key in changes.kept.items()])
        if changes.destroyed:
            writer.executemany(_DROP_KEY, [(run, key_id) for key_id in changes.destroyed])
        heads[run] = (head.after(append.records, now_wall_s=self._wall_s()), last)
        return None


def _rows(connection: sqlite3.Connection, run: str) -> RunRows:
    header = connection.execute(_HEADER, (run,)).fetchone() if _is_text(run) else None
    if header is None:
        raise unknown_run(run)
    head = connection.execute(_HEAD, (run,)).fetchone()
    lines = connection.execute(_LINES, (run,)).fetchall()
    return header, head, lines, connection.execute(_KEYS_OF, (run,)).fetchall()


def _head(connection: sqlite3.Connection, run: str) -> tuple[Head, bytes]:
    """Where the run stands, and the checksum of its last line."""
    columns = connection.execute(_HEAD, (run,)).fetchone() if _is_text(run) else None
    if columns is not None:
        return verified_head(run, columns)
    if _is_text(run) and connection.execute(_HEADER, (run,)).fetchone() is not None:
        raise damaged(run, None, "its state is missing")
    raise unknown_run(run)


def _write_heads(connection: sqlite3.Connection, heads: dict[str, tuple[Head, bytes]]) -> None:
    connection.executemany(
        _SET_HEAD, [head_columns(run, head, last) for run, (head, last) in heads.items()]
    )


def _is_text(run: object) -> bool:
    """Whether SQLite can be asked for `run`: text that UTF-8 can hold."""
    if not isinstance(run, str):
        return False
    try:
        run.encode()
    except UnicodeEncodeError:
        return False
    return True


def _make_private(path: Path) -> None:
    """Makes an empty file that only this user can read, unless there is a file.

    One that is there is never opened here: closing any descriptor of a file gives up all locks that
    the process holds on it (https://www.sqlite.org/howtocorrupt.html, section 2.2), and another
    store of this process may hold some. Another process would take its log for left behind.
    """
    if path.exists():
        return
    descriptor, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)  # with mode 0600
    os.close(descriptor)
    empty = Path(name)
    try:
        with suppress(FileExistsError):
            path.hardlink_to(empty)
    finally:
        empty.unlink()


def _prepare(writer: sqlite3.Connection, path: Path, *, wait_s: float) -> None:
    """Make the tables in a new file; refuse a file that is not this version's journal."""
    _check_kind(writer, path)
    switch_to_wal(writer, wait_s=wait_s)
    writer.execute("BEGIN IMMEDIATE")
    try:
        is_new = _check_kind(writer, path)
        (version,) = writer.execute("PRAGMA user_version").fetchone()
        if is_new or version < SCHEMA_VERSION:
            for statement in (_SCHEMA if is_new else _update_from(version)).split(";"):
                writer.execute(statement)
        writer.execute("COMMIT")
    finally:
        if writer.in_transaction:
            writer.execute("ROLLBACK")


def _update_from(version: int) -> str:
    steps = "".join(_UPDATES[number] for number in range(version, SCHEMA_VERSION))
    return f"{steps}PRAGMA user_version = {SCHEMA_VERSION}"


def _check_kind(connection: sqlite3.Connection, path: Path) -> bool:
    """True for an empty file, False for a journal of this version or before; else the refusal."""
    (kind,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if kind == 0 and version == 0 and tables == 0:
        return True
    if kind != APPLICATION_ID:
        raise JournalError(
            "journal.foreign_file",
            f"{path.name} is an SQLite file of another program; it was left as it is",
            expected="a journal, or a file that does not exist yet",
            got=f"{tables} tables, application_id {kind}",
            fix="give the journal a path of its own",
        )
    if version > SCHEMA_VERSION:
        raise JournalError(
            "journal.newer_schema",
            f"{path.name} was written by a newer stageflow; it was left as it is",
            expected=f"schema version {SCHEMA_VERSION} at most",
            got=f"schema version {version}",
            fix="install the stageflow that wrote it, or a later one",
        )
    if version not in range(1, SCHEMA_VERSION + 1) or tables == 0:
        raise damaged(None, None, "its schema version is not one that was ever written")
    return False


_DAMAGE = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_ERROR,  # our statements never change: what no longer fits is the schema
    sqlite3.SQLITE_CONSTRAINT,  # each was checked in the same transaction
    sqlite3.SQLITE_MISMATCH,
)


@contextmanager
def _translated(code: str, path: Path) -> Iterator[None]:
    """The driver's errors as JournalError: "journal.damaged" for a damaged file, else `code`."""
    try:
        yield
    except sqlite3.Error as error:
        number = getattr(error, "sqlite_errorcode", 0)
        is_cut_short = number == sqlite3.SQLITE_IOERR_SHORT_READ
        if is_cut_short or number & 0xFF in _DAMAGE:
            raise damaged(None, None, f"SQLite says: {error}") from error
        raise JournalError(
            code,
            f"{path.name}: SQLite says: {error}",
            expected="a file that can be opened, read and written, on a local disk",
            got=getattr(error, "sqlite_errorname", type(error).__name__),
            fix="look for a full disk, a process that holds the file, or missing rights",
        ) from error
