"""Any graph of steps that can be undone, any behaviour, any crash: what is left in the world.

A history is told to the scheduler event by event, beside a world in which effects really happen. A
process may die between any two events, and before the last one was durable; what its attempts did
by then, nobody knows but the world.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stageflow.graph import Plan, Stage, compile_plan, work
from stageflow.model.kinds import Kind
from stageflow.model.policy import Retry
from stageflow.model.record import Record, RecordType
from stageflow.scheduler import (
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

SEEDS = st.integers(min_value=0, max_value=2**48)


async def body() -> None:
    """Never called: these histories run no stage."""


def a_plan(rng: random.Random) -> Plan:
    stages: list[Stage[..., Any]] = []
    for number in range(rng.randint(1, 8)):
        before = [stage.name for stage in stages]
        receiver = rng.choice([{"keyed": True}, {"reconcile": body}, {}])
        retry = {"retry": Retry(attempts=2)} if rng.random() < 0.5 else {}
        undo = work(body, name="undo", **receiver, **retry)
        role: dict[str, Any] = {"undo": undo} if rng.random() < 0.8 else {}
        if not role and rng.random() < 0.3:
            role = {"pivot": True}
        stages.append(
            work(
                body,
                name=f"s{number}",
                after=tuple(rng.sample(before, min(len(before), rng.choice([0, 1, 2])))),
                on_failure="isolate" if rng.random() < 0.1 else "stop",
                **receiver,
                **retry,
                **role,
            )
        )
    return compile_plan("p", stages, inputs={}, outputs=None, deps={}, is_context=lambda _: False)


@dataclass
class Ride:
    rng: random.Random
    plan: Plan
    scheduler: Scheduler
    records: list[Record] = field(default_factory=list)
    """What is durable."""
    running: set[int] = field(default_factory=set)
    waits: list[Wait] = field(default_factory=list)
    stopped: set[int] = field(default_factory=set)
    end: End | None = None
    times: Counter[int] = field(default_factory=Counter)
    """How often each effect, of steps and of undos, happened in the world."""
    order: list[int] = field(default_factory=list)
    failing: set[int] = field(default_factory=set)
    crashes: int = 0

    def act(self, node: int) -> None:
        stage = self.plan.nodes[node].stage
        assert stage is not None
        if stage.keyed and self.times[node]:
            return
        self.times[node] += 1
        self.order.append(node)

    def may_refuse(self, node: int) -> bool:
        """A receiver that honours keys gives what it did under one its answer, and no refusal."""
        stage = self.plan.nodes[node].stage
        return stage is not None and not (stage.keyed and self.times[node])

    def told(self, actions: list[Any] | None) -> None:
        """The event's records become durable, and its actions are taken; or the process dies."""
        assert actions is not None, "nothing is late here"
        self.scheduler.check()
        if self.crashes < 3 and self.rng.random() < 0.08:
            if self.rng.random() < 0.5:
                self.records += self.scheduler.records
            self.crash()
            return
        self.records += self.scheduler.records
        self.scheduler.records = []
        for action in actions:
            if isinstance(action, Launch):
                assert action.node not in self.running and self.scheduler.goes_on(action.node)
                self.running.add(action.node)
            elif isinstance(action, Wait):
                self.waits.append(action)
            elif isinstance(action, Stop):
                self.stopped.add(action.node)
            elif isinstance(action, End):
                assert not self.running, "nothing runs at the end"
                self.end = action

    def crash(self) -> None:
        """What runs has acted, or not; another process takes over by what is durable."""
        self.crashes += 1
        for node in sorted(self.running):
            if node not in self.scheduler.asking and self.rng.random() < 0.5:
                self.act(node)
        self.claim()

    def claim(self, rerun: tuple[str, ...] = ()) -> None:
        self.running.clear()
        self.stopped.clear()
        self.waits.clear()
        self.end = None
        self.scheduler = Scheduler(Program(self.plan), seed=1)
        seq = self.records[-1].seq + 1 if self.records else 1
        if not self.records:
            self.told(self.scheduler.start())
            return
        self.records.append(Record(RecordType.CLAIMED, seq, data={"rerun": list(rerun)}))
        replay(self.scheduler, self.records)
        self.scheduler.check()
        scheduler = self.scheduler
        if scheduler.ending is not None and scheduler.running == 0:
            if self.records[-2].type is not RecordType.RUN_ENDED:
                scheduler.restate_end()
            self.told([scheduler.ending])
            return
        self.told(take_over(scheduler, self.records))

    def step(self) -> None:
        rng, scheduler = self.rng, self.scheduler
        if scheduler.ending is None and rng.random() < 0.02:
            self.told(scheduler.cancel("enough"))
            return
        if self.waits and (not self.running or rng.random() < 0.3):
            wait = self.waits.pop(rng.randrange(len(self.waits)))
            self.told(scheduler.retry_due(wait.node, wait.token))
            return
        node = rng.choice(sorted(self.running))
        self.running.discard(node)
        token = scheduler.token[node]
        if node in self.stopped:
            self.stopped.discard(node)
            if rng.random() < 0.4:
                self.told(scheduler.cancelled(node, token, unstarted=True))
                return
            if node not in scheduler.asking and rng.random() < 0.5:
                self.act(node)
            self.told(scheduler.cancelled(node, token))
        elif node in scheduler.asking:
            done = self.times[node] > 0
            self.told((scheduler.completed if done else scheduler.not_happened)(node, token))
        elif self.may_refuse(node) and (node in self.failing or rng.random() < 0.1):
            self.told(scheduler.failed(node, token, "refused", retryable=rng.random() < 0.5))
        elif rng.random() < 0.15:
            if rng.random() < 0.5:
                self.act(node)
            self.told(scheduler.failed(node, token, "timeout", retryable=True, cut_off=True))
        else:
            self.act(node)
            self.told(scheduler.completed(node, token))

    def ride(self) -> None:
        while self.end is None:
            assert self.running or self.waits, "a run that is not over waits for something"
            self.step()


