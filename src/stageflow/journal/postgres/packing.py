"""Columns on their way to and from PostgreSQL: whole arrays out, undecoded bytes back.

A batch goes out as one array for each column, so that one prepared statement serves batches of any
size (the format is that of array_send in PostgreSQL's src/backend/utils/adt/arrayfuncs.c). Text
comes back as bytes, because damaged text must fail in our own check.

PostgreSQL's text holds no NUL character. Text columns therefore write a backslash as two and NUL as
backslash and zero; what a person reads there is nearly always the text itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from struct import Struct
from typing import Any, ClassVar

import psycopg
from psycopg.adapt import Buffer, Dumper, Loader
from psycopg.pq import Format

_HEAD = Struct(">iiIii")
_LENGTH = Struct(">i")
_NONE = _LENGTH.pack(-1)


class Packed:
    """One array, encoded. Each subclass is one type of element."""

    __slots__ = ("data",)
    element: ClassVar[int]
    array: ClassVar[int]

    def __init__(self, items: list[bytes]) -> None:
        """`items`: each with its length before it."""
        count = len(items)
        head = _HEAD.pack(1 if count else 0, 1, self.element, count, 1)
        self.data = b"".join((head, *items)) if count else head[:12]


class Texts(Packed):
    """text[]"""

    __slots__ = ()
    element, array = 25, 1009

    def __init__(self, values: Sequence[str | None]) -> None:
        super().__init__([_NONE if v is None else _sized(stored(v).encode()) for v in values])


class Jsons(Packed):
    """json[]: the text as it is; "" becomes NULL, because it is no JSON."""

    __slots__ = ()
    element, array = 114, 199

    def __init__(self, values: Sequence[str]) -> None:
        super().__init__([_sized(v.encode()) if v else _NONE for v in values])


class Blobs(Packed):
    """bytea[]"""

    __slots__ = ()
    element, array = 17, 1001

    def __init__(self, values: Sequence[bytes | None]) -> None:
        super().__init__([_NONE if v is None else _sized(v) for v in values])


class Integers(Packed):
    """bigint[]"""

    __slots__ = ()
    element, array = 20, 1016
    _item = Struct(">iq")

    def __init__(self, values: Sequence[int]) -> None:
        super().__init__([self._item.pack(8, v) for v in values])


class Floats(Packed):
    """double precision[]"""

    __slots__ = ()
    element, array = 701, 1022
    _item = Struct(">id")

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__([self._item.pack(8, v) for v in values])


class Booleans(Packed):
    """boolean[]"""

    __slots__ = ()
    element, array = 16, 1000
    _item = Struct(">i?")

    def __init__(self, values: Sequence[int]) -> None:
        super().__init__([self._item.pack(1, bool(v)) for v in values])


def stored(text: str) -> str:
    """`text` as a text column holds it."""
    if "\\" in text or "\0" in text:
        return text.replace("\\", "\\\\").replace("\0", "\\0")
    return text


def written(column: bytes) -> bytes:
    """What `stored` was given, still encoded."""
    if b"\\" not in column:
        return column
    return re.sub(rb"\\([\\0])", lambda found: b"\0" if found[1] == b"0" else b"\\", column)


def adapt(connection: psycopg.Connection[Any]) -> None:
    """Teaches `connection` the types above, and to give text as bytes."""
    adapters = connection.adapters
    for kind in (Texts, Jsons, Blobs, Integers, Floats, Booleans):
        dumper = type(f"{kind.__name__}Dumper", (_PackedDumper,), {"oid": kind.array})
        adapters.register_dumper(kind, dumper)
    for name, loader in (("text", _WrittenLoader), ("json", _RawLoader)):
        as_text = type(f"Text{loader.__name__}", (loader,), {"format": Format.TEXT})
        adapters.register_loader(name, loader)
        adapters.register_loader(name, as_text)


class _PackedDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Packed) -> Buffer:
        return obj.data


class _RawLoader(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> bytes:
        return bytes(data)


class _WrittenLoader(_RawLoader):
    def load(self, data: Buffer) -> bytes:
        return written(bytes(data))


def _sized(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value
