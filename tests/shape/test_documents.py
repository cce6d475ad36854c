"""Documents: their code runs, their links lead somewhere, and no machine shows through."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")

PROGRAMS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if path.parent.name != "errors" and "```python" in path.read_text(encoding="utf-8")
)
ERROR_PAGES = sorted(path.stem for path in (ROOT / "docs" / "errors").glob("*.md"))

MACHINE = re.compile(
    r"(?<![\w.<])/(?:home|root|Users|work|mnt)/[\w.-]+|\bip-\d+-\d+-\d+-\d+\b", re.IGNORECASE
)


@pytest.mark.parametrize("document", PROGRAMS)
def test_python_code_in_documents_runs(document: str, in_tmp: Path) -> None:
    """All `python` blocks of a page are one program, run from top to bottom.

    A block marked ```python fragment is a part of something larger: it must only parse.
    """
    text = (ROOT / document).read_text(encoding="utf-8")
    name = "document_" + re.sub(r"\W", "_", document)
    with _module(name) as module:
        for language, marks, code in FENCE.findall(text):
            if language != "python":
                continue
            if "fragment" in marks:
                _compiled(code, document)
            else:
                _run(code, module, document)


@pytest.fixture(scope="module")
def met() -> dict[str, list[str]]:
    """Each error page to the codes that its example met."""
    pages = [str(ROOT / "docs" / "errors" / f"{code}.md") for code in ERROR_PAGES]
    done = subprocess.run(
        [sys.executable, "-W", "error", str(Path(__file__).with_name("error_examples.py")), *pages],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("code", ERROR_PAGES)
def test_the_example_of_an_error_page_raises_that_error(
    code: str, met: dict[str, list[str]]
) -> None:
    """The first `python` block is the example, and ends with the error; later ones mend it.

    A block marked ```python fragment is not run: its error needs what a page can't bring along.
    """
    assert code in met[code], f"docs/errors/{code}.md raises {met[code]} instead"


def test_links_between_documents_lead_somewhere(tracked: tuple[Path, ...]) -> None:
    broken = [
        f"{path.relative_to(ROOT)} -> {target}"
        for path in tracked
        if path.suffix == ".md" and path.is_relative_to(ROOT) and "roadmap" not in path.parts
        for target in LINK.findall(path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]
    assert not broken, f"mend these links: {broken}"


def test_no_machine_shows_through(tracked: tuple[Path, ...]) -> None:
    shown = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in tracked
        if path.suffix in (".py", ".md", ".toml", ".json", ".txt", "", ".html")
        if "documents" not in path.parts and path != Path(__file__)
        for found in [MACHINE.search(path.read_text(encoding="utf-8", errors="replace"))]
        if found
    ]
    assert not shown, f"paths of one machine don't belong in files: {shown}"


def _compiled(code: str, name: str) -> types.CodeType:
    return compile(code, f"<{name}>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def _run(code: str, module: types.ModuleType, name: str) -> None:
    """Runs a block as `python -m asyncio` would: `await` is allowed outside functions."""
    # The block is made the module's source, since annotations are read with the module's names.
    entry = types.FunctionType(_compiled(code, name), vars(module))
    result = entry()
    if inspect.iscoroutine(result):
        asyncio.run(result)


class _module:
    """A module that exists while its code runs, so that its classes and stages can be found."""

    def __init__(self, name: str) -> None:
        self.module = types.ModuleType(name)

    def __enter__(self) -> types.ModuleType:
        sys.modules[self.module.__name__] = self.module
        return self.module

    def __exit__(self, *raised: object) -> None:
        del sys.modules[self.module.__name__]
