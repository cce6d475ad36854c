"""Scenarios: their headers agree with the catalogue, and their checks are tested."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def scenarios(sources: Mapping[str, Any]) -> Mapping[str, Any]:
    """Module name to its SCENARIO, for every scenario file."""
    found = {}
    for name, source in sources.items():
        if name.startswith("stageflow_lab.scenarios.") and not source.is_package:
            module = importlib.import_module(name)
            if hasattr(module, "SCENARIO"):
                found[name] = module.SCENARIO
    return found


def test_headers_agree_with_the_catalogue(scenarios: Mapping[str, Any]) -> None:
    from stageflow_lab.roadmap import agreement, entries

    catalogue = entries()
    wrong = {
        name: agreement.disagreements(scenario, catalogue[scenario.row])
        for name, scenario in scenarios.items()
    }
    wrong = {name: found for name, found in wrong.items() if found}
    assert not wrong, "\n".join(f"{name}: {each}" for name in wrong for each in wrong[name])


def test_each_sabotage_finds_what_it_patches(scenarios: Mapping[str, Any]) -> None:
    for scenario in scenarios.values():
        for sabotage in scenario.sabotages:
            with sabotage.apply():  # raises lab.patch_target
                pass


def test_no_row_has_two_scenarios(scenarios: Mapping[str, Any]) -> None:
    rows = [scenario.row for scenario in scenarios.values()]
    twice = sorted({row for row in rows if rows.count(row) > 1})
    assert not twice, f"one file a row: {twice}"


def test_every_check_is_tested(root: Path, scenarios: Mapping[str, Any]) -> None:
    tests = {path.stem: path for path in (root / "tests" / "lab" / "scenarios").rglob("test_*.py")}
    untested = []
    for name in scenarios:
        test = tests.get(f"test_{name.rpartition('.')[2]}")
        if test is None or not _calls_check(ast.parse(test.read_text(encoding="utf-8"))):
            untested.append(name)
    assert not untested, (
        "give each check small histories, one a verdict, in tests/lab/scenarios/test_<module>.py: "
        f"{untested}"
    )


def _calls_check(tree: ast.Module) -> bool:
    """True when the test mentions `check`, by itself or through SCENARIO."""
    return any(
        (isinstance(part, ast.Name) and part.id == "check")
        or (isinstance(part, ast.Attribute) and part.attr == "check")
        for part in ast.walk(tree)
    )
