"""Loops that go nowhere: agents and guards that play 2,000 scripts, most of them livelocks.

What real systems get wrong: agents repeat steps that were done, the most frequent of 14 failure
modes in 1,600 traces of seven frameworks at 15.7% (MAST: Cemri et al., "Why Do Multi-Agent LLM
Systems Fail?", 2025, arXiv:2503.13657); a counter of equal messages misses the same thing in other
words, and one that stops at alike texts cuts off work that only goes slowly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...history import History
from ...metric import Measured, Metric, counted, share
from ...scenario import Judgement, Scenario, Sizes
from ...world import World
from .loop_defects import DEFECTS
from .loop_runs import run_traces

WITHIN = 2
"""Turns past its period in which the claim has a livelock stopped."""

Facts = Mapping[str, Any]


def load(world: World) -> History:
    """Plays every script; nested ones have a loop in each turn of their agent."""
    history = History(world.size)
    run_traces(world, history)
    return history


def check(history: History) -> Judgement:
    """Compares when each loop ended, and how it is told, with its script."""
    loops = [event.data for event in history.of("loop")]
    played = [data for data in loops if "broke" not in data]
    livelocks = [data for data in played if data["livelock"]]
    benign = [data for data in played if not data["livelock"]]
    outer = [data for data in loops if data.get("place") != "inner"]
    told = [data for data in outer if "broke" not in data]
    delays = [_delay(data) for data in livelocks if data["exact"]]
    return Judgement(
        {
            "recall": share(sum(bool(data["stalled"]) for data in livelocks), len(livelocks)),
            "benign_stops": share(sum(map(_is_cut_off, benign)), len(benign)),
            "exact_latest": Measured(max(delays, default=0), n=len(delays)),
            "bound_exceeded": counted(
                sum(data["made"] > data["bound"] for data in played), len(played)
            ),
            "best_returned": share(sum(data["best"] for data in told), len(outer)),
            "accounts_whole": share(sum(data["whole"] for data in told), len(outer)),
            "within_claim": share(
                sum(bool(data["stalled"]) and _delay(data) <= WITHIN for data in livelocks),
                len(livelocks),
            ),
        },
        unknown=_undecided(history, played),
        notes=tuple(_notes(loops)),
    )


def _delay(data: Facts) -> int:
    """Turns past the first period of the livelock."""
    return int(data["made"] - data["begins"] - data["period"])


def _is_cut_off(data: Facts) -> bool:
    """True for an honest loop that did not come to its accepted turn."""
    return bool(data["stalled"]) or data["status"] != "ok"


def _undecided(history: History, played: Sequence[Facts]) -> str | None:
    """Why the load decides nothing, when something it should meet was never met."""
    for kind, livelock in (("livelocks", True), ("benign", False)):
        asked = history.sizes.get(kind, 1)
        if sum(data["livelock"] is livelock for data in played) < asked:
            return f"fewer {kind} were played than were asked for"
    if not any(data["livelock"] and data["exact"] for data in played):
        return "no exact cycle was played"
    if not any(data["nested"] for data in played):
        return "no loop was nested"
    return None


def _notes(loops: Sequence[Facts]) -> Iterator[str]:
    broken = [data for data in loops if "broke" in data]
    if broken:
        yield f"{len(broken)} broke: {broken[0]['broke']}; seed {broken[0]['seed']}"
    played = [data for data in loops if "broke" not in data]
    missed = [data for data in played if data["livelock"] and not data["stalled"]]
    stopped = [data for data in played if not data["livelock"] and _is_cut_off(data)]
    for what, wrong in (("not stopped", missed), ("honest, and stopped", stopped)):
        for family, count in sorted(Counter(data["family"] for data in wrong).items()):
            seed = next(data["seed"] for data in wrong if data["family"] == family)
            yield f"{count} {what}: {family}; seed {seed}"
    late = Counter(data["family"] for data in played if data["stalled"] and _is_late(data))
    all_ = Counter(data["family"] for data in played)
    yield "stopped later than its period and two turns: " + (
        ", ".join(f"{family} {late[family]} of {all_[family]}" for family in sorted(late)) or "none"
    )


def _is_late(data: Facts) -> bool:
    return bool(data["livelock"]) and _delay(data) > WITHIN


SCENARIO = Scenario(
    row="DAG-003",
    claim=(
        "a guard/agent loop that makes no progress is stopped within its period plus two turns,"
        " while slow honest convergence is left alone; the bound is never exceeded."
    ),
    sizes=Sizes(
        quick={"livelocks": 1_200, "benign": 800, "workers": 2},
        full={"livelocks": 60_000, "benign": 40_000, "workers": 2},
        # Fewer honest loops than this can't show a rate below 1%, in an audit either.
        fixed=("benign", "workers"),
        totals={"traces": "livelocks + benign"},
    ),
    metrics=(
        Metric(
            "recall",
            ">=",
            0.97,
            bound="wilson_lower",
            doc="share of livelocks given up by the progress test, and not by the bound",
        ),
        Metric(
            "benign_stops",
            "<=",
            0.01,
            bound="wilson_upper",
            doc="share of honest loops that did not come to the turn that is accepted",
        ),
        Metric(
            "exact_latest",
            "<=",
            2,
            "turns past the period",
            doc="when the latest exact cycle was stopped: period+2 turns after it began",
        ),
        Metric(
            "bound_exceeded",
            "==",
            0,
            "loops",
            doc="loops that made more revisions than their stage allows",
        ),
        Metric(
            "best_returned",
            "==",
            1.0,
            doc="share of runs that return the accepted value, else the best candidate",
        ),
        Metric(
            "accounts_whole",
            "==",
            1.0,
            doc="share of runs whose account has each value sent back, its score, and who said"
            " what",
        ),
        Metric(
            "within_claim",
            ">=",
            0.97,
            gate=False,
            doc="share of all livelocks, paraphrases too, stopped within their period and 2 turns",
        ),
    ),
    sabotages=DEFECTS,
    load=load,
    check=check,
)
