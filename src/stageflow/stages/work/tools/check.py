"""Checks what a tool gave: size, text, JSON, contract, invariants, in this order."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar

from stageflow.model.errors import ToolError
from stageflow.model.refusal import type_label
from stageflow.stages.work.tools.contract import ToolContract, tool_contract
from stageflow.stages.work.tools.output import Provenance, ToolOutput
from stageflow.stages.work.tools.reading import Source, decoded, read, whole
from stageflow.stages.work.tools.refusals import contradictory, error_page, not_json, too_large
from stageflow.stages.work.tools.rules import OutputRules, RepairKind
from stageflow.stages.work.tools.strict_json import Document, parse

T = TypeVar("T")
Invariant: TypeAlias = Callable[[Any], bool]
_BOM: Final = "\ufeff"
_FENCE: Final = re.compile(
    r"\s*```[A-Za-z0-9]*[ \t]*\r?\n(?P<inside>.*?)\r?\n?[ \t]*```\s*", re.DOTALL
)
_PROBLEM: Final = frozenset({"type", "title", "status"})
"""Fields of an error told by RFC 9457, problem details."""
_SUCCESS_BELOW: Final = 400
_TEXTS: Final = (bytes, bytearray, memoryview, str)


class OutputCheck(Generic[T]):
    """Checks the outputs of one tool. Immutable; shared by any number of tasks and threads.

    `contract` is a type, or a JSON Schema as a mapping. `invariants` are functions of the value
    that say whether it agrees with itself; what one raises is passed on. Raises BuildError
    `tool.contract`, `contract.unsupported`, ToolError `tool.missing_extra`.
    """

    def __init__(
        self,
        contract: Any,
        *,
        tool: str = "tool",
        rules: OutputRules | None = None,
        invariants: Sequence[Invariant] = (),
    ) -> None:
        self.tool = tool
        self.rules = OutputRules() if rules is None else rules
        self.contract: ToolContract = tool_contract(contract, unknown=self.rules.unknown)
        self.invariants = tuple(invariants)

    def check(self, given: Any) -> ToolOutput[T]:
        """Bytes or str are the text that came; dicts, lists, numbers, booleans and None are a
        value of JSON, other objects an instance of the contract's type.

        Raises ToolError `tool.output_size`, `tool.output_truncated`, `tool.output_encoding`,
        `tool.output_json`, `tool.output_error_page`, `tool.output_contract`, `tool.output_unknown`,
        `tool.output_invariant`, `tool.output_value`, each naming the tool as its node.
        """
        try:
            if isinstance(given, _TEXTS):
                return self._text(whole(given, self.rules.bytes_max))
            if given is None or isinstance(given, (dict, list, int, float)):
                return self._text(written(given, self.rules), is_value=True)
            return self._instance(given)
        except ToolError as error:
            raise error.at(node=self.tool) from None

    async def read(self, source: Source, *, bytes_expected: int | None = None) -> ToolOutput[T]:
        """The same of a stream, of which no more is read than the cap allows.

        `source` is an async iterator of bytes, a reader such as asyncio.StreamReader, or what
        `check` takes as text. `bytes_expected`, as a Content-Length, is held against what came.
        """
        try:
            data = await read(source, self.rules.bytes_max, bytes_expected=bytes_expected)
            return self._text(data)
        except ToolError as error:
            raise error.at(node=self.tool) from None

    def _text(self, data: bytes, *, is_value: bool = False) -> ToolOutput[T]:
        text = decoded(data)
        repairs: tuple[RepairKind, ...] = ()
        if self.rules.form == "text" and not is_value:
            document = Document(text)
            value = self.contract.admit(text)
        else:
            allowed = () if is_value else self.rules.repairs
            text, repairs = unwrapped(text, allowed)
            document = self._parsed(text)
            value, repairs = self._admitted(document, repairs, allowed)
        return self._output(value, data, document, repairs)

    def _parsed(self, text: str) -> Document:
        if text.lstrip().startswith("<"):
            raise error_page("a page of markup")
        rules = self.rules
        return parse(text, depth_max=rules.depth_max, duplicates=rules.duplicates)

    def _admitted(
        self, document: Document, repairs: tuple[RepairKind, ...], allowed: Sequence[RepairKind]
    ) -> tuple[Any, tuple[RepairKind, ...]]:
        """The value by its contract; one that is a document in a string is opened when only that
        makes it fit."""
        self._look_for_error(document.value)
        try:
            return self.contract.admit(document.value), repairs
        except ToolError as refused:
            if "encoded" not in allowed or type(document.value) is not str:
                raise
            try:
                inner = self._parsed(document.value)
            except ToolError:
                raise refused from None  # it was no document in a string, only a wrong value
        self._look_for_error(inner.value)
        document.value = inner.value
        document.duplicated += inner.duplicated
        document.rounded += inner.rounded
        return self.contract.admit(inner.value), (*repairs, "encoded")

    def _look_for_error(self, value: Any) -> None:
        if type(value) is not dict:
            return
        known = self.contract.fields
        for name in self.rules.error_fields:
            if name not in known and value.get(name):
                raise error_page(f"a document with {name!r}")
        status = value.get("status")
        is_problem = value.keys() >= _PROBLEM and not known >= _PROBLEM
        if is_problem and type(status) is int and status >= _SUCCESS_BELOW:
            raise error_page("problem details (RFC 9457)")

    def _instance(self, given: Any) -> ToolOutput[T]:
        value = self.contract.admit_instance(given)
        if value is None:
            raise ToolError(
                "tool.output_value",
                "the tool gave a value that its contract can't judge",
                expected="bytes or text, or a value of JSON",
                got=type_label(type(given)),
                fix="give the text that came, or declare the type as the contract",
            )
        data = self.contract.written(value)
        if len(data) > self.rules.bytes_max:
            raise too_large(self.rules.bytes_max, f"{len(data):,} bytes as JSON")
        return self._output(value, data, Document(None), ())

    def _output(
        self, value: Any, data: bytes, document: Document, repairs: tuple[RepairKind, ...]
    ) -> ToolOutput[T]:
        for invariant in self.invariants:
            if not invariant(value):
                name = getattr(invariant, "__name__", type(invariant).__name__)
                raise contradictory(name, "False")
        return ToolOutput(
            value,
            Provenance(
                tool=self.tool,
                bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                contract=self.contract.hash,
                repairs=repairs,
                duplicated=document.duplicated,
                rounded=document.rounded,
            ),
        )


def unwrapped(text: str, allowed: Sequence[RepairKind]) -> tuple[str, tuple[RepairKind, ...]]:
    """The text without what stands around it, and what was taken away. Nothing inside changes."""
    made: list[RepairKind] = []
    if text.startswith(_BOM):
        if "bom" not in allowed:
            raise not_json("JSON (RFC 8259 section 8.1)", "a byte order mark at the start")
        text = text[1:]
        made.append("bom")
    if "fence" in allowed and "```" in text:
        found = _FENCE.fullmatch(text)
        if found is not None:
            text = found["inside"]
            made.append("fence")
    return text, tuple(made)


def written(value: Any, rules: OutputRules) -> bytes:
    """A value of JSON as its text, so that it takes the way of all texts. Changes nothing: what
    JSON would write otherwise, as a tuple or a key that is no text, is refused."""
    left, waiting = rules.bytes_max, [(value, 0)]
    while waiting:
        each, depth = waiting.pop()
        kind = type(each)
        left -= 1
        if kind is str:
            left -= len(each)
        elif kind is dict or kind is list:
            if depth >= rules.depth_max:
                raise not_json(
                    f"at most {rules.depth_max} objects and arrays in each other", "more"
                )
            if kind is dict:
                for key in each:
                    if type(key) is not str:
                        raise not_json("texts as names of fields", type_label(type(key)))
                    left -= len(key)
            parts = each.values() if kind is dict else each
            left -= len(parts)
            waiting += [(part, depth + 1) for part in parts]
        elif each is not None and kind not in (bool, int, float):
            raise not_json("values of JSON", type_label(kind))
        if left < -1:
            raise too_large(rules.bytes_max, f"more than {rules.bytes_max:,} bytes as JSON")
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return whole(text, rules.bytes_max)
