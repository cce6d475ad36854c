"""Limits of tools: per tool, per tenant and over all, in one process and in several, under stops.

What real systems get wrong: a semaphore whose waiter is stopped in the moment in which it is served
keeps the permit for ever, or passes on a wake-up to nobody (CPython gh-90155); each process counts
for itself; two that read, think and write at one moment, of which one update is lost; a holder
that died keeps its permit until somebody restarts the server; a tool that calls itself waits for
itself.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from stageflow import Context, Pipeline, Pool, Runtime, SharedPool, agent
from stageflow.journal.pools import MemoryPools
from stageflow.sim import Sim, trial
from stageflow_lab import (
    History,
    Judgement,
    Measured,
    Metric,
    Scenario,
    Sizes,
    World,
    counted,
    share,
)

from .limit_defects import DEFECTS
from .limit_facts import plain
from .limit_rounds import Plan, rounds_command
from .limit_schedules import UPDATES, Seen, followed

SHARED_EVERY: Final = 10
"""One in so many schedules has its limits in a store of several processes."""
LOOK_S: Final = 0.25
"""Within which a unit whose lease has ended is seen by whoever waits for it."""
NUMBERS: Final = ("calls", "grants", "exceeded", "overtaken", "pairs")


def load(world: World) -> History:
    """Real processes in one process of their own, simulations beside them in this one."""
    history = History(world.size)
    folder = world.scratch / "real"
    folder.mkdir()
    plan = Plan(
        seed=world.seed_for("real"),
        seconds=world.size["seconds"],
        kills=world.size["kills"],
        processes=world.size["processes"],
        folder=str(folder),
        sabotage=world.sabotage,
    )
    with (folder / "errors").open("w+b") as errors:
        rounds = subprocess.Popen(rounds_command(plan), stdout=subprocess.PIPE, stderr=errors)
        try:
            _simulate(world, history)
            _reenter(world, history)
            out, _ = rounds.communicate()
        finally:
            rounds.terminate()
            rounds.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    if rounds.returncode:
        history.record("broken", said=said[-2_000:] or f"it ended with {rounds.returncode}")
    for text in out.decode().splitlines():
        _keep_round(history, json.loads(text))
    return history


def _simulate(world: World, history: History) -> None:
    schedules = world.size["schedules"]
    least, more = divmod(world.size["cancels"], schedules)
    sums = {name: Sums(name) for name in ("sim", "sim shared")}
    for number in range(schedules):
        is_shared = number % SHARED_EVERY == 0
        # Some meet an agent that has ended, so one more is planned than is needed.
        cancels = least + 2 + (number < more)
        seed = world.seed_for("schedule", number)
        seen = followed(seed, cancels=cancels, is_shared=is_shared)
        sums["sim shared" if is_shared else "sim"].add(seen)
        world.progress(number + 1, schedules, "schedules")
    for each in sums.values():
        each.write(history)


class Sums:
    """Of all schedules of one engine."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.counts: Counter[str] = Counter()
        self.seconds = {"busy_unit_s": 0.0, "idle_unit_s": 0.0}
        self.places: Counter[str] = Counter()
        self.told: list[str] = []
        self.broke = ""

    def add(self, seen: Seen) -> None:
        facts = plain(seen.facts)
        if seen.broke:
            self.broke = self.broke or seen.broke
            self.counts["broke"] += 1
            return
        self.counts.update({name: facts[name] for name in NUMBERS})
        self.counts.update({f"full_{name}": n for name, n in facts["reached"].items()})
        self.counts["rounds"] += 1
        self.counts["leaked"] += seen.leaked
        self.counts["lost"] += seen.done - seen.kept
        self.counts["updates"] += seen.done
        self.counts["whole"] += seen.kept == seen.done and seen.done >= UPDATES
        for name in self.seconds:
            self.seconds[name] += facts[name]
        self.places += seen.places
        self.told += facts["told"][: max(0, 5 - len(self.told))]

    def write(self, history: History) -> None:
        _keep(history, self.engine, self.counts, self.seconds, self.places, self.told)
        if self.broke:
            history.record("story", engine=self.engine, told=self.broke)


def _keep_round(history: History, seen: Mapping[str, Any]) -> None:
    """What the real processes saw, of one store."""
    counts = Counter({name: seen[name] for name in NUMBERS})
    counts.update({f"full_{name}": n for name, n in seen["reached"].items()})
    counts["leaked"] = seen["held"] + sum(each["held"] for each in seen["crashes"])
    for done, kept in seen["states"]:
        counts["rounds"] += 1
        counts["updates"] += done
        counts["lost"] += done - kept
        counts["whole"] += kept == done and done >= UPDATES
    seconds = {name: seen[name] for name in ("busy_unit_s", "idle_unit_s")}
    _keep(history, f"real {seen['store']}", counts, seconds, seen["places"], seen["told"])
    for crash in seen["crashes"]:
        history.record("crash", store=seen["store"], **crash)
        history.fired("crashed_holder")


