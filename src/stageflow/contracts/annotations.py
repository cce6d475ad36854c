"""What an annotation says without its wrappers, and the fields of the classes it names."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import enum
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from stageflow.model import objects
from stageflow.model.refusal import type_label

Bindings = Mapping[Any, Any]
"""What each type variable of a generic class stands for."""

_NONE: Bindings = types.MappingProxyType({})

ANYTHING: frozenset[Any] = frozenset({Any, object, inspect.Parameter.empty})

SEQUENCES: frozenset[type] = frozenset(
    {list, set, frozenset, tuple, collections.deque}
    | {
        getattr(collections.abc, name)
        for name in ("Sequence", "MutableSequence", "Set", "MutableSet", "Collection", "Iterable")
    }
)
MAPPINGS: frozenset[type] = frozenset(
    {dict, collections.OrderedDict, collections.defaultdict, collections.Counter}
    | {collections.abc.Mapping, collections.abc.MutableMapping}
)


@dataclass(frozen=True, slots=True)
class Spelled:
    """One annotation without Annotated, Final, NewType, aliases and the like."""

    base: Any
    """A class, `types.UnionType` for any union, `Literal`, or `Any`."""
    args: tuple[Any, ...] = ()
    metadata: tuple[Any, ...] = ()
    """What Annotated carried, outermost last."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record class."""

    name: str
    annotation: Any
    is_required: bool
    metadata: tuple[Any, ...] = ()


def spelled(annotation: Any, bindings: Bindings = _NONE) -> Spelled:
    """Unfolds one level; `args` stay as they were written, with type variables replaced."""
    if type(annotation) is type and annotation not in ANYTHING:
        return Spelled(annotation)  # what most are
    metadata: tuple[Any, ...] = ()
    while True:
        origin = get_origin(annotation)
        if origin is typing.Annotated:
            metadata = (*annotation.__metadata__, *metadata)
            annotation = annotation.__origin__
        elif origin in _WRAPPERS:
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif isinstance(annotation, typing.TypeVar):
            if annotation in bindings:
                annotation = bindings[annotation]
            elif annotation.__bound__ is not None:
                annotation = annotation.__bound__
            elif annotation.__constraints__:
                annotation = typing.Union[annotation.__constraints__]  # noqa: UP007
            else:
                annotation = Any
        elif hasattr(annotation, "__value__") and hasattr(annotation, "__type_params__"):
            annotation = annotation.__value__  # a `type` statement, or its backport
        else:
            break
    args = tuple(_bound(arg, bindings) for arg in get_args(annotation))
    if origin is typing.Union or origin is types.UnionType:
        return Spelled(types.UnionType, args, metadata)
    if origin is typing.Literal:
        return Spelled(typing.Literal, get_args(annotation), metadata)
    if annotation is None:
        return Spelled(type(None), (), metadata)
    if any(annotation is known for known in ANYTHING):
        return Spelled(Any, (), metadata)
    base = annotation if origin is None else origin
    return Spelled(base if isinstance(base, type) else Any, args, metadata)


_WRAPPERS = (typing.Required, typing.NotRequired, typing.Final, typing.ClassVar)


def _bound(arg: Any, bindings: Bindings) -> Any:
    return bindings.get(arg, arg) if isinstance(arg, typing.TypeVar) else arg


def is_record(cls: Any) -> bool:
    """True for classes whose instances have declared fields."""
    return isinstance(cls, type) and (
        objects.is_pydantic_model(cls)
        or dataclasses.is_dataclass(cls)
        or objects.is_struct(cls)
        or hasattr(cls, "__attrs_attrs__")
        or objects.is_named_tuple(cls)
    )


def is_typed_dict(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, dict) and hasattr(cls, "__required_keys__")


def bindings_of(cls: type, args: Iterable[Any]) -> Bindings:
    """Binds the parameters of a generic class to the arguments it was written with."""
    parameters = getattr(cls, "__parameters__", ())
    return dict(zip(parameters, args, strict=False))


def fields_of(cls: type, args: tuple[Any, ...] = ()) -> tuple[Field, ...]:
    """The declared fields of a record class or TypedDict, in order, type variables bound."""
    bindings = bindings_of(cls, args)
    if objects.is_pydantic_model(cls):
        return tuple(
            Field(name, info.annotation, info.is_required(), tuple(info.metadata))
            for name, info in cls.__pydantic_fields__.items()  # type: ignore[attr-defined]
        )
    hints = _hints(cls)
    if is_typed_dict(cls):
        required = cls.__required_keys__  # type: ignore[attr-defined]
        return tuple(
            Field(name, _bound(hint, bindings), name in required) for name, hint in hints.items()
        )
    if dataclasses.is_dataclass(cls):
        return tuple(
            Field(
                field.name,
                _bound(hints.get(field.name, Any), bindings),
                field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING,
            )
            for field in dataclasses.fields(cls)
        )
    if objects.is_struct(cls):
        names: tuple[str, ...] = cls.__struct_fields__  # type: ignore[attr-defined]
        optional = len(cls.__struct_defaults__)  # type: ignore[attr-defined]
        return tuple(
            Field(name, _bound(hints.get(name, Any), bindings), place < len(names) - optional)
            for place, name in enumerate(names)
        )
    if hasattr(cls, "__attrs_attrs__"):
        return tuple(
            Field(attribute.name, _bound(hints.get(attribute.name, Any), bindings), True)
            for attribute in cls.__attrs_attrs__
        )
    defaults = getattr(cls, "_field_defaults", {})
    return tuple(
        Field(name, _bound(hints.get(name, Any), bindings), name not in defaults)
        for name in cls._fields  # type: ignore[attr-defined]
    )


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except NameError:
        # A name that is known only where the class was made, inside a function. Its values are
        # still checked by the validator; they count as Any here.
        return {
            name: Any if isinstance(hint, str) else hint
            for base in reversed(cls.__mro__)
            for name, hint in vars(base).get("__annotations__", {}).items()
        }


