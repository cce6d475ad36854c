"""Documents: their code runs, their links lead somewhere, and no machine shows through."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

from tests.shape.code_blocks import (
    ROOT,
    CodeBlock,
    Console,
    blocks,
    compiled,
    run_python,
)

LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    if path.parent.name != "errors"
)
WITH_CODE = [page for page in PAGES if "```" in (ROOT / page).read_text(encoding="utf-8")]
ERROR_PAGES = sorted(path.stem for path in (ROOT / "docs" / "errors").glob("*.md"))

MACHINE = re.compile(
    r"(?<![\w.<])/(?:home|root|Users|work|mnt)/[\w.-]+|\bip-\d+-\d+-\d+-\d+\b", re.IGNORECASE
)


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_of_a_page_runs(page: str, in_tmp: Path) -> None:
    """The blocks of a page are one program and one console, run from top to bottom in one folder.

    A python block that is not run must parse, and every block that is not run says why.
    """
    console = Console(in_tmp)
    with _module("document_" + re.sub(r"\W", "_", page)) as module:
        for block in blocks((ROOT / page).read_text(encoding="utf-8")):
            _hold(block, module, page, console)


def _hold(block: CodeBlock, module: types.ModuleType, page: str, console: Console) -> None:
    match block.language:
        case "python" if block.not_run:
            compiled(block, page)
        case "python":
            run_python(block, module, page)
        case "console" if not block.not_run:
            console.run(block)
        case "json":
            json.loads(block.code)
        case "toml":
            tomllib.loads(block.code)


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
    """The first block is the example, and ends with the error; later ones show what to do."""
    assert code in met[code], f"docs/errors/{code}.md raises {met[code]} instead"
    wrong = [line for line in met[code] if line.startswith("line ")]
    assert not wrong, f"docs/errors/{code}.md: {wrong}"


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


class _module:
    """A module that exists while its code runs, so that its classes and stages can be found."""

    def __init__(self, name: str) -> None:
        self.module = types.ModuleType(name)

    def __enter__(self) -> types.ModuleType:
        sys.modules[self.module.__name__] = self.module
        return self.module

    def __exit__(self, *raised: object) -> None:
        del sys.modules[self.module.__name__]
