"""Any plan, any behaviour, any order of events: what must hold in every history of a run.

A world is a random plan with what each stage will do at each attempt. It is driven without a loop:
a pending event is drawn, told to the scheduler, and every invariant is checked.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NotRequired

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stageflow.graph import (
    BranchRef,
    Join,
    Parameter,
    Plan,
    Role,
    Stage,
    compile_plan,
)
from stageflow.model.errors import BuildError
from stageflow.model.kinds import Kind
from stageflow.model.policy import Retry
from stageflow.model.record import Record, RecordType
from stageflow.scheduler import (
    Cause,
    End,
    Launch,
    NodeState,
    Program,
    Scheduler,
    Stop,
    Wait,
    replay,
    take_over,
)

MANY = settings(
    max_examples=500,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
SEEDS = st.integers(min_value=0, max_value=2**48)

OK, SKIPPED, FAILED = NodeState.OK, NodeState.SKIPPED, NodeState.FAILED
BLOCKED, CANCELLED, UNKNOWN = NodeState.BLOCKED, NodeState.CANCELLED, NodeState.UNKNOWN


async def body() -> None:
    """Never called: these histories run no stage."""


@dataclass
class World:
    """A program, what its stages do, and which gated inputs are absent."""

    program: Program
    does: dict[int, list[tuple[str, Any]]]
    """Node to (ending, detail) per attempt; the last one goes on for ever."""
    absent: tuple[int, ...]
    misfits: frozenset[int] = frozenset()
    """Nodes whose contract their fallback's value breaks."""
    found: dict[int, str] = field(default_factory=dict)
    """What `reconcile` says of a node."""

    @property
    def plan(self) -> Plan:
        return self.program.plan

    def ending(self, node: int, attempt: int) -> tuple[str, Any]:
        listed = self.does[node]
        return listed[min(attempt, len(listed)) - 1]


def world(seed: int, *, calm: bool = False, revises: bool = True, times_out: bool = True) -> World:
    """`calm`: no stage ends the run early by failing or cancelling. `revises`: guards may ask
    for other revisions. `times_out`: attempts may be cut off by their timeout."""
    rng = random.Random(f"world:{seed}")
    while True:
        try:
            plan = _plan(rng, calm=calm)
        except BuildError:
            continue
        return World(
            Program(plan),
            {
                number: [
                    ("allow", None)
                    if one[0] == "revise" and not revises
                    else ("failed", True)
                    if one[0] == "timeout" and not times_out
                    else one
                    for one in _behaviour(rng, plan, number, calm=calm)
                ]
                for number in range(len(plan.nodes))
            },
            tuple(
                spec.node
                for spec in plan.inputs.values()
                if spec.node is not None and not spec.required and rng.random() < 0.5
            ),
            frozenset(n.index for n in plan.nodes if n.fallback is not None and rng.random() < 0.1),
            {
                number: rng.choice(["happened", "not_happened", "cant_tell"])
                for number, node in enumerate(plan.nodes)
                if node.stage is not None and node.stage.reconcile is not None
            },
        )


