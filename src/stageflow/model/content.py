"""The content hash: equal for equal values of equal types, in every process and on every machine.

blake2b-256 over a type-tagged tree (Merkle, 1987): a container's digest is made of its leaves'
encodings and its children's digests, in MessagePack, one call a container. So it separates 1, True
and 1.0, 0.0 and -0.0, key orders, NFC and NFD; an aliased value costs time linear in its objects.
"""

from __future__ import annotations

import datetime
import hashlib
import struct
import zoneinfo
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from stageflow.model import objects
from stageflow.model.boxes import Frozen, Parts, parts, type_name

_PLAIN: frozenset[type] = frozenset({type(None), bool, int, float, str, bytes})
"""What MessagePack tells apart by itself; the others go in as extensions of a type of their own."""

_CHILD, _LEAF_CODE = 1, 2
"""Extension types: the digest of a container inside, the tagged encoding of a leaf."""


def content_hash(frozen: Any) -> str:
    """64 hexadecimal digits for a canonical form. Sets hash by content, dicts by content and order.

    An enum member counts by its class and name, an adapted object by its adapter's plain value.
    """
    return _Hasher().digest(frozen).hex()


class _Hasher:
    """One hashing. Holds the digests of the containers met, so that a shared one is done once."""

    __slots__ = ("_digests", "_encode", "_extension")

    def __init__(self) -> None:
        import msgspec  # when first needed: importing the framework stays light

        self._encode = msgspec.msgpack.encode
        self._extension = msgspec.msgpack.Ext
        self._digests: dict[int, bytes] = {}

    def digest(self, node: Any) -> bytes:
        """32 bytes. Two stack frames a level; `thaw` takes one, freezing two."""
        kind, detail, groups = _parts(node)
        message: list[Any] = [kind, detail]
        for group in groups:
            items = group if _PLAIN.issuperset(map(type, group)) else self._flattened(group)
            message.append(self._in_order(items) if kind in _UNORDERED else items)
        try:
            data = self._encode(message)
        except (OverflowError, UnicodeEncodeError):
            data = self._encode(self._spelled(message))
        return hashlib.blake2b(data, digest_size=32).digest()

    def _flattened(self, group: list[Any]) -> list[Any]:
        """The group with containers as their digests and leaves that MessagePack lacks as bytes."""
        items = group.copy()
        for place, item in enumerate(items):
            cls = type(item)
            if cls in _PLAIN:
                continue
            if cls is Frozen or issubclass(cls, (tuple, frozenset)):
                known = self._digests.get(id(item))
                if known is None:
                    known = self._digests[id(item)] = self.digest(item)
                items[place] = self._extension(_CHILD, known)
            else:
                items[place] = self._extension(_LEAF_CODE, _encoded(item))
        return items

    def _in_order(self, items: list[Any]) -> list[Any]:
        """The items of a set, in an order that depends on nothing but what they are."""
        if _TEXT.issuperset(map(type, items)):
            return sorted(items)
        return sorted(self._spelled([items])[0], key=self._encode)

    def _spelled(self, message: list[Any]) -> list[Any]:
        """The message with what MessagePack lacks, huge integers and lone surrogates, as leaves."""
        return [
            [self._plain(item) for item in part] if type(part) is list else part for part in message
        ]

    def _plain(self, item: Any) -> Any:
        if type(item) is int and not -(2**63) <= item < 2**64:
            return self._extension(_LEAF_CODE, _encoded(item))
        if type(item) is str and not item.isascii():
            try:
                item.encode()
            except UnicodeEncodeError:
                return self._extension(_LEAF_CODE, _encoded(item))
        return item


_TEXT = frozenset({str})
_UNORDERED = frozenset({b"set", b"frozenset"})


def _parts(node: Any) -> Parts:
    cls = type(node)
    if cls is Frozen:
        return parts(node)
    if cls is tuple:
        return b"tuple", b"", [list(node)]
    if cls is frozenset:
        return b"frozenset", b"", [list(node)]
    if issubclass(cls, tuple):
        return b"namedtuple", type_name(cls), [list(node), [None]]
    return b"leaf", b"", [[node]]


def _encoded(value: Any) -> bytes:
    """A leaf: its type's tag and what tells the value."""
    encode = _LEAF.get(type(value))
    if encode is not None:
        return encode(value)
    if objects.is_numpy_scalar(type(value)):
        # An extended float has padding bytes of no meaning, so its text stands for it.
        data: bytes = repr(value).encode() if value.dtype.char in "gG" else value.tobytes()
        name: str = value.dtype.str
        return b"numpy\0" + name.encode() + b"\0" + data
    # What is left are pydantic's compiled types, which their text tells wholly.
    return b"leaf\0" + type_name(type(value)) + b"\0" + _text(str(value) + repr(value))


def _text(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")


def _zone(zone: Any) -> bytes:
    if zone is None:
        return b"-"
    if type(zone) is zoneinfo.ZoneInfo:
        return b"key\0" + _text(zone.key)
    if type(zone) is datetime.timezone:
        return b"utc\0" + repr(zone).encode("utf-8", "surrogatepass")
    return type_name(type(zone)) + repr(zone).encode()


def _decimal(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    return b"decimal\0" + repr((sign, "".join(map(str, digits)), exponent)).encode()


_LEAF: dict[type, Callable[[Any], bytes]] = {
    int: lambda value: b"int\0" + value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True),
    complex: lambda value: b"complex\0" + struct.pack(">dd", value.real, value.imag),
    str: lambda value: b"str\0" + _text(value),
    type(...): lambda value: b"ellipsis",
    Decimal: _decimal,
    datetime.date: lambda value: b"date\0" + value.isoformat().encode(),
    datetime.timedelta: lambda value: (
        b"timedelta\0" + f"{value.days} {value.seconds} {value.microseconds}".encode()
    ),
    datetime.datetime: lambda value: (
        f"datetime\0{value.replace(tzinfo=None).isoformat()} {value.fold}\0".encode()
        + _zone(value.tzinfo)
    ),
    datetime.time: lambda value: (
        f"time\0{value.replace(tzinfo=None).isoformat()} {value.fold}\0".encode()
        + _zone(value.tzinfo)
    ),
    datetime.timezone: lambda value: b"zone\0" + _zone(value),
    zoneinfo.ZoneInfo: lambda value: b"zone\0" + _zone(value),
    range: lambda value: f"range\0{value.start} {value.stop} {value.step}".encode(),
}
