"""A connection that is opened when it is needed, given up when it is silent, and opened anew.

Nothing here waits for ever. A connection attempt has libpq's time limit. An answer has ours: a
thread that only watches shuts the socket of a connection whose answer is overdue, and libpq then
reports the connection as lost. (Time limits of TCP don't do: between two networks that have lost
each other, a relay or proxy may go on acknowledging bytes.)
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg

from stageflow.journal.postgres.address import Address
from stageflow.journal.postgres.packing import adapt

CONNECT_S = 10
CONNECT_MIN_S = 2
"""libpq takes no shorter one."""
IDLE_IN_TRANSACTION_S = 10
"""A process that is stopped between two statements holds its locks no longer than this."""
LOCK_S = 15
END_MS = 5_000
TICKS = 10
"""An answer's time is counted in so many ticks, so that time in which this process was stopped
does not count."""

_LOST = ("08", "57P01", "57P02", "57P03", "57P05", "25P03", "25006")
"""Classes and codes after which only another connection can help; 25006: a server that became a
read-only standby (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""
_AGAIN = ("40001", "40P01", "55P03")
"""The transaction was rolled back and may go through next time: serialization, deadlock, lock."""


class Backend(NamedTuple):
    """The server's process behind a connection, told apart from others that get its pid."""

    pid: int
    started: Any


class Link:
    """One connection for one thread at a time. `name` is what pg_stat_activity shows."""

    def __init__(self, address: Address, *, name: str) -> None:
        self._address = address
        self._name = name
        self._connection: psycopg.Connection[Any] | None = None
        self.socket: int | None = None
        """A descriptor of our own for the connection's socket: libpq may close its own any time."""
        self.backend: Backend | None = None
        """Behind the connection, or behind the last one."""
        self.calls = 0
        """Odd while an answer is awaited."""
        self._guard = threading.Lock()
        """Keeps `shut` from meeting a descriptor that was closed and given to another file."""

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    def open(self) -> psycopg.Connection[Any]:
        """The connection, opened now if there is none. Raises psycopg.Error."""
        if self._connection is None:
            connection = psycopg.connect(
                self._address.conninfo,
                autocommit=True,
                connect_timeout=max(CONNECT_MIN_S, round(min(CONNECT_S, self._address.away_s))),
                application_name=f"{self._address.schema} {self._name}",
                client_encoding="UTF8",
            )
            try:
                self._set_up(connection)
            except BaseException:
                self._connection = connection
                self.drop()
                raise
            self._connection = connection
        return self._connection

    def _set_up(self, connection: psycopg.Connection[Any]) -> None:
        adapt(connection)
        self.socket = os.dup(connection.fileno())
        address = self._address
        settings = {
            "search_path": '"' + address.schema.replace('"', '""') + '"',
            "stageflow.tenant": address.tenant or "",
            "stageflow.scope": "every" if address.tenant is None else "",
            "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_S}s",
            "lock_timeout": f"{LOCK_S}s",
            # Our statements find rows by their keys. Planned anew for each batch they would cost
            # twice as much, and planned while the tables are small they would read them whole.
            "plan_cache_mode": "force_generic_plan",
            "enable_seqscan": "off",
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
        }
        with self.awaited():
            connection.execute(
                "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[])"
                " AS setting(name, value)",
                (list(settings), list(settings.values())),
            )
            # What was acknowledged must be on disk, whatever this server's default is.
            connection.execute(
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') IN ('off', 'local')"
            )
            row = connection.execute(
                "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
            ).fetchone()
        self.backend = None if row is None else Backend(*row)

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """While the block runs, the watch counts; a block within a block begins anew."""
        step = 2 if self.calls % 2 else 1
        self.calls += step
        try:
            yield
        finally:
            self.calls += step

    def end(self, backend: Backend) -> None:
        """Makes sure that `backend` is no more, so that what it did is known for good.

        Raises psycopg.OperationalError when it can't be told.
        """
        with self.awaited():
            row = (
                self.open()
                .execute(
                    "SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity"
                    " WHERE pid = %s AND backend_start = %s AND pid <> pg_backend_pid()",
                    (END_MS, *backend),
                )
                .fetchone()
            )
        if row is not None and not row[0]:
            raise psycopg.OperationalError("the server's earlier process does not end")

    def drop(self) -> None:
        """Gives the connection up, whatever its state."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # of a broken connection nothing is expected
                connection.close()
        self._close_socket()

    def shut(self) -> None:
        """From another thread: ends the connection under whoever waits for it."""
        with self._guard, contextlib.suppress(OSError):
            if self.socket is not None:
                with socket.socket(fileno=os.dup(self.socket)) as shared:
                    shared.shutdown(socket.SHUT_RDWR)

    def leave_to_parent(self) -> None:
        """In a forked child: lets go of the parent's connection without a word to the server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(OSError, psycopg.Error):
                os.close(connection.fileno())
            _PARENTS.append(connection)
        self._close_socket()

    def _close_socket(self) -> None:
        with self._guard, contextlib.suppress(OSError):
            descriptor, self.socket = self.socket, None
            if descriptor is not None:
                os.close(descriptor)


_PARENTS: list[object] = []
"""Connections of parent processes: kept, because their destructors would talk to the server."""


class Watch:
    """A thread that shuts links whose answers are overdue. Sleeps while there is nothing to do."""

    def __init__(self, answer_s: float, links: tuple[Link, ...]) -> None:
        self._tick_s = answer_s / TICKS
        self._links = links
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to watch."""
        self._thread = threading.Thread(target=self._look, name="stageflow-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; a second stop does nothing."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _look(self) -> None:
        seen = [(0, 0)] * len(self._links)
        while not self._ended.wait(self._tick_s):
            for place, link in enumerate(self._links):
                calls, (known, ticks) = link.calls, seen[place]
                ticks = ticks + 1 if calls == known and calls % 2 else 0
                if ticks > TICKS:
                    link.shut()
                    ticks = 0
                seen[place] = (calls, ticks)


def is_lost(error: psycopg.Error) -> bool:
    """Whether the connection is gone, or useless; then nobody knows what its last call did."""
    code = error.sqlstate
    if code is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return code.startswith(_LOST)


def is_rolled_back(error: psycopg.Error) -> bool:
    """Whether the transaction was surely undone and may succeed when it is done again."""
    return (error.sqlstate or "") in _AGAIN
