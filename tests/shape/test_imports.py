"""What importing costs, and which names the lab and the examples may touch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEAVY = (
    "pydantic",
    "pydantic_core",
    "pydantic_ai",
    "msgspec",
    "numpy",
    "opentelemetry",
    "httpx",
    "httpcore",
    "aiohttp",
    "requests",
    "urllib3",
    "sqlite3",
    "ray",
    "hypothesis",
    "stageflow_lab",
)


def test_importing_stageflow_loads_nothing_heavy() -> None:
    """In a process of its own: this one has loaded everything already."""
    program = f"import sys, stageflow\nprint(*sorted(set(sys.modules) & set({HEAVY!r})))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not loaded, (
        f"`import stageflow` loads {loaded}; import them inside the function that needs them, "
        "with a comment that says why"
    )


def test_lab_and_examples_use_public_names_only(root: Path, sources: Mapping[str, Any]) -> None:
    trees = {name: source.tree for name, source in sources.items() if "_lab" in name}
    for folder in ("examples", "industries", "benchmarks"):
        for path in (root / folder).rglob("*.py"):
            trees[str(path.relative_to(root))] = ast.parse(path.read_text(encoding="utf-8"))
    private = [
        f"{where} takes {part}"
        for where, tree in trees.items()
        for imported in _imports_of_stageflow(tree)
        for part in [imported]
        if any(word.startswith("_") and not word.startswith("__") for word in part.split("."))
    ]
    assert not private, f"make these public, or do without them: {private}"


def _imports_of_stageflow(tree: ast.Module) -> list[str]:
    """Dotted names imported from the framework."""
    found = []
    for part in ast.walk(tree):
        if isinstance(part, ast.Import):
            found += [alias.name for alias in part.names]
        elif isinstance(part, ast.ImportFrom) and part.level == 0 and part.module:
            found += [f"{part.module}.{alias.name}" for alias in part.names]
    return [name for name in found if name.split(".")[0] == "stageflow"]