def _plan(rng: random.Random, *, calm: bool) -> Plan:
    stages: list[Stage[..., Any]] = []
    values: list[str] = ["x", "y"]
    routes: list[Stage[..., Any]] = []
    for number in range(rng.randint(1, 11)):
        kind = rng.choices(
            [Kind.TRANSFORM, Kind.WORK, Kind.ROUTE, Kind.GUARD, Kind.JOIN], [6, 2, 2, 5, 2]
        )[0]
        name = f"{kind.value}{number}"
        givers = [stage for stage in stages if stage.kind is not Kind.GUARD]
        if kind is Kind.JOIN and len(givers) < 2:
            kind = Kind.TRANSFORM
        parameters = [
            Parameter(value, Any, value == "y" or rng.random() < 0.3)
            for value in rng.sample(values, min(len(values), rng.choice([0, 1, 1, 2, 2, 3])))
        ]
        of = None
        if kind is Kind.GUARD:
            parameters = parameters or [Parameter("x", Any, False)]
            of = tuple(p.name for p in rng.sample(parameters, rng.randint(1, len(parameters))))
        join = None
        if kind is Kind.JOIN:
            parameters = []
            branches = rng.sample(givers, rng.randint(2, min(4, len(givers))))
            need = rng.randint(1, len(branches))
            join = Join(tuple(branches), need, need == 1 and rng.random() < 0.5, need > 1)
        when = None
        if routes and rng.random() < 0.35:
            when = BranchRef(rng.choice(routes), rng.choice("ab"))
        stage: Stage[..., Any] = Stage(
            name=name,
            kind=kind,
            function=None if join else body,
            mode="async",
            parameters=tuple(parameters),
            returns=Any,
            retry=Retry(attempts=rng.randint(2, 3)) if rng.random() < 0.25 else None,
            after=tuple(rng.sample([s.name for s in stages], 1))
            if stages and rng.random() < 0.15
            else (),
            when=when,
            on_failure="isolate" if calm or rng.random() < 0.7 else "stop",
            of=of,
            keyed=rng.random() < 0.5,
            reconcile=body if kind is Kind.WORK and rng.random() < 0.4 else None,
            join=join,
            revisions=rng.randint(1, 4),
        )
        stages.append(stage)
        if kind is Kind.ROUTE:
            routes.append(stage)
        if kind is not Kind.GUARD:
            values.append(name)
    outputs = None if rng.random() < 0.5 else [rng.choice([s.name for s in stages])]
    plan = _compiled(rng, stages, outputs)
    places = rng.sample(range(len(stages)), len(stages))
    for place in places * rng.choice([0, 3]):
        with_one = stages[:]
        with_one[place] = _with_fallback(rng, stages, place)
        try:
            plan = _compiled(rng, with_one, outputs)
        except BuildError:
            continue
        stages = with_one
    return plan


def _with_fallback(
    rng: random.Random, stages: Sequence[Stage[..., Any]], place: int
) -> Stage[..., Any]:
    stage = stages[place]
    if stage.fallback is not None:
        return stage
    fit = [
        other.name for other in stages if (stage.kind is Kind.ROUTE) is (other.kind is Kind.ROUTE)
    ]
    return replace(stage, fallback=rng.choice(fit) if fit else None, origin=stage)


def _compiled(rng: random.Random, stages: Sequence[Stage[..., Any]], outputs: Any) -> Plan:
    given = [*stages]
    rng.shuffle(given)
    return compile_plan(
        "random",
        given,
        inputs={"x": Any, "y": NotRequired[Any]},
        outputs=outputs,
        deps={},
        is_context=lambda _: False,
    )


def _behaviour(rng: random.Random, plan: Plan, number: int, *, calm: bool) -> list[tuple[str, Any]]:
    node = plan.nodes[number]
    endings: list[tuple[str, Any]] = []
    while rng.random() < 0.35 and len(endings) < 3:
        cut_off = rng.random() < 0.2
        endings.append(("timeout", None) if cut_off else ("failed", rng.random() < 0.8))
    if node.join is not None:
        return [("failed", False) if node.fallback is not None else ("value", None)]
    if node.kind is Kind.GUARD:
        last = rng.choices(
            [
                ("allow", None),
                ("block", None),
                ("redact", rng.choice(node.gates)),
                ("skip", None),
                ("revise", rng.choice(node.gates)),
            ],
            [10, 2, 3, 1, 3 if all(plan.nodes[g].fallback is None for g in node.gates) else 9],
        )[0]
        if rng.random() < 0.3:
            endings.append(("revise", rng.choice(node.gates)))
    elif node.kind is Kind.ROUTE:
        last = ("branch", rng.choice("ab"))
    else:
        last = rng.choices([("value", None), ("skip", None), ("cancel", None)], [8, 2, 1])[0]
        if calm and last[0] == "cancel":
            last = ("value", None)
    if rng.random() < (0.1 if node.fallback is None else 0.5):
        last = rng.choice([("failed", False), ("timeout", None)])
    return [*endings, last]


