"""Records of an undo log sealed with a key of their timeline, which is wrapped by `Keys`.

A record opens only at its place in its timeline (AES-256-GCM; stageflow.journal.keys). Erasing a
timeline destroys its wrapped key with its records.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn

import msgspec

from stageflow.journal.keys import KEY_BYTES, Keys, cipher, opened, sealed
from stageflow.model.errors import EffectError
from stageflow.stages.work.undo import records as on_record
from stageflow.stages.work.undo.records import Record, damaged, decoded, encoded


class TimelineSeal:
    """Seals the records of one timeline from the one on that brought its key."""

    def __init__(self, timeline: str, key: bytes) -> None:
        self._timeline = timeline
        self._cipher = cipher(key)

    def closed(self, record: Record, place: int) -> Record:
        """The record as it is to be kept at `place`."""
        (data,) = encoded([record])
        return on_record.Sealed(sealed(self._cipher, data, bound=self._bound(place)))

    def opened(self, record: on_record.Sealed, place: int) -> Record:
        """The record again. EffectError `undo.damaged` where it does not belong."""
        try:
            data = opened(self._cipher, record.data, bound=self._bound(place))
        except ValueError as error:
            raise damaged(record.data, self._timeline, place) from error
        return decoded(data, self._timeline, place)

    def _bound(self, place: int) -> bytes:
        return msgspec.json.encode(["undo record", self._timeline, place])


async def new_seal(keys: Keys, timeline: str) -> tuple[on_record.Keyed, TimelineSeal]:
    """A new key, and the record that holds it wrapped. EffectError `undo.keys`."""
    key = os.urandom(KEY_BYTES)
    try:
        wrapped = await keys.wrap(key, bound=_purpose(timeline))
    except Exception as error:  # whatever a user's key service raises
        _failed(error, timeline)
    return on_record.Keyed(wrapped), TimelineSeal(timeline, key)


async def seal_of(keys: Keys | None, timeline: str, keyed: on_record.Keyed) -> TimelineSeal:
    """The seal of a record that brings a key. EffectError `undo.keys`."""
    if keys is None:
        raise EffectError(
            "undo.keys",
            f"the records of {timeline!r} are sealed, and this undo log has no keys",
            field="keys",
            expected="the keys of the log that wrote them",
            fix="UndoLog(..., keys=KeyFile('undo.key')), or the key service that was used",
        )
    try:
        key = await keys.unwrap(keyed.wrapped, bound=_purpose(timeline))
    except Exception as error:  # as above
        _failed(error, timeline)
    return TimelineSeal(timeline, key)


def _purpose(timeline: str) -> bytes:
    return msgspec.json.encode(["undo timeline", timeline])


def _failed(error: Exception, timeline: str) -> NoReturn:
    got: Any = getattr(error, "code", "") or type(error).__name__
    raise EffectError(
        "undo.keys",
        f"the key of {timeline!r} can't be had",
        field="keys",
        expected="keys that wrap and unwrap, the same ones in every process",
        got=str(got)[:80],
        fix="look at the key service or the key file; nothing was changed",
    ) from error
