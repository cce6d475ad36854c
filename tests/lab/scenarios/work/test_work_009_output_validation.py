"""The check of WORK-009 on small histories, and what its load is made of."""

from __future__ import annotations

import importlib.util
import random
from typing import Any

import pytest

from stageflow_lab import History
from stageflow_lab.coverage import Coverage
from stageflow_lab.scenarios.work.json_suite import cases
from stageflow_lab.scenarios.work.output_mutations import CAP, MUTATIONS, mutated
from stageflow_lab.scenarios.work.tool_values import same, spots, valid_value
from stageflow_lab.scenarios.work.work_009_output_validation import SCENARIO, check
from stageflow_lab.verdict import Verdict, rule

RIGHT = {"right": 10, "passed": 10, "labelled": 10, "repaired": 4, "recorded": 4}
WRONG = {"wrong": 10, "refused": 10}
FLAT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "count": {"type": "integer"},
        "is_open": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "level": {"enum": ["low", "high"]},
        "inner": {"type": "object", "properties": {"x": {"type": "number"}}, "required": []},
        "measured": {"type": "object", "properties": {"value": {"type": "number"}}},
        "bill": {"type": "object", "properties": {"total_cents": {"type": "integer"}}},
    },
    "required": ["name", "count", "is_open", "tags", "level", "inner", "measured", "bill"],
}


def history(
    right: dict[str, int] | None = None,
    wrong: dict[str, int] | None = None,
    *,
    most: int = CAP,
    told: str = "accepted",
    outputs: int = 20,
    names: Any = MUTATIONS,
) -> History:
    made = History({})
    made.record("load", outputs=outputs, schemas=2_000)
    for name in names:
        counts = RIGHT if name == "unchanged" else WRONG
        changed = right if name == "unchanged" else wrong if name == "null" else None
        made.record(
            "outputs",
            mutation=name,
            counts={**counts, **(changed or {})},
            most_taken=most,
            examples={each: [f"{name} told"] for each in changed or ()},
        )
        made.fired(name)
    made.record("parsed", name="y_empty", expected="y", told=told)
    made.record("parsed", name="i_large", expected="i", told="refused")
    made.record("parsed", name="n_nan", expected="n", told="refused")
    return made


def judged(made: History) -> tuple[Verdict, str]:
    ruling = rule(SCENARIO, check(made), size="full", coverage=Coverage.of(made, {}))
    return ruling.verdict, ruling.reason or ""


def test_right_ones_given_on_and_wrong_ones_refused_passes() -> None:
    assert judged(history()) == (Verdict.PASS, "")


@pytest.mark.parametrize(
    ("changed", "metric"),
    [
        ({"wrong": {"invalid_passed": 1}}, "invalid_passed"),
        ({"wrong": {"refused": 9}}, "refused_coded"),
        ({"right": {"valid_refused": 1}}, "valid_refused"),
        ({"right": {"lossy": 1}}, "lossy_repairs"),
        ({"right": {"labelled": 9}}, "external_label"),
        ({"right": {"recorded": 3}}, "repairs_recorded"),
        ({"most": CAP * 50}, "oversize_taken"),
        ({"told": "refused"}, "json_suite"),
        ({"told": "raised RecursionError"}, "json_suite"),
    ],
)
def test_each_violation_fails_its_metric(changed: Any, metric: str) -> None:
    made = history(**changed)
    verdict, reason = judged(made)
    assert verdict is Verdict.FAIL and metric in reason


def test_a_load_that_sent_nothing_or_lacks_a_mutation_decides_nothing() -> None:
    assert judged(history(outputs=0))[0] is Verdict.UNKNOWN
    assert judged(history(names=[n for n in MUTATIONS if n != "nan"]))[0] is Verdict.UNKNOWN
    assert judged(history(names=[n for n in MUTATIONS if n != "unchanged"]))[0] is Verdict.UNKNOWN


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_mutation_changes_a_value_or_its_text_and_not_the_original(name: str) -> None:
    rng = random.Random(1)
    value = valid_value({**FLAT, "required": list(FLAT["properties"])}, rng)
    value["measured"].setdefault("value", 1.0)
    value["measured"]["unit"] = "kelvin"
    value["inner"]["x"] = 1.0
    value["bill"]["total_cents"] = 3
    before = repr(value)
    sent = mutated(name, value, FLAT, rng)
    assert sent is not None and repr(value) == before
    plain = mutated("unchanged", value, FLAT, rng)
    assert plain is not None
    changes_nothing = name in ("unchanged", "shorter_than_announced")
    assert (sent.data == plain.data) is changes_nothing


def test_equal_is_equal_as_json() -> None:
    assert same({"a": [1, 2.0]}, {"a": [1.0, 2]})
    for left, right in ((1, True), ("1", 1), ([1], [1, 2]), ({"a": None}, {}), (None, False)):
        assert not same(left, right)


def test_every_place_that_a_schema_speaks_of_is_found() -> None:
    value = {"tags": ["a", "b"], "inner": {"x": 1}}
    found = [spot.key for spot in spots(value, FLAT)]
    assert found == [None, "tags", 0, 1, "inner", "x"]


def test_the_suite_is_whole() -> None:
    held = list(cases())
    assert len(held) == 333 and len({case.name for case in held}) == 333
    assert {case.expected for case in held} == {"y", "n", "i"}


@pytest.mark.skipif(
    importlib.util.find_spec("bfcl_eval") is None, reason="the package bfcl-eval is not installed"
)
def test_enough_schemas_are_packaged() -> None:
    from stageflow_lab.scenarios.work.tool_schemas import shut, tool_schemas

    schemas = tool_schemas()
    assert len(schemas) >= 2_000
    assert all(shut(schema)["additionalProperties"] is False for schema in schemas)
