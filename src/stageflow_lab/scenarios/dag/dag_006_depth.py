"""Depth: chains of up to 100,000 stages and 200 nested pipelines, timed, broken, killed, resumed.

What real systems get wrong: recursion over the graph, the exception chain or the await chain (the
interpreter allows 1,000 frames: https://docs.python.org/3/library/sys.html#sys.setrecursionlimit);
a look at everything done so far for each new stage; a history that is bounded at some 50,000
events (https://docs.temporal.io/workflow-execution/limits); resuming from the start.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Final

from ...history import History
from ...metric import Measured, Metric, counted, share
from ...ratio import ratio_of
from ...scenario import Judgement, Scenario, Sizes
from ...world import World
from .depth_costs import look_everywhere, time_depths, time_nesting, weigh
from .depth_defects import DEFECTS
from .depth_failures import break_and_mend, break_and_report, break_nested, crash_simulated
from .depth_kills import kill_and_resume

SECTIONS: Final[tuple[Callable[[World, History], None], ...]] = (
    break_and_report,
    break_and_mend,
    break_nested,
    crash_simulated,
    kill_and_resume,
    look_everywhere,
    weigh,
    time_nesting,
    time_depths,
)


def load(world: World) -> History:
    """Every section in turn; one that meets the interpreter's limit is told and left."""
    history = History(world.size)
    for section in SECTIONS:
        history.record("operation", name=section.__name__)
        try:
            section(world, history)
        except RecursionError:
            history.record("recursion", where=section.__name__)
    return history


def check(history: History) -> Judgement:
    """Judges times as ratios, everything else as counts; what did not happen stays unmeasured."""
    completed = list(history.of("completed"))
    done = sum(event.data["ok"] for event in completed)
    reports = list(history.of("reported"))
    operations = history.count("operation") + len(completed) + len(reports)
    named = sum(
        event.data["named"]
        and event.data["done_readable"]
        and event.data["status"] in ("failed", "partial")
        for event in reports
    )
    return Judgement(
        {
            "completed": share(done, len(completed)),
            "per_stage_ratio": _times(history, "run"),
            "per_stage_ratio_journalled": _times(history, "journalled"),
            "per_level_ratio": _times(history, "nested"),
            "retained_bytes_per_stage": _retained(history),
            "reexecuted_max": _reexecuted(history),
            "recursion_errors": counted(history.count("recursion"), operations),
            "report_lines_max": _longest(history),
            "faults_reported": share(named, len(reports)),
            "faults_fired": _fired(history),
            "build_ratio": _times(history, "built"),
            "per_stage_ratio_collected": _sums(history, "collected"),
        },
        notes=_notes(history),
    )


def _times(history: History, what: str) -> Measured:
    pairs = [
        (event.data["deep_s"], event.data["shallow_s"])
        for event in history.of("timed")
        if event.data["what"] == what
    ]
    return ratio_of(pairs)


def _sums(history: History, what: str) -> Measured:
    """All rounds together: what hits few rounds hard, as full collections do, counts in full."""
    pairs = [event.data for event in history.of("timed") if event.data["what"] == what]
    shallow_s = sum(pair["shallow_s"] for pair in pairs)
    value = sum(pair["deep_s"] for pair in pairs) / shallow_s if shallow_s else math.nan
    return Measured(value, n=len(pairs))


def _retained(history: History) -> Measured:
    weights = [
        (event.data["held_bytes"] - event.data["outputs_bytes"]) / event.data["depth"]
        for event in history.of("weighed")
        if event.data["ok"]
    ]
    if not weights:
        return Measured(math.nan, n=0, note="nothing was weighed")
    shown = ", ".join(f"{weight:,.0f}" for weight in weights)
    return Measured(max(weights), n=len(weights), note=f"at each depth: {shown}")


def _reexecuted(history: History) -> Measured:
    """The worst resumption; unmeasured when fewer processes were killed than were to be."""
    again = [event.data["reexecuted"] for event in history.of("resumed")]
    asked = _kills_asked(history)
    killed = history.count("killed")
    if not again or killed < asked:
        return Measured(math.nan, n=0, note=f"{killed} of {asked} kills fired")
    how = Counter(event.data["how"] for event in history.of("resumed"))
    note = ", ".join(f"{count} after {name}" for name, count in sorted(how.items()))
    return Measured(max(again), n=len(again), note=note)


