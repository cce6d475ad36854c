"""Retries under an outage: jittered, in one layer, within a budget, and after a restart.

What real systems get wrong: clients that failed together come back together; every layer tries
three times, so that three layers try 27 times; retries go on when nobody waits for the answer any
more; what waited is forgotten with its process; and so the end of an outage is the beginning of the
next, a failure that feeds itself ("Metastable Failures in Distributed Systems", Bronson et al.,
HotOS 2021).
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from stageflow import CircuitBreaker, Dependency, Pipeline, Retry, Runtime, enrich
from stageflow.sim import Sim, simulate
from stageflow_lab import (
    History,
    Judgement,
    Measured,
    Metric,
    Scenario,
    Sizes,
    World,
    counted,
)
from stageflow_lab.kolmogorov import p_value

from ..dag.forked import spread
from .retry_defects import DEFECTS
from .retry_restart import restart
from .retry_storm import AFTER_S, BEFORE_S, Story, naive, storm

CONTROL_CLIENTS: Final = 100
"""The control makes 27 times the attempts, and its ratio does not depend on how many ask."""
Facts = dict[str, Any]


def load(world: World) -> History:
    """Outages in simulation, and processes that are killed while runs wait."""
    history = History(world.size)
    folder = world.scratch / "restart"
    folder.mkdir()
    clients = world.size["real_clients"]
    history.record("restart", **restart(folder, clients, world.sabotage))
    seeds = [world.seed_for("storm", number) for number in range(world.size["seeds"])]
    asked = functools.partial(_storms, world.size["clients"], float(world.size["outage_s"]))
    for done, facts in enumerate(spread(asked, seeds, workers=world.size["workers"], chunk=1)):
        history.record("storm", **facts)
        world.progress(done + 1, len(seeds), "outages")
    return history


def _storms(clients: int, outage_s: float, seeds: Sequence[int]) -> list[Facts]:
    return [_storm(clients, outage_s, seed) for seed in seeds]


def _storm(clients: int, outage_s: float, seed: int) -> Facts:
    async def ours(sim: Sim) -> Story:
        return await storm(sim, clients, outage_s, random.Random(f"{seed}/ours"))

    async def control(sim: Sim) -> Story:
        return await naive(sim, CONTROL_CLIENTS, outage_s, random.Random(f"{seed}/control"))

    story = simulate(ours, seed=seed).value
    loops = simulate(control, seed=seed).value
    back = int(story.service.back_s)
    after = [count for second, count in story.service.arrivals.items() if second >= back]
    return {
        "requests": story.requests,
        "attempts": story.service.attempts,
        "all_requests": story.all_requests,
        "answered": story.answered,
        "retried": len(story.units),
        "units": [round(unit, 6) for unit in story.units],
        "hopeless": story.service.hopeless,
        "peak": max(after, default=0),
        "mean": story.all_requests / (BEFORE_S + outage_s + AFTER_S),
        "finals": dict(story.finals),
        "control_requests": loops.requests,
        "control_attempts": loops.service.attempts,
    }


def ordinary_use(world: World) -> None:
    """A failure that is tried again; and a dependency that is left alone."""
    made: list[int] = []

    @enrich(retry=Retry(attempts=3, base_s=0.001, dependency="index"))
    async def looked_up(x: int) -> int:
        made.append(x)
        if x == 0 or len(made) == 1:
            raise ConnectionRefusedError("away")
        return x

    async def main() -> None:
        pipeline = Pipeline("plain", [looked_up], inputs={"x": int}, outputs=looked_up)
        breaker = CircuitBreaker(calls_min=4, open_s=60.0)
        async with Runtime(dependencies={"index": Dependency(breaker=breaker)}) as runtime:
            here = pipeline.using(runtime=runtime)
            assert (await here.run(x=7)).output == 7 and len(made) == 2
            ends = [await here.run(x=0) for _ in range(4)]
            assert ends[-1].status == "failed" and ends[-1].reason == "circuit.open"

    asyncio.run(main())


# -- check ---------------------------------------------------------------------------------------


def check(history: History) -> Judgement:
    """The worst simulation decides; waits are judged together."""
    storms = [event.data for event in history.of("storm")]
    restarted = history.last("restart")
    real: dict[str, Any] = {} if restarted is None else dict(restarted.data)
    total: Counter[str] = Counter()
    finals: Counter[str] = Counter()
    for data in storms:
        finals.update(data["finals"])
        names = ("requests", "attempts", "hopeless", "control_requests", "control_attempts")
        total.update({name: data[name] for name in names})
        total.update(answered=data["answered"], retried=data["retried"])
    units = [unit for data in storms for unit in data["units"]]
    waiting = real.get("waiting", 0)
    return Judgement(
        {
            "jitter_p_value": Measured(p_value(units), n=len(units)),
            "outage_attempts_ratio": _worst(storms, "attempts", "requests"),
            "control_ratio": _least(storms, "control_attempts", "control_requests"),
            "recovery_peak_ratio": _worst(storms, "peak", "mean"),
            "hopeless_attempts": counted(total["hopeless"], total["attempts"]),
            "timers_lost": counted(real.get("lost", 0), waiting),
            "timers_early": counted(real.get("early", 0), waiting),
            "storms": len(storms),
            "refused_by_budget": finals["budget"],
            "refused_by_deadline": finals["deadline"],
            "answered": total["answered"],
            "timers_waiting": waiting,
            "most_late_s": real.get("most_late_s", 0.0),
        },
        unknown=_undecided(storms, total, finals, waiting),
    )


def _worst(storms: Sequence[Any], over: str, under: str) -> Measured:
    ratios = [data[over] / data[under] for data in storms if data[under]]
    return Measured(max(ratios, default=float("nan")), n=len(ratios))


def _least(storms: Sequence[Any], over: str, under: str) -> Measured:
    ratios = [data[over] / data[under] for data in storms if data[under]]
    return Measured(min(ratios, default=float("nan")), n=len(ratios))


def _undecided(
    storms: Sequence[Any], total: Counter[str], finals: Counter[str], waiting: int
) -> str | None:
    for happened, what in (
        (len(storms), "no outage was simulated"),
        (total["requests"], "nobody asked while the service was away"),
        (total["answered"], "nobody was ever answered"),
        (total["retried"], "nothing was tried again"),
        (finals["nested"] + finals["budget"] + finals["used up"], "no request failed for good"),
        (waiting, "no process was killed while runs waited"),
    ):
        if not happened:
            return what
    return None


SCENARIO = Scenario(
    row="WORK-005",
    claim="delays follow full jitter, nested retries cannot multiply, and an outage's end is not "
    "its second beginning.",
    sizes=Sizes(
        quick={
            "seeds": 20,
            "clients": 1_000,
            "outage_s": 30,
            "layers": 3,
            "real_clients": 200,
            "workers": 2,
        },
        full={
            "seeds": 2_000,
            "clients": 1_000,
            "outage_s": 30,
            "layers": 3,
            "real_clients": 200,
            "workers": 2,
        },
        fixed=("clients", "outage_s", "layers", "workers"),
    ),
    metrics=(
        Metric(
            "jitter_p_value",
            ">",
            0.01,
            doc="Kolmogorov-Smirnov, of waits as the service saw them, each divided by "
            "min(cap, base * 2^n), against the uniform distribution on [0, 1]",
        ),
        Metric(
            "outage_attempts_ratio",
            "<=",
            1.1,
            doc="attempts that arrived while the service was away, for each request begun then; "
            "the worst simulation",
        ),
        Metric(
            "control_ratio",
            ">=",
            10,
            doc="the same of three plain loops, one in another; the best simulation",
        ),
        Metric(
            "recovery_peak_ratio",
            "<=",
            2,
            doc="attempts in the busiest second once it is back, for the mean of requests a "
            "second; the worst simulation",
        ),
        Metric(
            "hopeless_attempts",
            "==",
            0,
            "attempts",
            doc="attempts that began too late to end before their deadline",
        ),
        Metric(
            "timers_lost",
            "==",
            0,
            "timers",
            doc="waits that a kill cut off whose attempt did not come, or came twice",
        ),
        Metric("timers_early", "==", 0, "timers", doc="whose attempt came before it was due"),
        Metric("storms", ">=", 20, "simulations", gate=False),
        Metric("refused_by_budget", ">=", 1, "requests", gate=False),
        Metric("refused_by_deadline", ">=", 1, "requests", gate=False),
        Metric("answered", ">=", 1, "requests", gate=False),
        Metric("timers_waiting", ">=", 150, "timers", gate=False),
        Metric(
            "most_late_s",
            "<=",
            5,
            "s",
            doc="after it was due and its process was up: how busy the machine is counts, too",
        ),
    ),
    sabotages=DEFECTS,
    load=load,
    check=check,
    plain=ordinary_use,
    wall_limit_s={"quick": 1_200.0, "full": 24 * 3_600.0, "soak": 48 * 3_600.0},
)
