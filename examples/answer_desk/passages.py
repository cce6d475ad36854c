"""The documents cut into passages: one section of a page, or one term of the glossary."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCUMENTS = Path(__file__).parent / "documents"

_UNDERLINE = re.compile(r"^([=\-~*^\"'#+])\1{2,}$")
_TERM = re.compile(r"^ {3}(\S.*)$")
_ROLE = re.compile(r":[\w:-]+:`([^`]*)`")
_LINK = re.compile(r"`([^`<]*?)\s*<[^`>]*>`_{1,2}")
_BARE_LINK = re.compile(r"`([^`]+)`_{1,2}")
_BLOCK_START = re.compile(r"^(\s*)\.\.(\s|$)")
_KEPT_BLOCKS = ("note", "warning", "tip", "doctest", "code-block", "sourcecode")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document that can be cited."""

    source: str
    """`page#heading`, unique; the page is the file's name without its ending."""
    heading: str
    text: str
    """Paragraphs divided by blank lines; lines of code keep four spaces of indentation."""
    is_definition: bool
    """True for a term of the glossary."""


def read_all(folder: Path = DOCUMENTS) -> tuple[Passage, ...]:
    """Every passage of the folder's pages, in the order of names; the licence is no page.

    A heading that a page uses twice is cited by its first passage.
    """
    passages: dict[str, Passage] = {}
    for path in sorted(folder.glob("*.rst")):
        if path.stem != "LICENSE":
            page = path.read_text(encoding="utf-8")
            cut = _terms if path.stem == "glossary" else _sections
            for passage in cut(path.stem, page):
                passages.setdefault(passage.source, passage)
    return tuple(passages.values())


def slug(heading: str) -> str:
    """The heading as the published pages write it in an address: lower case, dashes."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def _sections(page: str, text: str) -> Iterator[Passage]:
    lines = text.splitlines()
    starts = [
        n
        for n in range(1, len(lines))
        if _UNDERLINE.match(lines[n]) and lines[n - 1].strip() and lines[n - 1][0] not in " ."
        if len(lines[n]) >= len(lines[n - 1].rstrip())
    ]
    for start, end in zip(starts, [*starts[1:], len(lines) + 1], strict=True):
        heading = _plain(lines[start - 1].strip())
        body = _readable(lines[start + 1 : end - 1])
        if body:
            yield Passage(f"{page}#{slug(heading)}", heading, body, is_definition=False)


def _terms(page: str, text: str) -> Iterator[Passage]:
    _, _, listing = text.partition(".. glossary::")
    lines = listing.splitlines()
    starts = [n for n, line in enumerate(lines) if _TERM.match(line)]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        term = _plain(lines[start].strip()).strip("`")
        body = _readable([line[6:] for line in lines[start + 1 : end]])
        if body and slug(term):
            yield Passage(f"{page}#{slug(term)}", term, body, is_definition=True)


def _readable(lines: list[str]) -> str:
    """Plain text of reStructuredText lines: no markup, no directives that aren't for readers."""
    kept: list[str] = []
    skipped_indent: int | None = None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if skipped_indent is not None:
            if not line.strip() or indent > skipped_indent:
                continue
            skipped_indent = None
        block = _BLOCK_START.match(line)
        if block:
            name = line.strip(" .").partition("::")[0]
            if name not in _KEPT_BLOCKS:
                skipped_indent = len(block[1])
            kept.append("")
            continue
        kept.append(line.rstrip())
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n")
    text = "\n\n".join(map(_block, text.split("\n\n")))
    text = re.sub(r"(?m)^\s*::$", "", text).replace("::\n", ":\n")
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def _block(block: str) -> str:
    """Code moved to four spaces, whatever its page used; anything with markup in it is prose."""
    if not block.startswith("  "):
        return _plain(block)
    dedented = textwrap.dedent(block)
    if "``" in block or _ROLE.search(block):
        return _plain(dedented)
    return textwrap.indent(dedented, "    ")


def _plain(text: str) -> str:
    """Prose or a heading without roles, links and stars; markup may run over line ends."""
    text = _ROLE.sub(lambda found: _role_text(found[1]), text)
    text = _LINK.sub(lambda found: found[1], text)
    text = _BARE_LINK.sub(lambda found: found[1], text)
    text = text.replace("``", "`").replace("\\ ", "").replace("\\*", "*")
    return re.sub(r"\*\*?([^*\s][^*]*)\*\*?", r"\1", text)


def _role_text(inner: str) -> str:
    """What a reader sees of a role: the text before `<target>`, without the marks ~ and !."""
    shown = re.sub(r"\s*<[^>]*>$", "", inner)
    return shown.rpartition(".")[2] if shown.startswith("~") else shown.lstrip("!")
