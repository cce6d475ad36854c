"""Taking a value apart: one walk, one handler a type."""

from __future__ import annotations

import copy
import datetime
import enum
import zoneinfo
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

from stageflow.model import boxes, objects
from stageflow.model.boxes import Frozen
from stageflow.model.refusal import (
    Refusal,
    attribute_step,
    key_step,
    too_deep,
    type_label,
    unknown,
)

LEAVES: frozenset[type] = frozenset(
    {type(None), bool, int, float, complex, str, bytes, Decimal, type(...), range}
    | {datetime.date, datetime.timedelta}
)
"""Exact types whose every instance is immutable in C and holds nothing else."""

ALL_LEAVES = LEAVES.issuperset
_MOMENTS = frozenset({datetime.datetime, datetime.time})
_all_text = frozenset({str}).issuperset

_OPEN: Any = object()
"""Stands in the memo for a value that is still being taken apart."""


def is_moment(value: Any) -> bool:
    """True for a date or time of day whose zone is none or a fixed one: immutable, holding leaves.

    A zone hands out the very objects it was made of, so these must be leaves too.
    """
    if type(value) not in _MOMENTS:
        return False
    zone = value.tzinfo
    if zone is None or zone is datetime.UTC:
        return True
    if type(zone) is not datetime.timezone:
        return False
    made_of: tuple[Any, ...] = zone.__getinitargs__()  # type: ignore[attr-defined]
    return ALL_LEAVES(map(type, made_of))


Handler = Callable[["Walk", Any], Any]


class Walk:
    """One freezing of one value. `memo` keeps the originals alive, so that ids stay theirs."""

    __slots__ = ("depth", "depth_max", "is_aliased", "kinds", "learn", "memo")

    def __init__(
        self, kinds: dict[type, Handler], learn: Callable[[type], Handler], depth_max: int
    ) -> None:
        self.kinds = kinds
        self.learn = learn
        self.depth_max = depth_max
        self.depth = 0
        self.memo: dict[int, tuple[Any, Any]] = {}
        self.is_aliased = False

    def visit(self, value: Any) -> Any:
        """The canonical form of one item. Raises Refusal."""
        kind = type(value)
        if kind in LEAVES or kind is Frozen:
            return value
        handler = self.kinds.get(kind) or self.learn(kind)
        mark = id(value)
        known = self.memo.get(mark)
        if known is not None:
            frozen = known[1]
            if frozen is _OPEN:
                raise Refusal(
                    "value.cycle",
                    "the value contains itself",
                    got=type_label(kind),
                    expected="a value without cycles",
                    fix="refer to the other object by an id instead of by the object",
                )
            if type(frozen) is Frozen and frozen[0] is not boxes.enum_member:
                self.is_aliased = True  # a member is one object wherever it stands
            return frozen
        if self.depth >= self.depth_max:
            raise too_deep(self.depth_max)
        self.memo[mark] = (value, _OPEN)
        self.depth += 1
        frozen = handler(self, value)
        self.depth -= 1
        self.memo[mark] = (value, frozen)
        return frozen

    def items(self, values: Iterable[Any], step: str = "[{}]") -> list[Any]:
        """The canonical forms of items that have a place but no name."""
        out: list[Any] = []
        for value in values:
            try:
                out.append(value if type(value) in LEAVES else self.visit(value))
            except Refusal as refusal:
                raise refusal.within(step.format(len(out))) from None
        return out

    def names(self, state: dict[str, Any]) -> tuple[str, ...]:
        """Freezes attributes in place; gives the names of those that became boxes."""
        if not _all_text(map(type, state)):
            odd = next(type(name) for name in state if type(name) is not str)
            raise unknown(odd).within("[<attribute name>]")
        boxed = []
        for name, value in state.items():
            if type(value) in LEAVES:
                continue
            try:
                frozen = self.visit(value)
            except Refusal as refusal:
                raise refusal.within(f".{name}") from None
            if frozen is not value:
                state[name] = frozen
            if type(frozen) is Frozen:
                boxed.append(name)
        return tuple(boxed)


def _dict(walk: Walk, value: dict[Any, Any]) -> Frozen:
    items = value.copy()
    if ALL_LEAVES(map(type, items)):
        if ALL_LEAVES(map(type, items.values())):
            return Frozen((dict.copy, items))
        boxed = []
        for key, item in items.items():
            if type(item) in LEAVES:
                continue
            try:
                frozen = walk.visit(item)
            except Refusal as refusal:
                raise refusal.within(key_step(key)) from None
            if frozen is not item:
                items[key] = frozen
            if type(frozen) is Frozen:
                boxed.append(key)
        return Frozen((boxes.nested_dict, (items, boxed))) if boxed else Frozen((dict.copy, items))
    pairs = []
    for key, item in items.items():
        try:
            pairs.append((walk.visit(key), walk.visit(item)))
        except Refusal as refusal:
            raise refusal.within(key_step(key)) from None
    if any(type(key) is Frozen for key, _ in pairs):
        return Frozen((boxes.keyed_dict, pairs))
    frozen_items = dict(zip(items, (item for _, item in pairs), strict=True))
    boxed = [key for key, item in pairs if type(item) is Frozen]
    if boxed:
        return Frozen((boxes.nested_dict, (frozen_items, boxed)))
    return Frozen((dict.copy, frozen_items))


