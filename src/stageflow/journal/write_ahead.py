"""SQLite's write-ahead log (https://www.sqlite.org/wal.html), switched on for a file."""

from __future__ import annotations

import sqlite3
import time

PAUSE_S = 0.005
"""Between two tries."""
_ON = ("wal", b"wal")


def switch_to_wal(connection: sqlite3.Connection, *, wait_s: float) -> None:
    """Whoever opens a new file switches it; of several at once, each but one has to wait.

    SQLite fails the switch at once when another connection has the file locked, whatever busy
    timeout is set: waiting could be a deadlock. So it is tried again here, for `wait_s` seconds.
    Raises sqlite3.Error, with SQLITE_BUSY when the file was locked all that time.
    """
    until_s = time.monotonic() + wait_s
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
            if mode not in _ON:
                connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until_s:
                raise
            time.sleep(PAUSE_S)
