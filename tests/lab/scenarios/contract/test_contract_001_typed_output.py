"""CONTRACT-001's check on histories made by hand, and its oracle on cases decided by hand."""

import random
from typing import Any

import pytest
from pydantic import BaseModel

from stageflow_lab import History
from stageflow_lab.roadmap import agreement, entries
from stageflow_lab.scenarios.contract.contract_001_typed_output import (
    MODES,
    SCENARIO,
    check,
)
from stageflow_lab.scenarios.contract.generated_models import FEATURES, Shape, drawn, shape
from stageflow_lab.scenarios.contract.given_values import (
    FORMS,
    Oracle,
    as_input,
    digest,
    given,
)
from stageflow_lab.scenarios.contract.miswirings import build, miswiring
from stageflow_lab.scenarios.contract.payload_mutations import MUTATIONS, mutated

ACCEPTED: dict[str, Any] = {
    "valid": True,
    "reason": "",
    "explained": False,
    "consumer": "expected",
    "caller": "expected",
    "journal": "expected",
}
REFUSED: dict[str, Any] = {
    "valid": False,
    "reason": "contract.violated",
    "explained": True,
    "consumer": "none",
    "caller": "none",
    "journal": "none",
}
ROUND = {"calls": 10, "typed": 1.3, "floor": 1.0, "dispatch": 0.01}


def record(history: History, observed: dict[str, Any], **changes: Any) -> None:
    event = {
        "shape": 0, "count": 1, "mode": "durable", "who": "stage", "form": "plain",
        "mutation": "null", "canary": True, "leaked": False, **observed, **changes,
    }  # fmt: skip
    history.record("given", **event)


def clean() -> History:
    """Everything the load must do, and nothing wrong."""
    history = History()
    history.record("shape", number=0, features=FEATURES)
    for mode in dict.fromkeys(MODES):
        hidden = {} if mode != "memory" else {"journal": "none"}
        record(history, ACCEPTED, mode=mode, **hidden)
        record(history, REFUSED, mode=mode)
    record(history, REFUSED, who="guard")
    for mutation in MUTATIONS:
        record(history, REFUSED, mutation=mutation)
    for form in FORMS[2:]:
        record(history, REFUSED, form=form)
    wire(history)
    for form in ("plain", "instance"):
        for _ in range(3):
            history.record("cost", form=form, **ROUND)
    return history


def wire(history: History, **changes: Any) -> None:
    event = {
        "kind": "models", "refused": True, "code": "graph.type_mismatch", "names_both": True,
        "ran": 0, "right_refused": False, **changes,
    }  # fmt: skip
    history.record("wiring", **event)


def failing(history: History) -> set[str]:
    """The gate metrics that fail, or have nothing to judge."""
    judged = check(history).metrics
    return {
        metric.name
        for metric in SCENARIO.metrics
        if metric.gate and not metric.met(judged[metric.name], size="quick")  # type: ignore[arg-type]
    }


def test_the_header_is_the_catalogues() -> None:
    assert agreement.disagreements(SCENARIO, entries()["CONTRACT-001"]) == []


def test_a_run_as_it_should_be_passes() -> None:
    judgement = check(clean())
    assert judgement.unknown is None
    assert failing(clean()) == set()
    cost = judgement.metrics["cost_ratio"]
    assert not isinstance(cost, (int, float))
    assert cost.value == pytest.approx(1.2)  # typed 1.3, less 10 calls of 0.01


@pytest.mark.parametrize(
    ("observed", "changes", "expected"),
    [
        (ACCEPTED, {"reason": "contract.violated", "explained": True, "consumer": "none",
                    "caller": "none", "journal": "none"}, {"disagreements"}),
        (ACCEPTED, {"caller": "other"}, {"disagreements", "invalid_visible"}),
        (ACCEPTED, {"journal": "none"}, {"disagreements"}),
        (REFUSED, {"journal": "other"}, {"disagreements", "invalid_visible"}),
        (REFUSED, {"consumer": "other"}, {"disagreements", "invalid_visible"}),
        (REFUSED, {"reason": "", "explained": False}, {"disagreements"}),
        (REFUSED, {"explained": False}, {"refusals_unexplained"}),
        (REFUSED, {"leaked": True}, {"values_leaked"}),
    ],
)  # fmt: skip
def test_one_wrong_value_fails_its_metrics(
    observed: dict[str, Any], changes: dict[str, Any], expected: set[str]
) -> None:
    history = clean()
    record(history, observed, **changes)
    assert failing(history) == expected


