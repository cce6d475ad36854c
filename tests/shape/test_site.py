"""The documentation site: builds without a warning, shows every public name, loads nothing."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import stageflow

pytest.importorskip("mkdocs", reason="the extra `docs` brings it")

REFERENCE = {
    "stageflow": "stageflow",
    "stageflow.testing": "testing",
    "stageflow.sim": "sim",
    "stageflow_lab": "lab",
}
"""Documented modules, and their pages in docs/reference/."""


def build(project: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """`make docs`, with the result in another folder. (`--quiet` would let warnings pass.)"""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    out = tmp_path_factory.mktemp("site")
    done = build(root, out)
    assert done.returncode == 0, done.stdout
    return out


def test_every_page_is_on_the_site(root: Path, site: Path) -> None:
    pages = {path.relative_to(root / "docs") for path in (root / "docs").rglob("*.md")}
    absent = [str(page) for page in pages if not (site / page.with_suffix(".html")).is_file()]
    assert not absent


@pytest.mark.parametrize("module", REFERENCE)
def test_the_reference_shows_every_public_name(module: str, site: Path) -> None:
    shown = (site / "reference" / f"{REFERENCE[module]}.html").read_text(encoding="utf-8")
    names = set(re.findall(r'id="stageflow[\w.]*\.(\w+)"', shown))
    assert set(importlib.import_module(module).__all__) <= names


def test_the_reference_shows_what_decorators_say(site: Path) -> None:
    shown = (site / "reference" / "stageflow.html").read_text(encoding="utf-8")
    for kind in ("transform", "enrich", "route", "guard", "work", "agent"):
        assert str(getattr(stageflow, kind).__doc__) in shown


def test_code_is_shown_as_code(site: Path) -> None:
    shown = [path for path in site.rglob("*.html") if "```" in path.read_text(encoding="utf-8")]
    assert not shown, f"a block was not understood on {shown}"


def test_a_page_that_is_not_right_fails_the_build(root: Path, tmp_path: Path) -> None:
    """One page in a folder that the navigation does not know, with all that is refused."""
    for name in ("mkdocs.yml", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(root / name, tmp_path)
    shutil.copytree(root / "docs", tmp_path / "docs")
    (tmp_path / "src").symlink_to(root / "src")
    (tmp_path / "docs" / "lost").mkdir()
    (tmp_path / "docs" / "lost" / "page.md").write_text(
        "# Lost\n\n[nowhere](nowhere.md), [no such part](../concepts.md#no-such-part)\n\n"
        '<img src="https://example.org/counter.png">\n'
    )
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    for complaint in (
        'not included in the "nav" configuration:\n  - lost/page.md',
        "a link 'nowhere.md'",
        "does not contain an anchor '#no-such-part'",
        "lost/page.md would load https://example.org/counter.png",
    ):
        assert complaint in done.stdout, f"{complaint!r} is not in {done.stdout}"


def test_a_new_page_beside_the_others_becomes_a_guide(root: Path) -> None:
    config = pytest.importorskip("mkdocs.config").load_config(str(root / "mkdocs.yml"))
    hooks = config.plugins.events["files"][-1].__globals__
    rest = ["new.md", "reference/new.md", "design/scheduler.md"]
    nav = hooks["_filled"](config.nav, rest)
    (guides,) = [part["Guides"] for part in nav if "Guides" in part]
    (reference,) = [part["Reference"] for part in nav if "Reference" in part]
    assert guides == ["new.md"]
    assert "reference/new.md" in reference
    assert not any("Guides" in part for part in hooks["_filled"](config.nav, []) if part)