@dataclass
class Ride:
    """One history: what was told, and what the scheduler asked for."""

    world: World
    rng: random.Random
    scheduler: Scheduler
    running: list[int] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    stopped: set[int] = field(default_factory=set)
    end: End | None = None
    executed: list[int] = field(default_factory=list)
    cut: set[int] = field(default_factory=set)
    """Effects without a key of which an attempt was cut off: they may have happened."""
    tries_again: bool = False
    """True when taking the run up again gave a node that had failed another attempt."""

    def begin(self) -> Ride:
        self.take(self.scheduler.start(self.world.absent))
        return self

    def take(self, actions: Sequence[Any] | None) -> None:
        assert actions is not None, "nothing is late here"
        self.scheduler.check()
        for action in actions:
            assert self.end is None, "nothing follows the end"
            if isinstance(action, Launch):
                assert action.node not in self.running
                self.running.append(action.node)
            elif isinstance(action, Wait):
                self.waits.append(action)
            elif isinstance(action, Stop):
                assert action.token == self.scheduler.token[action.node]
                self.stopped.add(action.node)
            else:
                assert isinstance(action, End)
                self.end = action

    def step(self) -> None:
        """One event, drawn among all that may come next."""
        pending = len(self.running) + len(self.waits)
        assert pending, "a run that is not over waits for something"
        choice = self.rng.randrange(pending)
        if choice >= len(self.running):
            wait = self.waits.pop(choice - len(self.running))
            self.take(self.scheduler.retry_due(wait.node, wait.token))
            return
        node = self.running.pop(choice)
        token = self.scheduler.token[node]
        if self.scheduler.ending is not None and node in self.stopped and self.rng.random() < 0.5:
            unstarted = self.rng.random() < 0.3 and node not in self.scheduler.asking
            acts = node not in self.scheduler.standing  # else it only takes another's value
            if not unstarted and acts and node in effects(self.world):
                self.cut.add(node)
            self.take(self.scheduler.cancelled(node, token, unstarted=unstarted))
            return
        if node in self.scheduler.standing:
            self.stand_in(node, token)
            return
        if node in self.scheduler.asking:
            self.inquired(node, token)
            return
        self.executed.append(node)
        self.tell(node, token)

    def stand_in(self, node: int, token: int) -> None:
        """The attempt that takes the value of the node's fallback."""
        scheduler, fallback = self.scheduler, self.scheduler.nodes[node].fallback
        assert fallback is not None and scheduler.status[fallback] is OK
        if node in self.world.misfits:
            self.take(scheduler.failed(node, token, "contract.violated", retryable=True))
        else:
            branch = scheduler.branch.get(fallback)
            self.take(scheduler.completed(node, token, branch and ("branch", branch)))

    def inquired(self, node: int, token: int) -> None:
        """What `reconcile` says; what did not happen was not cut off after all."""
        scheduler = self.scheduler
        answer = self.world.found.get(node, "cant_tell")
        if answer == "happened":
            self.cut.discard(node)
            self.take(scheduler.completed(node, token))
        elif answer == "not_happened":
            self.cut.discard(node)
            self.take(scheduler.not_happened(node, token))
        else:
            self.take(scheduler.failed(node, token, "effect.unknown", unknown=True))

    def tell(self, node: int, token: int) -> None:
        scheduler = self.scheduler
        if scheduler.nodes[node].join is not None:
            assert len(scheduler.chosen(node)) == scheduler.nodes[node].join.need
        # Another revision ends as the last attempt of the first would.
        tried = scheduler.attempt[node] if scheduler.revision[node] == 1 else 1_000
        what, detail = self.world.ending(node, tried)
        if what == "timeout":
            if node in effects(self.world):
                self.cut.add(node)
            self.take(scheduler.failed(node, token, what, retryable=True, cut_off=True))
        elif what == "failed":
            self.take(scheduler.failed(node, token, "error:E", retryable=detail))
        elif what == "skip":
            self.take(scheduler.skipped(node, token))
        elif what == "cancel":
            self.take(scheduler.cancelled(node, token, by_stage=True, reason="by_stage"))
        else:
            control = None if what == "value" else (what, detail)
            self.take(scheduler.completed(node, token, control))

    def finish(self, *, steps_max: int = 10_000) -> Ride:
        for _ in range(steps_max):
            if self.end is not None and not self._pending():
                return self
            if self.end is not None:
                self.waits.clear()
                assert not self.running, "the run is over and something runs"
                continue
            self.step()
        raise AssertionError("the run does not end")

    def _pending(self) -> bool:
        return bool(self.running or self.waits)


