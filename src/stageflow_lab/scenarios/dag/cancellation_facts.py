"""What one injected cancellation or timeout showed, and the sums of many.

Facts are read off the outside: the run, its journal, its events, the loop's tasks and the ledger
of its stages.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from stageflow import Event, EventType, Run
from stageflow_lab import History

from .cancellable_pipelines import Ledger

Mode = Literal["handle", "caller", "caller_twice", "deadline", "branch"]
MODES: Final[tuple[Mode, ...]] = ("handle", "caller", "caller_twice", "deadline", "branch")
"""`handle.cancel()`; the task that awaits `run()` cancelled, once or again during its cleanup; a
deadline of the run; a timeout of one stage that is isolated."""
HUNG: Final = 1e9
"""The overshoot of a run that never ended."""
EXAMPLES_MAX: Final = 40
"""Violations told in full per engine; the rest is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One injection. `fired` is False when the run, or the stage, was over before it."""

    fired: bool
    orphans: tuple[str, ...] = ()
    """Tasks, threads, processes and handles that outlived the run."""
    scopes: int = 0
    miscleaned: tuple[str, ...] = ()
    """Scopes whose cleanup did not begin exactly once, or was cut off by a second cancellation."""
    swallowed: tuple[str, ...] = ()
    """How a cancellation or timeout got lost."""
    overshoot: float = 0.0
    """From the cancellation or the deadline to the end, over the grace period; on a real loop
    from the start to the end, over (deadline + grace) as a bare timer keeps it."""
    finished: int = 0
    """Results that were there before the injection."""
    lost: tuple[str, ...] = ()
    """Those of them that are not there afterwards, or not the same."""
    siblings: int = 0
    """Stages that do not depend on the one that timed out."""
    harmed: tuple[str, ...] = ()
    """Those of them that have another result than without the timeout."""
    ignoring: int = 0
    """Stages that went on after their cancellation for longer than the grace period."""
    unnamed: tuple[str, ...] = ()
    """Those of them that the runtime does not name as quarantined."""

    def violations(self) -> dict[str, Sequence[str]]:
        """What went wrong, by kind; kinds without anything left out."""
        found = {
            "orphans": self.orphans,
            "miscleaned": self.miscleaned,
            "swallowed": self.swallowed,
            "lost": self.lost,
            "harmed": self.harmed,
            "unnamed": self.unnamed,
        }
        return {kind: what for kind, what in found.items() if what}


class Sums:
    """Adds up the facts of one engine ("sim" or "real") and writes them into a history."""

    def __init__(self, engine: str, history: History) -> None:
        self._engine = engine
        self._history = history
        self._injected: dict[Mode, int] = dict.fromkeys(MODES, 0)
        self._facts: dict[Mode, dict[str, float]] = {
            mode: dict.fromkeys(_COUNTED, 0) | {"overshoot": 0.0} for mode in MODES
        }
        self._overshoots: list[float] = []
        self._examples = 0

    def add(self, mode: Mode, facts: Facts, story: str) -> None:
        """One injection; `story` tells which."""
        self._injected[mode] += 1
        if not facts.fired:
            return
        sums = self._facts[mode]
        sums["fired"] += 1
        for name in ("scopes", "finished", "siblings", "ignoring"):
            sums[name] += getattr(facts, name)
        for name in ("orphans", "miscleaned", "swallowed", "lost", "harmed", "unnamed"):
            sums[name] += len(getattr(facts, name))
        sums["overshoot"] = max(sums["overshoot"], facts.overshoot)
        if self._engine == "real":
            self._overshoots.append(facts.overshoot)
        wrong = facts.violations()
        late = self._engine == "sim" and facts.overshoot > 1.0
        if (wrong or late) and self._examples < EXAMPLES_MAX:
            self._examples += 1
            self._history.record(
                "example",
                engine=self._engine,
                mode=mode,
                story=story,
                overshoot=facts.overshoot,
                wrong={kind: list(what) for kind, what in wrong.items()},
            )

    def write(self) -> None:
        """One `injections` event per mode; for the real loop also every overshoot."""
        for mode in MODES:
            self._history.record(
                "injections",
                engine=self._engine,
                mode=mode,
                injected=self._injected[mode],
                **self._facts[mode],
            )
            if fired := int(self._facts[mode]["fired"]):
                self._history.fired(mode, fired)
        if self._engine == "real":
            self._history.record("overshoots", ratios=sorted(self._overshoots))


_COUNTED: Final = (
    "fired",
    "scopes",
    "finished",
    "siblings",
    "ignoring",
    "orphans",
    "miscleaned",
    "swallowed",
    "lost",
    "harmed",
    "unnamed",
)


def miscleaned(ledger: Ledger) -> tuple[str, ...]:
    """Scopes of the ledger whose cleanup did not run exactly once."""
    wrong = [
        f"{who} cleaned up {times} times"
        for who, times in zip(ledger.scopes, ledger.cleaned, strict=True)
        if times != 1
    ]
    return (*wrong, *(f"{who} was cancelled in its cleanup" for who in ledger.interrupted))


def open_handles(ledger: Ledger) -> tuple[str, ...]:
    """Scopes whose handle is still open."""
    return tuple(f"handle of {ledger.scopes[ticket]}" for ticket in sorted(ledger.open))


def unnamed(ledger: Ledger, quarantined: Collection[str]) -> tuple[str, ...]:
    """Ignoring stages that `quarantined` names neither themselves nor by one of their tasks."""
    stages = {name.partition(".")[0] for name in quarantined}
    return tuple(sorted({who.partition(".")[0] for who in ledger.ignoring} - stages))


def changed(run: Run[Any], values: Mapping[str, Any], names: Collection[str]) -> tuple[str, ...]:
    """Those of `names` whose value in the run is missing, or not the one in `values`."""
    return tuple(sorted(name for name in names if name not in run or run[name] != values[name]))


@dataclass(frozen=True, slots=True)
class Timeline:
    """When the stages of one run began and ended, from its events; seconds of the loop's clock."""

    started_s: Mapping[str, float]
    ended_s: Mapping[str, float]
    ok: frozenset[str]

    @classmethod
    def of(cls, events: Sequence[Event], run: str) -> Timeline:
        """The timeline of `run`; events of its child runs are left out."""
        own = [event for event in events if event.run == run and event.node is not None]
        ends = [event for event in own if event.type is EventType.STAGE_ENDED]
        return cls(
            {e.node or "": e.at_s for e in own if e.type is EventType.STAGE_STARTED},
            {e.node or "": e.at_s for e in ends},
            frozenset(e.node or "" for e in ends if e.status == "ok"),
        )

    @property
    def last_s(self) -> float:
        """When the last stage ended; 0 when none did."""
        return max(self.ended_s.values(), default=0.0)

    def ok_before(self, moment_s: float) -> frozenset[str]:
        """Stages that had ended well before a moment."""
        return frozenset(name for name in self.ok if self.ended_s[name] < moment_s)

    def duration_s(self, name: str) -> float:
        """How long the stage took; 0 when it never began or never ended."""
        if name not in self.started_s or name not in self.ended_s:
            return 0.0
        return self.ended_s[name] - self.started_s[name]
