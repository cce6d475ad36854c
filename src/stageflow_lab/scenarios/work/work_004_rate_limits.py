"""Refusals with 429, in every form: at the pace of the service, in all processes, and not beyond.

What real systems get wrong: a Retry-After that is a date is thrown away; each worker keeps the rate
for itself, so that four send four times as much; after a refusal all sleep and wake together; an
hour's quota that is used up is asked for again every second; a request that changes something is
repeated because its answer was 429; and whoever waits is served long after anybody cares.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

from stageflow.stages.work.rate import Rate, RateLimiter
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

from .quotas import FORMS
from .rate_defects import DEFECTS
from .rate_rounds import Plan, rounds_command
from .rated_clients import Reply
from .simulated_rates import simulate

SECONDS_LEAST: Final = 40.0
"""A quarter of it goes by before a service's clients are steady."""
AMBIGUOUS: Final = "window"
"""A quota of five seconds is both: some of its pauses are long, and others are not."""


Row: TypeAlias = "defaultdict[str, Any]"
"""Of one service: what it is, and its counts."""


def load(world: World) -> History:
    """Real processes in one process of their own, simulations beside them in this one."""
    history = History(world.size)
    plan = Plan(
        seed=world.seed_for("real"),
        seconds=max(SECONDS_LEAST, world.size["seconds"]),
        clients=world.size["clients"],
        processes=world.size["processes"],
        sabotage=world.sabotage,
    )
    with (world.scratch / "errors").open("w+b") as errors:
        rounds = subprocess.Popen(rounds_command(plan), stdout=subprocess.PIPE, stderr=errors)
        try:
            _simulate(world, history)
            out, _ = rounds.communicate()
        finally:
            rounds.terminate()
            rounds.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    if rounds.returncode:
        history.record("broken", said=said[-2_000:] or f"it ended with {rounds.returncode}")
    for line in out.decode().splitlines():
        _keep(history, "real", json.loads(line))
    return history


def _simulate(world: World, history: History) -> None:
    worlds = world.size["worlds"]
    for number in range(worlds):
        rows = simulate(
            world.seed_for("sim", number),
            clients=world.size["clients"],
            processes=world.size["processes"],
            seconds=float(world.size["virtual_s"]),
        )
        for row in rows:
            _keep(history, "sim", row)
        world.progress(number + 1, worlds, "simulated minutes")


def _keep(history: History, engine: str, row: Mapping[str, Any]) -> None:
    history.record("service", engine=engine, **row)
    if row.get("others", 0):
        history.fired("others_used_the_account", row["others"])
    for form in FORMS:
        if row.get(f"form_{form}", 0):
            history.fired(f"refused_{form}", row[f"form_{form}"])


def ordinary_use(world: World) -> None:
    """Three requests, one of them refused and sent again."""

    async def main() -> None:
        statuses = [200, 429, 200, 200]

        async def send() -> Reply:
            return Reply(statuses.pop(0), {})

        async with RateLimiter(Rate(1_000)) as limiter:
            replies = [await limiter.call(send, repeatable=True) for _ in range(3)]
        assert [each.status for each in replies] == [200, 200, 200], replies

    asyncio.run(main())


# -- check ---------------------------------------------------------------------------------------


def check(history: History) -> Judgement:
    """The worst of all services of both engines; those of one kind in all simulations together."""
    rows = _by_service(event.data for event in history.of("service"))
    paced = [row for row in rows if row["is_paced"]]
    engines = [_together(rows, engine) for engine in ("sim", "real")]
    total = _sum(rows)
    too_late = [row for row in rows if row["kind"] != AMBIGUOUS]
    right = sum(
        row["client_rate.too_late"] - row["client_exhausted"]
        if row["is_paced"]
        else row["client_exhausted"]
        for row in too_late
    )
    late = total["client_sent_late"] + total["client_told_late"]
    return Judgement(
        {
            "early": _worst([*paced, *engines], "early", "requests"),
            "refused_steady": _worst(paced, "steady_refused", "steady"),
            "throughput": _worst(paced, "steady_served", "quota", smallest=True),
            "deadlines_kept": share(total["client_calls"] - late, total["client_calls"]),
            "repeats": counted(total["repeats"], total["refused_once"]),
            "exhausted_told": share(right, sum(row["client_rate.too_late"] for row in too_late)),
            "requests_real": sum(r["requests"] for r in rows if r["engine"] == "real"),
            "requests_sim": sum(r["requests"] for r in rows if r["engine"] == "sim"),
            "refusals": total["refused"],
            "fairness": _fairness(rows),
        },
        unknown=_undecided(history, rows, total),
        notes=tuple(_told(row) for row in paced),
    )


