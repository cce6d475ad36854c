"""Branches: every routing outcome of random graphs, compared with an interpreter of 50 lines.

What real systems get wrong: branches that were not chosen run all the same and their results are
thrown away; a skip that a join takes for a failure, so that everything behind it is lost, which
Airflow's trigger rules had to be invented for (https://airflow.apache.org/docs/apache-airflow/stable/
core-concepts/dags.html#trigger-rules); stages that no choice can ever reach, found in production.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ...history import History
from ...metric import Measured, Metric, counted, share
from ...scenario import Judgement, Scenario, Sizes
from ...world import World
from .branching_defects import DEFECTS
from .branching_pipelines import FAULTS
from .branching_plants import plant
from .branching_runs import run_every_outcome, run_random_graphs, run_real_graphs

CAUSES: Final = ("own", "branch_not_taken", "parent_skipped", "parent_failed", "too_few_values")
CODES: Final[Mapping[str, tuple[str, ...]]] = {
    "a branch that nobody handles": ("graph.branch_unhandled",),
    "a branch that the route has not": ("graph.unknown_branch",),
    "a branch of no route": ("stage.no_branches",),
    "a join of too few": ("graph.join_never_fires",),
    "a join of one branch twice": ("graph.join_never_fires", "graph.unreachable"),
}
"""What the build must say of a planted branch; of all others, that it is unreachable."""
SHOWN: Final = 3
"""Runs that a note names."""


def load(world: World) -> History:
    """Random graphs, every outcome of small ones, dead branches, and real runs last: they leave
    threads, beside which no process should be forked."""
    history = History(world.size)
    for section in (run_random_graphs, run_every_outcome, plant, run_real_graphs):
        section(world, history)
    fired: Counter[str] = Counter()
    for event in history.of("run"):
        fired.update(event.data.get("fired", {}))
    for fault, times in fired.items():
        history.fired(fault, times)
    return history


def check(history: History) -> Judgement:
    """Compares what each run showed with what the interpreter said, stage by stage."""
    built = [event.data for event in history.of("run") if "refused" not in event.data]
    runs = [data for data in built if "broke" not in data]
    planted = [event.data for event in history.of("planted")]
    return Judgement(
        {
            "executed_equal": share(sum(map(_is_executed_equal, runs)), len(built)),
            "states_equal": share(sum(map(_is_told_equal, runs)), len(built)),
            "values_equal": share(
                sum(data["given"] == data["given_expected"] for data in runs), len(built)
            ),
            "unselected_effects": counted(
                sum(len(_names(data, "effects") - _names(data, "may")) for data in runs),
                sum(len(data["told"]) - len(_names(data, "may")) for data in runs),
            ),
            "skips_with_cause": _explained(runs),
            "faults_reported": share(
                sum(len(_names(data, "raised") & _names(data, "reported")) for data in runs),
                sum(len(_names(data, "raised")) for data in runs),
            ),
            "dead_found": share(sum(map(_is_found, planted)), len(planted)),
            "false_reports": _false_reports(history, planted),
            "outcomes_run": _outcomes_run(history),
        },
        unknown=_undecided(history, runs),
        notes=tuple(_notes(history)),
    )


def _names(data: Mapping[str, Any], field: str) -> frozenset[str]:
    return frozenset(data[field].split())


def _either(true: str) -> Sequence[str]:
    return true.split("|")


def _is_executed_equal(data: Mapping[str, Any]) -> bool:
    """Exactly what was selected ran; in a run that a failure ended, what came before it, and
    nothing began after it."""
    executed = _names(data, "executed")
    return _names(data, "must") <= executed <= _names(data, "may") and data["late"] == 0


def _is_told_equal(data: Mapping[str, Any]) -> bool:
    pairs = zip(data["told"], data["true"], strict=True)
    return data["status"] == data["status_expected"] and all(
        told in _either(true) for told, true in pairs
    )


def _explained(runs: Sequence[Mapping[str, Any]]) -> Measured:
    skips, explained = 0, 0
    for data in runs:
        for told, true in zip(data["told"], data["true"], strict=True):
            if told.startswith("skipped"):
                skips += 1
                explained += told in _either(true)
    return share(explained, skips)


def _is_found(data: Mapping[str, Any]) -> bool:
    return any(said in _expected(data) for said in data["said"])


def _expected(data: Mapping[str, Any]) -> list[str]:
    codes = CODES.get(data["kind"], ("graph.unreachable",))
    return [f"{code} {data['node']}" for code in codes]


def _false_reports(history: History, planted: Sequence[Mapping[str, Any]]) -> Measured:
    """Builds refused of graphs in which every stage can run, and errors beside a planted one."""
    graphs = {(e.data["how"], e.data["seed"]) for e in history.of("run")}
    refused = sum("refused" in event.data for event in history.of("run"))
    beside = sum(said not in _expected(data) for data in planted for said in data["said"])
    return counted(refused + beside, len(graphs) + len(planted))


def _outcomes_run(history: History) -> Measured:
    """Graphs whose runs make a whole tree: at each route that runs, everything it may do."""
    ran: dict[int, list[tuple[str, ...]]] = defaultdict(list)
    for event in history.of("run"):
        if event.data["how"] == "every" and "routing" in event.data:
            ran[event.data["seed"]].append(tuple(event.data["routing"].split(" ")))
    graphs = [event.data for event in history.of("exhausted")]
    whole = [_is_whole(ran[data["seed"]], data["options"]) for data in graphs]
    most = max(map(len, ran.values()), default=0)
    found = share(sum(whole), len(graphs))
    return Measured(found.value, n=found.n, note=f"{found.note}, up to {most:,} outcomes each")


def _is_whole(paths: Sequence[tuple[str, ...]], options: Mapping[str, str]) -> bool:
    """True when the paths, `route=said` in order, are all that the options allow, once each."""
    if len(set(paths)) != len(paths) or not paths:
        return False
    said: dict[tuple[str, ...], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in paths:
        for depth, step in enumerate(path):
            route, _, chosen = step.partition("=")
            said[path[:depth]][route].add(chosen)
    return all(
        len(routes) == 1 and " ".join(sorted(chosen)) == options[route]
        for routes in said.values()
        for route, chosen in routes.items()
    )


def _undecided(history: History, runs: Sequence[Mapping[str, Any]]) -> str | None:
    """Why the load decides nothing, when something it should meet was never met."""
    ways = {data["how"] for data in runs}
    for how in ("sim", "every", "real"):
        if how not in ways and not any("refused" in e.data for e in history.of("run")):
            return f"no run of the kind {how!r} came to its end"
    if history.count("planted") < history.sizes.get("planted", 1):
        return "fewer dead branches were planted than were asked for"
    met = {word for data in runs for true in data["true"] for word in true.split(" ")[1:2]}
    absent = [cause for cause in CAUSES if cause not in met]
    if absent:
        return f"nothing was to be skipped as {', '.join(absent)}"
    if not any(data["status_expected"] == "failed" for data in runs):
        return "no failure ended a run"
    return None


def _notes(history: History) -> Iterator[str]:
    """Where to look: the seeds of runs that differ, and the kinds of plants that were missed."""
    wrong: dict[str, list[str]] = defaultdict(list)
    for event in history.of("run"):
        data = event.data
        if "refused" in data or "broke" in data:
            wrong[data.get("refused") or data["broke"]].append(f"{data['how']} {data['seed']}")
        elif not (_is_executed_equal(data) and _is_told_equal(data)):
            wrong["other stages ran, or ended otherwise"].append(f"{data['how']} {data['seed']}")
    for what, seeds in list(wrong.items())[:SHOWN]:
        yield f"{len(seeds)} runs: {what}; seeds {', '.join(seeds[:SHOWN])}"
    missed = Counter(e.data["kind"] for e in history.of("planted") if not _is_found(e.data))
    yield from (f"{count} not found: {kind}" for kind, count in sorted(missed.items()))
    statuses = Counter(
        f"{e.data['how']} {e.data['status']}" for e in history.of("run") if "status" in e.data
    )
    yield "runs: " + ", ".join(f"{count:,} {what}" for what, count in sorted(statuses.items()))


SCENARIO = Scenario(
    row="DAG-008",
    claim=(
        "for every graph and every routing outcome, exactly the stages an independent interpreter"
        " selects run, and unselected branches have no effect."
    ),
    sizes=Sizes(
        quick={
            "graphs": 5_000,
            "exhausted": 24,
            "outcomes_max": 256,
            "planted": 200,
            "real": 200,
            "workers": 2,
        },
        full={
            "graphs": 500_000,
            "exhausted": 2_000,
            "outcomes_max": 2_048,
            "planted": 2_000,
            "real": 10_000,
            "workers": 2,
        },
        fixed=("outcomes_max", "workers"),
    ),
    metrics=(
        Metric(
            "executed_equal",
            "==",
            1.0,
            doc="share of runs in which exactly the stages that the interpreter selects ran",
        ),
        Metric(
            "states_equal",
            "==",
            1.0,
            doc="share of runs in which every stage, and the run, ended as the interpreter says",
        ),
        Metric(
            "values_equal",
            "==",
            1.0,
            doc="share of runs in which each stage got the values of those parents that have one,"
            " and took its defaults for the others",
        ),
        Metric(
            "unselected_effects",
            "==",
            0,
            "stages",
            doc="unselected stages that did their work, or whose value some stage saw",
        ),
        Metric(
            "skips_with_cause", "==", 1.0, doc="share of skips told with a true cause and blame"
        ),
        Metric(
            "faults_reported",
            "==",
            1.0,
            doc="share of stages that raised, at whatever attempt, whose failure the run tells",
        ),
        Metric(
            "dead_found",
            "==",
            1.0,
            doc="share of planted dead branches that the build refuses by code and stage",
        ),
        Metric(
            "false_reports",
            "==",
            0,
            "errors",
            doc="build errors about graphs and stages in which everything can run",
        ),
        Metric(
            "outcomes_run",
            "==",
            1.0,
            doc="share of graphs with 1 to 8 routes that ran with every outcome of theirs",
        ),
    ),
    sabotages=DEFECTS,
    load=load,
    check=check,
    faults=FAULTS,
)
