"""Settling: what makes every part of a validated value its own, one written function a contract.

pydantic makes models and containers anew, but hands some parts on: a model validated from an
instance shares that instance's set of given fields, a UUID or a date comes out as it went in, a
validator function returns what it likes. The function written here goes through a value once,
straight to these places, and checks or copies what stands there. It is written as source, as
`dataclasses` does: calls of one small function a model would cost more than the validation.

A `Settles` writes the lines for the value in one local variable. `target` is what those lines
assign to when the value is replaced: the variable, and the place that holds it. Lines that never
assign change the value where it is.
"""

from __future__ import annotations

import datetime
import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from stageflow.contracts.copying import Copier, pydantic_slot
from stageflow.model.freezing import LEAVES

Lines = list[str]
Settles = Callable[["Settler", str, str], Lines]
"""(settler, variable, target) -> lines, unindented. No lines: nothing is to be done."""

_DEPTH_MAX = 10
"""Blocks within one function; CPython allows 20 loops within each other, and 100 indents."""


class Settler:
    """The text of one function and the objects it names."""

    def __init__(self, settled: Copier, *, has_instances: bool) -> None:
        """`settled` checks or freezes any value. `has_instances`: models may share given fields."""
        self.has_instances = has_instances
        self._numbers = itertools.count()
        self._objects: dict[str, Any] = {}
        self._functions: dict[tuple[str, bool], str] = {}
        self.leaves = self.named(LEAVES)
        self.settled = self.named(settled)

    def fresh(self) -> str:
        """A name that nothing else has."""
        return f"v{next(self._numbers)}"

    def named(self, value: Any) -> str:
        """A name for an object; no text of a schema ever becomes source."""
        name = self.fresh()
        self._objects[name] = value
        return name

    def function(self, settles: Settles) -> Callable[[Any], Any] | None:
        """What settles a value and gives it; None when nothing is to be done."""
        value = self.fresh()
        lines = settles(self, value, value)
        return self._compiled(lines, value) if lines else None

    @contextmanager
    def instances(self) -> Iterator[None]:
        """Models within may have been given as instances."""
        before, self.has_instances = self.has_instances, True
        try:
            yield
        finally:
            self.has_instances = before

    def apart(self, key: str, settles: Settles, target: str, value: str) -> Lines:
        """Lines that call a function of their own, written once for each key."""
        place = key, self.has_instances
        if place not in self._functions:
            made = self.function(settles)
            self._functions[place] = "" if made is None else self.named(made)
        name = self._functions[place]
        return [f"{target} = {name}({value})"] if name else []

    def bounded(self, lines: Lines, value: str) -> Lines:
        """The same lines, or a call of them when they stand too deep. They assign to no target."""
        if max((len(line) - len(line.lstrip()) for line in lines), default=0) < _DEPTH_MAX:
            return lines
        return [f"{self.named(self._compiled(lines, value))}({value})"]

    def _compiled(self, lines: Lines, value: str) -> Callable[[Any], Any]:
        text = "\n".join([f"def settle({value}):", *within(lines), f" return {value}"])
        exec(compile(text, "<settling>", "exec"), self._objects)
        made: Callable[[Any], Any] = self._objects.pop("settle")
        return made


def within(lines: Iterable[str]) -> Lines:
    return [f" {line}" for line in lines]


def under(header: str, lines: Lines) -> Lines:
    """A block; nothing when it would be empty."""
    return [header, *within(lines)] if lines else []


def assigns(lines: Lines, target: str) -> bool:
    return any(line.lstrip().startswith(f"{target} = ") for line in lines)


# -- leaves --------------------------------------------------------------------------------------


def loose(settler: Settler, value: str, target: str) -> Lines:
    """Whatever stands there: it is frozen unless it is a leaf."""
    return [f"if type({value}) not in {settler.leaves}:", f" {target} = {settler.settled}({value})"]


def exactly(cls: type) -> Settles:
    """A leaf when it is of that very class; a subclass is refused."""

    def write(settler: Settler, value: str, target: str) -> Lines:
        name = settler.named(cls)
        return [f"if type({value}) is not {name}:", f" {target} = {settler.settled}({value})"]

    return write