def effects(one: World) -> list[int]:
    """WORK without a key: an attempt that was cut off must not be repeated unasked."""
    return [
        n.index
        for n in one.plan.nodes
        if n.kind is Kind.WORK and n.stage is not None and not n.stage.keyed
    ]


def ride(one: World, seed: int) -> Ride:
    return Ride(one, random.Random(f"order:{seed}"), Scheduler(one.program)).begin()


def state(scheduler: Scheduler) -> dict[str, Any]:
    """Everything but the records and what is the plan's."""
    shared = {"plan", "nodes", "children", "plain", "run_actions", "records", "writes"}
    return {
        name: list(value) if name == "ended" else value
        for name in (slot.removeprefix("_") for slot in Scheduler.__slots__)
        if name not in shared
        for value in [getattr(scheduler, name)]
    }


def copied(scheduler: Scheduler) -> dict[str, Any]:
    return {
        name: value.copy() if hasattr(value, "copy") else value
        for name, value in state(scheduler).items()
    }


@MANY
@given(SEEDS, SEEDS)
def test_every_run_ends_and_keeps_its_invariants(plan: int, order: int) -> None:
    done = ride(world(plan), order).finish()
    scheduler = done.scheduler
    assert done.end == scheduler.ending
    left = {node for node, status in enumerate(scheduler.status) if not status.is_terminal}
    open_ = {NodeState.HELD, NodeState.JUDGED, NodeState.FALLING_BACK, UNKNOWN}
    if scheduler.ending == End("suspended", "effect_unknown"):
        open_.add(NodeState.WAITING)
        assert UNKNOWN in scheduler.status
    assert {scheduler.status[node] for node in left} <= open_
    assert not left or scheduler.ending.status != "ok"


@MANY
@given(SEEDS, SEEDS, st.floats(min_value=0, max_value=1))
def test_a_cancelled_run_ends_as_cancelled(plan: int, order: int, when: float) -> None:
    one = ride(world(plan), order)
    while one.end is None and one.rng.random() > when:
        one.step()
    if one.end is None and one.scheduler.ending is None:
        one.take(one.scheduler.cancel("by_handle"))
        assert one.finish().end == End("cancelled", "by_handle")


@MANY
@given(SEEDS, SEEDS)
def test_each_attempt_has_one_intent_and_one_end(plan: int, order: int) -> None:
    records = ride(world(plan), order).finish().scheduler.records
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    intents = [(r.node, r.token) for r in records if r.type is RecordType.INTENT]
    ends = [(r.node, r.token) for r in records if r.type is RecordType.OUTCOME]
    assert len(set(intents)) == len(intents) and len({token for _, token in intents}) == len(
        intents
    )
    assert sorted(ends) == sorted(intents)
    accepted = [(r.node, r.revision) for r in records if r.is_accepted]
    assert len(set(accepted)) == len(accepted), "one accepted value per node and revision"
    assert [r.type for r in records].count(RecordType.RUN_ENDED) == 1
    assert records[-1].type is RecordType.RUN_ENDED


@MANY
@given(SEEDS, SEEDS, SEEDS)
def test_no_verdict_depends_on_the_order_of_events(plan: int, first: int, second: int) -> None:
    one = world(plan, calm=True)
    left, right = ride(one, first).finish(), ride(one, second).finish()
    assert left.end.status == right.end.status
    if left.end.status != "blocked":  # a block ends the run wherever it happens to be
        assert left.scheduler.status == right.scheduler.status
        assert _why(left.scheduler) == _why(right.scheduler)
        assert sorted(left.executed) == sorted(right.executed)


def _why(scheduler: Scheduler) -> dict[int, Cause]:
    return {node: cause for node, (cause, _) in scheduler.cause.items()}


@MANY
@given(SEEDS, SEEDS)
def test_the_nodes_that_run_are_those_of_a_naive_reading(plan: int, order: int) -> None:
    one = world(plan, calm=True, revises=False)
    if any(node.fallback is not None for node in one.plan.nodes):
        # The reading knows fallbacks and open ends, but not fallbacks that wait for one.
        one = world(plan, calm=True, revises=False, times_out=False)
    done = ride(one, order).finish()
    if done.end.status == "blocked":
        return
    expected = Reading(one)
    states = dict(enumerate(done.scheduler.status))
    assert states == {node: expected.final(node)[0] for node in states}
    assert set(done.executed) == expected.executed


