"""Which validated values are new in every part: these need not be frozen, only kept.

Validating a model makes a new model, validating a list a new list. Where that holds at every place
of a contract, nobody else can reach what the validator gives: it is the private canonical form as
it is, and taking it apart once more would cost several times what validating it does. A consumer's
view is made by a copier, compiled from the schema, that goes straight to what can be changed.

Leaves that pydantic makes exact are shared. Where something else may come (a datetime with a user's
time zone, what a validator function returns, Any, the set of given fields of an instance), the
value is secured after it is validated (stageflow.contracts.securing). A schema that is recursive,
and at its own place whatever this module has no reader for, is left to freezing as a whole.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stageflow.contracts import copying, securing
from stageflow.contracts.copying import EMPTY, Copier
from stageflow.contracts.remaking import remaking
from stageflow.contracts.securing import Securer, Secures
from stageflow.model import boxes, objects
from stageflow.model.boxes import FLAT, Frozen, thaw
from stageflow.model.freezing import LEAVES, is_moment
from stageflow.model.values import Freezer, is_leaf

Node = dict[str, Any]

_SHARED = frozenset({"int", "str", "float", "bool", "none", "decimal", "complex"})
"""Schema types whose values are exact builtins, whatever subclass came in (pydantic-core 2.50)."""
_AS_GIVEN = {"bytes": bytes, "date": datetime.date, "timedelta": datetime.timedelta}
"""Schema types whose values come out as they went in; a subclass is refused."""
_MOMENTS = {"datetime": datetime.datetime, "time": datetime.time}
"""The same, and a zone may be anybody's."""
_LEAVES = frozenset({*_SHARED, *_AS_GIVEN, "literal"})
"""Schema types of leaves."""
_CLASSES: Mapping[str, type] = {
    **_MOMENTS,
    "list": list,
    "dict": dict,
    "typed-dict": dict,
    "set": set,
    "frozenset": frozenset,
    "tuple": tuple,
    "uuid": uuid.UUID,
}
"""The class of the values of other schema types; for those left out, the schema names it."""
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
        """The canonical form of a value that was validated and secured."""
        if self._view is None:
            return self.opened(value)
        if self._is_flat:
            return Frozen((self._view, value))
        return Frozen((boxes.owned, (self, value)))


@dataclass(frozen=True, slots=True)
class Ownership:
    """What a contract whose values are owned does with a validated one."""

    owned: Owned
    plain: Node | None
    """A schema that admits the same values but for those with instances of models in them, for
    dicts that stand for a model; None when the contract is of something else."""
    secures: Secures | None
    _schema: Node
    _reader: _Reader

    def remaking(self) -> Copier | None:
        """Compiles what validates and secures in one, where that pays: see contracts.remaking."""
        return remaking(self._reader, self._schema, Securer(_secured(), has_instances=True))

    def securing(self, *, has_instances: bool) -> Copier:
        """Compiles what makes every part of a validated value its own, and gives it.

        It raises ValueRefused with a path that begins somewhere inside. `has_instances`: the
        schema itself has validated it, not the plain one.
        """
        securer = Securer(_secured(), has_instances=has_instances)
        function = securer.function(self.secures) if self.secures else None
        return function or (lambda value: value)


def ownership(schema: Node) -> Ownership | None:
    """How values of this schema are kept; None when they have to be frozen.

    `schema` is a core schema in which every class node revalidates instances.
    """
    reader = _Reader()
    try:
        read = reader.root(schema)
    except _NotOwned:
        return None
    owned = Owned(read.copier, has_members=reader.has_members)
    # A union is left as it is, since an edited choice could change which one pydantic prefers.
    has_plain = reader.is_model(schema) and not _has_referring_union(schema)
    plain = read.plain if has_plain else None
    return Ownership(owned, plain, read.secures, schema, reader)


def _secured() -> Copier:
    freeze = Freezer().freeze

    def secured(value: Any) -> Any:
        """What may stand in an owned value instead of `value`."""
        if type(value) in LEAVES or is_moment(value):
            return value
        return freeze(value)

    return secured


class _NotOwned(Exception):
    """The values of this node have to be frozen as a whole."""


@dataclass(frozen=True, slots=True)
class _Read:
    """One node: its values are copied and secured so; None for what needs neither."""

    plain: Node
    """The node without instances of models, see Ownership."""
    copier: Copier | None = None
    secures: Secures | None = None