def _list(walk: Walk, value: list[Any]) -> Frozen:
    items = value.copy()
    if ALL_LEAVES(map(type, items)):
        return Frozen((list.copy, items))
    boxed = []
    for place, item in enumerate(items):
        if type(item) in LEAVES:
            continue
        try:
            frozen = walk.visit(item)
        except Refusal as refusal:
            raise refusal.within(f"[{place}]") from None
        if frozen is not item:
            items[place] = frozen
        if type(frozen) is Frozen:
            boxed.append(place)
    return Frozen((boxes.nested_list, (items, boxed))) if boxed else Frozen((list.copy, items))


def _set(walk: Walk, value: set[Any]) -> Frozen:
    copied = value.copy()
    if ALL_LEAVES(map(type, copied)):
        return Frozen((set.copy, copied))
    items = walk.items(copied, "{{item}}")
    if any(type(item) is Frozen for item in items):
        return Frozen((boxes.nested_set, items))
    return Frozen((set.copy, copied))


def _frozenset(walk: Walk, value: frozenset[Any]) -> Any:
    if ALL_LEAVES(map(type, value)):
        return value
    items = walk.items(value, "{{item}}")
    if any(type(item) is Frozen for item in items):
        return Frozen((boxes.nested_frozenset, items))
    return value


def _tuple(walk: Walk, value: tuple[Any, ...]) -> Any:
    if ALL_LEAVES(map(type, value)):
        return value
    items = walk.items(value)
    if any(type(item) is Frozen for item in items):
        return Frozen((boxes.nested_tuple, items))
    return value


def _named_tuple(walk: Walk, value: Any) -> Any:
    cls = type(value)
    items = walk.items(value)
    if not cls.__dictoffset__:
        # Boxed even when all its items are leaves: its class is Python's and can be exchanged.
        return Frozen((boxes.named_tuple, (cls, items, None)))
    state = object.__getattribute__(value, "__dict__")
    return Frozen((boxes.named_tuple, (cls, items, walk.visit(state.copy()))))


def _plain_instance(value: Any) -> None:
    """Containers of the standard library carry a `__dict__` that a view would not have."""
    if value.__dict__:
        raise Refusal(
            "value.refused",
            f"the {type_label(type(value))} has attributes of its own",
            got=type_label(type(value)),
            expected="a container without added attributes",
            fix="return a dataclass or a model that holds both",
        )


def _ordered(walk: Walk, value: OrderedDict[Any, Any]) -> Frozen:
    _plain_instance(value)
    return Frozen((boxes.ordered, _dict(walk, dict(value))))


def _counter(walk: Walk, value: Counter[Any]) -> Frozen:
    _plain_instance(value)
    return Frozen((boxes.counter, _dict(walk, dict(value))))


def _defaulting(walk: Walk, value: defaultdict[Any, Any]) -> Frozen:
    factory = value.default_factory
    if factory is not None and factory not in _FACTORIES:
        raise Refusal(
            "value.refused",
            "the defaultdict's factory is code, which cannot be kept",
            got=type_label(type(factory)),
            expected="a factory that is None or a builtin type",
            fix="return dict(value)",
        ).within(".default_factory")
    return Frozen((boxes.defaulting, (factory, _dict(walk, dict(value)))))


def _queue(walk: Walk, value: deque[Any]) -> Frozen:
    # list(deque) can meet a change by another thread; copying the deque first is one step.
    return Frozen((boxes.queue, (value.maxlen, _list(walk, list(value.copy())))))


def _bytearray(walk: Walk, value: bytearray) -> Frozen:
    return Frozen((bytearray, bytes(value)))


def _array(walk: Walk, value: array[Any]) -> Frozen:
    return Frozen((boxes.machine_array, (value.typecode, value.tobytes())))


def _zoned(walk: Walk, value: datetime.datetime | datetime.time) -> Any:
    zone = value.tzinfo
    if not is_moment(value):
        try:
            walk.visit(zone)
        except Refusal as refusal:
            raise refusal.within(".tzinfo") from None
    return value