class Reading:
    """What the rules say, without events: every node's end follows from its parents' ends."""

    def __init__(self, one: World) -> None:
        self.world, self.plan = one, one.plan
        self.executed: set[int] = set()
        self._own: dict[int, tuple[str, Any]] = {}
        self._raw: dict[int, tuple[str, Any]] = {}
        self._final: dict[int, tuple[NodeState, str]] = {}

    def final(self, node: int) -> tuple[NodeState, str]:
        """State and why: "own", "branch", "failed", "blocked" or "skipped"."""
        if node not in self._final:
            self._final[node] = self._judged(node)
        return self._final[node]

    def raw(self, node: int) -> tuple[str, Any]:
        """How the node ended before its guards, itself or by its fallback's value: its last
        ending, or ("never", why)."""
        if node not in self._raw:
            self._raw[node] = self._stood_in(node)
        return self._raw[node]

    def own(self, node: int) -> tuple[str, Any]:
        """How the stage itself ended."""
        if node not in self._own:
            self._own[node] = self._run(node)
        return self._own[node]

    def _stood_in(self, node: int) -> tuple[str, Any]:
        own, fallback = self.own(node), self.plan.nodes[node].fallback
        if own[0] != "failed" or fallback is None:
            return own
        status = self.final(fallback)[0]
        if status is BLOCKED:
            return "never", "blocked"
        if status is not OK or node in self.world.misfits:
            return own
        return self.raw(fallback) if self.raw(fallback)[0] == "branch" else ("value", None)

    def _run(self, node: int) -> tuple[str, Any]:
        placed = self.plan.nodes[node]
        if placed.stage is None:
            return ("never", "own") if node in self.world.absent else ("value", None)
        hindered = [
            why
            for parent, role in self.plan.parents[node]
            for why in [self._hindrance(node, parent, role)]
            if why is not None
        ]
        if placed.join is not None:
            branches = [p for p, role in self.plan.parents[node] if role & Role.OPTIONAL]
            ends = [self.final(branch) for branch in branches]
            have = sum(end[0] is OK for end in ends)
            if any(not end[0].is_terminal for end in ends) and (
                placed.join.waits_for_all or have < placed.join.need
            ):
                return OPEN
            if not hindered and have < placed.join.need:
                grave = [w for end in ends if end[0] is not OK for w in [_passed_on(end)]]
                hindered = [w for w in grave if w in ("blocked", "failed")] or ["skipped"]
        if "open" in hindered:
            # A block counts at once for a stage that is on its branch; else all are waited for.
            on_branch = placed.when is None or self._chose(node, placed.when)
            return ("never", "blocked") if on_branch and self._faces_block(node) else OPEN
        if hindered:
            return "never", max(hindered, key=["skipped", "failed", "blocked", "branch"].index)
        self.executed.add(node)
        attempts = 1 if placed.retry is None else placed.retry.attempts
        for attempt in range(1, attempts + 1):
            ending = self.world.ending(node, attempt)
            if ending[0] == "timeout" and node in effects(self.world):
                found = self.world.found.get(node, "cant_tell")
                if found != "not_happened":
                    return ("value", None) if found == "happened" else OPEN
            if ending not in (("failed", True), ("timeout", None)):
                return ending
        return "failed", None

    def _chose(self, node: int, when: tuple[int, str]) -> bool:
        """True when the route has taken this branch, and `node` may know: a guard of the route
        knows before it has judged it. A route that is blocked blocks both its branches."""
        route, branch = when
        is_guard = any(role & Role.RAW for at, role in self.plan.parents[node] if at == route)
        if not is_guard and self.final(route)[0] is BLOCKED:
            return True
        may_know = self.raw(route)[0] in GIVE if is_guard else self.final(route)[0] is OK
        return may_know and self.raw(route)[1] == branch

    def _faces_block(self, node: int) -> bool:
        return self.plan.nodes[node].join is None and any(
            self.raw(parent) == ("never", "blocked")
            if role & Role.RAW
            else self.final(parent)[0] is BLOCKED
            for parent, role in self.plan.parents[node]
        )

    def _hindrance(self, node: int, parent: int, role: Role) -> str | None:
        placed = self.plan.nodes[node]
        if role & Role.FALLBACK:
            return None if self.own(parent)[0] == "failed" else "branch"
        if role & Role.RAW:
            if self.raw(parent) == OPEN:
                return "open"
            return _passed_on(self.final(parent)) if self.raw(parent)[0] not in GIVE else None
        status, why = self.final(parent)
        if not status.is_terminal:
            return None if role == Role.OPTIONAL and placed.join is not None else "open"
        if status is OK:
            when = placed.when
            other = when is not None and when[0] == parent and self.raw(parent)[1] != when[1]
            return "branch" if other else None
        if role & (Role.VALUE | Role.WHEN):
            return _passed_on((status, why))
        if role & Role.OPTIONAL and placed.join is not None:
            return None
        return _passed_on((status, why)) if status is not SKIPPED or why == "failed" else None

    def _judged(self, node: int) -> tuple[NodeState, str]:
        what, detail = self.raw(node)
        if (what, detail) == OPEN:
            return (UNKNOWN if node in self.executed else NodeState.WAITING), "open"
        if what == "never":
            return (BLOCKED if detail == "blocked" else SKIPPED), detail
        if what in ("failed", "skip"):
            return (FAILED, "failed") if what == "failed" else (SKIPPED, "own")
        redactions = waits = 0
        for guard in self.plan.raw_children[node]:
            said, of = self.raw(guard)
            if (said, of) == OPEN:
                waits += 1
                continue
            if said == "never" and of == "branch":
                continue
            redactions += said == "redact" and of == node
            if said not in ("allow", "redact") or redactions > 1:
                return BLOCKED, "blocked"
        if waits:
            return NodeState.HELD, "open"
        gates = self.plan.nodes[node].gates
        if any(not self.final(gated)[0].is_terminal for gated in gates):
            return NodeState.JUDGED, "open"
        return OK, ""


