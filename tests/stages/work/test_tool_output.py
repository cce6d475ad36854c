"""Outputs of tools: what is refused, what is kept as it came, and what is on record of it."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict

from stageflow import BuildError, Pipeline, StageOutput, ToolError, transform
from stageflow.stages.work.tools import (
    EXTERNAL,
    Arguments,
    Incoming,
    OutputCheck,
    OutputRules,
    ToolOutput,
    tool,
)


class Weather(BaseModel):
    city: str
    celsius: float


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    city: str


@dataclass
class Plain:
    city: str


class Rated(BaseModel):
    stars: Literal[1, 2, 3]


GOOD = '{"city": "Oslo", "celsius": 3.5}'
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "celsius": {"type": "number"}},
    "required": ["city"],
}


def code(check: OutputCheck[Any], given: Any) -> str:
    with pytest.raises(ToolError) as refused:
        check.check(given)
    return refused.value.code


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ('{"city": "Oslo", "celsius": "3.5"}', "tool.output_contract"),
        ('{"city": "Oslo"}', "tool.output_contract"),
        ('{"city": "Oslo", "celsius": 3, "wind": 1}', "tool.output_unknown"),
        ('{"city": "Oslo", "celsius": NaN}', "tool.output_json"),
        ('{"city": "Oslo", "celsius": 1e999}', "tool.output_json"),
        ('{"city": "Oslo", "city": "Rome", "celsius": 1}', "tool.output_json"),
        ('{"city": "Oslo", "celsius": 3,}', "tool.output_json"),
        ("{'city': 'Oslo', 'celsius': 3}", "tool.output_json"),
        ('{"city": "\\ud800", "celsius": 3}', "tool.output_encoding"),
        (b'{"city": "\xff", "celsius": 3}', "tool.output_encoding"),
        (f"{GOOD} {GOOD}", "tool.output_json"),
        ("<html><title>502</title></html>", "tool.output_error_page"),
        ('{"error": "over quota"}', "tool.output_error_page"),
        ('{"type": "about:blank", "title": "x", "status": 502}', "tool.output_error_page"),
        ("", "tool.output_truncated"),
        ((1, 2), "tool.output_contract"),
        ({"city": "Oslo", "celsius": float("nan")}, "tool.output_json"),
        ({"city": "Oslo", "celsius": 3, 4: 5}, "tool.output_json"),
        (Weather.model_construct(city=3, celsius="x"), "tool.output_contract"),
    ],
)
def test_what_is_wrong_is_refused_by_its_code(given: Any, expected: str) -> None:
    assert code(OutputCheck(Weather), given) == expected


def test_every_place_where_a_document_can_be_cut_is_found() -> None:
    check: OutputCheck[Any] = OutputCheck(Any)
    text = '{"a": [1.5, true, null, "x\\u00e9\\n é"], "b": {"c": -2}}'.encode()
    for length in range(1, len(text)):
        assert code(check, text[:length]) == "tool.output_truncated", text[:length]


def test_a_document_is_given_on_as_it_came() -> None:
    came = {"a": [0.1, -7, 2**70, True, None, " x\t", "\U0001f30a"], "": {}}
    output: ToolOutput[Any] = OutputCheck(Any).check(json.dumps(came))
    assert output.value == came
    assert (output.provenance.repairs, output.provenance.rounded) == ((), 0)
    assert output.provenance.labels == {EXTERNAL}


@pytest.mark.parametrize(
    ("given", "repair"),
    [
        (f"\ufeff{GOOD}", "bom"),
        (f"```json\n{GOOD}\n```\n", "fence"),
        (json.dumps(GOOD), "encoded"),
    ],
)
def test_a_lossless_repair_is_made_and_on_record_unless_it_is_forbidden(
    given: str, repair: str
) -> None:
    output: ToolOutput[Weather] = OutputCheck(Weather).check(given)
    assert output.value == Weather(city="Oslo", celsius=3.5)
    assert output.provenance.repairs == (repair,)
    strict: OutputCheck[Any] = OutputCheck(Weather, rules=OutputRules(repairs=()))
    assert code(strict, given) in ("tool.output_json", "tool.output_contract")


def test_a_string_that_holds_a_document_stays_one_where_a_string_is_due() -> None:
    output: ToolOutput[Any] = OutputCheck(str).check(json.dumps(GOOD))
    assert (output.value, output.provenance.repairs) == (GOOD, ())


@pytest.mark.parametrize("declared", [Weather, Plain, SCHEMA, list[Weather], dict[str, Plain]])
def test_no_field_is_dropped_whatever_the_contract_is_made_of(declared: Any) -> None:
    inner = (
        {"city": "Oslo", "wind": 1} if "Plain" in str(declared) else {**json.loads(GOOD), "w": 1}
    )
    given = (
        [inner] if "list" in str(declared) else {"a": inner} if "dict[" in str(declared) else inner
    )
    assert code(OutputCheck(declared), given) == "tool.output_unknown"


def test_a_model_that_keeps_what_it_does_not_know_may_be_given_more() -> None:
    output: ToolOutput[Open] = OutputCheck(Open).check('{"city": "Oslo", "wind": 1}')
    assert output.value.model_extra == {"wind": 1}


def test_unknown_fields_are_kept_by_choice_and_refused_where_they_could_only_be_dropped() -> None:
    keep = OutputRules(unknown="keep")
    given = '{"city": "Oslo", "celsius": 3, "wind": 1}'
    kept: ToolOutput[Any] = OutputCheck(SCHEMA, rules=keep).check(given)
    assert kept.value["wind"] == 1
    assert code(OutputCheck(Weather, rules=keep), given) == "tool.output_unknown"


def test_a_truth_is_never_taken_for_a_literal_number() -> None:
    assert code(OutputCheck(Rated), '{"stars": true}') == "tool.output_contract"
    assert code(OutputCheck(Literal[True]), "1") == "tool.output_contract"
    output: ToolOutput[Rated] = OutputCheck(Rated).check('{"stars": 2}')
    assert output.value.stars == 2


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"allOf": [SCHEMA, {"properties": {"wind": {}}}]}, {"city": "a", "wind": 1}, {"b": 1}),
        ({"$ref": "#/$defs/w", "$defs": {"w": SCHEMA}}, {"city": "a"}, {"city": "a", "b": 1}),
        ({"items": SCHEMA}, [{"city": "a"}], [{"city": "a", "b": 1}]),
        ({"type": "object"}, {"anything": 1}, []),
        ({"properties": {"a": {}}, "additionalProperties": True}, {"b": 1}, "<x"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", **SCHEMA}, {"city": "a"}, {"x": 1}),
    ],
)
def test_schemas_are_closed_where_they_name_fields(schema: Any, good: Any, bad: Any) -> None:
    check: OutputCheck[Any] = OutputCheck(schema)
    assert check.check(good).value == good
    code(check, bad)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objekt"},
        {"$ref": "https://example.org/elsewhere.json"},
        {"$schema": "https://example.org/own"},
        {"$schema": "http://json-schema.org/draft-07/schema#", "allOf": [SCHEMA]},
    ],
)
def test_a_schema_that_cannot_be_held_is_refused_when_it_is_declared(schema: Any) -> None:
    with pytest.raises(BuildError, match=r"tool\.contract"):
        OutputCheck(schema)


def test_depth_and_duplicates_are_as_the_rules_say() -> None:
    rules = OutputRules(depth_max=3, duplicates="report")
    check: OutputCheck[Any] = OutputCheck(Any, rules=rules)
    assert check.check('[[["]]]][[["]]]').value == [[["]]]][[["]]]
    assert code(check, "[[[[]]]]") == "tool.output_json"
    assert code(check, [[[[]]]]) == "tool.output_json"
    output = check.check('{"a": 1, "a": 2}')
    assert (output.value, output.provenance.duplicated) == ({"a": 2}, 1)


def test_numbers_that_a_double_does_not_keep_are_told() -> None:
    check: OutputCheck[Any] = OutputCheck(Any)
    assert check.check("0.12345678901234567890123").provenance.rounded == 1
    assert check.check("1e-999").provenance.rounded == 1
    assert check.check("[0.1, 0.0, 1e22, 0e5]").provenance.rounded == 0


def test_messages_hold_nothing_that_the_tool_said() -> None:
    for given in ('{"city": "s3cret", "celsius": "s3cret"}', "s3cret", '"s3cret', "[s3cret"):
        for declared in (Weather, SCHEMA):
            with pytest.raises(ToolError) as refused:
                OutputCheck(declared).check(given)
            assert "s3cret" not in str(refused.value)


def test_an_invariant_that_does_not_hold_is_named() -> None:
    def warmer_than_zero_kelvin(weather: Weather) -> bool:
        return weather.celsius > -273.15

    check: OutputCheck[Weather] = OutputCheck(Weather, invariants=[warmer_than_zero_kelvin])
    check.check(GOOD)
    with pytest.raises(ToolError, match="warmer_than_zero_kelvin"):
        check.check('{"city": "Oslo", "celsius": -300}')


# -- streams ---------------------------------------------------------------------------------------


class Counted:
    """A reader, and an iterator, of a long text; counts what is taken."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.taken = 0
        self.is_closed = False

    async def read(self, n: int, /) -> bytes:
        piece = self.data[self.taken : self.taken + n]
        self.taken += len(piece)
        return piece

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            while piece := await self.read(100):
                yield piece
        finally:
            self.is_closed = True