def moment(cls: type) -> Settles:
    """A date or a time of day, whose zone may be anybody's."""

    def write(settler: Settler, value: str, target: str) -> Lines:
        kind = f"type({value}) is not {settler.named(cls)}"
        zone = settler.named(datetime.UTC)
        return [
            f"if {kind} or {value}.tzinfo is not None and {value}.tzinfo is not {zone}:",
            f" {target} = {settler.settled}({value})",
        ]

    return write


def copied_uuid(settler: Settler, value: str, target: str) -> Lines:
    """A UUID comes out of validation as it went in, and `object.__setattr__` writes to it."""
    new, cls, made = settler.named(object.__new__), settler.named(uuid.UUID), settler.fresh()
    put_number = settler.named(uuid.UUID.__dict__["int"].__set__)
    put_safety = settler.named(uuid.UUID.__dict__["is_safe"].__set__)
    return [
        f"if type({value}) is {cls}:",
        f" {made} = {new}({cls})",
        f" {put_number}({made}, {value}.int)",
        f" {put_safety}({made}, {value}.is_safe)",
        f" {target} = {made}",
        "else:",
        f" {target} = {settler.settled}({value})",
    ]


# -- where something else may stand --------------------------------------------------------------


def unless_none(settles: Settles | None) -> Settles | None:
    if settles is None:
        return None
    return lambda settler, value, target: under(
        f"if {value} is not None:", settles(settler, value, target)
    )


def unless_leaf(settles: Settles | None) -> Settles | None:
    if settles is None:
        return None
    return lambda settler, value, target: under(
        f"if type({value}) not in {settler.leaves}:", settles(settler, value, target)
    )


# -- containers ----------------------------------------------------------------------------------


def items(settles: Settles | None) -> Settles | None:
    """Of a list."""
    if settles is None:
        return None

    def write(settler: Settler, value: str, target: str) -> Lines:
        at, item = settler.fresh(), settler.fresh()
        place = f"{value}[{at}] = {item}"
        lines = settles(settler, item, place)
        header = f"for {at}, {item} in enumerate({value}):"
        if not assigns(lines, place):
            header = f"for {item} in {value}:"
        return settler.bounded(under(header, lines), value)

    return write


def values(settles: Settles | None) -> Settles | None:
    """Of a dict: assigning to a key that is there keeps its order and its iterators."""
    if settles is None:
        return None

    def write(settler: Settler, value: str, target: str) -> Lines:
        key, item = settler.fresh(), settler.fresh()
        lines = settles(settler, item, f"{value}[{key}] = {item}")
        return settler.bounded(under(f"for {key}, {item} in {value}.items():", lines), value)

    return write


def places(each: list[Settles | None]) -> Settles | None:
    """Of a tuple of fixed length. It is made anew when an item is replaced."""
    if not any(each):
        return None

    def write(settler: Settler, value: str, target: str) -> Lines:
        names = [settler.fresh() for _ in each]
        lines, is_replaced = [], False
        for name, settles in zip(names, each, strict=True):
            inner = settles(settler, name, name) if settles else []
            is_replaced = is_replaced or assigns(inner, name)
            lines += inner
        if not lines:
            return []
        told = f"({', '.join(names)},)"
        return [f"{told} = {value}", *lines, *([f"{target} = {told}"] if is_replaced else [])]

    return write


def run_of(settles: Settles | None) -> Settles | None:
    """Of a tuple of any length."""
    if settles is None:
        return None

    def write(settler: Settler, value: str, target: str) -> Lines:
        held = settler.fresh()
        listed = items(settles)
        assert listed is not None
        lines = listed(settler, held, held)
        return [f"{held} = list({value})", *lines, f"{target} = tuple({held})"] if lines else []

    return write


# -- records -------------------------------------------------------------------------------------


