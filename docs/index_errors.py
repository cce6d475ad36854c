"""Writes docs/errors.md, the index of docs/errors/: `python docs/index_errors.py`."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

HEAD = """# Errors

Every error a user can meet is a `StageflowError` with a stable code, the place where it happened
and how to fix it. `error.code` is for programs, `str(error)` for people, `error.docs` is the page.
"""


def index(folder: Path) -> str:
    """The index of a folder of pages: per area, each code with the first sentence of its page."""
    pages = sorted(folder.glob("*.md"))
    parts = [HEAD]
    for area, group in groupby(pages, key=lambda path: path.stem.partition(".")[0]):
        parts.append(f"\n## {area}\n\n| code | what it means |\n|---|---|\n")
        parts += [f"| [{path.stem}](errors/{path.name}) | {meaning(path)} |\n" for path in group]
    return "".join(parts)


def meaning(page: Path) -> str:
    """The first sentence after the title, on one line."""
    paragraphs = page.read_text(encoding="utf-8").split("\n\n")
    prose = [part for part in paragraphs if part.strip() and not part.lstrip().startswith("#")]
    first = " ".join(prose[0].split()) if prose else ""
    return re.split(r"(?<=[.!])\s", first)[0].replace("|", "\\|")


if __name__ == "__main__":
    here = Path(__file__).parent
    (here / "errors.md").write_text(index(here / "errors"), encoding="utf-8")
