"""Graphs as pipelines of the shipped framework, and what a run of one shows from outside."""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from stageflow import (
    Branch,
    Context,
    Pipeline,
    Retry,
    Run,
    Stage,
    StageOutput,
    agent,
    any_of,
    enrich,
    first_of,
    n_of,
    route,
    transform,
    work,
)

from .branching_graphs import Outcome
from .branching_interpreter import RAISES, SKIPS, Ended, Graph, Placed, interpret

MAKERS: Final[Mapping[str, Any]] = {
    "transform": transform,
    "enrich": enrich,
    "work": work,
    "agent": agent,
}
RAISING: Final = "a stage or a route raises"
STUMBLES: Final = "a stage or a route raises at its first attempt"
SKIPPING: Final = "a stage or a route skips"
FAULTS: Final = (RAISING, STUMBLES, SKIPPING)


class Raised(Exception):
    """What a stage raises that is told to."""


AGAIN: Final = Retry(attempts=2, base_s=0.001, jitter="none", on=(Raised,))


@dataclass(slots=True)
class Performance:
    """One run seen from inside its stages. They write into it; it outlives the run."""

    graph: Graph
    outcome: Outcome
    started: list[str] = field(default_factory=list)
    """Stages, by attempt, in order of starting."""
    given: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Stage to the parents whose values it was given."""
    effects: list[str] = field(default_factory=list)
    """Stages of kind work that did their work, and stages whose values were seen."""
    fired: dict[str, int] = field(default_factory=dict)
    """FAULTS that happened, and how often."""
    raised: set[str] = field(default_factory=set)
    """Stages that raised, at least once, while the run went on."""
    finished: list[str] = field(default_factory=list)
    """Stages that had returned before a failure ended the run."""
    stopped_by: str | None = None
    """The first stage whose failure ends the run."""
    late: int = 0
    """Attempts that began after it."""

    def begin(self, placed: Placed, given: Mapping[str, Any]) -> None:
        """A stage has begun, with these values by parent; None where it took its default."""
        self.started.append(placed.name)
        self.late += self.stopped_by is not None
        self.given[placed.name] = tuple(parent for parent, v in given.items() if v is not None)
        for value in given.values():
            self.effects += _seen(value)

    def end(self, placed: Placed, attempt: int) -> Any:
        """What the stage returns, or raises."""
        said = self.outcome.says.get(placed.name)
        stumbles = placed.name in self.outcome.stumbles and attempt == 1
        if stumbles or said == RAISES:
            self._fire(STUMBLES if stumbles else RAISING)
            if self.stopped_by is None:
                self.raised.add(placed.name)
                if placed.stops and said == RAISES and attempt == placed.tries:
                    self.stopped_by = placed.name
            raise Raised(placed.name)
        if placed.kind == "work":
            self.effects.append(placed.name)
        if self.stopped_by is None:
            self.finished.append(placed.name)
        if said == SKIPS:
            self._fire(SKIPPING)
            return StageOutput.skip("told to")
        return Branch(said) if placed.branches and said is not None else placed.name

    def _fire(self, fault: str) -> None:
        self.fired[fault] = self.fired.get(fault, 0) + 1


def _seen(value: Any) -> Iterator[str]:
    """The stages whose values are in a value; a route's is a Branch, which names nobody."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _seen(each)


class Stages:
    """Makes pipelines of graphs. Stages of one shape share a template: building is then quick."""

    def __init__(self) -> None:
        self.performances: dict[str, Performance] = {}
        """Run id to what its stages write into."""
        self._templates: dict[tuple[Any, ...], Stage[..., Any]] = {}

    def pipeline(self, graph: Graph) -> Pipeline[dict[str, Any]]:
        """The graph as a pipeline. BuildError when the framework refuses it."""
        placed_as: dict[str, Stage[..., Any]] = {}
        for placed in graph:
            placed_as[placed.name] = self.stage(placed, placed_as)
        return Pipeline("branching", list(placed_as.values()))

    def stage(self, placed: Placed, others: Mapping[str, Stage[..., Any]]) -> Stage[..., Any]:
        """One stage, wired to others."""
        after = [others[name] for name in placed.after] or None
        when = None
        if placed.when is not None:
            name, branch = placed.when
            when = others[name].branch(branch)
        if placed.join is not None:
            return _join(placed, others).named(after=after, when=when)
        return self._template(placed).named(
            placed.name,
            bind=dict(
                zip(_parameters(placed), (others[name] for name in parents_of(placed)), strict=True)
            ),
            after=after,
            when=when,
            retry=AGAIN if placed.tries > 1 else None,
            on_failure="stop" if placed.stops else "isolate",
        )

    def _template(self, placed: Placed) -> Stage[..., Any]:
        key = (placed.kind, placed.place, len(placed.takes), len(placed.may_take), placed.branches)
        if key not in self._templates:
            maker = MAKERS.get(placed.kind)
            options: dict[str, Any] = {} if placed.place == "await" else {"place": placed.place}
            if maker is None:
                maker, options["branches"] = route, placed.branches
            self._templates[key] = maker(self._body(placed), name="template", **options)
        return self._templates[key]

    def _body(self, placed: Placed) -> Callable[..., Any]:
        """A function with a parameter for each parent, that writes into its run's performance."""

        def begun(ctx: Context, given: Mapping[str, Any]) -> tuple[Performance, Placed]:
            performance = self.performances[ctx.identity.run]
            mine = performance.graph[int(ctx.node[1:])]
            pairs = zip(_parameters(mine), parents_of(mine), strict=True)
            performance.begin(mine, {parent: given.get(name) for name, parent in pairs})
            return performance, mine

        async def awaiting(ctx: Context, **given: Any) -> Any:
            performance, mine = begun(ctx, given)
            if mine.lasts_s:
                await asyncio.sleep(mine.lasts_s)
            return performance.end(mine, ctx.attempt)

        def blocking(ctx: Context, **given: Any) -> Any:
            performance, mine = begun(ctx, given)
            if mine.place == "thread":
                time.sleep(mine.lasts_s / 10)
            return performance.end(mine, ctx.attempt)

        body = awaiting if placed.place == "await" else blocking
        kind = inspect.Parameter.KEYWORD_ONLY
        defaults = [inspect.Parameter.empty] * len(placed.takes) + [None] * len(placed.may_take)
        parameters = [inspect.Parameter("ctx", kind)] + [
            inspect.Parameter(name, kind, default=default)
            for name, default in zip(_parameters(placed), defaults, strict=True)
        ]
        vars(body)["__signature__"] = inspect.Signature(parameters)
        body.__annotations__ = {}
        return body


