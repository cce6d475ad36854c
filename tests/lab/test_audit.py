"""The audit: what cannot fail is invalid, and what proves nothing does not count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from stageflow_lab.audit import audit_rows
from stageflow_lab.discovery import find
from stageflow_lab.results import AuditResult, Result, ResultStore
from stageflow_lab.runner.batch import RunOptions, run_rows
from stageflow_lab.runner.process import Supervised

WriteCase = Callable[..., str]


class Silent:
    """A watcher that counts what it is told."""

    def __init__(self) -> None:
        self.ran = 0

    def started(self, running: Supervised) -> None:
        self.ran += 1

    def tick(self, running: Sequence[Supervised]) -> None:
        pass

    def finished(self, running: Supervised, result: Result) -> None:
        pass


@pytest.fixture
def audit(cases: Path, store: ResultStore) -> Callable[[str], AuditResult]:
    def audited(row: str) -> AuditResult:
        (result,), interrupted = audit_rows(
            [row], find([cases]), options=RunOptions(), store=store, watcher=Silent()
        )
        assert not interrupted
        return result

    return audited


def test_a_sabotage_caught_on_every_seed_makes_the_row_valid(
    case: WriteCase, audit: Callable[[str], AuditResult], store: ResultStore
) -> None:
    result = audit(case("DEMO-001"))
    (sabotage,) = result.sabotages
    assert (sabotage.killed, sabotage.of, sabotage.plain_works) == (5, 5, True)
    assert result.valid and result.seeds == (1, 2, 3, 4, 5) and result.scale == 0.1
    assert store.standing("DEMO-001").audit == result
    assert [path.name for path in (store.root / "DEMO-001").iterdir()] == ["audit.json"], (
        "evidence of what went as it should is not kept"
    )


@pytest.mark.parametrize(
    ("body", "escape"),
    [
        (  # a check that cannot fail
            """
            def check(history): return Judgement({"lost": 0})
            """,
            "pass, lost was 0",
        ),
        (  # a crash under the sabotage is no kill
            """
            judged = check
            def check(history):
                last = history.last("total").data
                if last["total"] != last["added"]: raise ValueError("crash")
                return judged(history)
            """,
            "unknown, the check raised ValueError: crash",
        ),
    ],
)
def test_what_does_not_fail_on_its_metric_survives(
    case: WriteCase, audit: Callable[[str], AuditResult], body: str, escape: str
) -> None:
    result = audit(case("DEMO-001", body))
    assert not result.valid and result.survivors == ("every_tenth_lost",)
    assert result.sabotages[0].escapes[0] == f"seed 1: {escape}"
    assert result.sabotages[0].killed == 0


def test_a_sabotage_that_breaks_ordinary_use_proves_nothing(
    case: WriteCase, audit: Callable[[str], AuditResult]
) -> None:
    body = """
        def plain(world):
            register = Register()
            for _ in range(20): register.add(1)
            assert register.total == 20
        SETTINGS["plain"] = plain
        """
    result = audit(case("DEMO-001", body))
    assert not result.valid
    assert result.sabotages[0].killed == 5 and not result.sabotages[0].plain_works
    assert "AssertionError" in (result.sabotages[0].plain_reason or "")


def test_a_load_too_weak_at_a_tenth_is_found(
    case: WriteCase, audit: Callable[[str], AuditResult]
) -> None:
    """At 100 additions every sabotage shows; at 9 none does."""
    result = audit(case("DEMO-001", 'SETTINGS["sizes"] = Sizes({"adds": 90}, {"adds": 900})'))
    assert result.survivors == ("every_tenth_lost",)


def test_a_healthy_run_that_does_not_pass_makes_the_row_invalid(
    case: WriteCase, audit: Callable[[str], AuditResult]
) -> None:
    body = """
        def check(history): return Judgement({"lost": 1})
        """
    result = audit(case("DEMO-001", body))
    assert not result.valid and len(result.healthy_failures) == 5
    assert result.healthy_failures[0] == "seed 1: fail, not met: lost"


def test_no_sabotage_is_no_proof(case: WriteCase, audit: Callable[[str], AuditResult]) -> None:
    result = audit(case("DEMO-001", 'SETTINGS["sabotages"] = ()'))
    assert not result.valid and "declares no sabotage" in (result.reason or "")


def test_a_component_that_is_absent_skips_the_audit(
    case: WriteCase, audit: Callable[[str], AuditResult]
) -> None:
    result = audit(case("DEMO-001", 'SETTINGS["components"] = ("python:absent_library",)'))
    assert result.skipped and not result.valid


def test_a_pass_is_invalid_until_its_sabotages_are_caught(
    case: WriteCase,
    cases: Path,
    audit: Callable[[str], AuditResult],
    store: ResultStore,
) -> None:
    """1 a deaf check passes; 2 the audit finds it; 3 so does the next run; 4 mended, it passes."""
    deaf = """
        def check(history): return Judgement({"lost": 0})
        """

    def run() -> str:
        (result,), _ = run_rows(
            ["DEMO-001"], find([cases]), options=RunOptions(), store=store, watcher=Silent()
        )
        return result.verdict

    case("DEMO-001", deaf)
    assert run() == "pass"
    audit("DEMO-001")
    assert store.standing("DEMO-001").verdict == "invalid"
    assert run() == "invalid"
    case("DEMO-001")
    assert run() == "pass", "an audit holds only for the text it audited"
    assert store.standing("DEMO-001").current_audit is None
    assert audit("DEMO-001").valid
    assert store.standing("DEMO-001").verdict == "pass"


def test_a_scenario_that_does_not_import_cannot_be_audited(
    case: WriteCase, audit: Callable[[str], AuditResult]
) -> None:
    result = audit(case("DEMO-001", "import absent_library"))
    assert not result.valid and "does not import" in (result.reason or "")


def test_a_bound_out_of_reach_at_a_tenth_neither_fails_the_healthy_nor_kills_for_free(
    case: WriteCase, audit: Callable[[str], AuditResult]
) -> None:
    """At 15 of 150 no Wilson bound reaches 0.97: the share decides, and only the defect fails."""
    result = audit(
        case(
            "DEMO-001",
            """
            from stageflow_lab import Measured

            SETTINGS["metrics"] = (
                Metric("lost", "==", 0),
                Metric("kept", ">=", 0.97, bound="wilson_lower", of="adds"),
            )
            SETTINGS["sizes"] = Sizes(quick={"adds": 150}, full={"adds": 1_000})

            @sabotage(metric="kept")
            def last_of_ten_lost():
                "One addition in ten is lost."
                with every_tenth_lost.apply():
                    yield

            SETTINGS["sabotages"] = (last_of_ten_lost,)

            def check(history):
                last = history.last("total").data
                kept = Measured(last["total"] / last["added"], n=last["added"])
                return Judgement({"lost": counted(last["added"] - last["total"], 10), "kept": kept})
            """,
        )
    )
    assert result.healthy_failures == ()
    assert [each.killed for each in result.sabotages] == [5] and result.valid
