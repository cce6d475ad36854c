"""The check of WORK-007 on small histories, one per verdict."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stageflow import Context, Pipeline, Runtime, work
from stageflow.sim import Sim, SimJournal, simulate
from stageflow_lab import History
from stageflow_lab.coverage import Coverage
from stageflow_lab.scenarios.work import work_007_timeouts
from stageflow_lab.scenarios.work.timeout_journal import WatchedJournal
from stageflow_lab.scenarios.work.timeout_rounds import KINDS, ROUND
from stageflow_lab.scenarios.work.timeout_tools import LOOP_TOOLS
from stageflow_lab.scenarios.work.work_007_timeouts import SCENARIO, WRITTEN_S, check
from stageflow_lab.verdict import Verdict, rule

CALL: dict[str, Any] = {
    "took_s": 2.0,
    "limit_s": 2.0,
    "is_cleaned": True,
    "produced": 5,
    "kept": 5,
    "is_fine": False,
    "is_ok": False,
    "over_budget": 0,
    "budgets": 2,
    "started": 3,
    "survived": 0,
    "told": "failed timeout",
    "opened_s": 0.001,
    "ends": [[1.999, 2.0]],
    "is_durable": True,
}
REFUSED = ["timeout", "timeout", "stage.threads_stuck", "stage.threads_stuck"]


def calls(**changed: Any) -> list[dict[str, Any]]:
    """Of one round; the first one is changed, and the second gives signs of life."""
    made = [{"kind": kind, **CALL} for kind in KINDS]
    made[1].update(is_fine=True, is_ok=True)
    made[0].update(changed)
    return made


def history(
    sim: dict[str, Any] | None = None,
    real: dict[str, Any] | None = None,
    *,
    reasons: list[str] | None = None,
) -> History:
    made = History({})
    for engine, changed in (("sim", sim), ("real", real)):
        made.record("round", engine=engine, calls=calls(**(changed or {})))
    made.record("stuck", reasons=REFUSED if reasons is None else reasons)
    for kind in KINDS:
        made.fired(kind)
    return made


def judged(made: History) -> tuple[Verdict, str]:
    coverage = Coverage.of(made, dict.fromkeys(SCENARIO.marks, 1))
    ruling = rule(SCENARIO, check(made), size="full", coverage=coverage)
    return ruling.verdict, ruling.reason or ""


def test_all_as_it_should_be_passes() -> None:
    assert judged(history()) == (Verdict.PASS, "")


@pytest.mark.parametrize(
    ("changed", "metric"),
    [
        ({"sim": {"took_s": 2.002}}, "late_virtual"),
        ({"sim": {"took_s": 2.008, "ends": [[2.001, 2.008]]}}, "written_past"),
        ({"sim": {"is_durable": False}}, "answered_early"),
        ({"real": {"is_durable": False}}, "answered_early"),
        ({"real": {"took_s": 2.3, "ends": [[2.001, 2.3]]}}, "real_p99"),
        ({"real": {"took_s": 2.3}}, "real_p99"),
        ({"real": {"is_cleaned": False}}, "cleanups"),
        ({"sim": {"is_cleaned": False}}, "cleanups"),
        ({"real": {"survived": 1}}, "surviving_processes"),
        ({"sim": {"kept": 4}}, "chunks_kept"),
        ({"sim": {"is_fine": True}}, "heartbeat_killed"),
        ({"sim": {"over_budget": 1}}, "budgets_exceeded"),
        ({"sim": {"is_ok": True}}, "ended_ok"),
        ({"reasons": ["timeout"] * 4}, "stuck_refused"),
    ],
)
def test_each_violation_fails_its_metric(changed: Any, metric: str) -> None:
    verdict, reason = judged(history(**changed))
    assert verdict is Verdict.FAIL and metric in reason


def test_a_round_that_broke_fails() -> None:
    made = history()
    made.record("broken", engine="sim", told="SimulationError: stuck")
    assert judged(made)[0] is Verdict.FAIL


@pytest.mark.parametrize(
    ("changed", "overdue_s"),
    [
        pytest.param({"took_s": 2.001, "ends": []}, 0.0, id="in time"),
        pytest.param({"took_s": 2.004, "ends": [[2.001, 2.004]]}, 0.0, id="its end was written"),
        pytest.param({"took_s": 2.002, "ends": [[1.9, 2.002]]}, 0.0, id="begun in its time"),
        pytest.param({"took_s": 2.0015, "ends": [[2.0012, 2.0015]]}, 0.0002, id="late before it"),
        pytest.param({"took_s": 2.003, "ends": [[2.001, 2.002]]}, 0.001, id="late after it"),
        pytest.param({"took_s": 2.003, "ends": [[1.5, 1.6]]}, 0.002, id="written long before"),
        pytest.param({"took_s": 2.003, "ends": []}, 0.002, id="nothing was written"),
        pytest.param(
            {"took_s": 2.004, "ends": [[2.002, 2.004], [2.001, 2.002]]},
            0.0,
            id="its child's and its own",
        ),
        pytest.param(
            {"took_s": 2.006, "ends": [[2.001, 2.003], [2.002, 2.004]]},
            0.002,
            id="two at once count once",
        ),
        pytest.param(
            {"took_s": 2.005, "ends": [[2.001, 2.002], [2.004, 2.005]]},
            0.002,
            id="late between a child's and its own",
        ),
        pytest.param({"took_s": 2.001, "opened_s": 0.0, "ends": []}, 0.001, id="opened at once"),
    ],
)
def test_only_the_writing_of_an_end_excuses(changed: dict[str, Any], overdue_s: float) -> None:
    call = {"kind": "waits", **CALL, **changed}
    assert work_007_timeouts.overdue_s(call) == pytest.approx(overdue_s, abs=1e-9)
    is_late = "late_virtual" in judged(history(sim=changed))[1]
    assert is_late == (overdue_s > 0)


def test_a_late_call_is_told_with_what_of_it_was_not_its_journal_s() -> None:
    notes = check(history(sim={"took_s": 2.003, "ends": [[2.002, 2.003]]})).notes
    assert f"{next(iter(KINDS))}: 2.003000 s of 2.000 s, 0.001000 s of them overdue" in notes[0]


@pytest.mark.parametrize("engine", ["sim", "real"])
@pytest.mark.parametrize("ends", [[], [[2.0, 2.0]]], ids=["no journal", "no time"])
def test_a_load_whose_journal_took_no_time_decides_nothing(engine: str, ends: Any) -> None:
    made = History({})
    for each in ("sim", "real"):
        of_round = calls()
        for call in of_round:
            call.update({"ends": ends} if each == engine else {})
        made.record("round", engine=each, calls=of_round)
    made.record("stuck", reasons=REFUSED)
    for kind in KINDS:
        made.fired(kind)
    assert judged(made)[0] is Verdict.UNKNOWN


def test_a_watched_journal_tells_of_the_ends_of_a_run_and_of_those_below_it() -> None:
    """
    1. a stage runs a child that runs out of its caller's time
    2. the child's end is written, and then the outer run's
    """

    @work(timeout=60.0, keyed=True)
    async def below() -> None:
        await asyncio.sleep(30.0)

    @work(timeout=1.0, keyed=True)
    async def tool(ctx: Context) -> None:
        await ctx.run(Pipeline("below", [below]), key="below")

    async def main(sim: Sim) -> tuple[Any, ...]:
        journal = WatchedJournal(SimJournal(sim))
        async with Runtime(journal=journal) as runtime:
            run = await Pipeline("calls", [tool], outputs=tool).using(runtime=runtime).run()
            return run.id, journal.waited(run.id), sim.now()

    run, waited, ended_s = simulate(main, seed=3).value
    inner, outer = waited.ends.values()
    assert waited.opened[0] == 0.0 < waited.opened[1] <= WRITTEN_S
    assert run in waited.ends and len(waited.ends) == 2
    assert waited.opened[1] + 1.0 <= inner[0] < inner[1] <= outer[0] < outer[1] == ended_s


@pytest.mark.parametrize("nothing", ["calls", "processes", "chunks"])
def test_a_load_that_never_happened_decides_nothing(nothing: str) -> None:
    made = History({})
    for engine in ("sim", "real"):
        of_round = [] if nothing == "calls" else calls()
        for call in of_round:
            call.update({"started": 0} if nothing == "processes" else {})
            call.update({"produced": 0, "kept": 0} if nothing == "chunks" else {})
        made.record("round", engine=engine, calls=of_round)
    for kind in KINDS:
        made.fired(kind)
    assert judged(made)[0] is Verdict.UNKNOWN


def test_there_are_thirty_kinds_and_a_round_has_each() -> None:
    assert len(KINDS) == ROUND == 30
    assert set(LOOP_TOOLS) < set(KINDS)
