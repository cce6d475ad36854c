"""Pipelines inside pipelines: whatever a child does, its parent sees its exports and nothing else.

What real systems get wrong: a child is handed its parent's state by reference, and writes into it;
what a child gives is merged by updating a dictionary, so that equal names replace each other;
parallel children that share keys overwrite one another or raise
(https://github.com/langchain-ai/langgraph/issues/6446); a child that was given up delivers all the
same. The trees are grown by a rule-based machine:
https://hypothesis.readthedocs.io/en/latest/stateful.html.

Each key of each run becomes a line of operations (context_lines); equal lines are counted, and the
check judges every distinct line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ...history import History
from ...metric import Metric, counted, share
from ...scenario import Judgement, Scenario, Sizes
from ...world import World
from . import journalled_trees, simulated_trees
from .child_defects import DEFECTS
from .context_lines import ContextFacts, is_misled, judged
from .fresh_processes import each
from .pipeline_trees import DEPTH_MAX
from .simulated_trees import Explored
from .tree_log import FAULTS, TAKEN_OVER

BATCH: Final = 50
NOTES_MAX: Final = 6
PROCESSES: Final = 2


def load(world: World) -> History:
    """All simulated trees, then those of two processes that share one journal."""
    history = History(world.size)
    _simulate(world, history)
    _share_a_journal(world, history)
    for event in list(history.of("befell")):
        for fault in FAULTS:
            if times := event.data["facts"].get(fault, 0):
                history.fired(fault, times)
    return history


def _simulate(world: World, history: History) -> None:
    """Records a `line` per distinct one, `broken` per tree that raised, and `befell` once."""
    trees, seed = world.size["trees"], world.seed_for("trees") % 2**40
    orders = [
        simulated_trees.Order(seed + at, min(BATCH, trees - at), world.sabotage)
        for at in range(0, trees, BATCH)
    ]
    total = Explored()
    found = each(simulated_trees.carried_out, orders, at_once=world.size["workers"])
    for order, explored, error in found:
        if explored is None:
            history.record("broken", where="sim", case="", seed=order.first, what=error)
            continue
        _add(total, explored, world)
        world.progress(total.facts["trees"], trees, "trees")
    _record(history, "sim", total)


def _share_a_journal(world: World, history: History) -> None:
    """As `_simulate`, of real trees."""
    trees = world.size["real_trees"]
    counts = tuple(
        trees // PROCESSES + (process < trees % PROCESSES) for process in range(PROCESSES)
    )
    orders = [
        journalled_trees.Order(
            journal=str(world.scratch / "runs.db"),
            process=process,
            counts=counts,
            seed=world.seed_for("real") % 2**40,
            sabotage=world.sabotage,
        )
        for process in range(PROCESSES)
        if counts[process]
    ]
    total = Explored()
    for order, explored, error in each(journalled_trees.carried_out, orders, at_once=PROCESSES):
        if explored is None:
            history.record("broken", where="real", case="", seed=order.seed, what=error)
            continue
        _add(total, explored, world)
        world.progress(total.facts["trees"], trees, "trees on one journal")
    _record(history, "real", total)


def _add(total: Explored, explored: Explored, world: World) -> None:
    total.lines += explored.lines
    total.facts += explored.facts
    total.broken += explored.broken
    for line, shown in explored.shown_by.items():
        total.shown_by.setdefault(line, shown)
    for name, times in explored.marks.items():
        world.marks.add(name, times)


def _record(history: History, where: str, total: Explored) -> None:
    history.record("befell", where=where, facts=dict(total.facts))
    for line, count in total.lines.items():
        case, seed = total.shown_by[line]
        shown = case if _is_odd(line) else ""
        history.record("line", where=where, line=line, count=count, case=shown, seed=seed)
    for case, seed, what in total.broken:
        history.record("broken", where=where, case=case, seed=seed, what=what)


def _is_odd(line: str) -> bool:
    """Whether its case is worth keeping: most lines are of trees that went as they should."""
    return is_misled(line) if line.startswith("take ") else _is_wrong(judged(line))


def check(history: History) -> Judgement:
    """Judges each distinct line, and weighs what it shows by how often it was."""
    lines = [event.data for event in history.of("line")]
    keys = [(data, judged(data["line"])) for data in lines if not data["line"].startswith("take ")]
    takes = [data for data in lines if data["line"].startswith("take ")]
    facts = {event.data["where"]: event.data["facts"] for event in history.of("befell")}
    own = [pair for pair in keys if pair[0]["line"].startswith("own ")]
    others = [pair for pair in keys if not pair[0]["line"].startswith("own ")]

    def total(pairs: Sequence[tuple[Mapping[str, Any], ContextFacts]], field: str) -> int:
        return sum(data["count"] * int(getattr(found, field)) for data, found in pairs)

    def number(several: Sequence[Mapping[str, Any]]) -> int:
        return sum(data["count"] for data in several)

    n, n_own = number([data for data, _ in keys]), number([data for data, _ in own])
    misled = sum(data["count"] for data in takes if is_misled(data["line"]))
    seen = number(takes) + number([data for data, _ in others])
    refused = total(keys, "refused")
    late = total(keys, "late")
    trees = sum(told.get("trees", 0) for told in facts.values())
    sim = facts.get("sim", {})
    return Judgement(
        {
            "parent_unchanged": share(n_own - total(own, "changed"), n_own),
            "amnesia": counted(total(keys, "lost"), n),
            "exports_exact": share(seen - misled - total(others, "misled"), seen),
            "late_writes_accepted": counted(late, refused + late),
            "late_writes_kept": share(total(keys, "kept"), total(keys, "owed")),
            "miswirings_refused": share(sim.get("refused", 0), sim.get("miswired", 0)),
            "miswirings_named": share(sim.get("named", 0), sim.get("miswired", 0)),
            "broken_trees": counted(history.count("broken"), max(trees, history.count("broken"))),
        },
        unknown=_undecided(history, facts),
        notes=tuple(_notes(history, facts, keys, takes)),
    )


def _undecided(history: History, facts: Mapping[str, Mapping[str, int]]) -> str | None:
    """What did not happen, without which the row shows nothing; a broken tree shows enough."""
    if history.count("broken"):
        return None
    wanted = (
        ("sim", "trees", (*FAULTS, f"{DEPTH_MAX} deep")),
        ("real", "real_trees", (TAKEN_OVER,)),
    )
    for where, asked, faults in wanted:
        told = facts.get(where, {})
        missing = history.sizes[asked] - told.get("trees", 0)
        if missing:
            return f"{missing} of {history.sizes[asked]} {where} trees are missing"
        absent = [fault for fault in faults if not told.get(fault)]
        if absent:
            return f"never happened in {where} trees: {'; '.join(absent)}"
    return None


def _notes(
    history: History,
    facts: Mapping[str, Mapping[str, int]],
    keys: Sequence[tuple[Mapping[str, Any], ContextFacts]],
    takes: Sequence[Mapping[str, Any]],
) -> Iterator[str]:
    for where, told in sorted(facts.items()):
        shown = ", ".join(f"{count:,} {what}" for what, count in sorted(told.items()))
        yield f"{where}: {shown}"
    wrong = [data for data, found in keys if _is_wrong(found)]
    wrong += [data for data in takes if is_misled(data["line"])]
    wrong.sort(key=lambda data: -data["count"])
    for data in wrong[:NOTES_MAX]:
        where = f"{data['count']:,} in {data['where']} trees"
        yield f"{where}: {data['line']}{_reproduction(data)}"
    causes = Counter(event.data["what"].split("\n")[0] for event in history.of("broken"))
    for what, count in causes.most_common(NOTES_MAX):
        first = next(e.data for e in history.of("broken") if e.data["what"].startswith(what))
        yield f"broken {count}: {what}{_reproduction(first)}"


def _is_wrong(facts: ContextFacts) -> bool:
    return facts.changed or facts.lost or facts.misled or facts.late or facts.kept != facts.owed


def _reproduction(data: Mapping[str, Any]) -> str:
    if data["where"] != "sim" or not data["case"]:
        return ""
    return f"; python -m {simulated_trees.__name__} '{data['case']}' {data['seed']}"


SCENARIO = Scenario(
    row="CORE-003",
    claim=(
        "whatever a child pipeline does, its parent's context changes only in keys the parent"
        " declared as exports."
    ),
    sizes=Sizes(
        quick={"trees": 1_000, "depth": DEPTH_MAX, "real_trees": 50, "workers": 2},
        full={"trees": 100_000, "depth": DEPTH_MAX, "real_trees": 50, "workers": 2},
        fixed=("depth", "workers"),
    ),
    metrics=(
        Metric(
            "parent_unchanged",
            "==",
            1.0,
            doc="keys outside exports that hold what their own run wrote, at every look",
        ),
        Metric("amnesia", "==", 0, "keys", doc="keys that had a value and are missing later"),
        Metric(
            "exports_exact",
            "==",
            1.0,
            doc="exports and arguments that are what their consumer declared, of what was seen",
        ),
        Metric(
            "late_writes_accepted",
            "==",
            0,
            "values",
            doc="values of attempts and children that had been given up, accepted all the same",
        ),
        Metric(
            "late_writes_kept",
            "==",
            1.0,
            doc="late values of journalled runs that their journal keeps, as refused",
        ),
        Metric(
            "miswirings_refused",
            "==",
            1.0,
            doc="exports that are undeclared, or collide, and stages taken unexported: refused",
        ),
        Metric("miswirings_named", "==", 1.0, doc="those whose error names both stages"),
        Metric("broken_trees", "==", 0, "trees", doc="trees in which the engine itself raised"),
    ),
    sabotages=DEFECTS,
    load=load,
    check=check,
    components=("python:hypothesis",),
    faults=FAULTS,
    marks=("late_write", "stale_owner_refused", "run_taken_over", "thread_stuck"),
)