GIVE = ("value", "branch")
OPEN = ("open", None)
"""Nobody knows how it ended, or it waits for such a one."""


def _passed_on(end: tuple[NodeState, str]) -> str:
    status, why = end
    if status in (BLOCKED, FAILED):
        return "blocked" if status is BLOCKED else "failed"
    return "failed" if why == "failed" else "skipped"


@MANY
@given(SEEDS, SEEDS)
def test_replaying_what_is_on_record_gives_the_live_state(plan: int, order: int) -> None:
    one = ride(world(plan), order)
    while True:
        again = Scheduler(one.world.program)
        replay(again, one.scheduler.records)
        again.check()
        assert state(again) == state(one.scheduler)
        assert not again.records, "replaying writes nothing"
        if one.end is not None:
            break
        one.step()


@MANY
@given(SEEDS, SEEDS, SEEDS)
def test_a_run_taken_over_after_any_record_ends_as_if_undisturbed(
    plan: int, order: int, cut: int
) -> None:
    """
    1. the owner dies after any of its records, in the middle of an event or between two
    2. another takes over; attempts with an intent on record are closed as abandoned
    3. WORK whose effect is unknown is allowed to run again; the run goes on to its end
    """
    # Nobody can tell what happened: who could might find another end than the stage's own.
    one = replace(world(plan, calm=True, times_out=False), found={})
    undisturbed = ride(one, order).finish()
    records = undisturbed.scheduler.records
    kept = records[: 1 + cut % len(records)]
    died = Scheduler(one.program)
    replay(died, kept)
    after = taken_over(one, kept, order)
    had_ended = died.ending is not None and died.running == 0 and died.ending.status != "ok"
    if had_ended or after.tries_again:
        return  # it was taken up again after an end: what failed got another attempt
    assert after.end.status == undisturbed.end.status
    if after.end.status != "blocked":
        assert after.scheduler.status == undisturbed.scheduler.status


def truthful(one: World) -> World:
    """The same, but no `reconcile` finds an effect that its stage would not have had."""
    found = {
        node: "not_happened" if any(what != "value" for what, _ in one.does[node]) else answer
        for node, answer in one.found.items()
    }
    return replace(one, found=found)


