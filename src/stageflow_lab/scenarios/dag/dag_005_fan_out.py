"""Width: fan-outs of 50 to 20,000 stages, some failing, timed beside a task group, and weighed.

What real systems get wrong: every completion looks through all stages for ready ones, so that
width is paid for squared; each branch is given a copy of what all of them share; the first branch
that fails ends its siblings, and what they had done is lost. The floor is asyncio's own group:
https://docs.python.org/3/library/asyncio-task.html#task-groups.

Beside the floor, "1 ms stages" are judged twice: as stages that wait 1 ms, at 5,000 and wider,
where the catalogue measures the time of a stage, and as stages that work for 1 ms, in narrower
fan-outs. Below 5,000 stages that wait are told only: there the run itself, about 0.3 ms, is a large
part of so short a wait.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from ...history import History
from ...metric import Measured, Metric, share
from ...ratio import Side, ratio_of
from ...scenario import Judgement, Scenario, Sizes
from ...world import World
from .fan_out_costs import WIDE, time_floors, time_peer, time_widths, weigh
from .fan_out_defects import DEFECTS
from .fan_out_runs import BRANCH_FAILS, run_concurrent, run_mapped, run_widths
from .peer_process import PEER

SECTIONS: Final[tuple[Callable[[World, History], None], ...]] = (
    run_widths,
    run_concurrent,
    run_mapped,
    weigh,
    time_widths,
    time_floors,
    time_peer,
)


def load(world: World) -> History:
    """Every section in turn."""
    history = History(world.size)
    for section in SECTIONS:
        section(world, history)
    return history


def check(history: History) -> Judgement:
    """Judges times as ratios, everything else as counts; what did not happen stays unmeasured."""
    runs = [event.data for event in history.of("fan_out")]
    metrics: dict[str, Measured] = {
        "outputs_present": share(
            sum(min(run["present"], run["owed"]) for run in runs), sum(run["owed"] for run in runs)
        ),
        "failures_reported": share(
            sum(run["reported"] for run in runs), sum(run["failing"] for run in runs)
        ),
        "per_stage_ratio": _worst(history, "widths_noop"),
        "per_stage_ratio_1ms": _worst(history, "widths_waits"),
        "floor_ratio_noop": _worst(history, "floor_noop"),
        "floor_ratio_1ms": _worst(history, "floor_waits", judged_from=WIDE),
        "peak_bytes_per_stage": _peak(history),
        "floor_ratio_1ms_busy": _worst(history, "floor_busy"),
        "floor_ratio_mapped": _worst(history, "floor_mapped"),
    }
    peer = _worst(history, "peer", side="lower")
    if not peer.empty:
        metrics["peer_throughput_ratio"] = peer
    return Judgement(metrics, unknown=_undecided(history), notes=tuple(_notes(history)))


def _worst(history: History, what: str, *, side: Side = "upper", judged_from: int = 0) -> Measured:
    """The ratio at that width of `judged_from` and more at which it is worst; the note tells it at
    every width."""
    widths: dict[int, list[tuple[float, float]]] = {}
    for event in history.of("timed"):
        if event.data["what"] == what:
            pair = (event.data["subject_s"], event.data["floor_s"])
            widths.setdefault(event.data["width"], []).append(pair)
    if not widths:
        return Measured(math.nan, n=0, note="nothing was timed")
    found = {width: ratio_of(pairs, side=side) for width, pairs in widths.items()}
    unjudged = [each for each in found.values() if each.empty]
    if unjudged:
        return unjudged[0]
    judged = [each for width, each in found.items() if width >= judged_from]
    if not judged:
        return Measured(math.nan, n=0, note=f"nothing was timed at {judged_from:,}")
    worst = max(judged, key=lambda each: each.bound or 0.0)
    if len(found) == 1:
        return worst
    told = ", ".join(f"{each.value:.3g} at {width:,}" for width, each in sorted(found.items()))
    return Measured(worst.value, n=worst.n, bound=worst.bound, note=told)


def _peak(history: History) -> Measured:
    weights = [
        (event.data["peak_bytes"] / event.data["width"], event.data["width"])
        for event in history.of("weighed")
        if event.data["ok"]
    ]
    if not weights:
        return Measured(math.nan, n=0, note="nothing was weighed")
    told = ", ".join(f"{weight:,.0f} at {width:,}" for weight, width in weights)
    return Measured(max(weight for weight, _ in weights), n=len(weights), note=told)


def _undecided(history: History) -> str | None:
    how = {event.data["how"] for event in history.of("fan_out")}
    missing = {"static", "failing", "concurrent", "mapped"} - how
    return f"never happened: fan-outs that are {', '.join(sorted(missing))}" if missing else None


def _notes(history: History) -> Iterator[str]:
    runs = [event.data for event in history.of("fan_out")]
    wrong = Counter(
        f"{run['how']} of {run['width']:,} ended as {run['status']} with"
        f" {run['owed'] - run['present']:,} outputs missing"
        for run in runs
        if run["present"] != run["owed"]
    )
    yield from (f"{count} fan-outs {what}" for what, count in sorted(wrong.items()))
    for what, title in (("widths_noop", "no-op"), ("widths_waits", "1 ms")):
        pairs = [event.data for event in history.of("timed") if event.data["what"] == what]
        if pairs:
            wide = sorted(pair["subject_s"] for pair in pairs)[len(pairs) // 2]
            yield f"{title} stages: {wide * 1e6:.1f} µs of CPU a stage at 5,000"


SCENARIO = Scenario(
    row="DAG-005",
    claim=("500 to 20,000 parallel stages complete with all outputs, at constant cost per stage."),
    sizes=Sizes(
        quick={
            "widths": (50, 500, 5_000),
            "concurrent": 20,
            "concurrent_width": 500,
            "rounds": 70,
        },
        full={
            "widths": (50, 500, 5_000, 20_000),
            "concurrent": 100,
            "concurrent_width": 500,
            "rounds": 210,
        },
        fixed=("concurrent_width", "rounds"),
    ),
    metrics=(
        Metric(
            "outputs_present",
            "==",
            1.0,
            doc="values of branches that did not fail, each the branch's own",
        ),
        Metric(
            "per_stage_ratio",
            "<=",
            1.3,
            "times",
            doc="CPU time a no-op stage at 5,000 side by side, as a multiple of that at 50",
        ),
        Metric("per_stage_ratio_1ms", "<=", 1.3, "times", doc="the same, of stages that wait 1 ms"),
        Metric(
            "floor_ratio_noop",
            "<=",
            30,
            "times",
            doc="CPU time of a bare TaskGroup, no-op stages, at the worst width",
        ),
        Metric(
            "floor_ratio_1ms",
            "<=",
            1.3,
            "times",
            doc="wall time of a bare TaskGroup, stages that wait 1 ms, at the worst width of 5,000 "
            "and more",
        ),
        Metric(
            "peak_bytes_per_stage",
            "<=",
            8_192,
            "bytes",
            doc="the most that building and running a fan-out holds at a time",
        ),
        Metric(
            "peer_throughput_ratio",
            ">=",
            2,
            "times",
            component=PEER,
            doc="no-op stages a CPU second at width 500, as a multiple of stageflow-core 1.2.0",
        ),
        Metric(
            "failures_reported",
            "==",
            1.0,
            doc="failing branches that the partial run tells by name, with what they raised",
        ),
        Metric(
            "floor_ratio_1ms_busy",
            "<=",
            1.3,
            "times",
            doc="CPU time of a bare TaskGroup, stages that work for 1 ms, at the worst width",
        ),
        Metric(
            "floor_ratio_mapped",
            "<=",
            30,
            "times",
            gate=False,
            doc="CPU time of a bare TaskGroup, a child run of ctx.map a branch",
        ),
    ),
    sabotages=DEFECTS,
    load=load,
    check=check,
    faults=(BRANCH_FAILS,),
)
