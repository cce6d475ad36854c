"""A large value as small messages, each a bounded amount of work to write and to read.

What is small goes whole. A large list, dict, text or bytes is a *part*: opened, filled message by
message, closed, and numbered; where it stood is a hole with its number. Parts come before what has
the hole. A large record keeps its place and has holes in its large fields.

    [OPEN, kind, path]   a part begins; the path leads from the value's root to its place
    [FILL, items]        items of a list, a piece of a text; [FILL, values, keys] of a dict
    [CLOSE]              the part is whole; parts are numbered in this order, from 0
    [ROOT, told]         the value itself, last
    [WHOLE, told]        instead of all these: a value in which one object occurs twice
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from itertools import chain, islice
from typing import Any, Final, NamedTuple

from stageflow.contracts.codec import Writer, undecodable_here
from stageflow.contracts.places import ANYWHERE, Place
from stageflow.contracts.wire import PLAIN
from stageflow.model import boxes, objects
from stageflow.model.boxes import Frozen, parts
from stageflow.model.refusal import Refusal, attribute_step, key_step
from stageflow.model.values import Freezer

ROOT, OPEN, FILL, CLOSE, WHOLE = range(5)
LIST, DICT, TEXT, BYTES = range(4)
ITEM: Final = 0
"""Step of a path into a list; a dict's value is its key, a record's field [class number, name]."""
VALUE: Final = 1
"""Step of a path to a dict's value under a key that is no text."""

TARGET_MIN: Final = 42 * 1024
TARGET_MAX: Final = 1024 * 1024
GROWTH: Final = 100
"""A message may cost this part of all that was written before it: so it takes a small part of the
time that the whole takes, whatever the size."""
_BATCH_MAX: Final = 65_536
_SIZED: Final = frozenset({str, bytes})
_SMALL_COST: Final = 24
"""What a number costs, and what anything costs beside its text, in bytes of text that take as long
to write, pack and read."""
_BOX_COST: Final = 4
"""The same of a byte that is written and read box by box."""
_ODD_COST: Final = 1_000
"""What an item costs besides that was tried as it is and could not be written so."""

Messages = Generator[bytes, None, Any]


