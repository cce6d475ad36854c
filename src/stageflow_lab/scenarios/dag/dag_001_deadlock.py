"""Stages that wait for one another: 2,000 graphs of waits, most with one planted cycle.

What real systems get wrong: only declared graphs are looked at, so that agents which wait for each
other's messages, locks or child runs hang until a timeout names nobody; a wait for any of several
is taken for a wait for all, which cries wolf; and what several machines said at different moments
is taken for one moment (phantom deadlocks: Knapp, "Deadlock Detection in Distributed Databases",
ACM Computing Surveys 19(4), 1987; Chandy, Misra and Haas, "Distributed Deadlock Detection", ACM
TOCS 1(2), 1983).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stageflow import Context, Pipeline, Runtime, agent

from ...history import History
from ...metric import Measured, Metric, counted, share
from ...scenario import Judgement, Scenario, Sizes
from ...world import World
from . import simulated_waits, wait_process
from .deadlock_defects import DEFECTS
from .static_cycles import build_all
from .wait_graphs import ESCAPES, SAME_RUN

Facts = Mapping[str, Any]
SHOWN = 5


def load(world: World) -> History:
    """Pipelines that are only built, plans in real processes, then plans in simulation."""
    history = History(world.size)
    build_all(world, history)
    wait_process.run_plans(world, history)
    simulated_waits.run_plans(world, history)
    return history


def ordinary_use(world: World) -> None:
    """Two stages, a message and a pool."""

    @agent
    async def asks(ctx: Context) -> str:
        async with ctx.pool("one"):
            return str((await ctx.receive("word", "tells"))["tells"])

    @agent
    async def tells(ctx: Context) -> None:
        await ctx.send("word", "there")

    async def main() -> None:
        async with Runtime(pools={"one": 1}) as runtime:
            pipeline = Pipeline("plain", [asks, tells], outputs=asks).using(runtime=runtime)
            assert (await pipeline.run()).output == "there"

    asyncio.run(main())


# -- check ---------------------------------------------------------------------------------------


def check(history: History) -> Judgement:
    """Compares what was reported in each world with its plan."""
    worlds = [event.data for event in history.of("world")]
    whole = [data for data in worlds if "broke" not in data]
    planted = [data for data in whole if data["planted"]]
    reports = sum(data["reports"] for data in whole)
    static = [event.data for event in history.of("static")]
    others = sum(data["others"] for data in whole) + len(worlds) - len(whole)
    return Judgement(
        {
            "recall": share(
                sum(data["reports"] > 0 and not data["missed"] for data in planted),
                sum(bool(data["planted"]) for data in worlds),
            ),
            "false_positives": counted(sum(data["false"] for data in whole), len(whole)),
            "sets_equal": share(
                sum(data["exact"] for data in planted), sum(data["reports"] for data in planted)
            ),
            "delay_virtual": _latest(planted, "sim"),
            "delay_real": _latest(planted, "real"),
            "others_finish": share(sum(data["finished"] for data in whole), others),
            "reports_whole": share(sum(data["whole"] for data in whole), reports),
            "static_refused": share(sum(data["refused"] for data in static), len(static)),
            "static_named": share(
                sum(data["named"] for data in static if data["refused"]),
                sum(bool(data["refused"]) for data in static),
            ),
            "static_allowed": share(sum(data["allowed"] for data in static), len(static)),
            "cycles_across": sum(data["shared"] > 0 and data["delay"] > 0 for data in planted),
        },
        unknown=_undecided(history, whole),
        notes=tuple(_notes(worlds)),
    )


def _latest(planted: Sequence[Facts], engine: str) -> Measured:
    delays = [data["delay"] for data in planted if data["engine"] == engine and data["reports"]]
    return Measured(max(delays, default=0.0), n=len(delays))


def _undecided(history: History, whole: Sequence[Facts]) -> str | None:
    """Why the load decides nothing, when something it should meet was never met."""
    broken = history.last("broken")
    if broken is not None:
        return f"the real processes broke: {broken.data['said'].strip().splitlines()[-1][:300]}"
    if any(not data["happened"] for data in whole):
        return "a planted cycle was never closed"
    for engine in ("sim", "real"):
        if not any(data["engine"] == engine and data["planted"] for data in whole):
            return f"no planted cycle was played: {engine}"
    met = {kind for data in whole for kind in data["kinds"]}
    missing = [kind for kind in SAME_RUN if kind not in met]
    met = {data["escape"] for data in whole}
    missing += [escape for escape in ESCAPES if escape not in met]
    if not any(data["mute"] and data["planted"] and data["hosts"] == 1 for data in whole):
        missing.append("a cycle of pools alone")
    return f"never met: {', '.join(missing)}" if missing else None


def _notes(worlds: Sequence[Facts]) -> Iterator[str]:
    broken = [data for data in worlds if "broke" in data]
    if broken:
        yield f"{len(broken)} broke: {broken[0]['broke']}; seed {broken[0]['seed']}"
    whole = [data for data in worlds if "broke" not in data]
    for what, wrong in (
        ("missed", [data for data in whole if data["missed"]]),
        ("false alarms", [data for data in whole if data["false"]]),
        ("other sets", [data for data in whole if data["unlike"]]),
        ("left unfinished", [data for data in whole if data["finished"] < data["others"]]),
    ):
        if wrong:
            seeds = ", ".join(f"{data['engine']} {data['seed']}" for data in wrong[:SHOWN])
            yield f"{len(wrong)} worlds, {what}; seeds {seeds}"
    found = Counter(data["engine"] for data in whole if data["planted"])
    yield "planted: " + ", ".join(f"{count:,} {engine}" for engine, count in found.items())
    escapes = Counter(data["escape"] for data in whole if not data["planted"])
    yield "controls: " + ", ".join(f"{count:,} {name}" for name, count in escapes.items())


SCENARIO = Scenario(
    row="DAG-001",
    claim=(
        "every static cycle is refused at build and every runtime wait cycle is found, named"
        " exactly and broken; no false alarm."
    ),
    sizes=Sizes(
        quick={"sim": 2_000, "real": 20, "static": 200, "processes": 3, "workers": 2},
        full={"sim": 200_000, "real": 200, "static": 2_000, "processes": 3, "workers": 2},
        fixed=("processes", "workers"),
    ),
    metrics=(
        Metric(
            "recall",
            "==",
            1.0,
            doc="share of worlds with a planted cycle in which every cycle was found; all is 100%",
        ),
        Metric(
            "false_positives",
            "==",
            0,
            "waits",
            doc="waits that were ended though they, or what was left of their cycle, could go on",
        ),
        Metric(
            "sets_equal",
            "==",
            1.0,
            doc="share of reports whose members are those of the cycle, no more and no fewer",
        ),
        Metric(
            "delay_virtual",
            "<=",
            1,
            "scan intervals",
            doc="the longest time in simulation from the close of a cycle to the end of a wait",
        ),
        Metric(
            "delay_real",
            "<=",
            2,
            "scan intervals",
            doc="the same in real processes, over PostgreSQL",
        ),
        Metric(
            "others_finish",
            "==",
            1.0,
            doc="share of stages whose wait was not ended that ended ok",
        ),
        Metric(
            "reports_whole",
            "==",
            1.0,
            doc="share of reports with what each member holds and awaits, a victim, and its policy",
        ),
        Metric("static_refused", "==", 1.0, doc="share of wired cycles that the build refuses"),
        Metric("static_named", "==", 1.0, doc="share of those whose stages the error names"),
        Metric("static_allowed", "==", 1.0, doc="share of pipelines without the cycle that build"),
        Metric("cycles_across", ">=", 400, "cycles", gate=False),
    ),
    components=("service:postgresql", "python:psycopg"),
    sabotages=DEFECTS,
    load=load,
    check=check,
    plain=ordinary_use,
    wall_limit_s={"quick": 600.0, "full": 6 * 3_600.0, "soak": 9 * 3_600.0},
)