_NO_TYPES = (list, tuple, dict, set, frozenset, int, float, complex, bytes, types.EllipsisType)


def no_types(annotation: Any) -> Iterator[Any]:
    """What is written where a type belongs and is none: the `[int]` of `-> [int]`."""
    origin = get_origin(annotation)
    if isinstance(annotation, _NO_TYPES):
        yield annotation
    elif origin is typing.Annotated:
        yield from no_types(annotation.__origin__)
    elif origin is not typing.Literal and origin is not collections.abc.Callable:
        for arg in get_args(annotation):
            if not (arg is ... and origin is tuple):
                yield from no_types(arg)


def describe(annotation: Any) -> str:
    """The short name of a type for people: `list[str]`, `Answer | None`."""
    said = spelled(annotation)
    if said.base is types.UnionType:
        return " | ".join(describe(arg) for arg in said.args)
    if said.base is typing.Literal:
        return f"Literal[{', '.join(_constant(arg) for arg in said.args)}]"
    if said.base is Any:
        return "Any"
    if said.base is type(None):
        return "None"
    name: str = said.base.__qualname__.rpartition("<locals>.")[2]
    if not said.args:
        return name
    args = ["..." if arg is ... else describe(arg) for arg in said.args]
    return f"{name}[{', '.join(args)}]"


def _constant(value: Any) -> str:
    return f"{type(value).__name__}.{value.name}" if isinstance(value, enum.Enum) else repr(value)


def structure(annotation: Any, *, bindings: Bindings = _NONE) -> Any:
    """A tree of plain lists and strings that is equal in every process, for hashing.

    It names types, fields, which are required, and constraints; a class met again is only named, so
    that recursive and widely shared classes cost their own size. Defaults and documentation are
    left out: they change no stored value.
    """
    return _structure(annotation, bindings, set())


def _structure(annotation: Any, bindings: Bindings, seen: set[Any]) -> Any:
    said = spelled(annotation, bindings)
    rules = [_rule(item) for item in said.metadata]
    if said.base is typing.Literal:
        return ["literal", [[type_label(type(arg)), _constant(arg)] for arg in said.args], rules]
    if said.base is Any:
        return ["any", getattr(annotation, "__qualname__", ""), rules]
    cls = said.base
    name = "union" if cls is types.UnionType else type_label(cls)
    args = [
        "..." if arg is ... else _structure(arg, bindings, seen)
        for arg in said.args
        if not isinstance(arg, list)
    ]
    if isinstance(cls, enum.EnumMeta):
        members: dict[str, Any] = dict(cls.__members__)
        return ["enum", name, [[key, repr(member.value)] for key, member in members.items()], rules]
    if not (is_record(cls) or is_typed_dict(cls)):
        return [name, args, rules]
    if (cls, repr(said.args)) in seen:
        return ["again", name, args]
    seen.add((cls, repr(said.args)))
    config = getattr(cls, "model_config", {})
    fields = [
        [
            field.name,
            "required" if field.is_required else "optional",
            _structure(field.annotation, bindings_of(cls, said.args), seen),
            [_rule(item) for item in field.metadata],
        ]
        for field in fields_of(cls, said.args)
    ]
    return ["record", name, args, fields, str(config.get("extra", "")), rules]


def _rule(item: Any) -> str:
    """A constraint as text without addresses: functions by name, the rest by what they hold."""
    if isinstance(item, (str, int, float, bool, type(None))):
        return repr(item)
    if isinstance(item, (list, tuple, set, frozenset)):
        told = [_rule(inner) for inner in item]
        return f"[{', '.join(told if isinstance(item, (list, tuple)) else sorted(told))}]"
    if isinstance(item, dict):
        return f"{{{', '.join(f'{_rule(key)}: {_rule(inner)}' for key, inner in item.items())}}}"
    if type(item).__name__ == "FieldInfo" and hasattr(item, "metadata"):
        return _rule(list(item.metadata))  # its titles and defaults change no stored value
    if isinstance(item, re.Pattern):
        return repr(item.pattern)
    if isinstance(item, type) or inspect.isroutine(item):
        return f"{item.__module__}:{item.__qualname__}"
    names = [*getattr(item, "__slots__", ()), *getattr(item, "__dict__", ())]
    held = sorted(
        (name, getattr(item, name, None)) for name in set(names) if not name.startswith("_")
    )
    shown = ", ".join(f"{name}={_rule(value)}" for name, value in held if value is not None)
    return f"{type_label(type(item))}({shown})"
