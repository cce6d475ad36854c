"""The roadmap as data: its 308 rows, each with the acceptance catalogue's words.

`ROADMAP.md` gives id, target, priority and risk; `tierN-*.md` give claim, load, pass, sabotage and
anchor. Both ship inside the package and are parsed once. Texts are kept verbatim.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Final

from ..errors import LabError
from .phases import phase_of, rank_in_phase

_TIER: Final = re.compile(r"^## Tier (\d+): (.+)$")
_SECTION: Final = re.compile(r"^### (\d+\.\d+) (.+)$")
_TABLE_ROW: Final = re.compile(r"^\| ([A-Z0-9-]+-\d{3}) \| (.+) \| (P[0-2]) \| (\w+) \|$")
_HEADER: Final = re.compile(r"^### ([A-Z0-9-]+-\d{3}) (.+) \((P[0-2]), (\w+)\)$")
_FIELD: Final = re.compile(r"^- (Claim|Builds|Pipeline|Load|Pass|Sabotage|Anchor): (.+)$")
_NEEDED: Final = ("Claim", "Load", "Pass", "Sabotage")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoadmapRow:
    """One row. `section` is its folder name ("core", "llm_reason"); `section_title` as printed.

    `builds` is the catalogue's Builds line, or the Pipeline line of an industry row. `anchor` is
    empty where the catalogue has none. `position` is the row's place in the roadmap, from 0.
    """

    id: str
    target: str
    priority: str
    risk: str
    tier: int
    tier_title: str
    section: str
    section_title: str
    phase: int
    position: int
    claim: str
    builds: str
    load: str
    passes: str
    sabotages: tuple[str, ...]
    anchor: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Story:
    """A row as the acceptance catalogue tells it."""

    priority: str
    risk: str
    fields: Mapping[str, str]
    source: str


@cache
def entries() -> Mapping[str, RoadmapRow]:
    """Every row by id, in the roadmap's own order. Raises LabError `lab.roadmap` on bad data."""
    folder = resources.files(__package__) / "data"
    stories: dict[str, _Story] = {}
    for page in sorted(folder.iterdir(), key=lambda page: page.name):
        if page.name.startswith("tier") and page.name.endswith(".md"):
            stories.update(_stories(page.read_text("utf-8"), page.name))
    table = (folder / "ROADMAP.md").read_text("utf-8")
    found = {entry.id: entry for entry in _joined(table, stories)}
    orphans = sorted(stories.keys() - found.keys())
    if orphans:
        raise _bad(orphans[0], "is in the catalogue but not in ROADMAP.md")
    return MappingProxyType(found)


def execution_order() -> tuple[RoadmapRow, ...]:
    """The rows in the order in which the roadmap wants them run."""

    def rank(entry: RoadmapRow) -> tuple[int, int, int, int]:
        inside = rank_in_phase(entry.id, phase=entry.phase, priority=entry.priority)
        return entry.phase, *inside, entry.position

    return tuple(sorted(entries().values(), key=rank))


def section_of(row: str) -> str:
    """The folder of a row: "LLM-REASON-001" -> "llm_reason"."""
    return row.rpartition("-")[0].lower().replace("-", "_")


def sabotages_of(text: str) -> tuple[str, ...]:
    """The defects of a Sabotage line, split at semicolons outside parentheses."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == ";" and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    return tuple(part.strip().removesuffix(".") for part in parts if part.strip(" ."))


def _joined(table: str, stories: Mapping[str, _Story]) -> Iterator[RoadmapRow]:
    tier, tier_title, section_title, position = 0, "", "", 0
    for line in table.splitlines():
        if found := _TIER.match(line):
            tier, tier_title = int(found[1]), found[2]
        elif found := _SECTION.match(line):
            section_title = f"{found[1]} {found[2]}"
        elif found := _TABLE_ROW.match(line):
            row, target, priority, risk = found.groups()
            story = stories.get(row)
            if story is None:
                raise _bad(row, "has no entry in the catalogue")
            if (story.priority, story.risk) != (priority, risk):
                raise _bad(row, "differs in priority or risk between ROADMAP.md and the catalogue")
            yield RoadmapRow(
                id=row,
                target=target,
                priority=priority,
                risk=risk,
                tier=tier,
                tier_title=tier_title,
                section=section_of(row),
                section_title=section_title,
                phase=phase_of(row, tier=tier, priority=priority),
                position=position,
                claim=story.fields["Claim"],
                builds=story.fields.get("Builds", story.fields.get("Pipeline", "")),
                load=story.fields["Load"],
                passes=story.fields["Pass"],
                sabotages=sabotages_of(story.fields["Sabotage"]),
                anchor=story.fields.get("Anchor", ""),
                source=story.source,
            )
            position += 1


def _stories(text: str, source: str) -> Iterator[tuple[str, _Story]]:
    for block in re.split(r"^(?=### )", text, flags=re.MULTILINE)[1:]:
        lines = block.splitlines()
        header = _HEADER.match(lines[0])
        if header is None:
            raise _bad(source, f"has a heading that names no row: {lines[0]!r}")
        fields = {found[1]: found[2].strip() for line in lines if (found := _FIELD.match(line))}
        lacking = [name for name in _NEEDED if not fields.get(name)]
        if lacking:
            raise _bad(header[1], f"lacks {', '.join(lacking)} in {source}")
        yield (
            header[1],
            _Story(priority=header[3], risk=header[4], fields=fields, source=source),
        )


def _bad(place: str, what: str) -> LabError:
    return LabError(
        "lab.roadmap",
        f"{place} {what}.",
        fix="restore the package's roadmap/data folder, or mend the line named here",
    )
