"""Findings: what is one, when two are the same, what is kept, and what reproducing it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stageflow_lab import LabError
from stageflow_lab import audit as audit_module
from stageflow_lab.cli import main
from stageflow_lab.findings import Finding, FindingStore, fingerprint_of, is_finding
from stageflow_lab.findings.finding import normalised
from stageflow_lab.results import AuditResult, Result, ResultStore, SabotageResult
from stageflow_lab.verdict import MetricResult, Verdict

WriteCase = Callable[..., str]


def metric(
    name: str, *, passed: bool | None = False, unit: str = "", note: str = ""
) -> MetricResult:
    return MetricResult(
        name=name,
        op="==",
        threshold=0,
        value=1,
        bound=None,
        n=10,
        unit=unit,
        passed=passed,
        gate=True,
        note=note,
    )


def failure(row: str = "CORE-001", **changed: object) -> Result:
    settings: dict[str, object] = {
        "row": row,
        "verdict": Verdict.FAIL,
        "size": "quick",
        "seed": 7,
        "reason": "not met: lost",
        "metrics": (metric("lost"), metric("kept", passed=True)),
        "started": "2026-01-02T03:04:05+00:00",
        "notes": ("3 keys of run run-1af93b27 lost by 'left'",),
    }
    return Result(**{**settings, **changed})  # type: ignore[arg-type]


def audit(**changed: object) -> AuditResult:
    settings: dict[str, object] = {
        "row": "CORE-001",
        "scale": 0.1,
        "seeds": (3, 4),
        "sabotages": (
            SabotageResult(
                name="shallow", metric="lost", defect="", killed=1, of=2, plain_works=True
            ),
        ),
        "healthy_failures": (),
        "started": "2026-01-02T03:04:05+00:00",
        "duration_s": 1.0,
        "scenario_hash": "abc",
    }
    return AuditResult(**{**settings, **changed})  # type: ignore[arg-type]


@pytest.fixture
def findings(store: ResultStore) -> FindingStore:
    return FindingStore(store.root)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_only_a_fail_or_an_invalid_row_is_a_finding(
    verdict: Verdict, findings: FindingStore
) -> None:
    result = failure(verdict=verdict)
    assert is_finding(result) is (verdict in (Verdict.FAIL, Verdict.INVALID))
    assert (findings.record(result) is None) is not is_finding(result)
    assert not is_finding(failure(verdict=verdict, sabotage="shallow")), "failing was right there"


@pytest.mark.parametrize(
    "same",
    [
        {"seed": 9, "size": "full", "started": "2027-01-01T00:00:00+00:00"},
        {"notes": ("41 keys of run run-99b3c0de lost by 'right'",)},
        {"metrics": (metric("lost", note=""), metric("other", passed=True))},
        {"reason": "not met: lost, for another reason"},
    ],
)
def test_what_differs_from_run_to_run_is_no_other_finding(same: dict[str, object]) -> None:
    assert fingerprint_of(failure(**same)) == fingerprint_of(failure())


@pytest.mark.parametrize(
    "other",
    [
        {"row": "CORE-003"},
        {"metrics": (metric("lost"), metric("kept"))},
        {"notes": ("3 keys of run run-1af93b27 doubled by 'left'",)},
        {"verdict": Verdict.INVALID, "audit": audit()},
    ],
)
def test_another_row_metric_or_story_is_another_finding(other: dict[str, object]) -> None:
    assert fingerprint_of(failure(**other)) != fingerprint_of(failure())


def test_evidence_is_compared_without_its_particulars() -> None:
    told = "run 018f3c2a-77aa took 1,204.5 ms in /tmp/a1/run.db at node 'draft_b'"
    assert normalised(told) == "run <id> took # ms in <path> at node '…'"


@pytest.mark.parametrize(
    ("row", "metrics", "type_", "severity"),
    [
        ("CORE-003", (metric("lost"),), "bug", "high"),
        ("CORE-008", (metric("lost"),), "bug", "critical"),
        ("GUARD-004", (metric("bypasses"),), "security", "critical"),
        (
            "DAG-005",
            (metric("cost", unit="x"), metric("peak", unit="bytes")),
            "performance",
            "high",
        ),
        ("DAG-005", (metric("cost", unit="x"), metric("lost")), "bug", "high"),
        ("MINE-001", (metric("lost"),), "bug", "medium"),
    ],
)
def test_type_and_severity_come_from_the_row_and_from_what_failed(
    row: str, metrics: tuple[MetricResult, ...], type_: str, severity: str
) -> None:
    finding = Finding.of(failure(row, metrics=metrics), evidence=())
    assert (finding.type, finding.severity) == (type_, severity)


def test_seeing_it_again_counts_and_keeps_the_first_time(findings: FindingStore) -> None:
    first = findings.record(failure())
    later = findings.record(failure(seed=8, started="2026-02-03T00:00:00+00:00"))
    assert first is not None and later is not None and first.id == later.id
    assert (later.count, later.seed, later.seeds) == (2, 8, (8, 7))
    assert later.first_seen == first.first_seen < later.last_seen
    assert findings.all() == [later] and Finding.from_json(later.to_json()) == later


def test_evidence_outlives_the_runs_own(store: ResultStore, findings: FindingStore) -> None:
    folder = store.new_evidence("CORE-001", label="quick-7")
    (folder / "history.jsonl").write_text("{}")
    finding = findings.record(failure(evidence=store.evidence_in(folder)))
    for _ in range(12):
        store.new_evidence("CORE-001", label="quick-8")
    assert not folder.exists() and finding is not None
    (kept,) = finding.evidence
    assert (store.root / kept).read_text() == "{}"


def test_open_and_grave_findings_come_first(findings: FindingStore) -> None:
    for row in ("CORE-009", "CORE-008", "CORE-003"):
        findings.record(failure(row))
    assert [each.row for each in findings.all()] == ["CORE-008", "CORE-003", "CORE-009"]
    findings.mark(findings.all()[0], "not_reproduced")
    assert [each.row for each in findings.all()] == ["CORE-003", "CORE-009", "CORE-008"]
    findings.record(failure("CORE-008"))
    assert findings.all()[0].row == "CORE-008", "seen again, it is open again"


def test_an_id_may_be_shortened_until_it_is_not_the_only_one(findings: FindingStore) -> None:
    one = findings.record(failure("CORE-001"))
    findings.record(failure("CORE-003"))
    assert one is not None and findings.get(one.id[:10].lower()) == one
    for asked in ("CORE-00", "CORE-009", ""):
        with pytest.raises(LabError) as caught:
            findings.get(asked)
        assert caught.value.code == "lab.unknown_finding"


def test_a_row_that_can_not_fail_is_a_finding_of_its_survivors(findings: FindingStore) -> None:
    finding = findings.record_audit(audit())
    assert finding is not None and finding.verdict is Verdict.INVALID
    assert (finding.metrics, finding.seed) == (("shallow",), 3)
    assert any("lab audit CORE-001" in step for step in finding.steps)
    assert findings.record_audit(audit(skipped=True)) is None
    caught = replace(audit().sabotages[0], killed=2)
    assert findings.record_audit(audit(sabotages=(caught,))) is None


LOSSY = """
def check(history):
    lost = history.last("total").data["added"] - history.last("total").data["total"]
    return Judgement({"lost": counted(lost, 1_000)}, notes=(f"{lost} additions lost",))

