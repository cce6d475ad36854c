"""Run ids by the ten million: forks, threads, stopped clocks, cloned state; and forced duplicates.

What real systems get wrong: a counter or a pool of random bits that a fork inherits (Heninger et
al., "Mining your Ps and Qs", USENIX Security 2012, tells of the same for keys), a clock that is
trusted to go forward, a cache that takes an id for proof of whose result it holds. RFC 9562,
section 6, says what makers of such ids owe.

A stage's execution is told by its run's id, its node, revision and attempt; so run ids are what
must not repeat.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from typing import Any, Final

from stageflow.model import ids as run_ids
from stageflow.model.ids import RunIds
from stageflow.runtime.driver import Driver
from stageflow.runtime.step import Step

from ...history import History
from ...metric import Metric, counted, share
from ...ratio import ratio_of, timed_pairs
from ...sabotage import patched, sabotage
from ...scenario import Judgement, Scenario, Sizes
from ...world import World
from .forced_duplicates import collide
from .id_makers import (
    CLOCKS,
    ClonedBits,
    ImageOrder,
    Order,
    Stream,
    carried_out,
    carried_out_image,
    compared,
    image,
    unproven,
)

FAULTS: Final = (
    "fork",
    "fork among threads",
    "clock stopped",
    "clock set back",
    "state copied",
    "state cloned",
    "entropy cloned",
)
CLONED: Final = ("state copied", "state cloned", "entropy cloned")
TIMED_IDS: Final = 20_000
SAMPLE_SHARE: Final = 0.1
NOTES_MAX: Final = 8


def load(world: World) -> History:
    """Times, makes ids in all processes, compares what they kept, then forces duplicates."""
    history = History(world.size)
    _time(world, history)
    _make(world, history)
    equal, total = compared(world.scratch)
    history.record("compared", equal=equal, ids=total)
    for found in asyncio.run(
        collide(world.scratch, count=world.size["collisions"], seed=world.seed_for("collisions"))
    ):
        history.record("collision", **asdict(found))
    for fault in FAULTS:
        times = sum(event.data["fault"] == fault for event in history.of("stream"))
        if times:
            history.fired(fault, times)
    return history


def _time(world: World, history: History) -> None:
    ids = RunIds()

    def subject() -> None:
        for _ in range(TIMED_IDS):
            ids()

    def floor() -> None:
        for _ in range(TIMED_IDS):
            uuid.uuid4()

    for subject_s, floor_s in timed_pairs(subject, floor, repeats=world.size["rounds"]):
        history.record("timed", subject_s=subject_s, floor_s=floor_s)


def _make(world: World, history: History) -> None:
    """Records a `stream` per maker, and `broken` for a process that failed."""
    size = world.size
    half = size["ids"] // size["processes"]
    orders: list[Order | ImageOrder] = [
        Order(
            str(world.scratch),
            f"p{number}",
            CLOCKS[number % len(CLOCKS)],
            ids=half,
            shared=min(half, size["threaded"]),
            copied=size["copied"],
        )
        for number in range(size["processes"] // 2)
    ]
    now = time.time_ns()
    orders += [
        ImageOrder(str(world.scratch), f"{kind}{number}", size["cloned"], now, state, entropy)
        for kind, state, entropy in (
            ("state", image(now), None),
            ("entropy", None, world.seed_for("entropy")),
        )
        for number in range(2)
    ]
    fresh = multiprocessing.get_context("spawn")
    done = 0
    with ProcessPoolExecutor(len(orders), mp_context=fresh) as pool:
        asked = [pool.submit(sabotaged, order, world.sabotage) for order in orders]
        for future in as_completed(asked):
            error = future.exception()
            if error is not None:
                history.record("broken", what=f"{type(error).__name__}: {error}"[:300])
                continue
            for stream in future.result():
                history.record("stream", **asdict(stream))
                done += stream.ids
            world.progress(done, size["ids"], "ids")


def sabotaged(order: Order | ImageOrder, name: str | None) -> list[Stream]:
    """In a process of its own: patches do not cross into it by themselves."""
    with SCENARIO.sabotaged(name):
        return carried_out(order) if isinstance(order, Order) else carried_out_image(order)


def check(history: History) -> Judgement:
    """Judges what was made and compared; ids that were not made decide nothing."""
    streams = [dict(event.data) for event in history.of("stream")]
    ids = sum(stream["ids"] for stream in streams)
    seen = history.last("compared")
    equal = 0 if seen is None else seen.data["equal"]
    collisions = [event.data for event in history.of("collision")]
    pairs = [(event.data["subject_s"], event.data["floor_s"]) for event in history.of("timed")]
    n = len(collisions)
    return Judgement(
        {
            "duplicates": counted(equal, ids),
            "order_violations": counted(sum(stream["disordered"] for stream in streams), ids),
            "unproven": counted(unproven(streams), ids),
            "collisions_refused": share(sum(each["refused"] for each in collisions), n),
            "refusals_that_name_both": share(sum(each["named"] for each in collisions), n),
            "runs_left_intact": share(sum(each["intact"] for each in collisions), n),
            "results_reused": counted(sum(each["reused"] for each in collisions), 2 * n),
            "cost": ratio_of(pairs),
        },
        unknown=_undecided(history, streams),
        notes=tuple(_notes(history, streams)),
    )


def _undecided(history: History, streams: list[dict[str, Any]]) -> str | None:
    sizes, seen = history.sizes, history.last("compared")
    if history.count("broken"):
        return str(next(history.of("broken")).data["what"])
    ids = sum(stream["ids"] for stream in streams if stream["fault"] not in CLONED)
    if ids < sizes["ids"]:
        return f"{ids:,} of {sizes['ids']:,} ids were made"
    if seen is None or seen.data["ids"] < SAMPLE_SHARE * ids:
        return "less than a tenth of the ids were compared"
    if history.count("collision") < sizes["collisions"]:
        return f"{history.count('collision'):,} of {sizes['collisions']:,} collisions were forced"
    return None


def _notes(history: History, streams: list[dict[str, Any]]) -> Iterator[str]:
    seen = history.last("compared")
    if seen is not None:
        made = sum(stream["ids"] for stream in streams)
        yield f"{made:,} ids in {len(streams)} streams; {seen.data['ids']:,} sorted and compared"
    ways = Counter((event.data["store"], event.data["way"]) for event in history.of("collision"))
    yield ", ".join(f"{count} {way} ({store})" for (store, way), count in sorted(ways.items()))
    wrong = [
        event.data
        for event in history.of("collision")
        if not (event.data["refused"] and event.data["named"] and event.data["intact"])
    ]
    for data in wrong[:NOTES_MAX]:
        yield f"{data['store']}, {data['way']}: {data['said'] or 'no error'}"


@sabotage(metric="duplicates")
def counter_inherited_across_fork() -> Iterator[None]:
    """A fork goes on with its parent's counter, generator bits and buffer of random bits."""
    with patched(run_ids, "os", ClonedBits(random.Random(os.urandom(16)), pid=0)):
        yield


