"""Modules: importable, named by what they are, defined once, and wanted by somebody."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

BANNED_WORDS = frozenset(
    "util utils helper helpers common misc manager managers service services v2 new legacy unified "
    "stuff base".split()
)

UNIMPORTED = {
    "stageflow": "the face users import",
    "stageflow.stages.work.ledger.conformance": "for tests of stores of effects, ours and others'",
    "stageflow.stages.work.undo.conformance": "for tests of resources, ours and others'",
    "stageflow.cli": "started by the stageflow command",
    "stageflow.journal.conformance": "for tests of stores, ours and others'",
    "stageflow.testing": "what users import in their tests",
    "stageflow_lab": "the face of the lab",
    "stageflow_lab.cli": "reached through the stageflow.commands entry point",
}
"""Modules nobody needs to import, each with its reason. Scenarios are discovered, not imported."""


def test_every_module_imports(sources: Mapping[str, Any]) -> None:
    for name in sources:
        if not name.endswith("__main__"):
            importlib.import_module(name)


def test_files_are_named_by_what_they_hold(root: Path, tracked: tuple[Path, ...]) -> None:
    vague = [
        str(path.relative_to(root))
        for path in tracked
        if path.suffix in (".py", ".md")
        if BANNED_WORDS & set(re.split(r"[_\-.]", path.stem.lower()))
        and "documents" not in path.parts
    ]
    assert not vague, f"name these by a noun that says what is inside: {vague}"


def test_no_public_class_is_defined_twice(sources: Mapping[str, Any]) -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for name, source in sources.items():
        if ".scenarios." in name:
            continue  # Scenarios are programs of their own; nothing imports from them.
        for part in source.tree.body:
            if isinstance(part, ast.ClassDef) and not part.name.startswith("_"):
                homes[f"{name.partition('.')[0]}:{part.name}"].append(name)
    twice = {name: found for name, found in homes.items() if len(found) > 1}
    assert not twice, f"one name, one home; rename or merge: {twice}"


def test_no_exported_name_has_two_meanings(sources: Mapping[str, Any]) -> None:
    meanings: dict[str, dict[int, str]] = defaultdict(dict)
    for module_name, exported, value in _exports(sources):
        package = module_name.partition(".")[0]
        meanings[f"{package}:{exported}"].setdefault(id(value), module_name)
    twice = {name: sorted(found.values()) for name, found in meanings.items() if len(found) > 1}
    assert not twice, f"exported with different meanings; rename one: {twice}"


def test_every_exported_name_resolves_and_is_documented(sources: Mapping[str, Any]) -> None:
    for module_name, exported, value in _exports(sources):
        if inspect.isclass(value) or inspect.isroutine(value):
            assert inspect.getdoc(value), f"{module_name}.{exported} needs a docstring"


def test_every_module_says_what_it_is(sources: Mapping[str, Any]) -> None:
    silent = [
        name
        for name, source in sources.items()
        if ast.get_docstring(source.tree) is None and source.tree.body
    ]
    assert not silent, f"start these with a docstring, one line that says what they are: {silent}"


def test_no_module_is_unwanted(sources: Mapping[str, Any]) -> None:
    grimp = pytest.importorskip("grimp", reason="import-linter brings it")
    graph = grimp.build_graph("stageflow", "stageflow_lab", cache_dir=None)
    outside = [name for name in sources if name not in graph.modules]
    assert not outside, f"add an __init__.py to the folders of: {outside}"
    unwanted = [
        name
        for name, source in sources.items()
        if not graph.find_modules_that_directly_import(name)
        and name not in UNIMPORTED
        and ".scenarios" not in name
        and not source.is_package
        and not source.runs_as_program
    ]
    assert not unwanted, f"nobody imports these; delete them or use them: {unwanted}"


def test_the_exemptions_are_still_needed(sources: Mapping[str, Any]) -> None:
    gone = [name for name in UNIMPORTED if name not in sources]
    assert not gone, f"UNIMPORTED names modules that do not exist: {gone}"


def _exports(sources: Mapping[str, Any]) -> Iterator[tuple[str, str, object]]:
    """(module, name, value) for each name of each `__all__`."""
    for name in sources:
        if name.endswith("__main__"):
            continue
        module = importlib.import_module(name)
        for exported in getattr(module, "__all__", ()):
            assert hasattr(module, exported), f"{name}.__all__ names {exported!r}, which is absent"
            yield name, exported, getattr(module, exported)
