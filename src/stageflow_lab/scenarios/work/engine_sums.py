"""Sums of what was seen in one engine, simulated or real, and examples of what was wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ...history import History

EXAMPLES_MAX = 5
"""Violations that are told in full, for each metric."""


def totals(history: History, kind: str) -> tuple[dict[str, Mapping[str, Any]], Counter[str]]:
    """What was written as `kind`, by engine, and the sum of all of them."""
    engines = {event.data["engine"]: event.data for event in history.of(kind)}
    total: Counter[str] = Counter()
    for data in engines.values():
        total.update({name: n for name, n in data.items() if isinstance(n, int)})
    return engines, total


def undecided(
    history: History, kind: str, needed: Sequence[tuple[str, str]], *, nothing: str
) -> str | None:
    """Why the sums decide nothing: a command that broke, an engine without any of `kind` (told as
    `nothing`), a count that is 0 (each with what that means); else None."""
    broken = history.last("broken")
    if broken is not None:
        return f"the real processes broke: {broken.data['said'].strip().splitlines()[-1][:300]}"
    engines, total = totals(history, kind)
    missing = [name for name in ("sim", "real") if not engines.get(name, {}).get(kind)]
    if missing:
        return f"{nothing}: {', '.join(missing)}"
    return next((what for name, what in needed if not total[name]), None)


def examples(history: History) -> tuple[str, ...]:
    """One of what was wrong, for each engine and metric."""
    return tuple(
        f"{event.data['engine']}, {event.data['metric']}: {told}"
        for event in history.of("example")
        for told in event.data["told"][:1]
    )


class EngineSums:
    """`add` facts: `counts` by name, and `wrong`, pairs of a metric and what was seen.

    Written as an event of `kind`; `died_X` in the counts tells that the fault of that name fired,
    for each X of `deaths`.
    """

    def __init__(self, engine: str, *, kind: str, deaths: Sequence[str]) -> None:
        self.engine = engine
        self.counts: Counter[str] = Counter()
        self._kind = kind
        self._deaths = deaths
        self._wrong: dict[str, list[str]] = {}

    def add(self, facts: Mapping[str, Any]) -> None:
        """One more."""
        self.counts.update(facts["counts"])
        for metric, told in facts["wrong"]:
            examples = self._wrong.setdefault(metric, [])
            if len(examples) < EXAMPLES_MAX:
                examples.append(told)

    def write(self, history: History) -> None:
        """Into the history."""
        history.record(self._kind, engine=self.engine, **dict(self.counts))
        for what in self._deaths:
            if self.counts[f"died_{what}"]:
                history.fired(f"died_{what}", self.counts[f"died_{what}"])
        for metric, told in self._wrong.items():
            history.record("example", engine=self.engine, metric=metric, told=told)
