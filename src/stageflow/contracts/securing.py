"""Securing: what makes every part of a validated value its own, one written function a contract.

pydantic makes models and containers anew, but hands some parts on: a model validated from an
instance shares that instance's set of given fields, a UUID or a date comes out as it went in, a
validator function returns what it likes. The function written here goes through a value once,
straight to these places, and checks or copies what stands there. It is written as source, as
`dataclasses` does: calls of one small function a model would cost more than the validation.

A `Secures` writes the lines for the value in one local variable. `target` is what those lines
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
Secures = Callable[["Securer", str, str], Lines]
"""(securer, variable, target) -> lines, unindented. No lines: nothing is to be done."""

_DEPTH_MAX = 10
"""Blocks within one function; CPython allows 20 loops within each other, and 100 indents."""


class Securer:
    """The text of one function and the objects it names."""

    def __init__(self, secured: Copier, *, has_instances: bool) -> None:
        """`secured` checks or freezes any value. `has_instances`: models may share given fields."""
        self.has_instances = has_instances
        self._numbers = itertools.count()
        self._objects: dict[str, Any] = {}
        self._functions: dict[tuple[str, bool], str] = {}
        self.leaves = self.named(LEAVES)
        self.secured = self.named(secured)

    def fresh(self) -> str:
        """A name that nothing else has."""
        return f"v{next(self._numbers)}"

    def named(self, value: Any) -> str:
        """A name for an object; no text of a schema ever becomes source."""
        name = self.fresh()
        self._objects[name] = value
        return name

    def function(self, secures: Secures) -> Callable[[Any], Any] | None:
        """What secures a value and gives it; None when nothing is to be done."""
        value = self.fresh()
        lines = secures(self, value, value)
        return self.compiled(lines, value) if lines else None

    @contextmanager
    def instances(self) -> Iterator[None]:
        """Models within may have been given as instances."""
        before, self.has_instances = self.has_instances, True
        try:
            yield
        finally:
            self.has_instances = before

    def apart(self, key: str, secures: Secures, target: str, value: str) -> Lines:
        """Lines that call a function of their own, written once for each key."""
        place = key, self.has_instances
        if place not in self._functions:
            made = self.function(secures)
            self._functions[place] = "" if made is None else self.named(made)
        name = self._functions[place]
        return [f"{target} = {name}({value})"] if name else []

    def bounded(self, lines: Lines, value: str) -> Lines:
        """The same lines, or a call of them when they stand too deep. They assign to no target."""
        if _depth(lines) < _DEPTH_MAX:
            return lines
        return [f"{self.named(self.compiled(lines, value))}({value})"]

    def returning(self, lines: Lines, value: str) -> Lines:
        """The same for lines that assign to `value` and to nothing else."""
        called = self.bounded(lines, value)
        return lines if called is lines else [f"{value} = {called[0]}"]

    def compiled(self, lines: Lines, value: str) -> Callable[[Any], Any]:
        """A function of these lines that is given `value`, and gives what they left there."""
        text = "\n".join([f"def secure({value}):", *within(lines), f" return {value}"])
        exec(compile(text, "<securing>", "exec"), self._objects)
        made: Callable[[Any], Any] = self._objects.pop("secure")
        return made


def _depth(lines: Lines) -> int:
    return max((len(line) - len(line.lstrip()) for line in lines), default=0)


def within(lines: Iterable[str]) -> Lines:
    return [f" {line}" for line in lines]


def under(header: str, lines: Lines) -> Lines:
    """A block; nothing when it would be empty."""
    return [header, *within(lines)] if lines else []


def assigns(lines: Lines, target: str) -> bool:
    return any(line.lstrip().startswith(f"{target} = ") for line in lines)


# -- leaves --------------------------------------------------------------------------------------


def loose(securer: Securer, value: str, target: str) -> Lines:
    """Whatever stands there: it is frozen unless it is a leaf."""
    return [f"if type({value}) not in {securer.leaves}:", f" {target} = {securer.secured}({value})"]


def exactly(cls: type) -> Secures:
    """A leaf when it is of that very class; a subclass is refused."""

    def write(securer: Securer, value: str, target: str) -> Lines:
        name = securer.named(cls)
        return [f"if type({value}) is not {name}:", f" {target} = {securer.secured}({value})"]

    return write


def moment(cls: type) -> Secures:
    """A date or a time of day, whose zone may be anybody's."""

    def write(securer: Securer, value: str, target: str) -> Lines:
        wrong = f"type({value}) is not {securer.named(cls)} or {foreign_zone(securer, value)}"
        return [f"if {wrong}:", f" {target} = {securer.secured}({value})"]

    return write


