"""One record as a line of a store: its columns, and the checksum that chains it to the last.

The chain of a run starts at the checksum of its header; each line's checksum covers the one before
it, every column, and the payload by its hash. So a changed, lost or moved line shows on load.
BLAKE2b: RFC 7693, 128 bits for the chain, 256 bits for the address of a payload kept apart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from hashlib import blake2b
from struct import Struct
from struct import error as StructError
from typing import Any, NamedTuple

from stageflow.journal.admission import Head
from stageflow.journal.store import RUNNING, Append, RunHeader
from stageflow.model.errors import JournalError
from stageflow.model.record import Record, RecordType

PAYLOAD_BYTES_MAX = 900 * 1024 * 1024
"""Below SQLite's limit of 10^9 bytes for one value (https://www.sqlite.org/limits.html)."""
DATA_DEPTH_MAX = 32
DATA_BYTES_MAX = 1024 * 1024
HEADER_BYTES_MAX = 64 * 1024 * 1024
"""A header names every stage of its pipeline, some 40 bytes each."""

_COMPACT = json.JSONEncoder(separators=(",", ":"))
_NUMBERS = Struct(">qqqqqd8i")
_NO_TEXT = -1


class Line(NamedTuple):
    """The columns of one record but for the chain, encoded before any lock is taken."""

    seq: int
    type: str
    node: str | None
    revision: int
    attempt: int
    token: int
    wall_s: float
    accepted: int
    data: str
    contract: str
    labels: str
    key_id: str
    payload: bytes | None
    content: bytes | None
    """Hash of the payload; None without one."""
    body: bytes
    """What the checksum covers besides the previous checksum."""


def encoded(append: Append) -> tuple[Line, ...] | JournalError:
    """The lines of `append`, or the refusal "journal.bad_record" for one that can't be kept."""
    lines = []
    for record in append.records:
        try:
            lines.append(_line(append.run, append.epoch, record))
        except (TypeError, ValueError, OverflowError, AttributeError, StructError) as error:
            refused = JournalError(
                "journal.bad_record",
                f"record {record.seq} of run {append.run!r} can't be kept: {_reason(error)}",
                node=record.node,
                expected="plain data, finite times, 64-bit numbers, text that UTF-8 can hold",
                fix="put values of users into the payload, and only plain facts into data",
            )
            refused.__cause__ = error
            return refused
    return tuple(lines)


def chained(previous: bytes, line: Line) -> bytes:
    """The checksum of `line` after the line with checksum `previous`."""
    return blake2b(previous + line.body, digest_size=16).digest()


def record_of(line: Line) -> Record:
    """The record that `line` encodes, equal to the one it was made from."""
    return Record(
        RecordType(line.type),
        line.seq,
        line.node,
        line.revision,
        line.attempt,
        line.token,
        line.wall_s,
        json.loads(line.data) if line.data else {},
        line.contract,
        tuple(json.loads(line.labels)) if line.labels else (),
        line.key_id,
        line.payload,
    )


def header_text(header: RunHeader) -> str:
    """The header as JSON; "journal.bad_record" when it can't be kept."""
    try:
        fields = {name: getattr(header, name) for name in RunHeader.__slots__}
        if not math.isfinite(header.created_wall_s):
            raise ValueError("created_wall_s is not a finite number")
        fields["fingerprints"] = dict(header.fingerprints)
        text = _plain_json(fields, bytes_max=HEADER_BYTES_MAX)
        session = "" if header.session is None else header.session
        for key in (header.run, header.tenant, session):  # the columns that SQL looks for
            key.encode()
    except (TypeError, ValueError, AttributeError) as error:
        raise JournalError(
            "journal.bad_record",
            f"the header of run {header.run!r} can't be kept: {_reason(error)}",
            pipeline=header.pipeline,
            expected="plain text and numbers",
            fix="check the tenant, session and correlation ids that the run was started with",
        ) from error
    return text


def header_of(text: str) -> RunHeader:
    """The header that `header_text` encoded."""
    return RunHeader(**json.loads(text))