def _by_service(events: Iterable[Mapping[str, Any]]) -> list[Row]:
    """One row for each engine and kind."""
    found: dict[tuple[str, str], Row] = {}
    for data in events:
        row = found.setdefault((data["engine"], data["kind"]), defaultdict(int))
        _add(row, data)
        by_client = list(data["served_by_client"].values())
        if by_client:
            least = min(by_client) * len(by_client) / max(1, sum(by_client))
            row["fairness"] = min(row["fairness"] or 1.0, least)
        for name in ("engine", "kind", "is_paced"):
            row[name] = data[name]
    for row in found.values():
        row["steady_refused"] = row["steady"] - row["steady_served"]
    return list(found.values())


def _add(row: Row, data: Mapping[str, Any]) -> None:
    """What are numbers."""
    for name, value in data.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            row[name] += value


def _sum(rows: Iterable[Mapping[str, Any]]) -> Row:
    total: Row = defaultdict(int)
    for row in rows:
        _add(total, row)
    return total


def _together(rows: list[Row], engine: str) -> Row:
    found = _sum(row for row in rows if row["engine"] == engine)
    found["engine"], found["kind"] = engine, "all"
    return found


def _worst(rows: list[Row], part: str, whole: str, *, smallest: bool = False) -> Measured:
    known = [row for row in rows if row[whole] > 0]
    if not known or len(known) < len(rows):
        return Measured(float("nan"), n=0)
    pick = min if smallest else max
    worst = pick(known, key=lambda row: row[part] / row[whole])
    return Measured(
        worst[part] / worst[whole],
        n=round(worst[whole]),
        note=f"{worst['engine']} {worst['kind']}: {worst[part]:,} of {worst[whole]:,.0f}",
    )


def _fairness(rows: list[Row]) -> float:
    return min((row["fairness"] for row in rows if row["is_paced"]), default=0.0)


def _told(row: Mapping[str, Any]) -> str:
    return (
        f"{row['engine']} {row['kind']}: {row['steady_served'] / max(1, row['quota']):.3f} of the "
        f"quota, {row['steady_refused'] / max(1, row['steady']):.4f} refused, "
        f"{row['early'] / max(1, row['requests']):.4f} early"
    )


def _undecided(history: History, rows: list[Row], total: Mapping[str, Any]) -> str | None:
    broken = history.last("broken")
    if broken is not None:
        return f"the real processes broke: {broken.data['said'].strip().splitlines()[-1][:300]}"
    missing = {"sim", "real"} - {row["engine"] for row in rows}
    if missing:
        return f"no service was asked: {', '.join(sorted(missing))}"
    if not total["refused_once"]:
        return "no request that must not be sent again was refused"
    return None if total["client_rate.too_late"] else "nobody was short of time"


SCENARIO = Scenario(
    row="WORK-004",
    claim="workers use at least 90% of a quota while almost never violating it, for every form of "
    "Retry-After.",
    sizes=Sizes(
        quick={"seconds": 60, "worlds": 8, "clients": 50, "processes": 4, "virtual_s": 60},
        full={"seconds": 1_800, "worlds": 200, "clients": 50, "processes": 4, "virtual_s": 120},
        fixed=("clients", "processes", "virtual_s"),
    ),
    metrics=(
        Metric(
            "early",
            "<=",
            0.01,
            doc="requests that came before an instant of which the service had told somebody; of "
            "the worst service, and of all together",
        ),
        Metric(
            "refused_steady",
            "<=",
            0.05,
            doc="requests that were answered 429 once the clients had had ten seconds; of the "
            "worst service",
        ),
        Metric(
            "throughput",
            ">=",
            0.9,
            doc="requests served, of those that the quota allowed; of the worst service",
        ),
        Metric(
            "deadlines_kept",
            "==",
            1.0,
            doc="calls sent, or refused for want of time, by their deadline; all is 100%",
        ),
        Metric(
            "repeats",
            "==",
            0,
            "requests",
            doc="arrivals of requests that must not be sent again, beyond the first of each; of so "
            "many that were refused",
        ),
        Metric(
            "exhausted_told",
            "==",
            1.0,
            doc="refusals for want of time that told a used-up quota from the pace",
        ),
        Metric("requests_real", ">=", 5_000, "requests", gate=False),
        Metric("requests_sim", ">=", 40_000, "requests", gate=False),
        Metric("refusals", ">=", 100, "requests", gate=False),
        Metric(
            "fairness",
            ">=",
            0.7,
            gate=False,
            doc="requests served to the client that had the fewest, of the mean of its service",
        ),
    ),
    components=("service:postgresql", "service:redis", "python:psycopg", "python:redis"),
    faults=("others_used_the_account", *(f"refused_{form}" for form in FORMS)),
    sabotages=DEFECTS,
    load=load,
    check=check,
    plain=ordinary_use,
    wall_limit_s={"quick": 600.0, "full": 4 * 3_600.0, "soak": 9 * 3_600.0},
)
