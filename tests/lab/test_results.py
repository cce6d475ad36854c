"""Stored results: they follow their schema, read back, and refuse what is damaged."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from typing import Any

import pytest

from stageflow_lab import LabError, Picture
from stageflow_lab.findings import Finding
from stageflow_lab.results import AuditResult, Result, ResultStore, SabotageResult
from stageflow_lab.verdict import MetricResult, Verdict

SCHEMA = json.loads((resources.files("stageflow_lab.results") / "result.schema.json").read_text())
TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}

AUDIT = AuditResult(
    row="CORE-001",
    scale=0.1,
    seeds=(1, 2),
    sabotages=(
        SabotageResult(
            name="token_ignored",
            metric="lost",
            defect="A late token is accepted.",
            killed=1,
            of=2,
            plain_works=True,
            escapes=("seed 2: pass, lost was 0",),
        ),
    ),
    healthy_failures=(),
    started="2026-01-01T00:00:00+00:00",
    duration_s=1.5,
    scenario_hash="ab",
)
RESULT = Result(
    row="CORE-001",
    verdict=Verdict.FAIL,
    size="quick",
    seed=7,
    reason="not met: lost",
    metrics=(
        MetricResult(
            name="lost",
            op="==",
            threshold=0,
            value=3,
            bound=None,
            n=10,
            unit="",
            passed=False,
            gate=True,
        ),
    ),
    params={"runs": 10, "names": ["a"], "odd": math.inf},
    started="2026-01-01T00:00:00+00:00",
    duration_s=1.25,
    versions={"stageflow": "0.1.0", "python": "3.11.0", "packages": {"msgspec": "0.19"}},
    notes=("a note",),
    pictures=(Picture("t", "x", "y", {"a": [(1.0, 2.0), (2.0, math.nan)]}),),
    evidence=("CORE-001/run/history.jsonl",),
    scenario_hash="ab",
    audit=AUDIT,
)


def mistakes(value: Any, schema: Mapping[str, Any], path: str = "$") -> list[str]:
    """Where `value` departs from the part of JSON Schema that the lab's schema uses."""
    if "$ref" in schema:
        return mistakes(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], path)
    if "anyOf" in schema:
        each = [mistakes(value, option, path) for option in schema["anyOf"]]
        return [] if any(not found for found in each) else min(each, key=len)
    if "const" in schema or "enum" in schema:
        allowed = schema.get("enum", [schema.get("const")])
        return [] if value in allowed else [f"{path}: {value!r} is none of {allowed}"]
    names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    fits = [name for name in names if isinstance(value, TYPES[name])]
    if not fits or (isinstance(value, bool) and "boolean" not in names):
        return [f"{path}: {value!r} is no {names}"]
    found: list[str] = []
    if isinstance(value, dict) and "object" in names:
        known = schema.get("properties", {})
        found += [f"{path}: lacks {key}" for key in schema.get("required", ()) if key not in value]
        rest = schema.get("additionalProperties", True)
        for key, part in value.items():
            if key in known:
                found += mistakes(part, known[key], f"{path}.{key}")
            elif rest is False:
                found.append(f"{path}: {key} is not in the schema")
            elif isinstance(rest, dict):
                found += mistakes(part, rest, f"{path}.{key}")
    if isinstance(value, list) and "items" in schema:
        for at, part in enumerate(value):
            found += mistakes(part, schema["items"], f"{path}[{at}]")
    return found


def test_a_result_follows_the_schema() -> None:
    data = json.loads(json.dumps(RESULT.to_json(), allow_nan=False))
    assert mistakes(data, SCHEMA["$defs"]["result"]) == []
    bare = Result(row="X-001", verdict=Verdict.MISSING, size="full", seed=0)
    assert mistakes(bare.to_json(), SCHEMA["$defs"]["result"]) == []


def test_an_audit_follows_the_schema() -> None:
    assert mistakes(json.loads(json.dumps(AUDIT.to_json())), SCHEMA["$defs"]["audit"]) == []


def test_a_finding_follows_the_schema() -> None:
    result = replace(RESULT, verdict=Verdict.FAIL)
    written = json.loads(json.dumps(Finding.of(result, evidence=()).to_json(), allow_nan=False))
    assert mistakes(written, SCHEMA["$defs"]["finding"]) == []


def test_the_schema_refuses_what_is_wrong() -> None:
    data = RESULT.to_json()
    assert mistakes({**data, "verdict": "fine"}, SCHEMA["$defs"]["result"])
    assert mistakes({**data, "seed": "7"}, SCHEMA["$defs"]["result"])
    assert mistakes({**data, "extra": 1}, SCHEMA["$defs"]["result"])
    del data["params"]
    assert mistakes(data, SCHEMA["$defs"]["result"]) == ["$: lacks params"]


def test_results_read_back(store: ResultStore) -> None:
    store.save_result(RESULT)
    store.save_audit(AUDIT)
    standing = store.standing("CORE-001")
    assert standing.audit == AUDIT
    assert standing.result is not None
    assert standing.result.metrics == RESULT.metrics
    assert standing.result.params["odd"] is None, "JSON has no infinity"
    assert standing.result.to_json() == RESULT.to_json()


def test_a_damaged_file_names_itself_and_the_mend(store: ResultStore) -> None:
    store.save_result(RESULT)
    (store.root / "CORE-001" / "result.json").write_text('{"schema_version": 99}')
    with pytest.raises(LabError) as caught:
        store.standing("CORE-001")
    assert caught.value.code == "lab.result_file"
    assert "CORE-001/result.json" in (caught.value.fix or "")


def test_old_evidence_makes_room(store: ResultStore) -> None:
    folders = [store.new_evidence("CORE-001", label=f"{at:02}") for at in range(13)]
    assert len(set(folders)) == 13
    left = [folder for folder in folders if folder.exists()]
    assert len(left) == 10 and folders[-1].exists()


def test_a_reproduction_is_safe_to_paste() -> None:
    odd = Result(row="X-1", verdict=Verdict.FAIL, size="quick", seed=1, folders=("my rows; rm",))
    assert odd.reproduce.endswith("--scenarios 'my rows; rm'")
