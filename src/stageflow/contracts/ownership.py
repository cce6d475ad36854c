"""Which validated values are new in every part: these need not be frozen, only kept.

Validating a model makes a new model, validating a list a new list. Where that holds at every place
of a contract, nobody else can reach what the validator gives: it is the private canonical form as
it is, and taking it apart once more would cost several times what validating it does. A consumer's
view is made by a copier, compiled from the schema, that goes straight to what can be changed.

Leaves that pydantic makes exact are shared. A place where something else may come (a datetime with
a user's time zone, what a validator function returns, Any) becomes an island: a check behind it
freezes what is no leaf, where it stands. A schema that is recursive, and at its own place whatever
this module has no reader for, is left to freezing as a whole.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from stageflow.model import boxes, objects
from stageflow.model.boxes import FLAT, Frozen, thaw
from stageflow.model.freezing import LEAVES, is_moment
from stageflow.model.values import Freezer, is_leaf

Copier = Callable[[Any], Any]
Node = dict[str, Any]
Read = tuple[Node, Copier | None]
"""A node with its islands, and what copies its values; None for values that all may share."""

_SHARED = frozenset({"int", "str", "float", "bool", "none", "decimal", "complex"})
"""Schema types whose values are exact builtins, whatever subclass came in (pydantic-core 2.50)."""
_EMPTY: frozenset[Any] = frozenset({list, dict, set})
"""Factories of empty containers."""
_SLOTS = frozenset({"__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__"})


class Owned:
    """How the values of one contract are kept when every part of them is their own. Immutable."""

    __slots__ = ("_is_flat", "_view", "opened", "view")

    def __init__(self, view: Copier | None, *, has_members: bool) -> None:
        """`has_members`: enum members stand somewhere, which a plain box would not tell."""
        self._view = view
        self._is_flat = view in FLAT and not has_members
        self.view: Copier = thaw if view is None else view
        """Makes a consumer's copy."""
        self.opened: Copier = Freezer().freeze
        """The same value in boxes, for hashing and the journal."""

    def kept(self, value: Any) -> Any:
        """The canonical form of a value that was validated through the schema with islands."""
        if self._view is None:
            return self.opened(value)
        if self._is_flat:
            return Frozen((self._view, value))
        return Frozen((boxes.owned, (self, value)))


class _NotOwned(Exception):
    """The values of this node have to be frozen as a whole."""


def ownership(schema: Node) -> tuple[Node, Owned] | None:
    """The schema with its islands, and how its values are kept; None when they have to be frozen.

    `schema` is a core schema in which every class node revalidates instances.
    """
    reader = _Reader()
    try:
        edited, view = reader.root(schema)
    except _NotOwned:
        return None
    return edited, Owned(view, has_members=reader.has_members)


class _Reader:
    """One reading of a schema."""

    def __init__(self) -> None:
        self.has_members = False
        self._freeze = Freezer().freeze
        self._definitions: dict[str, Node] = {}
        self._made: dict[str, Read | None] = {}
        """Definitions read; None for those that are not owned."""
        self._open: set[str] = set()
        """Definitions that are being read."""

    def root(self, schema: Node) -> Read:
        if schema.get("type") != "definitions":
            return self.node(schema)
        self._definitions = {each["ref"]: each for each in schema["definitions"]}
        edited, view = self.node(schema["schema"])
        made = [self._made.get(ref) or (each, None) for ref, each in self._definitions.items()]
        return {**schema, "schema": edited, "definitions": [each for each, _ in made]}, view

    def node(self, node: Node) -> Read:
        """Raises _NotOwned."""
        if node["type"] in _SHARED:
            return node, None
        read = _READERS.get(node["type"])
        if read is None:
            raise _NotOwned
        return read(self, node)

    def place(self, node: Node) -> Read:
        """A node inside another: what is not owned becomes an island."""
        try:
            return self.node(node)
        except _NotOwned:
            # An island in a recursive schema would hide how deep its values are, and one around a
            # default would hide that from its field.
            if _has_default(node) or self.is_recursive(node):
                raise
            return behind(node, self.settled), thaw

    def leaves(self, node: Node) -> None:
        """Raises _NotOwned unless the values need neither a check nor a copy."""
        edited, copier = self.node(node)
        if copier is not None or edited is not node:
            raise _NotOwned

    def settled(self, value: Any) -> Any:
        """What stands on an island."""
        if type(value) in LEAVES or is_moment(value):
            return value
        return self._freeze(value)

    def defined(self, ref: str) -> Read:
        if ref in self._open:
            raise _NotOwned
        if ref not in self._made:
            self._open.add(ref)
            try:
                self._made[ref] = self.node(self._definitions[ref])
            except _NotOwned:
                self._made[ref] = None
            finally:
                self._open.discard(ref)
        made = self._made[ref]
        if made is None:
            raise _NotOwned
        return made

    def class_of(self, node: Node) -> type:
        while node["type"] == "definition-ref":
            node = self._definitions[node["schema_ref"]]
        if node["type"] not in ("model", "dataclass"):
            raise _NotOwned
        cls: type = node["cls"]
        return cls

    def fields(self, node: Node) -> tuple[dict[str, Any], list[tuple[str, Copier]]]:
        """The fields with their islands, and the copiers of those that need one."""
        fields, nested = {}, []
        for name, each in node["fields"].items():
            inner, copier = self.place(each["schema"])
            fields[name] = {**each, "schema": inner}
            if copier is not None:
                nested.append((name, copier))
        return fields, nested

    def is_recursive(self, node: Any, seen: frozenset[str] = frozenset()) -> bool:
        """True when the node leads back to a definition that is being read."""
        if isinstance(node, dict):
            ref = str(node.get("schema_ref"))
            if node.get("type") == "definition-ref" and ref not in seen:
                return ref in self._open or self.is_recursive(self._definitions[ref], seen | {ref})
            return any(self.is_recursive(value, seen) for value in node.values())
        return isinstance(node, (list, tuple)) and any(self.is_recursive(n, seen) for n in node)


