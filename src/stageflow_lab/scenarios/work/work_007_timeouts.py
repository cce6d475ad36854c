"""Thirty kinds of tools that are not over in time, or seem so, and what their caller gets.

What real systems get wrong: a tool that takes a cancellation for a hiccup is waited for; one
cleanup that hangs or raises costs all others; a thread in native code is forgotten, and with it its
place; a child process is killed and its own children live on; what had been streamed is gone; a
tool that works long and says so is killed for silence; a tool below a tool has more time than its
caller.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import asdict
from typing import Any, Final

from stageflow import Context, Pipeline, work
from stageflow_lab import History, Judgement, Measured, Metric, Scenario, Sizes, World, share
from stageflow_lab.metric import counted

from .timeout_defects import DEFECTS
from .timeout_rounds import KINDS, ROUND, STUCK_MAX, Seen, real, simulated, stuck

EXACT_S: Final = 1e-6
"""Virtual time is exact; sums of floats are not."""
KINDS_OF_FAULTS: Final = tuple(KINDS)


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
    sim = [call for engine, call in calls if engine == "sim"]
    taken = sorted(call["took_s"] / call["limit_s"] for engine, call in calls if engine == "real")
    everything = [call for _, call in calls]
    produced = sum(call["produced"] for call in everything)
    beating = [call for call in everything if call["is_fine"]]
    cleanups = [sum(call["is_cleaned"] for call in each["calls"]) for each in rounds]
    late = [call for call in sim if call["took_s"] > call["limit_s"] + EXACT_S]
    broken = [event.data["told"] for event in history.of("broken")]
    processes = sum(call["started"] for call in everything)
    reasons = [event.data["reasons"] for event in history.of("stuck")]
    refused = [one for each in reasons for one in each[STUCK_MAX:]]
    return Judgement(
        {
            "late_virtual": counted(len(late), len(sim)),
            "real_p99": Measured(_p99(taken), n=len(taken)),
            "cleanups": Measured(min(cleanups, default=0), n=len(cleanups)),
            "surviving_processes": counted(sum(c["survived"] for c in everything), processes),
            "chunks_kept": share(sum(call["kept"] for call in everything), produced),
            "heartbeat_killed": counted(sum(not c["is_ok"] for c in beating), len(beating)),
            "budgets_exceeded": counted(
                sum(call["over_budget"] for call in everything),
                sum(call["budgets"] for call in everything),
            ),
            "stuck_refused": share(refused.count("stage.threads_stuck"), len(refused)),
            "ended_ok": counted(
                sum(call["is_ok"] and not call["is_fine"] for call in everything),
                len(everything) - len(beating),
            ),
            "broken": len(broken),
            "kinds": len({call["kind"] for call in everything}),
            "simulated": len(sim),
            "real": len(taken),
        },
        unknown=_unknown(sim, taken, processes, produced),
        notes=(*broken[:5], *(_told(call) for call in late[:5]), *_uncleaned(everything)),
    )


def _p99(ordered: list[float]) -> float:
    """The nearest rank: of fewer than a hundred, the largest."""
    return ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else math.inf


def _told(call: dict[str, Any]) -> str:
    return f"{call['kind']}: {call['took_s']:.3f} s of {call['limit_s']:.3f} s, {call['told']}"


def _uncleaned(calls: list[dict[str, Any]]) -> list[str]:
    missing = dict.fromkeys(call["kind"] for call in calls if not call["is_cleaned"])
    return [f"cleanup missing: {kind}" for kind in list(missing)[:10]]


def _unknown(sim: list[Any], taken: list[float], processes: int, produced: int) -> str | None:
    if not sim or not taken:
        return "no tool was called"
    if not processes:
        return "no child process was started before its time was over"
    return None if produced else "no tool streamed anything"


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
            doc="simulated ones whose caller had no answer by deadline plus grace",
        ),
        Metric(
            "real_p99",
            "<=",
            1.1,
            "deadline plus grace",
            doc="99th percentile of the time to the answer, under a real clock",
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
