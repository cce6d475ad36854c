"""Ways to change an object in place, or to reach what is behind it. None knows the framework.

Left out are raw memory addresses (`ctypes.memmove`, a forged `__array_interface__`), the garbage
collector's lists and private attributes of the framework: in CPython these change any object,
integers and text included, whatever a library does. So are calls that free an array's memory while
another array looks at it (`resize` without its check): they end the interpreter.
"""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import io
import operator
import pickle
import struct
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from .value_image import reachable, slots_of

Mutator = Callable[[Any], object]


def attack(mutate: Mutator, target: Any) -> tuple[int, int]:
    """Applies a mutator to everything inside `target`; how often it (raised, came back)."""
    raised = 0
    victims = reachable(target)
    for victim in victims:
        try:
            mutate(victim)
        except Exception:  # whatever refuses the change: that is one of the two good outcomes
            raised += 1
    return raised, len(victims) - raised


def _each(attempts: Iterable[Callable[[], object]]) -> None:
    """Makes every attempt; raises the last refusal when all were refused."""
    refused: Exception | None = None
    worked = 0
    for attempt in attempts:
        try:
            attempt()
            worked += 1
        except Exception as error:
            refused = error
    if not worked and refused is not None:
        raise refused


def _names(value: Any) -> list[str]:
    return [*getattr(value, "__dict__", {}), *(name for name, _ in slots_of(type(value)))]


def _on_each(call: Callable[..., object], parts: Iterable[Any], *more: Any) -> None:
    """Calls `call(part, *more)` for every part; refused when every call was."""
    _each([partial(call, part, *more) for part in parts])


def _setattr(value: Any) -> None:
    _on_each(partial(setattr, value), _names(value), "changed")


def _object_setattr(value: Any) -> None:
    _on_each(partial(object.__setattr__, value), (*_names(value), "added"), "changed")


def _object_delattr(value: Any) -> None:
    _on_each(partial(object.__delattr__, value), _names(value))


def _delattr(value: Any) -> None:
    _on_each(partial(delattr, value), _names(value))


def _slot_set(value: Any) -> None:
    _each([partial(member.__set__, value, "changed") for _, member in slots_of(type(value))])


def _dict_update(value: Any) -> None:
    value.__dict__.update(dict.fromkeys([*value.__dict__, "added"], "changed"))


def _dict_swap(value: Any) -> None:
    object.__setattr__(value, "__dict__", {"name": "changed"})


def _class_swap(value: Any) -> None:
    object.__setattr__(value, "__class__", _subclass(value.__class__))


@lru_cache(maxsize=256)
def _subclass(cls: Hashable) -> type:
    """A class whose instances have the same layout, so that `__class__` can be set to it."""
    assert isinstance(cls, type)
    return type("Other", (cls,), {"__slots__": ()})


def _init_again(value: Any) -> None:
    _each((lambda: value.__init__("changed", "changed"), lambda: value.__init__("xy")))


def _init_keywords(value: Any) -> None:
    value.__init__(**dict.fromkeys(_names(value), "changed"))


def _setstate(value: Any) -> None:
    names = _names(value)
    states: tuple[Any, ...] = (
        dict.fromkeys(names, "changed"),
        {"__dict__": {"name": "changed"}, "__pydantic_fields_set__": set()},
        ["changed"] * len(names),
    )
    _on_each(value.__setstate__, states)


def _fields_set(value: Any) -> None:
    value.model_fields_set.add("changed")


def _private_attributes(value: Any) -> None:
    value.__pydantic_private__["_seen"].append(9)


def _extras(value: Any) -> None:
    value.__pydantic_extra__["added"] = 9


def _behind(copied: Any) -> None:
    """Changes what lies inside a shallow copy: all of it still belongs to the value."""
    _on_each(_clear_or_set, reachable(copied)[1:])


def _clear_or_set(value: Any) -> None:
    _each(
        (
            lambda: operator.methodcaller("clear")(value),
            lambda: _object_setattr(value),
            lambda: operator.methodcaller("fill", 7)(value),
        )
    )


def _shallow_copy(value: Any) -> None:
    _behind(copy.copy(value))


def _replace(value: Any) -> None:
    _behind(dataclasses.replace(value))


def _model_copy(value: Any) -> None:
    _behind(value.model_copy())


def _pickle_round(value: Any) -> None:
    _clear_or_set(pickle.loads(pickle.dumps(value)))


def _pickle_buffers(value: Any) -> None:
    buffers: list[pickle.PickleBuffer] = []
    pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    _write(next(buffer.raw() for buffer in buffers))


def _pickle_buffer(value: Any) -> None:
    _write(pickle.PickleBuffer(value).raw())


def _reduced(value: Any) -> None:
    for part in value.__reduce_ex__(4)[1:]:
        _behind([part, *(part if isinstance(part, tuple) else ())])


def _state(value: Any) -> None:
    _behind([value.__getstate__()])


def _write(view: memoryview) -> None:
    view.cast("B")[0] ^= 0xFF


def _memoryview(value: Any) -> None:
    with memoryview(value) as view:
        _write(view)


def _ctypes_buffer(value: Any) -> None:
    size = memoryview(value).nbytes
    (ctypes.c_char * size).from_buffer(value)[0] = b"z"


def _read_into(value: Any) -> None:
    io.BytesIO(b"\xa5" * 4).readinto(value)


def _pack_into(value: Any) -> None:
    struct.pack_into("B", value, 0, 0xA5)


def _unlock(value: Any) -> None:
    value.setflags(write=True)
    value[...] = 7


