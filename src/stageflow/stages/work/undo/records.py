"""What an undo log holds: records, each appended once and never changed.

An intent is written before its act, what became of it after (Mohan et al., ARIES, ACM TODS 17(1),
1992: write-ahead logging, and undos that are logged like other changes).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from stageflow.model.errors import EffectError


class State(msgspec.Struct, frozen=True):
    """What is at a key of a resource at one moment. Immutable."""

    content: bytes | None
    """Canonical: equal states have equal bytes. None: nothing is there."""
    version: str = ""
    """Another one after every write of whoever it be, as far as the resource can tell; "" when it
    can't. Two states that came and went between them differ by it alone."""
    form: str = ""
    """What contents of this time look like, such as a table's columns; "" where that is fixed."""


class Intended(msgspec.Struct, frozen=True, tag="intended"):
    """A change is about to be made."""

    step: int
    """1, 2, ... in the timeline."""
    resource: str
    key: str
    before: State
    after: bytes | None
    """In the form of `before`."""
    by: str
    """Node, or whoever else changes."""
    op: str = ""
    """Known again under this name when the caller is executed again; "" when it never is."""
    undoes: tuple[int, ...] = ()
    """The steps that this change takes back, latest first."""
    undo: int = 0
    """The undo that it is part of; 0 for none."""
    at_s: float = 0.0
    """By the store's clock, since the epoch."""


class Sending(msgspec.Struct, frozen=True, tag="sending"):
    """An act that nobody can take back is about to happen; it was permitted."""

    step: int
    resource: str
    digest: str
    """Of the act and its payload."""
    by: str
    permitted_by: str
    op: str = ""
    at_s: float = 0.0


class Acted(msgspec.Struct, frozen=True, tag="acted"):
    """The open step happened."""

    step: int
    after: State | None
    """As it was found afterwards; None of what was sent."""


class Voided(msgspec.Struct, frozen=True, tag="voided"):
    """The open step did not happen, or is gone."""

    step: int
    why: str


class Doubted(msgspec.Struct, frozen=True, tag="doubted"):
    """Nobody knows whether the open step happened."""

    step: int
    found: State | None
    """What was there when that was found out; None of what was sent."""


class Settled(msgspec.Struct, frozen=True, tag="settled"):
    """A person's word on a doubted step."""

    step: int
    happened: bool
    by: str


class Permitted(msgspec.Struct, frozen=True, tag="permitted"):
    """A person's leave for one act that nobody can take back."""

    digest: str
    by: str
    until_s: float
    op: str = ""


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """Steps are about to be taken back; whoever comes next finishes what is begun."""

    undo: int
    """1, 2, ... in the timeline."""
    to_step: int
    """All after this one; -1 when `node` says which."""
    node: str
    upto: int
    """The last step there was."""
    by: str
    op: str = ""
    at_s: float = 0.0


class Matched(msgspec.Struct, frozen=True, tag="matched"):
    """These steps needed no act: what was there before them is there."""

    undo: int
    undoes: tuple[int, ...]


class Conflicted(msgspec.Struct, frozen=True, tag="conflicted"):
    """This step, and what came before it at its key, is left as somebody else made it."""

    undo: int
    step: int
    why: str


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """The undo is done."""

    undo: int


class Keyed(msgspec.Struct, frozen=True, tag="keyed"):
    """What comes after this is sealed with a key, which is here as `Keys` have wrapped it."""

    wrapped: bytes


class Sealed(msgspec.Struct, frozen=True, tag="sealed"):
    """Another record."""

    data: bytes
    """Its bytes as a store would keep them, encrypted."""


Record: TypeAlias = (
    Intended
    | Sending
    | Acted
    | Voided
    | Doubted
    | Settled
    | Permitted
    | Begun
    | Matched
    | Conflicted
    | Ended
    | Keyed
    | Sealed
)

_SUM = 4
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


def encoded(records: Sequence[Record]) -> list[bytes]:
    """As a store keeps them, each with a checksum: what is put back must be what was there."""
    return [
        zlib.crc32(data).to_bytes(_SUM, "big") + data
        for data in (_encoder.encode(record) for record in records)
    ]


def decoded(data: bytes, timeline: str, place: int) -> Record:
    """The record again. EffectError `undo.damaged` when it is none."""
    try:
        if zlib.crc32(data[_SUM:]) == int.from_bytes(data[:_SUM], "big"):
            return _decoder.decode(data[_SUM:])
    except msgspec.DecodeError:
        pass
    raise damaged(data, timeline, place)


def damaged(data: bytes, timeline: str, place: int) -> EffectError:
    """The error of a record that is none."""
    return EffectError(
        "undo.damaged",
        f"record {place} of the undo log of {timeline!r} can't be read",
        expected="a record that this version of stageflow wrote",
        got=f"{len(data)} bytes",
        fix="restore the log from a copy; without it nothing can be taken back",
    )