def header_checksum(text: str) -> bytes:
    """What the chain of a run starts from."""
    return blake2b(text.encode(), digest_size=16, person=b"run header").digest()


def head_columns(run: str, head: Head, last: bytes) -> tuple[Any, ...]:
    """The head as run, epoch, owner, status, reason, records, updated_wall_s, last, checksum.

    `last` is the checksum of the run's last line, so that a cut tail shows.
    """
    columns = (run, *head, last)
    return (*columns, head_checksum(columns))


def head_checksum(columns: tuple[Any, ...]) -> bytes:
    """Covers every column of a head but the checksum's own, text as text."""
    return blake2b(repr(columns).encode(), digest_size=16, person=b"run head").digest()


def body(run: str, epoch: int, line: Line) -> bytes:
    """Unambiguous: numbers of fixed width, the length of each text, then the texts."""
    node = b"" if line.node is None else line.node.encode()
    texts = (
        run.encode(),
        line.type.encode(),
        node,
        line.data.encode(),
        line.contract.encode(),
        line.labels.encode(),
        line.key_id.encode(),
        line.content or b"",
    )
    lengths = [len(text) for text in texts]
    if line.node is None:
        lengths[2] = _NO_TEXT
    numbers = _NUMBERS.pack(
        line.seq, epoch, line.revision, line.attempt, line.token, line.wall_s, *lengths
    )
    return b"".join((numbers, *texts))


def content_hash(payload: bytes | None) -> bytes | None:
    """The address of a payload; None without one."""
    return None if payload is None else blake2b(payload, digest_size=32).digest()


def _line(run: str, epoch: int, record: Record) -> Line:
    payload = None if record.payload is None else bytes(memoryview(record.payload))
    if payload is not None and len(payload) > PAYLOAD_BYTES_MAX:
        raise ValueError(f"its payload has {len(payload)} bytes, more than {PAYLOAD_BYTES_MAX}")
    if not math.isfinite(record.wall_s):
        raise ValueError("wall_s is not a finite number")
    if record.is_accepted and record.node is None:
        raise ValueError("an accepted outcome needs its node")
    if record.type is RecordType.RUN_ENDED and record.data.get("status", "") in ("", RUNNING):
        raise ValueError("the end of a run needs its final status")
    line = Line(
        record.seq,
        record.type.value,
        record.node,
        record.revision,
        record.attempt,
        record.token,
        record.wall_s,
        int(record.is_accepted),
        _plain_json(record.data) if record.data else "",
        record.contract,
        json.dumps(_texts(record.labels)) if record.labels else "",
        record.key_id,
        payload,
        content_hash(payload),
        b"",
    )
    return line._replace(body=body(run, epoch, line))


def _texts(labels: tuple[str, ...]) -> list[str]:
    if not all(type(label) is str for label in labels):
        raise TypeError("a label is not text")
    return list(labels)


def _plain_json(data: Mapping[str, Any], *, bytes_max: int = DATA_BYTES_MAX) -> str:
    plain = dict(data)
    _check_plain(plain, depth=0)
    text = _COMPACT.encode(plain)
    if len(text) > bytes_max:
        raise ValueError(f"data takes {len(text)} bytes, more than {bytes_max}")
    return text


def _check_plain(value: object, *, depth: int) -> None:
    """JSON would turn other keys into text and tuples into lists, in silence."""
    if value is None or isinstance(value, str | int | float):
        return
    if depth == DATA_DEPTH_MAX:
        raise ValueError(f"data is nested deeper than {DATA_DEPTH_MAX}")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"data has a key of type {type(key).__name__}")
            _check_plain(item, depth=depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_plain(item, depth=depth + 1)
    else:
        raise TypeError(f"data holds a {type(value).__name__}")


def _reason(error: Exception) -> str:
    """Our own words stay; those of the codecs may quote a value and are left out."""
    return type(error).__name__ if isinstance(error, UnicodeError | StructError) else str(error)