class Register(Register):
    def add(self, amount):
        if self.total % 10 != 9:
            super().add(amount)
"""


def test_a_failing_row_is_found_listed_shown_and_reproduced(
    case: WriteCase, cases: Path, store: ResultStore, capsys: pytest.CaptureFixture[str]
) -> None:
    row = case("DEMO-001", LOSSY)
    places = ["--out", str(store.root)]
    assert main(["run", row, "--seed", "5", "--scenarios", str(cases), *places]) == 1
    (finding,) = FindingStore(store.root).all()
    assert (finding.row, finding.seed, finding.metrics) == (row, 5, ("lost",))
    assert any(name.endswith("history.jsonl") for name in finding.evidence)
    capsys.readouterr()

    assert main(["findings", *places]) == 0
    listed = capsys.readouterr().out
    assert finding.id in listed and "1 findings, open: 1 medium" in listed
    assert main(["findings", "show", finding.id, *places]) == 0
    told = capsys.readouterr().out
    for part in (f"stageflow lab reproduce {finding.id}", "--seed 5", finding.fingerprint):
        assert part in told

    assert main(["reproduce", finding.id, *places]) == 0
    assert "shows again" in capsys.readouterr().out
    assert FindingStore(store.root).get(finding.id).count == 2

    case(row)  # mended
    assert main(["reproduce", finding.id, *places]) == 1
    assert "does not show again: the row is pass" in capsys.readouterr().out
    assert FindingStore(store.root).get(finding.id).state == "not_reproduced"
    assert main(["findings", "--open", "--json", "-", *places]) == 0
    assert '"findings": []' in capsys.readouterr().out

    case(row, "def load(world): raise OSError('no disk')")
    assert main(["reproduce", finding.id, *places]) == 2
    assert "undecided: the row is error" in capsys.readouterr().out
    assert main(["reproduce", "NONE-001", *places]) == 64


SURVIVED = """
def check(history):
    return Judgement({"lost": counted(0, 1_000)})
"""


def test_an_invalid_row_is_reproduced_by_auditing_it_again(
    case: WriteCase,
    cases: Path,
    store: ResultStore,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit_module, "SEEDS", 1)  # three audits; one seed each is enough here
    row = case("DEMO-001", SURVIVED)
    places = ["--out", str(store.root)]
    assert main(["audit", row, "--scenarios", str(cases), *places]) == 1
    (finding,) = FindingStore(store.root).all()
    assert (finding.verdict, finding.metrics) == (Verdict.INVALID, ("every_tenth_lost",))
    assert finding.evidence, "what the escaped runs left is kept"
    # An audit knows its folders no more than a row does: they stand in the finding.
    assert finding.folders == (str(cases),)
    assert main(["reproduce", finding.id, *places]) == 0
    case(row)
    assert main(["reproduce", finding.id, *places]) == 1
    assert "the row is pass" in capsys.readouterr().out
