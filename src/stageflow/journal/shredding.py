"""Which wrapped keys an append brings, and which it destroys; see stageflow.journal.keys.

Keys lie apart from the records, whose chain never changes, so that they can be deleted. An append
and what it does to keys are one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from stageflow.model.record import Record

SHREDS = "shreds"
"""In a record's data: ids of the keys of its run that are destroyed with it."""


class KeyChanges(NamedTuple):
    """Of one run."""

    kept: dict[str, bytes]
    """New wrapped keys by id; one that is there already stays as it is."""
    destroyed: list[str]


NO_CHANGES = KeyChanges({}, [])


def key_changes(records: Iterable[Record]) -> KeyChanges:
    """What `records`, in order, do to the keys of their run."""
    kept: dict[str, bytes] = {}
    destroyed: list[str] = []
    for record in records:
        kept.update(record.keys)
        for key_id in record.data.get(SHREDS, ()):
            kept.pop(key_id, None)
            destroyed.append(key_id)
    return KeyChanges(kept, destroyed) if kept or destroyed else NO_CHANGES


def keys_of(rows: Sequence[tuple[Any, ...]]) -> dict[str, bytes]:
    """Wrapped keys by id, from a store's rows, text as undecoded bytes. One whose id can't be read
    seals nothing that can be asked for: the tags of what it sealed tell."""
    return {key_id.decode("utf-8", "replace"): bytes(wrapped) for key_id, wrapped in rows}
