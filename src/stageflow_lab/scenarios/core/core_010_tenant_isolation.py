"""Tenants that share everything but their data: stages, connections, a cache, a journal, a log.

What real systems get wrong: a connection whose request was cancelled goes back to its pool with the
answer on the way, and the next customer is given it (OpenAI, "March 20 ChatGPT outage: Here's what
happened", 2023; redis-py 4.5.3); a cache that is asked by what was asked and not by whom; an object
found by its id alone (OWASP API1:2023, broken object level authorization), or refused as
"forbidden", which says that it exists.

A check is one item of one sink, searched for the canary of one other tenant that is at work in the
same process, in all forms and in parts (`tenant_canaries`). An item is a value, a record, a
payload, an event, a log line with its traceback, an answer, a file, a row of the database as row
security shows it to that tenant.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from stageflow import Runtime

from ...history import History
from ...metric import Metric, counted, share
from ...scenario import Judgement, Scenario, Sizes
from ...world import World
from .fresh_processes import each
from .simulated_tenants import Report, SimOrder, simulated
from .tenant_canaries import Scanner, planted_found
from .tenant_defects import DEFECTS
from .tenant_desk import MemoryFiles, SimWire, Traffic, deps, ordinary_run
from .tenant_processes import Order, carried_out, database

BATCH: Final = 200
"""Runs of one simulation: one of each tenant."""
REAL_WITHIN_S: Final = 0.01
"""For each real run."""
FAULTS: Final[Mapping[str, str]] = {"cut mid-response": "cut", "timeout hidden": "hidden as ok"}
SINKS: Final = frozenset(
    "outputs caches errors logs events journal sessions pools files rows cancellation forged "
    "listing".split()
)
"""Each must have been looked into."""
SHOWING: Final = SINKS - {"events", "listing", "forged"}
"""Those in which a tenant's own data must be: else they might not show another's either."""


def load(world: World) -> History:
    """Real processes over one database, then simulations, each in a process of its own."""
    history = History(world.size)
    canaries, tenants = world.seed_for("canaries"), world.size["tenants"]
    found, planted = planted_found(Scanner(canaries, tenants), world.seed_for("planted"))
    history.record("planted", found=found, planted=planted)
    with database() as (url, schema):
        orders = list(_orders(world, canaries, url, schema))
        for order, report, said in each(carried_out, orders, at_once=len(orders)):
            _record(history, "real", len(order.numbers), report, said)
    done, runs = 0, world.size["sim"]
    batches = list(_batches(world, canaries))
    for batch, report, said in each(simulated, batches, at_once=min(4, os.cpu_count() or 1)):
        _record(history, "sim", len(batch.numbers), report, said)
        for name, times in ({} if report is None else report.marks).items():
            world.marks.add(name, times)
        done += len(batch.numbers)
        world.progress(done, runs, "simulated runs")
    for fault, fact in FAULTS.items():
        times = sum(event.data["facts"].get(fact, 0) for event in history.of("batch"))
        if times:
            history.fired(fault, times)
    return history


def _orders(world: World, canaries: int, url: str, schema: str) -> Iterator[Order]:
    processes, runs = min(world.size["processes"], world.size["real"]), world.size["real"]
    for number in range(processes):
        folder = world.scratch / f"process{number}"
        folder.mkdir()
        yield Order(
            seed=canaries,
            tenants=world.size["tenants"],
            numbers=tuple(range(number, runs, processes)),
            within_s=REAL_WITHIN_S * runs / processes,
            folder=str(folder),
            url=url,
            schema=schema,
            sabotage=world.sabotage,
        )


def _batches(world: World, canaries: int) -> Iterator[SimOrder]:
    for first in range(0, world.size["sim"], BATCH):
        yield SimOrder(
            canaries=canaries,
            seed=world.seed_for("sim", first),
            tenants=world.size["tenants"],
            numbers=tuple(range(first, min(first + BATCH, world.size["sim"]))),
            sabotage=world.sabotage,
        )


def _record(history: History, engine: str, runs: int, report: Report | None, said: str) -> None:
    if report is None:
        history.record("broken", engine=engine, said=said)
        return
    history.record(
        "batch",
        engine=engine,
        runs=runs,
        sinks=report.sinks,
        forgeries=report.forgeries,
        facts=dict(report.facts),
    )


def ordinary_use(world: World) -> None:
    """Two tenants ask for the same, one after the other, and each is answered."""

    async def main() -> None:
        scanner, files = Scanner(world.seed, 2), dict[str, dict[str, str]]()
        traffic = Traffic(scanner.canaries)
        given = deps(lambda: SimWire(traffic), lambda tenant: MemoryFiles(tenant, files))
        async with Runtime(deps=given) as runtime:
            for tenant, canary in scanner.canaries.items():
                run = await ordinary_run(runtime, tenant, canary)
                assert run.is_ok, run

    asyncio.run(main())


# -- check ---------------------------------------------------------------------------------------


def check(history: History) -> Judgement:
    """Sums over both engines."""
    batches = [event.data for event in history.of("batch")]
    items, own, foreign = (
        _summed(batch["sinks"][name] for batch in batches) for name in ("items", "own", "foreign")
    )
    forged = _summed(
        {name: n for name, n in batch["forgeries"].items() if isinstance(n, int)}
        for batch in batches
    )
    facts = _summed(batch["facts"] for batch in batches)
    checks = sum(_checks(batch["sinks"]) for batch in batches)
    planted = history.last("planted")
    tries = forged["forged"] + facts["scoped foreign"]
    return Judgement(
        {
            "foreign_canaries": counted(sum(foreign.values()), checks),
            "sink_checks": checks,
            "forged_refused": share(forged["refused"] + facts["scoped refused"], tries),
            "endpoints_tried": share(forged["tried"], forged["endpoints"]),
            "forged_alike": share(forged["alike"], forged["forged"]),
            "forged_told": share(forged["told"], forged["asked"]),
            "tainted_reused": counted(facts["tainted"], facts["calls"]),
            "own_shown": share(facts["own shown"], facts["owned"]),
            "labelled": share(facts["labelled"], facts["made"]),
            "planted_found": share(
                0 if planted is None else planted.data["found"],
                0 if planted is None else planted.data["planted"],
            ),
            "cut_mid_response": facts["cut"],
            "cache_hits": facts["hits"],
            "forged_live": forged["while live"],
            "forged_elsewhere": forged["while elsewhere"],
        },
        unknown=_undecided(history, batches, items, own, facts),
        notes=tuple(_notes(batches, items)),
    )


def _summed(each: Iterator[Mapping[str, int]] | Any) -> Counter[str]:
    total: Counter[str] = Counter()
    for one in each:
        total.update(one)
    return total


def _checks(sinks: Mapping[str, Any]) -> int:
    """What belongs to a tenant is checked against all others, what is nobody's against all."""
    return int(sum(sinks["items"].values()) * (sinks["active"] - 1))


