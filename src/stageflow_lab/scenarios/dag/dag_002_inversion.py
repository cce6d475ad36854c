"""Priority inversion: 1,000 sets of stages that share pools, each wait held against theory.

What real systems get wrong: a low task that holds what a high one needs is kept from the processor
by all between them, as on Mars in 1997 (G. Reeves, "What really happened on Mars"); inheritance
that ends at the first holder, or that outlives the release (Sha, Rajkumar, Lehoczky 1990). The
bound of each wait is computed from the set, not from what was seen (`blocking_bounds`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ...heap import still_heap
from ...history import History
from ...metric import Measured, Metric, counted, share
from ...scenario import Judgement, Scenario, Sizes
from ...world import World
from .blocking_bounds import request_bounds_ticks, stage_bounds_ticks
from .forked import spread
from .inversion_defects import DEFECTS
from .inversion_runs import Asked, run_all
from .real_inversions import SECTION_S, wait_all

Facts = Mapping[str, Any]

CHUNK: Final = 10
"""Sets that a process runs at a time."""


def load(world: World) -> History:
    """Runs every set in virtual time, those of the Pathfinder shape also without inheritance; then
    that shape on a real loop."""
    history = History(world.size)
    size = world.size
    asked = [
        Asked(
            kind,
            world.seed_for(kind, number),
            stages_max=size["stages_max"],
            pools_max=size["pools_max"],
            inherits=inherits,
        )
        for kind, inherits in (("random", True), ("pathfinder", True), ("pathfinder", False))
        for number in range(size[kind])
    ]
    found = spread(run_all, asked, workers=size["workers"], chunk=CHUNK)
    for done, facts in enumerate(found):
        history.record("set", **facts)
        world.progress(done + 1, len(asked), "sets")
    seeds = [world.seed_for("real", number) for number in range(size["real"])]
    waited = 0

    def done_one() -> None:
        nonlocal waited
        waited += 1
        world.progress(waited, len(seeds), "real runs")

    with still_heap():  # a collection of all that the sets left behind takes longer than a section
        waits_s = wait_all(seeds, lanes=size["lanes"], done=done_one)
    for seed, wait_s in zip(seeds, waits_s, strict=True):
        history.record("real", seed=seed, wait_s=wait_s)
    return history


def check(history: History) -> Judgement:
    """Holds every wait against the bound that its set has by theory."""
    sets = [event.data for event in history.of("set")]
    ran = [facts for facts in sets if "broke" not in facts and not facts["unended"]]
    lent = [facts for facts in ran if facts["inherits"]]
    bare = [facts for facts in ran if not facts["inherits"]]
    bounds = [_bounds(history, facts) for facts in lent]
    over = [_over(facts, of) for facts, of in zip(lent, bounds, strict=True)]
    hard = sum(any(_over_requests(facts, _bounds(history, facts))) for facts in bare)
    told = [facts for facts in ran if facts["long_waits"] or facts["was_told"]]
    tried = sum(facts["boosts_tried"] for facts in lent)
    waits_s = [event.data["wait_s"] for event in history.of("real")]
    return Judgement(
        {
            "bound_violations": counted(sum(over), sum(len(f["stage_waits"]) for f in lent)),
            "hard_without": share(hard, len(bare)),
            "boosts_restored": share(tried - sum(f["boosts_kept"] for f in lent), tried),
            "real_p99": _p99([wait_s / SECTION_S for wait_s in waits_s if wait_s is not None]),
            "chains_told": share(sum(facts["long_told"] for facts in told), len(told)),
            "sets_ended": share(len(ran), len(sets)),
            "longest_wait": Measured(max(_shares(lent, bounds), default=math.nan), n=len(lent)),
        },
        unknown=_undecided(history, lent, waits_s),
        notes=tuple(_notes(sets, lent, over)),
    )


class Bounds(NamedTuple):
    """The longest waits of one set, by theory, in ticks."""

    highest: str
    """Name of the highest stage."""
    requests: Sequence[int]
    """Of its requests, in order."""
    stages: Mapping[str, int]
    """Of each stage's waits together."""


def _bounds(history: History, facts: Facts) -> Bounds:
    sizes = history.sizes
    asked = Asked(
        facts["kind"], facts["seed"], stages_max=sizes["stages_max"], pools_max=sizes["pools_max"]
    )
    tasks = asked.tasks()
    return Bounds(tasks.tasks[0].name, request_bounds_ticks(tasks), stage_bounds_ticks(tasks))


