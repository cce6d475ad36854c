"""Remaking: what validates an instance of a model and makes it anew, one function a contract.

Revalidating an instance by pydantic copies its fields into a dict, validates that, and makes a
model that still shares the set of given fields, which has to be copied afterwards. The function
written here does all of it at once. What it reads off the instance is mostly right already: where
the exact class of a value says that pydantic would take it unchanged, nothing more is asked; any
other value is handed to the validator of its own place in the schema, and secured.

So a function accepts what pydantic accepts and gives what pydantic gives, or it raises, whatever:
then the whole value is validated by the whole schema, which says what is wrong with it, and where.
"""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Callable, Mapping, Sequence, Set
from decimal import Decimal
from typing import Any, Protocol, cast

from stageflow.contracts.copying import pydantic_slot
from stageflow.contracts.securing import (
    Lines,
    Securer,
    Secures,
    copied_uuid,
    foreign_zone,
    under,
    within,
)

Node = dict[str, Any]
Config = Mapping[str, Any]
Validate = Callable[..., Any]

_PLAIN = frozenset({"type", "ref", "metadata", "serialization", "strict"})
"""Keys of a schema node that say nothing about values of the node's exact class."""
_LENGTHS: Mapping[str, str] = {"min_length": ">=", "max_length": "<="}
_BOUNDS: Mapping[str, str] = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_WITHIN: Mapping[str, str] = {
    "nullable": "schema",
    "default": "schema",
    "list": "items_schema",
    "tuple": "items_schema",
    "dict": "values_schema",
}
"""Where the schemas of the parts lie."""


class Reading(Protocol):
    """A schema whose values are owned, see stageflow.contracts.ownership."""

    def is_owned(self, node: Node) -> bool:
        """False when what stands there is frozen as a whole."""

    def secures(self, node: Node) -> Secures | None:
        """How a validated value is made its own at this place."""

    def resolved(self, node: Node) -> Node:
        """The node that a reference leads to."""

    @property
    def definitions(self) -> Mapping[str, Node]:
        """Schema nodes by their references."""


def remaking(reading: Reading, schema: Node, securer: Securer) -> Validate | None:
    """Compiles what validates a value and makes it its own, instances of models quickly.

    None when no model stands where that would pay. The function raises anything for values that
    it does not know to be valid.
    """
    node = schema["schema"] if schema["type"] == "definitions" else schema
    remaker = _Remaker(reading, securer)
    if not remaker.leads_to_record(node):
        return None
    value = securer.fresh()
    return securer.compiled(remaker.lines(node, value, {}), value)


def validator_of(schema: Node, config: Config | None = None) -> Validate:
    """pydantic's validator of a core schema, without its prebuilt ones of classes."""
    from pydantic_core import SchemaValidator

    told: Any = dict(config) if config else None
    core: Any = SchemaValidator(cast(Any, schema), told, _use_prebuilt=False)
    validate: Validate = core.validate_python
    return validate


class Unlike(Exception):
    """A value that has to be judged by the whole schema."""


class _Remaker:
    """Writes the lines of one function. `config` is that of the model around a node."""

    def __init__(self, reading: Reading, securer: Securer) -> None:
        self.reading = reading
        self.securer = securer
        self.stop = securer.named(Unlike)
        self._apart: dict[str, str] = {}
        """Names of the functions of definitions."""

    def lines(self, node: Node, value: str, config: Config) -> Lines:
        """Lines that put what is checked and owned into the variable `value`."""
        if node["type"] == "definition-ref":
            return self._defined(node["schema_ref"], value)
        wrong = _wrong(self, node, value, config)
        if wrong is not None:
            lines = [f"if {wrong}:", *within(self.validated(node, value, config))]
            is_shared = node["type"] != "uuid"
            return lines if is_shared else [*lines, *copied_uuid(self.securer, value, value)]
        # What is not owned has to come out frozen: pydantic validates it, and it is secured.
        write = _WRITERS.get(node["type"]) if self.reading.is_owned(node) else None
        written = None if write is None else write(self, node, value, config)
        return self.validated(node, value, config) if written is None else written

    def validated(self, node: Node, value: str, config: Config, *, is_rare: bool = False) -> Lines:
        """Lines that ask pydantic. `is_rare`: its validator is made when it is first needed."""
        schema, needed = node, {key: config[key] for key in config if key != "title"}
        if _refers(node):
            # Definitions would be compiled under this config as well.
            if needed and node["type"] not in ("model", "definition-ref"):
                raise _NotWritten
            definitions = list(self.reading.definitions.values())
            schema = {"type": "definitions", "schema": node, "definitions": definitions}
        make = _lazily if is_rare else validator_of
        lines = [f"{value} = {self.securer.named(make(schema, needed))}({value})"]
        secures = self.reading.secures(node)
        return lines if secures is None else [*lines, *secures(self.securer, value, value)]

    def where(self, test: str, lines: Lines, node: Node, value: str, config: Config) -> Lines:
        """These lines when the expression `test` holds; else pydantic is asked."""
        otherwise = self.validated(node, value, config, is_rare=True)
        written = [f"if {test}:", *within(lines), "else:", *within(otherwise)]
        return self.securer.returning(written, value)

    def leads_to_record(self, node: Node) -> bool:
        """True when models or dataclasses stand here that can be remade."""
        node = self.reading.resolved(node)
        kind = node["type"]
        if not self.reading.is_owned(node):
            return False
        if kind in ("model", "dataclass"):
            return _can_be_remade(node)
        if kind in ("union", "tagged-union"):
            return any(map(self.leads_to_record, _choices(node)))
        inner = node.get(_WITHIN.get(kind, ""))
        each = inner if isinstance(inner, list) else [inner] if inner else []
        return any(map(self.leads_to_record, each))

    def _defined(self, ref: str, value: str) -> Lines:
        if ref not in self._apart:
            inner = self.securer.fresh()
            lines = self.lines(self.reading.definitions[ref], inner, {})
            self._apart[ref] = self.securer.named(self.securer.compiled(lines, inner))
        return [f"{value} = {self._apart[ref]}({value})"]


