"""A value's image: what it holds, told without the framework, so that two readings can be compared.

Equal images mean the same exact types, contents, orders and bits (NaN equals NaN, 1 is not True).
"""

from __future__ import annotations

import enum
import types
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Hashable, Iterable
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np

BROKEN: Final = "broken"
_PLAIN: Final = frozenset({str, int, bytes, type(None)})
_LEAF_MODULES: Final = frozenset(
    {"builtins", "datetime", "decimal", "fractions", "uuid", "pathlib"}
)

Imaging = Callable[[Any], Any]
_class: Final[Callable[[Any], Any]] = type


def image(value: Any) -> Any:
    """Nested tuples that compare by `==`; BROKEN for a value too damaged to be looked at."""
    try:
        return value if type(value) in _PLAIN else _imaging(_class(value))(value)
    except Exception:  # an attacked view can be in any state; none of them equals a healthy image
        return BROKEN


def _images(items: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(
        [item if (cls := _class(item)) in _PLAIN else _imaging(cls)(item) for item in items]
    )


@lru_cache(maxsize=1_024)
def _imaging(cls: Hashable) -> Imaging:
    """How values of exactly this class are imaged."""
    assert isinstance(cls, type)
    if cls in _BUILTIN:
        return _BUILTIN[cls]
    if cls.__module__ in _LEAF_MODULES or issubclass(cls, np.generic):
        return lambda value: (cls, repr(value))
    if issubclass(cls, msgspec.Struct):
        names = cls.__struct_fields__
        return lambda value: (cls, _images([getattr(value, name) for name in names]))
    if issubclass(cls, tuple):
        return lambda value: (cls, _images(value))
    return _object_imaging(cls)


def _object_imaging(cls: type) -> Imaging:
    members = [member for _, member in slots_of(cls)]
    has_dict = cls.__dictoffset__ != 0

    def object_image(value: Any) -> Any:
        state = value.__dict__ if has_dict else {}
        slots = [member.__get__(value) for member in members]
        return cls, tuple(state), _images(state.values()), _images(slots)

    return object_image


def _dict(value: Any) -> Any:
    return type(value), _images(value), _images(value.values())


def _set(value: Any) -> Any:
    return type(value), frozenset(_images(value))


def _array(value: Any) -> Any:
    dtype = value.dtype
    told = dtype.str if dtype.names is None else str(dtype)
    return np.ndarray, told, value.shape, value.tobytes()


_BUILTIN: Final[dict[type, Imaging]] = {
    list: lambda value: (list, _images(value)),
    tuple: lambda value: (tuple, _images(value)),
    dict: _dict,
    OrderedDict: _dict,
    Counter: _dict,
    defaultdict: lambda value: (_dict(value), value.default_factory),
    set: _set,
    frozenset: _set,
    deque: lambda value: (deque, value.maxlen, _images(value)),
    bytearray: lambda value: (bytearray, bytes(value)),
    array: lambda value: (array, value.typecode, value.tobytes()),
    np.ndarray: _array,
}


def reachable(value: Any) -> list[Any]:
    """Every object inside a value that ordinary means can reach and that might be changed.

    Text, numbers, classes and enum members are left out: the last two belong to the program, and
    changing one changes the program.
    """
    found: list[Any] = []
    seen: set[int] = set()
    stack = [value]
    while stack:
        item = stack.pop()
        cls = type(item)
        if cls in _UNCHANGING or id(item) in seen or isinstance(item, (type, enum.Enum)):
            continue
        seen.add(id(item))
        found.append(item)
        if cls in _SEQUENCES:
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend(item)
            stack.extend(item.values())
        elif cls is np.ndarray:
            stack.append(item.base)
        elif cls not in _CHILDLESS:
            _extend_by_parts(stack, item)
    return found


_UNCHANGING: Final = frozenset({str, int, bytes, float, bool, complex, type(None)})
_SEQUENCES: Final = frozenset({list, tuple, set, frozenset, deque})
_CHILDLESS: Final = frozenset({bytearray, array})


def _extend_by_parts(stack: list[Any], item: Any) -> None:
    if isinstance(item, (list, tuple, set, frozenset, deque)):
        stack.extend(item)
    for _, member in slots_of(type(item)):
        try:
            stack.append(member.__get__(item))
        except AttributeError:  # a slot that another attack has emptied
            continue
    state = getattr(item, "__dict__", None)
    if type(state) is dict:
        stack.extend(state.values())


def slots_of(cls: type) -> tuple[tuple[str, Any], ...]:
    """(name, descriptor) of every slot of a class and its bases."""
    return _slots_of(cls)


@lru_cache(maxsize=1_024)
def _slots_of(cls: Hashable) -> tuple[tuple[str, Any], ...]:
    assert isinstance(cls, type)
    return tuple(
        (name, member)
        for base in cls.__mro__
        for name, member in vars(base).items()
        if isinstance(member, types.MemberDescriptorType)
    )