def foreign_zone(securer: Securer, value: str) -> str:
    """An expression: true of an exact date or time of day with a zone that has to be looked at.

    Not of UTC, nor of a fixed offset without a name.
    """
    utc, fixed = securer.named(datetime.UTC), securer.named(datetime.timezone)
    offset, zone, told = securer.named(datetime.timedelta), securer.fresh(), securer.fresh()
    return (
        f"({zone} := {value}.tzinfo) is not None and {zone} is not {utc} and"
        f" (type({zone}) is not {fixed} or len({told} := {zone}.__getinitargs__()) != 1"
        f" or type({told}[0]) is not {offset})"
    )


def copied_uuid(securer: Securer, value: str, target: str) -> Lines:
    """A UUID comes out of validation as it went in, and `object.__setattr__` writes to it."""
    new, cls, made = securer.named(object.__new__), securer.named(uuid.UUID), securer.fresh()
    put_number = securer.named(uuid.UUID.__dict__["int"].__set__)
    put_safety = securer.named(uuid.UUID.__dict__["is_safe"].__set__)
    return [
        f"if type({value}) is {cls}:",
        f" {made} = {new}({cls})",
        f" {put_number}({made}, {value}.int)",
        f" {put_safety}({made}, {value}.is_safe)",
        f" {target} = {made}",
        "else:",
        f" {target} = {securer.secured}({value})",
    ]


# -- where something else may stand --------------------------------------------------------------


def unless_none(secures: Secures | None) -> Secures | None:
    if secures is None:
        return None
    return lambda securer, value, target: under(
        f"if {value} is not None:", secures(securer, value, target)
    )


def unless_leaf(secures: Secures | None) -> Secures | None:
    if secures is None:
        return None
    return lambda securer, value, target: under(
        f"if type({value}) not in {securer.leaves}:", secures(securer, value, target)
    )


# -- containers ----------------------------------------------------------------------------------


def items(secures: Secures | None) -> Secures | None:
    """Of a list."""
    if secures is None:
        return None

    def write(securer: Securer, value: str, target: str) -> Lines:
        at, item = securer.fresh(), securer.fresh()
        place = f"{value}[{at}] = {item}"
        lines = secures(securer, item, place)
        header = f"for {at}, {item} in enumerate({value}):"
        if not assigns(lines, place):
            header = f"for {item} in {value}:"
        return securer.bounded(under(header, lines), value)

    return write


def values(secures: Secures | None) -> Secures | None:
    """Of a dict: assigning to a key that is there keeps its order and its iterators."""
    if secures is None:
        return None

    def write(securer: Securer, value: str, target: str) -> Lines:
        key, item = securer.fresh(), securer.fresh()
        lines = secures(securer, item, f"{value}[{key}] = {item}")
        return securer.bounded(under(f"for {key}, {item} in {value}.items():", lines), value)

    return write


def places(each: list[Secures | None]) -> Secures | None:
    """Of a tuple of fixed length. It is made anew when an item is replaced."""
    if not any(each):
        return None

    def write(securer: Securer, value: str, target: str) -> Lines:
        names = [securer.fresh() for _ in each]
        lines, is_replaced = [], False
        for name, secures in zip(names, each, strict=True):
            inner = secures(securer, name, name) if secures else []
            is_replaced = is_replaced or assigns(inner, name)
            lines += inner
        if not lines:
            return []
        told = f"({', '.join(names)},)"
        return [f"{told} = {value}", *lines, *([f"{target} = {told}"] if is_replaced else [])]

    return write


def run_of(secures: Secures | None) -> Secures | None:
    """Of a tuple of any length."""
    if secures is None:
        return None

    def write(securer: Securer, value: str, target: str) -> Lines:
        held = securer.fresh()
        listed = items(secures)
        assert listed is not None
        lines = listed(securer, held, held)
        return [f"{held} = list({value})", *lines, f"{target} = tuple({held})"] if lines else []

    return write


# -- records -------------------------------------------------------------------------------------


