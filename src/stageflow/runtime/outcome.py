"""A finished run: what came out, what did not and why, the same for every ending."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from stageflow.graph import Stage
from stageflow.model.bag import MISSING, OutputBag
from stageflow.model.errors import RunError
from stageflow.model.identity import Identity
from stageflow.model.labels import NONE, Labels
from stageflow.model.progress import Stall
from stageflow.model.session import Seen
from stageflow.model.snapshot import ContextSnapshot
from stageflow.model.values import thaw
from stageflow.runtime.failure import Failure, StageFailed
from stageflow.runtime.produced import NO_CHUNKS, Chunks
from stageflow.scheduler import Cause, NodeState, Program, Scheduler, Stand, in_doubt, stands_of

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver

O = TypeVar("O")  # noqa: E741
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A revision that guards sent back."""

    value: Any
    """Canonical inside a run; a private copy when it comes from `Run.candidates`."""
    feedback: tuple[str, ...]
    score: float
    """The lowest that a guard gave it."""
    guards: tuple[str, ...] = ()
    """Who sent it back, in the order of `feedback`."""


@dataclass(frozen=True, slots=True)
class NodeOutcome:
    """How one node ended."""

    name: str
    state: str
    """ok, skipped, failed, blocked, cancelled, unknown, held (its guards never decided), or
    falling_back (its fallback never ended)."""
    cause: str
    """Why it has no value: own, branch_not_taken, parent_skipped, parent_failed, blocked,
    too_few_values, not_needed (a fallback), run_ended; "none" when it has one."""
    blame: str | None
    """The node to which the cause points."""
    reason: str
    """What the stage said itself."""
    attempts: int
    """Of the last revision, by the stage itself."""
    revision: int
    """1 unless guards asked for more."""
    duration_s: float
    """Of the last attempt; 0 for nodes that did not run in this process."""
    fallback: str | None = None
    """The node whose value stands for its own; None when its value is its own, or it has none."""


@dataclass(frozen=True, slots=True)
class Undo:
    """What a run that did not end well has taken back of what it had done. Names are of steps."""

    undone: tuple[str, ...]
    """In the order in which their undos began."""
    stuck: tuple[str, ...]
    """Whose undo failed for good, or of which nobody knows whether they happened: a person must
    say how they stand (`runtime.settle`), or have them tried again (`runtime.resume`)."""
    waiting: tuple[str, ...]
    """Done, and not undone before what is stuck."""
    left: tuple[str, ...]
    """Done, and to stay so, as a person said, or the undo itself by skipping."""


