"""What was seen of one key, and the sums of many."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ...history import History
from .orders import ONCE, Reply

EXAMPLES_MAX = 5
"""Violations that are told in full, for each metric."""


@dataclass
class Facts:
    """One key; filled in by whoever drove it, judged by nobody here."""

    order: str
    kind: str
    replies: Counter[str] = field(default_factory=Counter)
    """Values given to duplicates, and how often."""
    other: Counter[str] = field(default_factory=Counter)
    """Reasons of duplicates that were given no value."""
    unknowns: int = 0
    cancelled: int = 0
    crashed: str | None = None
    final: Reply | None = None
    """What a duplicate was told when all was over."""
    refusals: list[str] = field(default_factory=list)
    """Reasons given to duplicates with other parameters."""
    effects: int = 0
    """The most that the receiver counted for one generation of the key."""
    first_effects: int = 0
    """Of the first generation."""
    expired: bool | None = None
    """Whether the key was another effect's after its time; None when nobody looked."""

    def add(self, reply: Reply) -> None:
        if reply.status == "ok":
            self.replies[reply.value] += 1
        else:
            self.other[reply.reason] += 1
            self.unknowns += reply.is_unknown


class Sums:
    """Of all keys of one engine and kind."""

    def __init__(self, engine: str, kind: str) -> None:
        self.engine = engine
        self.kind = kind
        self.counts: Counter[str] = Counter()
        self.most = 0
        self.crashes: Counter[str] = Counter()
        self.wrong: dict[str, list[str]] = {}

    def add(self, facts: Facts) -> None:
        counts = self.counts
        counts["keys"] += 1
        counts["calls"] += sum(facts.replies.values()) + sum(facts.other.values())
        counts["cancelled"] += facts.cancelled
        self.most = max(self.most, facts.effects)
        if facts.crashed is not None:
            self.crashes[facts.crashed] += 1
            counts["died"] += 1
        if facts.effects > 1:
            self._tell("effects_per_key", facts)
        if facts.kind in ONCE:
            counts["owed"] += 1
            counts["applied_once"] += facts.first_effects == 1
            if facts.first_effects != 1:
                self._tell("applied_once", facts)
        given = sum(facts.replies.values())
        counts["replies"] += given
        counts["identical"] += max(facts.replies.values(), default=0)
        if len(facts.replies) > 1:
            self._tell("identical_replies", facts)
        counts["mismatches"] += len(facts.refusals)
        refused = facts.refusals.count("effect.other_parameters")
        counts["refused"] += refused
        if refused < len(facts.refusals):
            self._tell("mismatched_refused", facts)
        if not facts.replies:  # nobody was told a value, so that nobody may take it for done
            counts["unanswered"] += 1
            surfaced = facts.final is not None and facts.final.is_unknown
            counts["surfaced"] += surfaced
            if not surfaced:
                self._tell("unknown_surfaced", facts)
        if facts.expired is not None:
            counts["expiries"] += 1
            counts["expired"] += facts.expired

    def _tell(self, metric: str, facts: Facts) -> None:
        told = self.wrong.setdefault(metric, [])
        if len(told) < EXAMPLES_MAX:
            final = facts.final
            told.append(
                f"{facts.order}: {facts.effects} effects, replies {dict(facts.replies)}, others "
                f"{dict(facts.other)}, crash {facts.crashed}, refusals {facts.refusals}, final "
                f"{None if final is None else (final.status, final.reason, final.state)}"
            )

    def write(self, history: History) -> None:
        history.record(
            "keys", engine=self.engine, kind=self.kind, most=self.most, **dict(self.counts)
        )
        for fault, times in {
            **self.crashes,
            "cancelled": self.counts["cancelled"],
            "expired": self.counts["expiries"],
        }.items():
            if times:
                history.fired(fault, times)
        for metric, told in self.wrong.items():
            history.record("example", engine=self.engine, kind=self.kind, metric=metric, told=told)