def fields(
    securer: Securer,
    held: str,
    each: Mapping[str, Secures | None],
    *,
    may_lack: bool = False,
    has_extra: bool = False,
) -> Lines:
    """The lines for a dict of fields in the variable `held`, which may lack some or have others."""
    out: Lines = []
    for key, secures in each.items():
        if secures is None:
            continue
        name, value = securer.named(key), securer.fresh()
        lines = secures(securer, value, f"{held}[{name}] = {value}")
        if lines:
            lines = [f"{value} = {held}[{name}]", *lines]
        out += under(f"if {name} in {held}:", lines) if may_lack else lines
    if has_extra:
        key, item, names = securer.fresh(), securer.fresh(), securer.named(frozenset(each))
        extra = under(f"if {key} not in {names}:", loose(securer, item, f"{held}[{key}] = {item}"))
        extra = under(f"for {key}, {item} in {held}.items():", extra)
        out += extra if may_lack else under(f"if len({held}) > {len(each)}:", extra)
    return out


def keyed(each: Mapping[str, Secures | None], *, has_extra: bool) -> Secures | None:
    """Of a dict with these keys."""
    if not any(each.values()) and not has_extra:
        return None

    def write(securer: Securer, value: str, target: str) -> Lines:
        lines = fields(securer, value, each, may_lack=True, has_extra=has_extra)
        return securer.bounded(lines, value)

    return write


def record(each: Mapping[str, Secures | None], *, has_extra: bool) -> Secures | None:
    """Of a dataclass whose state is its `__dict__`, extra fields among it."""
    if not any(each.values()) and not has_extra:
        return None

    def write(securer: Securer, value: str, target: str) -> Lines:
        held, get = securer.fresh(), securer.named(object.__getattribute__)
        lines = fields(securer, held, each, has_extra=has_extra)
        if lines:
            lines = [f'{held} = {get}({value}, "__dict__")', *lines]
        return securer.bounded(lines, value)

    return write


def model(
    each: Mapping[str, Secures | None], *, has_extra: bool, is_instance_always: bool
) -> Secures:
    """Of a pydantic model. `is_instance_always`: it may have been given as an instance, whatever
    the securer says of the other models."""
    put_given = pydantic_slot("__pydantic_fields_set__").__set__

    def write(securer: Securer, value: str, target: str) -> Lines:
        lines: Lines = []
        if securer.has_instances or is_instance_always:
            put = securer.named(put_given)
            lines.append(f"{put}({value}, {value}.__pydantic_fields_set__.copy())")
        held = securer.fresh()
        inner = fields(securer, held, each)
        if inner:
            lines += [f"{held} = {value}.__dict__", *inner]
        if has_extra:
            more, every = securer.fresh(), values(loose)
            assert every is not None
            lines += [f"{more} = {value}.__pydantic_extra__"]
            lines += under(f"if {more}:", every(securer, more, more))
        return securer.bounded(lines, value)

    return write


def by_class(each: Mapping[type, Secures | None]) -> Secures | None:
    """Of one of several classes of models."""
    if not any(each.values()):
        return None

    def write(securer: Securer, value: str, target: str) -> Lines:
        kind = securer.fresh()
        lines = _branches(securer, kind, each, value, target)
        return [f"{kind} = type({value})", *lines] if lines else []

    return write


def one_of(leaves: frozenset[type], each: Mapping[type, Secures | None]) -> Secures:
    """Of a union: a leaf, a value of one of these classes, or what has to be frozen."""

    def write(securer: Securer, value: str, target: str) -> Lines:
        kind = securer.fresh()
        with securer.instances():
            lines = _branches(securer, kind, each, value, target)
        untold = [cls for cls, secures in each.items() if secures is None]
        frozen = f" {target} = {securer.secured}({value})"
        return [
            f"{kind} = type({value})",
            f"if {kind} not in {securer.named(leaves.union(untold))}:",
            *within([*lines, "else:", frozen] if lines else [frozen.lstrip()]),
        ]

    return write


def _branches(
    securer: Securer, kind: str, each: Mapping[type, Secures | None], value: str, target: str
) -> Lines:
    lines = Lines()
    for cls, secures in each.items():
        inner = secures(securer, value, target) if secures else []
        word = "elif" if lines else "if"
        lines += under(f"{word} {kind} is {securer.named(cls)}:", inner)
    return lines
