"""Private boxes: how a mutable value is kept, and how a consumer gets a view of its own.

A box is `Frozen((rebuild, data))`. `data` is reachable by nobody but the box, `rebuild(data)` makes
a view of the exact original type out of fresh containers and shared immutable leaves. Three shapes:

* flat: a private container of leaves; `rebuild` is the C copy of its type;
* nested: `data` says which items are boxes; only these are rebuilt, the rest is copied at once;
* aliased: one object occurs twice inside the value; the view keeps that, with a memo.

`parts` takes a box apart for hashing without making a view.
"""

from __future__ import annotations

import copy
import sys
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any, NoReturn

Item = Callable[[Any], Any]
"""Makes the view of one item; None stands for the plain one, without a memo."""


class Frozen(tuple[Any, Any]):
    """An opaque box around a value that could be changed. Immutable; ask `thaw` for a view.

    A tuple, since no other type with two fields is made as fast. It has no `__dict__`.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<frozen {parts(self)[0].decode()}>"

    def __copy__(self) -> Frozen:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a frozen box does not travel by pickle; encode it through its contract")


def thaw(frozen: Any) -> Any:
    """A private view for one consumer: exact original types, nothing mutable shared with anybody.

    A leaf is returned as it is. Objects are rebuilt without running `__init__`, `__post_init__` or
    validators. Linear in the size of the value, also when it is aliased.
    """
    if type(frozen) is not Frozen:
        return frozen
    rebuild, data = frozen
    return rebuild(data)


def nested_list(data: Any, item: Item | None = None) -> list[Any]:
    items, boxed = data
    out: list[Any] = items.copy()
    if item is None:
        for place in boxed:
            rebuild, inner = out[place]
            out[place] = rebuild(inner)
    else:
        for place in boxed:
            out[place] = item(out[place])
    return out


def nested_dict(data: Any, item: Item | None = None) -> dict[Any, Any]:
    items, boxed = data
    out: dict[Any, Any] = items.copy()
    if item is None:
        for key in boxed:
            rebuild, inner = out[key]
            out[key] = rebuild(inner)
    else:
        for key in boxed:
            out[key] = item(out[key])
    return out


def keyed_dict(data: Any, item: Item | None = None) -> dict[Any, Any]:
    """A dict with keys that could be changed, frozen dataclasses for example."""
    view = item or thaw
    return {view(key): view(value) for key, value in data}


def nested_set(data: Any, item: Item | None = None) -> set[Any]:
    return set(map(item or thaw, data))


def nested_frozenset(data: Any, item: Item | None = None) -> frozenset[Any]:
    return frozenset(map(item or thaw, data))


def nested_tuple(data: Any, item: Item | None = None) -> tuple[Any, ...]:
    return tuple(map(item or thaw, data))


def named_tuple(data: Any, item: Item | None = None) -> Any:
    cls, items, state = data
    view = item or thaw
    out = tuple.__new__(cls, map(view, items))
    if state is not None:
        object.__setattr__(out, "__dict__", view(state))
    return out


def ordered(data: Any, item: Item | None = None) -> OrderedDict[Any, Any]:
    return OrderedDict((item or thaw)(data))


def counter(data: Any, item: Item | None = None) -> Counter[Any]:
    out: Counter[Any] = Counter()
    dict.update(out, (item or thaw)(data))
    return out


def defaulting(data: Any, item: Item | None = None) -> defaultdict[Any, Any]:
    factory, inner = data
    return defaultdict(factory, (item or thaw)(inner))


def queue(data: Any, item: Item | None = None) -> deque[Any]:
    length_max, inner = data
    return deque((item or thaw)(inner), length_max)


def machine_array(data: Any, item: Item | None = None) -> array[Any]:
    code, raw = data
    return array(code, raw)


def from_text(data: Any, item: Item | None = None) -> Any:
    """Types that are wholly told by their text: paths and network addresses."""
    cls, text = data
    return cls(text)


def enum_member(data: Any, item: Item | None = None) -> Any:
    """The program's one member. Held by name, since members can be overwritten like any object."""
    cls, name = data
    return cls[name] if type(name) is str else cls(name)


def record(data: Any, item: Item | None = None) -> Any:
    """An instance of a Python class: its `__dict__` and its slots, set without running its code."""
    cls, state, boxed, slots = data
    out = object.__new__(cls)
    if state is not None:
        object.__setattr__(out, "__dict__", nested_dict((state, boxed), item))
    for member, value in slots:
        member.__set__(out, value if type(value) is not Frozen else (item or thaw)(value))
    return out


def struct(data: Any, item: Item | None = None) -> Any:
    """A msgspec.Struct: a private copy holds the leaves, the boxes are set into each view.

    `object.__new__` refuses these classes and calling them runs `__post_init__`; their C-level copy
    does neither.
    """
    copied, template, boxed = data
    out = copied(template)
    for member, value in boxed:
        member.__set__(out, (item or thaw)(value))
    return out


