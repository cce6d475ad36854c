"""Sums of what was seen in one engine, simulated or real, and examples of what was wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ...history import History

EXAMPLES_MAX = 5
"""Violations that are told in full, for each metric."""


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