# -- one reader a schema type --------------------------------------------------------------------


def _reference(reader: _Reader, node: Node) -> Read:
    return node, reader.defined(node["schema_ref"])[1]


def _literal(reader: _Reader, node: Node) -> Read:
    if not all(map(is_leaf, node["expected"])):
        raise _NotOwned
    return node, None


def _enum(reader: _Reader, node: Node) -> Read:
    """The program has but one object for each member."""
    reader.has_members = True
    return node, None


def _nullable(reader: _Reader, node: Node) -> Read:
    inner, copier = reader.node(node["schema"])
    return _with(node, schema=inner), _or_leaf(copier)


def _default(reader: _Reader, node: Node) -> Read:
    """Defaults are not validated: they must be leaves, or empty containers, which are made anew."""
    inner, copier = reader.place(node["schema"])
    factory = node.get("default_factory")
    if "default" in node and not is_leaf(node["default"]):
        if type(node["default"]) not in _EMPTY or node["default"]:
            raise _NotOwned
        factory = type(node["default"])
    if factory is None:
        return _with(node, schema=inner), _or_leaf(copier)
    if factory not in _EMPTY:
        raise _NotOwned
    return _with(node, schema=inner), _or_empty(copier)


def _before(reader: _Reader, node: Node) -> Read:
    """A function that runs first: what it returns is validated."""
    inner, copier = reader.node(node["schema"])
    return _with(node, schema=inner), copier


def _list(reader: _Reader, node: Node) -> Read:
    inner, copier = reader.node(_part(node, "items_schema"))
    return _with(node, items_schema=inner), _each(copier)


def _set(reader: _Reader, node: Node) -> Read:
    reader.leaves(_part(node, "items_schema"))
    return node, set.copy


def _frozenset(reader: _Reader, node: Node) -> Read:
    reader.leaves(_part(node, "items_schema"))
    return node, None


def _dict(reader: _Reader, node: Node) -> Read:
    reader.leaves(_part(node, "keys_schema"))
    inner, copier = reader.node(_part(node, "values_schema"))
    return _with(node, values_schema=inner), _each_value(copier)


def _tuple(reader: _Reader, node: Node) -> Read:
    read = [reader.place(item) for item in node["items_schema"]]
    if all(copier is None for _, copier in read):
        return node, None
    copiers = [copier or thaw for _, copier in read]
    edited = _with(node, items_schema=[inner for inner, _ in read])
    if node.get("variadic_item_index") is None:
        return edited, lambda value: tuple(
            [copier(item) for copier, item in zip(copiers, value, strict=True)]
        )
    if len(copiers) > 1:
        raise _NotOwned
    each = copiers[0]
    return edited, lambda value: tuple([each(item) for item in value])


def _typed_dict(reader: _Reader, node: Node) -> Read:
    if _keeps_extra(node, node):
        raise _NotOwned
    fields, nested = reader.fields(node)
    return _with(node, fields=fields), _by_name(nested)