class _Reader:
    """One reading of a schema."""

    def __init__(self) -> None:
        self.has_members = False
        self.definitions: dict[str, Node] = {}
        self._made: dict[str, _Read | None] = {}
        """Definitions read; None for those that are not owned."""
        self._open: set[str] = set()
        """Definitions that are being read."""
        self._nodes: dict[int, _Read | None] = {}
        """Nodes asked about after the reading, by their ids; None for those that are not owned."""

    def root(self, schema: Node) -> _Read:
        if schema.get("type") != "definitions":
            return self.node(schema)
        self.definitions = {each["ref"]: each for each in schema["definitions"]}
        read = self.node(schema["schema"])
        made = {ref: self._made.get(ref) for ref in self.definitions}
        plain = [one.plain if one else self.definitions[ref] for ref, one in made.items()]
        edited = {**schema, "schema": read.plain, "definitions": plain}
        return _Read(edited, read.copier, read.secures)

    def node(self, node: Node) -> _Read:
        """Raises _NotOwned."""
        if node["type"] in _SHARED:
            return _Read(node)
        read = _READERS.get(node["type"])
        if read is None:
            raise _NotOwned
        return read(self, node)

    def place(self, node: Node) -> _Read:
        """A node inside another: what is not owned is frozen where it stands."""
        try:
            return self.node(node)
        except _NotOwned:
            # Frozen parts of a recursive schema would hide how deep its values are.
            if self.is_recursive(node):
                raise
            return _Read(node, thaw, securing.loose)

    def is_owned(self, node: Node) -> bool:
        """False when what stands there is frozen as a whole."""
        return self._read(node) is not None

    def secures(self, node: Node) -> Secures | None:
        """How a validated value is made its own where this node stands."""
        read = self._read(node)
        return securing.loose if read is None else read.secures

    def _read(self, node: Node) -> _Read | None:
        if id(node) not in self._nodes:
            try:
                self._nodes[id(node)] = self.node(node)
            except _NotOwned:
                self._nodes[id(node)] = None
        return self._nodes[id(node)]

    def leaves(self, node: Node) -> None:
        """Raises _NotOwned unless the values need neither a check nor a copy."""
        read = self.node(node)
        if read.copier is not None or read.secures is not None:
            raise _NotOwned

    def defined(self, ref: str) -> _Read:
        if ref in self._open:
            raise _NotOwned
        if ref not in self._made:
            self._open.add(ref)
            try:
                self._made[ref] = self.node(self.definitions[ref])
            except _NotOwned:
                self._made[ref] = None
            finally:
                self._open.discard(ref)
        made = self._made[ref]
        if made is None:
            raise _NotOwned
        return made

    def resolved(self, node: Node) -> Node:
        """The node that a reference leads to."""
        while node["type"] in ("definition-ref", "definitions"):
            if node["type"] == "definitions":
                node = node["schema"]
            else:
                node = self.definitions[node["schema_ref"]]
        return node

    def class_of(self, node: Node) -> type:
        node = self.resolved(node)
        if node["type"] not in ("model", "dataclass"):
            raise _NotOwned
        cls: type = node["cls"]
        return cls

    def is_model(self, node: Node) -> bool:
        """True when a dict given for this node stands for a model."""
        node = self.resolved(node)
        if node["type"] == "nullable":
            return self.is_model(node["schema"])
        if node["type"] == "tagged-union":
            return all(self.is_model(choice) for choice in node["choices"].values())
        return node["type"] == "model" and not node.get("root_model")

    def fields(self, each: Mapping[str, Node]) -> _Fields:
        """Schemas of fields by name."""
        return _Fields({name: self.place(schema) for name, schema in each.items()})

    def is_recursive(self, node: Any, seen: frozenset[str] = frozenset()) -> bool:
        """True when the node leads back to a definition that is being read."""
        if isinstance(node, dict):
            ref = str(node.get("schema_ref"))
            if node.get("type") == "definition-ref" and ref not in seen:
                return ref in self._open or self.is_recursive(self.definitions[ref], seen | {ref})
            return any(self.is_recursive(value, seen) for value in node.values())
        return isinstance(node, (list, tuple)) and any(self.is_recursive(n, seen) for n in node)


class _Fields:
    """The fields of one record, read."""

    def __init__(self, each: Mapping[str, _Read]) -> None:
        self._each = each
        self.copiers = [(name, read.copier) for name, read in each.items() if read.copier]
        self.secures = {name: read.secures for name, read in each.items()}

    def plain(self, name: str, node: Node) -> Node:
        return _with(node, schema=self._each[name].plain)

    def named(self, has_extra: bool) -> frozenset[str] | None:
        """Their names, where there may be others."""
        return frozenset(self._each) if has_extra else None


# -- one reader a schema type --------------------------------------------------------------------


def _reference(reader: _Reader, node: Node) -> _Read:
    ref: str = node["schema_ref"]
    read = reader.defined(ref)
    secures = read.secures
    if secures is None:
        return _Read(node, read.copier)
    return _Read(
        node,
        read.copier,
        lambda securer, value, target: securer.apart(ref, secures, target, value),
    )


