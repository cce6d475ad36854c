"""The check of CORE-004 on small histories: one that passes, and one for every way to fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stageflow_lab import History
from stageflow_lab.scenarios.core.core_004_run_ids import CLONED, FAULTS, SCENARIO, check
from stageflow_lab.scenarios.core.id_makers import compared, unproven
from stageflow_lab.verdict import Verdict, rule

SIZES = {"ids": 100, "collisions": 2}


def history(
    *, streams: list[dict[str, Any]] | None = None, subject_s: float = 1.0, **changed: Any
) -> History:
    """A history that passes; `streams` come on top, `changed` says what a collision was like."""
    made = History(SIZES)
    for number, fault in enumerate(("", *FAULTS)):
        made.record(
            "stream",
            name=f"s{number}",
            ids=30,
            disordered=0,
            owns=(f"own{number}",),
            whole=fault in CLONED,
            fault=fault,
        )
    for stream in streams or ():
        plain = {"name": "more", "disordered": 0, "owns": ("more",), "whole": False, "fault": ""}
        made.record("stream", **{**plain, "ids": 30, **stream})
    made.record("compared", equal=changed.pop("equal", 0), ids=100)
    for _ in range(SIZES["collisions"]):
        plain = {"refused": True, "named": True, "intact": True, "reused": 0, "said": "refused"}
        made.record("collision", store="memory", way="at once", **{**plain, **changed})
    for _ in range(5):
        made.record("timed", subject_s=subject_s, floor_s=1.0)
    return made


def failed(made: History) -> set[str]:
    ruling = rule(SCENARIO, check(made), size="quick")
    assert ruling.verdict is Verdict.FAIL, ruling.reason
    return {metric.name for metric in ruling.metrics if metric.passed is False}


def test_a_clean_history_passes() -> None:
    ruling = rule(SCENARIO, check(history()), size="quick")
    assert ruling.verdict is Verdict.PASS, ruling.reason


@pytest.mark.parametrize(
    ("metric", "changed"),
    [
        ("duplicates", {"equal": 1}),
        ("order_violations", {"streams": [{"disordered": 1}]}),
        ("unproven", {"streams": [{"owns": ("own0",)}]}),
        ("collisions_refused", {"refused": False}),
        ("refusals_that_name_both", {"named": False}),
        ("runs_left_intact", {"intact": False}),
        ("results_reused", {"reused": 1}),
        ("cost", {"subject_s": 3.1}),
    ],
)
def test_each_wrong_fails_its_metric(metric: str, changed: dict[str, Any]) -> None:
    assert failed(history(**changed)) == {metric}


def test_shared_bits_of_streams_kept_whole_are_proven_by_comparing() -> None:
    assert unproven([{"ids": 5, "owns": ("a",), "whole": True}] * 2) == 0
    assert (
        unproven(
            [{"ids": 5, "owns": ("a",), "whole": True}] * 2
            + [{"ids": 7, "owns": ("a", "b"), "whole": False}]
        )
        == 7
    )


def test_equal_ids_are_found_across_files(tmp_path: Path) -> None:
    ids = [f"{number:026d}" for number in range(10)]
    (tmp_path / "one.0").write_text("".join(ids[:6]))
    (tmp_path / "two.0").write_text("".join(ids[5:]))
    (tmp_path / "two.3").write_text(ids[0])
    assert compared(tmp_path) == (1, 12)


def test_a_load_that_did_not_happen_decides_nothing() -> None:
    short = History({**SIZES, "ids": 1_000})
    for event in history().events:
        short.record(event.kind, **event.data)
    assert "ids were made" in str(check(short).unknown)
    assert check(History(SIZES)).unknown is not None


def test_a_process_that_died_decides_nothing() -> None:
    made = history()
    made.record("broken", what="BrokenProcessPool: died")
    assert check(made).unknown == "BrokenProcessPool: died"
