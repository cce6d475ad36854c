"""The stored outcome of running one row once. docs/result-schema.md documents its JSON."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final

from ..scenario import Picture
from ..verdict import MetricResult, Verdict
from .audit import AuditResult
from .json_value import json_value

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one run of a row gave. Durations in seconds, memory in bytes, `started` in UTC.

    `reason` says why the verdict is not pass, or what a pass leaves open; `evidence` are paths
    relative to the results folder;
    `audit` is the row's audit at that time, of the same scenario text; None when there was none.
    `params` are the size parameters as used, after scaling; `scale` is 1.0 outside audits. `marks`
    and `fired` say how often each mark was reached and each fault told.
    """

    row: str
    verdict: Verdict
    size: str
    seed: int
    reason: str | None = None
    metrics: tuple[MetricResult, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    sabotage: str | None = None
    started: str = ""
    duration_s: float = 0.0
    cpu_s: float | None = None
    memory_peak_bytes: int | None = None
    versions: Mapping[str, Any] = field(default_factory=dict)
    marks: Mapping[str, int] = field(default_factory=dict)
    fired: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    evidence: tuple[str, ...] = ()
    scenario_hash: str | None = None
    folders: tuple[str, ...] = ()
    audit: AuditResult | None = None

    @property
    def reproduce(self) -> str:
        """The command that runs this row again with the same size and seed."""
        extra = [part for folder in self.folders for part in ("--scenarios", folder)]
        command = ["stageflow", "lab", "run", self.row, "--size", self.size]
        return shlex.join([*command, "--seed", str(self.seed), *extra])

    def metric(self, name: str) -> MetricResult | None:
        """The result of that metric, or None."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as docs/result-schema.md says."""
        values: dict[str, Any] = json_value(asdict(replace(self, audit=None)))
        values["audit"] = None if self.audit is None else self.audit.to_json()
        return {"schema_version": SCHEMA_VERSION, **values, "reproduce": self.reproduce}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        """The result that `to_json` wrote. Raises ValueError or KeyError when it is none."""
        if data["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {data['schema_version']}, not {SCHEMA_VERSION}")
        known = {each.name for each in fields(cls)}
        values = {key: value for key, value in data.items() if key in known}
        values["verdict"] = Verdict(values["verdict"])
        values["metrics"] = tuple(MetricResult(**each) for each in values["metrics"])
        values["pictures"] = tuple(Picture(**each) for each in values["pictures"])
        if values["audit"] is not None:
            values["audit"] = AuditResult.from_json(values["audit"])
        for name in ("notes", "evidence", "folders"):
            values[name] = tuple(values[name])
        return cls(**values)