class Run(Generic[O]):
    """The account of a run. `run[stage]` and `run.output` are private copies, typed."""

    __slots__ = (
        "_bag",
        "_candidates",
        "_causes",
        "_chunks",
        "_durations",
        "_identity",
        "_inputs",
        "_labels",
        "_originals",
        "_program",
        "_reasons",
        "_revisions",
        "_session",
        "_stalls",
        "_standing",
        "_states",
        "_tried",
        "_undo",
        "failures",
        "quarantined",
        "reason",
        "status",
    )

    status: str
    """ok, partial, blocked, failed, cancelled or suspended."""
    reason: str
    """Code: timeout, guard:NAME, error:TYPE, output_skipped, ...; "" when ok."""
    failures: Mapping[str, Failure]
    """The last failure of every node that had one, by node name, in order of failure; a node that
    later succeeded, or for which its fallback stands, is in it too."""
    quarantined: tuple[str, ...]
    """Stages that ignored their cancellation past the grace period."""

    def __init__(
        self,
        *,
        program: Program,
        identity: Identity,
        status: str,
        reason: str,
        inputs: Mapping[str, Any],
        bag: OutputBag,
        states: list[NodeState],
        causes: Mapping[int, tuple[Cause, int]],
        tried: list[int],
        revisions: list[int],
        durations: Sequence[float],
        reasons: Mapping[int, str],
        failures: Mapping[str, Failure],
        candidates: Mapping[int, list[Candidate]],
        originals: Mapping[int, BaseException],
        standing: AbstractSet[int],
        stalls: Mapping[int, Stall],
        quarantined: tuple[str, ...],
        session: Seen | None = None,
        undo: Undo | None = None,
        labels: Mapping[int, Labels],
        chunks: Mapping[int, Chunks],
    ) -> None:
        self._chunks = chunks
        self._labels = labels
        self._program = program
        self._identity = identity
        self.status = status
        self.reason = reason
        self._inputs = inputs
        self._bag = bag
        self._states = states
        self._causes = causes
        self._tried = tried
        self._revisions = revisions
        self._durations = durations
        self._reasons = reasons
        self.failures = failures
        self._candidates = candidates
        self._originals = originals
        self._session = session
        self._standing = standing
        self._stalls = stalls
        self.quarantined = quarantined
        self._undo = undo

    @property
    def undo(self) -> Undo | None:
        """What was taken back, and what was not; None when nothing was to be taken back."""
        return self._undo

    @property
    def identity(self) -> Identity:
        """Whose run it was; a private copy."""
        return self._identity.copied()

    @property
    def id(self) -> str:
        """The run's id."""
        return self._identity.run

    @property
    def is_ok(self) -> bool:
        """True when every declared output is there and nothing was lost."""
        return self.status == "ok"

    @property
    def failure(self) -> Failure | None:
        """The failure that ended the run, else the first that cost a node its value; None when
        none did."""
        number = self._ended_by()
        if number is None:
            number = next(self._failed(), None)
        return None if number is None else self.failures[self._program.plan.nodes[number].name]

    @property
    def snapshot(self) -> ContextSnapshot:
        """The run's last state."""
        return ContextSnapshot(
            identity=self._identity,
            inputs=self._inputs,
            names=self._program.plan.index,
            bag=self._bag,
            version=len(self._bag.accepted),
            session=self._session,
        )

    @property
    def nodes(self) -> dict[str, NodeOutcome]:
        """How every node ended, by name, in the order in which they may run."""
        plan = self._program.plan
        return {plan.nodes[n].name: self._node(n) for n in plan.order if plan.nodes[n].stage}

    @property
    def output(self) -> O:
        """The declared output, or a dict by node name when several or none were declared.

        A single output that is missing raises StageFailed or RunError with its cause; a dict
        holds those that are there.
        """
        plan = self._program.plan
        if plan.single_output:
            return self._value(plan.outputs[0])  # type: ignore[no-any-return]
        found: Any = {
            plan.nodes[number].name: self._value(number)
            for number in plan.outputs
            if self._released(number)
        }
        return found  # type: ignore[no-any-return]

    @overload
    def __getitem__(self, key: Stage[..., T]) -> T: ...
    @overload
    def __getitem__(self, key: str) -> Any: ...
    def __getitem__(self, key: Any) -> Any:
        """A private copy of the value of a stage, given as the stage or by node name.

        Raises StageFailed or RunError with the cause when it has none, RunError when the pipeline
        has no such node or the stage stands in it more than once.
        """
        return self._value(self._program.plan.find(key))

    def __contains__(self, key: Stage[..., Any] | str) -> bool:
        """True when the node has a value."""
        return self._released(self._program.plan.find(key))

    def labels(self, key: Stage[..., Any] | str) -> frozenset[str]:
        """The labels of a node's value, as its consumers got it; none for a node without a value.
        RunError as for `run[key]` when there is no such node."""
        number = self._program.plan.find(key)
        return self._labels.get(number, NONE) if self._released(number) else NONE

    def candidates(self, key: Stage[..., Any] | str) -> list[Candidate]:
        """The revisions of a node that guards sent back, oldest first; values are copies, or
        MISSING in a run read from a journal that has shredded them."""
        kept = self._candidates.get(self._program.plan.find(key), [])
        return [replace(one, value=thaw(one.value)) for one in kept]

    def chunks(self, key: Stage[..., Any] | str) -> Chunks:
        """What a node that has no value had yielded and emitted before it failed, ran out of time
        or was cancelled: of its last attempt that produced anything. None of guarded nodes, whose
        guards never saw it. Read from a journal, items that are not plain are their types' names.
        """
        kept = self._chunks.get(self._program.plan.find(key), NO_CHUNKS)
        return replace(kept, items=tuple(copy.deepcopy(item) for item in kept.items))

    def stall(self, key: Stage[..., Any] | str) -> Stall | None:
        """Why the loop of a node was given up before `revisions=`; None when it was not."""
        return self._stalls.get(self._program.plan.find(key))

    @overload
    def best(self, key: Stage[..., T]) -> T: ...
    @overload
    def best(self, key: str) -> Any: ...
    def best(self, key: Any) -> Any:
        """The accepted value, else the candidate with the highest score (the latest among equals).

        RunError when the node has neither.
        """
        if key in self:
            return self[key]
        candidates = [one for one in self.candidates(key) if one.value is not MISSING]
        if not candidates:
            return self[key]
        return max(enumerate(candidates), key=lambda one: (one[1].score, one[0]))[1].value

    def value_or_raise(self) -> O:
        """`output` when the run is ok; StageFailed or RunError otherwise."""
        if self.status == "ok":
            return self.output
        raise self._error(None)

    def __repr__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"<run {self.id} of {self._program.plan.name!r}: {self.status}{reason}>"

    def _released(self, number: int) -> bool:
        return self._states[number] is NodeState.OK and (self._bag.values[number] is not MISSING)

    def _value(self, number: int) -> Any:
        if not self._released(number):
            raise self._error(number)
        return thaw(self._bag.values[number])

    def _node(self, number: int) -> NodeOutcome:
        plan = self._program.plan
        cause, blame = self._causes.get(number, (Cause.NONE, -1))
        fallback = plan.nodes[number].fallback if number in self._standing else None
        return NodeOutcome(
            name=plan.nodes[number].name,
            state=self._states[number].name.lower(),
            cause=cause.value,
            blame=None if blame < 0 else plan.nodes[blame].name,
            reason=self._reasons.get(number, ""),
            attempts=self._tried[number] - (fallback is not None),
            revision=self._revisions[number],
            duration_s=self._durations[number],
            fallback=None
            if fallback is None or not self._released(number)
            else plan.nodes[fallback].name,
        )

    def _failed(self) -> Iterator[int]:
        """The nodes that have no value because they failed, in order of failure."""
        for name in self.failures:
            number = self._program.plan.index[name]
            if self._states[number] is NodeState.FAILED:
                yield number

    def _ended_by(self) -> int | None:
        """The node whose failure ended the run."""
        if self.status != "failed":
            return None
        nodes = self._program.plan.nodes
        for number in self._failed():
            node = nodes[number]
            spared = node.isolates or node.gates or node.undoes is not None
            if not spared and node.stands_for is None:
                return number
        return None

    def _culprit(self, number: int) -> int | None:
        """The node by whose failure `number` has no value; None when it was no failure."""
        state = self._states[number]
        cause, blame = self._causes.get(number, (Cause.NONE, -1))
        if state is NodeState.FAILED:
            return number
        if cause in (Cause.PARENT_FAILED, Cause.BLOCKED):  # BLOCKED: by a guard that failed
            return blame if self._states[blame] is NodeState.FAILED else None
        if state is NodeState.CANCELLED or not state.is_terminal:
            return self._ended_by()
        return None

    def _stage_failed(self, number: int) -> StageFailed:
        """The failure of a node, with those of the fallbacks that it called in vain."""
        plan = self._program.plan
        node = plan.nodes[number]
        original = self._originals.get(number)
        error = StageFailed(
            self.failures[node.name], status=self.status, pipeline=plan.name, original=original
        )
        error.__cause__ = original
        while node.fallback is not None:
            node = plan.nodes[node.fallback]
            if self._states[node.index] is not NodeState.FAILED:
                break
            error.add_note(f"its fallback failed too: {self.failures[node.name]}")
        return error

    def _error(self, number: int | None) -> RunError | StageFailed:
        plan = self._program.plan
        if number is None:
            missing = [n for n in plan.outputs if not self._released(n)]
            number = self._ended_by()
            if number is None:
                number = missing[0] if missing else next(self._failed(), None)
        culprit = None if number is None else self._culprit(number)
        if culprit is not None:
            return self._stage_failed(culprit)
        if number is None:
            return RunError(
                "run.not_ok",
                f"the run ended as {self.status}: {self.reason}",
                pipeline=plan.name,
            )
        node = self._node(number)
        said = self._reasons.get(plan.index[node.blame] if node.blame else number, "")
        return RunError(
            "run.no_value",
            f"node {node.name!r} has no value: {node.state}, {node.cause}"
            + (f" by {node.blame!r}" if node.blame not in (None, node.name) else "")
            + (f" ({said})" if said else ""),
            pipeline=plan.name,
            node=node.name,
            expected="a released value",
            got=f"a run that ended as {self.status}" + (f": {self.reason}" if self.reason else ""),
            fix="look at run.status before reading outputs, or use first_of(...) for alternatives",
        )