def test_what_a_run_without_journal_has_not_is_not_missed() -> None:
    history = clean()
    record(history, ACCEPTED, mode="memory", journal="none")
    assert failing(history) == set()


@pytest.mark.parametrize("change", [{"refused": False}, {"names_both": False}, {"ran": 1}])
def test_a_wrong_wiring_that_is_not_well_refused_fails(change: dict[str, Any]) -> None:
    history = clean()
    wire(history, **change)
    assert failing(history) == {"miswirings_refused"}


def test_a_right_wiring_that_is_refused_fails() -> None:
    history = clean()
    wire(history, right_refused=True)
    assert failing(history) == {"right_wirings_refused"}


@pytest.mark.parametrize(
    ("form", "metric"), [("plain", "cost_ratio"), ("instance", "instance_cost_ratio")]
)
def test_payloads_and_instances_are_both_judged(form: str, metric: str) -> None:
    history = clean()
    for _ in range(5):
        history.record("cost", form=form, **{**ROUND, "typed": 1.6})
    assert failing(history) == {metric}


@pytest.mark.parametrize(
    ("kind", "field", "value", "told"),
    [
        ("given", "mode", "simulated", "in a simulated run"),
        ("given", "who", "guard", "no guard"),
        ("given", "mutation", "nan", "the mutation nan broke nothing"),
        ("given", "form", "tampered", "no tampered instance"),
        ("shape", "number", 0, "no shape has the feature discriminated"),
    ],
)
def test_a_load_that_left_something_out_decides_nothing(
    kind: str, field: str, value: object, told: str
) -> None:
    history = History()
    for event in clean().events:
        if event.kind != kind or event.data[field] != value:
            history.record(event.kind, **event.data)
    assert told in (check(history).unknown or "")


def test_fewer_values_than_asked_for_decide_nothing() -> None:
    history = History({"payloads": 1_000, "miswirings": 1})
    for event in clean().events:
        history.record(event.kind, **event.data)
    assert check(history).unknown == "fewer values were given than the size asks for"
    assert check(History()).unknown is not None


class Inner(BaseModel):
    n: int


class Outer(BaseModel):
    inner: Inner
    note: str = "x"


def test_the_oracle_does_not_trust_instances() -> None:
    oracle = Oracle(Shape(0, Outer, None, Outer, ()))  # type: ignore[arg-type]
    valid = Outer(inner=Inner(n=1))
    assert as_input(valid) == {"inner": {"n": 1}}
    assert oracle.expected(valid) == digest(valid)
    assert oracle.expected(Outer.model_construct(inner={"n": "no"})) is None
    valid.inner.__dict__["n"] = None
    assert oracle.expected(valid) is None


def test_digests_tell_apart_what_equality_does_not() -> None:
    told = [digest(value) for value in (1, True, 1.0, "1", [1], (1,), {1}, Inner(n=1), {"n": 1})]
    assert len(set(told)) == len(told)
    assert digest(float("nan")) == digest(float("nan"))
    assert digest(Outer(inner=Inner(n=1))) != digest(Outer(inner=Inner(n=1), note="x"))


def test_mutations_leave_the_original_alone() -> None:
    payload = {"a": [1, {"b": "text"}], "c": 2.5}
    for kind in MUTATIONS:
        changed = mutated(payload, kind, random.Random(1))
        assert changed is None or repr(changed[0]) != repr(payload) or kind == "bool_for_int"
        assert payload == {"a": [1, {"b": "text"}], "c": 2.5}
    assert mutated("text", "extra", random.Random(1)) is None


def test_equal_seeds_give_equal_shapes_and_values() -> None:
    def values() -> list[object]:
        made = shape(7, 11)
        rng, oracle = random.Random(3), Oracle(made)
        found = [given(made, oracle, each, rng) for each in drawn(made.inputs, 5, 13)]
        return [(each.form, each.mutation, each.expected) for each in found]

    assert values() == values()


def test_each_kind_of_wrong_wiring_is_wrong_and_its_twin_is_right() -> None:
    for number in range(11):
        case = miswiring(number, number)
        wrong = build(case, rightly=False)
        assert (wrong.refused, wrong.names_both, wrong.ran) == (True, True, 0), case
        assert not build(case, rightly=True).refused, case