def _literal(reader: _Reader, node: Node) -> _Read:
    if not all(map(is_leaf, node["expected"])):
        raise _NotOwned
    return _Read(node)


def _enum(reader: _Reader, node: Node) -> _Read:
    """The program has but one object for each member."""
    reader.has_members = True
    return _Read(node)


def _as_given(reader: _Reader, node: Node) -> _Read:
    return _Read(node, None, securing.exactly(_AS_GIVEN[node["type"]]))


def _moment(reader: _Reader, node: Node) -> _Read:
    return _Read(node, None, securing.moment(_MOMENTS[node["type"]]))


def _nullable(reader: _Reader, node: Node) -> _Read:
    read = reader.node(node["schema"])
    return _Read(
        _with(node, schema=read.plain),
        copying.or_leaf(read.copier),
        securing.unless_none(read.secures),
    )


def _default(reader: _Reader, node: Node) -> _Read:
    """Defaults are not validated: they must be leaves, or empty containers, which are made anew."""
    inner = node["schema"]
    read = reader.node(inner)
    plain, factory = _with(node, schema=read.plain), node.get("default_factory")
    if "default" in node and not is_leaf(node["default"]):
        if type(node["default"]) not in EMPTY or node["default"]:
            raise _NotOwned
        factory = type(node["default"])
    if factory is None:
        is_none = node.get("default", 0) is None and inner["type"] == "nullable"
        secures = read.secures if is_none else securing.unless_leaf(read.secures)
        return _Read(plain, copying.or_leaf(read.copier), secures)
    if factory not in EMPTY or (read.secures and _container_of(inner) is not factory):
        raise _NotOwned
    return _Read(plain, copying.or_empty(read.copier), read.secures)


def _before(reader: _Reader, node: Node) -> _Read:
    """A function that runs first: what it returns is validated."""
    read = reader.node(node["schema"])
    return _Read(_with(node, schema=read.plain), read.copier, read.secures)


def _after(reader: _Reader, node: Node) -> _Read:
    """A function that runs last may return anything; after a leaf it is most likely one."""
    if reader.resolved(node["schema"])["type"] not in _LEAVES:
        raise _NotOwned
    return _Read(node, copying.or_leaf(thaw), securing.loose)


def _list(reader: _Reader, node: Node) -> _Read:
    read = reader.node(_part(node, "items_schema"))
    return _Read(
        _with(node, items_schema=read.plain),
        copying.each(read.copier),
        securing.items(read.secures),
    )


def _set(reader: _Reader, node: Node) -> _Read:
    reader.leaves(_part(node, "items_schema"))
    return _Read(node, set.copy)


def _frozenset(reader: _Reader, node: Node) -> _Read:
    reader.leaves(_part(node, "items_schema"))
    return _Read(node)


def _dict(reader: _Reader, node: Node) -> _Read:
    reader.leaves(_part(node, "keys_schema"))
    read = reader.node(_part(node, "values_schema"))
    return _Read(
        _with(node, values_schema=read.plain),
        copying.each_value(read.copier),
        securing.values(read.secures),
    )


def _tuple(reader: _Reader, node: Node) -> _Read:
    read = [reader.place(item) for item in node["items_schema"]]
    plain = _with(node, items_schema=[each.plain for each in read])
    if node.get("variadic_item_index") is None:
        copier = copying.places([each.copier for each in read])
        return _Read(plain, copier, securing.places([each.secures for each in read]))
    if len(read) > 1:
        raise _NotOwned
    return _Read(plain, copying.run_of(read[0].copier), securing.run_of(read[0].secures))


def _typed_dict(reader: _Reader, node: Node) -> _Read:
    read = reader.fields({name: each["schema"] for name, each in node["fields"].items()})
    has_extra = _keeps_extra(node, node)
    return _Read(
        _with(node, fields={name: read.plain(name, each) for name, each in node["fields"].items()}),
        copying.by_name(read.copiers, named=read.named(has_extra)),
        securing.keyed(read.secures, has_extra=has_extra),
    )


def _union(reader: _Reader, node: Node) -> _Read:
    """Which choice pydantic has taken is told by the class of the value."""
    leaves: set[type] = set()
    copiers: dict[type, Copier] = {}
    secures: dict[type, Secures | None] = {}
    is_exact = True
    for choice in _choices(reader, node):
        inner, read = reader.resolved(choice), reader.node(choice)
        is_exact = is_exact and read.copier is None and read.secures is None
        if inner["type"] in _LEAVES:
            continue
        cls = _CLASSES.get(inner["type"]) or inner.get("cls")
        if cls is None or cls in secures or cls in leaves:
            raise _NotOwned
        if inner["type"] == "enum":
            leaves.add(cls)
        else:
            secures[cls] = read.secures
            if read.copier is not None:
                copiers[cls] = read.copier
    if is_exact:
        return _Read(node)
    copier = None if not copiers else lambda value: copiers.get(type(value), thaw)(value)
    return _Read(node, copier, securing.one_of(LEAVES | leaves, secures))