def _over_requests(facts: Facts, bounds: Bounds) -> Iterator[bool]:
    """Of each request of the highest stage: whether it waited longer than theory has it."""
    return (wait > bound for wait, bound in zip(facts["waits"], bounds.requests, strict=True))


def _over(facts: Facts, bounds: Bounds) -> int:
    """Stages that waited for longer than theory has it: the highest in any of its requests, the
    others in all of theirs together."""
    waits: Mapping[str, int] = facts["stage_waits"]
    others = sum(
        wait > bounds.stages[name] for name, wait in waits.items() if name != bounds.highest
    )
    return others + any(_over_requests(facts, bounds))


def _shares(lent: Sequence[Facts], bounds: Sequence[Bounds]) -> Iterator[float]:
    for facts, of in zip(lent, bounds, strict=True):
        yield from (w / b for w, b in zip(facts["waits"], of.requests, strict=True) if b)


def _p99(ratios: Sequence[float]) -> Measured:
    if not ratios:
        return Measured(math.nan, n=0)
    ordered = sorted(ratios)
    return Measured(ordered[math.ceil(0.99 * len(ordered)) - 1], n=len(ordered))


def _undecided(history: History, lent: Sequence[Facts], waits_s: Sequence[Any]) -> str | None:
    """Why the load decides nothing, when something it should meet was never met."""
    for kind in ("random", "pathfinder"):
        of_kind = [facts for facts in lent if facts["kind"] == kind]
        if not of_kind:
            return f"no {kind} set was run to its end"
        if not any(facts["inversions"] for facts in of_kind):
            return f"in no {kind} set a high stage met a lower one that held what it needs"
    missing = sum(wait_s is None for wait_s in waits_s)
    if missing or len(waits_s) < history.sizes["real"]:
        return (
            f"in {missing} of {len(waits_s)} real runs the high stage did not wait, or one failed"
        )
    return None


def _notes(sets: Sequence[Facts], lent: Sequence[Facts], over: Sequence[int]) -> Iterator[str]:
    broken = [facts for facts in sets if "broke" in facts]
    if broken:
        yield f"{len(broken)} sets broke: {broken[0]['broke']}; seed {broken[0]['seed']}"
    for kind in ("random", "pathfinder"):
        wrong = [f for f, n in zip(lent, over, strict=True) if f["kind"] == kind and n]
        if wrong:
            yield f"{len(wrong)} {kind} sets above their bound; seed {wrong[0]['seed']}"
    yield (
        f"{sum(facts['inversions'] for facts in lent):,} requests of a highest stage met a lower"
        f" holder; {sum(facts['boosts_tried'] for facts in lent):,} ended boosts were tested"
    )


SCENARIO = Scenario(
    row="DAG-002",
    claim=(
        "a high-priority stage waits at most for the blocking bound of the inheritance protocol,"
        " however many medium-priority stages run."
    ),
    sizes=Sizes(
        quick={
            "random": 800,
            "pathfinder": 200,
            "real": 100,
            "stages_max": 40,
            "pools_max": 6,
            "workers": 2,
            "lanes": 4,
        },
        full={
            "random": 80_000,
            "pathfinder": 20_000,
            "real": 100,
            "stages_max": 40,
            "pools_max": 6,
            "workers": 2,
            "lanes": 4,
        },
        fixed=("stages_max", "pools_max", "workers", "lanes"),
        totals={"sets": "random + pathfinder"},
    ),
    metrics=(
        Metric(
            "bound_violations",
            "==",
            0,
            "stages",
            doc="stages that waited for longer than the bound computed from their set",
        ),
        Metric(
            "hard_without",
            ">=",
            0.8,
            doc="share of Pathfinder sets that violate the bound when nothing is lent",
        ),
        Metric(
            "boosts_restored",
            "==",
            1.0,
            doc="share of ended boosts after which a more urgent stage that waits goes first",
        ),
        Metric(
            "real_p99",
            "<=",
            1.5,
            "longest sections",
            doc="P99 of what the high stage waits on a real loop and thread, by the length of the"
            " longest critical section",
        ),
        Metric(
            "chains_told",
            "==",
            1.0,
            doc="share of sets with a wait above its bound, or an event about one, in which the"
            " event names exactly those on whom that wait depends",
        ),
        Metric("sets_ended", "==", 1.0, doc="share of sets whose runs all ended ok"),
        Metric(
            "longest_wait",
            "<=",
            1.0,
            "bounds",
            gate=False,
            doc="the longest wait of a highest stage's request, as a share of its bound",
        ),
    ),
    sabotages=DEFECTS,
    load=load,
    check=check,
    wall_limit_s={"quick": 240.0, "full": 2 * 3_600.0},
)