def a_ride(seed: int) -> Ride:
    rng = random.Random(seed)
    plan = a_plan(rng)
    ride = Ride(rng, plan, Scheduler(Program(plan), seed=1))
    ride.failing = {node for node in range(len(plan.nodes)) if rng.random() < 0.12}
    ride.told(ride.scheduler.start())
    ride.ride()
    return ride


def _check(ride: Ride) -> None:
    plan, times, end = ride.plan, ride.times, ride.end
    assert end is not None
    place = {node: number for number, node in enumerate(ride.order)}
    owed = {node for node in plan.undos if times[node]}
    undone = {node for node in owed if times[plan.undos[node]]}
    for node in plan.undos:  # each at most once, nothing out of nothing, later ones first
        assert times[node] <= 1 and times[plan.undos[node]] <= times[node]
    for node in undone:
        for other in plan.later[node] & owed:
            assert other in undone, "an effect stands on one that was taken back"
            assert place[plan.undos[other]] < place[plan.undos[node]]
    is_past = any(times[pivot] for pivot in plan.pivots)
    if end.status in ("ok", "partial"):
        assert not undone
    elif end.status in ("failed", "cancelled"):
        assert owed == undone and not (is_past and plan.undos)
    else:
        assert end.status == "suspended"
        word, _, name = end.reason.partition(":")
        if word == "past_pivot":
            assert is_past and not undone
        elif word == "undo_stuck":
            node = plan.index[name]
            state = ride.scheduler.status[node]
            undoes = plan.nodes[node].undoes
            assert (
                state is NodeState.UNKNOWN or undoes is not None or (node in ride.scheduler.doubt)
            )
        else:
            assert (word, NodeState.UNKNOWN in ride.scheduler.status) == ("effect_unknown", True)


@given(SEEDS)
@settings(max_examples=1_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_saga_ends_done_undone_or_stuck_whatever_happens(seed: int) -> None:
    ride = a_ride(seed)
    _check(ride)


@given(SEEDS)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_stuck_saga_ends_when_it_is_mended_and_a_person_has_looked(seed: int) -> None:
    ride = a_ride(seed)
    for _ in range(40):
        assert ride.end is not None
        if ride.end.status != "suspended":
            break
        ride.failing.clear()
        unknown = [
            node
            for node, state in enumerate(ride.scheduler.status)
            if state is NodeState.UNKNOWN and ride.scheduler.can_settle(node, "happened")
        ]
        settled = next((node for node in unknown if ride.times[node]), None)
        if settled is not None:
            ride.end = None
            ride.told(ride.scheduler.settled(settled, "happened", {"by": "ann"}))
        else:
            nothing = tuple(ride.plan.nodes[node].name for node in unknown)
            ride.claim(rerun=nothing)
        ride.ride()
    _check(ride)
    assert ride.end is not None and ride.end.status != "suspended"


def test_such_histories_come_through_every_end() -> None:
    ends = Counter(
        (ride.end.status, ride.end.reason.partition(":")[0]) if ride.end else ("", "")
        for ride in (a_ride(seed) for seed in range(400))
    )
    assert {("ok", ""), ("suspended", "undo_stuck"), ("suspended", "past_pivot")} <= ends.keys()
    assert {("cancelled", "enough"), ("failed", "refused")} <= ends.keys()
    assert Kind.WORK.has_effects