def _timezone(walk: Walk, value: datetime.timezone) -> Any:
    """See `is_moment`."""
    for held in (value.tzname(None), value.utcoffset(None)):
        if type(held) not in LEAVES:
            raise unknown(type(held))
    return value


def _zone_info(walk: Walk, value: zoneinfo.ZoneInfo) -> Any:
    if type(value.key) is not str:
        raise Refusal(
            "value.refused",
            "a time zone that was read from a file has no name to keep",
            got="zoneinfo.ZoneInfo",
            expected="a ZoneInfo with a key",
            fix='use ZoneInfo("Europe/Paris") or a datetime.timezone',
        )
    return value


def _itself(walk: Walk, value: Any) -> Any:
    return value


def _from_text(walk: Walk, value: Any) -> Frozen:
    return Frozen((boxes.from_text, (type(value), str(value))))


def _enum_member(walk: Walk, value: enum.Enum) -> Frozen:
    """By name; a combination of flags has none and is told by its number."""
    cls = type(value)
    name = value._name_
    if name is None or cls.__members__.get(name) is not value:
        found = [known for known, member in cls.__members__.items() if member is value]
        return Frozen((boxes.enum_member, (cls, found[0] if found else value._value_)))
    return Frozen((boxes.enum_member, (cls, name)))


def _ndarray(walk: Walk, value: Any) -> Frozen:
    dtype = value.dtype
    if dtype.hasobject or dtype.metadata:
        raise Refusal(
            "value.refused",
            "the array holds Python objects",
            got=f"numpy.ndarray of dtype {dtype.name}",
            expected="an array of numbers, dates, or fixed-width text and bytes",
            fix="return value.tolist(), or an array of another dtype",
        )
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    if dtype.names is not None:
        dtype = copy.copy(dtype)
    return Frozen((boxes.ndarray, (value.tobytes(order), dtype, value.shape, order)))


def _record(layout: objects.Layout) -> Handler:
    cls, has_dict, members = layout.cls, layout.has_dict, layout.members

    def freeze(walk: Walk, value: Any) -> Frozen:
        state = object.__getattribute__(value, "__dict__").copy() if has_dict else None
        boxed = walk.names(state) if state else ()
        slots = []
        for member in members:
            try:
                held = member.__get__(value, cls)
            except AttributeError:
                continue  # a slot that was never set stays unset
            try:
                slots.append((member, held if type(held) in LEAVES else walk.visit(held)))
            except Refusal as refusal:
                raise refusal.within(attribute_step(member.__name__)) from None
        return Frozen((boxes.record, (cls, state, boxed, tuple(slots))))

    return freeze


def _struct(cls: type) -> Handler:
    import msgspec  # loaded already: the class is one of its own

    members = {
        name: next(vars(base)[name] for base in cls.__mro__ if name in vars(base))
        for name in cls.__struct_fields__  # type: ignore[attr-defined]
    }
    copied = msgspec.Struct.__copy__  # type: ignore[attr-defined]  # the stub leaves it out

    def freeze(walk: Walk, value: Any) -> Frozen:
        template = copied(value)
        if getattr(template, "__dict__", None):
            raise unknown(cls)
        boxed = []
        for name, member in members.items():
            held = member.__get__(template, cls)
            if type(held) in LEAVES:
                continue
            try:
                frozen = walk.visit(held)
            except Refusal as refusal:
                raise refusal.within(f".{name}") from None
            if type(frozen) is Frozen:
                boxed.append((member, frozen))
                member.__set__(template, None)
        return Frozen((boxes.struct, (copied, template, tuple(boxed))))

    return freeze


def handler_of(cls: type) -> Handler:
    if objects.is_enum(cls):
        return _enum_member
    if objects.is_numpy_scalar(cls) or objects.is_foreign_leaf(cls):
        return _itself
    if objects.is_named_tuple(cls):
        return _named_tuple
    if objects.is_textual(cls):
        return _from_text
    if objects.is_ndarray(cls):
        return _ndarray
    if objects.is_struct(cls):
        return _struct(cls)
    layout = objects.layout_of(cls)
    if layout is not None:
        return _record(layout)
    return _refuse


def _refuse(walk: Walk, value: Any) -> Any:
    raise unknown(type(value))


_FACTORIES = frozenset({list, dict, set, tuple, frozenset, str, bytes, int, float, bool, complex})

BUILTIN: dict[type, Handler] = {
    dict: _dict,
    list: _list,
    set: _set,
    frozenset: _frozenset,
    tuple: _tuple,
    bytearray: _bytearray,
    array: _array,
    OrderedDict: _ordered,
    Counter: _counter,
    defaultdict: _defaulting,
    deque: _queue,
    datetime.datetime: _zoned,
    datetime.time: _zoned,
    datetime.timezone: _timezone,
    zoneinfo.ZoneInfo: _zone_info,
}
