"""The check of CORE-010 on small histories: one that passes, and one for every way to fail."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from stageflow_lab import History
from stageflow_lab.scenarios.core.core_010_tenant_isolation import (
    FAULTS,
    SCENARIO,
    SHOWING,
    SINKS,
    check,
)
from stageflow_lab.scenarios.core.forged_ids import arguments, endpoints
from stageflow_lab.scenarios.core.tenant_canaries import FORMS, Scanner, Sinks, planted_found
from stageflow_lab.scenarios.core.tenant_desk import CHILD
from stageflow_lab.verdict import Verdict, rule

FORGERIES = {
    "forged": 60,
    "refused": 60,
    "alike": 60,
    "asked": 100,
    "told": 100,
    "endpoints": 9,
    "tried": 9,
    "while live": 3,
    "while elsewhere": 3,
    "names": ["load"],
    "examples": [],
}
FACTS = {
    "calls": 500,
    "cut": 60,
    "tainted": 0,
    "hits": 60,
    "hidden as ok": 5,
    "owned": 100,
    "labelled": 900,
    "made": 900,
    "own shown": 100,
    "scoped foreign": 10,
    "scoped refused": 10,
}


def history(engines: tuple[str, ...] = ("sim", "real"), **changed: Any) -> History:
    """A history that passes; `changed` says what is other, by the name of a sink or a fact."""
    made = History({"sim": 100, "real": 100})
    made.record("planted", found=changed.pop("found", 8), planted=8)
    if "said" in changed:
        made.record("broken", engine="real", said=changed.pop("said"))
    for engine in engines:
        sinks = {
            "active": changed.get("active", 200),
            "items": dict.fromkeys(SINKS - changed.get("unseen", set()), 500),
            "own": dict.fromkeys(SHOWING - changed.get("silent", set()), 5),
            "foreign": changed.get("foreign", {}),
            "examples": ["pools: tenant-001 shows data of tenant-002"],
        }
        known = {name: value for name, value in changed.items() if name in FORGERIES}
        facts = {name: value for name, value in changed.items() if name.replace("_", " ") in FACTS}
        made.record(
            "batch",
            engine=engine,
            runs=100,
            sinks=sinks,
            forgeries={**FORGERIES, **known},
            facts={**FACTS, **{name.replace("_", " "): value for name, value in facts.items()}},
        )
    return made


def test_a_clean_history_passes() -> None:
    ruling = rule(SCENARIO, check(history()), size="quick")
    assert ruling.verdict is Verdict.PASS, ruling.reason


@pytest.mark.parametrize(
    ("metric", "changed"),
    [
        ("foreign_canaries", {"foreign": {"pools": 1}}),
        ("sink_checks", {"active": 2}),
        ("forged_refused", {"refused": 59}),
        ("forged_refused", {"scoped_refused": 9}),
        ("endpoints_tried", {"tried": 8}),
        ("forged_alike", {"alike": 59}),
        ("forged_told", {"told": 99}),
        ("tainted_reused", {"tainted": 1}),
        ("own_shown", {"own_shown": 99}),
        ("labelled", {"labelled": 899}),
        ("planted_found", {"found": 7}),
    ],
)
def test_each_wrong_fails_its_metric(metric: str, changed: dict[str, Any]) -> None:
    ruling = rule(SCENARIO, check(history(**changed)), size="quick")
    assert ruling.verdict is Verdict.FAIL, ruling.reason
    assert [each.name for each in ruling.metrics if each.passed is False] == [metric]


@pytest.mark.parametrize(
    "changed",
    [
        {"said": "it crashed"},
        {"engines": ("sim",)},
        {"unseen": {"logs"}},
        {"silent": {"journal"}},
        {"hits": 0},
    ],
)
def test_what_was_not_looked_at_decides_nothing(changed: dict[str, Any]) -> None:
    ruling = rule(SCENARIO, check(history(**changed)), size="quick")
    assert ruling.verdict is Verdict.UNKNOWN, ruling.reason


def test_every_fault_is_counted_from_a_fact() -> None:
    assert set(FAULTS.values()) <= FACTS.keys()


def test_the_search_finds_every_form_and_nothing_else() -> None:
    scanner = Scanner(3, 20)
    found, planted = planted_found(scanner, 4)
    assert found == planted == 20 * len(FORMS) * 4
    name, canary = next(iter(scanner.canaries.items()))
    for part in (canary[5:21], canary[::-1][:16], base64.b64encode(b"x" + canary.encode())):
        assert scanner.found(part) == {name}
    for nothing in (canary[:15], "0" * 64, b"\xff" * 64, "", "tell of prices"):
        assert scanner.found(nothing) == set()


def test_what_belongs_to_nobody_may_hold_nothing() -> None:
    scanner = Scanner(3, 2)
    mine, theirs = scanner.canaries
    sinks = Sinks(scanner, active=2)
    sinks.add("logs", mine, scanner.canaries[mine])
    assert not sinks.foreign and sinks.own == {"logs": 1}
    sinks.add("logs", None, scanner.canaries[mine])
    sinks.add("pools", mine, {"x": [scanner.canaries[theirs].encode()]})
    assert sinks.foreign == {"logs": 1, "pools": 1}
    assert sinks.examples == [
        f"logs: what belongs to nobody shows data of {mine}",
        f"pools: {mine} shows data of {theirs}",
    ]


def test_every_endpoint_by_id_can_be_tried() -> None:
    assert {"load", "result", "resume", "signal", "cancel"} <= set(endpoints())
    for endpoint in endpoints():
        assert arguments(endpoint, CHILD) is not None
