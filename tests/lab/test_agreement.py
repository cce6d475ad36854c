"""Headers against the catalogue: what is missing or different is said."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stageflow_lab import History, Judgement, LabError, Metric, Scenario, Sizes, sabotage
from stageflow_lab.roadmap import entries
from stageflow_lab.roadmap.agreement import disagreements, pass_numbers
from stageflow_lab.roadmap.loads import load_numbers, unreached


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
        "sizes": Sizes(quick={"runs": 2_000}, full={"runs": 200_000}),
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
        ({"sizes": Sizes(quick={"runs": 2_000}, full={"runs": 2_000})}, "reaches the 200,000"),
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


BOTH = ("quick", "full")


@pytest.mark.parametrize(
    ("text", "quick", "full"),
    [
        (
            "5 kinds; quick 2,000 runs of 50, full 100,000; REAL 100",
            "5 2,000 50 100",
            "5 100,000 100",
        ),
        ("quick 1,000/10,000; full 100,000 and nesting 200", "1,000 10,000", "100,000 200"),
        (
            "quick 2\N{MULTIPLICATION SIGN}10^7 ids; full 10^9",
            "2\N{MULTIPLICATION SIGN}10^7",
            "10^9",
        ),
        ("quick 20,000, 20 kills. Full: 5 million", "20,000 20", "5 million"),
        ("quick 60 cuts. Second set: 97 tasks; full 500", "60 97", "97 500"),
        ("949 tasks; 1,000 repeats (quick 100), 3 pairs", "100", "949 1,000 3"),
        ("10,000 items (full 10 million) of 50 ms", "10,000 50", "10,000 10 million 50"),
        ("the full matrix of 4, full-width digits; full 20", "4", "4 20"),
        ("quick widths 2-50, kill -9; full", "2 50", ""),
        ("integers beyond 2^53, RFC 3339/5322, P95, NEWS2, DE-35, in 1970; quick 7", "7", ""),
        ("200 / 10,000 sessions, 12 roles; 30 kills", "200 30", "10,000 12 30"),
        ("300 / 5,000 facts from 50 k / 2 M rows", "300 50 k", "5,000 2 M"),
        ("100 clients at 0.5 or 1.25", "100 0.5 1.25", "100 0.5 1.25"),
    ],
)
def test_numbers_of_a_load_line_by_size(text: str, quick: str, full: str) -> None:
    found = load_numbers(text)
    assert [" ".join(each.text for each in found[size]) for size in BOTH] == [quick, full]


def test_numbers_of_a_load_line_have_their_values() -> None:
    text = "quick 2\N{MULTIPLICATION SIGN}10^7, 2 million, 3 M, 50 k, 1,000.5, 10^6; full 1"
    values = [number.value for number in load_numbers(text)["quick"]]
    assert values == [2e7, 2e6, 3e6, 5e4, 1000.5, 1e6]


def test_a_size_below_the_load_is_said_for_each_size() -> None:
    load = "quick 2,000 runs of 50; full 200,000"
    whole = Sizes(quick={"runs": 2_000, "width": 50}, full={"runs": [1, 200_000], "on": True})
    assert list(unreached(whole, load)) == []
    small = Sizes(quick={"runs": 40, "text": "9,000"}, full={"mix": {"runs": 100_000}})
    said = list(unreached(small, load))
    assert [each.split(" of the Load")[0].rpartition(" ")[2] for each in said] == [
        "2,000",
        "50",
        "200,000",
    ]
    assert "the quick size" in said[0] and "the largest is 40" in said[0]
    assert "the full size" in said[2] and "100,000" in said[2]


def test_a_declared_sum_or_product_reaches_the_load() -> None:
    load = "quick 5,000 injections; full 500,000"
    params = {"pipelines": 200, "points": 25}
    alone = Sizes(quick=params, full={**params, "points": 2_500})
    assert len(list(unreached(alone, load))) == 2
    for total in ("pipelines * points", "pipelines + points"):
        sizes = Sizes(quick=alone.quick, full=alone.full, totals={"injections": total})
        assert bool(list(unreached(sizes, load))) is ("+" in total)
    summed = Sizes(quick={"sim": 4_000, "real": 1_000}, full={"sim": 1}, totals={"n": "sim + real"})
    assert summed.total("n", "quick") == 5_000 and summed.total("n", "soak") == 0
    with pytest.raises(LabError, match="'a', which is no quick parameter"):
        header(sizes=Sizes(quick={"b": 1}, full={"b": 1}, totals={"n": "a * b"}))
    with pytest.raises(LabError, match="both a sum and a product"):
        header(sizes=Sizes(quick={"a": 1}, full={"a": 1}, totals={"n": "a * a + a"}))


def test_every_row_of_the_catalogue_has_a_load_that_sizes_can_reach() -> None:
    for entry in entries().values():
        numbers = load_numbers(entry.load)
        sizes = Sizes(
            quick={"all": [each.value for each in numbers["quick"]]},
            full={"all": [each.value for each in numbers["full"]]},
        )
        assert list(unreached(sizes, entry.load)) == [], entry.id