async def test_of_a_stream_no_more_is_read_than_the_cap_and_it_is_closed() -> None:
    check: OutputCheck[Any] = OutputCheck(Any, rules=OutputRules(bytes_max=1_000))
    asked, iterated = Counted(b"1" * 100_000), Counted(b"1" * 100_000)
    for source in (asked, iterated.pieces()):
        with pytest.raises(ToolError, match=r"tool\.output_size"):
            await check.read(source)
    assert (asked.taken, iterated.taken, iterated.is_closed) == (1_001, 1_100, True)


async def test_a_stream_reader_of_asyncio_is_read_by_size_not_by_line() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b'{"a":\n1}')
    reader.feed_eof()
    output = await OutputCheck[Any](Any).read(reader)
    assert output.value == {"a": 1}


async def test_what_is_shorter_than_announced_is_cut_off_and_what_is_longer_never_read() -> None:
    check: OutputCheck[Any] = OutputCheck(Any, rules=OutputRules(bytes_max=100))
    with pytest.raises(ToolError, match=r"tool\.output_truncated"):
        await check.read(b"123", bytes_expected=5)
    source = Counted(b"1" * 500)
    with pytest.raises(ToolError, match=r"tool\.output_size"):
        await check.read(source, bytes_expected=500)
    assert source.taken == 0