class _NotWritten(Exception):
    """The model around this node has to be asked about as a whole."""


def _lazily(schema: Node, config: Config) -> Validate:
    known: Validate | None = None

    def validate(value: Any) -> Any:
        nonlocal known
        if known is None:
            known = validator_of(schema, config)
        return known(value)

    return validate


# -- one writer a schema type; None when pydantic has to be asked ----------------------------------


def _model(remaker: _Remaker, node: Node, value: str, config: Config) -> Lines | None:
    securer, extra, made = remaker.securer, _extra_behaviour(node), remaker.securer.fresh()
    is_exact = extra is None or extra == "ignore"
    test = "" if is_exact else f" and not {value}.__pydantic_extra__"
    given = f"{value}.__pydantic_fields_set__.copy()"
    slots = [f"{_put(securer, 'fields_set')}({made}, {given})"]
    if extra is not None:
        empty = "{}" if extra == "allow" else "None"
        slots.append(f"{_put(securer, 'extra')}({made}, {empty})")
        slots.append(f"{_put(securer, 'private')}({made}, None)")
    return _record(remaker, node, value, config, made=made, test=test, slots=slots)


def _dataclass(remaker: _Remaker, node: Node, value: str, config: Config) -> Lines | None:
    """pydantic reads the fields off an instance, and nothing else."""
    return _record(remaker, node, value, config, made=remaker.securer.fresh())


def _record(
    remaker: _Remaker,
    node: Node,
    value: str,
    config: Config,
    *,
    made: str,
    test: str = "",
    slots: Sequence[str] = (),
) -> Lines | None:
    """`test` is asked of an instance besides its class; `slots` are lines for the one just made.

    Other things may lie beside the fields, a cached property say. pydantic drops them, or makes
    much of them where other fields are allowed or forbidden.
    """
    if not _can_be_remade(node):
        return None
    securer, cls = remaker.securer, remaker.securer.named(node["cls"])
    held, state = securer.fresh(), securer.fresh()
    fields: list[tuple[str, str]] = []
    lines = [f"{held} = {value}.__dict__"]
    try:
        for name, schema in _fields(node).items():
            key, item = securer.named(name), securer.fresh()
            fields.append((key, item))
            inner = remaker.lines(schema, item, node.get("config") or {})
            lines += [f"{item} = {held}[{key}]", *inner]
    except _NotWritten:
        return None
    if test:
        lines += [f"if len({held}) != {len(fields)}:", f" raise {remaker.stop}"]
    lines += [
        f"{made} = {securer.named(object.__new__)}({cls})",
        f"{state} = {made}.__dict__",
        *(f"{state}[{key}] = {item}" for key, item in fields),
        *slots,
        f"{value} = {made}",
    ]
    return remaker.where(f"type({value}) is {cls}{test}", lines, node, value, config)


def _put(securer: Securer, slot: str) -> str:
    return securer.named(pydantic_slot(f"__pydantic_{slot}__").__set__)


