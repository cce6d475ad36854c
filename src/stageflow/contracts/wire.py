"""The closed vocabulary of the journal's encoding: what MessagePack lacks, by number.

A tagged item is a map with one integer key, `{tag: payload}`; a dict with text keys is an ordinary
map and so can never be mistaken for one. Numbers are never given a second meaning.
"""

from __future__ import annotations

import datetime
import enum
import fractions
import ipaddress
import pathlib
import sys
import uuid
import zoneinfo
from array import array
from collections.abc import Callable
from decimal import Decimal
from typing import Any


class Tag(enum.IntEnum):
    BIG_INT = 1
    SURROGATES = 2
    COMPLEX = 3
    DECIMAL = 4
    DATETIME = 5
    DATE = 6
    TIME = 7
    TIMEDELTA = 8
    RANGE = 9
    ELLIPSIS = 10
    ZONE = 11
    NUMPY = 12
    PYDANTIC = 13
    TUPLE = 14
    FROZENSET = 15
    SET = 16
    PAIRS = 17
    ORDERED = 18
    COUNTER = 19
    DEFAULTING = 20
    DEQUE = 21
    ARRAY = 22
    BYTEARRAY = 23
    TEXTUAL = 24
    NDARRAY = 25
    UUID = 26
    FRACTION = 27
    ENUM = 28
    RECORD = 29
    STRUCT = 30
    NAMED_TUPLE = 31
    ADAPTED = 32
    SHARED = 33
    AGAIN = 34
    HOLE = 35


PLAIN: frozenset[type] = frozenset({type(None), bool, int, float, str, bytes})
"""Exact types that MessagePack has; integers past 64 bits and lone surrogates excepted."""

FACTORIES: tuple[Any, ...] = (
    None, list, dict, set, tuple, frozenset, str, bytes, int, float, bool, complex,
)  # fmt: skip

PYDANTIC_SLOTS = {
    "__pydantic_fields_set__": "s",
    "__pydantic_extra__": "e",
    "__pydantic_private__": "p",
}
"""Slots of every pydantic model, by the short names they are written under; None is left out."""

UNSET = "-"
"""Stands among a record's slots for those of pydantic's that have no value, not even None."""

TEXTUAL: tuple[type, ...] = (
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
    pathlib.PosixPath,
    pathlib.WindowsPath,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
)

_PYDANTIC = ("Url", "MultiHostUrl", "TzInfo")


def write_leaf(value: Any) -> Any:
    """A leaf that is not plain, as `{tag: payload}`; None when it is none of the vocabulary."""
    write = _LEAVES.get(type(value))
    if write is not None:
        tag, payload = write(value)
        return {int(tag): payload}
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        is_text = isinstance(value, (str, bytes))
        payload = (str if isinstance(value, str) else bytes)(value) if is_text else value.tobytes()
        return {int(Tag.NUMPY): [value.dtype.str, payload]}
    if type(value).__module__ == "pydantic_core._pydantic_core":
        name = type(value).__name__
        if name in _PYDANTIC:
            told: Any = _offset_s(value) if name == "TzInfo" else str(value)
            return {int(Tag.PYDANTIC): [_PYDANTIC.index(name), told]}
    return None


def write_careful(value: Any) -> Any:
    """A plain leaf that MessagePack may refuse: huge integers, lone surrogates."""
    if type(value) is int and not -(2**63) <= value < 2**64:
        return {int(Tag.BIG_INT): value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)}
    if type(value) is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            return {int(Tag.SURROGATES): value.encode("utf-8", "surrogatepass")}
    return value


def read_leaf(tag: int, payload: Any) -> Any:
    """The leaf of a tag. Raises KeyError for tags of other things."""
    return _READERS[tag](payload)


def _zone(zone: Any) -> Any:
    if zone is None:
        return None
    if type(zone) is zoneinfo.ZoneInfo:
        return zone.key
    if type(zone) is datetime.timezone:
        offset = zone.utcoffset(None)
        unnamed = datetime.timezone(offset)
        name = None if repr(zone) == repr(unnamed) else zone.tzname(None)
        return [offset.days, offset.seconds, offset.microseconds, name]
    return _offset_s(zone)


