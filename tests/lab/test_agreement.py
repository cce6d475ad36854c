"""Headers against the catalogue: what is missing or different is said."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stageflow_lab import History, Judgement, Metric, Scenario, Sizes, sabotage
from stageflow_lab.roadmap import entries
from stageflow_lab.roadmap.agreement import disagreements, pass_numbers


@sabotage(metric="a")
def one() -> Iterator[None]:
    """A defect."""
    yield


@sabotage(metric="a")
def two() -> Iterator[None]:
    """Another defect."""
    yield


ZEROS = tuple(Metric(name, "==", 0) for name in ("a", "duplicated", "overwrites"))


def header(**changed: object) -> Scenario:
    settings: dict[str, object] = {
        "row": "CORE-001",
        "claim": entries()["CORE-001"].claim,
        "sizes": Sizes(quick={"runs": 1}, full={"runs": 2}),
        "metrics": ZEROS,
        "sabotages": (one, two),
        "load": lambda world: History(),
        "check": lambda history: Judgement({}),
    }
    return Scenario(**{**settings, **changed})  # type: ignore[arg-type]


def test_a_faithful_header_has_no_disagreements() -> None:
    assert disagreements(header(), entries()["CORE-001"]) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"row": "CORE-002"}, "the scenario is of CORE-002"),
        ({"claim": "all is well"}, "the claim is not the catalogue's"),
        ({"sabotages": (one,)}, "1 sabotages too few"),
        ({"metrics": ZEROS[:2]}, "no gate metric of its own has the threshold 0"),
    ],
)
def test_each_difference_is_said(changed: dict[str, object], said: str) -> None:
    found = disagreements(header(**changed), entries()["CORE-001"])
    assert any(said in each for each in found), found


def test_a_reported_metric_does_not_cover_a_bound() -> None:
    reported = (*ZEROS[:2], Metric("overwrites", "==", 0, gate=False))
    assert disagreements(header(metrics=reported), entries()["CORE-001"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "lost 0, P95 ≤1.5\N{MULTIPLICATION SIGN} floor",
            [("0", True), ("1.5\N{MULTIPLICATION SIGN}", True)],
        ),
        ("extra ≤1.25 + 64 MiB", [("1.25", True), ("64MiB", False)]),
        ("refused 500/500; F1 ≥0.9", [("500/500", True), ("0.9", True)]),
        ("equal 100% at depth 200", [("100%", True), ("200", False)]),
        ("halt at 2f+1 within +-1 item", [("1", True)]),
        ("10^9 ids, kill -9, top-1", [("10^9", False)]),
    ],
)
def test_numbers_of_a_pass_line(text: str, expected: list[tuple[str, bool]]) -> None:
    assert [(each.text, each.is_bound) for each in pass_numbers(text)] == expected


def test_units_and_wholes_have_the_thresholds_people_write() -> None:
    (share,) = pass_numbers("≤5%")
    assert set(share.values) == {5.0, 0.05}
    (size,) = pass_numbers("≤4 KiB")
    assert set(size.values) == {4.0, 4096.0}
    (whole,) = pass_numbers("10,000/10,000")
    assert set(whole.values) == {10_000.0, 1.0}


def test_a_describing_number_may_stand_in_a_metric() -> None:
    entry = entries()["DAG-006"]
    metrics = (
        Metric("completed", "==", 1.0),
        Metric("time", "<=", 1.2, "x", doc="per stage, at 10\N{MULTIPLICATION SIGN} depth"),
        Metric("retained", "<=", 4096, "bytes"),
        Metric("reexecuted", "<=", 1),
        Metric("recursion_errors", "==", 0),
    )
    faithful = header(row="DAG-006", claim=entry.claim, metrics=metrics, sabotages=())
    assert not [each for each in disagreements(faithful, entry) if "Pass line" in each]
