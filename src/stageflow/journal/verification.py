"""A run as the rows of a store give it back: believed only when every checksum fits.

Text comes as undecoded bytes, because damaged text must fail here, with its place, and not inside
a driver.
"""

from __future__ import annotations

from struct import error as StructError
from typing import Any

from stageflow.journal.admission import Head, IsAlive, damaged, summary
from stageflow.journal.line import (
    Line,
    body,
    chained,
    content_hash,
    head_checksum,
    header_checksum,
    header_of,
    record_of,
)
from stageflow.journal.shredding import keys_of
from stageflow.journal.store import LoadedRun, Owner, RunHeader, RunSummary
from stageflow.model.errors import JournalError
from stageflow.model.record import Record

RunRows = tuple[
    tuple[Any, ...], tuple[Any, ...] | None, list[tuple[Any, ...]], list[tuple[Any, ...]]
]
"""What a store holds of one run, unverified: its header, head, lines and wrapped keys."""


def verified_run(run: str, rows: RunRows) -> tuple[LoadedRun, Head, bytes]:
    """The run, its head, and the checksum of its last line; "journal.damaged" if a byte changed."""
    header, last = verified_header(run, rows[0])
    if rows[1] is None:
        raise damaged(run, None, "its state is missing")
    head, expected_last = verified_head(run, rows[1])
    records: list[Record] = []
    accepted: set[tuple[str | None, int]] = set()
    for seq, columns in enumerate(rows[2], start=1):
        record, last = verified_line(run, columns, seq=seq, previous=last)
        records.append(record)
        if record.is_accepted:
            if (record.node, record.revision) in accepted:
                raise damaged(run, seq, "it is a second accepted outcome")
            accepted.add((record.node, record.revision))
    if len(records) < head.records:
        raise damaged(run, len(records) + 1, "it is missing")
    if len(records) > head.records or last != expected_last:
        raise damaged(run, len(records), "the run's state does not know it")
    loaded = LoadedRun(
        header,
        head.epoch,
        head.status,
        head.reason,
        tuple(records),
        head.owner,
        keys_of(rows[3]),
    )
    return loaded, head, last


def verified_header(run: str, columns: tuple[Any, ...]) -> tuple[RunHeader, bytes]:
    """The header, and its checksum, which starts the chain."""
    try:
        at, tenant, created_wall_s, text, checksum = columns
        start = header_checksum(text.decode())
        header = header_of(text.decode())
        known = (header.run, header.tenant, header.created_wall_s)
        if checksum != start or known != (at.decode(), tenant.decode(), created_wall_s):
            raise ValueError("its checksum does not fit")
    except (TypeError, ValueError, AttributeError) as error:
        raise damaged(run, None, "its header can't be read") from error
    return header, start


def verified_summary(row: tuple[Any, ...], *, is_alive: IsAlive = Owner.is_alive) -> RunSummary:
    """One line of a listing from the columns of a header and a head; "damaged" if they are."""
    run = row[0].decode("utf-8", "backslashreplace") if type(row[0]) is bytes else repr(row[0])
    header = RunHeader(run, "", "", None, None, None, None, 0.0, {}, 0)
    try:
        header = verified_header(run, row[:5])[0]
        return summary(header, verified_head(run, row[5:])[0], is_alive=is_alive)
    except JournalError as error:
        return RunSummary(header, "damaged", error.code, 0, 0, None, None, 0.0)


def verified_head(run: str, columns: tuple[Any, ...]) -> tuple[Head, bytes]:
    """The head in a stored row, and the checksum of the last line; "journal.damaged" if changed.

    `columns` as `head_columns` gives them, with text as undecoded bytes.
    """
    try:
        at, epoch, owner, status, reason, *rest = columns
        known = None if owner is None else owner.decode()
        texts = (at.decode(), epoch, known, status.decode(), reason.decode(), *rest)
        if texts[0] != run or texts[-1] != head_checksum(texts[:-1]):
            raise ValueError("its checksum does not fit")
        _, *head, last, _ = texts
    except (TypeError, ValueError, AttributeError) as error:
        raise damaged(run, None, "its state can't be read") from error
    return Head(*head), last


def verified_line(
    run: str, columns: tuple[Any, ...], *, seq: int, previous: bytes
) -> tuple[Record, bytes]:
    """The record in a stored row, and its checksum; "journal.damaged" when a byte has changed.

    `columns`: run, seq, epoch, type, node, revision, attempt, token, wall_s, accepted, data,
    contract, labels, key_id, payload, content, previous, checksum; text as undecoded bytes.
    """
    try:
        (
            at, number, epoch, type_, node, revision, attempt, token, wall_s, accepted,
            data, contract, labels, key_id, payload, content, before, checksum,
        ) = columns  # fmt: skip
        line = Line(
            number,
            _text(type_),
            None if node is None else _text(node),
            revision,
            attempt,
            token,
            wall_s,
            accepted,
            _text(data),
            _text(contract),
            _text(labels),
            _text(key_id),
            payload,
            content_hash(payload),
            b"",
        )
        line = line._replace(body=body(_text(at), epoch, line))
        record = record_of(line)
    except (TypeError, ValueError, AttributeError, StructError) as error:
        raise damaged(run, seq, "a column can't be read") from error
    if number != seq:
        raise damaged(run, seq, "it is missing")
    if before != previous or checksum != chained(previous, line):
        raise damaged(run, seq, "its checksum does not fit")
    if accepted != record.is_accepted or (content is not None and content != line.content):
        raise damaged(run, seq, "its columns contradict each other")
    return record, checksum


def _text(column: bytes) -> str:
    return column.decode()
