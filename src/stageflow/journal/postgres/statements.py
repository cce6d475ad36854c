"""The statements of the store, and the columns that they take.

Heads, lines and large payloads go out as one array for each column. `moved` are the heads that the
statement found as they were believed to be: only their lines and payloads are written.
"""

from __future__ import annotations

from typing import Any

from stageflow.journal.admission import Head
from stageflow.journal.line import Line, chained, head_columns
from stageflow.journal.postgres.packing import Blobs, Booleans, Floats, Integers, Jsons, Texts
from stageflow.journal.shredding import key_changes
from stageflow.journal.store import Append

INLINE_BYTES_MAX = 64 * 1024
"""A larger payload lies apart, once for all records of its tenant with the same content."""
REFUSED_MAX = 1_000
"""Refused writes that are kept of one run."""

NewHead = tuple[Head, bytes]
"""Where a run stands, and the checksum of its last line."""

_GIVEN_LINES = """unnest(%(l_run)s, %(l_seq)s, %(l_epoch)s, %(l_type)s, %(l_node)s, %(l_revision)s,
  %(l_attempt)s, %(l_token)s, %(l_wall_s)s, %(l_accepted)s, %(l_data)s, %(l_contract)s,
  %(l_labels)s, %(l_key_id)s, %(l_payload)s, %(l_content)s, %(l_previous)s, %(l_checksum)s)
  AS line(run, seq, epoch, type, node, revision, attempt, token, wall_s, accepted, data, contract,
  labels, key_id, payload, content, previous, checksum)"""
_LINE_COLUMNS = """(run, seq, tenant, epoch, type, node, revision, attempt, token, wall_s, accepted,
  data, contract, labels, key_id, payload, content, previous, checksum)"""


def _added(tenant: str, where: str) -> str:
    """Inserts of lines and of large payloads, as parts of a statement with `moved`."""
    return f"""
large AS (
  INSERT INTO contents (tenant, content, payload)
  SELECT {tenant.format("large")}, content, payload
  FROM unnest(%(c_run)s, %(c_content)s, %(c_payload)s) AS large(run, content, payload)
  WHERE {where.format("large")}
  ON CONFLICT DO NOTHING),
added AS (
  INSERT INTO records {_LINE_COLUMNS}
  SELECT run, seq, {tenant.format("line")}, epoch, type, node, revision, attempt, token, wall_s,
    accepted, data, contract, labels, key_id, payload, content, previous, checksum
  FROM {_GIVEN_LINES}
  WHERE {where.format("line")}),
keyed AS (
  INSERT INTO keys (run, id, tenant, wrapped)
  SELECT run, id, {tenant.format("key")}, wrapped
  FROM unnest(%(k_run)s, %(k_id)s, %(k_wrapped)s) AS key(run, id, wrapped)
  WHERE {where.format("key")}
  ON CONFLICT DO NOTHING)"""