def _undecided(
    history: History,
    batches: list[Any],
    items: Counter[str],
    own: Counter[str],
    facts: Counter[str],
) -> str | None:
    broken = history.last("broken")
    if broken is not None:
        return f"a process broke: {broken.data['said']}"
    missing = {"sim", "real"} - {batch["engine"] for batch in batches}
    if missing:
        return f"no runs: {', '.join(sorted(missing))}"
    unseen = sorted(SINKS - {name for name, n in items.items() if n})
    if unseen:
        return f"nothing was looked at of: {', '.join(unseen)}"
    silent = sorted(SHOWING - {name for name, n in own.items() if n})
    if silent:
        return f"not even a tenant's own data was seen in: {', '.join(silent)}"
    if not facts["hits"]:
        return "no kept value was given again"
    return None


def _notes(batches: list[Any], items: Counter[str]) -> Iterator[str]:
    yield ", ".join(f"{n:,} {name}" for name, n in sorted(items.items()))
    for batch in batches:
        yield from batch["sinks"]["examples"][:2]
        yield from batch["forgeries"]["examples"][:2]


SCENARIO = Scenario(
    row="CORE-010",
    claim="no byte of one tenant's data reaches another tenant through any output, log, error, "
    "cache, pool, file or timing of cancellation.",
    sizes=Sizes(
        quick={"sim": 2_000, "real": 200, "tenants": 200, "processes": 2},
        full={"sim": 90_000, "real": 10_000, "tenants": 200, "processes": 4},
        fixed=("tenants", "processes"),
        totals={"runs": "sim + real"},
    ),
    metrics=(
        Metric("foreign_canaries", "==", 0, doc="canaries of another tenant, in any sink"),
        Metric("sink_checks", ">=", 1_000_000, "checks"),
        Metric(
            "forged_refused",
            "==",
            1.0,
            doc="foreign ids tried on an endpoint that were refused; all is 100%",
        ),
        Metric(
            "endpoints_tried",
            "==",
            1.0,
            doc="endpoints that take a run's id, found by looking, on which foreign ids were tried",
        ),
        Metric(
            "forged_alike",
            "==",
            1.0,
            doc="foreign ids whose answer is that for an id that no run has, letter by letter",
        ),
        Metric("forged_told", "==", 1.0, doc="refused ids that were told to who runs the system"),
        Metric(
            "tainted_reused",
            "==",
            0,
            "calls",
            doc="calls over a connection on which an answer to an earlier one was still due",
        ),
        Metric("own_shown", "==", 1.0, doc="runs that their own tenant finds and reads"),
        Metric(
            "labelled",
            "==",
            1.0,
            doc="values and recorded payloads that have the label of the inputs they were made of",
        ),
        Metric(
            "planted_found", "==", 1.0, doc="canaries planted in every form that the search finds"
        ),
        Metric("cut_mid_response", ">=", 100, "calls", gate=False),
        Metric("cache_hits", ">=", 100, gate=False),
        Metric("forged_live", ">=", 1, "tries", gate=False, doc="while the run was under way"),
        Metric("forged_elsewhere", ">=", 1, "tries", gate=False, doc="of runs of another process"),
    ),
    components=("service:postgresql", "python:psycopg"),
    faults=tuple(FAULTS),
    marks=("connection_discarded", "result_reused", "access_refused"),
    sabotages=DEFECTS,
    load=load,
    check=check,
    plain=ordinary_use,
    wall_limit_s={"quick": 240.0, "full": 4 * 3_600.0, "soak": 9 * 3_600.0},
)