def _tagged_union(remaker: _Remaker, node: Node, value: str, config: Config) -> Lines | None:
    """The class of an instance tells its choice when its tag can be no other one's."""
    tag, choices = node["discriminator"], list(node["choices"].values())
    if type(tag) is not str or not all(map(remaker.leads_to_record, choices)):
        return None
    if not all(_is_tagged_so(remaker, node, choice, tag) for choice in choices):
        return None
    return _by_class(remaker, choices, node, value, config)


def _union(remaker: _Remaker, node: Node, value: str, config: Config) -> Lines | None:
    """Written where no other choice takes an instance: no leaf, no model of another class."""
    wrong = _wrong_in_all(remaker, node, value, config)
    if wrong is not None:
        return [f"if {wrong}:", *within(remaker.validated(node, value, config))]
    models, known = list[Node](), set[type]()
    for choice in _choices(node):
        inner = remaker.reading.resolved(choice)
        if inner["type"] in _NEVER_OF_MODELS:
            continue
        if inner["type"] != "model" or not remaker.leads_to_record(inner) or _reads_any(inner):
            return None
        models.append(choice)
        known.add(inner["cls"])
    if len(known) < len(models) or not all(map(_is_like_nothing, known)):
        return None
    return _by_class(remaker, models, node, value, config) if models else None


_NEVER_OF_MODELS = frozenset(
    {"none", "bool", "int", "str", "bytes", "literal", "enum", "datetime", "time"}
)
"""Schema types that refuse every instance of a model that is like nothing else."""


def _wrong_in_all(remaker: _Remaker, node: Node, value: str, config: Config) -> str | None:
    """For a union of leaves: one that a choice takes as it is, no other choice would change."""
    if node.get("mode", "smart") != "smart" or not node.keys() <= _PLAIN | {"choices", "mode"}:
        return None
    tests = []
    for choice in _choices(node):
        wrong = _wrong(remaker, choice, value, config)
        if wrong is None or choice["type"] == "uuid":
            return None
        tests.append(f"({wrong})")
    return " and ".join(tests)


def _is_like_nothing(cls: type) -> bool:
    """True when instances are no numbers, and equal nothing but models."""
    from pydantic import BaseModel  # loaded: its models are being read

    equality: Any = cls.__eq__
    return equality is BaseModel.__eq__ and not hasattr(cls, "__index__")


def _reads_any(model: Node) -> bool:
    """True when the fields may be read off an object of any class."""
    config = model.get("config") or {}
    return bool(config.get("from_attributes") or model["schema"].get("from_attributes"))


def _by_class(
    remaker: _Remaker, models: list[Node], node: Node, value: str, config: Config
) -> Lines:
    kind, lines = remaker.securer.fresh(), Lines()
    for model in models:
        cls = remaker.securer.named(remaker.reading.resolved(model)["cls"])
        lines.append(f"{'elif' if lines else 'if'} {kind} is {cls}:")
        lines += within(remaker.lines(model, value, config))
    otherwise = remaker.validated(node, value, config)
    return [f"{kind} = type({value})", *lines, "else:", *within(otherwise)]


def _is_tagged_so(remaker: _Remaker, union: Node, choice: Node, tag: str) -> bool:
    """True when each tag that this model admits leads to it."""
    model, choices = remaker.reading.resolved(choice), union["choices"]
    literal = _fields(model).get(tag, {})
    if literal.get("type") == "default":
        literal = literal["schema"]
    return literal.get("type") == "literal" and all(
        type(expected) is str
        and expected in choices
        and remaker.reading.resolved(choices[expected])["cls"] is model["cls"]
        for expected in literal["expected"]
    )


def _nullable(remaker: _Remaker, node: Node, value: str, config: Config) -> Lines | None:
    return under(f"if {value} is not None:", remaker.lines(node["schema"], value, config))


def _default(remaker: _Remaker, node: Node, value: str, config: Config) -> Lines | None:
    """The value is there: the default is not asked for."""
    if node.get("on_error", "raise") != "raise":
        return None
    return remaker.lines(node["schema"], value, config)


def _list(remaker: _Remaker, node: Node, value: str, config: Config) -> Lines | None:
    """Written only for models: pydantic goes through a list of leaves more quickly."""
    if not node.keys() <= {*_PLAIN, "items_schema", *_LENGTHS} or not remaker.leads_to_record(node):
        return None
    item, made = remaker.securer.fresh(), remaker.securer.fresh()
    is_known = f"type({value}) is {remaker.securer.named(list)}"
    for key, sign in _LENGTHS.items():
        if node.get(key) is not None:
            is_known += f" and len({value}) {sign} {int(node[key])}"
    lines = [
        f"{made} = []",
        f"for {item} in {value}:",
        *within(remaker.lines(node["items_schema"], item, config)),
        f" {made}.append({item})",
        f"{value} = {made}",
    ]
    return remaker.where(is_known, lines, node, value, config)