_ADD = _added(
    "(SELECT tenant FROM heads WHERE heads.run = {0}.run)",
    # As a condition of its own, the list of runs would be joined: each line with each head.
    "CASE WHEN {0}.run IN (SELECT run FROM moved) THEN true ELSE false END",
)
_ADD_TO_NEW = _added("%(tenant)s", "EXISTS (SELECT FROM moved)")
WRITE = f"""
WITH moved AS (
  UPDATE heads SET epoch = h.epoch, owner = h.owner, status = h.status, reason = h.reason,
    records = h.records, updated_wall_s = h.updated_wall_s, last = h.last, checksum = h.checksum
  FROM unnest(%(run)s, %(before)s, %(epoch)s, %(owner)s, %(status)s, %(reason)s, %(records)s,
    %(updated_wall_s)s, %(last)s, %(checksum)s)
    AS h(run, before, epoch, owner, status, reason, records, updated_wall_s, last, checksum)
  WHERE heads.run = h.run AND heads.checksum = h.before
  RETURNING heads.run, heads.tenant),
shredded AS (
  DELETE FROM keys USING unnest(%(s_run)s, %(s_id)s) AS gone(run, id)
  WHERE keys.run = gone.run AND keys.id = gone.id
    AND CASE WHEN keys.run IN (SELECT run FROM moved) THEN true ELSE false END),
{_ADD}
SELECT run FROM moved
"""
CREATE = f"""
WITH made AS (
  INSERT INTO runs (run, tenant, created_wall_s, header, checksum)
  VALUES (%(at)s, %(tenant)s, %(created_wall_s)s, %(header)s::json, %(start)s)
  ON CONFLICT DO NOTHING RETURNING run, tenant),
moved AS (
  INSERT INTO heads (run, tenant, epoch, owner, status, reason, records, updated_wall_s, last,
    checksum)
  SELECT h.run, made.tenant, epoch, owner, status, reason, records, updated_wall_s, last, checksum
  FROM unnest(%(run)s, %(epoch)s, %(owner)s, %(status)s, %(reason)s, %(records)s,
    %(updated_wall_s)s, %(last)s, %(checksum)s)
    AS h(run, epoch, owner, status, reason, records, updated_wall_s, last, checksum)
  JOIN made ON made.run = h.run
  RETURNING run, tenant),
leased AS (
  INSERT INTO leases (owner, expires)
  SELECT owner, clock_timestamp() + make_interval(secs => %(lease_s)s) FROM unnest(%(owner)s)
    AS h(owner) WHERE %(renews)s AND owner IS NOT NULL
  ON CONFLICT (owner) DO UPDATE SET expires = excluded.expires),
{_ADD_TO_NEW}
SELECT run FROM moved
"""
LEASE = """
INSERT INTO leases (owner, expires)
VALUES (%s, clock_timestamp() + make_interval(secs => %s))
ON CONFLICT (owner) DO UPDATE SET expires = excluded.expires
"""
HEAD = """
SELECT heads.run, epoch, heads.owner, status, reason, records, updated_wall_s, last, checksum
FROM heads WHERE run = ANY(%s) ORDER BY run"""
LIVE = "SELECT expires > clock_timestamp() FROM leases WHERE owner = %s"
LIVING = "SELECT owner FROM leases WHERE expires > clock_timestamp()"
HOLDS = "SELECT 1 FROM runs WHERE run = %s AND tenant = %s"
HEADER = "SELECT run, tenant, created_wall_s, header, checksum FROM runs WHERE run = %s"
LINES = """
SELECT run, seq, epoch, type, node, revision, attempt, token, wall_s, accepted,
  convert_to(coalesce(data::text, ''), 'UTF8'), contract,
  convert_to(coalesce(labels::text, ''), 'UTF8'), key_id,
  coalesce(records.payload, contents.payload), records.content, previous, checksum
FROM records LEFT JOIN contents
  ON contents.tenant = records.tenant AND contents.content = records.content
WHERE run = %s ORDER BY seq
"""
KEYS = "SELECT id, wrapped FROM keys WHERE run = %s"
ERASE = "DELETE FROM keys WHERE run = %s"
NARROW = """
SELECT set_config('stageflow.scope', '', true), set_config('stageflow.tenant', %s, true)
"""
LISTING = """
SELECT runs.run, runs.tenant, created_wall_s, header, runs.checksum, heads.run, epoch, owner,
  status, reason, records, updated_wall_s, last, heads.checksum
FROM runs LEFT JOIN heads ON heads.run = runs.run
{where} ORDER BY created_wall_s DESC, runs.run DESC LIMIT %s
"""
ACCEPTED = (
    "SELECT attempt, token FROM records"
    " WHERE run = %s AND node = %s AND revision = %s AND accepted LIMIT 1"
)
LANDED = """
SELECT run FROM unnest(%s, %s, %s) AS line(run, seq, checksum)
  JOIN records USING (run, seq, checksum)
"""
MADE = """
SELECT 1 FROM runs JOIN heads USING (run)
WHERE run = %s AND runs.checksum = %s AND (%s::text IS NULL OR owner = %s)
"""
REFUSE = f"""
INSERT INTO refused (run, tenant, held_epoch, epoch, seq, type, node, revision, attempt, token,
  wall_s, data, contract, labels, key_id, payload)
SELECT line.run, heads.tenant, heads.epoch, line.epoch, seq, type, node, revision, attempt, token,
  wall_s, data, contract, labels, key_id, payload
FROM {_GIVEN_LINES} JOIN heads ON heads.run = line.run
WHERE (SELECT count(*) FROM refused WHERE refused.run = line.run) < {REFUSED_MAX}
"""
REFUSED = """
SELECT epoch, held_epoch, seq, type, node, revision, attempt, token, wall_s, data, contract, labels,
  key_id, payload, extract(epoch FROM refused_at)::float8
FROM refused WHERE run = %s ORDER BY id
"""