def ndarray(data: Any, item: Item | None = None) -> Any:
    """A NumPy array with memory of its own.

    Sharing the memory read-only would be cheaper, but NumPy's flag does not hold: `numpy.add.at`
    and its like write into a read-only array (seen in 2.4.6). A dtype with field names is copied
    too, since it can be renamed in place.
    """
    raw, dtype, shape, order = data
    numpy = sys.modules["numpy"]
    if dtype.names is not None:
        dtype = copy.copy(dtype)
    if not raw:
        return numpy.empty(shape, dtype, order)
    return numpy.frombuffer(raw, dtype).reshape(shape, order=order).copy(order)


def adapted(data: Any, item: Item | None = None) -> Any:
    adapter, inner = data
    return adapter.thaw((item or thaw)(inner))


def hole(data: Any, item: Item | None = None) -> NoReturn:
    """Stands for a part that is written apart, by its number. Never thawed or hashed."""
    raise TypeError("a hole has no view: what belongs there was written apart")


def owned(data: Any, item: Item | None = None) -> Any:
    """A value whose every part is its own already: what keeps it also knows how to copy it."""
    keeper, value = data
    return keeper.view(value)


def aliased(root: Any, item: Item | None = None) -> Any:
    """The root of a value inside which one object occurs more than once."""
    if item is not None:
        return item(root)
    views: dict[int, Any] = {}

    def view(frozen: Any) -> Any:
        if type(frozen) is not Frozen:
            return frozen
        mark = id(frozen)
        if mark in views:
            return views[mark]
        rebuild, data = frozen
        out = rebuild(data) if rebuild in FLAT else rebuild(data, view)
        views[mark] = out
        return out

    return view(root)


FLAT = frozenset({dict.copy, list.copy, set.copy, bytearray})
"""Rebuilders that take the data alone: what they hold has no boxes."""

Parts = tuple[bytes, bytes, list[list[Any]]]
"""(kind, detail, groups of items in order); kind and detail tell types apart, items hold values."""


def type_name(cls: type) -> bytes:
    """Module and qualified name; equal in every process that runs the same code."""
    return f"{cls.__module__}:{cls.__qualname__}".encode("utf-8", "surrogatepass")


def parts(frozen: Frozen) -> Parts:
    """What a box holds, without making a view. Sets come in the order in which they iterate."""
    rebuild, data = frozen
    return _PARTS[rebuild](data)


def _record_parts(data: Any) -> Parts:
    cls, state, _, slots = data
    held = {f".{member.__name__}": value for member, value in slots}
    if state is not None:
        held.update(state)
    names = sorted(held)
    return b"record", type_name(cls), [names, [held[name] for name in names]]


def _struct_parts(data: Any) -> Parts:
    _, template, boxed = data
    held = {member.__name__: value for member, value in boxed}
    names = list(type(template).__struct_fields__)
    values = [held[name] if name in held else getattr(template, name) for name in names]
    return b"struct", type_name(type(template)), [names, values]


def _named_tuple_parts(data: Any) -> Parts:
    cls, items, state = data
    return b"namedtuple", type_name(cls), [list(items), [state]]


def _ndarray_parts(data: Any) -> Parts:
    raw, dtype, shape, order = data
    # The layout of a record dtype (offsets, alignment, byte order) is told by its reduced state.
    layout = dtype.str if dtype.names is None else repr(dtype.__reduce__()[2])
    return b"ndarray", f"{layout} {shape} {order}".encode(), [[raw]]


_PARTS: dict[Any, Callable[[Any], Parts]] = {
    dict.copy: lambda data: (b"dict", b"", [list(data), list(data.values())]),
    nested_dict: lambda data: (b"dict", b"", [list(data[0]), list(data[0].values())]),
    keyed_dict: lambda data: (b"dict", b"", [[k for k, _ in data], [v for _, v in data]]),
    list.copy: lambda data: (b"list", b"", [data]),
    nested_list: lambda data: (b"list", b"", [data[0]]),
    set.copy: lambda data: (b"set", b"", [list(data)]),
    nested_set: lambda data: (b"set", b"", [list(data)]),
    nested_frozenset: lambda data: (b"frozenset", b"", [list(data)]),
    nested_tuple: lambda data: (b"tuple", b"", [list(data)]),
    named_tuple: _named_tuple_parts,
    bytearray: lambda data: (b"bytearray", b"", [[data]]),
    ordered: lambda data: (b"ordereddict", b"", [[data]]),
    counter: lambda data: (b"counter", b"", [[data]]),
    defaulting: lambda data: (
        b"defaultdict",
        b"" if data[0] is None else type_name(data[0]),
        [[data[1]]],
    ),
    queue: lambda data: (b"deque", str(data[0]).encode(), [[data[1]]]),
    machine_array: lambda data: (b"array", data[0].encode(), [[data[1]]]),
    from_text: lambda data: (b"text", type_name(data[0]), [[data[1]]]),
    enum_member: lambda data: (b"enum", type_name(data[0]), [[data[1]]]),
    record: _record_parts,
    struct: _struct_parts,
    ndarray: _ndarray_parts,
    adapted: lambda data: (b"adapted", type_name(data[0].type), [[data[1]]]),
    owned: lambda data: _PARTS[aliased](opened(data)),
    aliased: lambda root: parts(root) if type(root) is Frozen else (b"leaf", b"", [[root]]),
}


def opened(data: Any) -> Any:
    """An owned value in boxes, item by item, as freezing would have made them."""
    keeper, value = data
    return keeper.opened(value)
