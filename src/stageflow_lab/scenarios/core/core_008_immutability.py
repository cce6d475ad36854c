"""Immutability: values of eight families go into a snapshot by eight routes and are attacked.

What real systems get wrong: a frozen dataclass whose lists can be appended to; sharing "immutable"
objects that `object.__setattr__` changes; keeping the caller's container; trusting NumPy's
read-only flag, which `numpy.add.at` does not ask; handing two consumers one object.

The hash is the framework's own, so an image made without the framework is compared as well, at
every read. Out of scope: see mutators.py.
"""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
import pickle
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import Any, Final

from stageflow.model.boxes import Frozen
from stageflow.model.values import Freezer

from ...history import History, HistoryEvent
from ...metric import Measured, Metric, counted, share
from ...ratio import ratio_of
from ...sabotage import patched, sabotage
from ...scenario import Judgement, Scenario, Sizes
from ...world import World
from .frozen_costs import bait, time_freezing, time_reads
from .frozen_routes import READERS, ROUTES
from .frozen_sieges import PHASES, Portion, besiege, portions
from .mutators import MUTATORS, attack
from .refused_values import BOUNDARIES, refused
from .value_image import image

MUTATORS_MIN: Final = 40
SURFACES: Final = (
    "parameter",
    "ctx.snapshot",
    "original",
    "guard",
    "stream",
    "run.snapshot",
    "run[stage]",
    "run.output",
    "identity",
)


def load(world: World) -> History:
    """Times, tests the mutators on values that nothing froze, offers bad values, then besieges."""
    history = History(world.size)
    time_reads(world, history)
    time_freezing(world, history)
    _try_mutators(world, history)
    asyncio.run(_offer(world, history))
    planned = portions(world)
    for done, result in enumerate(_results(planned, world), start=1):
        for run in result["runs"]:
            history.record("run", **run)
        for mutator, surface, times in result["tried"]:
            history.record("tried", mutator=mutator, surface=surface, times=times)
        world.progress(done, len(planned), f"portions, {history.count('run')} runs")
    history.fired("mutation of views", int(history.total("run", "returned")))
    history.fired("mutation of kept originals", int(history.total("run", "kept_changed")))
    history.fired("values that cannot be frozen", history.count("offered"))
    return history


def check(history: History) -> Judgement:
    """Judges what every run saw; a siege that did not happen as planned decides nothing."""
    runs = list(history.of("run"))
    whole = [event for event in runs if _is_whole(event)]
    values = sum(event.data["values"] for event in whole)
    same = sum(event.data["values"] for event in whole if event.data["hash_same"])
    torn, escapes = history.total("run", "torn"), history.total("run", "escapes")
    reads, attacks = history.total("run", "reads"), history.total("run", "attacks")
    offered = list(history.of("offered"))
    taught = sum(map(_teaches, offered))
    clean = same == values and torn == 0 and escapes == 0
    return Judgement(
        {
            "hash_unchanged": share(same, values),
            "attacks_that_reached_the_snapshot": counted(int(escapes), int(attacks)),
            "torn_reads": counted(int(torn), int(reads)),
            "read_cost": _worst(history, "read "),
            "freeze_cost": _worst(history, "freeze "),
            "refusals_that_teach": share(taught, len(offered)),
            "one_key_cost": _worst(history, "one key"),
        },
        unknown=_undecided(history, whole) if clean else None,
        notes=_notes(history, runs, offered),
    )


def _try_mutators(world: World, history: History) -> None:
    """Which mutators change a value that nothing has frozen: the others would prove nothing."""
    baits = bait(world.size["bait_rows"], world.seed_for("bait"), world.scratch)
    for name, mutate in MUTATORS.items():
        changed = 0
        for pickled in baits:
            value = pickle.loads(pickled)
            before = image(value)
            attack(mutate, value)
            changed += image(value) != before
        history.record("mutator", name=name, changed=changed, of=len(baits))


