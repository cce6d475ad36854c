"""Races for a run's outputs: wide fan-outs whose values arrive together, late, or from two owners.

What real systems get wrong: outputs are merged by reading a shared state and writing it back, so
that of several that come at once the last one wins; an attempt that was given up delivers after
its successor and replaces the value that others have read already. LangGraph refuses two writers of
one key in one step (https://docs.langchain.com/oss/python/langgraph/errors/INVALID_CONCURRENT_GRAPH_UPDATE);
fencing tokens against late writers: Kleppmann, "How to do distributed locking", 2016.

Each key of each run becomes a line of operations (key_history); equal lines are counted, and the
check judges every distinct line as the history of a write-once register.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ...history import History, HistoryEvent
from ...metric import Metric, counted, share
from ...scenario import Judgement, Scenario, Sizes
from ...world import World
from . import journalled_fan_outs, simulated_fan_outs
from .bag_defects import DEFECTS
from .fan_out import (
    ATTEMPT_FAILED,
    BAG_WRITTEN_TWICE,
    CAME_LATE,
    FAULTS,
    JOURNAL_WRITTEN_TWICE,
    OWNED_TWICE,
)
from .fresh_processes import each
from .key_history import KeyFacts, judged

BATCH: Final = 50
WIDE_EVERY: Final = 50
"""Every such batch is wider, where the size asks for it."""
NOTES_MAX: Final = 8
FAULTS_REAL: Final = (
    CAME_LATE,
    ATTEMPT_FAILED,
    BAG_WRITTEN_TWICE,
    JOURNAL_WRITTEN_TWICE,
    OWNED_TWICE,
)
"""What must happen among threads and processes as well; the simulation has all of FAULTS."""


def load(world: World) -> History:
    """All simulated schedules, then the processes that share one journal."""
    history = History(world.size)
    _simulate(world, history)
    _share_a_journal(world, history)
    for event in list(history.of("befell")):
        for fault in FAULTS:
            if times := event.data["facts"].get(fault, 0):
                history.fired(fault, times)
    return history


def _simulate(world: World, history: History) -> None:
    """Records a `key` per distinct line, `broken` per schedule that raised, and `befell` once."""
    lines: Counter[str] = Counter()
    first: dict[str, tuple[int, int]] = {}
    facts: Counter[str] = Counter()
    orders = list(_batches(world))
    done = 0
    for order, found, error in each(
        simulated_fan_outs.carried_out, orders, at_once=world.size["workers"]
    ):
        done += order.count
        world.progress(done, world.size["schedules"], "schedules")
        if found is None:
            history.record("broken", where="sim", seed=order.first, width=order.width, what=error)
            continue
        lines += found.lines
        facts += found.facts
        _pass_on(found.marks, world)
        for line, seed in found.seeds.items():
            first.setdefault(line, (order.width, seed))
        for seed, what in found.broken:
            history.record("broken", where="sim", seed=seed, width=order.width, what=what)
    history.record("befell", where="sim", facts=dict(facts))
    for line, count in lines.items():
        width, seed = first[line]
        history.record("key", where="sim", line=line, count=count, width=width, seed=seed)


def _batches(world: World) -> Iterator[simulated_fan_outs.Order]:
    size, seed = world.size, world.seed_for("schedules")
    left: int = size["schedules"]
    number = 0
    while left:
        count = min(BATCH, left)
        left -= count
        width = size["width"]
        if size["width_max"] > width and number % WIDE_EVERY == WIDE_EVERY - 1:
            width = world.rng.choice(
                (size["width_max"], world.rng.randint(width, size["width_max"]))
            )
        yield simulated_fan_outs.Order(width, seed, count, world.sabotage)
        seed += count
        number += 1


def _share_a_journal(world: World, history: History) -> None:
    """Records a `key` per distinct line of the real runs, and `befell` once."""
    processes, runs = world.size["processes"], world.size["real_runs"]
    orders = [
        journalled_fan_outs.Order(
            journal=str(world.scratch / "runs.db"),
            process=process,
            runs=runs // processes + (process < runs % processes),
            width=world.size["width"],
            seed=world.seed_for("real", process),
            sabotage=world.sabotage,
        )
        for process in range(processes)
    ]
    lines: Counter[str] = Counter()
    facts: Counter[str] = Counter()
    for order, told, error in each(
        journalled_fan_outs.carried_out,
        [order for order in orders if order.runs],
        at_once=processes,
    ):
        if told is None:
            history.record("broken", where="real", seed=order.seed, width=order.width, what=error)
            continue
        lines.update(told.lines)
        facts += told.facts
        _pass_on(told.marks, world)
        world.progress(facts["runs"], runs, "runs on one journal")
    history.record("befell", where="real", facts=dict(facts))
    for line, count in lines.items():
        history.record("key", where="real", line=line, count=count, width=0, seed=0)


def _pass_on(marks: Mapping[str, int], world: World) -> None:
    for name, times in marks.items():
        world.marks.add(name, times)


def check(history: History) -> Judgement:
    """Judges each distinct line, and weighs what it shows by how many keys had it."""
    keys = [(event, judged(event.data["line"])) for event in history.of("key")]

    def total(field: str) -> int:
        return sum(event.data["count"] * int(getattr(facts, field)) for event, facts in keys)

    facts = {event.data["where"]: event.data["facts"] for event in history.of("befell")}
    stale = sum(each.get(OWNED_TWICE, 0) for each in facts.values())
    stale_raised = sum(each.get("stale_raised", 0) for each in facts.values())
    n = sum(event.data["count"] for event, _ in keys)
    runs = sum(each.get("schedules", 0) + each.get("runs", 0) for each in facts.values())
    sim = facts.get("sim", {})
    return Judgement(
        {
            "lost": counted(total("lost"), n),
            "duplicated": counted(total("duplicated"), n),
            "silent_overwrites": counted(total("overwritten"), n),
            "register_violations": counted(total("irregular"), n),
            "conflicts_raised": share(total("raised") + stale_raised, total("injected") + stale),
            "conflicts_named": share(total("named"), total("rogue")),
            "losing_values_kept": share(total("kept"), total("late")),
            "broken_runs": counted(history.count("broken"), max(runs, history.count("broken"))),
            "within_2ms": share(sim.get("within_2ms", 0), sim.get("timed", 0)),
        },
        unknown=_undecided(history, facts),
        notes=tuple(_notes(history, facts, keys)),
    )


def _undecided(history: History, facts: Mapping[str, Mapping[str, int]]) -> str | None:
    """What did not happen, without which the row shows nothing; a broken run shows enough."""
    if history.count("broken"):
        return None
    wanted = (("sim", "schedules", "schedules", FAULTS), ("real", "real_runs", "runs", FAULTS_REAL))
    for where, asked, done, faults in wanted:
        told = facts.get(where, {})
        missing = history.sizes[asked] - told.get(done, 0)
        if missing:
            return f"{missing} of {history.sizes[asked]} {where} runs are missing"
        absent = [fault for fault in faults if not told.get(fault)]
        if absent:
            return f"never happened in {where} runs: {'; '.join(absent)}"
    return None


def _notes(
    history: History,
    facts: Mapping[str, Mapping[str, int]],
    keys: Sequence[tuple[HistoryEvent, KeyFacts]],
) -> Iterator[str]:
    for where, told in sorted(facts.items()):
        shown = ", ".join(f"{count:,} {what}" for what, count in sorted(told.items()))
        yield f"{where}: {shown}"
    wrong = [(event.data, each) for event, each in keys if _is_wrong(each)]
    wrong.sort(key=lambda pair: -pair[0]["count"])
    for data, _ in wrong[:NOTES_MAX]:
        again = f"; {_reproduction(data['width'], data['seed'])}" if data["where"] == "sim" else ""
        yield f"{data['count']:,} keys in {data['where']} runs: {data['line']}{again}"
    for event in list(history.of("broken"))[:NOTES_MAX]:
        data = event.data
        again = f"; {_reproduction(data['width'], data['seed'])}" if data["where"] == "sim" else ""
        yield f"broken: {data['what'].splitlines()[0]}{again}"


def _is_wrong(facts: KeyFacts) -> bool:
    return (
        bool(facts.lost or facts.duplicated or facts.overwritten or facts.irregular)
        or facts.raised != facts.injected
        or facts.kept != facts.late
        or facts.named != facts.rogue
    )


def _reproduction(width: int, seed: int) -> str:
    return f"python -m {simulated_fan_outs.__name__} {width} {seed}"


SCENARIO = Scenario(
    row="CORE-001",
    claim=(
        "in any fan-out, each declared output ends up stored exactly once and each undeclared"
        " conflict raises; no schedule loses or silently replaces a key."
    ),
    sizes=Sizes(
        quick={
            "schedules": 2_000,
            "width": 50,
            "width_max": 50,
            "real_runs": 100,
            "workers": 2,
            "processes": 4,
        },
        full={
            "schedules": 200_000,
            "width": 50,
            "width_max": 500,
            "real_runs": 100,
            "workers": 2,
            "processes": 4,
        },
        fixed=("width", "width_max", "workers", "processes"),
    ),
    metrics=(
        Metric("lost", "==", 0, "keys", doc="accepted values that are missing later"),
        Metric("duplicated", "==", 0, "keys", doc="keys with two accepted values"),
        Metric(
            "silent_overwrites",
            "==",
            0,
            "keys",
            doc="keys whose value, read or kept, is not the accepted attempt's",
        ),
        Metric(
            "conflicts_raised",
            "==",
            1.0,
            doc="conflicts told by an error or an event, as a share of those injected",
        ),
        Metric(
            "register_violations",
            "==",
            0,
            "keys",
            doc="keys whose history is none of a write-once register",
        ),
        Metric(
            "conflicts_named",
            "==",
            1.0,
            doc="errors of second writers that name key, both writers, attempts and merges",
        ),
        Metric(
            "losing_values_kept",
            "==",
            1.0,
            doc="values that lost and are in the journal, under their attempt",
        ),
        Metric("broken_runs", "==", 0, "runs", doc="runs in which the engine itself raised"),
        Metric(
            "within_2ms",
            ">=",
            0.9,
            gate=False,
            doc="simulated runs without a journal whose values came within 2 ms",
        ),
    ),
    sabotages=DEFECTS,
    load=load,
    check=check,
    faults=FAULTS,
    marks=(
        "late_write",
        "second_value_refused",
        "stale_owner_refused",
        "run_taken_over",
        "thread_stuck",
    ),
)
