"""The heartbeat of a process: renews its lease while it drives runs, and learns what it has lost.

A lease is one row for one process, whatever number of runs it drives. It expires by the database's
clock. Who finds it expired may claim the process's runs, and the epoch of each run then refuses
whatever the process still writes. A process that was stopped, or cut off, and comes back finds out
here that its runs are another's, even when it has nothing to write.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import psycopg

from stageflow.journal.postgres.link import Link
from stageflow.journal.postgres.packing import Integers, Texts
from stageflow.model.errors import JournalError

BEATS = 3
"""Beats in the life of a lease: two may be lost before it expires."""
STOP_S = 1.0
SOON_S = 1.0
"""How soon a beat that failed is tried again, at most a third of its interval."""

_HELD = "SELECT count(*) FROM leases WHERE owner = ANY(%s) AND expires > clock_timestamp()"
_RENEW = """
INSERT INTO leases (owner, expires)
SELECT owner, clock_timestamp() + make_interval(secs => %s) FROM unnest(%s) AS given(owner)
ON CONFLICT (owner) DO UPDATE SET expires = excluded.expires
"""
_LOST = """
SELECT given.run FROM unnest(%s, %s) AS given(run, epoch) LEFT JOIN heads USING (run)
WHERE heads.epoch IS DISTINCT FROM given.epoch
"""

Driven = Mapping[str, tuple[int, str]]
"""Run to its epoch and the owner's text."""


class Heartbeat:
    """One daemon thread, from the first run until `stop`.

    `driven` gives the runs that are driven here now; `lost` is told, on the thread, of those that
    another owner has. `also` is done with each beat, over its connection.
    """

    def __init__(
        self,
        link: Link,
        lease_s: float,
        *,
        driven: Callable[[], Driven],
        lost: Callable[[str], None],
        also: Callable[[psycopg.Connection[Any]], None],
    ) -> None:
        self.link = link
        self._lease_s = lease_s
        self._driven = driven
        self._lost = lost
        self._also = also
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to beat; does nothing when it beats already."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._beat_on, name="stageflow-lease", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread; a second stop does nothing."""
        self._ended.set()
        self.link.shut()
        if self._thread is not None:
            self._thread.join(STOP_S)  # it may be waiting for a database that is away
            self._thread = None

    def _beat_on(self) -> None:
        every_s = self._lease_s / BEATS
        wait_s = every_s
        while not self._ended.wait(wait_s):
            try:
                self.beat()
                wait_s = every_s
            except (psycopg.Error, JournalError):
                # The database is away, or refuses: what this means for the runs is for their next
                # append to say. The next beat needs another connection.
                self.link.drop()
                wait_s = min(SOON_S, every_s / BEATS)
        self.link.drop()

    def beat(self) -> None:
        """Looks for runs that were lost, and renews the leases of this process.

        A lease that had lapsed is not renewed in a beat that finds runs lost: what else hangs
        together with them (runs that their stages started) can then be taken as well.
        """
        driven = self._driven()
        owners = sorted({owner for _, owner in driven.values()})
        connection = self.link.open()
        with self.link.awaited():
            self._also(connection)
            if not driven:
                return
            epochs = Integers([epoch for epoch, _ in driven.values()])
            lost = connection.execute(_LOST, (Texts(list(driven)), epochs)).fetchall()
            row = connection.execute(_HELD, (Texts(owners),)).fetchone()
            if not lost or row == (len(owners),):
                connection.execute(_RENEW, (self._lease_s, Texts(owners)))
        for (run,) in lost:
            self._lost(run.decode())