async def _offer(world: World, history: History) -> None:
    for number in range(world.size["refused"]):
        rng = random.Random(world.seed_for("refused", number))
        history.record("offered", **await refused(rng, BOUNDARIES[number % len(BOUNDARIES)]))


def _results(planned: list[Portion], world: World) -> Iterator[dict[str, Any]]:
    if world.size["workers"] < 2:
        yield from map(besiege, planned)
        return
    # Not forked: the timings above may have left threads behind.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        world.size["workers"], mp_context=context, initializer=follow_parent
    ) as pool:
        names = [world.sabotage] * len(planned)
        yield from pool.map(besiege_sabotaged, planned, names)


def follow_parent() -> None:
    """Ends this worker when its parent is killed: nothing else would wake it from its queue."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only worker processes call this"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def besiege_sabotaged(portion: Portion, name: str | None) -> dict[str, Any]:
    """In a worker process: patches do not cross into it by themselves."""
    with SCENARIO.sabotaged(name):
        return besiege(portion)


def _is_whole(event: HistoryEvent) -> bool:
    """True for a run in which all 64 readers met and all the mutators asked for were used."""
    data = event.data
    met = data["status"] == "ok" and data["readers"] == READERS
    return met and bool(data["mutators"] >= MUTATORS_MIN)


def _teaches(event: HistoryEvent) -> bool:
    return all(event.data[fact] for fact in ("refused", "located", "hinted", "readable"))


def _worst(history: History, prefix: str) -> Measured:
    """The highest of the ratios whose names begin so; judged by the upper end of its interval."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for event in history.of("timed"):
        if event.data["what"].startswith(prefix):
            times = (event.data["subject_s"], event.data["floor_s"])
            pairs.setdefault(event.data["what"], []).append(times)
    ratios = {what: ratio_of(times) for what, times in pairs.items()}
    if not ratios or any(ratio.empty for ratio in ratios.values()):
        return Measured(math.nan, n=0, note="not timed, or too briefly for the clock")
    worst = max(ratios, key=lambda what: ratios[what].bound or 0.0)
    shown = ", ".join(f"{what} {ratio.value:.2f}" for what, ratio in sorted(ratios.items()))
    found = ratios[worst]
    return Measured(found.value, n=found.n, bound=found.bound, note=f"{worst} is worst of {shown}")


def _undecided(history: History, whole: list[HistoryEvent]) -> str | None:
    """Why a history without a violation shows nothing; None when the load happened as planned."""
    for phase in PHASES:
        wanted = history.sizes[phase]
        held = sum(event.data["values"] for event in whole if event.data["phase"] == phase)
        if held < wanted:
            return f"{phase}: {held:,} of {wanted:,} values were read by 64 readers and attacked"
    live = sum(event.data["changed"] > 0 for event in history.of("mutator"))
    if live < MUTATORS_MIN:
        return f"only {live} mutators change anything, {MUTATORS_MIN} are asked for"
    attacked = {event.data["surface"] for event in history.of("tried") if event.data["times"] > 0}
    missing = [surface for surface in SURFACES if surface not in attacked]
    if missing:
        return f"never attacked: {', '.join(missing)}"
    offered = Counter(event.data["boundary"] for event in history.of("offered"))
    unoffered = [boundary for boundary in BOUNDARIES if not offered[boundary]]
    return f"nothing to refuse at: {', '.join(unoffered)}" if unoffered else None