class Splitter:
    """Writes values as messages. Each step of `messages` is one bounded piece of work."""

    def __init__(self) -> None:
        import msgspec  # when first needed: importing the framework stays light

        self._encode = msgspec.msgpack.Encoder().encode
        self._quick = Writer(None, is_careful=False)
        self._careful = Writer(None, is_careful=True)
        self._written = 0
        self.spent = 0
        """What all messages cost so far, in bytes of text."""
        self.target = min(TARGET_MIN, TARGET_MAX)
        """What a message should cost now."""
        self._closed = 0
        self.where: list[Any] = []
        """The path of the part opened last."""
        self._freeze = Freezer().freeze

    def messages(self, frozen: Any, place: Place) -> Iterator[bytes]:
        """The messages of one value. ValueRefused `codec.undecodable` as Codec.encode says it."""
        self._closed = 0
        try:
            if type(frozen) is Frozen and frozen[0] is boxes.aliased:
                # What occurs twice is known by walking it all: it is written in one piece.
                yield self._sent(WHOLE, Writer.whole, frozen, place)
                return
            if type(frozen) is Frozen and frozen[0] is boxes.owned:
                frozen = frozen[1][1]
            small = yield from self._shrunk(frozen, place, [])
            small = self._freeze(small)
            yield self._sent(ROOT, Writer.item, small, place)
        except Refusal as refusal:
            raise refusal.error() from None
        except RecursionError:
            raise undecodable_here("a value nested this deep", "deep nesting").error() from None

    def _sent(
        self, kind: int, tell: Callable[..., Any], *given: Any, is_odd: bool = False
    ) -> bytes:
        """A message of what `tell` makes of a writer and what is `given`. `is_odd`: plain items,
        some of which can't be written as they are."""
        for writer in (self._careful,) if is_odd else (self._quick, self._careful):
            told = tell(writer, *given)
            message = [kind, *told] if type(told) is _Both else [kind, told]
            try:
                data: bytes = self._encode(message)
            except (OverflowError, UnicodeEncodeError):
                if writer is self._careful:
                    raise
            else:
                is_text = kind == FILL and tell is Writer.item
                cost = len(data) * (1 if is_text or is_odd else _BOX_COST)
                if writer is self._careful and isinstance(given[0], list):
                    cost += _ODD_COST * len(given[0])
                self._count(data, cost)
                return data
        raise AssertionError("the careful writer raises or returns")

    def _count(self, data: bytes, cost: int) -> None:
        self._written += len(data)
        self.spent += cost
        self.target = min(max(self.spent // GROWTH, TARGET_MIN), TARGET_MAX)

    def _shrunk(self, node: Any, place: Place, path: list[Any]) -> Messages:
        """Messages of the large things in `node`; returns it with holes in their places."""
        small = self.target // 4  # what goes whole may be odd, and is written in one piece
        if weight(node, small) <= small:
            return node
        cls, data = type(node), node
        if cls is Frozen:
            rebuild, data = node
            if rebuild in (boxes.nested_list, boxes.nested_dict):
                data = data[0]
            elif rebuild is boxes.record:
                return (yield from self._record(data, place, path))
            elif rebuild not in (list.copy, dict.copy):
                return node
            cls = type(data)
        if cls is list:
            return (yield from self._list(data, place, path))
        if cls is dict:
            return (yield from self._dict(data, place, path))
        if cls is str or cls is bytes:
            return (yield from self._text(data, path))
        layout = objects.layout_of(cls) if place.number(cls) is not None else None
        if layout is None:
            return node
        return (yield from self._object(node, layout, place, path))

    @property
    def written(self) -> int:
        """Bytes of all messages so far, before they are packed."""
        return self._written

    def _opened(self, kind: int, path: list[Any]) -> bytes:
        self.where = path
        data: bytes = self._encode([OPEN, kind, path])
        return data

    def _hole(self) -> Frozen:
        self._closed += 1
        return Frozen((boxes.hole, self._closed - 1))

    def _list(self, items: list[Any], place: Place, path: list[Any]) -> Messages:
        yield self._opened(LIST, path)
        inner, at, count = place.items, 0, 64
        while at < len(items):
            batch = items[at : at + count]
            target, before = self.target, self.spent
            data = self._fill(_items, batch, None, inner, at)
            if data is None and count > 1:
                count = max(1, min(len(batch), count) // 8)
                continue
            if data is None:
                held = yield from self._shrunk(batch[0], inner, [*path, ITEM])
                data = self._sent(FILL, _items, [self._frozen(held)], None, inner, at)
            yield data
            at += len(batch)
            count = _next_count(count, self.spent - before, target)
        yield self._encode([CLOSE])
        return self._hole()

    def _dict(self, items: dict[Any, Any], place: Place, path: list[Any]) -> Messages:
        yield self._opened(DICT, path)
        keys_left, values_left = iter(items), iter(items.values())
        keys: list[Any] = []
        values: list[Any] = []
        """Taken from the dict; more than one message's worth when they turned out heavy."""
        count = 64
        while True:
            if not keys:
                keys, values = list(islice(keys_left, count)), list(islice(values_left, count))
            if not keys:
                break
            some, held = keys[:count], values[:count]
            target, before = self.target, self.spent
            data = self._fill(_pairs, held, some, place, 0)
            if data is None and len(some) > 1:
                count = max(1, len(some) // 8)
                continue
            if data is None:
                key = some[0]
                step = key if type(key) is str else VALUE
                small = yield from self._shrunk(held[0], place.value_of(key), [*path, step])
                data = self._sent(FILL, _pairs, [self._frozen(small)], some, place, 0)
            yield data
            keys, values = keys[len(some) :], values[len(some) :]
            count = _next_count(len(some), self.spent - before, target)
        yield self._encode([CLOSE])
        return self._hole()

    def _fill(
        self, tell: Callable[..., Any], items: list[Any], keys: list[Any] | None, *given: Any
    ) -> bytes | None:
        """A message of items; None when they are too much for one. Plain ones go as they are."""
        limit, is_odd = self.target * 5 // 4, False
        kinds, key_kinds = set(map(type, items)), set(map(type, keys or ()))
        if kinds <= PLAIN and key_kinds <= PLAIN:
            if _texts_weight(items, kinds) + _texts_weight(keys or [], key_kinds) > limit:
                return None
            try:
                data: bytes = self._encode([FILL, items] if keys is None else [FILL, items, keys])
            except (OverflowError, UnicodeEncodeError):
                # Huge integers and lone surrogates, which are not looked for at first.
                cost = _ODD_COST * len(items) + _batch_weight(items, limit)
                if cost > limit and len(items) > 1:
                    return None
                is_odd = True
            else:
                singles = len(items) if keys is None else 2 * len(items)
                self._count(data, len(data) + _SMALL_COST * singles)
                return data
        else:
            most = limit // (_BOX_COST if len(items) == 1 else 1)
            if _batch_weight(items, most) + len(keys or ()) > most:
                return None  # a single one may still be opened
        held = [self._frozen(item) for item in items]
        return self._sent(FILL, tell, held, keys, *given, is_odd=is_odd)

    def _frozen(self, item: Any) -> Any:
        return item if type(item) in PLAIN else self._freeze(item)

    def _text(self, text: str | bytes, path: list[Any]) -> Messages:
        yield self._opened(TEXT if type(text) is str else BYTES, path)
        at = 0
        while at < len(text):
            piece = text[at : at + self.target]
            at += len(piece)
            yield self._sent(FILL, Writer.item, piece, ANYWHERE)
        yield self._encode([CLOSE])
        return self._hole()

    def _record(self, data: Any, place: Place, path: list[Any]) -> Messages:
        cls, state, boxed, slots = data
        number = place.number(cls)
        if number is None:
            return Frozen((boxes.record, data))  # it will be refused, with its path
        fields = place.classes[number].fields
        held = dict(state or {})
        for name, value in held.items():
            held[name] = yield from self._field(name, value, number, fields, path)
        members = []
        for member, value in slots:
            name = member.__name__
            members.append((member, (yield from self._field(name, value, number, fields, path))))
        return Frozen((boxes.record, (cls, None if state is None else held, boxed, members)))

    def _object(self, node: Any, layout: objects.Layout, place: Place, path: list[Any]) -> Messages:
        """As `_record`, for an object that validation has made and nobody else holds."""
        cls = type(node)
        number = place.number(cls)
        assert number is not None, "asked before"
        fields = place.classes[number].fields
        out = object.__new__(cls)
        if layout.has_dict:
            held = dict(node.__dict__)
            for name, value in held.items():
                held[name] = yield from self._field(name, value, number, fields, path)
            object.__setattr__(out, "__dict__", held)
        for member in layout.members:
            try:
                value = member.__get__(node, cls)
            except AttributeError:
                continue
            name = member.__name__
            member.__set__(out, (yield from self._field(name, value, number, fields, path)))
        return out

    def _field(
        self, name: str, value: Any, number: int, fields: dict[str, Place], path: list[Any]
    ) -> Messages:
        if name not in fields:
            return value
        try:
            return (yield from self._shrunk(value, fields[name], [*path, [number, name]]))
        except Refusal as refusal:
            raise refusal.within(attribute_step(name)) from None


def _items(writer: Writer, batch: list[Any], keys: None, inner: Place, at: int) -> Any:
    out = []
    for number, item in enumerate(batch, start=at):
        try:
            out.append(writer.item(item, inner))
        except Refusal as refusal:
            raise refusal.within(f"[{number}]") from None
    return out


def _pairs(writer: Writer, batch: list[Any], keys: list[Any], place: Place, at: int) -> Any:
    told, out = [], []
    for key, value in zip(keys, batch, strict=True):
        try:
            told.append(writer.item(key, place.keys))
            out.append(writer.item(value, place.value_of(key)))
        except Refusal as refusal:
            raise refusal.within(key_step(key)) from None
    return _Both(out, told)


class _Both(NamedTuple):
    """Values and keys: two items of a message."""

    values: list[Any]
    keys: list[Any]


def weight(node: Any, limit: int) -> int:
    """About what `node` costs; the counting stops once it is above `limit`."""
    total = 0
    stack = [[node]]
    while stack and total <= limit:
        held: Any = stack.pop()
        total += _SMALL_COST * len(held)
        if total > limit:
            break
        if isinstance(held, dict):
            stack.append(list(held))
            held = held.values()
        for each in held:
            cls = type(each)
            if cls is str or cls is bytes:
                total += len(each)
            elif cls is int:
                total += each.bit_length() >> 3
            elif cls not in PLAIN:
                stack.append(_held(each, cls))
    return total


def _held(node: Any, cls: type) -> Any:
    """What weighs something in `node`: a list, dict or set that is there already, if possible."""
    if cls is not Frozen:
        if isinstance(node, (list, dict, tuple, set, frozenset)):
            return node
        return list(getattr(node, "__dict__", {}).values())
    rebuild, data = node
    if rebuild is dict.copy or rebuild is list.copy or rebuild is set.copy:
        return data
    if rebuild is boxes.nested_dict or rebuild is boxes.nested_list:
        return data[0]
    if rebuild is boxes.hole:
        return ()
    if rebuild is boxes.owned:
        return [data[1]]
    if rebuild is boxes.ndarray:
        return [data[0]]
    if rebuild is boxes.record:
        return [*(data[1] or {}).values(), *(value for _, value in data[3])]
    return list(chain.from_iterable(parts(node)[2]))


def _texts_weight(items: list[Any], kinds: set[type]) -> int:
    """Bytes in the texts of plain items of these types."""
    if kinds <= _SIZED:
        return sum(map(len, items))
    if kinds.isdisjoint(_SIZED):
        return 0
    return sum(len(item) for item in items if type(item) in _SIZED)


def _batch_weight(batch: list[Any], limit: int) -> int:
    total = 0
    for item in batch:
        total += weight(item, limit)
        if total > limit:
            break
    return total


def _next_count(count: int, cost: int, target: int) -> int:
    """How many items the next message takes, after `count` cost that much."""
    return max(1, min(count * target // max(cost, 1), 4 * count, _BATCH_MAX))
