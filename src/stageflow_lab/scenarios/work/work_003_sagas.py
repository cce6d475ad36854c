"""Sagas that fail and crash at every point: done, undone, or stuck at a named step; money adds up.

What real systems get wrong: the list of what to undo dies with the process that kept it; an undo
that was cut off is done again, or never; effects in doubt are taken for failures, and stay; undos
run in the order of the steps; and whoever reads meanwhile sees money that may yet come back. The
books are those of Jepsen's bank test: transfers that add up to nothing, readers that add up.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from stageflow import Context, Pipeline, Runtime, work
from stageflow.sim import Sim, simulate
from stageflow_lab import (
    History,
    Judgement,
    Metric,
    Scenario,
    Sizes,
    World,
    counted,
    share,
)

from ..dag.forked import spread
from .beside import beside
from .engine_sums import EngineSums, examples, totals, undecided
from .saga_books import Followed, MemoryBooks
from .saga_defects import DEFECTS
from .saga_facts import Facts, facts_of
from .saga_rounds import Plan, command
from .saga_specs import LONG_MAX, SHORT, Saga, long, short
from .simulated_sagas import branch_story

AT_ONCE: Final = 10
"""Sagas of a branch, side by side in one simulation."""
LONG_EVERY: Final = 25
"""One in so many sagas is drawn and long; the others are numbered and short."""
READERS: Final = 2
CHUNK: Final = 5
"""Branches that a process makes at a time."""


def load(world: World) -> History:
    """Simulations in two processes, and real processes that are killed beside them."""
    history = History(world.size)
    folder = world.scratch / "real"
    folder.mkdir()
    plan = Plan(
        seed=world.seed_for("real"),
        kills=world.size["kills"],
        folder=str(folder),
        sabotage=world.sabotage,
    )
    sums = _sums("real")
    for facts in beside(history, folder, command(plan), lambda: _simulate(world, history)):
        sums.add(facts)
    sums.write(history)
    return history


def _sums(engine: str) -> EngineSums:
    return EngineSums(engine, kind="sagas", deaths=("record", "unsent", "sent"))


def _simulate(world: World, history: History) -> None:
    count = world.size["sim"]
    sums = _sums("sim")
    seed, first = world.seed_for("sim"), world.seed_for("first") % world.size["cases"]
    asked = [(number, min(AT_ONCE, count - number)) for number in range(0, count, AT_ONCE)]
    simulated = functools.partial(_branches, seed, first, world.size["steps"])
    for done, facts in enumerate(
        spread(simulated, asked, workers=world.size["workers"], chunk=CHUNK)
    ):
        sums.add(facts)
        world.progress((done + 1) * AT_ONCE, count, "simulated sagas")
    sums.write(history)


def _branches(seed: int, first: int, steps: int, asked: Sequence[tuple[int, int]]) -> list[Facts]:
    return [_branch(seed, first, steps, number, sagas) for number, sagas in asked]


def _branch(seed: int, first: int, steps: int, number: int, count: int) -> Facts:
    rng = random.Random(f"{seed}/{number}")
    sagas = [_saga(first, steps, each, rng) for each in range(number, number + count)]

    async def main(sim: Sim) -> tuple[list[Followed], MemoryBooks, Counter[str]]:
        return await branch_story(sim, sagas, rng, READERS)

    found, books, reads = simulate(main, seed=rng.randrange(2**48)).value
    return facts_of(found, books.posts, books, reads)


def _saga(first: int, steps: int, number: int, rng: random.Random) -> Saga:
    name = f"n{number}"
    if number % LONG_EVERY == LONG_EVERY - 1:
        return long(rng, name=name, branch=0, most=steps)
    return short(first + number - number // LONG_EVERY, rng, name=name, branch=0)


def ordinary_use(world: World) -> None:
    """A run that goes well, and one that is taken back, step by step."""
    booked: list[str] = []

    async def released(result: str) -> None:
        booked.remove(result)

    @work(undo=released)
    async def room(ctx: Context, days: int) -> str:
        await ctx.hold("hotel")
        booked.append(f"room {days}")
        return booked[-1]

    @work
    async def paid(room: str, days: int) -> str:
        if days > 7:
            raise ValueError("over the limit")
        return "receipt"

    async def main() -> None:
        trip = Pipeline("trip", [room, paid], inputs={"days": int}, outputs=paid)
        options: dict[str, Any] = {
            "journal": world.scratch / "ordinary.db",
            "locks": world.scratch / "ordinary_locks.db",
        }
        async with Runtime(**options) as runtime:
            short_trip = await trip.using(runtime=runtime).run(days=3)
            long_trip = await trip.using(runtime=runtime).run(days=30)
        assert short_trip.output == "receipt" and long_trip.status == "failed"
        assert booked == ["room 3"], booked

    asyncio.run(main())


# -- check ---------------------------------------------------------------------------------------


NEEDED: Final = (
    ("undone", "no saga was taken back"),
    ("done", "no saga ended well"),
    ("stuck", "no saga was stuck"),
    ("nested", "no saga stood in another one"),
    ("raw_dirty", "nobody could have read anything dirty"),
    ("clean", "nobody read"),
)
"""Counts without which nothing is decided, and what their absence means."""


def check(history: History) -> Judgement:
    """Sums over both engines."""
    engines, total = totals(history, "sagas")
    return Judgement(
        {
            "illegal_ends": counted(total["illegal"], total["sagas"]),
            "conservation_violated": counted(total["unbalanced"], total["sagas"]),
            "compensated_once_in_order": share(total["right"], total["owed"]),
            "dirty_reads": counted(total["dirty"], total["clean"]),
            "sagas_sim": engines.get("sim", {}).get("sagas", 0),
            "kills_real": engines.get("real", {}).get("died", 0),
            "sagas_real": engines.get("real", {}).get("sagas", 0),
            "ends_undone": total["undone"],
            "ends_done": total["done"],
            "stuck_and_settled": total["stuck"],
            "long_sagas": total["long"],
            "nested_sagas": total["nested"],
            "clean_reads": total["clean"],
            "dirty_without_locks": total["raw_dirty"],
        },
        unknown=undecided(history, "sagas", NEEDED, nothing="no sagas were followed"),
        notes=examples(history),
    )


SCENARIO = Scenario(
    row="WORK-003",
    claim="whatever fails or crashes, a saga ends done, undone, or stuck-and-reported, and "
    "balances always add up.",
    sizes=Sizes(
        quick={"sim": 5_000, "kills": 100, "cases": len(SHORT), "steps": LONG_MAX, "workers": 2},
        full={"sim": 500_000, "kills": 1_000, "cases": len(SHORT), "steps": LONG_MAX, "workers": 2},
        fixed=("cases", "steps", "workers"),
    ),
    metrics=(
        Metric(
            "illegal_ends",
            "==",
            0,
            "sagas",
            doc="sagas that ended neither done nor undone, by the receivers' books, once a person "
            "had settled what they named as stuck; or that named what was not",
        ),
        Metric(
            "conservation_violated",
            "==",
            0,
            doc="sagas whose bookings do not add up to nothing in the end, and branches whose "
            "accounts do not add up to what they held at first",
        ),
        Metric(
            "compensated_once_in_order",
            "==",
            1.0,
            doc="compensations owed that were booked exactly once, and after those of all steps "
            "that came later; all is 100%",
        ),
        Metric(
            "dirty_reads",
            "==",
            0,
            "reads",
            doc="clean reads of a branch that do not add up, while sagas move its money",
        ),
        Metric("sagas_sim", ">=", 5_000, "sagas", gate=False),
        Metric("kills_real", ">=", 100, "processes", gate=False),
        Metric("sagas_real", ">=", 1, "sagas", gate=False),
        Metric("ends_undone", ">=", 1, "sagas", gate=False),
        Metric("ends_done", ">=", 1, "sagas", gate=False),
        Metric("stuck_and_settled", ">=", 1, "sagas", gate=False),
        Metric("long_sagas", ">=", 1, "sagas", gate=False),
        Metric("nested_sagas", ">=", 1, "sagas", gate=False),
        Metric("clean_reads", ">=", 1, "reads", gate=False),
        Metric(
            "dirty_without_locks",
            ">=",
            1,
            "reads",
            gate=False,
            doc="reads beside them that took no notice of locks, and did not add up",
        ),
    ),
    faults=("died_record", "died_unsent", "died_sent"),
    sabotages=DEFECTS,
    load=load,
    check=check,
    plain=ordinary_use,
    wall_limit_s={"quick": 600.0, "full": 6 * 3_600.0, "soak": 9 * 3_600.0},
)
