"""A large value put together again from the messages that `splitting` made of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

from stageflow.contracts.places import ANYWHERE, Place
from stageflow.contracts.reading import Reader
from stageflow.contracts.splitting import (
    BYTES,
    CLOSE,
    DICT,
    FILL,
    ITEM,
    LIST,
    OPEN,
    ROOT,
    TEXT,
    WHOLE,
)
from stageflow.contracts.wire import PLAIN
from stageflow.model import boxes
from stageflow.model.boxes import Frozen
from stageflow.model.values import Freezer

_MISSING = object()
Decode: TypeAlias = Callable[[bytes | memoryview], Any]
_Plain: TypeAlias = str | float | int | bool | None


@cache
def _plain_decoders() -> tuple[Decode, Decode, type[Exception]]:
    """Read a FILL of a list, and of a dict; what they raise where an item is not plain."""
    import msgspec  # when first needed: importing the framework stays light

    make = msgspec.msgpack.Decoder
    lists, dicts = make(tuple[int, list[_Plain]]), make(tuple[int, list[_Plain], list[_Plain]])
    return lists.decode, dicts.decode, msgspec.ValidationError


class _Part:
    """A list, dict, text or bytes that is being filled."""

    __slots__ = ("boxed", "is_plain", "items", "kind", "pairs", "place", "text")

    def __init__(self, kind: int, place: Place) -> None:
        self.kind = kind
        self.place = place
        self.items: list[Any] = []
        """Of a list; pieces of bytes."""
        self.text = ""
        self.pairs: dict[Any, Any] = {}
        """Of a dict."""
        self.boxed: list[Any] = []
        """Places or keys of the items that are boxes."""
        self.is_plain = kind in (LIST, DICT)
        """False once an item came that has to be looked at."""

    def whole(self) -> Any:
        """The canonical form, once nothing more comes."""
        if self.kind == LIST:
            if self.boxed:
                return Frozen((boxes.nested_list, (self.items, self.boxed)))
            return Frozen((list.copy, self.items))
        if self.kind == DICT:
            if self.boxed:
                return Frozen((boxes.nested_dict, (self.pairs, self.boxed)))
            return Frozen((dict.copy, self.pairs))
        return b"".join(self.items) if self.kind == BYTES else self.text

    def add_text(self, piece: str) -> None:
        """The text's next piece. CPython lengthens a text that nobody else holds where it is: the
        work is done piece by piece, and not at once in the end."""
        text, self.text = self.text, ""
        text += piece
        self.text = text


class Joiner:
    """Reads the messages of one value, each a bounded amount of work.

    Raises LookupError, TypeError or ValueError for messages that do not fit the place.
    """

    def __init__(self, place: Place, freezer: Freezer, decode: Decode) -> None:
        self._root = place
        self._freezer = freezer
        self._decode = decode
        self._reader = Reader(freezer)
        self._open: list[_Part] = []
        self._closed = 0
        self.value: Any = _MISSING
        """The canonical form, once `is_whole`."""

    @property
    def is_whole(self) -> bool:
        """True once the root has come."""
        return self.value is not _MISSING

    def feed(self, message: bytes | memoryview) -> None:
        """Takes the next message."""
        if message[1] == FILL and self._open and self._filled(self._open[-1], message):
            return
        kind, *rest = self._decode(message)
        if kind == FILL:
            self._fill(self._open[-1], *rest)
        elif kind == OPEN:
            self._open.append(_Part(rest[0], self._at(rest[1])))
        elif kind == CLOSE:
            self._reader.held[self._closed] = self._open.pop().whole()
            self._closed += 1
        elif kind == ROOT and not self._open:
            self.value = self._read(rest[0], self._root)
        elif kind == WHOLE and not self._open:
            self.value = self._freezer.freeze(self._reader.read(rest[0], self._root))
        else:
            raise ValueError("not a message of a value")

    def _filled(self, part: _Part, message: bytes | memoryview) -> bool:
        """Whether all items of the message were plain, and are in the part now: the decoder tells
        so as it reads, where asking each item for its type takes as long as reading it."""
        if not part.is_plain:
            return False
        lists, dicts, refused = _plain_decoders()
        try:
            _, told, *keys = (lists if part.kind == LIST else dicts)(message)
        except refused:
            part.is_plain = False
            return False
        if part.kind == LIST:
            part.items += told
        else:
            part.pairs.update(zip(*keys, told, strict=True))
        return True

    def _fill(self, part: _Part, told: Any, keys: Any = ()) -> None:
        if part.kind == LIST:
            if PLAIN.issuperset(map(type, told)):
                part.items += told
                return
            inner = part.place.items
            for each in told:
                item = each if type(each) in PLAIN else self._read(each, inner)
                if type(item) is Frozen:
                    part.boxed.append(len(part.items))
                part.items.append(item)
        elif part.kind == DICT:
            pairs = part.pairs
            if PLAIN.issuperset(map(type, told)) and PLAIN.issuperset(map(type, keys)):
                pairs.update(zip(keys, told, strict=True))
                return
            for named, each in zip(keys, told, strict=True):
                key = named if type(named) in PLAIN else self._read(named, part.place.keys)
                item = self._read(each, part.place.value_of(key))
                if type(item) is Frozen:
                    part.boxed.append(key)
                pairs[key] = item
        elif part.kind == TEXT:
            part.add_text(self._read(told, ANYWHERE))
        else:
            part.items.append(self._read(told, ANYWHERE))

    def _read(self, told: Any, place: Place) -> Any:
        """The canonical form of one item. What was decoded just now is nobody else's: plain lists
        and dicts become boxes as they are, and only what has a tag is read and frozen."""
        cls = type(told)
        if cls in PLAIN:
            return told
        if cls is list:
            if PLAIN.issuperset(map(type, told)):
                return Frozen((list.copy, told))
            boxed: list[Any] = []
            inner = place.items
            for at, item in enumerate(told):
                if type(item) not in PLAIN:
                    told[at] = self._read(item, inner)
                    if type(told[at]) is Frozen:
                        boxed.append(at)
            return Frozen((boxes.nested_list, (told, boxed)) if boxed else (list.copy, told))
        if len(told) == 1 and type(next(iter(told))) is int:
            return self._freezer.freeze(self._reader.read(told, place))
        if PLAIN.issuperset(map(type, told.values())):
            return Frozen((dict.copy, told))
        boxed = []
        for key, item in told.items():
            if type(item) not in PLAIN:
                told[key] = self._read(item, place.value_of(key))
                if type(told[key]) is Frozen:
                    boxed.append(key)
        return Frozen((boxes.nested_dict, (told, boxed)) if boxed else (dict.copy, told))

    def _at(self, path: list[Any]) -> Place:
        """The place that a path leads to."""
        here = self._root
        for step in path:
            if step == ITEM:
                here = here.items
            elif isinstance(step, list):
                number, name = step
                here = here.classes[number].fields[name]
            else:
                here = here.value_of(step)
        return here