_GIVEN_UP = {
    "exhausted": "its guards let no revision pass",
    "crash_loop": "every attempt died with its process",
    "effect_unknown": "nobody knows whether its effect happened",
    "expired": "nobody answered in time",
}


def make_run(driver: Driver) -> Run[Any]:
    """The account of a driver that has ended."""
    assert driver.end is not None
    scheduler = driver.scheduler
    for number, reason in scheduler.failures.items():
        if number not in driver.failures:  # the scheduler itself gave it up
            name = driver.nodes[number].name
            text = _GIVEN_UP.get(reason, reason)
            if reason == "exhausted" and number in driver.stalls:
                text += f": {driver.stalls[number]}"
            driver.failures[number] = Failure((name,), reason, "", text)
    return Run(
        program=driver.program,
        identity=driver.identity,
        status=driver.end.status,
        reason=driver.end.reason,
        inputs=driver.inputs,
        bag=driver.bag,
        states=scheduler.status,
        causes=scheduler.cause,
        tried=scheduler.attempt,
        revisions=scheduler.revision,
        durations=driver.durations,
        reasons=driver.reasons,
        failures={driver.nodes[n].name: failure for n, failure in driver.failures.items()},
        candidates=driver.candidates,
        originals=driver.originals if scheduler.failures else {},
        standing=scheduler.standing if driver.program.falls_back else frozenset(),
        stalls={
            number: stall
            for number, stall in driver.stalls.items()
            if scheduler.failures.get(number) == "exhausted"
        },
        quarantined=tuple(driver.quarantined),
        session=driver.session,
        undo=_undo_of(scheduler),
        labels=driver.released_labels(),
        chunks=driver.produced.cut if driver.keeps or driver.recovered else {},
    )


def _undo_of(scheduler: Scheduler) -> Undo | None:
    if scheduler.undoing is None:
        return None
    plan, stands = scheduler.plan, stands_of(scheduler)
    order = sorted(stands, key=lambda node: scheduler.token[plan.undos[node]])

    def named(*those: Stand) -> tuple[str, ...]:
        return tuple(plan.nodes[node].name for node in order if stands[node] in those)

    pivots = (plan.nodes[node].name for node in sorted(in_doubt(scheduler)) if node in plan.pivots)
    return Undo(
        undone=named(Stand.UNDONE),
        stuck=(*pivots, *named(Stand.STUCK, Stand.DOUBT)),
        waiting=named(Stand.OWED, Stand.RUNNING),
        left=named(Stand.LEFT),
    )
