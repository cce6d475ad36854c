"""The stored outcome of auditing a row: which of its sabotages it caught."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .json_value import json_value


@dataclass(frozen=True, slots=True, kw_only=True)
class SabotageResult:
    """One defect over all seeds. `killed` of `of` runs failed on `metric`.

    `plain_works` tells whether ordinary use went on under the defect; False means that the
    sabotage breaks everything and so proves nothing. `escapes` says per surviving seed what the
    run gave instead.
    """

    name: str
    metric: str
    defect: str
    killed: int
    of: int
    plain_works: bool
    plain_reason: str | None = None
    escapes: tuple[str, ...] = ()

    @property
    def caught(self) -> bool:
        """Whether this sabotage counts as killed."""
        return self.of > 0 and self.killed == self.of and self.plain_works


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditResult:
    """A row's audit. `healthy_failures` lists seeds on which the unsabotaged run did not pass.

    `reason` is set when the audit itself could not be done; `skipped` when a component is absent.
    """

    row: str
    scale: float
    seeds: tuple[int, ...]
    sabotages: tuple[SabotageResult, ...]
    healthy_failures: tuple[str, ...]
    started: str
    duration_s: float
    scenario_hash: str
    reason: str | None = None
    skipped: bool = False

    @property
    def killed(self) -> int:
        """How many sabotages were caught on every seed."""
        return sum(each.caught for each in self.sabotages)

    @property
    def survivors(self) -> tuple[str, ...]:
        """The sabotages that were not caught."""
        return tuple(each.name for each in self.sabotages if not each.caught)

    @property
    def valid(self) -> bool:
        """True when every sabotage was caught and the healthy runs passed."""
        whole = self.reason is None and not self.skipped and bool(self.sabotages)
        return whole and not self.survivors and not self.healthy_failures

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as docs/result-schema.md says."""
        return {
            "schema_version": 1,
            **json_value(asdict(self)),
            "killed": self.killed,
            "of": len(self.sabotages),
            "valid": self.valid,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> AuditResult:
        """The audit that `to_json` wrote. Raises ValueError or KeyError when it is none."""
        if data["schema_version"] != 1:
            raise ValueError(f"schema_version {data['schema_version']}, not 1")
        return cls(
            row=data["row"],
            scale=data["scale"],
            seeds=tuple(data["seeds"]),
            sabotages=tuple(
                SabotageResult(**{**each, "escapes": tuple(each["escapes"])})
                for each in data["sabotages"]
            ),
            healthy_failures=tuple(data["healthy_failures"]),
            started=data["started"],
            duration_s=data["duration_s"],
            scenario_hash=data["scenario_hash"],
            reason=data["reason"],
            skipped=data["skipped"],
        )