def _union(reader: _Reader, node: Node) -> Read:
    """A check behind a choice could change which one pydantic prefers; so these have none."""
    for choice in node["choices"]:
        reader.leaves(choice[0] if isinstance(choice, tuple) else choice)
    return node, None


def _tagged_union(reader: _Reader, node: Node) -> Read:
    choices: dict[Any, Node] = {}
    by_class: dict[type, Copier] = {}
    for tag, choice in node["choices"].items():
        choices[tag], copier = reader.node(choice)
        cls = reader.class_of(choice)
        if copier is None or cls in by_class:
            raise _NotOwned
        by_class[cls] = copier
    return _with(node, choices=choices), lambda value: by_class[type(value)](value)


def _uuid(reader: _Reader, node: Node) -> Read:
    """An instance comes out as it went in, and `object.__setattr__` writes to it."""
    own = _uuid_copier(reader.settled)
    return behind(node, own), own


def _dataclass(reader: _Reader, node: Node) -> Read:
    cls, inner = node["cls"], node["schema"]
    layout = objects.layout_of(cls)
    if node.get("post_init") or layout is None or not layout.has_dict or layout.members:
        raise _NotOwned
    if inner["type"] != "dataclass-args" or _keeps_extra(inner, node):
        raise _NotOwned
    fields, nested = [], []
    for each in inner["fields"]:
        edited, copier = reader.place(each["schema"])
        fields.append({**each, "schema": edited})
        if copier is not None:
            nested.append((each["name"], copier))
    return _with(node, schema={**inner, "fields": fields}), _record_copier(cls, nested)


def _model(reader: _Reader, node: Node) -> Read:
    cls, inner, is_root = node["cls"], node["schema"], bool(node.get("root_model"))
    if node.get("post_init") or node.get("custom_init") or not _is_plain_model(cls):
        raise _NotOwned
    loose: list[str] = []
    nested: list[tuple[str, Copier]] = []
    if is_root:
        fields = {"root": {"schema": inner}}
    elif inner["type"] == "model-fields":
        fields = inner["fields"]
    else:
        raise _NotOwned
    edited = {}
    for name, each in fields.items():
        try:
            made, copier = reader.node(each["schema"])
        except _NotOwned:
            if reader.is_recursive(each["schema"]):
                raise
            made, copier = each["schema"], thaw
            loose.append(name)
        edited[name] = {**each, "schema": made}
        if copier is not None:
            nested.append((name, copier))
    inner = edited["root"]["schema"] if is_root else {**inner, "fields": edited}
    own = _model_owner(reader.settled, tuple(loose), not is_root and _keeps_extra(inner, node))
    return behind({**node, "schema": inner}, own), _model_copier(cls, nested, is_root)


_READERS: Mapping[str, Callable[[_Reader, Node], Read]] = {
    "definition-ref": _reference,
    "enum": _enum,
    "literal": _literal,
    "nullable": _nullable,
    "default": _default,
    "function-before": _before,
    "list": _list,
    "set": _set,
    "frozenset": _frozenset,
    "dict": _dict,
    "tuple": _tuple,
    "typed-dict": _typed_dict,
    "union": _union,
    "tagged-union": _tagged_union,
    "uuid": _uuid,
    "dataclass": _dataclass,
    "model": _model,
}


def behind(node: Node, check: Copier) -> Node:
    """`node`, and then `check` on what it gives."""
    inner = dict(node)
    ref = inner.pop("ref", None)
    outer: Node = {
        "type": "function-after",
        "function": {"type": "no-info", "function": check},
        "schema": inner,
    }
    return outer if ref is None else {**outer, "ref": ref}


def _with(node: Node, **changed: Any) -> Node:
    """The node itself when nothing in it changed."""
    same = all(node.get(name) is value for name, value in changed.items())
    return node if same else {**node, **changed}


def _part(node: Node, name: str) -> Node:
    """What a container's schema says of its items; without that, they stay whatever they are."""
    inner: Node | None = node.get(name)
    if inner is None:
        raise _NotOwned
    return inner


def _has_default(node: Node) -> bool:
    while node["type"] != "default":
        inner = node.get("schema")
        if not isinstance(inner, dict) or node["type"] == "model":
            return False
        node = inner
    return True


def _keeps_extra(fields: Node, outer: Node) -> bool:
    config = outer.get("config") or {}
    behaviour = fields.get("extra_behavior") or config.get("extra_fields_behavior")
    return behaviour == "allow"


