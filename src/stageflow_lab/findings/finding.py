"""A finding: one way in which a row fails, or in which its scenario can't fail.

Two runs show the same finding when they agree in their fingerprint: the row, the verdict, the
metrics that failed, and the evidence with everything taken out that differs from run to run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Final, Literal

from ..results import AuditResult, Result, invalid_because
from ..results.json_value import json_value
from ..roadmap import entries, section_of
from ..verdict import Verdict

FindingType = Literal[
    "bug", "security", "performance", "reliability", "dx", "documentation", "improvement"
]
Severity = Literal["critical", "high", "medium", "low", "info"]
State = Literal["open", "not_reproduced"]

SEVERITIES: Final[tuple[Severity, ...]] = ("critical", "high", "medium", "low", "info")
SCHEMA_VERSION: Final = 1
SEEDS_KEPT: Final = 20
_SEVERITY_OF_RISK: Final[Mapping[str, Severity]] = MappingProxyType(
    {
        "Catastrophic": "critical",
        "Severe": "high",
        "High": "medium",
        "Moderate": "low",
        "Low": "info",
    }
)
_TYPE_OF_SECTION: Final[Mapping[str, FindingType]] = MappingProxyType(
    {
        "sec": "security",
        "guard": "security",
        "perf": "performance",
        "chaos": "reliability",
        "k8s": "reliability",
        "serverless": "reliability",
        "edge": "reliability",
        "multiregion": "reliability",
        "dx": "dx",
    }
)
_COST_UNITS: Final = frozenset(("x", "times", "\N{MULTIPLICATION SIGN}", "s", "ms", "bytes"))

_QUOTED: Final = re.compile(r"""'[^'\n]*'|"[^"\n]*\"""")
_PATH: Final = re.compile(r"(?:/[\w.+-]+){2,}/?")
_ID: Final = re.compile(r"\b(?=[0-9a-zA-Z_-]*\d)[0-9a-zA-Z_-]{8,}\b")
_NUMBER: Final = re.compile(r"\d[\d,._]*(?:e[+-]?\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One defect as seen. `seed`, `size`, `versions`, `reason` and `evidence` are of its last
    sighting; times are UTC, ISO 8601.

    `steps` are commands, to be run in order where `stageflow` is installed; `evidence` are paths
    relative to the results folder. `seeds` are the latest under which it was seen, newest first.
    `state` is "not_reproduced" when its own seed and size no longer show it; "open" else.
    """

    id: str
    row: str
    target: str
    type: FindingType
    severity: Severity
    verdict: Verdict
    fingerprint: str
    metrics: tuple[str, ...]
    """Failed gate metrics; the surviving sabotages of an invalid row."""
    reason: str
    seed: int
    size: str
    first_seen: str
    last_seen: str
    count: int = 1
    state: State = "open"
    seeds: tuple[int, ...] = ()
    folders: tuple[str, ...] = ()
    versions: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    scenario_hash: str | None = None

    @classmethod
    def of(cls, result: Result, *, evidence: tuple[str, ...]) -> Finding:
        """What `result` shows. It must be a finding; see `is_finding`."""
        assert is_finding(result), f"a {result.verdict} is no finding"
        entry = entries().get(result.row)
        fingerprint = fingerprint_of(result)
        id_ = f"{result.row}-{fingerprint[:8]}"
        return cls(
            id=id_,
            row=result.row,
            target=result.row if entry is None else entry.target,
            type=_type_of(result),
            severity="medium" if entry is None else _SEVERITY_OF_RISK[entry.risk],
            verdict=result.verdict,
            fingerprint=fingerprint,
            metrics=failed(result),
            reason=result.reason or "",
            seed=result.seed,
            size=result.size,
            first_seen=result.started,
            last_seen=result.started,
            seeds=(result.seed,),
            folders=result.folders,
            versions=result.versions,
            steps=(f"stageflow lab reproduce {id_}", _rerun(result)),
            evidence=evidence,
            scenario_hash=result.scenario_hash,
        )

    def seen_again(self, later: Finding) -> Finding:
        """This finding after the sighting `later`, of the same fingerprint."""
        assert later.fingerprint == self.fingerprint, "another finding"
        seeds = (later.seed, *(seed for seed in self.seeds if seed != later.seed))
        return replace(
            later,
            first_seen=self.first_seen,
            count=self.count + 1,
            seeds=seeds[:SEEDS_KEPT],
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as docs/result-schema.md says."""
        return {"schema_version": SCHEMA_VERSION, **json_value(asdict(self))}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Finding:
        """The finding that `to_json` wrote. Raises ValueError, KeyError or TypeError otherwise."""
        if data["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {data['schema_version']}, not {SCHEMA_VERSION}")
        known = {each.name for each in fields(cls)}
        values = {key: value for key, value in data.items() if key in known}
        values["verdict"] = Verdict(values["verdict"])
        for name in ("metrics", "seeds", "folders", "steps", "evidence"):
            values[name] = tuple(values[name])
        return cls(**values)


def is_finding(result: Result) -> bool:
    """True for a fail and for an invalid row, except under a sabotage, where failing is right."""
    return result.verdict in (Verdict.FAIL, Verdict.INVALID) and result.sabotage is None


def failed(result: Result) -> tuple[str, ...]:
    """The gate metrics that failed; for an invalid row, the sabotages that survived its audit."""
    if result.verdict is Verdict.INVALID:
        return result.audit.survivors if result.audit is not None else ()
    return tuple(each.name for each in result.metrics if each.gate and each.passed is False)


def fingerprint_of(result: Result) -> str:
    """32 hexadecimal digits, equal for runs that show the same thing."""
    parts = (result.row, result.verdict.value, *sorted(failed(result)), *sorted(_evidence(result)))
    text = "\x1f".join(parts)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def normalised(text: str) -> str:
    """`text` without what differs between runs: quoted values, paths, identifiers, numbers."""
    for pattern, mark in ((_QUOTED, "'…'"), (_PATH, "<path>"), (_ID, "<id>"), (_NUMBER, "#")):
        text = pattern.sub(mark, text)
    return " ".join(text.split())


def result_of_audit(
    audit: AuditResult, *, evidence: tuple[str, ...] = (), folders: tuple[str, ...] = ()
) -> Result:
    """The invalid row that a failed audit makes, as a result: its seed is the audit's first."""
    return Result(
        row=audit.row,
        verdict=Verdict.INVALID,
        size="quick",
        seed=audit.seeds[0] if audit.seeds else 1,
        reason=invalid_because(audit),
        started=audit.started,
        evidence=evidence,
        folders=folders,
        scenario_hash=audit.scenario_hash,
        audit=audit,
    )


def _evidence(result: Result) -> Iterator[str]:
    """What a run tells about its failure, as far as it is the same in every run of it."""
    if result.verdict is Verdict.INVALID:
        audit = result.audit
        if audit is not None and not audit.survivors:
            yield from {normalised(each) for each in audit.healthy_failures}
            yield normalised(audit.reason or "")
        return
    told = {normalised(note) for note in result.notes}
    told |= {normalised(e.note) for e in result.metrics if e.gate and e.passed is False}
    yield from (text for text in told if text)


def _type_of(result: Result) -> FindingType:
    """By what failed where that is a cost, else by the row's section."""
    gates = [each for each in result.metrics if each.gate and each.passed is False]
    if gates and all(each.unit in _COST_UNITS for each in gates):
        return "performance"
    if result.verdict is Verdict.INVALID:
        return "bug"
    return _TYPE_OF_SECTION.get(section_of(result.row), "bug")


def _rerun(result: Result) -> str:
    """The command that runs or audits the row again, without the store of findings."""
    command = result.reproduce
    if result.verdict is Verdict.INVALID:
        command = command.replace("lab run", "lab audit", 1).replace(f" --size {result.size}", "")
    return command