def fields(
    settler: Settler,
    held: str,
    each: Mapping[str, Settles | None],
    *,
    may_lack: bool = False,
    has_extra: bool = False,
) -> Lines:
    """The lines for a dict of fields in the variable `held`, which may lack some or have others."""
    out: Lines = []
    for key, settles in each.items():
        if settles is None:
            continue
        name, value = settler.named(key), settler.fresh()
        lines = settles(settler, value, f"{held}[{name}] = {value}")
        if lines:
            lines = [f"{value} = {held}[{name}]", *lines]
        out += under(f"if {name} in {held}:", lines) if may_lack else lines
    if has_extra:
        key, item, names = settler.fresh(), settler.fresh(), settler.named(frozenset(each))
        extra = under(f"if {key} not in {names}:", loose(settler, item, f"{held}[{key}] = {item}"))
        extra = under(f"for {key}, {item} in {held}.items():", extra)
        out += extra if may_lack else under(f"if len({held}) > {len(each)}:", extra)
    return out


def keyed(each: Mapping[str, Settles | None], *, has_extra: bool) -> Settles | None:
    """Of a dict with these keys."""
    if not any(each.values()) and not has_extra:
        return None

    def write(settler: Settler, value: str, target: str) -> Lines:
        lines = fields(settler, value, each, may_lack=True, has_extra=has_extra)
        return settler.bounded(lines, value)

    return write


def record(each: Mapping[str, Settles | None], *, has_extra: bool) -> Settles | None:
    """Of a dataclass whose state is its `__dict__`, extra fields among it."""
    if not any(each.values()) and not has_extra:
        return None

    def write(settler: Settler, value: str, target: str) -> Lines:
        held, get = settler.fresh(), settler.named(object.__getattribute__)
        lines = fields(settler, held, each, has_extra=has_extra)
        if lines:
            lines = [f'{held} = {get}({value}, "__dict__")', *lines]
        return settler.bounded(lines, value)

    return write


def model(
    each: Mapping[str, Settles | None], *, has_extra: bool, is_instance_always: bool
) -> Settles:
    """Of a pydantic model. `is_instance_always`: it may have been given as an instance, whatever
    the settler says of the other models."""
    put_given = pydantic_slot("__pydantic_fields_set__").__set__

    def write(settler: Settler, value: str, target: str) -> Lines:
        lines: Lines = []
        if settler.has_instances or is_instance_always:
            put = settler.named(put_given)
            lines.append(f"{put}({value}, {value}.__pydantic_fields_set__.copy())")
        held = settler.fresh()
        inner = fields(settler, held, each)
        if inner:
            lines += [f"{held} = {value}.__dict__", *inner]
        if has_extra:
            more, every = settler.fresh(), values(loose)
            assert every is not None
            lines += [f"{more} = {value}.__pydantic_extra__"]
            lines += under(f"if {more}:", every(settler, more, more))
        return settler.bounded(lines, value)

    return write


def by_class(each: Mapping[type, Settles | None]) -> Settles | None:
    """Of one of several classes of models."""
    if not any(each.values()):
        return None

    def write(settler: Settler, value: str, target: str) -> Lines:
        kind = settler.fresh()
        lines = _branches(settler, kind, each, value, target)
        return [f"{kind} = type({value})", *lines] if lines else []

    return write


def one_of(leaves: frozenset[type], each: Mapping[type, Settles | None]) -> Settles:
    """Of a union: a leaf, a value of one of these classes, or what has to be frozen."""

    def write(settler: Settler, value: str, target: str) -> Lines:
        kind = settler.fresh()
        with settler.instances():
            lines = _branches(settler, kind, each, value, target)
        untold = [cls for cls, settles in each.items() if settles is None]
        frozen = f" {target} = {settler.settled}({value})"
        return [
            f"{kind} = type({value})",
            f"if {kind} not in {settler.named(leaves.union(untold))}:",
            *within([*lines, "else:", frozen] if lines else [frozen.lstrip()]),
        ]

    return write


def _branches(
    settler: Settler, kind: str, each: Mapping[type, Settles | None], value: str, target: str
) -> Lines:
    lines = Lines()
    for cls, settles in each.items():
        inner = settles(settler, value, target) if settles else []
        word = "elif" if lines else "if"
        lines += under(f"{word} {kind} is {settler.named(cls)}:", inner)
    return lines
