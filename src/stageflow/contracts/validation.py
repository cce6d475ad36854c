"""The validator of one annotation: pydantic's own, made to check instances again, always.

By default pydantic trusts an instance of the right class, also one from `model_construct` or one
that was changed after it was made. Here every model and dataclass node of the core schema says
`revalidate_instances="always"`, in a copy of the schema; the validator is built without pydantic's
prebuilt class validators, which would bring the trust back.

Plain revalidation is wrong for some classes, since pydantic validates an instance as if it were the
input it was made from. Their nodes are wrapped (`_Wrap`) so that an instance

* of a class with aliases is read by field name;
* keeps its private attributes;
* of a class with its own `__init__`, InitVar or `init=False` fields is checked field by field;
* of a subclass is checked as what it is, and stays that, where pydantic would cut it down.
"""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Callable
from typing import Any

from stageflow.contracts.annotations import describe, no_types
from stageflow.contracts.ownership import Owned, Ownership, ownership
from stageflow.contracts.remaking import validator_of
from stageflow.model import objects
from stageflow.model.errors import BuildError
from stageflow.model.refusal import type_label

Validate = Callable[[Any], Any]

_NOT_SCHEMA = frozenset(
    {"metadata", "serialization", "config", "default", "expected", "members", "cls", "function"}
)
"""Keys of core schema nodes under which no schema lies."""


class Validator:
    """Validates values against one annotation. Thread-safe once made."""

    __slots__ = ("_owning", "_plain", "_schema", "_siblings", "_validate")

    def __init__(self, annotation: Any) -> None:
        self._siblings: dict[tuple[type, bool], Validate] = {}
        self._schema = _core_schema(annotation)
        self._build()

    def _build(self) -> None:
        edit = _Edit(self._sibling)
        schema = edit.node(self._schema)
        self._validate = validator_of(schema)
        found = ownership(schema)
        self._owning: tuple[Owned, Validate] | None = None
        if found is not None:
            self._owning = found.owned, _securing(self._validate, found)
        self._plain = tuple(edit.plain)

    def owning(self) -> tuple[Owned, Validate] | None:
        """How values are kept that nobody else holds any part of, and what makes them so.

        The second validates and secures: it also raises ValueRefused, with a path that begins
        where a part was refused. None when every value has to be frozen as a whole.
        """
        for cls in self._plain:
            if cls.__subclasses__():
                # A subclass was made after this was built: from now on instances may be of it.
                self._siblings.clear()
                self._build()
                break
        return self._owning

    def __call__(self, value: Any) -> Any:
        """The validated value. Raises pydantic's ValidationError, and what validators raise."""
        return self._validate(value)

    def _sibling(self, cls: type, by_name: bool) -> Validate:
        """The validator of an instance's own class."""
        known = self._siblings.get((cls, by_name))
        if known is None:
            edit = _Edit(self._sibling, by_name=by_name)
            validate = validator_of(edit.node(_core_schema(cls)))
            self._plain = (*self._plain, *edit.plain)
            if by_name:

                def known(value: Any) -> Any:
                    return validate(value, by_name=True, by_alias=False)

            else:
                known = validate
            self._siblings[cls, by_name] = known
        return known


def _securing(validate: Validate, ownership: Ownership) -> Validate:
    """Validates and secures; what that takes is compiled when it is first used.

    A dict that stands for a model is first taken to hold no instances, whose given fields would
    have to be copied. Any other value is first taken to hold instances, which are made anew. Where
    that is wrong, or the value is, the value is validated again: its validators run twice.
    """
    if ownership.secures is None:
        return validate
    from pydantic_core import ValidationError

    schema = ownership.plain
    secure: Validate | None = None
    plain: tuple[Validate, Validate] | None = None
    remake: Validate | None = None

    def secured(value: Any) -> Any:
        nonlocal plain, secure, remake
        if schema is not None and type(value) is dict:
            if plain is None:
                plain = validator_of(schema), ownership.securing(has_instances=False)
            validate_plain, secure_plain = plain
            try:
                made = validate_plain(value)
            except ValidationError:
                pass
            else:
                return secure_plain(made)
        if secure is None:
            secure, remake = ownership.securing(has_instances=True), ownership.remaking()
        if remake is not None:
            try:
                return remake(value)
            except Exception:  # whatever is wrong, the whole schema finds it again and names it
                pass
        return secure(validate(value))

    return secured