def _tuple(remaker: _Remaker, node: Node, value: str, config: Config) -> Lines | None:
    """Of a fixed length."""
    allowed = {*_PLAIN, "items_schema", "variadic_item_index"}
    if not node.keys() <= allowed or node.get("variadic_item_index") is not None:
        return None
    if not remaker.leads_to_record(node):
        return None
    items, lines = node["items_schema"], Lines()
    names = [remaker.securer.fresh() for _ in items]
    for name, item in zip(names, items, strict=True):
        lines += remaker.lines(item, name, config)
    told = f"({', '.join(names)},)"
    is_known = f"type({value}) is {remaker.securer.named(tuple)}"
    lines = [f"{told} = {value}", *lines, f"{value} = {told}"]
    return remaker.where(is_known, lines, node, value, config)


def _dict(remaker: _Remaker, node: Node, value: str, config: Config) -> Lines | None:
    allowed = {*_PLAIN, "keys_schema", "values_schema"}
    if not node.keys() <= allowed or not remaker.leads_to_record(node):
        return None
    key, item, made = (remaker.securer.fresh() for _ in range(3))
    wrong = _wrong(remaker, node["keys_schema"], key, config)
    if node["keys_schema"]["type"] != "str" or wrong is None:
        return None
    lines = [
        f"{made} = {{}}",
        f"for {key}, {item} in {value}.items():",
        f" if {wrong}:",
        f"  raise {remaker.stop}",
        *within(remaker.lines(node["values_schema"], item, config)),
        f" {made}[{key}] = {item}",
        f"{value} = {made}",
    ]
    is_known = f"type({value}) is {remaker.securer.named(dict)}"
    return remaker.where(is_known, lines, node, value, config)


_WRITERS: Mapping[str, Callable[[_Remaker, Node, str, Config], Lines | None]] = {
    "model": _model,
    "dataclass": _dataclass,
    "tagged-union": _tagged_union,
    "nullable": _nullable,
    "default": _default,
    "list": _list,
    "tuple": _tuple,
    "dict": _dict,
    "union": _union,
}


# -- leaves: an expression, false of values that pydantic gives as they are ------------------------


def _wrong(remaker: _Remaker, node: Node, value: str, config: Config) -> str | None:
    """None when pydantic has to be asked about every value."""
    told = _LEAVES.get(node["type"])
    if told is None:
        return None
    cls, keys, more = told
    if not node.keys() <= _PLAIN | keys:
        return None
    # An enum's class, and the values of a literal, are told by the schema.
    wrong = f"type({value}) is not {remaker.securer.named(cls or node.get('cls', str))}"
    rest = more(remaker, node, value, config)
    return None if rest is None else wrong + rest


def _nothing(remaker: _Remaker, node: Node, value: str, config: Config) -> str | None:
    return ""


def _int(remaker: _Remaker, node: Node, value: str, config: Config) -> str | None:
    wrong = _out_of_bounds(remaker, node, value)
    if node.get("multiple_of") is not None:
        wrong += f" or {value} % {remaker.securer.named(node['multiple_of'])}"
    return wrong


def _float(remaker: _Remaker, node: Node, value: str, config: Config) -> str | None:
    """One that is not a number is within no bounds: pydantic is asked."""
    wrong = _out_of_bounds(remaker, node, value)
    if node.get("allow_inf_nan", config.get("allow_inf_nan", True)) is not True:
        low, high = remaker.securer.named(-math.inf), remaker.securer.named(math.inf)
        wrong += f" or not {low} < {value} < {high}"
    return wrong


def _decimal(remaker: _Remaker, node: Node, value: str, config: Config) -> str | None:
    return f" or not {value}.is_finite(){_out_of_bounds(remaker, node, value)}"


def _text(remaker: _Remaker, node: Node, value: str, config: Config) -> str | None:
    """Where text is measured, surrogates are refused: pydantic is asked about more than ASCII."""
    if any(key.startswith("str_") for key in config):
        return None
    wrong = _wrong_length(remaker, node, value, config)
    return f" or not {value}.isascii(){wrong}" if wrong else ""


def _wrong_length(remaker: _Remaker, node: Node, value: str, config: Config) -> str:
    return "".join(
        f" or not len({value}) {sign} {int(node[key])}"
        for key, sign in _LENGTHS.items()
        if node.get(key) is not None
    )


