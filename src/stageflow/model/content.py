"""The content hash: equal for equal values of equal types, in every process and on every machine.

blake2b-256 over a type-tagged tree (Merkle, 1987): a container's digest is made of its leaves'
encodings and its children's digests. So it separates 1, True and 1.0, 0.0 and -0.0, key orders, NFC
and NFD; an aliased value costs time linear in its objects; and depth costs no stack.
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
"""What MessagePack tells apart by itself; a run of these is encoded in one C call."""


def content_hash(frozen: Any) -> str:
    """64 hexadecimal digits for a canonical form. Sets hash by content, dicts by content and order.

    An enum member counts by its class and name, an adapted object by its adapter's plain value.
    """
    digests: dict[int, bytes] = {}
    if not _is_nested(frozen):
        return _blake(_encoded(frozen, digests)).hex()
    stack: list[tuple[Any, Parts | None]] = [(frozen, None)]
    while stack:
        node, held = stack.pop()
        if held is not None:
            digests[id(node)] = _digest(held, digests)
        elif id(node) not in digests:
            held = _parts(node)
            children = [
                item
                for group in held[2]
                if not _PLAIN.issuperset(map(type, group))
                for item in group
                if _is_nested(item) and id(item) not in digests
            ]
            if children:
                stack.append((node, held))
                stack.extend((child, None) for child in children)
            else:
                digests[id(node)] = _digest(held, digests)
    return digests[id(frozen)].hex()


def _is_nested(value: Any) -> bool:
    return type(value) is Frozen or isinstance(value, (tuple, frozenset))


def _parts(node: Any) -> Parts:
    if type(node) is Frozen:
        return parts(node)
    if isinstance(node, frozenset):
        return b"frozenset", b"", [list(node)]
    if type(node) is tuple:
        return b"tuple", b"", [list(node)]
    return b"namedtuple", type_name(type(node)), [list(node), [None]]


def _digest(held: Parts, digests: dict[int, bytes]) -> bytes:
    kind, detail, groups = held
    pieces = [kind, b"\0", detail, b"\0"]
    for group in groups:
        if kind in _UNORDERED:
            pieces.extend(sorted(_blake(_encoded(item, digests)) for item in group))
        else:
            run = _run(group, digests)
            pieces.append(len(run).to_bytes(8, "big"))
            pieces.append(run)
    return _blake(b"".join(pieces))


_UNORDERED = frozenset({b"set", b"frozenset"})


def _run(items: list[Any], digests: dict[int, bytes]) -> bytes:
    """A sequence of items; decodable, so that different sequences differ."""
    if _PLAIN.issuperset(map(type, items)):
        import msgspec  # when first needed: importing the framework stays light

        try:
            return b"P" + msgspec.msgpack.encode(items)
        except (OverflowError, UnicodeEncodeError):
            pass  # integers past 64 bits and lone surrogates have no place in MessagePack
    return b"S" + b"".join(_framed(_encoded(item, digests)) for item in items)


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data


def _blake(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


def _encoded(value: Any, digests: dict[int, bytes]) -> bytes:
    """One item: its type's tag and what tells the value."""
    encode = _LEAF.get(type(value))
    if encode is not None:
        return encode(value)
    known = digests.get(id(value))
    if known is not None:
        return b"#" + known
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
    type(None): lambda value: b"none",
    bool: lambda value: b"bool\0" + (b"1" if value else b"0"),
    int: lambda value: b"int\0" + value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True),
    float: lambda value: b"float\0" + struct.pack(">d", value),
    complex: lambda value: b"complex\0" + struct.pack(">dd", value.real, value.imag),
    str: lambda value: b"str\0" + _text(value),
    bytes: lambda value: b"bytes\0" + value,
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
