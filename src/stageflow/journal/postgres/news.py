"""What the server tells unasked: a connection that listens for one owner's channel (NOTIFY).

A hint only. A connection that is lost is noticed when it is, and until somebody opens another one
nothing is heard (https://www.postgresql.org/docs/current/sql-notify.html).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

import psycopg

from stageflow.journal.postgres.address import Address
from stageflow.journal.postgres.link import Link


class News:
    """Hears for one owner at a time. Opened in a thread, listened to on a loop."""

    def __init__(self, address: Address) -> None:
        self.link = Link(address, name="news")
        self.owner = ""
        """Whose channel the connection listens to."""
        self._schema = address.schema
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: Callable[[], None] | None = None
        self._socket = -1

    def channel(self, owner: str) -> str:
        """The name under which `owner` is told; one of 63 bytes at most, as the server wants."""
        told = f"{self._schema}/{owner}".encode()
        return f"stageflow_{hashlib.blake2b(told, digest_size=16).hexdigest()}"

    def is_heard(self, owner: str, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the loop hears what the owner is told, as far as is known."""
        return self.owner == owner and self._loop is loop and self.link.is_open

    def open(self, owner: str) -> None:
        """Connects, and listens to the owner's channel alone. Raises psycopg.Error."""
        if self.owner == owner and self.link.is_open:
            return
        try:
            connection = self.link.open()
            with self.link.awaited():
                connection.execute("UNLISTEN *")
                connection.execute(f'LISTEN "{self.channel(owner)}"'.encode())
        except psycopg.Error:
            self.drop()
            raise
        self.owner = owner

    def listen(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        """From now on the loop calls `wake` when something is heard, and once at once: what was
        told before is not told again."""
        self._socket = self.link.open().fileno()
        loop.add_reader(self._socket, self._heard)
        self._wake, self._loop = wake, loop
        wake()

    def unlisten(self) -> None:
        """The loop hears nothing more; the connection stays."""
        loop, self._loop = self._loop, None
        if loop is not None and not loop.is_closed():
            loop.remove_reader(self._socket)

    def drop(self) -> None:
        """Gives the connection up."""
        self.owner = ""
        self.link.drop()

    def _heard(self) -> None:
        said = False
        try:
            connection = self.link.open().pgconn
            connection.consume_input()
            while connection.notifies() is not None:
                said = True
        except psycopg.Error:
            self.unlisten()
            self.drop()
        if said and self._wake is not None:
            self._wake()
