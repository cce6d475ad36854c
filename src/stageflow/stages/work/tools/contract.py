"""What a tool promises about its output: a type, or a JSON Schema."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol, cast

from stageflow.contracts import Contract, contract_of
from stageflow.model.errors import BuildError, ContractError, ToolError
from stageflow.model.values import Freezer, thaw
from stageflow.stages.work.tools.closing import closed, named_fields
from stageflow.stages.work.tools.refusals import path_of, unknown_fields, unlike
from stageflow.stages.work.tools.rules import Unknown

PROBLEMS_MAX: Final = 20
DIALECTS: Final = ("2020-12", "2019-09", "draft-07", "draft-06", "draft-04")
_EXTRA: Final = ("extra_forbidden", "unexpected_keyword_argument")
_CLOSERS: Final = ("additionalProperties", "unevaluatedProperties")


class ToolContract(Protocol):
    """Checks a parsed document. `hash` tells contracts apart; `fields` are those it names."""

    declared: Any
    """The type of the values that it admits."""
    hash: str
    fields: frozenset[str]
    schema: Mapping[str, Any]

    def admit(self, value: Any) -> Any:
        """The value as consumers get it. Raises ToolError `tool.output_contract`,
        `tool.output_unknown`."""
        ...

    def admit_instance(self, value: Any) -> Any:
        """The same of what is no JSON value; None when the contract has no such instances."""
        ...

    def written(self, value: Any) -> bytes:
        """An instance as JSON."""
        ...


def tool_contract(declared: Any, *, unknown: Unknown = "refuse") -> ToolContract:
    """Of a type, or of a JSON Schema as a mapping. BuildError `tool.contract`."""
    if isinstance(declared, Mapping):
        return SchemaContract(declared, unknown=unknown)
    return TypeContract(declared)


class SchemaContract:
    """A JSON Schema, by jsonschema-rs: formats are checked, nothing is fetched.

    Patterns are those of ECMA 262 with a bound on backtracking; one that reaches it does not match.
    """

    def __init__(self, schema: Mapping[str, Any], *, unknown: Unknown = "refuse") -> None:
        library = _library()
        dialect = str(schema.get("$schema", "2020-12"))
        if not any(known in dialect for known in DIALECTS):
            raise _no_contract("a dialect that is not known", "$schema")
        used = closed(schema) if unknown == "refuse" else schema
        try:
            self._validator = library.validator_for(
                dict(cast("Mapping[str, Any]", used)), validate_formats=True, offline=True
            )
        except (ValueError, library.ValidationError) as error:
            raise _no_contract(str(error).partition("\n")[0][:200], None) from None
        self.declared: Any = Any
        self.schema = schema
        self.fields = named_fields(schema)
        told = json.dumps([schema, unknown], sort_keys=True, default=str).encode()
        self.hash = hashlib.blake2b(told, digest_size=16).hexdigest()

    def admit(self, value: Any) -> Any:
        """The value itself: a schema changes nothing."""
        if self._validator.is_valid(value):
            return value
        problems, unknown = [], []
        for error in itertools.islice(self._validator.iter_errors(value), PROBLEMS_MAX):
            kind = error.kind
            path = path_of(error.instance_path)
            if kind.name in _CLOSERS:
                unknown += [path_of([*error.instance_path, name]) for name in kind.unexpected]
            else:
                problems.append((path, _wrong(kind)))
        raise unlike(problems) if problems else unknown_fields(unknown or ["$"])

    def admit_instance(self, value: Any) -> Any:
        """None: a schema knows values of JSON only."""
        return None

    def written(self, value: Any) -> bytes:
        """As JSON."""
        return json.dumps(value).encode()


class TypeContract:
    """A type, by pydantic in strict mode: a text is no number, and nothing is cut off or rounded.

    Fields that the type does not keep are refused, also where its own config would ignore them; a
    model that declares `extra="allow"` keeps them.
    """

    def __init__(self, declared: Any) -> None:
        from pydantic import TypeAdapter, ValidationError  # slow to import; for typed tools only

        self.declared = declared
        self._contract: Contract = contract_of(declared)  # BuildError contract.unsupported
        self._adapter: Any = TypeAdapter(declared)
        self._error = ValidationError
        self._freezer = Freezer()
        self.schema: Mapping[str, Any] = self._contract.json_schema()
        self.fields = named_fields(self.schema)
        self.hash = self._contract.hash
        self._has_literals = _has_literals(self.schema)

    def admit(self, value: Any) -> Any:
        """An instance of the type, with every field that came."""
        text = json.dumps(value)
        extra: list[tuple[str | int, ...]] = []
        try:
            made = self._adapter.validate_json(text, strict=True, extra="forbid")
        except self._error as error:
            extra = self._only_extra(error)
            made = self._with_extra(text, extra)
        if extra or self._has_literals:
            kept = self._adapter.dump_python(made, mode="json", by_alias=True, warnings=False)
            lost = [path_of(each) for each in extra if not _is_in(kept, each)]
            if lost:
                raise unknown_fields(lost)
            turned = list(_turned(value, kept, ())) if self._has_literals else []
            if turned:
                raise unlike([(path_of(each), "is a truth for a number") for each in turned])
        return made

    def _with_extra(self, text: str, extra: list[tuple[str | int, ...]]) -> Any:
        """The value as the type's own config has it; what that drops is seen afterwards."""
        try:
            return self._adapter.validate_json(text, strict=True)
        except self._error as error:
            self._only_extra(error)
            raise unknown_fields([path_of(each) for each in extra]) from None

    def _only_extra(self, error: Any) -> list[tuple[str | int, ...]]:
        """The places of unknown fields; raises when anything else is wrong."""
        found = error.errors(include_url=False, include_context=False, include_input=False)
        problems = [
            (path_of(each["loc"]), _told(each)) for each in found if each["type"] not in _EXTRA
        ]
        if problems:
            raise unlike(problems) from None
        return [each["loc"] for each in found]

    def admit_instance(self, value: Any) -> Any:
        """An instance that the tool made itself, checked anew."""
        try:
            self._adapter.validate_python(value, strict=True)
        except self._error as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            raise unlike([(path_of(each["loc"]), _told(each)) for each in found]) from None
        try:
            return thaw(self._contract.admit(value, self._freezer))
        except ContractError as error:
            raise unlike([(path, f"is no {due}") for path, due, _ in error.problems]) from None

    def written(self, value: Any) -> bytes:
        """As the type itself writes JSON."""
        data: bytes = self._adapter.dump_json(value)
        return data