def _core_schema(annotation: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

    for wrong in no_types(annotation):  # pydantic would let every value pass
        raise BuildError(
            "contract.unsupported",
            f"{reprlib.repr(wrong)} stands where a type belongs",
            expected="a type, such as list[int], dict[str, int], int | str or Literal[5]",
            got=f"an object of type {type_label(type(wrong))}",
            fix=_meant(wrong),
        )
    try:
        # A schema may wait for classes still to come; dict() asks for it, and raises without them.
        try:
            return dict(TypeAdapter(annotation).core_schema)
        except PydanticSchemaGenerationError:
            config = ConfigDict(arbitrary_types_allowed=True)
            return dict(TypeAdapter(annotation, config=config).core_schema)
    except PydanticUserError as error:
        told = str(error).partition("\n")[0]
        raise BuildError(
            "contract.unsupported",
            f"values of type {describe(annotation)} cannot be checked: {told}",
            expected="a type that pydantic can validate, or a class",
            got=describe(annotation),
            fix=_mend(told),
        ) from error


def _meant(wrong: Any) -> str:
    """The type that somebody probably meant."""
    if isinstance(wrong, (list, tuple, dict)):
        parts = (
            [part for pair in wrong.items() for part in pair] if isinstance(wrong, dict) else wrong
        )
        if parts and all(isinstance(part, type) for part in parts):
            name = type(wrong).__name__
            return f"write {name}[{', '.join(describe(part) for part in parts)}]"
    return "write the type"


def _mend(told: str) -> str:
    if "TypedDict" in told:
        return "from typing_extensions import TypedDict"
    if "not fully defined" in told:
        return "define the classes it names before the pipeline, at module level"
    return "declare a pydantic model, a dataclass, or a builtin type"


class _Edit:
    """Copies a core schema, turning every class node into one that checks instances."""

    def __init__(self, sibling: Callable[[type, bool], Validate], *, by_name: bool = False) -> None:
        self._sibling = sibling
        self._by_name = by_name
        self.plain: list[type] = []
        """Classes whose nodes rely on having no subclass."""

    def node(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.node(item) for item in node]
        if isinstance(node, tuple):
            return tuple(self.node(item) for item in node)
        if not isinstance(node, dict):
            return node
        edited = {
            key: value if key in _NOT_SCHEMA else self.node(value) for key, value in node.items()
        }
        if node.get("type") in ("model", "dataclass") and isinstance(node.get("cls"), type):
            return self._class_node(edited)
        return edited

    def _class_node(self, node: dict[str, Any]) -> dict[str, Any]:
        cls = node["cls"]
        node["revalidate_instances"] = "always"
        is_partial = _is_made_from_other_input(cls, node)
        is_special = (
            is_partial
            or _has_alias(node["schema"])
            or bool(node.get("custom_init"))
            or bool(getattr(cls, "__private_attributes__", None))
        )
        if not is_special and not cls.__subclasses__():
            self.plain.append(cls)
            return node
        if self._by_name:
            node["custom_init"] = False
            if is_partial:
                node = {**_stored_fields(node), "ref": node.get("ref", "")}
        wrap = _Wrap(cls, self._sibling, is_special, by_name=self._by_name, is_partial=is_partial)
        outer = {"type": "function-wrap", "function": {"type": "no-info", "function": wrap}}
        if node.get("ref"):
            outer["ref"] = node.pop("ref")
        node.pop("ref", None)
        return {**outer, "schema": node}


@dataclasses.dataclass(frozen=True, slots=True)
class _Wrap:
    """Stands before a class's node and decides how a value that is an instance is checked."""

    cls: type
    sibling: Callable[[type, bool], Validate]
    is_special: bool
    """Instances of the very class need more than the node does."""
    by_name: bool
    """This schema is used for instances only, and reads fields by name."""
    is_partial: bool
    """Some stored fields are no arguments; the node checks a dict of what is stored."""

    __name__ = "instance"

    def __call__(self, value: Any, handler: Validate) -> Any:
        cls = type(value)
        if cls is not self.cls:
            if isinstance(value, self.cls) and not _is_parametrised(self.cls, cls):
                return self.sibling(cls, self.by_name)(value)
            return handler(value)
        if not self.is_special:
            return handler(value)
        if not self.by_name:
            return self.sibling(cls, True)(value)
        if self.is_partial:
            return _with_fields(value, handler(_stored(value)))
        checked = handler(value)
        private = getattr(value, "__pydantic_private__", None)
        if private is not None:
            object.__setattr__(checked, "__pydantic_private__", dict(private))
        return checked


def _is_parametrised(declared: type, cls: type) -> bool:
    """True when `cls` is another parametrisation of the same generic model, not a subclass."""
    told = getattr(declared, "__pydantic_generic_metadata__", None)
    given = getattr(cls, "__pydantic_generic_metadata__", None)
    return bool(told and given and given["origin"] is declared and given["args"])


def _is_made_from_other_input(cls: type, node: dict[str, Any]) -> bool:
    """True for dataclasses with fields that `__init__` does not take, or arguments not stored."""
    if node["type"] != "dataclass":
        return False
    fields = _dataclass_fields(node["schema"])
    return any(field.get("init") is False or field.get("init_only") for field in fields)


def _dataclass_fields(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The fields of a dataclass node, under the validators that may lie around them."""
    while schema.get("type") != "dataclass-args":
        schema = schema["schema"]
    fields: list[dict[str, Any]] = schema["fields"]
    return fields


def _stored_fields(node: dict[str, Any]) -> dict[str, Any]:
    fields = [field for field in _dataclass_fields(node["schema"]) if not field.get("init_only")]
    return {
        "type": "typed-dict",
        "fields": {
            field["name"]: {
                "type": "typed-dict-field",
                "schema": _without_default(field["schema"]),
                "required": not hasattr(node["cls"], field["name"]),
            }
            for field in fields
        },
        "extra_behavior": "ignore",
        "config": node.get("config", {}),
    }


def _without_default(schema: dict[str, Any]) -> dict[str, Any]:
    return schema["schema"] if schema.get("type") == "default" else schema


def _stored(value: Any) -> dict[str, Any]:
    """What lies in the instance itself: a default of the class is no part of its value."""
    own = getattr(value, "__dict__", None)
    names = [field.name for field in dataclasses.fields(value)]
    if own is not None:
        return {name: own[name] for name in names if name in own}
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _with_fields(value: Any, fields: dict[str, Any]) -> Any:
    layout = objects.layout_of(type(value))
    assert layout is not None, "a dataclass that pydantic validates has a layout"
    out: Any = object.__new__(layout.cls)
    if layout.has_dict:
        out.__dict__.update(value.__dict__)
    for member in layout.members:
        if hasattr(value, member.__name__):
            member.__set__(out, getattr(value, member.__name__))
    for name, checked in fields.items():
        object.__setattr__(out, name, checked)
    return out


def _has_alias(schema: Any) -> bool:
    """True when a field of this node, not of classes inside it, is read under another name."""
    if isinstance(schema, dict):
        if schema.get("type") in ("model-fields", "dataclass-args"):
            fields = schema["fields"]
            own = fields.values() if isinstance(fields, dict) else fields
            return any(field.get("validation_alias") is not None for field in own)
        return _has_alias(schema.get("schema"))
    return False