async def test_a_connection_that_breaks_is_a_cut() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"[1"
        raise ConnectionResetError

    with pytest.raises(ToolError, match=r"tool\.output_truncated"):
        await OutputCheck[Any](Any).read(broken())


# -- stages ----------------------------------------------------------------------------------------


@tool(output=Weather)
async def weather(city: str) -> bytes:
    return json.dumps({"city": city, "celsius": 3.5}).encode()


@tool(output=SCHEMA, kind="enrich", labels="weather")
async def streamed(city: str) -> AsyncIterator[bytes]:
    yield b'{"city": '
    yield json.dumps(city).encode() + b"}"


@tool(output=SCHEMA)
def blocking(city: str) -> dict[str, str]:
    return {"city": city}


@transform
def told(weather: ToolOutput[Weather], streamed: ToolOutput[Any]) -> str:
    return f"{weather.value.celsius} in {streamed.value['city']}"


async def test_a_tool_is_a_stage_whose_value_and_all_made_of_it_are_external() -> None:
    desk = Pipeline(
        "desk", [weather, streamed, blocking, told], inputs={"city": str}, outputs=(told, blocking)
    )
    run = await desk.run(city="Oslo")
    assert run[told] == "3.5 in Oslo"
    assert run.labels(told) == {EXTERNAL, "weather"}
    assert run.labels(blocking) == run.labels(weather) == {EXTERNAL}
    assert run[weather].provenance.tool == "weather"


async def test_what_is_refused_fails_the_stage_by_its_code_and_reaches_nobody() -> None:
    @tool(output=Weather)
    async def cut() -> Incoming:
        return Incoming(b'{"city"', bytes_expected=50)

    @transform
    def used(cut: ToolOutput[Weather]) -> str:
        raise AssertionError("it got downstream")

    run = await Pipeline("cut", [cut, used], outputs=used).run()
    assert (run.status, run.reason) == ("failed", "tool.output_truncated")


async def test_a_tool_may_skip_or_fail_as_any_stage() -> None:
    @tool(output=Weather)
    async def absent() -> StageOutput:
        return StageOutput.skip("nothing to ask")

    run = await Pipeline("absent", [absent]).run()
    assert run.nodes["absent"].state == "skipped"


@pytest.mark.parametrize(
    "options",
    [{"bytes_max": 0}, {"depth_max": 10_000}, {"form": "xml"}, {"repairs": ("guess",)}],
)
def test_an_option_that_it_cannot_have_is_refused(options: Any) -> None:
    with pytest.raises(BuildError, match=r"tool\.option"):
        OutputRules(**options)


def test_a_tool_of_no_kind_is_refused() -> None:
    with pytest.raises(BuildError, match=r"tool\.option"):

        @tool(output=str, kind="guard")  # type: ignore[arg-type]
        async def no() -> str:
            return ""


# -- arguments -------------------------------------------------------------------------------------


def forecast(city: str, days: int = 3) -> str:
    return city * days


def test_arguments_that_a_model_writes_are_typed_by_the_signature() -> None:
    arguments = Arguments(forecast)
    assert arguments.check('{"city": "Oslo"}') == {"city": "Oslo", "days": 3}
    assert arguments.check({"city": "Oslo", "days": 1}) == {"city": "Oslo", "days": 1}
    assert set(arguments.schema["properties"]) == {"city", "days"}


@pytest.mark.parametrize(
    "given", ['{"city": 1}', '{"city": "a", "dyas": 1}', '{"city": "a", "days": "1"}', "[]", "{"]
)
def test_arguments_that_do_not_fit_are_refused_with_a_text_for_the_model(given: str) -> None:
    for arguments in (Arguments(forecast), Arguments({**SCHEMA, "type": "object"}, name="f")):
        with pytest.raises(ToolError, match=r"tool\.arguments"):
            arguments.check(given)


async def test_a_partial_and_an_object_that_can_be_called_are_tools() -> None:
    def weather(unit: str, city: str) -> str:
        return json.dumps({"city": city, "celsius": len(unit)})

    class Station:
        async def __call__(self, city: str) -> str:
            return weather("C", city)

    for body, name in ((functools.partial(weather, "C"), "weather"), (Station(), "Station")):
        stage = tool(output=Weather)(body)
        assert stage.name == name
        run = await Pipeline("p", [stage], inputs={"city": str}, outputs=stage).run(city="Oslo")
        assert run.output.value == Weather(city="Oslo", celsius=1)
    with pytest.raises(BuildError, match=r"stage\.not_callable"):
        tool(output=Weather)(7)  # type: ignore[arg-type]