def _is_plain_model(cls: type) -> bool:
    """True when an instance is its `__dict__` and pydantic's own slots, read without a detour."""
    layout = objects.layout_of(cls) if objects.is_pydantic_model(cls) else None
    return (
        layout is not None
        and "__getattribute__" not in {name for base in cls.__mro__[:-1] for name in vars(base)}
        and layout.has_dict
        and {member.__name__ for member in layout.members} == _SLOTS
    )


# -- copiers -------------------------------------------------------------------------------------


def _or_leaf(copier: Copier | None) -> Copier | None:
    """For a place where a leaf may stand instead: None, or a default."""
    if copier is None or copier is thaw:
        return copier
    return lambda value: value if is_leaf(value) else copier(value)


def _or_empty(copier: Copier | None) -> Copier:
    """For a place where an empty container may stand that was not validated."""
    inner = copier or thaw

    def view(value: Any) -> Any:
        if type(value) in _EMPTY and not value:
            return value.copy()
        return value if is_leaf(value) else inner(value)

    return view


def _each(copier: Copier | None) -> Copier:
    if copier is None:
        return list.copy
    return lambda value: [copier(item) for item in value]


def _each_value(copier: Copier | None) -> Copier:
    if copier is None:
        return dict.copy
    return lambda value: {key: copier(item) for key, item in value.items()}


def _by_name(nested: list[tuple[str, Copier]]) -> Copier:
    """Of a dict with these keys, of which some may be absent."""
    if not nested:
        return dict.copy

    def view(value: dict[str, Any]) -> dict[str, Any]:
        out = value.copy()
        for name, copier in nested:
            if name in out:
                out[name] = copier(out[name])
        return out

    return view


def _uuid_copier(otherwise: Copier) -> Copier:
    number, safety = uuid.UUID.__dict__["int"], uuid.UUID.__dict__["is_safe"]
    get_number, put_number = number.__get__, number.__set__
    get_safety, put_safety = safety.__get__, safety.__set__
    new, cls = object.__new__, uuid.UUID

    def own(value: Any) -> Any:
        if type(value) is not cls:
            return otherwise(value)
        out = new(cls)
        put_number(out, get_number(value))
        put_safety(out, get_safety(value))
        return out

    return own


def _record_copier(cls: type, nested: list[tuple[str, Copier]]) -> Copier:
    """Of a dataclass whose state is its `__dict__`; runs no code of the class."""
    new, get, put, by_name = (
        object.__new__,
        object.__getattribute__,
        object.__setattr__,
        _by_name(nested),
    )

    def view(value: Any) -> Any:
        out: Any = new(cls)
        put(out, "__dict__", by_name(get(value, "__dict__")))
        return out

    return view


def _slot(name: str) -> Any:
    from pydantic import BaseModel  # loaded: the schema of one of its models is being read

    return BaseModel.__dict__[name]


def _model_owner(settled: Copier, loose: tuple[str, ...], has_extra: bool) -> Copier:
    """Makes a validated model's parts its own: the set of the fields that were given, which it
    shares with the instance that it was validated from, fields of which the schema does not tell
    enough, and extra ones."""
    put_given = _slot("__pydantic_fields_set__").__set__

    def own_given(model: Any) -> Any:
        put_given(model, model.__pydantic_fields_set__.copy())
        return model

    def own_fields(model: Any) -> Any:
        put_given(model, model.__pydantic_fields_set__.copy())
        held = model.__dict__
        for name in loose:
            if type(held[name]) not in LEAVES:
                held[name] = settled(held[name])
        if has_extra and model.__pydantic_extra__:
            held = model.__pydantic_extra__
            for name in held:
                held[name] = settled(held[name])
        return model

    return own_fields if loose or has_extra else own_given


def _model_copier(cls: type, nested: list[tuple[str, Copier]], is_root: bool) -> Copier:
    """Runs no code of the class; a root model has two of the slots unset."""
    put_state, put_given = _slot("__dict__").__set__, _slot("__pydantic_fields_set__").__set__
    put_extra, put_private = (
        _slot("__pydantic_extra__").__set__,
        _slot("__pydantic_private__").__set__,
    )
    new, by_name = object.__new__, _by_name(nested)

    def view(value: Any) -> Any:
        out: Any = new(cls)
        put_state(out, by_name(value.__dict__))
        put_given(out, value.__pydantic_fields_set__.copy())
        if not is_root:
            more = value.__pydantic_extra__
            put_extra(out, more and {key: thaw(item) for key, item in more.items()})
            put_private(out, None)
        return out

    return view
