"""Values in the journal: written through their contract, read back through it, damage always seen.

A payload is `version (1) | contract hash (16) | blake2b-128 of the rest (16) | MessagePack`. No
type name and no pickle is stored. Reading builds objects field by field, so no validator and no
`__init__` can change or refuse what was accepted once; the content hash comes back equal.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

from stageflow.contracts.places import ANYWHERE, ClassAt, Place
from stageflow.contracts.reading import Reader
from stageflow.contracts.wire import (
    FACTORIES,
    PLAIN,
    PYDANTIC_SLOTS,
    TEXTUAL,
    UNSET,
    Tag,
    write_careful,
    write_leaf,
)
from stageflow.model import boxes, objects
from stageflow.model.boxes import Frozen, parts
from stageflow.model.errors import ContractError
from stageflow.model.refusal import Refusal, attribute_step, key_step, type_label
from stageflow.model.values import Freezer

_VERSION = b"\x01"
_HEAD = 33


class Codec:
    """Encodes and decodes the values of one contract."""

    __slots__ = ("_described", "_freezer", "_mark", "_place")

    def __init__(self, annotation: Any, mark: bytes, described: str) -> None:
        self._place = Place(((annotation, {}),))
        self._mark = mark
        self._described = described
        self._freezer = Freezer()

    @property
    def place(self) -> Place:
        return self._place

    def encode(self, frozen: Any) -> bytes:
        """Raises ValueRefused `codec.undecodable` with the path of what could not come back."""
        import msgspec  # when first needed: importing the framework stays light

        try:
            try:
                body = msgspec.msgpack.encode(Writer(frozen, is_careful=False).root(self._place))
            except (OverflowError, UnicodeEncodeError):
                body = msgspec.msgpack.encode(Writer(frozen, is_careful=True).root(self._place))
        except Refusal as refusal:
            raise refusal.error() from None
        except RecursionError:
            raise undecodable_here("a value nested this deep", "deep nesting").error() from None
        return _VERSION + self._mark + _checksum(self._mark, body) + body

    def decode(self, data: bytes, freezer: Freezer | None) -> Any:
        """Raises ContractError `codec.damaged` or `codec.mismatch`."""
        import msgspec  # as above

        freezer = freezer or self._freezer
        mark, checksum, body = data[1:17], data[17:_HEAD], data[_HEAD:]
        if data[:1] != _VERSION or _checksum(mark, body) != checksum:
            raise ContractError(
                "codec.damaged",
                "the stored value is damaged, or was written by a newer version",
                expected="a payload whose checksum fits",
                got=f"{len(data)} bytes that do not fit their checksum",
                fix="restore the journal from a copy; `stageflow lab` names the damaged record",
            )
        if mark != self._mark:
            raise self._mismatch("it was written through another contract", mark.hex())
        try:
            value = Reader(freezer).read(msgspec.msgpack.decode(body), self._place)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise self._mismatch("the classes have changed", type_label(type(error))) from error
        return freezer.freeze(value)

    def _mismatch(self, why: str, got: str) -> ContractError:
        return ContractError(
            "codec.mismatch",
            f"the stored value does not fit {self._described}: {why}",
            expected=f"a value of contract {self._mark.hex()}",
            got=got,
            fix="add an upcaster, or read it with the version of the code that wrote it",
        )


def _checksum(mark: bytes, body: bytes) -> bytes:
    digest = hashlib.blake2b(_VERSION, digest_size=16)
    digest.update(mark)
    digest.update(body)
    return digest.digest()


def undecodable_here(what: str, got: str, fix: str = "") -> Refusal:
    """The refusal of `what`, which has the type `got`; its path is added on the way out."""
    return Refusal(
        "codec.undecodable",
        f"{what} could not be read back by another process",
        got=got,
        expected="classes that the declared type names at this place, and plain data",
        fix=fix or f"declare {got} in the stage's type, or return plain data",
    )


def _shared(root: Any) -> set[int]:
    """Ids of the boxes that occur more than once under an aliased root."""
    counts: Counter[int] = Counter()
    stack = [root]
    while stack:
        node = stack.pop()
        if type(node) is Frozen:
            counts[id(node)] += 1
            if counts[id(node)] > 1:
                continue
            held = parts(node)[2]
        elif isinstance(node, (tuple, frozenset)):
            held = [list(node)]
        else:
            continue
        stack.extend(item for group in held for item in group)
    return {mark for mark, count in counts.items() if count > 1}


class Writer:
    """Turns one canonical form into what MessagePack can write."""

    def __init__(self, frozen: Any, *, is_careful: bool) -> None:
        if type(frozen) is Frozen and frozen[0] is boxes.owned:
            frozen = boxes.opened(frozen[1])
        self._frozen = frozen
        self._is_careful = is_careful
        self._shared: set[int] = set()
        self._numbers: dict[int, int] = {}
        if type(frozen) is Frozen and frozen[0] is boxes.aliased:
            self._frozen = frozen[1]
            self._shared = _shared(frozen[1])

    @property
    def is_careful(self) -> bool:
        """Whether leaves that MessagePack may refuse are looked for."""
        return self._is_careful

    def whole(self, frozen: Any, place: Place) -> Any:
        """Another value, written as by a writer of its own."""
        return Writer(frozen, is_careful=self._is_careful).root(place)

    def root(self, place: Place) -> Any:
        """The value that the writer was made for."""
        return self.item(self._frozen, place)

    def item(self, value: Any, place: Place) -> Any:
        """One value at its place. Refusal of what could not be read back."""
        cls = type(value)
        if cls in PLAIN:
            return write_careful(value) if self._is_careful else value
        if cls is Frozen:
            if id(value) in self._shared:
                return self._twice(value, place)
            return _WRITERS[value[0]](self, value[1], place)
        if cls is tuple:
            return {int(Tag.TUPLE): self.items(value, place.items)}
        if cls is frozenset:
            return {int(Tag.FROZENSET): self.items(value, place.items)}
        if issubclass(cls, tuple):
            return self.named_tuple((cls, value, None), place)
        written = write_leaf(value)
        if written is None:
            raise undecodable_here(f"a {type_label(cls)}", type_label(cls))
        return written

    def _twice(self, box: Frozen, place: Place) -> Any:
        number = self._numbers.get(id(box))
        if number is not None:
            return {int(Tag.AGAIN): number}
        number = self._numbers[id(box)] = len(self._numbers)
        return {int(Tag.SHARED): [number, _WRITERS[box[0]](self, box[1], place)]}

    def items(self, values: Any, place: Place) -> list[Any]:
        out: list[Any] = []
        for value in values:
            try:
                out.append(self.item(value, place))
            except Refusal as refusal:
                raise refusal.within(f"[{len(out)}]") from None
        return out

    def flat_list(self, data: list[Any], place: Place) -> Any:
        if not self._is_careful and PLAIN.issuperset(map(type, data)):
            return data
        return self.items(data, place.items)

    def flat_dict(self, data: dict[Any, Any], place: Place) -> Any:
        is_plain = not self._is_careful and PLAIN.issuperset(map(type, data.values()))
        if is_plain and _TEXT.issuperset(map(type, data)):
            return data
        return self.pairs(list(data.items()), place)

    def pairs(self, data: list[tuple[Any, Any]], place: Place) -> Any:
        written = []
        has_text_keys = True
        for key, value in data:
            try:
                told = self.item(key, place.keys)
                has_text_keys = has_text_keys and type(told) is str
                written.append([told, self.item(value, place.value_of(key))])
            except Refusal as refusal:
                raise refusal.within(key_step(key)) from None
        return dict(written) if has_text_keys else {int(Tag.PAIRS): written}

    def known(self, cls: type, place: Place) -> tuple[int, ClassAt]:
        number = place.number(cls)
        if number is None:
            name = type_label(cls)
            what = f"a {name} in a place of type Any" if place is ANYWHERE else f"a {name}"
            raise undecodable_here(what, name)
        if "<locals>" in cls.__qualname__:
            name = type_label(cls)
            raise undecodable_here(
                f"the local class {name}", name, f"define {cls.__name__} at module level"
            )
        return number, place.classes[number]

    def named_tuple(self, data: Any, place: Place) -> Any:
        cls, values, state = data
        number, known = self.known(cls, place)
        fields = known.fields
        items = [
            self.item(value, fields.get(name, ANYWHERE))
            for name, value in zip(cls._fields, values, strict=True)
        ]
        extra = None if state is None else self.item(state, ANYWHERE)
        return {int(Tag.NAMED_TUPLE): [number, items, extra]}

    def enum_member(self, data: Any, place: Place) -> Any:
        number, _ = self.known(data[0], place)
        return {int(Tag.ENUM): [number, self.item(data[1], ANYWHERE)]}

    def record(self, data: Any, place: Place) -> Any:
        cls, state, _, slots = data
        if cls is uuid.UUID:
            return self.uuid(slots)
        if cls.__module__ == "fractions":
            held = {member.__name__: write_careful(value) for member, value in slots}
            return {int(Tag.FRACTION): [held["_numerator"], held["_denominator"]]}
        number, known = self.known(cls, place)
        fields = known.fields
        written = {}
        for name, value in (state or {}).items():
            # No declared field: a dataclass in a model with extra="allow" takes such attributes.
            # They come back when they are plain data, and are refused with their path when not.
            written[name] = self.attribute(name, value, fields.get(name, ANYWHERE))
        held = {}
        for member, value in slots:
            slot: str = member.__name__
            short = PYDANTIC_SLOTS.get(slot)
            if short is None or value is not None:
                inner = known.extra if short == "e" else fields.get(slot, ANYWHERE)
                held[short or slot] = self.attribute(slot, value, inner)
        if objects.is_pydantic_model(cls):
            present = {member.__name__ for member, _ in slots}
            unset = [short for name, short in PYDANTIC_SLOTS.items() if name not in present]
            if unset:  # root models leave two of theirs unset
                held[UNSET] = unset
        return {int(Tag.RECORD): [number, written, held]}

    def attribute(self, name: str, value: Any, place: Place) -> Any:
        try:
            if name == "__pydantic_extra__" and type(value) is Frozen:
                # A dict whose values, not itself, stand at the place.
                pairs = zip(*parts(value)[2], strict=True)
                return {key: self.attribute(key, item, place) for key, item in pairs}
            return self.item(value, place)
        except Refusal as refusal:
            raise refusal.within(attribute_step(name)) from None

    def uuid(self, slots: Any) -> Any:
        held = {member.__name__: value for member, value in slots}
        if held.get("is_safe", (None, (None, "unknown")))[1][1] != "unknown":
            raise undecodable_here(
                "a UUID with safety information", "uuid.UUID", "UUID(int=value.int)"
            )
        return {int(Tag.UUID): held["int"].to_bytes(16, "big")}

    def struct(self, data: Any, place: Place) -> Any:
        _, template, boxed = data
        cls = type(template)
        number, known = self.known(cls, place)
        held = {member.__name__: value for member, value in boxed}
        fields = known.fields
        written = {
            name: self.attribute(
                name, held[name] if name in held else getattr(template, name), fields[name]
            )
            for name in cls.__struct_fields__
        }
        return {int(Tag.STRUCT): [number, written]}

    def from_text(self, data: Any, place: Place) -> Any:
        cls, text = data
        return {int(Tag.TEXTUAL): [TEXTUAL.index(cls), text]}

    def ndarray(self, data: Any, place: Place) -> Any:
        raw, dtype, shape, order = data
        told: Any = dtype.str
        if dtype.names is not None:
            from numpy.lib import format as layouts  # loaded: the value is one of its arrays

            told = layouts.dtype_to_descr(dtype)
            if repr(layouts.descr_to_dtype(told).__reduce__()[2]) != repr(dtype.__reduce__()[2]):
                raise undecodable_here("an array with this record layout", "numpy.ndarray")
            told = self.item(Freezer().freeze(told), ANYWHERE)
        return {int(Tag.NDARRAY): [told, list(shape), order, raw]}

    def adapted(self, data: Any, place: Place) -> Any:
        adapter, inner = data
        number, _ = self.known(adapter.type, place)
        return {int(Tag.ADAPTED): [number, self.item(inner, ANYWHERE)]}


_TEXT = frozenset({str})

Write = Callable[[Writer, Any, Place], Any]

_WRITERS: dict[Any, Write] = {
    dict.copy: Writer.flat_dict,
    boxes.nested_dict: lambda writer, data, place: writer.pairs(list(data[0].items()), place),
    boxes.keyed_dict: lambda writer, data, place: writer.pairs(data, place),
    list.copy: Writer.flat_list,
    boxes.nested_list: lambda writer, data, place: writer.items(data[0], place.items),
    set.copy: lambda writer, data, place: {
        # Texts in order, so that equal sets of names are equal bytes in every process.
        int(Tag.SET): writer.items(
            sorted(data) if _TEXT.issuperset(map(type, data)) else data, place.items
        )
    },
    boxes.nested_set: lambda writer, data, place: {int(Tag.SET): writer.items(data, place.items)},
    boxes.nested_frozenset: lambda writer, data, place: {
        int(Tag.FROZENSET): writer.items(data, place.items)
    },
    boxes.nested_tuple: lambda writer, data, place: {
        int(Tag.TUPLE): writer.items(data, place.items)
    },
    boxes.named_tuple: Writer.named_tuple,
    bytearray: lambda writer, data, place: {int(Tag.BYTEARRAY): data},
    boxes.ordered: lambda writer, data, place: {int(Tag.ORDERED): writer.item(data, place)},
    boxes.counter: lambda writer, data, place: {int(Tag.COUNTER): writer.item(data, place)},
    boxes.defaulting: lambda writer, data, place: {
        int(Tag.DEFAULTING): [FACTORIES.index(data[0]), writer.item(data[1], place)]
    },
    boxes.queue: lambda writer, data, place: {
        int(Tag.DEQUE): [data[0], writer.item(data[1], place)]
    },
    boxes.machine_array: lambda writer, data, place: {int(Tag.ARRAY): [data[0], data[1]]},
    boxes.from_text: Writer.from_text,
    boxes.enum_member: Writer.enum_member,
    boxes.record: Writer.record,
    boxes.struct: Writer.struct,
    boxes.ndarray: Writer.ndarray,
    boxes.adapted: Writer.adapted,
    boxes.owned: lambda writer, data, place: writer.item(boxes.opened(data), place),
    boxes.aliased: lambda writer, data, place: writer.item(data, place),
    boxes.hole: lambda writer, data, place: {int(Tag.HOLE): data},
}
