"""The SQLite store: damage is found, files stay as they were, forks and readers do no harm."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stageflow.journal.sqlite import INLINE_BYTES_MAX, SCHEMA_VERSION, SQLiteStore
from stageflow.journal.store import Append, Owner, RunHeader
from stageflow.model.errors import JournalError
from stageflow.model.record import Record, RecordType

LARGE = b"large" * INLINE_BYTES_MAX


def header(run: str = "run") -> RunHeader:
    return RunHeader(
        run, "acme", "desk", "shop:desk", "s", "p", "c", 1_700_000_000.25, {"a": "f"}, 7
    )


def records(count: int, *, start: int = 1) -> tuple[Record, ...]:
    return tuple(
        Record(RecordType.STEP, seq, node="a", payload=b"%d" % seq)
        for seq in range(start, start + count)
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "er" / "runs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    opened = SQLiteStore(path)
    yield opened
    opened.close()


def edited(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute(statement, values)


# Damage


def small_file(path: Path) -> None:
    """Two runs with every kind of cell: text, numbers, payloads inline, apart, and absent."""
    with closing(SQLiteStore(path)) as store:
        for run in ("run", "other"):
            store.create(header(run), Owner.this_process(), records(1))
        lines = (
            Record(
                RecordType.OUTCOME,
                2,
                "a",
                1,
                2,
                3,
                1.5,
                {"accepted": True},
                "h",
                ("pii",),
                "k",
                b"v",
            ),
            Record(RecordType.STEP, 3, "b", payload=LARGE),
            Record(RecordType.STEP, 4, None),
        )
        assert store.commit([Append("run", 1, lines)]) == [None]


def flips(value: Any) -> Iterator[tuple[str, Any]]:
    """Each way in which one damaged byte changes a cell: an SQL term, and its value."""
    if value is None:
        yield "?", b"appeared"
        return
    yield "?", None
    if isinstance(value, int):
        yield from (("?", value ^ (1 << bit)) for bit in range(0, 63, 7))
    elif isinstance(value, float):
        yield from (("?", changed) for changed in (value + 0.5, -value - 1.0))
    else:
        term = "CAST(? AS TEXT)" if isinstance(value, str) else "?"
        raw = value.encode() if isinstance(value, str) else value
        places = range(len(raw)) if len(raw) < 1000 else (0, len(raw) // 2, len(raw) - 1)
        for place in places:
            for mask in (0x01, 0x20, 0xFF):
                yield term, raw[:place] + bytes([raw[place] ^ mask]) + raw[place + 1 :]
        yield term, raw + b" "
        if raw:
            yield term, raw[:-1]


def test_any_changed_byte_of_any_cell_is_found(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    small_file(path)
    tried: dict[str, int] = {}
    with (
        closing(SQLiteStore(path)) as store,
        closing(sqlite3.connect(path, isolation_level=None)) as file,
    ):
        file.execute("PRAGMA synchronous = OFF")
        whole = store.load("run"), store.load("other")
        for table in ("runs", "heads", "records", "contents"):
            names = [row[1] for row in file.execute(f"PRAGMA table_info({table})")]
            rows = file.execute(f"SELECT * FROM {table}").fetchall()
            for row in rows:
                run, seq = row[0], row[1] if table == "records" else None
                if run == "other":
                    continue
                key = f"{names[0]} = ?1" + ("" if seq is None else f" AND seq = {seq}")
                for name, value in zip(names, row, strict=True):
                    for term, changed in flips(value):
                        update = (
                            f"UPDATE {table} SET {name} = {term.replace('?', '?2')} WHERE {key}"
                        )
                        try:
                            file.execute(update, (run, changed))
                        except sqlite3.IntegrityError:
                            continue  # the file itself refuses this one
                        with pytest.raises(JournalError) as caught:
                            store.load("run")
                        place = (table, name, changed)
                        is_lost = (table, name) == ("runs", "run")
                        code = "journal.unknown_run" if is_lost else "journal.damaged"
                        assert caught.value.code == code, place
                        assert "'run'" in str(caught.value), place
                        if seq is not None:
                            assert f"record {seq} of run 'run'" in str(caught.value), place
                        tried[f"{table}.{name}"] = tried.get(f"{table}.{name}", 0) + 1
                        file.execute("BEGIN")
                        file.execute(f"DELETE FROM {table}")
                        marks = ", ".join("?" * len(names))
                        file.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
                        file.execute("COMMIT")
        assert (store.load("run"), store.load("other")) == whole, "every change was undone"
    assert len(tried) == 5 + 9 + 18 + 2, sorted(tried)
    assert sum(tried.values()) > 2000, tried


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM records WHERE run = 'run' AND seq = {seq}",
        "DELETE FROM heads WHERE run = 'run'",
        "DELETE FROM contents",
        "UPDATE records SET seq = 9 - seq WHERE run = 'run' AND seq IN (2, 3) AND {seq} = 2",
        "INSERT INTO records SELECT run, 5, epoch, type, node, revision, attempt, token, wall_s, 0,"
        " data, contract, labels, key_id, payload, content, previous, checksum FROM records"
        " WHERE run = 'run' AND seq = {seq}",
    ],
)
@pytest.mark.parametrize("seq", [1, 2, 3, 4])
def test_lost_moved_and_repeated_rows_are_found(path: Path, statement: str, seq: int) -> None:
    small_file(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        if file.execute(statement.format(seq=seq)).rowcount == 0:
            return
    with closing(SQLiteStore(path)) as store:
        assert len(store.load("other").records) == 1, "the other run is as it was"
        with pytest.raises(JournalError) as caught:
            store.load("run")
        assert caught.value.code == "journal.damaged"


def test_a_damaged_turn_is_never_believed(tmp_path: Path) -> None:
    """Each changed byte is found, or hides the turn; no turn is shown where it does not belong."""
    path = tmp_path / "runs.db"
    tried = 0
    with (
        closing(SQLiteStore(path)) as store,
        closing(sqlite3.connect(path, isolation_level=None)) as file,
    ):
        file.execute("PRAGMA synchronous = OFF")
        for number in (1, 2, 3):
            turn = Record(RecordType.TURN, 2, data={"turn": number, "sees": 0})
            end = Record(RecordType.RUN_ENDED, 3, data={"status": "ok", "reason": ""})
            whose = replace(header(f"r{number}"), parent=None)
            store.create(whose, Owner.this_process(), records(1))
            last = (turn,) if number == 3 else (turn, end)
            assert store.commit([Append(f"r{number}", 1, last)]) == [None]
        whole = store.turns("acme", "s")
        assert (len(whole.line), len(whole.ended), whole.begun) == (1, 2, 3)
        for table in ("turns", "sessions"):
            names = [row[1] for row in file.execute(f"PRAGMA table_info({table})")]
            rows = file.execute(f"SELECT rowid, * FROM {table}").fetchall()
            for rowid, *row in rows:
                for name, value in zip(names, row, strict=True):
                    for term, changed in flips(value):
                        try:
                            file.execute(
                                f"UPDATE {table} SET {name} = {term} WHERE rowid = {rowid}",
                                (changed,),
                            )
                        except (sqlite3.IntegrityError, sqlite3.OperationalError):
                            continue  # the file itself refuses this one
                        try:
                            shown = store.turns("acme", "s")
                        except JournalError as error:
                            assert error.code == "journal.damaged", (table, name, changed)
                        else:
                            hidden = {"session", "place", "number", "tenant", "name"}
                            assert name in hidden, (table, name, changed)
                            assert set(shown.ended) < set(whole.ended) or shown.line == ()
                            assert set(shown.line) <= set(whole.line)
                        tried += 1
                        file.execute("BEGIN")
                        file.execute(f"DELETE FROM {table}")
                        marks = ", ".join("?" * len(names))
                        file.executemany(
                            f"INSERT INTO {table} VALUES ({marks})", [each[1:] for each in rows]
                        )
                        file.execute("COMMIT")
        assert store.turns("acme", "s") == whole, "every change was undone"
    assert tried > 200


def test_a_file_of_version_1_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    small_file(path)
    with closing(sqlite3.connect(path)) as file:
        tables = "DROP TABLE turns; DROP TABLE sessions; DROP TABLE queue; DROP TABLE served;"
        tables += "DROP TABLE keys;"
        file.executescript(f"{tables} DROP INDEX heads_running; PRAGMA user_version = 1;")
    with closing(SQLiteStore(path)) as store, closing(SQLiteStore(path)) as again:
        assert len(store.load("run").records) == 4
        store.create(replace(header("new"), parent=None), Owner.this_process(), records(1))
        assert [turn.run for turn in again.turns("acme", "s").line] == ["new"]


def test_a_run_with_a_damaged_state_takes_no_more_records(path: Path) -> None:
    small_file(path)
    edited(path, "UPDATE heads SET records = 3 WHERE run = 'run'")
    with closing(SQLiteStore(path)) as store:
        answers = store.commit(
            [Append("run", 1, records(1, start=4)), Append("other", 1, records(1, start=2))]
        )
        assert [answer and answer.code for answer in answers] == ["journal.damaged", None]
        listed = {line.header.run: line.status for line in store.runs(tenant="acme")}
        assert listed == {"run": "damaged", "other": "running"}


def test_a_run_of_nobody_is_listed_to_no_tenant(path: Path) -> None:
    small_file(path)
    edited(path, "UPDATE runs SET tenant = 'evil' WHERE run = 'run'")
    with closing(SQLiteStore(path)) as store:
        assert store.runs(tenant="evil") == []
        assert [line.status for line in store.runs()] == ["running", "damaged"] or [
            line.status for line in store.runs()
        ] == ["damaged", "running"]


def test_a_torn_file_is_damaged_and_never_a_raw_error(path: Path) -> None:
    """Cut at many places, and overwritten with noise at many places."""
    small_file(path)
    whole = path.read_bytes()
    page = 4096
    torn = [whole[:cut] for cut in (1, 50, 99, 100, 101, 5000, *range(page, len(whole), page))]
    noise = bytes(range(255, -1, -1)) * 2
    torn += [
        whole[:at] + noise + whole[at + len(noise) :]
        for at in range(0, min(len(whole), 160_000), 997)
    ]
    found = 0
    for number, content in enumerate(torn):
        copy = path.with_name(f"torn{number}.db")
        copy.write_bytes(content)
        try:
            with closing(SQLiteStore(copy)) as store:
                for run in ("run", "other"):
                    assert store.load(run).header == header(run)
                store.commit([Append("other", 1, records(1, start=2))])
        except JournalError as error:
            allowed = {"journal.damaged", "journal.foreign_file", "journal.newer_schema"}
            assert error.code in allowed or error.code == "journal.unknown_run", error
            found += 1
        for left in path.parent.glob(f"torn{number}.db*"):
            left.unlink()
    assert found > len(torn) // 4


# Files


def test_the_file_is_private_its_folder_made_and_no_log_left(path: Path) -> None:
    with closing(SQLiteStore(path)) as store:
        store.create(header(), Owner.this_process(), records(1))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [left.name for left in path.parent.iterdir()] == ["runs.db"]


def test_commits_are_flushed_to_the_disk(store: SQLiteStore, path: Path) -> None:
    for connection in (store._writer, store._reader):
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == (b"wal",)


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    small_file(path)
    edited(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(JournalError) as caught:
        SQLiteStore(path)
    assert caught.value.code == "journal.newer_schema"
    assert path.read_bytes() == before


def test_another_programs_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    edited(path, "CREATE TABLE users (name)")
    before = path.read_bytes()
    with pytest.raises(JournalError) as caught:
        SQLiteStore(path)
    assert caught.value.code == "journal.foreign_file"
    assert path.read_bytes() == before


def test_a_path_that_can_not_be_opened_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "runs.db"):
        with pytest.raises(JournalError) as caught:
            SQLiteStore(path)
        assert caught.value.code == "journal.cannot_open"


def test_a_large_payload_is_kept_once(store: SQLiteStore, path: Path) -> None:
    inline, apart = LARGE[:INLINE_BYTES_MAX], LARGE[: INLINE_BYTES_MAX + 1]
    store.create(header(), Owner.this_process(), ())
    lines = tuple(
        Record(RecordType.STEP, seq, payload=payload)
        for seq, payload in enumerate((apart, inline, apart, apart), start=1)
    )
    assert store.commit([Append("run", 1, lines)]) == [None]
    assert store.load("run").records == lines
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM contents").fetchone() == (1,)
        inlined = "SELECT count(*) FROM records WHERE payload IS NOT NULL"
        assert file.execute(inlined).fetchone() == (1,)


# Others at the same file


def test_readers_do_not_wait_for_a_writer_nor_the_writer_for_them(path: Path) -> None:
    with closing(SQLiteStore(path, busy_s=0.05)) as store:
        store.create(header(), Owner.this_process(), records(1))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert len(store.load("run").records) == 1
            assert len(store.runs()) == 1
            other.execute("ROLLBACK")
            other.execute("BEGIN")
            other.execute("SELECT * FROM records").fetchall()
            assert store.commit([Append("run", 1, records(1, start=2))]) == [None]
            assert other.execute("SELECT count(*) FROM records").fetchone() == (1,)


def test_a_file_that_stays_locked_fails_the_write_and_only_it(path: Path) -> None:
    with closing(SQLiteStore(path, busy_s=0.01)) as store:
        store.create(header(), Owner.this_process(), records(1))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(JournalError) as caught:
                store.commit([Append("run", 1, records(1, start=2))])
        assert caught.value.code == "journal.write_failed"
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        assert store.commit([Append("run", 1, records(1, start=2))]) == [None]


def test_a_full_disk_fails_the_write_and_leaves_what_was_there(path: Path) -> None:
    """The limit on a file's size stands for the disk's."""
    program = """
