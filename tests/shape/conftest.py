"""The tree as the checks see it: tracked files, modules, and what imports what."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGES = ("stageflow", "stageflow_lab")


@dataclass(frozen=True, slots=True)
class Source:
    """One Python module of ours, parsed but not imported."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def runs_as_program(self) -> bool:
        """True for modules meant for `python -m`."""
        return self.name.endswith("__main__") or any(
            isinstance(part, ast.If) and "__main__" in ast.unparse(part.test)
            for part in self.tree.body
        )


@pytest.fixture(scope="session")
def tracked(root: Path) -> tuple[Path, ...]:
    """Every file that git knows and that is there; without git, every file that is not hidden."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True, text=True
        ).stdout.split("\0")
        paths = [root / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        paths = [path for path in root.rglob("*") if "/." not in str(path.relative_to(root))]
    return tuple(path for path in paths if path.is_file())


@pytest.fixture(scope="session")
def sources(root: Path) -> Mapping[str, Source]:
    """Every module under src, by dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / "src" / package).rglob("*.py")):
            parts = path.relative_to(root / "src").with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = Source(name, path, ast.parse(path.read_text(encoding="utf-8")))
    return found
