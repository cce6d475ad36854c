"""Labels: what a value is made of, as short names that follow it to everything made from it.

A value has the union of the labels of all that it was made from; nothing takes one away but a guard
that says so. (Denning, "A lattice model of secure information flow", CACM 1976: sets of names under
union are such a lattice.)
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, TypeAlias

from stageflow.model.errors import BuildError

Labels: TypeAlias = frozenset[str]

NONE: Final[Labels] = frozenset()
LABEL_MAX: Final = 100
"""Characters of one."""


def checked_labels(given: str | Collection[str], *, field: str, node: str | None = None) -> Labels:
    """One label or several. BuildError `label.name` for what is no label."""
    each: Collection[Any] = (given,) if isinstance(given, str) else given
    if isinstance(each, Collection):
        for label in each:
            if not isinstance(label, str) or not 0 < len(label) <= LABEL_MAX:
                break
            if not label.isprintable():
                break
        else:
            return frozenset(each)
    raise BuildError(
        "label.name",
        f"{field}= holds what is no label",
        node=node,
        field=field,
        expected=f"texts of 1 to {LABEL_MAX} printable characters",
        got=type(given).__name__,
        fix=f'{field}="personal", or {field}=("personal", "payroll")',
    )


def shown(labels: Collection[str]) -> str:
    """At most eight of them, for people."""
    listed = sorted(labels)
    more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
    return ", ".join(listed[:8]) + more