def parents_of(placed: Placed) -> tuple[str, ...]:
    """The parents whose values are parameters, in their order."""
    return (*placed.takes, *placed.may_take)


def _parameters(placed: Placed) -> list[str]:
    return [f"p{number}" for number in range(len(parents_of(placed)))]


def _join(placed: Placed, others: Mapping[str, Stage[..., Any]]) -> Stage[..., Any]:
    of = [others[name] for name in placed.of]
    match placed.join:
        case "first_of":
            return first_of(*of, name=placed.name)
        case "any_of":
            return any_of(*of, name=placed.name)
        case _:
            return n_of(placed.need, *of, name=placed.name)


def facts_of(run: Run[Any], performance: Performance, *, exact: bool) -> dict[str, Any]:
    """What the run showed, beside what the interpreter says: both as plain values.

    `exact` says that nothing runs beside the loop: what a stage does and what the engine hears of
    it are then one step, so that it is known on which side of the run's end each stage fell.
    """
    graph, outcome = performance.graph, performance.outcome
    ended = interpret(graph, outcome.says)
    nodes = run.nodes
    bodies = set(performance.started)
    executed = [
        placed.name
        for placed in graph
        if (nodes[placed.name].attempts > 0 if placed.join else placed.name in bodies)
    ]
    may = [placed.name for placed in graph if ended[placed.name].executed]
    stopped_by = performance.stopped_by
    must = may if stopped_by is None else _behind(stopped_by, graph, ended)
    is_known = exact or stopped_by is None
    finished = frozenset(performance.finished if exact else ())
    told, true = [], []
    for placed in graph:
        node = nodes[placed.name]
        said = (
            node.state
            if node.state in ("ok", "cancelled")
            else f"{node.state} {node.cause} {node.blame}"
        )
        accounts = ended[placed.name].accounts
        if stopped_by is not None and placed.name not in finished:
            accounts |= {"cancelled"}
            if placed.kind == "work" and placed.name in bodies:
                # Its effect was cut off by the end of the run: nobody knows whether it happened.
                # Only between two attempts is it known that nothing was under way.
                accounts |= {"unknown none None"}
                if placed.tries == 1:
                    accounts -= {"cancelled"}
        told.append(said)
        true.append("|".join(sorted(accounts)))
    facts = {
        "routing": _routing(graph, outcome, ended),
        "executed": " ".join(executed),
        "must": " ".join(must),
        "may": " ".join(may),
        "late": performance.late if exact else 0,
        "effects": " ".join(sorted(set(performance.effects))),
        "told": tuple(told),
        "true": tuple(true),
        "fired": performance.fired,
        "raised": " ".join(sorted(performance.raised)) if is_known else "",
        "reported": " ".join(sorted(run.failures)),
        "status": run.status,
        "status_expected": _status(graph, outcome, ended),
        "given": _given(performance.given),
        "given_expected": _given({name: ended[name].took for name in performance.given}),
    }
    return shared(facts)


def shared(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The same facts with one object for equal strings: a full load keeps those of 800,000 runs."""
    return {
        name: sys.intern(value)
        if isinstance(value, str)
        else tuple(map(sys.intern, value))
        if isinstance(value, tuple)
        else value
        for name, value in facts.items()
    }


def _behind(name: str, graph: Graph, ended: Mapping[str, Ended]) -> list[str]:
    """The stage and everything it could not run without."""
    wanted = {name}
    for placed in reversed(graph):
        if placed.name in wanted and ended[placed.name].executed:
            wanted.update(placed.takes, placed.when[:1] if placed.when else ())
            if placed.need == len(placed.of):
                wanted.update(placed.of)
    return [placed.name for placed in graph if placed.name in wanted]


def _routing(graph: Graph, outcome: Outcome, ended: Mapping[str, Ended]) -> str:
    """What each route that runs does, in order of dependence."""
    routes = [placed.name for placed in graph if placed.branches and ended[placed.name].executed]
    return " ".join(f"{name}={outcome.says[name]}" for name in routes)


def _status(graph: Graph, outcome: Outcome, ended: Mapping[str, Ended]) -> str:
    raised = [p for p in graph if ended[p.name].executed and outcome.says.get(p.name) == RAISES]
    if any(placed.stops for placed in raised):
        return "failed"
    wanted = {
        name
        for placed in graph
        for name in (*parents_of(placed), *placed.after, *placed.of, *(placed.when or ())[:1])
    }
    outputs_ok = all(ended[p.name].is_ok for p in graph if p.name not in wanted)
    return "ok" if outputs_ok and not raised else "partial"


def _given(by_stage: Mapping[str, tuple[str, ...]]) -> str:
    return " ".join(f"{name}({','.join(by_stage[name])})" for name in sorted(by_stage))
