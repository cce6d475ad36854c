"""What users install: typed packages, extras that name what they need, and no more."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def project(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("package", ["stageflow", "stageflow_lab"])
def test_type_checkers_of_users_see_our_types(root: Path, package: str) -> None:
    assert (root / "src" / package / "py.typed").is_file()


def test_all_gives_every_capability(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    named = set(everything.partition("[")[2].rstrip("]").replace(" ", "").split(","))
    assert named == extras.keys() - {"all", "dev", "docs"}


def test_the_default_install_stays_small(project: dict[str, Any]) -> None:
    """Without encryption a journal would keep what guards look at in plain text by default."""
    named = {each.partition(">")[0] for each in project["project"]["dependencies"]}
    assert named == {"pydantic", "msgspec", "cryptography"}


def test_both_packages_ship(project: dict[str, Any]) -> None:
    shipped = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert shipped == ["src/stageflow", "src/stageflow_lab"]


def test_the_changelog_knows_the_version(root: Path, project: dict[str, Any]) -> None:
    assert f"## {project['project']['version']}" in (root / "CHANGELOG.md").read_text("utf-8")