def _choices(reader: _Reader, union: Node) -> Iterator[Node]:
    """Those of a tagged union inside a union are choices like the others."""
    for choice in union["choices"]:
        node = choice[0] if isinstance(choice, tuple) else choice
        inner = reader.resolved(node)
        if inner["type"] == "tagged-union":
            yield from inner["choices"].values()
        else:
            yield node


def _tagged_union(reader: _Reader, node: Node) -> _Read:
    choices: dict[Any, Node] = {}
    copiers: dict[type, Copier] = {}
    secures: dict[type, Secures | None] = {}
    for tag, choice in node["choices"].items():
        read, cls = reader.node(choice), reader.class_of(choice)
        if read.copier is None or cls in copiers:
            raise _NotOwned
        choices[tag], copiers[cls], secures[cls] = read.plain, read.copier, read.secures
    return _Read(
        _with(node, choices=choices),
        lambda value: copiers[type(value)](value),
        securing.by_class(secures),
    )


def _uuid(reader: _Reader, node: Node) -> _Read:
    return _Read(node, copying.uuid_copier(_secured()), securing.copied_uuid)


def _dataclass(reader: _Reader, node: Node) -> _Read:
    cls, inner = node["cls"], node["schema"]
    layout = objects.layout_of(cls)
    if node.get("post_init") or layout is None or not layout.has_dict or layout.members:
        raise _NotOwned
    if inner["type"] != "dataclass-args":
        raise _NotOwned
    read = reader.fields({each["name"]: each["schema"] for each in inner["fields"]})
    fields = [read.plain(each["name"], each) for each in inner["fields"]]
    has_extra = _keeps_extra(inner, node)
    return _Read(
        _with(node, schema={**inner, "fields": fields}),
        copying.record_copier(cls, read.copiers, named=read.named(has_extra)),
        securing.record(read.secures, has_extra=has_extra),
    )


def _model(reader: _Reader, node: Node) -> _Read:
    cls, inner, is_root = node["cls"], node["schema"], bool(node.get("root_model"))
    if node.get("post_init") or node.get("custom_init") or not _is_plain_model(cls):
        raise _NotOwned
    if not is_root and inner["type"] != "model-fields":
        raise _NotOwned
    fields = {"root": {"schema": inner}} if is_root else inner["fields"]
    read = reader.fields({name: each["schema"] for name, each in fields.items()})
    plain = {name: read.plain(name, each) for name, each in fields.items()}
    secures = securing.model(
        read.secures,
        has_extra=not is_root and _keeps_extra(inner, node),
        is_instance_always=is_root,
    )
    if is_root:
        edited = {**node, "schema": plain["root"]["schema"]}
    else:
        edited = _of_dict({**node, "schema": {**inner, "fields": plain}})
    return _Read(edited, copying.model_copier(cls, read.copiers, is_root=is_root), secures)


_READERS: Mapping[str, Callable[[_Reader, Node], _Read]] = {
    "definition-ref": _reference,
    "enum": _enum,
    "literal": _literal,
    "bytes": _as_given,
    "date": _as_given,
    "timedelta": _as_given,
    "datetime": _moment,
    "time": _moment,
    "nullable": _nullable,
    "default": _default,
    "function-before": _before,
    "function-after": _after,
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


def _has_referring_union(node: Any, *, is_within: bool = False) -> bool:
    """True when a union refers to a definition, which may have been edited."""
    if isinstance(node, dict):
        kind = node.get("type")
        if kind == "definition-ref" and is_within:
            return True
        is_within = is_within or kind == "union"
        return any(_has_referring_union(each, is_within=is_within) for each in node.values())
    return isinstance(node, (list, tuple)) and any(
        _has_referring_union(each, is_within=is_within) for each in node
    )


def _of_dict(node: Node) -> Node:
    """The same node for nothing but dicts. Its reference moves outside."""
    inner = dict(node)
    ref = inner.pop("ref", None)
    outer: Node = {"type": "chain", "steps": [{"type": "is-instance", "cls": dict}, inner]}
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


def _container_of(node: Node) -> type | None:
    """The type of a container node, also where None may stand."""
    while node["type"] == "nullable":
        node = node["schema"]
    return {"list": list, "dict": dict, "typed-dict": dict, "set": set}.get(node["type"])


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
