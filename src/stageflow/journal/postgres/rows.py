"""Reading a run's rows, and asking what of it is there."""

from __future__ import annotations

import json
from typing import Any

from stageflow.journal.admission import damaged, unknown_run
from stageflow.journal.postgres import statements as sql
from stageflow.journal.postgres.access import Connection
from stageflow.journal.postgres.packing import Texts, stored
from stageflow.journal.postgres.statements import Columns
from stageflow.journal.store import RefusedWrite
from stageflow.journal.verification import RunRows
from stageflow.model.errors import JournalError
from stageflow.model.record import Record, RecordType


def run_rows(connection: Connection, run: str) -> RunRows:
    header = None
    if is_text(run):
        header = connection.execute(sql.HEADER, (stored(run),), binary=True).fetchone()
    if header is None:
        raise unknown_run(run)
    head = connection.execute(sql.HEAD, (Texts([run]),), binary=True).fetchone()
    lines = connection.execute(sql.LINES, (stored(run),), binary=True).fetchall()
    return header, head, lines, connection.execute(sql.KEYS, (stored(run),), binary=True).fetchall()


def absent(connection: Connection, run: str) -> JournalError:
    """Why there is no head of `run`."""
    if is_text(run) and connection.execute(sql.HEADER, (stored(run),)).fetchone() is not None:
        return damaged(run, None, "its state is missing")
    return unknown_run(run)


def refused_write(row: tuple[Any, ...]) -> RefusedWrite:
    epoch, held, seq, type_, node, revision, attempt, token, wall_s, data, *rest, at_s = row
    contract, labels, key_id, payload = rest
    record = Record(
        RecordType(type_.decode()),
        seq,
        None if node is None else node.decode(),
        revision,
        attempt,
        token,
        wall_s,
        json.loads(data) if data else {},
        contract.decode(),
        tuple(json.loads(labels)) if labels else (),
        key_id.decode(),
        payload,
    )
    return RefusedWrite(record, epoch, held, at_s)


def is_text(value: object) -> bool:
    """Whether PostgreSQL can be asked for `value`: text that UTF-8 can hold."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def found(connection: Connection, columns: Columns) -> set[str]:
    """Runs of which the last line that was sent is there."""
    rows = connection.execute(sql.LANDED, columns.witnesses(), binary=True).fetchall()
    return {run.decode() for (run,) in rows}
