"""How an instance of a user's class is taken apart: which classes, and where their state lies."""

from __future__ import annotations

import enum
import sys
import types
from dataclasses import dataclass
from typing import Any

_SLOTTED = frozenset(
    {
        "uuid:UUID",
        "fractions:Fraction",
        "pydantic.types:SecretStr",
        "pydantic.types:SecretBytes",
        "pydantic.types:Secret",
    }
)
"""Classes of values whose whole state is their slots or `__dict__`; named, to import none."""

_TEXTUAL = frozenset(
    {"pathlib:PurePosixPath", "pathlib:PureWindowsPath", "pathlib:PosixPath", "pathlib:WindowsPath"}
    | {
        f"ipaddress:IPv{version}{what}"
        for version in (4, 6)
        for what in ("Address", "Network", "Interface")
    }
)
"""Classes that are wholly told by `str(value)` and made again from it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the state of a class's instances lies."""

    cls: type
    has_dict: bool
    members: tuple[types.MemberDescriptorType, ...]
    """Slots of the class and its bases; a slot may be unset."""


def is_enum(cls: type) -> bool:
    return isinstance(cls, enum.EnumMeta)


def is_named_tuple(cls: type) -> bool:
    """True for NamedTuple classes and their subclasses, which only add a `__dict__`."""
    fields = getattr(cls, "_fields", None)
    return issubclass(cls, tuple) and isinstance(fields, tuple)


def is_textual(cls: type) -> bool:
    return f"{cls.__module__}:{cls.__qualname__}" in _TEXTUAL


def is_struct(cls: type) -> bool:
    struct = _loaded("msgspec", "Struct")
    return struct is not None and issubclass(cls, struct)


def is_pydantic_model(cls: type) -> bool:
    model = _loaded("pydantic.main", "BaseModel")
    return model is not None and issubclass(cls, model)


def is_ndarray(cls: type) -> bool:
    ndarray = _loaded("numpy", "ndarray")
    return ndarray is not None and cls is ndarray


def is_numpy_scalar(cls: type) -> bool:
    """NumPy scalars of the library itself, without `void`, whose items can be assigned."""
    generic, void = _loaded("numpy", "generic"), _loaded("numpy", "void")
    if generic is None or void is None or not issubclass(cls, generic):
        return False
    return cls.__module__ == "numpy" and not issubclass(cls, void)


def _loaded(module: str, name: str) -> Any:
    """A class of a library that the program has loaded; None when it has not.

    Also None while another thread is importing the library: nobody has a class of it before.
    """
    return getattr(sys.modules.get(module), name, None)


def is_foreign_leaf(cls: type) -> bool:
    """Immutable types of pydantic's compiled core and of `re`, whose instances have no slots."""
    name = f"{cls.__module__}:{cls.__qualname__}"
    return name in {
        "pydantic_core._pydantic_core:Url",
        "pydantic_core._pydantic_core:MultiHostUrl",
        "pydantic_core._pydantic_core:TzInfo",
    }


def layout_of(cls: type) -> Layout | None:
    """The layout of a class whose instances are data; None when that is not known of it.

    Known are dataclasses, attrs classes, pydantic models, and the value types named above.
    """
    is_data = (
        hasattr(cls, "__dataclass_fields__")
        or hasattr(cls, "__attrs_attrs__")
        or is_pydantic_model(cls)
        or f"{cls.__module__}:{cls.__qualname__}" in _SLOTTED
        or any(base.__name__ == "_BaseUrl" for base in cls.__mro__ if _is_pydantic(base))
        or any(base.__name__ == "_SecretBase" for base in cls.__mro__ if _is_pydantic(base))
    )
    if not is_data or issubclass(cls, BaseException):
        return None
    try:
        object.__new__(cls)
    except TypeError:
        return None  # built on a C type with state of its own, or abstract
    members = tuple(
        member
        for base in cls.__mro__
        for member in vars(base).values()
        if isinstance(member, types.MemberDescriptorType)
    )
    return Layout(cls, cls.__dictoffset__ != 0, members)


def _is_pydantic(cls: type) -> bool:
    return cls.__module__.startswith("pydantic.")