def _told(error: Mapping[str, Any]) -> str:
    """pydantic's name of the fault: its message may show what the tool said."""
    return f"fails {error['type']}"


def _wrong(kind: Any) -> str:
    """The fault in the contract's words alone."""
    if kind.name == "required":
        return f"lacks {kind.property!r}"
    if kind.name == "type":
        return f"is not of type {kind.types}"
    return f"fails {kind.name}"


def _is_in(value: Any, path: tuple[str | int, ...]) -> bool:
    for step in path:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return False
    return True


def _has_literals(schema: Any) -> bool:
    """Whether it lists numbers or truths: pydantic finds those by equality, so that `true` is
    taken for a literal 1, in strict mode too."""
    if isinstance(schema, list):
        return any(map(_has_literals, schema))
    if not isinstance(schema, Mapping):
        return False
    enum = schema.get("enum")
    listed = [schema.get("const"), *(enum if isinstance(enum, list) else ())]
    return any(isinstance(each, (int, float)) for each in listed) or any(
        map(_has_literals, schema.values())
    )


def _turned(came: Any, made: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """Places where a truth has become a number, or a number a truth."""
    if isinstance(came, dict) and isinstance(made, dict):
        for name in came.keys() & made.keys():
            yield from _turned(came[name], made[name], (*path, name))
    elif isinstance(came, list) and isinstance(made, list):
        for index, (left, right) in enumerate(zip(came, made, strict=False)):
            yield from _turned(left, right, (*path, index))
    elif isinstance(came, bool) is not isinstance(made, bool) and not isinstance(made, str):
        yield path


def _library() -> Any:
    try:
        import jsonschema_rs  # compiled, and needed for schemas only
    except ImportError:
        raise ToolError(
            "tool.missing_extra",
            "a JSON Schema as a contract needs jsonschema-rs",
            expected="jsonschema-rs",
            got="not installed",
            fix="pip install 'stageflow[tools]', or a type as the contract",
        ) from None
    return jsonschema_rs


def _no_contract(got: str, field: str | None) -> BuildError:
    return BuildError(
        "tool.contract",
        "this is no JSON Schema that an output could be checked by",
        field=field,
        expected="a schema of 2020-12, 2019-09 or draft 4 to 7, with no reference to the outside",
        got=got,
        fix="put what is referred to into $defs",
    )