def _keep(
    history: History,
    engine: str,
    counts: Mapping[str, int],
    seconds: Mapping[str, float],
    places: Mapping[str, int],
    told: list[str],
) -> None:
    cancels = sum(places.values())
    history.record("calls", engine=engine, told=told, cancels=cancels, **counts, **seconds)
    for place, times in places.items():
        history.fired(place, times)


# -- a tool that calls itself --------------------------------------------------------------------


def _reenter(world: World, history: History) -> None:
    """Tools that come back to themselves, directly and through a child, at each depth."""
    for number in range(world.size["reentries"]):
        depth, is_shared = number % 4, bool(number // 4 % 2)

        async def main(sim: Sim, depth: int = depth, is_shared: bool = is_shared) -> bool:
            return await _refused(depth, is_shared=is_shared)

        result: Any = trial(main, seed=world.seed_for("reentry", number))
        history.record("reentry", depth=depth, is_shared=is_shared, refused=bool(result.returned))


async def _refused(depth: int, *, is_shared: bool) -> bool:
    """Whether the innermost of `depth` + 1 runs is refused at once, with everybody in between."""
    kind = SharedPool if is_shared else Pool
    loop = asyncio.get_running_loop()
    began_s = loop.time()

    async def innermost(ctx: Context) -> str:
        async with ctx.pool("tool"), ctx.pool("tool"):
            return "had it twice"

    def around(inner: Pipeline[Any], number: int) -> Pipeline[Any]:
        async def calls(ctx: Context) -> str:
            if number < depth:
                return str(await ctx.run(inner, key="k"))
            async with ctx.pool("tool"):
                return str(await ctx.run(inner, key="k"))

        stage = agent(calls, name=f"level{number}", timeout=30.0)
        return Pipeline(f"p{number}", [stage], outputs=stage)

    async def asks(ctx: Context) -> str:
        async with ctx.pool("tool"):
            return "had it"

    stage = agent(asks if depth else innermost, name="level0", timeout=30.0)
    pipeline: Pipeline[Any] = Pipeline("p0", [stage], outputs=stage)
    for number in range(1, depth + 1):
        pipeline = around(pipeline, number)
    async with Runtime(
        pools={"all": kind(4), "tool": kind(1, within="all")},
        shared_pools=MemoryPools() if is_shared else None,
    ) as runtime:
        run = await pipeline.using(runtime=runtime).run()
        found = list(runtime.pools.deadlocks)
    if run.status != "failed" or loop.time() - began_s > 1.0 or len(found) != 1:
        return False
    names = {each.node for each in found[0].members}
    return names == {f"level{number}" for number in range(depth + 1)}


def ordinary_use(world: World) -> None:
    """A tool with a limit for each tenant, called twice."""

    async def main() -> None:
        @agent
        async def calls(ctx: Context) -> str:
            async with ctx.pool("search"):
                return "found"

        runtime = Runtime(pools={"tools": 4, "search": Pool(2, per_tenant=1, within="tools")})
        desk = Pipeline("p", [calls], outputs=calls).using(runtime=runtime)
        runs = [await desk.run() for _ in range(2)]
        assert [run.output for run in runs] == ["found", "found"], runs

    asyncio.run(main())


# -- check ---------------------------------------------------------------------------------------


def check(history: History) -> Judgement:
    """Sums over both engines and every store; the worst utilization of them."""
    each = [event.data for event in history.of("calls")]
    total: Counter[str] = Counter()
    for data in each:
        total.update({name: n for name, n in data.items() if isinstance(n, int)})
    crashes = [event.data for event in history.of("crash")]
    back = [data["back_s"] / data["lease_s"] for data in crashes]
    in_time = sum(data["back_s"] <= data["lease_s"] + LOOK_S for data in crashes)
    reentries = [event.data["refused"] for event in history.of("reentry")]
    real = [data for data in each if str(data["engine"]).startswith("real")]
    return Judgement(
        {
            "limit_exceeded": counted(total["exceeded"], total["grants"]),
            "permits_leaked": counted(total["leaked"], total["cancels"]),
            "utilization": _utilization(each),
            "overtaken": counted(total["overtaken"], total["pairs"]),
            "updates_kept": share(total["whole"], total["rounds"]),
            "leases_back": share(in_time, len(crashes)),
            "reentries_refused": share(sum(reentries), len(reentries)),
            "schedules_broken": counted(total["broke"], total["broke"] + total["rounds"]),
            "schedules": sum(
                data.get("rounds", 0) for data in each if str(data["engine"]).startswith("sim")
            ),
            "cancels": total["cancels"],
            "cancels_real": sum(data["cancels"] for data in real),
            "grants_real": sum(data["grants"] for data in real),
            "slowest_lease": Measured(max(back, default=0.0), n=len(back)),
        },
        unknown=_undecided(history, each, total),
        notes=(
            *(f"{data['engine']}: {text}" for data in each for text in data["told"][:1]),
            *(f"{data['engine']}: utilization {_used(data):.4f}" for data in each),
            *(f"{e.data['engine']}: {e.data['told']}" for e in history.of("story")),
        ),
    )


def _used(data: Mapping[str, Any]) -> float:
    known = data["busy_unit_s"] + data["idle_unit_s"]
    return float(data["busy_unit_s"] / known) if known else float("nan")


def _utilization(each: list[Mapping[str, Any]]) -> Measured:
    """Of the engine that is the worst: one that is idle is not made up for by the others."""
    known = [data for data in each if data["busy_unit_s"] + data["idle_unit_s"] > 0]
    if len(known) < len(each) or not known:
        return Measured(float("nan"), n=0)
    worst = min(known, key=_used)
    return Measured(_used(worst), n=worst["grants"], note=str(worst["engine"]))


def _undecided(
    history: History, each: list[Mapping[str, Any]], total: Mapping[str, int]
) -> str | None:
    broken = history.last("broken")
    if broken is not None:
        return f"the real processes broke: {broken.data['said'].strip().splitlines()[-1][:300]}"
    missing = {"sim", "sim shared", "real postgres", "real redis"} - {d["engine"] for d in each}
    if missing:
        return f"no calls were seen of {', '.join(sorted(missing))}"
    if total["cancels"] < history.sizes["cancels"]:
        return f"{total['cancels']} agents were cancelled, not {history.sizes['cancels']}"
    idle = [name for name in ("total", "tool", "tenant") if not total[f"full_{name}"]]
    return f"a limit was never reached: {', '.join(idle)}" if idle else None


SCENARIO = Scenario(
    row="WORK-008",
    claim="per-tool, tenant and global limits are never exceeded by one, never leak, and are kept "
    "busy.",
    sizes=Sizes(
        quick={
            "schedules": 5_000,
            "cancels": 10_000,
            "reentries": 16,
            "seconds": 60,
            "kills": 3,
            "processes": 4,
        },
        full={
            "schedules": 500_000,
            "cancels": 1_000_000,
            "reentries": 160,
            "seconds": 1_800,
            "kills": 12,
            "processes": 4,
        },
        fixed=("processes",),
    ),
    metrics=(
        Metric(
            "limit_exceeded",
            "==",
            0,
            "grants",
            doc="calls let in while all, their tool or their tenant had its units already",
        ),
        Metric(
            "permits_leaked",
            "==",
            0,
            "units",
            doc="units held and requests that waited when every agent had ended, after 10,000 "
            "cancels and more",
        ),
        Metric(
            "utilization",
            ">=",
            0.95,
            doc="unit-seconds in use while somebody waited, of those in use and those that "
            "somebody who waited could have had and pass nobody who asked earlier; of the worst "
            "engine or store, once each of its processes had been served",
        ),
        Metric(
            "overtaken",
            "==",
            0,
            "grants",
            doc="calls let in before one of their class, tool and tenant that had asked earlier",
        ),
        Metric(
            "updates_kept",
            "==",
            1.0,
            doc="rounds in which the shared state had all of its 20 or more exclusive updates; all "
            "is 20/20 in every run",
        ),
        Metric(
            "leases_back",
            "==",
            1.0,
            doc="units of killed holders that the next one had within the lease's term and one "
            "look of 0.25 s",
        ),
        Metric(
            "reentries_refused",
            "==",
            1.0,
            doc="tools that came back to themselves and were refused at once, with every level "
            "between named",
        ),
        Metric("schedules_broken", "==", 0, "schedules"),
        Metric("schedules", ">=", 5_000, "schedules", gate=False),
        Metric("cancels", ">=", 10_000, "agents", gate=False),
        Metric("cancels_real", ">=", 100, "agents", gate=False),
        Metric("grants_real", ">=", 100, "calls", gate=False),
        Metric("slowest_lease", "<=", 1.1, "terms", gate=False),
    ),
    components=("service:postgresql", "service:redis", "python:psycopg", "python:redis"),
    faults=(
        "crashed_holder",
        "cancelled_in_tenant",
        "cancelled_in_search",
        "cancelled_in_tools",
        "cancelled_in_write",
        "cancelled_in_shared",
        "cancelled_as_served",
        "cancelled_holding",
    ),
    marks=("grant_returned",),
    sabotages=DEFECTS,
    load=load,
    check=check,
    plain=ordinary_use,
    wall_limit_s={"quick": 900.0, "full": 8 * 3_600.0, "soak": 9 * 3_600.0},
)
