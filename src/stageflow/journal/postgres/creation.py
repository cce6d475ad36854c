"""A new run on its way: its header, its head and its first lines, in one statement."""

from __future__ import annotations

from dataclasses import replace

from stageflow.journal.admission import Head, refusal, run_exists
from stageflow.journal.line import encoded, header_checksum, header_text
from stageflow.journal.postgres import statements as sql
from stageflow.journal.postgres.access import Connection
from stageflow.journal.postgres.packing import stored
from stageflow.journal.postgres.statements import Columns, NewHead
from stageflow.journal.store import Append, RunHeader
from stageflow.journal.verification import verified_header
from stageflow.model.errors import JournalError
from stageflow.model.record import Record


class Creation:
    """Decided before any connection is used; raises what Store.create raises."""

    def __init__(self, header: RunHeader, head: Head, records: tuple[Record, ...]) -> None:
        self._text = header_text(header)
        first = Append(header.run, 1, records)
        lines = encoded(first)
        if isinstance(lines, JournalError):
            raise lines
        refused = refusal(first, head, lambda *_: None)
        if refused is not None:
            raise refused
        self._header = header
        self._start = header_checksum(self._text)
        self._columns = Columns()
        last = self._columns.add(first, lines, last=self._start)
        self.new: NewHead = (head.after(records, now_wall_s=head.updated_wall_s), last)
        """Where the run stands then."""
        self._columns.move(header.run, None, self.new)

    def insert(self, connection: Connection, *, lease_s: float | None) -> None:
        """Writes it all; `lease_s` renews the owner's lease. Raises "journal.run_exists"."""
        header = self._header
        parameters = self._columns.parameters() | {
            "at": stored(header.run),
            "tenant": stored(header.tenant),
            "created_wall_s": header.created_wall_s,
            "header": self._text,
            "start": self._start,
            "lease_s": 0.0 if lease_s is None else lease_s,
            "renews": lease_s is not None,
        }
        if connection.execute(sql.CREATE, parameters, prepare=True, binary=True).fetchone():
            return
        row = connection.execute(sql.HEADER, (stored(header.run),), binary=True).fetchone()
        if row is None:  # another tenant's: nothing is told of it
            raise run_exists(header, replace(header, tenant=""))
        raise run_exists(header, verified_header(header.run, row)[0])

    def is_there(self, connection: Connection) -> bool:
        """Whether `insert` was carried out, perhaps by a connection that was lost."""
        holder = self.new[0].owner_text
        owner = None if holder is None else stored(holder)
        given = (stored(self._header.run), self._start, owner, owner)
        return connection.execute(sql.MADE, given).fetchone() is not None
