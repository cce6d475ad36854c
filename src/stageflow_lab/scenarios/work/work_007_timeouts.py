"""Thirty kinds of tools that are not over in time, or seem so, and what their caller gets.

What real systems get wrong: a tool that takes a cancellation for a hiccup is waited for; one
cleanup that hangs or raises costs all others; a thread in native code is forgotten, and with it its
place; a child process is killed and its own children live on; what had been streamed is gone; a
tool that works long and says so is killed for silence; a tool below a tool has more time than its
caller.

All runs are journalled. What the journal itself takes is told apart by when each end was given to
it and when it was durable; no fixed time is allowed for it, in which a late tool could hide.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from stageflow import Context, Pipeline, work
from stageflow.sim import DiskFaults
from stageflow_lab import History, Judgement, Measured, Metric, Scenario, Sizes, World, share
from stageflow_lab.metric import counted

from .timeout_defects import DEFECTS
from .timeout_rounds import KINDS, ROUND, STUCK_MAX, Seen, real, simulated, stuck

EXACT_S: Final = 1e-6
"""Virtual time is exact; sums of floats are not."""
WRITTEN_S: Final = 2 * DiskFaults().fsync_s[1]
"""The fsync that is under way when an end is written, and the one after it, which makes it durable;
one end of a call is written past its time, that of its outermost run."""
SUMMED: Final = ("produced", "kept", "started", "survived", "over_budget", "budgets")
KINDS_OF_FAULTS: Final = tuple(KINDS)
Call = Mapping[str, Any]
"""What a `Seen` has, by name."""


def load(world: World) -> History:
    """Simulated rounds, real ones, and calls that use up the threads which may be stuck."""
    history = History(world.size)
    rounds = math.ceil(world.size["sim"] / ROUND)
    for number in range(rounds):
        _keep(history, "sim", simulated(world.seed_for("sim", number)))
        world.progress(number + 1, rounds, "simulated rounds")
    rounds = math.ceil(world.size["real"] / ROUND)
    for number in range(rounds):
        place = world.scratch / f"round{number}"
        place.mkdir()
        _keep(history, "real", real(world.seed_for("real", number), place))
        world.progress(number + 1, rounds, "real rounds")
    history.record("stuck", reasons=stuck(world.seed_for("stuck")))
    return history


def _keep(history: History, engine: str, seen: list[Seen] | str) -> None:
    if isinstance(seen, str):
        history.record("broken", engine=engine, told=seen)
        return
    for call in seen:
        history.fired(call.kind)
    history.record("round", engine=engine, calls=[asdict(call) for call in seen])


def ordinary_use(world: World) -> None:
    """A tool that ends before its time."""

    @work(timeout=5.0, heartbeat=1.0, keyed=True)
    async def tool(ctx: Context) -> str:
        ctx.heartbeat()
        return "done"

    async def main() -> Any:
        return await Pipeline("tool", [tool], outputs=tool).run()

    run = asyncio.run(main())
    assert run.output == "done", run.status


# -- check -----------------------------------------------------------------------------------------


def check(history: History) -> Judgement:
    """Sums over all calls; the slowest of a hundred real ones, and the round with the fewest
    cleanups, stand for the others."""
    rounds = [event.data for event in history.of("round")]
    calls = [(each["engine"], call) for each in rounds for call in each["calls"]]
    everything = [call for _, call in calls]
    sim, real = ([call for of, call in calls if of == engine] for engine in ("sim", "real"))
    beating = [call for call in everything if call["is_fine"]]
    cleanups = [sum(call["is_cleaned"] for call in each["calls"]) for each in rounds]
    broken = [event.data["told"] for event in history.of("broken")]
    refused = [one for event in history.of("stuck") for one in event.data["reasons"][STUCK_MAX:]]
    sums = {name: sum(call[name] for call in everything) for name in SUMMED}
    return Judgement(
        {
            **_punctual(sim, real),
            "cleanups": Measured(min(cleanups, default=0), n=len(cleanups)),
            "surviving_processes": counted(sums["survived"], sums["started"]),
            "chunks_kept": share(sums["kept"], sums["produced"]),
            "heartbeat_killed": counted(sum(not c["is_ok"] for c in beating), len(beating)),
            "budgets_exceeded": counted(sums["over_budget"], sums["budgets"]),
            "stuck_refused": share(refused.count("stage.threads_stuck"), len(refused)),
            "ended_ok": counted(
                sum(call["is_ok"] and not call["is_fine"] for call in everything),
                len(everything) - len(beating),
            ),
            "broken": len(broken),
            "kinds": len({call["kind"] for call in everything}),
            "simulated": len(sim),
            "real": len(real),
        },
        unknown=_unknown(sim, real, sums),
        notes=(*broken[:5], *_told(sim), *_uncleaned(everything)),
    )


def _punctual(sim: Sequence[Call], real: Sequence[Call]) -> dict[str, Measured]:
    taken = sorted(call["took_s"] / call["limit_s"] for call in real)
    everything = (*sim, *real)
    return {
        "late_virtual": counted(sum(is_late(call) for call in sim), len(sim)),
        "written_past": Measured(max(map(written_past_s, sim), default=math.inf), n=len(sim)),
        "answered_early": counted(
            sum(not call["is_durable"] for call in everything), len(everything)
        ),
        "real_p99": Measured(_p99(taken), n=len(taken)),
    }


def is_late(call: Call) -> bool:
    """Its caller waited past its time for anything else than its journal."""
    return overdue_s(call) > EXACT_S


def written_past_s(call: Call) -> float:
    """How long past its time a caller waited only for ends to be written."""
    past_s: float = max(call["took_s"] - _by_s(call), 0.0)
    return past_s - overdue_s(call)


def overdue_s(call: Call) -> float:
    """How long past its time a caller waited while no end of its runs was being written."""
    by_s, overdue = _by_s(call), 0.0
    for start_s, end_s in (*sorted(call["ends"]), (call["took_s"], call["took_s"])):
        overdue += max(start_s - by_s, 0.0)
        by_s = max(by_s, end_s)
    return overdue


def _by_s(call: Call) -> float:
    """When its caller must have its answer. As its stage's, its time counts from when the run's
    beginning was durable."""
    by_s: float = call["opened_s"] + call["limit_s"]
    return by_s


def _p99(ordered: list[float]) -> float:
    """The nearest rank: of fewer than a hundred, the largest."""
    return ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else math.inf


def _told(calls: Sequence[Call]) -> list[str]:
    """Of the first calls that were late."""
    return [
        f"{call['kind']}: {call['took_s']:.6f} s of {call['limit_s']:.3f} s, "
        f"{overdue_s(call):.6f} s of them overdue, {call['told']}"
        for call in calls
        if is_late(call)
    ][:5]


def _uncleaned(calls: Sequence[Call]) -> list[str]:
    missing = dict.fromkeys(call["kind"] for call in calls if not call["is_cleaned"])
    return [f"cleanup missing: {kind}" for kind in list(missing)[:10]]


def _unknown(sim: Sequence[Call], real: Sequence[Call], sums: Mapping[str, int]) -> str | None:
    if not sim or not real:
        return "no tool was called"
    for calls, which in ((sim, "simulated"), (real, "real")):
        if not any(end_s > start_s for call in calls for start_s, end_s in call["ends"]):
            return f"no {which} run was journalled, or its journal took no time"
    if not sums["started"]:
        return "no child process was started before its time was over"
    return None if sums["produced"] else "no tool streamed anything"


SCENARIO = Scenario(
    row="WORK-007",
    claim="a caller gets its answer by deadline plus grace from any tool, all cleanups run, and "
    "what streamed is kept.",
    sizes=Sizes(quick={"sim": 3_000, "real": 90}, full={"sim": 100_000, "real": 900}),
    metrics=(
        Metric(
            "late_virtual",
            "==",
            0,
            "calls",
            doc="simulated ones whose caller had no answer by deadline plus grace, but for the "
            "time in which the run's end was being written",
        ),
        Metric(
            "written_past",
            "<=",
            WRITTEN_S,
            "s",
            doc="the most that one simulated caller waited past that for the journal alone: two "
            "fsyncs",
        ),
        Metric(
            "answered_early",
            "==",
            0,
            "calls",
            doc="whose run's end was not durable when the caller had its answer",
        ),
        Metric(
            "real_p99",
            "<=",
            1.1,
            "deadline plus grace",
            doc="99th percentile of the time to the answer, under a real clock and journalled in "
            "SQLite: what that takes is in it",
        ),
        Metric(
            "cleanups",
            "==",
            30,
            "per round",
            doc="of thirty tools, those all of whose cleanups ran; the round with the fewest",
        ),
        Metric(
            "surviving_processes",
            "==",
            0,
            "processes",
            doc="that lived when the caller had its answer",
        ),
        Metric(
            "chunks_kept",
            "==",
            1.0,
            doc="items yielded or emitted before the cut that the account has, and the one read "
            "back from the journal",
        ),
        Metric("heartbeat_killed", "==", 0, "calls", doc="of tools that gave their signs in time"),
        Metric(
            "budgets_exceeded",
            "==",
            0,
            "calls",
            doc="below a tool, with more time than was left of its own",
        ),
        Metric(
            "stuck_refused",
            "==",
            1.0,
            doc="calls past the limit of stuck threads that were refused by its code",
        ),
        Metric("ended_ok", "==", 0, "calls", doc="that were out of time and passed as done"),
        Metric("broken", "==", 0, "rounds", doc="simulated ones that did not come to their end"),
        Metric("kinds", ">=", 30, "kinds", gate=False),
        Metric("simulated", ">=", 3_000, "calls", gate=False),
        Metric("real", ">=", 90, "calls", gate=False),
    ),
    faults=KINDS_OF_FAULTS,
    marks=(
        "attempt_killed",
        "chunks_kept",
        "heartbeat_missed",
        "process_tree_ended",
        "thread_refused",
        "thread_stuck",
    ),
    sabotages=DEFECTS,
    load=load,
    check=check,
    plain=ordinary_use,
    wall_limit_s={"quick": 300.0, "full": 3 * 3_600.0, "soak": 6 * 3_600.0},
)
