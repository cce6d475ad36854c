"""Every error code has its page, every page its code, and the index knows them all."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import runpy
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from stageflow.model.errors import StageflowError

CODE = re.compile(r"^[a-z]+(?:_[a-z]+)*\.[a-z0-9]+(?:_[a-z0-9]+)*$")


TEXTS = {"pipeline", "node", "field", "expected", "got", "fix"}
"""Keywords by which a call is known to be about an error."""


@pytest.fixture(scope="module")
def codes(sources: Mapping[str, Any]) -> Mapping[str, list[str]]:
    """Each code to the places that raise it: string literals handed to an error's constructor."""
    names = _error_classes(sources)
    found: dict[str, list[str]] = defaultdict(list)
    for name, source in sources.items():
        for code, line in _codes(source.tree, names):
            found[code].append(f"{name}:{line}")
    return found


def test_codes_have_one_form(codes: Mapping[str, list[str]]) -> None:
    odd = {code: places for code, places in codes.items() if not CODE.match(code)}
    assert not odd, f"a code is area.what in lower case: {odd}"


def test_every_code_has_a_page(root: Path, codes: Mapping[str, list[str]]) -> None:
    missing = {
        code: places
        for code, places in sorted(codes.items())
        if not (root / "docs" / "errors" / f"{code}.md").is_file()
    }
    assert not missing, (
        "write docs/errors/<code>.md (title, meaning, a minimal example, the mend) for: "
        + "; ".join(f"{code} ({places[0]})" for code, places in missing.items())
    )


def test_every_page_has_a_code(root: Path, sources: Mapping[str, Any]) -> None:
    """A code may be handed on by a function, so that any mention of it in the code counts."""
    mentioned = {
        part.value
        for source in sources.values()
        for part in ast.walk(source.tree)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    }
    stray = [path.stem for path in _pages(root) if path.stem not in mentioned]
    assert not stray, f"nothing raises these; delete the page or mend its name: {stray}"


def test_every_page_starts_with_its_code_and_shows_the_mend(root: Path) -> None:
    for path in _pages(root):
        text = path.read_text(encoding="utf-8")
        title = text.partition("\n")[0].lstrip("# ").strip("`")
        assert title == path.stem, f"{path.name}: the title is {title!r}, not the code"
        assert "```" in text, f"{path.name} shows no example"


def test_the_index_is_up_to_date(root: Path) -> None:
    build = runpy.run_path(str(root / "docs" / "index_errors.py"))["index"]
    written = (root / "docs" / "errors.md").read_text(encoding="utf-8")
    assert written == build(root / "docs" / "errors"), "run `make errors` to renew docs/errors.md"


def _pages(root: Path) -> list[Path]:
    return sorted((root / "docs" / "errors").glob("*.md"))


def _error_classes(sources: Mapping[str, Any]) -> set[str]:
    names = set()
    for name in sources:
        if name.endswith("__main__"):
            continue
        for label, value in vars(importlib.import_module(name)).items():
            if inspect.isclass(value) and issubclass(value, StageflowError):
                names.add(label)
    return names


def _codes(tree: ast.Module, error_classes: set[str]) -> Iterator[tuple[str, int]]:
    """Codes handed to an error class, to `super().__init__` in one, or on their way to one.

    On their way are calls that look like an error's: a code first, then what goes into its text.
    """
    for part in ast.walk(tree):
        if isinstance(part, ast.ClassDef) and part.name in error_classes:
            for call in ast.walk(part):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
                    yield from _literal(call)
        if isinstance(part, ast.Call):
            called = part.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in error_classes:
                yield from _literal(part)
            elif {key.arg for key in part.keywords} & TEXTS:
                yield from (found for found in _literal(part) if CODE.match(found[0]))


def _literal(call: ast.Call) -> Iterator[tuple[str, int]]:
    given = [*call.args[:1], *(each.value for each in call.keywords if each.arg == "code")]
    for value in given:
        for part in ast.walk(value):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value, call.lineno
