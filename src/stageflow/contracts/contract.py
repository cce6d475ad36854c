"""A contract: one declared type, compiled once, checked where a value enters."""

from __future__ import annotations

import functools
import hashlib
import inspect
import types
import typing
from typing import Any

from stageflow.contracts.annotations import ANYTHING, describe, structure
from stageflow.contracts.codec import Codec
from stageflow.contracts.places import Place, undecodable
from stageflow.contracts.validation import Validator
from stageflow.contracts.violation import ContractViolated, problems_of, redacted
from stageflow.model.errors import ContractError, ValueRefused
from stageflow.model.refusal import type_label
from stageflow.model.values import Freezer

_EXACT: frozenset[Any] = frozenset({int, str, float, bool, bytes, type(None), dict, list})
"""Types whose exact instances pydantic accepts and returns as they are."""


_UNCHANGING: tuple[Any, ...] = (
    *(int, str, float, bool, bytes, type(None), dict, list, tuple, set, frozenset),
    *(Any, ...),
)
"""What types are made of that nobody changes, and of which equal ones mean the same."""
_KEPT_MAX = 512
"""Contracts of such types that are kept, those used last."""


def contract_of(annotation: Any) -> Contract:
    """The contract of a type. Raises BuildError `contract.unsupported` when it cannot be checked.

    A missing annotation (`inspect.Parameter.empty`) is Any. Types of built-in ones only, such as
    `list[int]`, have one contract each, which is made once.
    """
    return _kept(annotation) if _is_unchanging(annotation) else Contract(annotation)


def _is_unchanging(annotation: Any) -> bool:
    """False for all others, as for unions: `int | str` equals `str | int`, which tries otherwise
    and is told otherwise."""
    if type(annotation) is types.GenericAlias:
        parts = (annotation.__origin__, *annotation.__args__)
        return not annotation.__unpacked__ and all(map(_is_unchanging, parts))
    return any(annotation is one for one in _UNCHANGING)


class Contract:
    """One declared type: it admits values, and encodes and decodes them for the journal.

    Immutable. `hash` is 32 hexadecimal digits over the structure of the type (names, fields, which
    are required, constraints), equal in every process.
    """

    __slots__ = ("_codec", "_exact", "_validator", "annotation", "hash")

    annotation: Any
    hash: str
    _codec: Codec
    _exact: frozenset[Any] | None
    _validator: Validator | None

    def __init__(self, annotation: Any) -> None:
        if annotation is inspect.Parameter.empty:
            annotation = Any
        exact = _exact(annotation)
        # Compiled at once, so that a type that cannot be checked is a build error. For scalars and
        # Any that cannot happen; they wait, and a pipeline of nothing else never loads pydantic.
        validator = Validator(annotation) if exact is None else None
        told = repr(structure(annotation)).encode("utf-8", "backslashreplace")
        digest = hashlib.blake2b(told, digest_size=16)
        fill = object.__setattr__
        fill(self, "annotation", annotation)
        fill(self, "hash", digest.hexdigest())
        fill(self, "_exact", exact)
        fill(self, "_validator", validator)
        fill(self, "_codec", Codec(annotation, digest.digest(), describe(annotation)))

    def __setattr__(self, name: str, value: Any) -> typing.NoReturn:
        raise AttributeError(f"a contract cannot be changed: {name}")

    def __repr__(self) -> str:
        return f"<contract {self.describe()}>"

    def describe(self) -> str:
        """The type's short name, as errors show it: `list[str]`."""
        return describe(self.annotation)

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema of what is admitted; empty for a type that has none."""
        from pydantic import TypeAdapter  # slow to import; only who shows a form asks for it
        from pydantic.errors import PydanticInvalidForJsonSchema
        from pydantic.json_schema import GenerateJsonSchema

        class Silent(GenerateJsonSchema):
            """Leaves out what JSON can't say, without a warning to whoever reads the form."""

            ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

        try:
            return TypeAdapter(self.annotation).json_schema(schema_generator=Silent)
        except PydanticInvalidForJsonSchema:
            return {}

    def admit(self, value: Any, freezer: Freezer) -> Any:
        """The canonical form of the validated value.

        The same values pass that pydantic would let pass with `revalidate_instances="always"`, in
        the mode that the type's own config says. Raises ContractViolated (`contract.violated`,
        `contract.validator`) and ValueRefused (`value.*`).
        """
        exact = self._exact
        if exact is not None and (not exact or type(value) in exact):
            return freezer.freeze(value)
        validator = self._validator or self._made()
        owning = validator.owning()
        if owning is None or not freezer.is_plain:
            return freezer.freeze(self._validated(validator, value))
        owned, validate = owning
        try:
            return owned.kept(validate(value))
        except ValueRefused:  # its path begins somewhere inside
            return freezer.freeze(self._validated(validator, value))
        except Exception as error:
            raise self._refusal(error, value) from None

    def _made(self) -> Validator:
        validator = Validator(self.annotation)
        object.__setattr__(self, "_validator", validator)
        return validator

    def _validated(self, validator: Validator, value: Any) -> Any:
        try:
            return validator(value)
        except Exception as error:
            raise self._refusal(error, value) from None

    def _refusal(self, error: Exception, value: Any) -> ContractError:
        from pydantic import ValidationError  # loaded: its validator has raised this

        if isinstance(error, ValidationError):
            return ContractViolated(self.describe(), problems_of(error, value), redacted(value))
        # A user's validator raised something that is no verdict. Its text may quote the value,
        # so only its type is told; letting it pass through would hide where it came from.
        return ContractError(
            "contract.validator",
            f"a validator of {self.describe()} raised {type_label(type(error))}",
            expected="validators that return the value or raise ValueError",
            got=type_label(type(error)),
            fix="raise ValueError in the validator when the value is not acceptable",
        )

    def undecodable(self) -> str | None:
        """Path and reason why values could not be read by a new process; None when they could."""
        return undecodable(self._codec.place)

    @property
    def place(self) -> Place:
        """What the type allows inside its values."""
        return self._codec.place

    def encode(self, frozen: Any) -> bytes:
        """The canonical form as bytes for the journal.

        Raises ValueRefused `codec.undecodable` for what could not come back: a class that the type
        does not name at that place (a subclass, a model where Any is declared), a local class.
        """
        return self._codec.encode(frozen)

    def decode(self, data: bytes, freezer: Freezer | None = None) -> Any:
        """The canonical form again, its content hash equal. `freezer` brings the adapters needed.

        Raises ContractError: `codec.damaged` for any byte lost or changed, `codec.mismatch` for a
        value of another contract.
        """
        return self._codec.decode(data, freezer)


_kept = functools.lru_cache(_KEPT_MAX)(Contract)


def _exact(annotation: Any) -> frozenset[Any] | None:
    """Exact types that need no validator; empty when nothing does, None when everything does."""
    if any(annotation is known for known in ANYTHING):
        return frozenset()
    if annotation is None:
        return frozenset({type(None)})
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [_exact(arg) for arg in typing.get_args(annotation)]
        if any(member is None or not member for member in members):
            return None
        return frozenset().union(*(member for member in members if member))
    return (
        frozenset({annotation}) if isinstance(annotation, type) and annotation in _EXACT else None
    )