_HEAD_NAMES = ("run", "before", "epoch", "owner", "status", "reason", "records", "updated_wall_s",
               "last", "checksum")  # fmt: skip
_HEAD_KINDS = (Texts, Blobs, Integers, Texts, Texts, Texts, Integers, Floats, Blobs, Blobs)
_LINE_NAMES = tuple(
    "l_" + name
    for name in (
        "run seq epoch type node revision attempt token wall_s accepted data contract labels key_id"
        " payload content previous checksum"
    ).split()
)
_LINE_KINDS = (Texts, Integers, Integers, Texts, Texts, Integers, Integers, Integers, Floats,
               Booleans, Jsons, Texts, Jsons, Texts, Blobs, Blobs, Blobs, Blobs)  # fmt: skip
_LARGE_NAMES = ("c_run", "c_content", "c_payload")
_LARGE_KINDS = (Texts, Blobs, Blobs)
_KEY_NAMES = ("k_run", "k_id", "k_wrapped")
_KEY_KINDS = (Texts, Texts, Blobs)
_SHRED_NAMES = ("s_run", "s_id")
_SHRED_KINDS = (Texts, Texts)


class Columns:
    """Lines and heads of one statement, by column."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []
        self.large: list[tuple[str, bytes, bytes]] = []
        self.heads: list[tuple[Any, ...]] = []
        self.keys: dict[tuple[str, str], bytes] = {}
        self.shreds: list[tuple[str, str]] = []
        self.accepted: dict[tuple[str, str, int], tuple[int, int]] = {}

    def add(
        self, append: Append, lines: tuple[Line, ...], *, last: bytes, is_kept: bool = True
    ) -> bytes:
        """Adds lines that follow the one with checksum `last`; returns the last one's. Those that
        are not kept in the run leave their large payloads and their keys behind."""
        run = append.run
        if is_kept:
            self._change_keys(append)
        for line in lines:
            checksum = chained(last, line)
            payload, content = line.payload, None
            if payload is not None and len(payload) > INLINE_BYTES_MAX:
                assert line.content is not None
                content = line.content
                if is_kept:
                    self.large.append((run, content, payload))
                payload = None
            if line.accepted:
                key = (run, line.node or "", line.revision)
                self.accepted[key] = (line.attempt, line.token)
            self.lines.append(
                (run, line.seq, append.epoch, *line[1:12], payload, content, last, checksum)
            )
            last = checksum
        return last

    def _change_keys(self, append: Append) -> None:
        """One statement sees no row that it inserts: what comes and goes in it is never sent."""
        run, changes = append.run, key_changes(append.records)
        for key_id, wrapped in changes.kept.items():
            self.keys.setdefault((run, key_id), bytes(wrapped))
        for key_id in changes.destroyed:
            self.keys.pop((run, key_id), None)
            self.shreds.append((run, key_id))

    def move(self, run: str, before: NewHead | None, new: NewHead) -> None:
        """The run's head goes from `before` to `new`."""
        known = b"" if before is None else head_columns(run, *before)[-1]
        columns = head_columns(run, *new)
        self.heads.append((run, known, *columns[1:]))

    def witnesses(self) -> tuple[Texts, Integers, Blobs]:
        """The last line of each run: it tells later whether this was written. For LANDED."""
        last = {line[0]: line for line in self.lines}
        return (
            Texts(list(last)),
            Integers([line[1] for line in last.values()]),
            Blobs([line[-1] for line in last.values()]),
        )

    def parameters(self) -> dict[str, Any]:
        """What the statements take."""
        given: dict[str, Any] = {}
        for names, kinds, rows in (
            (_HEAD_NAMES, _HEAD_KINDS, self.heads),
            (_LINE_NAMES, _LINE_KINDS, self.lines),
            (_LARGE_NAMES, _LARGE_KINDS, self.large),
            (_KEY_NAMES, _KEY_KINDS, [(*at, wrapped) for at, wrapped in self.keys.items()]),
            (_SHRED_NAMES, _SHRED_KINDS, self.shreds),
        ):
            columns: Any = zip(*rows, strict=True) if rows else [()] * len(names)
            for name, kind, column in zip(names, kinds, columns, strict=True):
                given[name] = kind(column)
        return given