def _read_zone(told: Any) -> Any:
    if told is None:
        return None
    if isinstance(told, str):
        return zoneinfo.ZoneInfo(told)
    if isinstance(told, list):
        offset = datetime.timedelta(told[0], told[1], told[2])
        if told[3] is not None:
            return datetime.timezone(offset, told[3])
        return datetime.UTC if not offset else datetime.timezone(offset)
    return _pydantic([2, told])


def _offset_s(zone: Any) -> int:
    """Seconds east of Greenwich of pydantic's own zone type, which holds whole seconds."""
    return int(zone.utcoffset(None).total_seconds())


def _pydantic(payload: Any) -> Any:
    import pydantic_core  # its values were stored, so a model of the pipeline uses it

    return getattr(pydantic_core, _PYDANTIC[payload[0]])(payload[1])


def _numpy(payload: Any) -> Any:
    import numpy  # its values were stored, so the pipeline uses it

    name, data = payload
    dtype = numpy.dtype(name)
    if dtype.kind in "SU":
        return dtype.type(data)
    return numpy.frombuffer(data, dtype)[0]


def _moment(value: datetime.datetime | datetime.time) -> list[Any]:
    return [value.replace(tzinfo=None).isoformat(), value.fold, _zone(value.tzinfo)]


def _uuid(payload: Any) -> uuid.UUID:
    return uuid.UUID(bytes=payload)


_LEAVES: dict[type, Callable[[Any], tuple[Tag, Any]]] = {
    complex: lambda value: (Tag.COMPLEX, [value.real, value.imag]),
    Decimal: lambda value: (Tag.DECIMAL, str(value)),
    datetime.datetime: lambda value: (Tag.DATETIME, _moment(value)),
    datetime.date: lambda value: (Tag.DATE, value.isoformat()),
    datetime.time: lambda value: (Tag.TIME, _moment(value)),
    datetime.timedelta: lambda value: (
        Tag.TIMEDELTA,
        [value.days, value.seconds, value.microseconds],
    ),
    range: lambda value: (
        Tag.RANGE,
        [write_careful(part) for part in (value.start, value.stop, value.step)],
    ),
    type(...): lambda value: (Tag.ELLIPSIS, None),
    datetime.timezone: lambda value: (Tag.ZONE, _zone(value)),
    zoneinfo.ZoneInfo: lambda value: (Tag.ZONE, _zone(value)),
}


def _read_int(told: Any) -> int:
    return told if isinstance(told, int) else int.from_bytes(told[Tag.BIG_INT], "big", signed=True)


_READERS: dict[int, Callable[[Any], Any]] = {
    Tag.BIG_INT: lambda payload: int.from_bytes(payload, "big", signed=True),
    Tag.SURROGATES: lambda payload: payload.decode("utf-8", "surrogatepass"),
    Tag.COMPLEX: lambda payload: complex(payload[0], payload[1]),
    Tag.DECIMAL: Decimal,
    Tag.DATETIME: lambda payload: datetime.datetime.fromisoformat(payload[0]).replace(
        fold=payload[1], tzinfo=_read_zone(payload[2])
    ),
    Tag.DATE: datetime.date.fromisoformat,
    Tag.TIME: lambda payload: datetime.time.fromisoformat(payload[0]).replace(
        fold=payload[1], tzinfo=_read_zone(payload[2])
    ),
    Tag.TIMEDELTA: lambda payload: datetime.timedelta(*payload),
    Tag.RANGE: lambda payload: range(*map(_read_int, payload)),
    Tag.ELLIPSIS: lambda payload: ...,
    Tag.ZONE: _read_zone,
    Tag.NUMPY: _numpy,
    Tag.PYDANTIC: _pydantic,
    Tag.BYTEARRAY: bytearray,
    Tag.ARRAY: lambda payload: array(payload[0], payload[1]),
    Tag.TEXTUAL: lambda payload: TEXTUAL[payload[0]](payload[1]),
    Tag.UUID: _uuid,
    Tag.FRACTION: lambda payload: fractions.Fraction(*map(_read_int, payload)),
}