def _fired(history: History) -> Measured:
    """Links that broke and kills that hit; unmeasured, and so unknown, when one did not."""
    broken = [event.data["fired"] for event in history.of("broken")]
    fired, asked = sum(broken) + history.count("killed"), len(broken) + _kills_asked(history)
    missing = Measured(math.nan, n=0, note=f"{fired} of {asked} fired")
    return share(fired, asked) if fired >= asked > 0 else missing


def _kills_asked(history: History) -> int:
    return int(history.sizes.get("kills", 0)) + int(history.sizes.get("sim_crashes", 0))


def _longest(history: History) -> Measured:
    lines = [event.data["lines"] for event in history.of("reported")]
    if not lines or min(lines) == 0:
        return Measured(math.nan, n=0, note="some failure was not reported at all")
    return Measured(max(lines), n=len(lines))


def _notes(history: History) -> tuple[str, ...]:
    wrong = Counter(e.data["how"] for e in history.of("completed") if not e.data["ok"])
    notes = [f"{count} {how} did not complete" for how, count in sorted(wrong.items())]
    where = Counter(event.data["where"] for event in history.of("recursion"))
    notes += [f"{count} recursion errors in {name}" for name, count in sorted(where.items())]
    moments = Counter(event.data["moment"] for event in history.of("killed"))
    if moments:
        shown = ", ".join(f"{count} {moment}" for moment, count in sorted(moments.items()))
        notes.append(f"killed: {shown}")
    return tuple(notes)


SCENARIO = Scenario(
    row="DAG-006",
    claim=(
        "chains of 100,000 stages and 200 nested subpipelines run with flat per-stage cost and"
        " resume at the broken link."
    ),
    sizes=Sizes(
        quick={
            "shallow": 1_000,
            "deep": 10_000,
            "nesting": 200,
            "link_depth": 1_000,
            "sim_depth": 300,
            "failures": 50,
            "nested_failures": 20,
            "sim_crashes": 20,
            "kills": 20,
            "rounds": 41,
            "rounds_journalled": 7,
            "rounds_built": 3,
        },
        full={
            "shallow": 10_000,
            "deep": 100_000,
            "nesting": 200,
            "link_depth": 100_000,
            "sim_depth": 1_000,
            "failures": 50,
            "nested_failures": 50,
            "sim_crashes": 200,
            "kills": 20,
            "rounds": 41,
            "rounds_journalled": 7,
            "rounds_built": 3,
        },
        fixed=(
            "shallow",
            "deep",
            "nesting",
            "link_depth",
            "sim_depth",
            "rounds",
            "rounds_journalled",
            "rounds_built",
        ),
    ),
    metrics=(
        Metric("completed", "==", 1.0, doc="share of runs that ended ok with the right output"),
        Metric(
            "per_stage_ratio",
            "<=",
            1.2,
            "times",
            doc="CPU time a stage at 10\u00d7 depth, as a multiple of that at the lesser depth",
        ),
        Metric("per_stage_ratio_journalled", "<=", 1.2, "times", doc="the same, with a journal"),
        Metric(
            "per_level_ratio",
            "<=",
            1.2,
            "times",
            doc="CPU time a level of pipelines nested 200 deep, as a multiple of that at 20",
        ),
        Metric(
            "retained_bytes_per_stage",
            "<=",
            4_096,
            "bytes",
            doc="stages, pipeline and finished run together, without the outputs themselves",
        ),
        Metric(
            "reexecuted_max",
            "<=",
            1,
            "stages",
            doc="stages that one resumed run executed although they had been executed before",
        ),
        Metric("recursion_errors", "==", 0, doc="RecursionError, anywhere"),
        Metric("report_lines_max", "<=", 50, "lines", doc="of the exception's printed traceback"),
        Metric(
            "faults_reported",
            "==",
            1.0,
            doc="failures whose report names the broken stage and leaves what is done readable",
        ),
        Metric("faults_fired", "==", 1.0, doc="links that broke and kills that hit"),
        Metric(
            "per_stage_ratio_collected",
            "<=",
            1.2,
            "times",
            gate=False,
            doc="as per_stage_ratio, with full garbage collections of all that the process holds",
        ),
        Metric("build_ratio", "<=", 1.2, "times", gate=False, doc="CPU time a stage of building"),
    ),
    sabotages=DEFECTS,
    load=load,
    check=check,
    faults=("a stage that raises", "SIGKILL", "power loss of the simulated machine"),
)
