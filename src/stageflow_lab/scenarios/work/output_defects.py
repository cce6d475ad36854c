"""What a check of outputs gets wrong, as sabotages of WORK-009."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from stageflow.stages.work.tools import check, contract, reading, tool_stage
from stageflow.stages.work.tools.strict_json import Document

from ...sabotage import Sabotage, patched, sabotage


@sabotage(metric="invalid_passed")
def only_keys_checked() -> Iterator[None]:
    """An object passes when it has the fields that are named; nobody looks at what is in them."""
    original = contract.SchemaContract.admit

    def admit(self: contract.SchemaContract, value: Any) -> Any:
        if isinstance(value, dict) and value.keys() <= self.fields:
            return value
        return original(self, value)

    with patched(contract.SchemaContract, "admit", admit):
        yield


@sabotage(metric="invalid_passed")
def unknown_fields_dropped() -> Iterator[None]:
    """What the type does not name is left out, as pydantic does by itself, and nobody is told."""

    def admit(self: contract.TypeContract, value: Any) -> Any:
        try:
            return self._adapter.validate_json(json.dumps(value), strict=True)
        except self._error as error:
            self._only_extra(error)
            raise

    with patched(contract.TypeContract, "admit", admit):
        yield


@sabotage(metric="lossy_repairs")
def text_tidied() -> Iterator[None]:
    """Before it is parsed, white space in the text is made plain, inside of strings too."""
    original = check.unwrapped

    def unwrapped(text: str, allowed: Any) -> Any:
        return original(text.replace("\\t", " ").replace("\\n", " "), allowed)

    with patched(check, "unwrapped", unwrapped):
        yield


@sabotage(metric="oversize_taken")
def size_looked_at_afterwards() -> Iterator[None]:
    """A stream is read to its end, and then its size is held against the cap."""

    async def iterated(source: Any, bytes_max: int) -> bytes:
        return reading.whole(b"".join([chunk async for chunk in source]), bytes_max)

    async def asked(source: Any, bytes_max: int) -> bytes:
        taken = b""
        while chunk := await source.read(reading.CHUNK_MAX):
            taken += chunk
        return reading.whole(taken, bytes_max)

    with patched(reading, "_iterated", iterated), patched(reading, "_asked", asked):
        yield


@sabotage(metric="external_label")
def label_of_our_own() -> Iterator[None]:
    """A tool's stage labels its value as if it had been made here."""
    with patched(tool_stage, "EXTERNAL", "internal"):
        yield


@sabotage(metric="json_suite")
def parser_of_the_library() -> Iterator[None]:
    """The text is read by the standard library's parser as it comes."""

    def parse(text: str, *, depth_max: int, duplicates: str = "refuse") -> Document:
        return Document(json.loads(text))

    with patched(check, "parse", parse):
        yield


DEFECTS: Final[tuple[Sabotage, ...]] = (
    only_keys_checked,
    unknown_fields_dropped,
    text_tidied,
    size_looked_at_afterwards,
    label_of_our_own,
    parser_of_the_library,
)