def _base(value: Any) -> None:
    value.base[...] = 7


def _reinterpret(value: Any) -> None:
    value.dtype = "u1"


def _rename(value: Any) -> None:
    value.dtype.names = ("z", *value.dtype.names[1:])


def _reshape(value: Any) -> None:
    value.shape = (1, *value.shape)


def _restride(value: Any) -> None:
    value.strides = tuple(0 for _ in value.strides)


def _array(value: Any) -> Any:
    """The value itself; refused at once when it is no array: these calls would convert it."""
    if type(value) is not np.ndarray:
        raise TypeError("no array")
    return value


def _ufunc_out(value: Any) -> None:
    np.add(_array(value), 1, out=value, casting="unsafe")


def _ufunc_at(value: Any) -> None:
    np.add.at(_array(value), 0, 1)


def _copy_to(value: Any) -> None:
    np.copyto(_array(value), 7, casting="unsafe")


def _put(value: Any) -> None:
    np.put(_array(value), [0], [7])


def _flat(value: Any) -> None:
    value.flat[0] = 7


def _nditer(value: Any) -> None:
    items: Any = np.nditer(_array(value), op_flags=[["readwrite"]])
    with items:
        for item in items:
            item[...] = 7


def _shuffle(value: Any) -> None:
    _array(value)
    _each(
        (
            lambda: np.random.default_rng(1).shuffle(value),
            lambda: np.random.RandomState(1).shuffle(value),
        )
    )


def _random_out(value: Any) -> None:
    np.random.default_rng(1).random(out=_array(value))


def _real(value: Any) -> None:
    value.real[...] = 7


def _as_record(value: Any) -> None:
    value.view(np.recarray)[...] = 7


def _in_place(name: str, other: Any) -> Mutator:
    """The in-place operator of that name, as `value OP= other`."""
    call: Callable[[Any, Any], object] = getattr(operator, name)
    return lambda value: call(value, other)


def _iadd_self(value: Any) -> None:
    value += value


def _isub_self(value: Any) -> None:
    value -= set(value)


def _every_item(value: Any) -> None:
    for key in list(value):
        value[key] = "changed"


MUTATORS: Final[Mapping[str, Mutator]] = MappingProxyType(
    {
        "setitem": lambda v: operator.setitem(v, 0, 9),
        "setitem_slice": lambda v: operator.setitem(v, slice(0, 1), [7, 7]),
        "every_item": _every_item,
        "delitem": lambda v: operator.delitem(v, 0),
        "delitem_key": lambda v: operator.delitem(v, next(iter(v))),
        "iadd": _iadd_self,
        "iadd_number": _in_place("iadd", 1),
        "imul": _in_place("imul", 2),
        "ior_dict": _in_place("ior", {9: 9}),
        "ior_set": _in_place("ior", {-9}),
        "iand": _in_place("iand", {-9}),
        "ixor": _in_place("ixor", {-9}),
        "isub": _isub_self,
        "append": lambda v: v.append(9),
        "appendleft": lambda v: v.appendleft(9),
        "extend": lambda v: v.extend([9]),
        "insert": lambda v: v.insert(0, 9),
        "pop": lambda v: v.pop(),
        "popitem": lambda v: v.popitem(),
        "remove": lambda v: v.remove(next(iter(v))),
        "rotate": lambda v: v.rotate(1),
        "reverse": lambda v: v.reverse(),
        "sort": lambda v: v.sort(key=repr, reverse=True),
        "add": lambda v: v.add(-9),
        "update": lambda v: v.update({-9: 9}),
        "setdefault": lambda v: v.setdefault("new", 9),
        "move_to_end": lambda v: v.move_to_end(next(iter(v))),
        "subtract": lambda v: v.subtract("ab"),
        "missing_key": lambda v: v["missing"],
        "clear": lambda v: v.clear(),
        "list_append": lambda v: list.append(v, 9),
        "dict_setitem": lambda v: dict.__setitem__(v, "k", 9),
        "set_clear": set.clear,
        "setattr": _setattr,
        "object_setattr": _object_setattr,
        "delattr": _delattr,
        "object_delattr": _object_delattr,
        "slot_set": _slot_set,
        "dict_update": _dict_update,
        "dict_swap": _dict_swap,
        "class_swap": _class_swap,
        "init_again": _init_again,
        "init_keywords": _init_keywords,
        "setstate": _setstate,
        "fields_set": _fields_set,
        "private_attributes": _private_attributes,
        "extras": _extras,
        "shallow_copy": _shallow_copy,
        "replace": _replace,
        "model_copy": _model_copy,
        "pickle_round": _pickle_round,
        "pickle_buffers": _pickle_buffers,
        "pickle_buffer": _pickle_buffer,
        "reduced": _reduced,
        "state": _state,
        "memoryview": _memoryview,
        "ctypes_buffer": _ctypes_buffer,
        "read_into": _read_into,
        "pack_into": _pack_into,
        "unlock": _unlock,
        "base": _base,
        "reinterpret": _reinterpret,
        "rename": _rename,
        "reshape": _reshape,
        "restride": _restride,
        "byteswap": lambda v: v.byteswap(True),
        "fill": lambda v: v.fill(7),
        "partition": lambda v: v.partition(0),
        "ufunc_out": _ufunc_out,
        "ufunc_at": _ufunc_at,
        "copy_to": _copy_to,
        "put": _put,
        "flat": _flat,
        "nditer": _nditer,
        "shuffle": _shuffle,
        "random_out": _random_out,
        "real": _real,
        "as_record": _as_record,
    }
)