def _notes(
    history: History, runs: list[HistoryEvent], offered: list[HistoryEvent]
) -> tuple[str, ...]:
    live = sum(event.data["changed"] > 0 for event in history.of("mutator"))
    raised, returned = history.total("run", "raised"), history.total("run", "returned")
    by_phase = ", ".join(
        f"{phase} {sum(e.data['values'] for e in runs if e.data['phase'] == phase):,}"
        for phase in PHASES
    )
    notes = [
        f"values: {by_phase}; {len(ROUTES)} routes in, {READERS} readers a run",
        f"{live} of {history.count('mutator')} mutators change values that nothing froze; "
        f"in the sieges {int(raised):,} calls raised, {int(returned):,} changed a private copy",
    ]
    for event in runs:
        data = event.data
        if data["escapes"] or data["torn"] or not data["hash_same"]:
            what = ", ".join([*data["escaped"], *(f"torn {route}" for route in data["torn_at"])])
            where = f"{data['phase']}, portion seed {data['seed']}, turn {data['turn']}"
            notes.append(f"{where}: {what or 'another hash'}"[:300])
    notes += [f"run {e.data['turn']}: {e.data['why'][:200]}" for e in runs if not _is_whole(e)]
    notes += [
        f"refusal: {e.data['value_kind']} at {e.data['path']}, said {e.data['said']}"
        for e in offered
        if not _teaches(e)
    ]
    return tuple(notes[:20])


@sabotage(metric="attacks_that_reached_the_snapshot")
def only_the_top_level_is_frozen() -> Iterator[None]:
    """A list or dict is copied, what lies inside it is shared with every view."""
    freeze = Freezer.freeze

    def shallow(self: Freezer, value: Any, /) -> Any:
        if type(value) is dict:
            return Frozen((dict.copy, value.copy()))
        if type(value) is list:
            return Frozen((list.copy, value.copy()))
        return freeze(self, value)

    with patched(Freezer, "freeze", shallow):
        yield


@sabotage(metric="hash_unchanged")
def the_callers_list_is_kept() -> Iterator[None]:
    """A list is put into its box as it is, so that its producer still holds it."""
    freeze = Freezer.freeze

    def trusting(self: Freezer, value: Any, /) -> Any:
        return Frozen((list.copy, value)) if type(value) is list else freeze(self, value)

    with patched(Freezer, "freeze", trusting):
        yield


SCENARIO = Scenario(
    row="CORE-008",
    claim="once a value is in a snapshot, no reference held by anybody can change it.",
    sizes=Sizes(
        quick={
            "sim": 3_200,
            "loop": 800,
            "thread": 1_000,
            "refused": 300,
            "bait_rows": 6,
            "workers": 2,
        },
        full={
            "sim": 320_000,
            "loop": 80_000,
            "thread": 100_000,
            "refused": 10_000,
            "bait_rows": 20,
            "workers": 2,
        },
        fixed=("bait_rows", "workers"),
        totals={"values": "sim + loop + thread"},
    ),
    metrics=(
        Metric(
            "hash_unchanged",
            "==",
            1.0,
            doc="values whose snapshot had the same content hash before and after all attacks",
        ),
        Metric(
            "attacks_that_reached_the_snapshot",
            "==",
            0,
            doc="attacks by one mutator on everything inside one value, after which a new view "
            "from the snapshot differed: each must raise or act on a private copy",
        ),
        Metric("torn_reads", "==", 0, doc="views that were not exactly the value that went in"),
        Metric(
            "read_cost",
            "<=",
            2.0,
            "x",
            doc="a view made and each leaf read by key, against a plain dict; worst of 3 shapes",
        ),
        Metric("freeze_cost", "<=", 3.0, "x", doc="against copy.deepcopy; worst of 8 families"),
        Metric(
            "refusals_that_teach",
            "==",
            1.0,
            doc="values that cannot be kept and were refused at the boundary with code, path and "
            "a mend (an adapter for custom types), finished work staying readable",
        ),
        Metric(
            "one_key_cost",
            "<=",
            2.0,
            "x",
            gate=False,
            doc="reading one key of 1,000 through a new view each time, against a plain dict",
        ),
    ),
    faults=("mutation of views", "mutation of kept originals", "values that cannot be frozen"),
    sabotages=(only_the_top_level_is_frozen, the_callers_list_is_kept),
    components=("python:hypothesis", "python:numpy"),
    load=load,
    check=check,
)