@sabotage(metric="results_reused")
def result_cache_without_run_scope() -> Iterator[None]:
    """A stage's result is cached by the id of its execution within a run, and the run is left out
    of the key."""
    returned = Driver._returned
    results: dict[tuple[str, int], Any] = {}

    def cached(self: Driver, step: Step, token: int, raw: Any, *rest: Any) -> Any:
        known = results.setdefault((step.node.name, token), raw)
        return returned(self, step, token, known, *rest)

    with patched(Driver, "_returned", cached):
        yield


SCENARIO = Scenario(
    row="CORE-004",
    claim=(
        "10^9 stage-execution ids hold no duplicate across forks, threads, frozen clocks and"
        " cloned entropy, and a forced duplicate is refused instead of sharing a result."
    ),
    sizes=Sizes(
        quick={
            "ids": 20_000_000,
            "processes": 8,
            "threaded": 1_000_000,
            "copied": 50_000,
            "cloned": 200_000,
            "collisions": 1_000,
            "rounds": 15,
            "set_back_s": 60,
        },
        full={
            "ids": 1_000_000_000,
            "processes": 8,
            "threaded": 4_000_000,
            "copied": 1_000_000,
            "cloned": 2_000_000,
            "collisions": 1_000,
            "rounds": 31,
            "set_back_s": 60,
        },
        fixed=("processes", "rounds", "set_back_s"),
    ),
    metrics=(
        Metric(
            "duplicates",
            "==",
            0,
            "ids",
            doc="equal ids among those compared: an eighth of all, chosen by the last letter, and "
            "all of the streams whose generators' bits are equal",
        ),
        Metric(
            "order_violations",
            "==",
            0,
            "ids",
            doc="ids not above the one their generator gave last",
        ),
        Metric(
            "unproven",
            "==",
            0,
            "ids",
            doc="ids whose uniqueness neither follows from their generator's bits and their order "
            "nor was found by comparing all",
        ),
        Metric(
            "collisions_refused",
            "==",
            1.0,
            doc="pairs of runs with one id of which exactly one was refused: 1,000/1,000",
        ),
        Metric(
            "refusals_that_name_both",
            "==",
            1.0,
            doc="refusals that name the id and both runs, another tenant's run left out",
        ),
        Metric(
            "runs_left_intact",
            "==",
            1.0,
            doc="pairs in which the run that has the id kept result and records, and the other "
            "gave its own result under an id of its own",
        ),
        Metric("results_reused", "==", 0, doc="results with the canary of another session's run"),
        Metric("cost", "<=", 3.0, "x", doc="CPU of an id, against uuid.uuid4 in the same rounds"),
    ),
    faults=FAULTS,
    marks=("second_run_refused",),
    sabotages=(counter_inherited_across_fork, result_cache_without_run_scope),
    components=("python:numpy",),
    wall_limit_s={"quick": 300.0, "full": 4 * 3_600.0},
    load=load,
    check=check,
)