def taken_over(one: World, kept: list[Record], order: int) -> Ride:
    """The rest of a run whose owner died with `kept` on disk."""
    history = [*kept, Record(RecordType.CLAIMED, kept[-1].seq + 1, data={"rerun": []})]
    scheduler = Scheduler(one.program)
    replay(scheduler, history)
    scheduler.check()
    after = Ride(_one_less(one, history), random.Random(f"after:{order}"), scheduler)
    if scheduler.ending is not None and scheduler.running == 0:
        scheduler.restate_end()
        after.end = scheduler.ending
    else:
        after.take(take_over(scheduler, history))
    while True:
        after.finish()
        history += scheduler.records
        scheduler.records.clear()
        if after.end != End("suspended", "effect_unknown"):
            break
        unknown = [n for n, status in enumerate(scheduler.status) if status is UNKNOWN]
        assert unknown, "suspended, so that something is unknown"
        names = [scheduler.nodes[node].name for node in unknown]
        history.append(Record(RecordType.CLAIMED, scheduler.seq + 1, data={"rerun": names}))
        scheduler.seq += 1
        after.end = None
        after.tries_again = FAILED in scheduler.status
        after.take(scheduler.reopened(unknown))
    again = Scheduler(one.program)
    replay(again, history)
    assert again.status == scheduler.status and again.cause == scheduler.cause
    assert again.ending == scheduler.ending
    ends = [r for r in history if r.type in (RecordType.OUTCOME, RecordType.ABANDONED)]
    assert len({(r.node, r.token) for r in ends}) == len(ends), "one end per attempt"
    accepted = [(r.node, r.revision) for r in history if r.is_accepted]
    assert len(set(accepted)) == len(accepted), "a node with a value never runs again"
    return after


def _one_less(one: World, history: list[Record]) -> World:
    """An abandoned attempt is not the stage's doing: what it would have done comes later."""
    lost = {
        (r.node, r.token)
        for r in history
        if r.type is RecordType.INTENT and r.revision == 1 and "fallback" not in r.data
    }
    lost -= {(r.node, r.token) for r in history if r.type is RecordType.OUTCOME}
    does = dict(one.does)
    for name, _ in lost:
        node = one.plan.index[name]
        made = sum(1 for r in history if r.type is RecordType.OUTCOME and r.node == name)
        does[node] = [*does[node][:made], ("failed", False), *does[node][made:]]
    return replace(one, does=does)


@MANY
@example(107936691, 0, 0)  # a guard's decision was kept back when its value was exhausted
@given(SEEDS, SEEDS, SEEDS)
def test_a_failed_run_taken_up_again_keeps_what_is_done(plan: int, order: int, more: int) -> None:
    """Whatever ended the run: values stay, a decided block stays, and the run ends again."""
    one = ride(world(plan), order).finish()
    if one.end.status == "ok":
        return
    before = copied(one.scheduler)
    decided = {r.node for r in one.scheduler.records if r.data.get("control") == "block"}
    again = Ride(one.world, random.Random(f"again:{more}"), one.scheduler)
    again.take(one.scheduler.reopened())
    again.finish()
    scheduler = again.scheduler
    exhausted, now = (
        {node for node, why in failures.items() if why == "exhausted"}
        for failures in (before["failures"], copied(scheduler)["failures"])
    )
    for node, status in enumerate(before["status"]):
        # A value that no revision of passed is made once more, and its guards are asked about it.
        gates = scheduler.nodes[node].gates
        remade = any(scheduler.revision[g] != before["revision"][g] for g in gates)
        if status is OK and exhausted.isdisjoint(gates) and not remade:
            # A guard's decision is kept back while a value that it gates is judged again, and the
            # run may end meanwhile because no revision of that passed.
            ended_with_it = [] if now.isdisjoint(gates) else [NodeState.CANCELLED]
            assert scheduler.status[node] in (OK, NodeState.JUDGED, *ended_with_it)
            assert scheduler.token[node] == before["token"][node]
        if any(scheduler.nodes[g].name in decided for g in scheduler.plan.raw_children[node]):
            assert scheduler.status[node] is not OK, "a Block holds for good"