import resource, signal, sys
from stageflow.journal.sqlite import SQLiteStore
from stageflow.journal.store import Append
from stageflow.model.errors import JournalError
from stageflow.model.record import Record, RecordType

store = SQLiteStore(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
seq = 2
while True:
    try:
        record = Record(RecordType.STEP, seq, payload=bytes(9999))
        assert store.commit([Append("run", 1, (record,))]) == [None]
    except JournalError as error:
        assert error.code == "journal.write_failed", error
        break
    seq += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert store.commit([Append("run", 1, (Record(RecordType.STEP, seq, payload=b"last"),))]) == [None]
print(seq)
"""
    with closing(SQLiteStore(path)) as store:
        store.create(header(), Owner.this_process(), records(1))
        done = subprocess.run(
            [sys.executable, "-c", program, path], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        loaded = store.load("run").records
        assert len(loaded) == int(done.stdout) > 2
        assert loaded[-1].payload == b"last"


def test_a_forked_child_and_its_parent_lose_nothing(path: Path) -> None:
    """
    1. The parent writes, then forks in the middle of its other thread's commits.
    2. The child writes through the store that it inherited.
    3. The parent closes its store while the child goes on writing.
    4. Whatever either was told is written is there afterwards.
    """
    store = SQLiteStore(path)
    for run in ("parent", "child"):
        store.create(header(run), Owner.this_process(), records(1))
    forked = threading.Event()
    acknowledged = [1]

    def write() -> None:
        while not forked.is_set() or acknowledged[0] < 100:
            append = Append("parent", 1, records(1, start=acknowledged[0] + 1))
            assert store.commit([append]) == [None]
            acknowledged[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    go_on, goes_on = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for seq in range(2, 102):
                assert store.commit([Append("child", 1, records(1, start=seq))]) == [None]
            os.read(go_on, 1)  # until the parent has closed its store
            for seq in range(102, 202):
                assert store.commit([Append("child", 1, records(1, start=seq))]) == [None]
            assert len(store.load("child").records) == 201
            status = 0
        finally:
            os._exit(status)
    forked.set()
    writer.join()
    store.close()
    os.write(goes_on, b"1")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(go_on)
    os.close(goes_on)
    with closing(SQLiteStore(path)) as again:
        assert len(again.load("child").records) == 201
        assert len(again.load("parent").records) == acknowledged[0]


def test_a_closed_store_says_so(store: SQLiteStore) -> None:
    store.close()
    for use in (lambda: store.load("run"), lambda: store.commit([]), store.runs):
        with pytest.raises(JournalError) as caught:
            use()
        assert caught.value.code == "journal.closed"


def test_an_owner_elsewhere_can_be_declared_dead(path: Path) -> None:
    with closing(SQLiteStore(path, unknown_is_dead=True)) as store:
        store.create(header(), Owner("gone", "boot", 1, 1), records(1))
        assert store.claim("run", Owner.this_process()).epoch == 2
