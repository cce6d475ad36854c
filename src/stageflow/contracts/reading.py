"""Reading what the codec wrote: plain data as it is, instances of the classes a place names."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

from stageflow.contracts.places import ANYWHERE, ClassAt, Place
from stageflow.contracts.wire import FACTORIES, PLAIN, PYDANTIC_SLOTS, UNSET, Tag, read_leaf
from stageflow.model import boxes
from stageflow.model.boxes import Frozen
from stageflow.model.values import Freezer


class Reader:
    """Reads one payload. Raises LookupError, TypeError or ValueError when it does not fit."""

    def __init__(self, freezer: Freezer) -> None:
        self._freezer = freezer
        self._shared: dict[int, Any] = {}
        self.held: dict[int, Any] = {}
        """Parts that came before the value they belong to, by number; each is taken once."""

    def read(self, node: Any, place: Place) -> Any:
        """The value of one node, its containers new."""
        cls = type(node)
        if cls in PLAIN:
            return node
        if cls is list:
            if PLAIN.issuperset(map(type, node)):
                return node
            inner = place.items
            return [self.read(item, inner) for item in node]
        if len(node) == 1:
            ((tag, payload),) = node.items()
            if type(tag) is int:
                read = _READERS.get(tag)
                return read(self, payload, place) if read else read_leaf(tag, payload)
        if PLAIN.issuperset(map(type, node.values())):
            return node
        return {key: self.read(value, place.value_of(key)) for key, value in node.items()}

    def pairs(self, payload: Any, place: Place) -> dict[Any, Any]:
        out: dict[Any, Any] = {}
        for told, value in payload:
            key = self.read(told, place.keys)
            out[key] = self.read(value, place.value_of(key))
        return out

    def shared(self, payload: Any, place: Place) -> Any:
        number, node = payload
        value = self._shared[number] = self.read(node, place)
        return value

    def record(self, payload: Any, place: Place) -> Any:
        number, state, slots = payload
        known = place.classes[number]
        layout = known.layout
        if layout is None:
            raise TypeError("not a class of plain state any more")
        fields = known.fields
        out = object.__new__(known.cls)
        if layout.has_dict:
            held = {
                name: self.read(node, fields.get(name, ANYWHERE)) for name, node in state.items()
            }
            object.__setattr__(out, "__dict__", held)
        unset = slots.get(UNSET, ())
        for member in layout.members:
            name = member.__name__
            short = PYDANTIC_SLOTS.get(name)
            if short in unset:
                continue
            if short is not None:
                member.__set__(out, self._slot(known, name, slots.get(short)))
            elif name in slots:
                member.__set__(out, self._slot(known, name, slots[name]))
        return out

    def _slot(self, known: ClassAt, name: str, node: Any) -> Any:
        if name == "__pydantic_extra__" and type(node) is dict:
            return {key: self.read(item, known.extra) for key, item in node.items()}
        return self.read(node, known.fields.get(name, ANYWHERE))

    def struct(self, payload: Any, place: Place) -> Any:
        """The one kind of class that must be called; what its `__post_init__` changed is undone."""
        number, state = payload
        known = place.classes[number]
        held = {name: self.read(node, known.fields[name]) for name, node in state.items()}
        out = known.cls(**held)
        for base in known.cls.__mro__:
            for name, member in vars(base).items():
                if name in held:
                    member.__set__(out, held[name])
        return out

    def named_tuple(self, payload: Any, place: Place) -> Any:
        number, items, state = payload
        known = place.classes[number]
        inner = list(known.fields.values())
        values = [self.read(item, at) for item, at in zip(items, inner, strict=True)]
        out: Any = tuple.__new__(known.cls, values)
        if state is not None:
            object.__setattr__(out, "__dict__", self.read(state, ANYWHERE))
        return out

    def enum_member(self, payload: Any, place: Place) -> Any:
        number, told = payload
        cls: Any = place.classes[number].cls
        name = self.read(told, ANYWHERE)
        return cls[name] if isinstance(name, str) else cls(name)

    def ndarray(self, payload: Any, place: Place) -> Any:
        import numpy  # its values were stored, so the pipeline uses it
        from numpy.lib import format as layouts

        told, shape, order, raw = payload
        dtype = numpy.dtype(told) if isinstance(told, str) else None
        if dtype is None:
            dtype = layouts.descr_to_dtype(self.read(told, ANYWHERE))
        return boxes.ndarray((raw, dtype, tuple(shape), order))

    def adapted(self, payload: Any, place: Place) -> Any:
        number, node = payload
        adapter = self._freezer.adapter(place.classes[number].cls)
        return Frozen((boxes.adapted, (adapter, self._freezer.freeze(self.read(node, ANYWHERE)))))


Read = Callable[[Reader, Any, Place], Any]

_READERS: dict[int, Read] = {
    Tag.TUPLE: lambda reader, node, place: tuple(reader.read(item, place.items) for item in node),
    Tag.FROZENSET: lambda reader, node, place: frozenset(
        reader.read(item, place.items) for item in node
    ),
    Tag.SET: lambda reader, node, place: {reader.read(item, place.items) for item in node},
    Tag.PAIRS: Reader.pairs,
    Tag.ORDERED: lambda reader, node, place: OrderedDict(reader.read(node, place)),
    Tag.COUNTER: lambda reader, node, place: _counter(reader.read(node, place)),
    Tag.DEFAULTING: lambda reader, node, place: defaultdict(
        FACTORIES[node[0]], reader.read(node[1], place)
    ),
    Tag.DEQUE: lambda reader, node, place: deque(reader.read(node[1], place), node[0]),
    Tag.NDARRAY: Reader.ndarray,
    Tag.ENUM: Reader.enum_member,
    Tag.RECORD: Reader.record,
    Tag.STRUCT: Reader.struct,
    Tag.NAMED_TUPLE: Reader.named_tuple,
    Tag.ADAPTED: Reader.adapted,
    Tag.SHARED: Reader.shared,
    Tag.HOLE: lambda reader, node, place: reader.held.pop(node),
    Tag.AGAIN: lambda reader, node, place: reader._shared[node],
}


def _counter(counts: dict[Any, int]) -> Counter[Any]:
    out: Counter[Any] = Counter()
    dict.update(out, counts)
    return out