def _moment(remaker: _Remaker, node: Node, value: str, config: Config) -> str | None:
    """Bounds are compared where neither side has a zone. Most zones have to be looked at."""
    bounds = [node[key] for key in _BOUNDS if node.get(key) is not None]
    zones = node.get("tz_constraint")
    if zones not in (None, "aware", "naive"):
        return None
    if bounds or zones == "naive":
        if zones == "aware" or any(each.tzinfo is not None for each in bounds):
            return None
        return f" or {value}.tzinfo is not None{_out_of_bounds(remaker, node, value)}"
    absent = f" or {value}.tzinfo is None" if zones == "aware" else ""
    return f"{absent} or {foreign_zone(remaker.securer, value)}"


def _literal(remaker: _Remaker, node: Node, value: str, config: Config) -> str | None:
    if not all(type(each) is str for each in node["expected"]):
        return None
    return f" or {value} not in {remaker.securer.named(frozenset(node['expected']))}"


def _out_of_bounds(remaker: _Remaker, node: Node, value: str) -> str:
    return "".join(
        f" or not {value} {sign} {remaker.securer.named(node[key])}"
        for key, sign in _BOUNDS.items()
        if node.get(key) is not None
    )


_Leaf = tuple[type | None, Set[str], Callable[[_Remaker, Node, str, Config], str | None]]
_LEAVES: Mapping[str, _Leaf] = {
    "bool": (bool, set(), _nothing),
    "int": (int, {*_BOUNDS, "multiple_of"}, _int),
    "float": (float, {*_BOUNDS, "allow_inf_nan"}, _float),
    "decimal": (Decimal, set(_BOUNDS), _decimal),
    "str": (str, set(_LENGTHS), _text),
    "bytes": (bytes, set(_LENGTHS), _wrong_length),
    "date": (datetime.date, set(_BOUNDS), lambda *told: _out_of_bounds(*told[:3])),
    "timedelta": (datetime.timedelta, {"microseconds_precision"}, _nothing),
    "datetime": (
        datetime.datetime,
        {*_BOUNDS, "microseconds_precision", "tz_constraint"},
        _moment,
    ),
    "time": (datetime.time, {*_BOUNDS, "microseconds_precision", "tz_constraint"}, _moment),
    "uuid": (uuid.UUID, set(), _nothing),
    "literal": (None, {"expected"}, _literal),
    "enum": (None, {"cls", "members", "missing", "sub_type"}, _nothing),
}
"""By schema type: the exact class, the keys that are read, and what else makes a value wrong."""


# -- what a schema says ----------------------------------------------------------------------------


def _can_be_remade(node: Node) -> bool:
    """True when the fields tell all about an instance of a model or a dataclass."""
    inner = node["schema"]["type"]
    is_plain = node["type"] == "model" or _extra_behaviour(node) != "allow"
    return (
        (bool(node.get("root_model")) or inner in ("model-fields", "dataclass-args"))
        and is_plain
        and node["cls"].__new__ is object.__new__
        and not any(map(_asks_for_more, _fields(node).values()))
    )


def _fields(node: Node) -> dict[str, Node]:
    """The schemas of the fields of a model or a dataclass by their names."""
    inner = node["schema"]
    if node.get("root_model"):
        return {"root": inner}
    if node["type"] == "dataclass":
        return {field["name"]: field["schema"] for field in inner["fields"]}
    return {name: field["schema"] for name, field in inner["fields"].items()}


def _extra_behaviour(node: Node) -> str | None:
    """What becomes of fields that a class does not name; None for a model that can have none."""
    if node.get("root_model"):
        return None
    config = node.get("config") or {}
    inner: str | None = node["schema"].get("extra_behavior")
    told: str = inner or config.get("extra_fields_behavior") or "ignore"
    return told


def _asks_for_more(node: Any) -> bool:
    """True when a function of this field is told of the fields before it."""
    if isinstance(node, dict):
        if node.get("type") in ("model", "dataclass"):
            return False
        if node.get("type") == "with-info":
            return True
        return any(_asks_for_more(each) for key, each in node.items() if key not in _PLAIN)
    return isinstance(node, (list, tuple)) and any(map(_asks_for_more, node))


def _choices(union: Node) -> list[Node]:
    choices = union["choices"]
    if isinstance(choices, dict):
        return list(choices.values())
    return [each[0] if isinstance(each, tuple) else each for each in choices]


def _refers(node: Any) -> bool:
    """True when something within is a reference to a definition."""
    if isinstance(node, dict):
        return node.get("type") == "definition-ref" or any(map(_refers, node.values()))
    return isinstance(node, (list, tuple)) and any(map(_refers, node))
