"""One key, one effect, one answer: duplicates at once, deaths at every step, clocks apart, expiry.

What real systems get wrong: a look at the key and a write of it in two steps, so that two that
come at one moment both go on; a key without its parameters, so that another request is given the
first one's answer; a claim that outlives its holder and blocks everybody; a timeout after sending
that is taken for a failure and repeated. The rules are those of the IETF draft "The Idempotency-Key
HTTP Header Field".
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from stageflow import Runtime
from stageflow.sim import Sim, simulate
from stageflow.stages.work import Effect, Ledger
from stageflow_lab import (
    History,
    Judgement,
    Measured,
    Metric,
    Scenario,
    Sizes,
    World,
    share,
)

from ..dag.forked import spread
from .beside import beside
from .effect_defects import DEFECTS
from .effect_facts import Facts, Sums
from .effect_rounds import Plan, command
from .orders import KINDS, ONCE, PIPELINES, POINTS, Receipt, Reply, replied
from .simulated_effects import key_story

AT_ONCE: Final = 20
"""Keys that one simulation follows side by side."""
CHUNK: Final = 5
"""Simulations that a process is given at a time."""


def load(world: World) -> History:
    """Real processes in one process of their own, simulations beside them in this one."""
    history = History(world.size)
    folder = world.scratch / "real"
    folder.mkdir()
    plan = Plan(
        seed=world.seed_for("real"),
        keys=world.size["real"],
        kills=world.size["kills"],
        processes=world.size["processes"],
        least=world.size["duplicates_min"],
        most=world.size["duplicates_max"],
        folder=str(folder),
        sabotage=world.sabotage,
    )
    told = beside(history, folder, command(plan), lambda: _simulate(world, history))
    _real(history, told)
    return history


def _simulate(world: World, history: History) -> None:
    keys = world.size["sim"]
    sums = {kind: Sums("sim", kind) for kind in KINDS}
    asked = [range(first, min(first + AT_ONCE, keys)) for first in range(0, keys, AT_ONCE)]
    simulated = functools.partial(_followed, world.seed, world.size)
    found = spread(simulated, asked, workers=world.size["workers"], chunk=CHUNK)
    for done, facts in enumerate(found, 1):
        sums[facts.kind].add(facts)
        world.progress(done, keys, "simulated keys")
    for each in sums.values():
        each.write(history)


def _followed(seed: int, size: Mapping[str, Any], asked: Sequence[range]) -> list[Facts]:
    """Of each key; `asked` are the numbers of those that one simulation follows."""
    world = World(seed=seed, size=size, scratch=Path())
    found: list[Facts] = []
    for numbers in asked:
        sim_seed = world.seed_for("sim", numbers.start)
        found += simulate(_main(world, numbers), seed=sim_seed).value
    return found


def _main(world: World, numbers: range) -> Callable[[Sim], Any]:
    async def main(sim: Sim) -> list[Facts]:
        return await asyncio.gather(
            *(
                key_story(
                    sim,
                    f"o{number}",
                    random.Random(world.seed_for("key", number)),
                    kind=KINDS[number % len(KINDS)],
                    processes=world.size["processes"],
                    least=world.size["duplicates_min"],
                    most=world.size["duplicates_max"],
                )
                for number in numbers
            )
        )

    return main


def _real(history: History, told: Sequence[dict[str, Any]]) -> None:
    """What the real processes saw, by store and receiver."""
    sums: dict[tuple[str, str], Sums] = {}
    for seen in told:
        place = seen["store"], seen["kind"]
        sums.setdefault(place, Sums(f"real {seen['store']}", seen["kind"])).add(_facts(seen))
    for each in sums.values():
        each.write(history)


def _facts(seen: dict[str, Any]) -> Facts:
    facts = Facts(seen["order"], seen["kind"])
    for reply in seen["replies"]:
        facts.add(Reply(**reply))
    facts.final = Reply(**seen["last"]) if seen["last"] else None
    facts.crashed = seen["died"]
    facts.refusals = seen["refusals"]
    facts.effects = facts.first_effects = seen["effects"]
    return facts


def ordinary_use(world: World) -> None:
    """One order, and the same order again."""

    async def main() -> None:
        ledger = Ledger(world.scratch / "ordinary.db")
        async with Runtime(deps={"ledger": lambda: ledger, "client": _Shop}) as runtime:
            given = {"order": "a", "amount": 1, "memo": ""}
            replies = [
                await replied(PIPELINES["keyed"], runtime, "shop", **given) for _ in range(2)
            ]
        assert replies[0].status == "ok" and replies[0] == replies[1], replies

    asyncio.run(main())


class _Shop:
    """A receiver that is never asked twice."""

    async def send(self, order: str, effect: Effect) -> Receipt:
        return Receipt("ok", [order], 1, 1)


# -- check ---------------------------------------------------------------------------------------


def check(history: History) -> Judgement:
    """Sums over both engines, every store and every receiver."""
    each = [event.data for event in history.of("keys")]
    total: Counter[str] = Counter()
    for data in each:
        total.update({name: n for name, n in data.items() if isinstance(n, int)})
    once = [data for data in each if data["kind"] in ONCE]
    owed = sum(data.get("owed", 0) for data in once)
    engines = {str(data["engine"]).partition(" ")[0] for data in each}
    broken = history.last("broken")
    sim = sum(data["keys"] for data in each if data["engine"] == "sim")
    return Judgement(
        {
            "effects_per_key": Measured(
                max((data["most"] for data in each), default=0), n=total["keys"]
            ),
            "applied_once": share(total["applied_once"], owed),
            "identical_replies": share(total["identical"], total["replies"]),
            "mismatched_refused": share(total["refused"], total["mismatches"]),
            "unknown_surfaced": share(total["surfaced"], total["unanswered"]),
            "keys_sim": sim,
            "keys_real": total["keys"] - sim,
            "kills_real": total["died"]
            - sum(d.get("died", 0) for d in each if d["engine"] == "sim"),
            "duplicates": total["calls"],
            "expired_anew": share(total["expired"], total["expiries"]),
        },
        unknown=_undecided(engines, None if broken is None else broken.data["said"]),
        notes=tuple(
            f"{event.data['engine']} {event.data['kind']}, {event.data['metric']}: {told}"
            for event in history.of("example")
            for told in event.data["told"][:1]
        ),
    )


def _undecided(engines: set[str], broken: str | None) -> str | None:
    if broken is not None:
        return f"the real processes broke: {broken.strip().splitlines()[-1][:300]}"
    missing = {"sim", "real"} - engines
    return f"no keys were followed: {', '.join(sorted(missing))}" if missing else None


SCENARIO = Scenario(
    row="WORK-002",
    claim="one key, one effect, one answer, under any concurrency and crash; where that is "
    "impossible the outcome is `unknown`, never a second effect.",
    sizes=Sizes(
        quick={
            "sim": 5_000,
            "real": 500,
            "kills": 66,
            "processes": 4,
            "workers": 2,
            "duplicates_max": 200,
            "duplicates_min": 2,
        },
        full={
            "sim": 495_000,
            "real": 5_000,
            "kills": 1_000,
            "processes": 4,
            "workers": 2,
            "duplicates_max": 200,
            "duplicates_min": 2,
        },
        fixed=("processes", "workers", "duplicates_max", "duplicates_min"),
        totals={"keys": "sim + real"},
    ),
    metrics=(
        Metric(
            "effects_per_key",
            "<=",
            1,
            "effects",
            doc="the most that a receiver counted for one key within its time",
        ),
        Metric(
            "applied_once",
            "==",
            1.0,
            doc="keys of transactional, token and reconcilable sinks with exactly one effect",
        ),
        Metric(
            "identical_replies",
            "==",
            1.0,
            doc="values given to duplicates that are the key's first, whole; all is 100%",
        ),
        Metric(
            "mismatched_refused",
            "==",
            1.0,
            doc="duplicates with one other parameter that were refused as such; all is 100%",
        ),
        Metric(
            "unknown_surfaced",
            "==",
            1.0,
            doc="keys of which nobody was given a value, and a later duplicate was told that it is "
            "unknown; all is 100%",
        ),
        Metric("keys_sim", ">=", 5_000, "keys", gate=False),
        Metric("keys_real", ">=", 500, "keys", gate=False),
        Metric("kills_real", ">=", 66, "processes", gate=False),
        Metric("duplicates", ">=", 10_000, "calls", gate=False),
        Metric(
            "expired_anew",
            "==",
            1.0,
            gate=False,
            doc="keys that stood for another effect once their time was over",
        ),
    ),
    components=("service:postgresql", "service:redis", "python:psycopg", "python:redis"),
    faults=(*POINTS, "cancelled", "expired"),
    marks=("effect_replayed", "effect_unknown"),
    sabotages=DEFECTS,
    load=load,
    check=check,
    plain=ordinary_use,
    wall_limit_s={"quick": 180.0, "full": 4 * 3_600.0, "soak": 9 * 3_600.0},
)