@MANY
@given(SEEDS, SEEDS)
def test_an_effect_cut_off_while_the_run_was_ending_is_unknown(plan: int, order: int) -> None:
    """
    1. a WORK stage runs; the run is cancelled; the process dies before the stage has ended
    2. taken over, the run ends as cancelled, and the stage's effect is unknown
    3. taken up again, the stage does not run: nobody allowed it or could tell
    """
    one = ride(world(plan), order)
    unkeyed = set(effects(one.world))
    while one.end is None and not unkeyed & set(one.running):
        one.step()
    if one.end is not None or one.scheduler.ending is not None:
        return
    one.take(one.scheduler.cancel("by_handle"))
    scheduler = Scheduler(one.world.program)
    history = [*one.scheduler.records, Record(RecordType.CLAIMED, one.scheduler.seq + 1)]
    replay(scheduler, history)
    after = Ride(one.world, one.rng, scheduler)
    after.take(take_over(scheduler, history))
    cut = unkeyed & set(one.running)
    assert after.end == End("cancelled", "by_handle")
    assert all(scheduler.status[node] is UNKNOWN for node in cut)
    after.end = None
    after.take(scheduler.reopened())
    after.finish()
    lost = {node for node in cut if one.world.found.get(node, "cant_tell") == "cant_tell"}
    assert not lost & set(after.executed)


@MANY
@given(SEEDS, SEEDS, SEEDS)
def test_an_effect_that_was_cut_off_is_repeated_by_nobody(plan: int, order: int, more: int) -> None:
    """Whatever cut it off, in this process or by its death: its timeout, a sibling's failure, a
    cancellation. Taken up again twice, live and from the journal, it doesn't run unless its
    `reconcile` can tell, or a person allows it.
    """
    one = ride(world(plan), order)
    stops_at = one.rng.randrange(12)
    for _ in range(stops_at):
        if one.end is None:
            one.step()
    if one.end is None and one.scheduler.ending is None and one.rng.random() < 0.7:
        one.take(one.scheduler.cancel("by_handle"))
    one.finish()
    if not one.cut:
        return
    assert {n for n, state in enumerate(one.scheduler.status) if state is UNKNOWN} >= one.cut
    lost = {n for n in one.cut if one.world.found.get(n, "cant_tell") == "cant_tell"}
    fresh = Scheduler(one.world.program)
    replay(fresh, one.scheduler.records)
    for scheduler in (one.scheduler, fresh):
        again = Ride(one.world, random.Random(f"again:{more}"), scheduler)
        for _ in range(2):
            again.end = None
            again.take(scheduler.reopened())
            again.finish()
        assert not lost & set(again.executed)
        if lost:
            assert again.end.status != "ok"
            again.end = None
            again.take(scheduler.reopened(lost))
            assert not any(scheduler.status[node] is UNKNOWN for node in lost)


def test_the_worlds_reach_every_state_and_every_end() -> None:
    states: set[NodeState] = set()
    causes: set[Cause] = set()
    ends: set[str] = set()
    for seed in range(400):
        done = ride(world(seed), seed).finish()
        states |= set(done.scheduler.status)
        causes |= set(_why(done.scheduler).values())
        ends.add(done.end.status)
    assert states >= {OK, SKIPPED, FAILED, BLOCKED, CANCELLED, UNKNOWN, NodeState.HELD}
    assert causes == set(Cause) - {Cause.NONE}
    assert ends == {"ok", "partial", "failed", "blocked", "cancelled", "suspended"}


def test_the_worlds_fall_back_in_every_way() -> None:
    met: set[str] = set()
    for seed in range(4_000):
        scheduler = ride(world(seed), seed).finish().scheduler
        nodes = scheduler.nodes
        for node in scheduler.fallen:
            met.add(f"after {'a revision' if scheduler.revision[node] > 1 else 'a failure'}")
            met.add(f"{'exhausted' if scheduler.failures[node] == 'exhausted' else 'raised'}")
            met.add(f"ended {scheduler.status[node].name}")
            met.add("of a fallback" if nodes[node].stands_for in scheduler.fallen else "of a node")
        met |= {nodes[node].kind.value for node in scheduler.standing}
    assert met >= {"exhausted", "raised", "after a revision", "after a failure", "of a fallback"}
    assert met >= {"ended OK", "ended FAILED", "ended BLOCKED", "transform", "work", "route"}


@pytest.mark.parametrize("seed", range(3))
def test_equal_histories_give_equal_records(seed: int) -> None:
    runs = [ride(world(seed), seed).finish().scheduler.records for _ in range(2)]
    assert runs[0] == runs[1]
