"""The check of DAG-005 on small histories, and the fan-outs that it times."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stageflow_lab import History, World
from stageflow_lab.scenarios.dag.dag_005_fan_out import SCENARIO, check
from stageflow_lab.scenarios.dag.fan_out_defects import first_failure_ends_all
from stageflow_lab.scenarios.dag.fan_out_runs import run_concurrent, run_mapped, run_widths
from stageflow_lab.scenarios.dag.peer_process import PEER, Peer
from stageflow_lab.scenarios.dag.wide_fan_outs import Body, bare, fan_out, present, reported
from stageflow_lab.verdict import Ruling, Verdict, rule

RATIOS = {
    "widths_noop": 1.0,
    "widths_waits": 1.0,
    "floor_noop": 2.0,
    "floor_busy": 1.2,
    "floor_waits": 1.2,
}


def history(**ratios: float) -> History:
    """A history that passes; `ratios` replace what was timed, 0 leaves it out."""
    made = History()
    for how in ("static", "failing", "concurrent", "mapped"):
        failing = 5 if how == "failing" else 0
        _run(
            made, how, owed=500 - failing, present=500 - failing, failing=failing, reported=failing
        )
    for what, times in {**RATIOS, "peer": 20.0, **ratios}.items():
        for width in (50, 5_000) if what.startswith("floor") else (0,):
            for _ in range(7 if times else 0):
                made.record("timed", what=what, width=width, subject_s=times, floor_s=1.0)
    made.record("weighed", body="noop", width=500, peak_bytes=500 * 2_000, ok=True)
    return made


def _run(made: History, how: str, **counts: int) -> None:
    status = "partial" if counts["failing"] else "ok"
    made.record("fan_out", how=how, width=500, status=status, **counts)


def ruled(made: History, *, lacking: tuple[str, ...] = ()) -> Ruling:
    return rule(SCENARIO, check(made), size="full", lacking=lacking)


def test_a_clean_history_passes() -> None:
    ruling = ruled(history())
    assert ruling.verdict is Verdict.PASS, ruling.reason


@pytest.mark.parametrize(
    ("metric", "made"),
    [
        ("per_stage_ratio", history(widths_noop=1.31)),
        ("per_stage_ratio_1ms", history(widths_waits=1.31)),
        ("floor_ratio_noop", history(floor_noop=31.0)),
        ("floor_ratio_1ms", history(floor_waits=1.31)),
        ("floor_ratio_1ms_busy", history(floor_busy=1.31)),
        ("peer_throughput_ratio", history(peer=1.9)),
    ],
)
def test_a_slow_fan_out_fails_its_metric(metric: str, made: History) -> None:
    ruling = ruled(made)
    assert ruling.verdict is Verdict.FAIL
    assert [each.name for each in ruling.metrics if each.passed is False] == [metric]


def test_one_width_that_is_slow_is_enough_to_fail() -> None:
    made = history()
    for _ in range(7):
        made.record("timed", what="floor_busy", width=500, subject_s=1.4, floor_s=1.0)
    ruling = ruled(made)
    assert ruling.reason == "not met: floor_ratio_1ms_busy"


def test_stages_that_wait_are_judged_where_there_are_many() -> None:
    made = history()
    for _ in range(7):
        made.record("timed", what="floor_waits", width=500, subject_s=1.4, floor_s=1.0)
    assert ruled(made).verdict is Verdict.PASS
    for _ in range(7):
        made.record("timed", what="floor_waits", width=20_000, subject_s=1.4, floor_s=1.0)
    assert ruled(made).reason == "not met: floor_ratio_1ms"


def test_an_output_that_is_missing_fails() -> None:
    made = history()
    _run(made, "concurrent", owed=500, present=499, failing=0, reported=0)
    assert ruled(made).reason == "not met: outputs_present"


def test_a_failure_that_is_not_told_fails() -> None:
    made = history()
    _run(made, "failing", owed=495, present=495, failing=5, reported=4)
    assert ruled(made).reason == "not met: failures_reported"


def test_a_heavy_fan_out_fails() -> None:
    made = history()
    made.record("weighed", body="waits", width=500, peak_bytes=500 * 9_000, ok=True)
    assert ruled(made).reason == "not met: peak_bytes_per_stage"


def test_without_the_peer_the_rest_is_judged_and_the_peer_is_told_as_absent() -> None:
    ruling = ruled(history(peer=0), lacking=(PEER,))
    assert ruling.verdict is Verdict.PASS
    assert ruling.reason == "not asked: peer_throughput_ratio"
    # Installed, but without a figure: nothing was decided.
    assert ruled(history(peer=0)).verdict is Verdict.UNKNOWN


def test_what_never_ran_decides_nothing() -> None:
    assert check(History()).unknown is not None
    assert ruled(history(floor_waits=0)).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("body", ["noop", "waits", "busy"])
def test_failing_branches_are_told_and_their_siblings_values_kept(body: Body) -> None:
    run = asyncio.run(fan_out(8, body, failing=[2, 5]).run(x=1))
    assert run.status == "partial"
    assert present(run, 8) == 6
    assert reported(run, [2, 5]) == 2
    asyncio.run(bare(8, body))


def test_the_runs_record_what_they_owe_and_what_is_there(tmp_path: Path) -> None:
    size = {"widths": (10,), "concurrent": 2, "concurrent_width": 5}
    world, made = World(seed=1, size=size, scratch=tmp_path), History()
    for section in (run_widths, run_concurrent, run_mapped):
        section(world, made)
    assert {event.data["how"] for event in made.of("fan_out")} == {
        "static",
        "failing",
        "concurrent",
        "mapped",
    }
    judgement = check(made)
    assert judgement.metrics["outputs_present"].value == 1.0  # type: ignore[union-attr]
    assert judgement.metrics["failures_reported"].value == 1.0  # type: ignore[union-attr]


def test_a_failure_that_ends_all_loses_outputs(tmp_path: Path) -> None:
    world = World(seed=1, size={"widths": (20,)}, scratch=tmp_path)
    made = History()
    with first_failure_ends_all.apply():
        run_widths(world, made)
    assert check(made).metrics["outputs_present"].value < 1.0  # type: ignore[union-attr]


def test_without_its_folder_there_is_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STAGEFLOW_LAB_PEERS", raising=False)
    with Peer.started() as peer:
        assert peer is None
