"""What a stage is made to give: a payload, the form it comes in, and pydantic's verdict on it."""

from __future__ import annotations

import copy
import dataclasses
import enum
import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, RootModel, TypeAdapter

from .generated_models import Shape
from .payload_mutations import CANARY, MUTATIONS, mutated

FORMS: Final = ("plain", "instance", "constructed", "tampered")
"""As dicts and scalars; as a validated model; as one that `model_construct` made without looking;
as a validated model in which one field was overwritten."""


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """One output of one stage."""

    value: Any
    form: str
    mutation: str
    """A key of MUTATIONS, or "none"."""
    expected: str | None
    """`digest` of what pydantic makes of it; None when it refuses."""
    canary: bool
    """True when the payload holds a text that no message may repeat."""


class Oracle:
    """Direct pydantic validation of a shape."""

    def __init__(self, shape: Shape) -> None:
        self._adapter: TypeAdapter[Any] = TypeAdapter(shape.annotation)

    def validated(self, payload: Any) -> tuple[bool, Any]:
        """(whether pydantic accepts a deep copy of `payload`, what it makes of it)."""
        try:
            return True, self._adapter.validate_python(as_input(copy.deepcopy(payload)))
        except Exception:  # the verdict, or a crashed validator: nothing accepted
            return False, None

    def expected(self, payload: Any) -> str | None:
        """`digest` of the validated value, or None."""
        accepted, value = self.validated(payload)
        return digest(value) if accepted else None


def given(shape: Shape, oracle: Oracle, payload: Any, rng: random.Random) -> Given:
    """`payload` in some form, mutated or not."""
    form = rng.choices(FORMS, (11, 3, 3, 3))[0]
    kind = "none" if form == "instance" or rng.random() < 0.25 else rng.choice(_KINDS)
    changed = None if kind == "none" else mutated(payload, kind, rng)
    if changed is None:
        kind, changed = "none", [copy.deepcopy(payload)]
    value, form = _formed(shape, oracle, form, payload, changed[0])
    # pydantic takes its own instances as they are, so a validated one is its own verdict.
    expected = digest(value) if form == "instance" else oracle.expected(value)
    return Given(value, form, kind, expected, CANARY in repr(changed[0]))


_KINDS: Final[Sequence[str]] = tuple(MUTATIONS)


def _formed(shape: Shape, oracle: Oracle, form: str, payload: Any, changed: Any) -> tuple[Any, str]:
    """The payload in that form; plain where it cannot have it."""
    if form == "plain":
        return changed, form
    if form == "constructed":
        names = isinstance(changed, dict) and all(isinstance(key, str) for key in changed)
        if shape.model is None or not names:
            return changed, "plain"
        return shape.model.model_construct(**changed), form
    accepted, instance = oracle.validated(payload)
    if not accepted:
        return changed, "plain"
    if form == "instance":
        return instance, form
    if shape.model is None or not isinstance(changed, dict):
        return changed, "plain"
    for name in shape.model.model_fields:
        if name in changed and repr(changed[name]) != repr(payload.get(name)):
            # Past every check of the class, as code that holds the instance can.
            instance.__dict__[name] = changed[name]
            instance.__pydantic_fields_set__.add(name)
    return instance, form


def as_input(value: Any) -> Any:
    """An instance as the input that it claims to be the validation of.

    pydantic trusts instances; read as input, their fields are validated again.
    """
    if isinstance(value, RootModel):
        return as_input(value.root)
    if isinstance(value, BaseModel):
        told = value.__pydantic_fields_set__
        fields = {name: item for name, item in value.__dict__.items() if name in told}
        fields |= value.__pydantic_extra__ or {}
        return {name: as_input(item) for name, item in fields.items()}
    if type(value) is dict:
        return {key: as_input(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(as_input(item) for item in value)
    return value


def digest(value: Any) -> str:
    """16 hexadecimal digits over types and contents, in this scenario's own reading.

    The framework's hash is not asked: what freezing lost, it could not see.
    """
    text = _told(value).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _told(value: Any) -> str:
    cls = type(value)
    if cls in (int, str, float, bool, bytes):
        return f"{cls.__name__}:{value!r}"
    if isinstance(value, BaseModel):
        told = sorted(value.__pydantic_fields_set__ & set(cls.model_fields))
        extra = _told(value.__pydantic_extra__)
        return f"{_name(cls)}({_items(value.__dict__)}|{extra}|{told})"
    if isinstance(value, dict):
        return f"{_name(cls)}{{{_items(value)}}}"
    if isinstance(value, (list, tuple)):
        return f"{_name(cls)}[{','.join(map(_told, value))}]"
    if isinstance(value, (set, frozenset)):
        return f"{_name(cls)}{{{','.join(sorted(map(_told, value)))}}}"
    if isinstance(value, enum.Enum):
        return f"{_name(cls)}.{value.name}"
    if dataclasses.is_dataclass(value):
        return f"{_name(cls)}({_items(value.__dict__)})"
    return f"{_name(cls)}:{value!r}"


def _items(items: Mapping[Any, Any]) -> str:
    return ",".join(f"{_told(key)}={_told(item)}" for key, item in items.items())


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
