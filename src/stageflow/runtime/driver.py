"""Drives one run on an asyncio loop: carries out the scheduler's actions, feeds back what happens.

Workers. A ready chain runs in one task: a worker takes a ready node, steps its coroutine in place,
and goes on with what became ready. When a stage really waits, its worker waits with it, and a new
worker takes over whatever else is ready. So a run has one task per waiting stage, none per stage,
and each stage's `asyncio.current_task()` stays the same from its first line to its last, which
timeouts, task groups and anyio scopes inside stages rely on.

Durable order. Every event writes records; the actions that an event caused are carried out only
when its records are on disk. Records of one run are appended in order, one append at a time;
whatever is written meanwhile goes into the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import weakref
from array import array
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from stageflow.graph import Node, Source
from stageflow.journal.admission import Named, run_exists
from stageflow.journal.journal import QueueJournal
from stageflow.model.bag import MISSING, OutputBag
from stageflow.model.errors import EffectUnknown, JournalError, RunError, StageflowError, tamed
from stageflow.model.identity import Identity
from stageflow.model.labels import NONE, Labels
from stageflow.model.marks import reached
from stageflow.model.outputs import Allow, Feedback, OutcomeKind, Revise, StageOutput
from stageflow.model.progress import Stall
from stageflow.model.record import RecordType
from stageflow.model.session import Seen
from stageflow.model.snapshot import ContextSnapshot
from stageflow.model.sparse import made
from stageflow.model.values import Freezer, Frozen, thaw
from stageflow.runtime.attempt import Attempt, Killed
from stageflow.runtime.body import begin
from stageflow.runtime.cache import CacheKey, keep
from stageflow.runtime.children import BY_PARENT
from stageflow.runtime.context import Context
from stageflow.runtime.control import Control, control_of
from stageflow.runtime.deps import Fakes
from stageflow.runtime.durable import StepResult
from stageflow.runtime.events import EventType, RawEvent, Subscription
from stageflow.runtime.failure import Failure, StageFailed, beside, failure_of
from stageflow.runtime.heartbeat import Heartbeats
from stageflow.runtime.history import History
from stageflow.runtime.inquiry import DidNotHappen
from stageflow.runtime.interim import begin_anew
from stageflow.runtime.labels import LabelFlow
from stageflow.runtime.lingering import RUN, Kin, end_lingering
from stageflow.runtime.messages import Mailbox
from stageflow.runtime.outcome import Candidate, Run, make_run
from stageflow.runtime.pools import Precedence
from stageflow.runtime.produced import NO_CHUNKS, Chunks, Produced
from stageflow.runtime.questions import answer, ask
from stageflow.runtime.ready import RankedReady
from stageflow.runtime.retrying import refusal, verdict
from stageflow.runtime.sealing import shredded
from stageflow.runtime.simulated import is_simulated
from stageflow.runtime.step import Compiled, Step
from stageflow.runtime.stream import Emitted, StreamQueue
from stageflow.runtime.waits import Caller
from stageflow.scheduler import (
    Action,
    Ask,
    End,
    Launch,
    NodeState,
    Scheduler,
    SentBack,
    Stop,
    Wait,
)

if TYPE_CHECKING:
    from stageflow.runtime.runtime import Runtime
    from stageflow.runtime.sessions import Arrival

OK, BLOCKED = NodeState.OK, NodeState.BLOCKED
_SENT_BACK = (NodeState.RUNNING, NodeState.FALLING_BACK, NodeState.FAILED)
STARTED, ENDED = EventType.STAGE_STARTED.value, EventType.STAGE_ENDED.value


_ALLOWED = Freezer().freeze(Allow())
"""Most guards say so most of the time; this saves making the same canonical form again."""


class Driver:
    """One run in this process. Made by `Runtime`, used once."""

    __slots__ = (
        "_beats",
        "_cache_keys",
        "_candidates",
        "_due_wall_s",
        "_failures",
        "_flow",
        "_held_items",
        "_kept_children",
        "_kept_results",
        "_keys",
        "_late_attempts",
        "_originals",
        "_produced",
        "_quarantined",
        "_questions",
        "_reasons",
        "_redactions",
        "_retries",
        "_sent_back",
        "_stalls",
        "_steps_done",
        "_watchers",
        "_wishes",
        "alarm",
        "alarm_s",
        "asked",
        "attempts",
        "bag",
        "bug",
        "caller",
        "context",
        "cut_by_s",
        "deadline_in_s",
        "deadline_s",
        "deps",
        "depth",
        "disturbed",
        "durations",
        "end",
        "events",
        "fakes",
        "first",
        "flows",
        "held",
        "history",
        "holds",
        "identity",
        "inputs",
        "is_open",
        "is_over",
        "keeps",
        "kin",
        "left",
        "limits",
        "loop",
        "mailbox",
        "needs_end",
        "neutral",
        "nodes",
        "opened",
        "over_by_s",
        "parent",
        "parent_undoes",
        "plan",
        "priority",
        "program",
        "push",
        "ready",
        "recovered",
        "runtime",
        "scheduler",
        "seed",
        "session",
        "spreads",
        "started_s",
        "starting",
        "steps",
        "stream",
        "tenant",
        "time",
        "timer",
        "turn",
        "waiter",
        "workers",
    )

    held_items: dict[int, list[Any]] = made(dict)
    produced: Produced = made(Produced)
    """What running stages have yielded and emitted, and those that were cut off had."""
    beats: Heartbeats = made(Heartbeats)
    redactions: dict[int, Any] = made(dict)
    """Gated node to the value a guard put in its place, until release."""
    candidates: dict[int, list[Candidate]] = made(dict)
    """Revisions of nodes that some guard sent back, oldest first."""
    wishes: dict[int, list[tuple[str, Revise]]] = made(dict)
    """What which guards said about a node's latest revision."""
    stalls: dict[int, Stall] = made(dict)
    """Nodes whose loop gets nowhere, as the guard that spoke last has it."""
    sent_back: dict[int, list[SentBack]] = made(dict)
    """As many of a node's candidates as its guards have compared so far."""
    steps_done: dict[tuple[int, int], dict[str, StepResult]] = made(dict)
    """Durable steps by (node, revision) and key; the same for every attempt."""
    questions: dict[int, asyncio.TimerHandle] = made(dict)
    """Expiry of PARKED nodes."""
    reasons: dict[int, str] = made(dict)
    """What a node said about its skip, block or cancellation."""
    failures: dict[int, Failure] = made(dict)
    originals: dict[int, BaseException] = made(dict)
    """Exceptions of nodes that failed for good here, without their frames."""
    late_attempts: dict[int, int] = made(dict)
    """Token to attempt of what is being refused now."""
    retries: dict[int, asyncio.TimerHandle] = made(dict)
    quarantined: list[str] = made(list)
    keys: dict[tuple[int, str], bool] = made(dict)
    """(node, key) of every child started here: whether it is under way."""
    kept_children: dict[tuple[int, str], list[Driver]] = made(dict)
    """Without a journal: finished runs that (node, key) may have to take back, oldest first."""
    kept_results: dict[int, Any] = made(dict)
    """Guarded nodes that can be undone: what they returned, whatever guards made of it."""
    cache_keys: dict[int, CacheKey] = made(dict)
    """Of nodes that are executed because no kept value was found."""
    watchers: list[asyncio.Future[Run[Any]]] = made(list)
    due_wall_s: dict[int, float] = made(dict)
    """Recovered questions: when they expire, unix time."""

    def __init__(
        self,
        runtime: Runtime,
        program: Compiled,
        *,
        identity: Identity,
        inputs: Mapping[str, Any],
        seed: int,
        epoch: int = 1,
        history: History | None = None,
        depth: int = 0,
        deadline_s: float | None = None,
        deadline_in_s: float | None = None,
        events: Sequence[Subscription] = (),
        stream: StreamQueue | None = None,
        scheduler: Scheduler | None = None,
        priority: int = 0,
        labels: Labels = NONE,
    ) -> None:
        """`inputs` are canonical, and have `labels`. `deadline_s` is on the loop's clock,
        `deadline_in_s` counts from the start. `scheduler` is given when the run was recovered."""
        self.runtime = runtime
        self.limits = runtime.limits
        self.program = program
        self.plan = program.plan
        self.nodes = program.plan.nodes
        self.steps = program.steps
        self.identity = identity
        self.inputs = inputs
        self.seed = seed
        self.priority = priority
        """Of every stage of this run, to which its own is added."""
        self.depth = depth
        self.deadline_s = deadline_s
        self.deadline_in_s = deadline_in_s
        self.history = history
        self.events = (*runtime.events, *events)
        self.tenant = identity.tenant
        self.push: Callable[[RawEvent], None] | None = None
        """Where events go; None when nobody listens."""
        if self.events:
            self.push = self.events[0].push if len(self.events) == 1 else self._push_to_all
        self.stream = stream
        self._flow: LabelFlow | None = None
        if labels:
            self.flow.run = labels
        self.flows = False
        """Whether any value of the run can have a label; known when it is open."""
        self.recovered = scheduler is not None
        self.scheduler = (
            Scheduler(program, seed=seed, writes=history is not None, parks=history is not None)
            if scheduler is None
            else scheduler
        )
        self.bag = OutputBag(len(self.nodes), epoch=epoch, names=self.plan.index)
        self.deps: Mapping[str, Any] = {}
        self.fakes: Fakes | None = None
        """Deps that stand for the runtime's, in a pipeline under test."""
        self.ready: deque[int] | RankedReady = (
            deque() if program.priorities is None else RankedReady(program.priorities)
        )
        """Nodes that may start now, by priority and in order of readiness."""
        self.attempts: dict[int, Attempt] = {}
        """Waiting stages by node."""
        self.workers: dict[asyncio.Task[Any], Driver | None] = {}
        """The engine's own tasks; with the run that it drives, for a child's."""
        self.starting = 0
        """Workers that were made and have not run yet; they will look at `ready`."""
        self.held: set[int] = set()
        """Nodes whose value waits for guards."""
        self.durations = array("d", bytes(8 * len(self.nodes)))
        """Seconds of each node's last attempt in this process."""
        self.parent: Driver | None = None
        """The run whose stage started this one."""
        self.holds = scheduler is not None and runtime.locks.is_kept
        """True when this run may hold locks; of the outermost run."""
        self.parent_undoes = False
        """Of a child: its parent takes its effects back when it ends it; it need not itself."""
        self.caller: Caller | None = None
        """Of a child: who awaits its end."""
        self.mailbox: Mailbox | None = None
        """Who waits for messages of its stages; None while nobody ever has."""
        self.left: asyncio.Future[None] | None = None
        """Of a child: done when it is over; the stage that started it waits for this."""
        self.is_over = False
        """True when everything that the run started has ended, as far as it could be."""
        self.kin: Kin
        """What its stages' contexts say of it."""
        self.over_by_s: float | None = None
        """On the loop's clock: when what is stopped will be killed; None while nothing ends."""
        self.cut_by_s: float | None = None
        """The same of the stage whose timeout ended the run; None when none did."""
        self.disturbed = False
        """True when some attempt was stopped: only then can stages have left tasks behind."""
        self.end: End | None = None
        self.bug: BaseException | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.context: contextvars.Context
        """The caller's, as the stages see it: each runs in a copy."""
        self.neutral: contextvars.Context
        """The caller's, but of no run: the engine's own tasks run in copies. A parent ends what
        its stages left behind, and this run's engine must not be taken for that."""
        self.loop: asyncio.AbstractEventLoop
        self.time: Callable[[], float] = monotonic
        self.started_s = 0.0
        self.spreads = False
        self.keeps = False
        """Whether a stage has produced an item or given a sign of life: then `produced` and
        `beats` may hold something."""
        self.is_open = False
        self.opened: asyncio.Future[None] | None = None
        """Done when what a run begins with is durable, or it is over before; None when nobody
        waits for that."""
        self.asked: tuple[str, str] | None = None
        """Why, and as what, somebody ended the run before it was open."""
        self.turn: Arrival | None = None
        """Its place in its session's line; None for a run that is no turn of one."""
        self.session: Seen | None = None
        """What it sees of its session; None until its turn has begun, and without one."""
        self.first: list[Action] | None = None
        self.needs_end = False
        """True for a run that was taken over ended and that nothing has set going again."""
        self.alarm: asyncio.TimerHandle | None = None
        self.alarm_s = math.inf
        """When it rings: no later than the earliest deadline of `attempts`."""
        self.timer: asyncio.TimerHandle | None = None
        """Of the run's deadline."""

    # -- life of a run -----------------------------------------------------------------------

    def watch(self) -> asyncio.Future[Run[Any]]:
        """A future of the run's account, for somebody who did not start it."""
        watcher: asyncio.Future[Run[Any]] = self.loop.create_future()
        self.watchers.append(watcher)
        return watcher

    async def execute(self, first: list[Action] | None = None) -> Run[Any]:
        """Runs to the end. `first` are the actions of a recovered run.

        When the awaiting task is cancelled, the run is cancelled, cleaned up and journalled, and
        then CancelledError is raised again.
        """
        self.loop = asyncio.get_running_loop()
        # The standard loops' clock is time.monotonic behind a method; this saves the method.
        standard = type(self.loop).time is asyncio.BaseEventLoop.time
        self.time = monotonic if standard else self.loop.time
        self.started_s = self.time()
        # A simulated loop explores orders of starting; on a real one, order is readiness.
        self.spreads = is_simulated(self.loop)
        self.context = contextvars.copy_context()
        self.neutral = contextvars.copy_context()
        if RUN.get() is not None:
            self.neutral.run(RUN.set, None)
        self.kin = Kin(self, None if self.parent is None else self.parent.kin)
        self.context.run(RUN.set, self.kin)
        cancelled = False
        if self.history is not None or self.plan.deps:
            self._take_id()
        if self.history is not None and self.recovered:
            heir = self.runtime.heirs.get(self.identity.run)
            if heir is not None:
                heir.begins(self)
        try:
            if self.turn is not None:
                cancelled = await self.turn.come(self)
            # Opening is finished even when the caller is cancelled meanwhile: a run that the
            # journal knows must be ended there too.
            if self.history is not None or self.plan.deps:
                cancelled = await self.whole(self._prepare()) or cancelled
            self._open(first)
            if cancelled:
                self.cancel("caller_cancelled")
            while self.end is None and self.bug is None:
                try:
                    await self._woken()
                except asyncio.CancelledError:
                    cancelled = self.disturbed = True
                    self.cancel("caller_cancelled")
        finally:
            if self._is_clean():
                self._let_go()
            elif await self.whole(self._clean_up()) and not cancelled:
                cancelled = True
                # The run was over by itself, and what its stages left behind was let be; a
                # cancelled caller leaves nothing.
                await self.whole(self._end_tasks())
        if self.bug is not None:
            for watcher in self.watchers:
                watcher.cancel()
            if _is_lost(self.bug):
                self.publish(
                    EventType.RUN_ENDED,
                    duration_s=self.time() - self.started_s,
                    status="lost",
                    reason="stale_owner",
                )
            raise self.bug
        assert self.end is not None
        self.publish(
            EventType.RUN_ENDED,
            duration_s=self.time() - self.started_s,
            status=self.end.status,
            reason=self.end.reason,
        )
        run = make_run(self)
        for watcher in self.watchers:
            if not watcher.done():
                watcher.set_result(run)
        if cancelled:
            raise asyncio.CancelledError
        if self.turn is not None and self.turn.refusal is not None:
            raise self.turn.refusal
        return run

    def _take_id(self) -> None:
        """Registers the run; a new one whose id is in use here is refused before it touches what
        belongs to the other: its place in the runtime, its deps, its records."""
        run = self.identity.run
        other = self.runtime.active.get(run)
        if other is not None and not self.recovered and self.parent is None:
            self._let_go()
            mine, theirs = (Named(run, each.tenant, each.plan.name) for each in (self, other))
            raise run_exists(mine, theirs)
        self.runtime.active[run] = self

    async def whole(self, work: Coroutine[Any, Any, None]) -> bool:
        """Awaits `work` to its end, however often the caller is cancelled; True when it was."""
        cancelled = False
        task = self.loop.create_task(work, context=self.neutral.copy())
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                cancelled = True
            except BaseException:
                break  # raised again by result(), below
        task.result()
        return cancelled

    async def _woken(self) -> None:
        """Waits until the run is over, or the engine has failed."""
        self.waiter = self.loop.create_future()
        await self.waiter

    async def _prepare(self) -> None:
        """What a run needs before its first stage and has to wait for."""
        if self.asked is None:
            await self.open_deps()
        if self.history is not None and self.turn is None:
            if self.recovered:
                self.restate_end()
                await self.history.commit(self)
            else:
                self.first = self.start_scheduler()
                await self.history.create(self)

    async def open_deps(self) -> None:
        """Once; a turn of a session opens them before it takes its turn. A run that was taken up
        and can't have them is nobody's again: whoever can opens them, later or elsewhere."""
        if not self.plan.deps or self.deps:
            return
        try:
            self.deps = await self.runtime.open_deps(self)
        except BaseException:
            journal = self.runtime.journal
            if self.recovered and isinstance(journal, QueueJournal):
                with contextlib.suppress(JournalError):  # then its lease expires
                    await journal.release(self.identity.run, self.bag.epoch)
            raise

    def restate_end(self) -> None:
        """Has the end of a recovered run written that can't go on."""
        scheduler = self.scheduler
        if self.needs_end and scheduler.ending and not scheduler.running and not self._ends():
            scheduler.restate_end()

    def _ends(self) -> bool:
        """True when the run's end is among the records to be written."""
        return any(record.type is RecordType.RUN_ENDED for record in self.scheduler.records)

    def start_scheduler(self) -> list[Action]:
        """The run's first event; values of gated inputs go into the bag."""
        absent = []
        for spec in self.plan.inputs.values():
            if spec.node is not None:
                if spec.name in self.inputs:
                    self.bag.put(spec.node, self.inputs[spec.name], 0, 0, held=True)
                    self.held.add(spec.node)
                else:
                    absent.append(spec.node)
        return self.scheduler.start(absent, is_turn=self.turn is not None)

    def _open(self, first: list[Action] | None) -> None:
        self.publish(EventType.RUN_STARTED)
        self.see_labels()
        if self.deadline_in_s is not None:
            self.deadline_s = self.started_s + self.deadline_in_s
        # A child's deadline is that of the attempt that started it, which has a timer already.
        if self.deadline_s is not None and self.parent is None:
            self.timer = self.loop.call_at(self.deadline_s, self._deadline)
        if not self.recovered:
            first = self.start_scheduler() if self.history is None else self.first
        assert first is not None
        self.is_open = True
        if self.opened is not None:
            self._tell_opened()
        self._apply(first)
        self._wake_worker()
        if self.asked is not None:
            reason, status = self.asked
            self.cancel(reason, status=status)

    def see_labels(self) -> None:
        """What the run was given is known by now, and so whether anything of it has a label."""
        seen = NONE if self.session is None else self.session.labels
        if seen:
            self.flow.session = seen
        self.flows = self.plan.is_labelled or (self._flow is not None and self._flow.has_any)

    @property
    def flow(self) -> LabelFlow:
        """The labels of the run's values; made when it is first asked for, since few runs have
        any."""
        if self._flow is None:
            self._flow = LabelFlow(self.plan)
        return self._flow

    @property
    def input_labels(self) -> Labels:
        """Of every input."""
        return NONE if self._flow is None else self._flow.run

    def released_labels(self) -> dict[int, Labels]:
        """Of each node's value, as its consumers get it; those without a label are left out."""
        self.see_labels()
        if not self.flows:
            return {}
        each = {number: self.flow.released(number) for number in range(len(self.nodes))}
        return {number: labels for number, labels in each.items() if labels}

    def _tell_opened(self) -> None:
        assert self.opened is not None, "somebody waits"
        if not self.opened.done():
            self.opened.set_result(None)

    def _is_clean(self) -> bool:
        """True when ending needs no waiting: the common case costs no task."""
        return (
            not self._may_linger()
            and not self.holds
            and not self.plan.deps
            and all(worker.done() for worker in self.workers)
        )

    def _may_linger(self) -> bool:
        """True when stages can have left tasks behind: one was stopped, or the whole run."""
        return (
            self.disturbed
            or self.bug is not None
            or self.end is None
            or self.end.status in ("cancelled", "failed")
        )

    async def _clean_up(self) -> None:
        """Nothing of this run is left behind, whatever ended it."""
        if self.scheduler.undoing is not None:
            # The grace period that stopping began may be long over.
            self.over_by_s = self.cut_by_s = None
        try:
            if self._may_linger():
                await self._end_tasks()
            await self.settled(self.workers)
            if self._gives_back():
                await self.runtime.locks.give_back(self.identity.run)
            if self.plan.deps:
                await self.runtime.close_deps(self)
        finally:
            self._let_go()

    def _gives_back(self) -> bool:
        """True when locks that the run may hold are to be free: its saga has ended."""
        is_over = self.bug is None and self.end is not None and self.end.status != "suspended"
        # Without a journal nobody goes on with it, whatever has happened.
        return self.holds and self.identity.parent is None and (is_over or self.history is None)

    async def _end_tasks(self) -> None:
        """Ends child runs and whatever else stages have left behind.

        A stage whose timeout ended the run has had a grace period, which is that of its tasks too:
        else the caller would wait for two of them.
        """
        if self.over_by_s is None:
            self.over_by_s = self.cut_by_s
        over_by_s = self._over_by_s()
        below = [child for child in self.workers.values() if child is not None]
        for child in below:
            child.cancel(BY_PARENT[1], over_by_s=over_by_s)
        if not below and self._is_forgotten():
            return
        left = await end_lingering(self.kin, workers=self.workers, over_by_s=over_by_s)
        children = [task for task, child in self.workers.items() if child is not None]
        if children:
            await self.settled(children)
            left += await end_lingering(self.kin, workers=self.workers, over_by_s=over_by_s)
        for name in left:
            self._quarantine(name)

    def _is_forgotten(self) -> bool:
        """True when no context of its stages is left, and so none of their tasks: spares a look at
        all tasks of the loop, which thousands of runs that fail at one time can't afford."""
        self.context.run(RUN.set, None)
        known = weakref.ref(self.kin)
        del self.kin
        kin = known()
        self.kin = Kin(self, None) if kin is None else kin
        if kin is None:
            self.kin.driver = None  # it may have been let go of before
        return kin is None

    def _let_go(self) -> None:
        self.is_over = True
        if self.end is None:
            for watcher in self.watchers:
                watcher.cancel()
        if self.opened is not None:
            self._tell_opened()
        for timer in (*self.retries.values(), *self.questions.values()):
            timer.cancel()
        if self.timer is not None:
            self.timer.cancel()
        if self.alarm is not None:
            self.alarm.cancel()
        if self.stream is not None:
            self.stream.close()
        if self.runtime.active.get(self.identity.run) is self:
            del self.runtime.active[self.identity.run]
        if self.turn is not None:
            self.turn.leave_after(self)
        self.kin.driver = None

    def cancel(
        self, reason: str, *, status: str = "cancelled", over_by_s: float | None = None
    ) -> None:
        """Ends the run; returns at once. Does nothing when the run is over.

        `over_by_s`, on the loop's clock, is when a parent will have this run over; by default
        the grace period counts from now.
        """
        if self.over_by_s is None:
            self.over_by_s = over_by_s
        if not self.is_open:
            self.asked = reason, status
            if self.turn is not None:
                self.turn.wake()
        elif self.end is None:
            reached("run_cancelled")
            defers = self.parent_undoes and reason in BY_PARENT
            self.step_aside(self.scheduler.cancel(reason, status=status, defers=defers))

    def let_go(self) -> None:
        """Stops everything here and writes nothing more: somebody else is to go on with the run."""
        if self.end is None and self.bug is None and self.history is not None:
            self.history.is_closed = True
            self._crash(
                JournalError(
                    "journal.let_go",
                    f"run {self.identity.run!r} was let go before it had ended",
                    pipeline=self.plan.name,
                    expected="a worker that goes on until its runs have ended",
                    got="a worker that was stopped",
                    fix="nothing is lost: another worker goes on with it, or runtime.resume(run)",
                )
            )

    def lose(self) -> None:
        """Another process has taken the run over: everything here stops, and nothing counts."""
        if self.end is None and self.bug is None:
            self._crash(
                JournalError(
                    "journal.stale_owner",
                    f"run {self.identity.run!r} was taken over by another process",
                    pipeline=self.plan.name,
                    expected=f"to own the run in epoch {self.bag.epoch}",
                    got="a later epoch: this process was stopped or cut off past its lease",
                    fix="nothing is lost: the new owner goes on with the run",
                )
            )

    def kill(self) -> None:
        """The time to end is over: stages that are still there are closed by force."""
        for attempt in list(self.attempts.values()):
            # What takes effects back has its own time limits, and is owed to its end.
            if self.bug is not None or not self.scheduler.goes_on(attempt.node):
                attempt.kill()

    def is_stopping(self, number: int, attempt_number: int) -> bool:
        """True when that attempt was asked to stop, or counts no more. Threads ask, too."""
        attempt = self.attempts.get(number)
        return (
            not self.scheduler.goes_on(number)
            or self.scheduler.attempt[number] != attempt_number
            or (attempt is not None and attempt.why is not None)
        )

    def _over_by_s(self) -> float:
        """When what is being stopped will be killed: one moment for the whole run."""
        if self.over_by_s is None:
            self.over_by_s = self.time() + self.limits.grace_s
        return self.over_by_s

    def _grace_s(self) -> float:
        return max(0.0, self._over_by_s() - self.time())

    def _deadline(self) -> None:
        self.cancel("timeout", status="failed")

    @property
    def version(self) -> int:
        """Of the run's state now: how many outputs it has accepted."""
        return len(self.bag.accepted)

    def snapshot(self, version: int | None = None) -> ContextSnapshot:
        """The run's state at a version; by default now."""
        return ContextSnapshot(
            identity=self.identity,
            inputs=self.inputs,
            names=self.plan.index,
            bag=self.bag,
            version=self.version if version is None else version,
            session=self.session,
        )

    # -- workers -----------------------------------------------------------------------------

    def _wake_worker(self) -> None:
        """Makes sure that somebody will look at `ready`."""
        if self.ready and not self.starting:
            self._hire()

    def _hire(self) -> None:
        self.starting += 1
        task = self.loop.create_task(self._work(), context=self.neutral.copy())
        self.workers[task] = None
        task.add_done_callback(self._worker_left, context=self.neutral)

    def _worker_left(self, task: asyncio.Task[Any]) -> None:
        del self.workers[task]
        if task.cancelled():
            # Before its first step, by a loop that is torn down: end the run, with another worker.
            self.starting -= 1
            self.disturbed = True
            self.cancel("loop_closed")
            self._wake_worker()

    async def _work(self) -> None:
        """Takes ready nodes, one after another, until there are none."""
        self.starting -= 1
        # Names are local because this loop is what a stage costs (benchmarks/).
        ready, scheduler, steps, time = self.ready, self.scheduler, self.steps, self.time
        tokens, attempts, values = scheduler.token, scheduler.attempt, self.bag.values
        copy, push, run, tenant = self.context.copy, self.push, self.identity.run, self.tenant
        history = self.history
        now, slice_s = time(), self.limits.slice_s
        slice_end_s = now + slice_s
        try:
            while ready:
                if self.spreads and len(ready) > 1 and await self._spread():
                    return
                number = ready.popleft()
                token = tokens[number]
                if scheduler.ending is not None and not scheduler.goes_on(number):
                    await self._done(scheduler.cancelled(number, token, unstarted=True))
                    continue
                step = steps[number]
                started_s = now
                if push is not None:
                    push(
                        (STARTED, run, step.name, attempts[number], started_s, 0.0, "", "", tenant)
                    )
                error: BaseException | None = None
                raw: Any = None
                has_waited = False
                context = copy()
                try:
                    coroutine: Any
                    if step.is_async:
                        given: dict[str, Any] = {}
                        for name, parent in step.taken:
                            value = values[parent]
                            if value is not MISSING:
                                given[name] = thaw(value) if type(value) is Frozen else value
                        if step.others:
                            self._other_arguments(step, given, started_s)
                        coroutine = step.function(**given)
                    else:
                        coroutine, raw = begin(self, step.node, context, started_s)
                    if coroutine is not None:
                        try:
                            yielded = context.run(coroutine.send, None)
                        except StopIteration as stop:
                            raw = stop.value
                        else:
                            if ready:
                                self._wake_worker()
                            has_waited = True
                            attempt = self._waiting(step, token, coroutine, context, started_s)
                            try:
                                raw = await attempt.wait(yielded)
                            except BaseException as raised:
                                if not self._was_stopped(attempt, step, raised):
                                    raise
                                raw = MISSING
                            finally:
                                attempt.leave()
                                del self.attempts[number]
                            if attempt.why is not None:
                                self.disturbed = True
                                raise Stopped(attempt.why, raw, attempt.over_by_s)
                except BaseException as raised:  # the stage boundary: it becomes the outcome
                    error = tamed(raised)
                now = time()
                if has_waited:
                    slice_end_s = now + slice_s
                if error is None and now - started_s <= step.timeout_s:
                    actions = self._returned(step, token, raw, started_s, now)
                else:
                    actions = self._raised(step.node, token, error, now - started_s)
                    left = error.value if isinstance(error, Stopped) else raw
                    if left is not MISSING and (error is None or isinstance(error, Stopped)):
                        # It returned all the same: a value like any other, which its token refuses.
                        self._returned(step, token, left, started_s, now)
                    error = left = None  # its traceback has this frame, which would hold it
                if self.mailbox is not None:
                    self.mailbox.look(self)
                if history is not None:
                    await self._done(actions)
                    now = time()
                elif actions:
                    if len(actions) == 1 and type(actions[0]) is Launch:
                        ready.append(actions[0][0])
                    else:
                        self._apply(actions)
                if now > slice_end_s and ready:
                    await asyncio.sleep(0)
                    now = time()
                    slice_end_s = now + slice_s
        except BaseException as bug:  # not a stage's failure: those are data by now
            self._crash(bug)

    async def _spread(self) -> bool:
        """In a simulation: lets the schedule choose which ready node starts first."""
        while self.starting < len(self.ready):
            self._hire()
        await asyncio.sleep(0)
        return not self.ready

    def _waiting(
        self,
        step: Step,
        token: int,
        coroutine: Any,
        context: contextvars.Context,
        started_s: float,
    ) -> Attempt:
        """The attempt of a stage that really waits."""
        deadline_s = started_s + step.timeout_s
        attempt = Attempt(step.index, token, coroutine, context, self.loop, deadline_s)
        self.attempts[step.index] = attempt
        if step.heartbeat_s < math.inf:
            of = self.scheduler.attempt[step.index]
            attempt.silent_by_s = partial(
                self.beats.due_s, step.index, of, started_s, step.heartbeat_s
            )
            deadline_s = attempt.due_s()
        if deadline_s < self.alarm_s:
            self._set_alarm(deadline_s)
        return attempt

    def _was_stopped(self, attempt: Attempt, step: Step, error: BaseException) -> bool:
        """True when a wait raised because it was asked to stop; False when that is its own.

        By its type alone: its attributes are the stage's code, and may raise."""
        if issubclass(type(error), Killed):
            self._quarantine(step.name)
        elif attempt.why is None:
            if not issubclass(type(error), asyncio.CancelledError):
                return False
            if attempt.task is None or not attempt.task.cancelling():
                return False
            # Not ours: the loop is being torn down. End the run as cancelled.
            attempt.why = "stop"
            self.cancel("loop_closed")
        return True

    def _set_alarm(self, at_s: float) -> None:
        """One timer for all that wait, at the earliest of their deadlines: a timer of its own
        costs a stage that waits as much as its task."""
        if self.alarm is not None:
            self.alarm.cancel()
        self.alarm_s = at_s
        self.alarm = None
        if at_s < math.inf:
            self.alarm = self.loop.call_at(at_s, self._ring, context=self.neutral)

    def _ring(self) -> None:
        """Stops the attempts whose time is over."""
        # The loop may call a moment early, by its clock's resolution.
        now_s = max(self.alarm_s, self.time())
        due: list[tuple[Attempt, str]] = []
        next_s = math.inf
        for attempt in self.attempts.values():
            if attempt.why is None:
                if (due_s := attempt.due_s()) <= now_s:
                    due.append((attempt, "timeout" if attempt.deadline_s <= now_s else "heartbeat"))
                else:
                    next_s = min(next_s, due_s)
        self._set_alarm(next_s)
        for attempt, why in due:
            if self.spreads:  # simulated: the schedule chooses among timers of one moment
                self.loop.call_soon(self._time_out, attempt, why)
            else:
                self._time_out(attempt, why)

    def _time_out(self, attempt: Attempt, why: str) -> None:
        if self.attempts.get(attempt.node) is attempt and attempt.why is None:
            if why == "heartbeat":
                reached("heartbeat_missed")
            attempt.stop(why, self.limits.grace_s)

    def _crash(self, bug: BaseException) -> None:
        """The engine itself is wrong, or the journal refused: the run ends here, loudly."""
        if self.bug is None:
            self.bug = bug
        for attempt in list(self.attempts.values()):
            attempt.stop("stop", self._grace_s())
        self.scheduler.ending = self.scheduler.ending or End("failed", "engine")
        self._wake()

    def _wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    # -- outcomes ----------------------------------------------------------------------------

    def _returned(
        self, step: Step, token: int, raw: Any, started_s: float, ended_s: float
    ) -> list[Action] | None:
        """The stage returned: admit the value, tell the scheduler, put it in the bag."""
        number = step.index
        control: Control | None = None
        if type(raw) is StageOutput:
            if raw.kind is not OutcomeKind.OK:
                return self._said(step.node, token, raw, ended_s - started_s)
            raw = raw.value
        scheduler, history = self.scheduler, self.history
        payload: bytes | None = None
        try:
            if step.decides:
                control = control_of(self, step.node, raw)
            frozen = _ALLOWED if type(raw) is Allow else step.admit(raw, self.runtime.freezer)
            if history is not None:
                payload = history.encode(self, step.node, frozen)
        except StageflowError as error:
            return self._raised(step.node, token, error, ended_s - started_s)
        except Exception as error:  # a method of the value's class, which is the stage's code too
            return self._raised(step.node, token, tamed(error), ended_s - started_s)
        if control is None:
            actions = scheduler.completed(number, token)
        else:
            stall = None if control.stall is None else control.stall.data()
            actions = scheduler.completed(number, token, control[:2], stall)
        if actions is None:
            return self._was_late(step.node, token, payload)
        if self.keeps:
            self.produced.forget(number)
            self.beats.forget(number)
        if control is not None:
            control.heed(self, step.node)
        attempt = scheduler.attempt[number]
        if step.dependency is not None:
            self.runtime.dependencies.ended(step.dependency, ended_s, failed=False)
        labels = self.flow.note(self, number) if self.flows else NONE
        if history is not None:
            history.attach(scheduler, token, payload, step.node.contract.hash, labels)
        revision = scheduler.revision[number]
        if step.node.guards:
            self.bag.put(number, frozen, attempt, token, revision, held=True)
            if number in scheduler.undos:
                self.kept_results[number] = frozen
            self.held.add(number)
            self.wishes.pop(number, None)
            self.redactions.pop(number, None)
        elif revision > 1:
            self.bag.replace(number, frozen, attempt, token, revision)
        else:
            self.bag.put(number, frozen, attempt, token)
        if self.held:
            self.sort_held()
        if step.is_cached:
            keep(self, step.node, frozen, raw, payload)
        self.durations[number] = ended_s - started_s
        if self.push is not None:
            self.push(
                (
                    ENDED,
                    self.identity.run,
                    step.name,
                    attempt,
                    ended_s,
                    ended_s - started_s,
                    "ok",
                    "",
                    self.tenant,
                )
            )
        return actions

    def _said(
        self, node: Node, token: int, output: StageOutput, duration_s: float
    ) -> list[Action] | None:
        """The stage returned an explicit skip, cancel, failure or wish for another attempt."""
        number, scheduler = node.index, self.scheduler
        attempt = scheduler.attempt[number]
        said = output.kind in (OutcomeKind.SKIP, OutcomeKind.CANCEL)
        if said and node.retry is not None and node.retry.dependency is not None:
            self.runtime.dependencies.left(node.retry.dependency, self.time())
        match output.kind:
            case OutcomeKind.SKIP:
                status, actions = "skip", scheduler.skipped(number, token)
            case OutcomeKind.CANCEL:
                status = "cancelled"
                actions = scheduler.cancelled(number, token, by_stage=True, reason="by_stage")
            case OutcomeKind.RETRY:
                status = "failed"
                actions = self._failed(
                    node,
                    token,
                    Failure((node.name,), "retry", "", output.reason),
                    retryable=True,
                    after_s=output.after_s,
                )
            case _:
                status = "failed"
                data = self._kept(output.data)
                actions = self._failed(
                    node, token, Failure((node.name,), "failed", "", output.reason, "", data)
                )
        if actions is None:
            return self._was_late(node, token)
        self.reasons[number] = output.reason
        if self.history is not None and status in ("skip", "cancelled"):
            reason = self.history.encode_reason(output.reason)
            self.history.attach(scheduler, token, reason, "", self.taken_labels(number))
        return self._ended(node, attempt, duration_s, status, actions)

    def _kept(self, data: Any) -> Any:
        """A copy of what a stage said about its failure, so that the stage can't change it any
        more; the type's name of what can't be kept."""
        try:
            return thaw(self.runtime.freezer.freeze(data))
        except Exception:  # also what a method of its class raises
            return f"<{type(data).__name__}>"

    def _raised(
        self, node: Node, token: int, error: BaseException | None, duration_s: float
    ) -> list[Action] | None:
        """The stage raised, was stopped, or (`error` None) returned after its time."""
        number, scheduler = node.index, self.scheduler
        attempt = scheduler.attempt[number]
        if isinstance(error, Stopped) and error.why == "stop":
            if node.retry is not None and node.retry.dependency is not None:
                self.runtime.dependencies.left(node.retry.dependency, self.time())
            is_current = scheduler.token[number] == token
            actions = scheduler.cancelled(number, token)
            status = "cancelled"
            if actions is not None and is_current:
                self._keep_chunks_of_cancelled(number, token)
        elif isinstance(error, DidNotHappen):
            actions = scheduler.not_happened(number, token)
            status = "not_happened"
        else:
            status = "failed"
            if error is None or isinstance(error, Stopped):
                failure = _overdue(node, "timeout" if error is None else error.why)
                actions = self._failed(
                    node,
                    token,
                    failure,
                    retryable=True,
                    cut_off=True,
                )
                if error is not None and scheduler.ending is not None:
                    self.cut_by_s = error.over_by_s
            else:
                if isinstance(error, asyncio.CancelledError):
                    failure = Failure(
                        (node.name,), "stage.cancelled_itself", "CancelledError", str(error)
                    )
                else:
                    failure = failure_of(error, node.name)
                found = verdict(node, error, self.runtime.clock.wall_s())
                if found.final and not failure.final:  # else what a run below has said stands
                    failure = replace(failure, final=found.final)
                actions = self._failed(
                    node,
                    token,
                    failure,
                    retryable=found.retryable,
                    cut_off=found.in_doubt or _may_have_arrived(node, error),
                    after_s=found.after_s,
                    unknown=isinstance(error, EffectUnknown),
                    error=error,
                    healthy=found.is_healthy,
                )
        if actions is None:
            return self._was_late(node, token)
        if scheduler.status[number] is NodeState.UNKNOWN:
            reached("effect_unknown")
        return self._ended(node, attempt, duration_s, status, actions)

    def _failed(
        self,
        node: Node,
        token: int,
        failure: Failure,
        *,
        retryable: bool = False,
        after_s: float | None = None,
        cut_off: bool = False,
        unknown: bool = False,
        error: BaseException | None = None,
        healthy: bool = False,
    ) -> list[Action] | None:
        """`healthy`: what the stage calls is well; the request was wrong."""
        number, scheduler = node.index, self.scheduler
        retry = node.retry
        is_current = scheduler.token[number] == token
        if retry is not None and retry.attempts > 1:
            failure = replace(failure, retries=True)
        if retry is not None and is_current:
            if retry.dependency is not None and failure.reason != "circuit.open":
                now_s = self.time()
                self.runtime.dependencies.ended(
                    retry.dependency, now_s, failed=True, counts=not healthy
                )
            if retryable and scheduler.may_try_again(number, cut_off=cut_off, unknown=unknown):
                final = refusal(self, node, after_s)
                if final:
                    retryable, failure = False, replace(failure, final=final)
        actions = scheduler.failed(
            number,
            token,
            failure.reason,
            retryable=retryable,
            after_s=after_s,
            cut_off=cut_off,
            unknown=unknown,
        )
        if actions is None:
            return None
        if scheduler.status[number] is NodeState.RETRYING:
            reached("retry_handed_out")
        if node.fallback is not None and scheduler.stands(number) and number in self.failures:
            fallback = self.nodes[node.fallback].name
            failure = beside(failure, self.failures[number], fallback)
        self.failures[number] = failure
        chunks = self._chunks_of(number) if is_current else NO_CHUNKS
        if self.history is not None:
            told = self.history.encode_failure(failure, chunks)
            self.history.attach(scheduler, token, told, "", self.taken_labels(number))
        if scheduler.status[number] in (NodeState.FAILED, NodeState.FALLING_BACK):
            inner = error.original if isinstance(error, StageFailed) else error
            if inner is not None:
                self.originals.setdefault(number, inner.with_traceback(None))
        return actions

    def _chunks_of(self, number: int) -> Chunks:
        """What the attempt that gave no value had produced; from now on it is kept."""
        return self.produced.end(number, self._kept) if self.keeps else NO_CHUNKS

    def _keep_chunks_of_cancelled(self, number: int, token: int) -> None:
        chunks = self._chunks_of(number)
        if chunks.items and self.history is not None:
            told = self.history.encode_chunks(chunks)
            self.history.attach(self.scheduler, token, told, "", self.taken_labels(number))

    def _ended(
        self, node: Node, attempt: int, duration_s: float, status: str, actions: list[Action]
    ) -> list[Action]:
        self.durations[node.index] = duration_s
        if self.held:
            self.sort_held()
        if self.push is not None:
            failure = self.failures.get(node.index) if status == "failed" else None
            self.publish(
                EventType.STAGE_ENDED,
                node.index,
                duration_s=duration_s,
                status=status,
                reason="" if failure is None else failure.reason,
                attempt=attempt,
            )
        return actions

    def came_late(
        self, number: int, token: int, attempt: int, raw: Any, error: BaseException | None
    ) -> None:
        """What a thread returned or raised after its attempt was over: told and journalled.

        Runs on the loop, whenever the thread is back: perhaps when the run is over as well, or was
        taken up anew.
        """
        heir = self.runtime.heirs.get(self.identity.run)
        if heir is not None and heir.takes(self, (number, token, attempt, raw, error)):
            return
        step, now = self.steps[number], self.time()
        self.late_attempts[token] = attempt
        if error is None:
            actions = self._returned(step, token, raw, now, now)
        else:
            actions = self._raised(step.node, token, error, 0.0)
        if self.end is None and self.bug is None and not self.is_over:
            self.step_aside(() if actions is None else actions)
        elif self.history is not None and (self.bug is None or _is_lost(self.bug)):
            # Of a run that is another's by now, too: the journal refuses and keeps it.
            self.runtime.owe(self.identity.run, self._journal_late())

    async def _journal_late(self) -> None:
        assert self.history is not None
        with contextlib.suppress(JournalError):  # another owner has the run now, or nobody writes
            await self.history.commit(self)

    def _was_late(
        self, node: Node, token: int, payload: bytes | None = None
    ) -> list[Action] | None:
        """The attempt's end came after the scheduler had closed it; what it gave is refused."""
        attempt = self.late_attempts.pop(token, self.scheduler.attempt[node.index])
        if self.history is not None:
            labels = self.taken_labels(node.index)
            self.history.attach_late(self.scheduler, attempt, payload, node.contract.hash, labels)
        reached("late_write")
        self.publish(EventType.LATE_WRITE, node.index, attempt=attempt)
        return None

    def sort_held(self) -> None:
        """Releases or withdraws the values whose guards have decided."""
        if self.wishes:
            self.note_candidates()
        for number in sorted(self.held):
            status = self.scheduler.status[number]
            if status is OK:
                self.held.discard(number)
                redacted = self.redactions.pop(number, MISSING)
                self.bag.release(number, redacted)
                items = self.held_items.pop(number, ())
                if self.stream is not None and redacted is MISSING:
                    for item in items:
                        self.stream.put_released(Emitted(self.nodes[number].name, thaw(item)))
            elif status is BLOCKED:
                self.redactions.pop(number, None)
                self.held_items.pop(number, None)
                if self._is_judged(number):
                    self.held.discard(number)
                    self.bag.withdraw(number)

    def _is_judged(self, number: int) -> bool:
        """True when no guard will look at the raw value any more: one that also waits for
        another value runs after a block, so that what it says of that value does not depend on
        the order."""
        states = self.scheduler.status
        return all(states[guard].is_terminal for guard in self.plan.raw_children[number])

    def _quarantine(self, name: str) -> None:
        reached("attempt_quarantined")
        self.quarantined.append(name)
        self.runtime.quarantined.append((self.identity.run, name))
        self.publish(EventType.QUARANTINED, reason=name)

    # -- actions -----------------------------------------------------------------------------

    async def _done(self, actions: Sequence[Action] | None) -> None:
        """Makes the records durable, then carries out the actions. Stops need no record."""
        if actions:
            self._stop_attempts(actions)
        if self.history is not None:
            if self.ready:
                self._wake_worker()
            await self.history.commit(self)
        if actions:
            self._apply(actions)

    def step_aside(self, actions: Sequence[Action]) -> None:
        """As `_done`, from a callback that can't wait."""
        if self.mailbox is not None:
            self.mailbox.look(self)
        if self.history is None:
            self._apply(actions)
            self._wake_worker()
            return
        task = self.loop.create_task(self._done_aside(actions), context=self.neutral.copy())
        self.workers[task] = None

        def left(task: asyncio.Task[Any]) -> None:
            del self.workers[task]
            if task.cancelled():  # before its first step, by a loop that is torn down
                self.step_aside(actions)

        task.add_done_callback(left, context=self.neutral)

    async def _done_aside(self, actions: Sequence[Action]) -> None:
        try:
            await self._done(actions)
            self._wake_worker()
        except BaseException as bug:  # the journal refused; the run must not hang
            self._crash(bug)

    def _apply(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if type(action) is Launch:
                self.ready.append(action.node)
            elif type(action) is Wait:
                self.retries[action.node] = self.loop.call_later(
                    action.wait_s, self._retry_due, action.node, action.token
                )
            elif type(action) is Ask:
                ask(self, action)
            elif type(action) is End:
                if self.held:
                    self.sort_held()
                self.end = action
                self._wake()
        if self.scheduler.ending is not None:
            self._stop_attempts(actions)

    def _stop_attempts(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if type(action) is Stop:
                attempt = self.attempts.get(action.node)
                if attempt is not None and attempt.token == action.token:
                    attempt.stop("stop", self._grace_s())

    def _retry_due(self, number: int, token: int) -> None:
        del self.retries[number]
        self.step_aside(self.scheduler.retry_due(number, token))

    # -- what stages ask for -----------------------------------------------------------------

    def arguments(self, step: Step, started_s: float) -> dict[str, Any]:
        """Private views of what the node takes, by parameter name."""
        given: dict[str, Any] = {}
        for name, parent in step.taken:
            value = self.bag.values[parent]
            if parent == step.node.undoes:
                value = self.kept_results.get(parent, value)
            if value is not MISSING:  # else the parameter has a default, which applies
                given[name] = thaw(value)
            elif parent in step.node.gates and self.scheduler.shown[parent]:
                raise shredded(self.nodes[parent], self.plan.name)
        self._other_arguments(step, given, started_s)
        return given

    def _other_arguments(self, step: Step, given: dict[str, Any], started_s: float) -> None:
        for argument in step.others:
            if argument.source is Source.INPUT:
                value = self.inputs.get(argument.ref, MISSING)
                if value is not MISSING:
                    given[argument.parameter] = thaw(value)
            elif argument.source is Source.DEP:
                given[argument.parameter] = self.deps[argument.ref]
            elif argument.source is Source.FEEDBACK:
                given[argument.parameter] = self._feedback(step.index)
            else:
                given[argument.parameter] = self.context_of(step.node, started_s)

    def precedence(self, number: int) -> Precedence:
        """That stage's, where it waits in line with others."""
        callers = []
        run = self
        while run.caller is not None:
            callers.append(run.caller.task)
            assert run.parent is not None, "a child has a parent"
            run = run.parent
        return Precedence(self.tenant, self.priority + self.nodes[number].priority, tuple(callers))

    def taken_labels(self, number: int) -> Labels:
        """Of all that a node is given, and of what it has made of it by itself."""
        if not self.flows:
            return NONE
        stage = self.nodes[number].stage
        own = NONE if stage is None else stage.labels
        return self.flow.taken(self, number) | own

    def context_of(self, node: Node, started_s: float) -> Context:
        if self.flows:
            self.flow.reads(node.index, self.version)
        begin_anew(self, node.index)
        deadline_s = started_s + node.timeout_s
        if self.deadline_s is not None and node.undoes is None:
            deadline_s = min(deadline_s, self.deadline_s)
        return Context(
            self, node.index, attempt=self.scheduler.attempt[node.index], deadline_s=deadline_s
        )

    def _feedback(self, number: int) -> Feedback | None:
        candidates = self.candidates.get(number)
        if not candidates:
            return None
        return Feedback(candidates[-1].feedback, self.scheduler.revision[number])

    def note_stall(self, number: int, stall: Stall | None) -> None:
        """What the guard that spoke last says of the node's loop."""
        if stall is not None:
            self.stalls[number] = stall
        elif number in self.stalls and number not in self.scheduler.fallen:
            del self.stalls[number]

    def note_candidates(self) -> None:
        """After guards decided: what was sent back becomes a candidate, with what was said."""
        for number in list(self.wishes):
            if self.scheduler.status[number] in _SENT_BACK:
                self.note_candidate(number)

    def note_candidate(self, number: int) -> None:
        """The node's latest value was sent back."""
        wishes = self.wishes.pop(number, None)
        if wishes:
            self.candidates.setdefault(number, []).append(
                Candidate(
                    value=self.bag.values[number],
                    feedback=tuple(wish.feedback for _, wish in wishes),
                    score=min(wish.score for _, wish in wishes),
                    guards=tuple(guard for guard, _ in wishes),
                )
            )

    async def answer_live(self, name: str, value: Any, *, by: str, shown: str | None) -> None:
        """As `questions.answer`, of a run that is driven here; returns when it is durable."""
        if not self.is_open and not self.is_over:
            if self.opened is None:
                self.opened = asyncio.get_running_loop().create_future()
            await asyncio.shield(self.opened)
        if self.is_over:
            raise RunError(
                "run.not_waiting",
                f"run {self.identity.run} is over here",
                pipeline=self.plan.name,
                node=name,
                expected="a run that is alive",
                got="no end" if self.end is None else self.end.status,
                fix="await runtime.signal(run, node, ...), which takes a suspended run up",
            )
        actions = answer(self, name, value, by=by, shown=shown)
        await self._done(actions)
        self._wake_worker()

    async def settled(self, tasks: Collection[asyncio.Task[Any]]) -> None:
        """Waits until the engine's own `tasks` are over. A cancellation meanwhile changes nothing:
        whoever waits here is being cancelled already, or is cleaning up."""
        while pending := [task for task in tasks if not task.done()]:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(pending)

    # -- events ------------------------------------------------------------------------------

    def publish(
        self,
        type_: EventType,
        number: int | None = None,
        *,
        duration_s: float = 0.0,
        status: str = "",
        reason: str = "",
        attempt: int | None = None,
    ) -> None:
        if self.push is None:
            return
        if attempt is None:
            attempt = 0 if number is None else self.scheduler.attempt[number]
        name = None if number is None else self.nodes[number].name
        now = self.time()
        self.push(
            (
                type_.value,
                self.identity.run,
                name,
                attempt,
                now,
                duration_s,
                status,
                reason,
                self.tenant,
            )
        )

    def _push_to_all(self, event: RawEvent) -> None:
        for subscription in self.events:
            subscription.push(event)


def _overdue(node: Node, why: str) -> Failure:
    if why == "heartbeat" and node.stage is not None:
        text = f"gave no sign of life for {node.stage.heartbeat_s:g} s"
    else:
        text = f"took longer than {node.timeout_s:g} s"
    return Failure((node.name,), why, "", text)


class Stopped(BaseException):
    """The engine stopped this attempt; `why` is "timeout", "heartbeat" or "stop"."""

    def __init__(self, why: str, value: Any = MISSING, over_by_s: float | None = None) -> None:
        self.why = why
        self.over_by_s = over_by_s
        """When its grace period is over."""
        self.value = value
        """What the stage returned in spite of it."""
        super().__init__(why)


def _is_lost(bug: BaseException) -> bool:
    """Whether the run ended here because it is another owner's."""
    return isinstance(bug, JournalError) and bug.code == "journal.stale_owner"


def _may_have_arrived(node: Node, error: BaseException) -> bool:
    """Whether a keyed stage was cut off from its receiver, which may have done what it was asked:
    the stage says nothing about it, and need not, since it may ask again."""
    keyed = node.stage is not None and node.stage.keyed
    return keyed and isinstance(error, (TimeoutError, ConnectionError))
