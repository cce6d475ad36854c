"""What the site adds to mkdocs: patterns in the navigation, pages from the root, nothing from afar.

Hooks of mkdocs (https://www.mkdocs.org/dev-guide/plugins/#events), named in mkdocs.yml. What they
log as a warning fails a strict build.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LOG = logging.getLogger("mkdocs.hooks.site")
ROOT = Path(__file__).parent.parent
FROM_THE_ROOT = {"changes.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}

LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|link(?![^>]*rel="?(?:canonical|next|prev)))\b
        [^>]*\b(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)""",
    re.VERBOSE,
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie at the project's root, and replaces the navigation's patterns."""
    for name, source in FROM_THE_ROOT.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    pages = sorted(file.src_uri for file in files.documentation_pages())
    named = set(_named(config.nav))
    config.nav = _filled(config.nav, [page for page in pages if page not in named])
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Tells of what a page would load from elsewhere: the site works offline and tells nobody."""
    for address in LOADED.findall(output):
        LOG.warning("%s would load %s when it is read", page.file.src_uri, address)
    return output


def _named(nav: Any) -> Iterator[str]:
    """Every page that the navigation names itself."""
    if isinstance(nav, str):
        yield nav
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _named(part)


def _filled(nav: Any, rest: list[str]) -> Any:
    """The navigation with each pattern replaced by the pages of `rest` in its folder.

    A section that has no page is left out.
    """
    if isinstance(nav, dict):
        filled = {title: _filled(part, rest) for title, part in nav.items()}
        return {title: part for title, part in filled.items() if part}
    if not isinstance(nav, list):
        return nav
    parts: list[Any] = []
    for part in nav:
        if isinstance(part, str) and part.endswith("*"):
            depth = part.count("/")
            parts += [page for page in rest if fnmatchcase(page, part) and page.count("/") == depth]
        else:
            parts.append(_filled(part, rest))
    return [part for part in parts if part]
