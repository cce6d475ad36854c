"""Which rows a command means: names, globs and filters, checked against what exists."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stageflow.model.errors import nearest

from .discovery import Found
from .errors import LabError
from .roadmap import RoadmapRow, entries, execution_order

_GLOB_CHARS: Final = frozenset("*?[")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What narrows a selection; None and empty narrow nothing. `sections` are folder names."""

    patterns: tuple[str, ...] = ()
    tiers: tuple[int, ...] = ()
    phases: tuple[int, ...] = ()
    priorities: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()

    @property
    def only_names(self) -> bool:
        """True when rows were given by name or glob and by nothing else."""
        return not (self.tiers or self.phases or self.priorities or self.sections)

    def keep(self, entry: RoadmapRow) -> bool:
        """Whether a roadmap row passes every filter."""
        return (
            (not self.tiers or entry.tier in self.tiers)
            and (not self.phases or entry.phase in self.phases)
            and (not self.priorities or entry.priority in self.priorities)
            and (not self.sections or entry.section in self.sections)
        )


def select(filters: Filters, found: Mapping[str, Found], *, executing: bool) -> tuple[str, ...]:
    """Row ids, in execution order when `executing`, else in the roadmap's order.

    Rows of the user's own files come last and answer to names and globs only. Raises LabError
    `lab.unknown_row` for a name that exists nowhere or a glob that matches nothing, and
    `lab.unknown_section` for a section that the roadmap does not have.
    """
    _check_sections(filters.sections)
    ordered: Iterable[RoadmapRow] = execution_order() if executing else entries().values()
    kept = [entry.id for entry in ordered if filters.keep(entry)]
    own = [row for row in found if row not in entries()] if filters.only_names else []
    if not filters.patterns:
        return (*kept, *own)
    known = (*entries(), *(row for row in found if row not in entries()))
    wanted: set[str] = set()
    for pattern in filters.patterns:
        wanted.update(_matching(pattern, known))
    return tuple(row for row in (*kept, *own) if row in wanted)


def _matching(pattern: str, known: Sequence[str]) -> list[str]:
    wanted = pattern.upper()
    if _GLOB_CHARS & set(pattern):
        matched = [row for row in known if fnmatch.fnmatchcase(row.upper(), wanted)]
    else:
        matched = [row for row in known if row.upper() == wanted]
    if matched:
        return matched
    close = nearest(wanted, known)
    raise LabError(
        "lab.unknown_row",
        f"there is no row {pattern!r}.",
        expected="a row such as CORE-001, or a quoted glob such as 'DAG-*'",
        got=pattern,
        fix=f"did you mean {close}?" if close else "`stageflow lab list` shows every row",
    )


def _check_sections(sections: Iterable[str]) -> None:
    known = sorted({entry.section for entry in entries().values()})
    for section in sections:
        if section not in known:
            close = nearest(section, known)
            raise LabError(
                "lab.unknown_section",
                f"there is no section {section!r}.",
                expected=", ".join(known),
                got=section,
                fix=f"did you mean {close}?" if close else "take one of the names above",
            )
