"""A new SQLite file that several open at once."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stageflow.journal.sqlite_locks import SQLiteLocks
from stageflow.journal.write_ahead import switch_to_wal
from stageflow.stages.work.ledger.sqlite import SQLiteEffects
from stageflow.stages.work.undo.sqlite import SQLiteUndo

AT_ONCE, ROUNDS = 4, 40


def opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)


@pytest.mark.parametrize("store", [SQLiteLocks, SQLiteEffects, SQLiteUndo])
def test_a_new_file_that_many_open_at_once_fails_none(
    store: Callable[[Path], SQLiteLocks | SQLiteEffects | SQLiteUndo], tmp_path: Path
) -> None:
    """Of each store's opening: one in ten of these failed when SQLite was asked only once."""
    failed: list[BaseException] = []

    def opens(path: Path, start: threading.Barrier) -> None:
        made = store(path)
        start.wait()
        try:
            made._opened().close()
        except BaseException as error:
            failed.append(error)

    for number in range(ROUNDS):
        path, start = tmp_path / f"{number}.db", threading.Barrier(AT_ONCE)
        threads = [threading.Thread(target=opens, args=(path, start)) for _ in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed


def test_it_waits_for_who_holds_the_file(tmp_path: Path) -> None:
    holder, other = opened(tmp_path / "a.db"), opened(tmp_path / "a.db")
    holder.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(0.05, lambda: holder.execute("COMMIT"))
    timer.start()
    switch_to_wal(other, wait_s=30)
    timer.join()
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_it_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    holder, other = opened(tmp_path / "a.db"), opened(tmp_path / "a.db")
    holder.execute("BEGIN EXCLUSIVE")
    begun_s = time.monotonic()
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        switch_to_wal(other, wait_s=0.05)
    assert time.monotonic() - begun_s < 5


def test_other_errors_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"no database, but as long as the head of one" * 40)
    with pytest.raises(sqlite3.DatabaseError):
        switch_to_wal(opened(tmp_path / "a.db"), wait_s=30)
