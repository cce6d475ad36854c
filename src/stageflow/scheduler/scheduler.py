"""The state machine of one run: what happened goes in, records and actions come out.

Pure: no clock, I/O, asyncio or randomness. One driver owns it and calls one method per event;
`records` then holds what must be durable before the returned actions may be carried out. Recovery
feeds the recorded events through the same methods (stageflow.scheduler.recovery).

How a value travels. An attempt ends with a raw value. Without guards the value is released at
once. With guards the node is HELD: the guards (its raw children) take the raw value side by side,
and the last Allow releases it. Only a release, a skip or a death counts down what children wait
for, so every child starts exactly when the last of its parents has ended.

Who starves: nobody here; the driver may delay a Launch action as long as it likes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from stageflow.graph import Role
from stageflow.model.record import Record, RecordType
from stageflow.model.sparse import made
from stageflow.scheduler.actions import Action, Ask, End, Stop, Wait
from stageflow.scheduler.program import Program
from stageflow.scheduler.state import Cause, NodeState
from stageflow.scheduler.undoing import (
    Undoing,
    begun,
    did_not_happen,
    go_on,
    taken_up,
    try_again,
)

WAITING, RUNNING, RETRYING = NodeState.WAITING, NodeState.RUNNING, NodeState.RETRYING
HELD, JUDGED, PARKED = NodeState.HELD, NodeState.JUDGED, NodeState.PARKED
UNKNOWN, FALLING_BACK, OK = NodeState.UNKNOWN, NodeState.FALLING_BACK, NodeState.OK
SKIPPED, FAILED = NodeState.SKIPPED, NodeState.FAILED
BLOCKED, CANCELLED = NodeState.BLOCKED, NodeState.CANCELLED

ABANDONED_MAX = 5
"""Attempts of one node that may die with their process before the node fails: a stage that kills
its process must not do so for ever."""


class Scheduler:
    """State of one run. Fields are read by the driver and by `check`; only methods change them."""

    __slots__ = (
        "_abandoned_count",
        "_arrived",
        "_asking",
        "_before",
        "_branch",
        "_cause",
        "_cut",
        "_decisions",
        "_doubt",
        "_effects",
        "_failures",
        "_fallen",
        "_gates_left",
        "_redactor",
        "_stalled",
        "_standing",
        "_wishes",
        "attempt",
        "children",
        "defers",
        "ended",
        "ending",
        "flawed",
        "is_saga",
        "nodes",
        "parked",
        "parks",
        "plain",
        "plan",
        "produced",
        "records",
        "revision",
        "run_actions",
        "running",
        "seed",
        "seq",
        "shown",
        "started",
        "status",
        "token",
        "tokens",
        "undoing",
        "undos",
        "unfinished",
        "unknown",
        "waiting",
        "writes",
    )

    gates_left: dict[int, set[int]] = made(dict)
    """For a HELD node: guards that have yet to decide about this revision."""
    wishes: dict[int, list[int]] = made(dict)
    """HELD nodes of which guards want another revision, and which guards."""
    redactor: dict[int, int] = made(dict)
    """Node to the one guard that replaced its value."""
    decisions: dict[int, tuple[str, Any]] = made(dict)
    """Guards that are JUDGED or OK: what each decided last; a reopened run heeds it."""
    arrived: dict[int, list[int]] = made(dict)
    """Joins: branches whose value arrived, in order of arrival."""
    branch: dict[int, str] = made(dict)
    """Routes that ended: the branch taken."""
    cause: dict[int, tuple[Cause, int]] = made(dict)
    """Why a node has no value, and the node that is to blame (itself for OWN)."""
    failures: dict[int, str] = made(dict)
    """Nodes that failed for good, in order: reason code. Fallbacks may have saved them since."""
    fallen: set[int] = made(set)
    """Nodes that have called their fallback; each does so once."""
    standing: set[int] = made(set)
    """Fallen nodes whose latest attempt takes its fallback's value."""
    stalled: set[int] = made(set)
    """HELD nodes of which the last guard that wanted another revision says that none will help."""
    abandoned_count: dict[int, int] = made(dict)
    asking: dict[int, int] = made(dict)
    """RUNNING nodes whose attempt finds out what a cut-off one has done, and how often such an
    attempt died itself. Stale for nodes that have ended since."""
    cut: dict[int, tuple[str, bool]] = made(dict)
    """Nodes of which an attempt ended in doubt: why, and whether it may be retried if it turns out
    that nothing happened."""

    effects: set[int] = made(set)
    """Nodes with an undo, and pivots, whose own attempt gave a value: their effect is done."""
    doubt: set[int] = made(set)
    """Such nodes, keyed, whose last attempt was cut off: it may be done."""
    before: dict[int, int] = made(dict)
    """Undos that somebody had tried again: attempts of theirs that count no more."""

    def __init__(
        self, program: Program, *, seed: int = 0, writes: bool = True, parks: bool = True
    ) -> None:
        """`writes` False leaves out the records, for runs that nobody will ever recover; `parks`
        False keeps a run that waits for people alive instead of ending it as suspended."""
        plan = program.plan
        count = len(plan.nodes)
        self.plan = plan
        self.nodes = plan.nodes
        self.children = plan.children
        self.plain = program.plain
        self.run_actions = program.run_actions
        self.seed = seed
        self.writes = writes
        self.parks = parks
        self.records: list[Record] = []
        """Since the driver last took them; in order."""
        self.seq = 0
        """Sequence number of the last record."""
        self.status: list[NodeState] = [WAITING] * count
        self.waiting: list[int] = list(plan.waiting)
        """Distinct parents that have not ended yet."""
        self.attempt: list[int] = [0] * count
        self.token: list[int] = [0] * count
        """Fencing token of the node's latest attempt; 0 before the first."""
        self.tokens = 0
        """The last token given out; grows with every attempt of the run."""
        self.flawed = bytearray(count)
        """1 when some parent ended without a value: the slow path decides what that means."""
        self.shown = bytearray(count)
        """1 when guards were shown the node's raw value; they have counted it down then."""
        self.ended: list[int] = []
        """Terminal nodes whose children have not heard of it, in order; empty between events."""
        self.revision: list[int] = [1] * count
        self.produced = bytearray(count)
        """1 when the node's current revision has its value: the next attempt begins another."""
        self.running = 0
        """Nodes that are RUNNING or RETRYING."""
        self.unknown = 0
        """Nodes that are UNKNOWN."""
        self.parked = 0
        """Nodes that are PARKED."""
        self.unfinished = count - len(plan.undos)
        """Nodes that are not terminal."""
        self.undos = plan.undos
        self.is_saga = plan.is_saga
        self.undoing: Undoing | None = None
        """While, and after, effects are taken back; the end is decided then."""
        self.defers = False
        """True for a child that its parent ended, and that the parent will have taken back."""
        for undo in plan.undos.values():
            self.status[undo] = SKIPPED
            self.cause[undo] = (Cause.NOT_NEEDED, undo)
        self.ending: End | None = None
        """Set when the run's end is decided; nothing starts any more."""
        self.started = False

    # -- events ------------------------------------------------------------------------------

    def start(self, absent: Collection[int] = (), *, is_turn: bool = False) -> list[Action]:
        """The run begins: gated inputs have their values, except `absent` ones.

        Of a turn of a session the records from TURN on are written once it may begin.
        """
        assert not self.started, "a run starts once"
        self.started = True
        names = [self.nodes[node].name for node in absent]
        self._record(RecordType.RUN_STARTED, data={"absent": names} if names else None)
        if is_turn:
            self.turn()
        actions: list[Action] = []
        for node in self.plan.roots:
            if node in absent:
                self._finish(node, SKIPPED, (Cause.OWN, node))
            elif self.nodes[node].stage is None:
                self._raw_value(node, actions)
            else:
                self._hand_out(node, actions)
        return self._close(actions)

    def turn(self) -> None:
        """The turn that this run is has its place among the records; its driver numbers it."""
        self._record(RecordType.TURN)

    def completed(
        self,
        node: int,
        token: int,
        control: tuple[str, Any] | None = None,
        stall: Mapping[str, Any] | None = None,
    ) -> list[Action] | None:
        """An attempt ended with a value. None when it is a late write, which changes nothing.

        `control` is what a ROUTE or GUARD decided: ("branch", name), ("allow", None),
        ("block", None), ("redact", node), ("revise", node). With a `stall`, which is kept on
        record, the revision wished for is not made: the loop gets nowhere.
        """
        if self.token[node] != token or self.status[node] is not RUNNING:
            return self._late(node, token, "ok")
        if self.writes:
            extra = None if stall is None else {"stalled": stall}
            self._outcome(node, "ok", control=control, accepted=True, extra=extra)
        self.running -= 1
        self.produced[node] = 1
        if self.is_saga:
            self._note_effect(node)
        actions: list[Action] = []
        if control is not None:
            if control[0] == "revise":
                self._note_stall(control[1], stall is not None)
            self._controlled(node, control, actions)
        elif self.plain[node] and self.ending is None:
            # The common case of `_finish` and `_propagate`, without the work list.
            self.status[node] = OK
            self.unfinished -= 1
            waiting = self.waiting
            for child in self.children[node]:
                left = waiting[child] - 1
                waiting[child] = left
                if left == 0:
                    if self.flawed[child]:
                        self._decide(child, actions)
                    else:
                        self._hand_out(child, actions)
            if self.running and not self.ended:
                return actions
        else:
            self._raw_value(node, actions)
        return self._close(actions)

    def skipped(self, node: int, token: int, reason: str = "") -> list[Action] | None:
        """An attempt ended by saying that there is no value. A guard that won't decide blocks."""
        if self.token[node] != token or self.status[node] is not RUNNING:
            return self._late(node, token, "skip")
        self._outcome(node, "skip", reason=reason)
        self.running -= 1
        self._finish(node, SKIPPED, (Cause.OWN, node))
        return self._close([])

    def failed(
        self,
        node: int,
        token: int,
        reason: str,
        *,
        retryable: bool = False,
        after_s: float | None = None,
        cut_off: bool = False,
        unknown: bool = False,
    ) -> list[Action] | None:
        """An attempt raised, timed out, broke its contract or said that it failed.

        `cut_off` says that it was ended from outside, as by its timeout, and not by its own word:
        an effect may have happened then, and is neither retried nor called failed. `unknown`: the
        stage itself says that nobody knows whether its effect happened, keyed or not.
        """
        if self.token[node] != token or self.status[node] is not RUNNING:
            return self._late(node, token, "failed")
        actions: list[Action] = []
        unknown = (unknown and self.nodes[node].kind.has_effects) or node in self.asking
        if unknown or (cut_off and self._may_repeat_effect(node)):
            self._outcome(
                node,
                "failed",
                reason=reason,
                cut_off=not unknown,
                unknown=unknown,
                retries=retryable,
            )
            self.running -= 1
            if node not in self.asking:
                self.cut[node] = (reason, retryable)
            self._lose_sight(node, actions)
            return self._close(actions)
        if self.is_saga:
            self._note_doubt(node, cut_off=cut_off)
        told = cut_off and self.is_saga
        is_wanted = self.ending is None or self.nodes[node].undoes is not None
        if retryable and is_wanted and self._tries_again(node):
            self._outcome(node, "failed", reason=reason, cut_off=told, retries=True)
            actions.append(self._wait(node, token, after_s))
            return actions
        self._outcome(node, "failed", reason=reason, cut_off=told)
        self.running -= 1
        self._fail(node, reason, actions)
        return self._close(actions)

    def cancelled(
        self,
        node: int,
        token: int,
        *,
        by_stage: bool = False,
        unstarted: bool = False,
        reason: str = "",
    ) -> list[Action] | None:
        """An attempt was stopped, or (`by_stage`) asks for the whole run to end.

        `unstarted` says that its body was never entered, so that it had no effect.
        """
        if self.token[node] != token or self.status[node] is not RUNNING:
            return self._late(node, token, "cancelled")
        self._outcome(node, "cancelled", reason=reason, by_stage=by_stage, unstarted=unstarted)
        self.running -= 1
        actions: list[Action] = []
        if node in self.asking or not (by_stage or unstarted or not self._may_repeat_effect(node)):
            self._lose_sight(node, actions)
            return self._close(actions)
        if self.is_saga and not unstarted:  # else an attempt before it may still be in doubt
            self._note_doubt(node, cut_off=not by_stage)
        self._finish(node, CANCELLED, (Cause.OWN if by_stage else Cause.RUN_ENDED, node))
        if by_stage:
            self._stop("cancelled", reason, actions)
        return self._close(actions)

    def not_happened(self, node: int, token: int) -> list[Action] | None:
        """The effect that was cut off did not take place: the node has another attempt."""
        if self.token[node] != token or self.status[node] is not RUNNING:
            return self._late(node, token, "not_happened")
        assert node in self.asking, "only who was asked can say so"
        del self.asking[node]
        self._outcome(node, "not_happened")
        actions: list[Action] = []
        reason, retryable = self.cut.pop(node, ("", False))
        if self.ending is not None and self.nodes[node].undoes is None:
            self.running -= 1
            self._finish(node, CANCELLED, (Cause.RUN_ENDED, node))
        elif retryable and self._tries_again(node):
            actions.append(self._wait(node, token))
        elif reason or self.abandoned_count.get(node, 0) >= ABANDONED_MAX:
            self.running -= 1
            self._fail(node, reason or "crash_loop", actions)
        else:
            self.running -= 1
            self._hand_out(node, actions)
        return self._close(actions)

    def _tries_again(self, node: int) -> bool:
        """True when its retry policy has attempts left; those that died don't count."""
        retry = self.nodes[node].retry
        return retry is not None and self._made(node) < retry.attempts and not self.stands(node)

    def _made(self, node: int) -> int:
        """Attempts that count for its retry policy."""
        made = self.attempt[node] - self.abandoned_count.get(node, 0)
        return made - self.before.get(node, 0) if self.is_saga else made

    def may_try_again(self, node: int, *, cut_off: bool, unknown: bool) -> bool:
        """True when a retryable failure of its attempt would lead to another one now, and neither
        to the end of the node nor to a question about what it has done."""
        is_lost = (unknown and self.nodes[node].kind.has_effects) or node in self.asking
        if is_lost or (cut_off and self._may_repeat_effect(node)):
            return False
        is_wanted = self.ending is None or self.nodes[node].undoes is not None
        return is_wanted and self._tries_again(node)

    def next_wait_s(self, node: int, after_s: float | None) -> float:
        """Seconds that a further attempt of it would wait."""
        retry = self.nodes[node].retry
        assert retry is not None, "only who has a policy tries again"
        name, made = self.nodes[node].name, self._made(node)
        return retry.wait_s(attempt=made, seed=self.seed, node=name, after_s=after_s)

    def _wait(self, node: int, token: int, after_s: float | None = None) -> Wait:
        """The node waits for its next attempt."""
        wait_s = self.next_wait_s(node, after_s)
        self._record(RecordType.RETRY_DUE, node, data={"wait_s": wait_s})
        self.status[node] = RETRYING
        return Wait(node, token, wait_s)

    def step_done(self, node: int, data: dict[str, Any]) -> None:
        """A RUNNING attempt completed a durable step; it goes on."""
        self._record(RecordType.STEP, node, data)

    def answered(self, node: int, token: int, data: dict[str, Any]) -> list[Action] | None:
        """A person answered a PARKED node. None when the question no longer stands."""
        if self.token[node] != token or self.status[node] is not PARKED:
            return self._late(node, token, "answer")
        self._unpark(node)
        self._outcome(node, "ok", accepted=True, extra=data)
        self.produced[node] = 1
        actions: list[Action] = []
        self._raw_value(node, actions)
        return self._close(actions)

    def expired(self, node: int, token: int) -> list[Action]:
        """Nobody answered in time."""
        actions: list[Action] = []
        if self.token[node] == token and self.status[node] is PARKED:
            self._unpark(node)
            self._outcome(node, "failed", reason="expired")
            self._fail(node, "expired", actions)
            return self._close(actions)
        return actions

    def _unpark(self, node: int) -> None:
        """The question is decided; a run that was suspended for it goes on."""
        self.parked -= 1
        if self.ending is not None and self.ending.status == "suspended":
            self.ending = None
        self.status[node] = RUNNING  # for no longer than this event

    def retry_due(self, node: int, token: int) -> list[Action]:
        """The wait between two attempts is over. Ignored when the run ended meanwhile."""
        actions: list[Action] = []
        if self.status[node] is RETRYING and self.token[node] == token:
            self.running -= 1
            self._hand_out(node, actions)
        return actions

    def cancel(
        self, reason: str, *, status: str = "cancelled", defers: bool = False
    ) -> list[Action]:
        """Somebody asks the run to end. Ignored when it is ending already.

        `defers`: a parent does, and will have the run taken back if it is not taken up again.
        """
        actions: list[Action] = []
        if self.ending is not None and self.ending.status == "suspended" and not self.undoing:
            self.ending = None
        if self.ending is not None:
            return actions
        self.defers = defers and self.is_saga
        data: dict[str, Any] = {"status": status, "reason": reason}
        if self.defers:
            data["defers"] = True
        self._record(RecordType.CANCEL, data=data)
        self._stop(status, reason, actions)
        return self._close(actions)

    def abandoned(self, node: int, token: int) -> list[Action]:
        """The process that ran this attempt is dead. Without effects, or keyed: another attempt."""
        assert self.token[node] == token and self.status[node] is RUNNING, "only a dead attempt"
        self._record(RecordType.ABANDONED, node)
        self.running -= 1
        actions: list[Action] = []
        if node in self.asking:
            self.asking[node] += 1
            if self.goes_on(node) and self.asking[node] < ABANDONED_MAX:
                self._inquire(node, actions)
            else:
                self._lose_sight(node, actions)
            return self._close(actions)
        count = self.abandoned_count.get(node, 0) + 1
        self.abandoned_count[node] = count
        if self.is_saga:
            self._note_doubt(node, cut_off=True)
        if self._may_repeat_effect(node):
            self._lose_sight(node, actions)
        elif count >= ABANDONED_MAX and self.goes_on(node):
            self._fail(node, "crash_loop", actions)
        elif not self.goes_on(node):
            self._finish(node, CANCELLED, (Cause.RUN_ENDED, node))
        else:
            self._hand_out(node, actions)
        return self._close(actions)

    def _may_repeat_effect(self, node: int) -> bool:
        """True when another attempt could do again what this one has done unseen."""
        placed = self.nodes[node]
        keyed = placed.stage is not None and placed.stage.keyed
        return placed.kind.has_effects and not keyed and not self.stands(node)

    def _lose_sight(self, node: int, actions: list[Action]) -> None:
        """Its effect may have happened: its stage's `reconcile` is asked, once, or nobody knows.

        Also in a run that is ending: taken up again, it must not repeat the effect.
        """
        if self.goes_on(node) and node not in self.asking and self._can_inquire(node):
            self.asking[node] = 0
            self._inquire(node, actions)
            return
        self.asking.pop(node, None)
        self.status[node] = UNKNOWN
        self.unknown += 1

    def _can_inquire(self, node: int) -> bool:
        stage = self.nodes[node].stage
        return stage is not None and stage.reconcile is not None

    def _inquire(self, node: int, actions: list[Action]) -> None:
        """Hands out an attempt that finds out; it is none of the stage's own, and has no number."""
        self.tokens = token = self.tokens + 1
        self.token[node] = token
        self.status[node] = RUNNING
        self.running += 1
        self._record(RecordType.INTENT, node, data={"asks": True})
        actions.append(self.run_actions[node])

    def reopened(self, rerun: Collection[int] = ()) -> list[Action]:
        """A run that ended without success goes on: what has a value keeps it, the rest waits.

        `rerun` names UNKNOWN nodes that a person allows to run again; others stay unknown. Called
        only between `End` and the driver's own end, with nothing running.
        """
        assert self.ending is not None and self.running == 0, "only an ended run is reopened"
        self.ending = self.undoing = None
        self.defers = False
        kept = [self._is_kept(node, rerun) for node in range(len(self.nodes))]
        held = [self._is_held_again(node) for node in range(len(self.nodes))]
        for node in range(len(self.nodes)):
            # What a guard decided about a value that is made again counts no longer.
            if any(self.shown[g] and not kept[g] and not held[g] for g in self.nodes[node].gates):
                kept[node] = False
        for node in self.plan.order:
            if kept[node] and self.status[node] is SKIPPED:
                kept[node] = all(kept[other] for other in self._skipped_by(node))
        self._fall_again(kept, held)
        for node in [node for node in self.failures if not (kept[node] or held[node])]:
            del self.failures[node]
        for node, keep in enumerate(kept):
            if held[node]:
                # Its own value is done; only the guard that failed is asked again.
                kept[node] = True
                self.status[node] = HELD
                self.unfinished += 1
                del self.cause[node]
                for guard in self.plan.raw_children[node]:
                    if self.status[guard] is OK:
                        self.status[guard] = JUDGED
                        self.unfinished += 1
            elif not keep:
                if self.status[node] is UNKNOWN:
                    self.unknown -= 1
                elif self.status[node].is_terminal:
                    self.unfinished += 1
                self.status[node] = WAITING
                self.asking.pop(node, None)
                self.cut.pop(node, None)
                self.cause.pop(node, None)
                self.flawed[node] = self.shown[node] = 0
                if self.nodes[node].fallback is not None:
                    self.fallen.discard(node)
                    self.standing.discard(node)
        for node in range(len(self.nodes)):
            self._recount(node)
        actions: list[Action] = []
        for node, status in enumerate(self.status):
            if status is HELD:
                self._judge_again(node)
        self._revise_if_wished(actions)
        for node, status in enumerate(self.status):
            ready = status is UNKNOWN and not self.waiting[node] and not self.flawed[node]
            if ready and self._can_inquire(node):
                self.unknown -= 1
                self.cut.pop(node, None)
                self.asking[node] = 0
                self._inquire(node, actions)
        for node, keep in enumerate(kept):
            if not keep and self.status[node] is WAITING:
                if self.nodes[node].join is not None:
                    self._settle_join(node, actions)
                elif self.waiting[node] == 0:
                    self._decide(node, actions)
        for node in sorted(self.fallen):
            if self.status[node] is FALLING_BACK:
                self._fallback_ended(node, actions)
        return self._close(actions)

    def _is_kept(self, node: int, rerun: Collection[int]) -> bool:
        """True for what has been decided for good: values, own skips, untaken branches, blocks."""
        status = self.status[node]
        if status is SKIPPED:
            # What made a skip is kept too, so it would only be found again; but a guard that
            # said nothing is asked again.
            cause = self.cause[node][0]
            return cause is not Cause.PARENT_FAILED and not (
                cause is Cause.OWN and self.nodes[node].gates
            )
        if status is BLOCKED:  # a guard that failed or never decided is asked again
            return bool(self.shown[node]) and self.status[self.cause[node][1]] in (OK, JUDGED)
        if status is UNKNOWN:
            return node not in rerun
        return status in (OK, HELD, JUDGED, PARKED, FALLING_BACK)

    def _fall_again(self, kept: list[bool], held: list[bool]) -> None:
        """In a reopened run: a node that was blocked with its fallback stays so, or waits for it
        again when the guard that failed is asked again. Fallbacks before their nodes."""
        for node in reversed(self.plan.order) if self.fallen else ():
            fallback = self.nodes[node].fallback
            if fallback is None or self.status[node] is not BLOCKED or node in self.standing:
                continue
            if node not in self.fallen:
                continue  # a guard blocked a value of its own
            kept[node] = kept[fallback] or held[fallback]
            if held[fallback] or self.status[fallback] is FALLING_BACK:
                self.status[node] = FALLING_BACK
                self.unfinished += 1
                del self.cause[node]

    def _skipped_by(self, node: int) -> list[int]:
        """The nodes from whose ends a skip follows; itself when it said so."""
        cause, blame = self.cause[node]
        if cause is Cause.TOO_FEW:
            return [parent for parent, _ in self.plan.parents[node]]
        return [blame]

    def _is_held_again(self, node: int) -> bool:
        return (
            self.status[node] is BLOCKED
            and bool(self.shown[node])
            and self.status[self.cause[node][1]] not in (OK, JUDGED)
        )

    def _recount(self, node: int) -> None:
        """Counters of one node from the states of its parents."""
        left = 0
        for parent, role in self.plan.parents[node]:
            status = self.status[parent]
            if not (
                status.is_terminal
                or (role & Role.RAW and status is HELD)
                or (role & Role.FALLBACK and parent in self.fallen)
            ):
                left += 1
            elif self._is_bad(node, parent, role):
                self.flawed[node] = 1
        self.waiting[node] = left
        if self.nodes[node].join is not None:
            self.arrived[node] = [
                p
                for p, role in self.plan.parents[node]
                if role & Role.OPTIONAL and self.status[p] is OK
            ]

    def _judge_again(self, node: int) -> None:
        """A HELD node of a reopened run: what its guards decided counts, though the run was ending
        or the node was blocked already when they did; the others are waited for."""
        self.redactor.pop(node, None)
        self.wishes.pop(node, None)
        guards = self.plan.raw_children[node]
        self.gates_left[node] = {guard for guard in guards if not self._is_excused(guard)}
        for guard in guards:
            if self.status[guard] in (OK, JUDGED):
                if self._heed(node, guard):
                    self.gates_left[node].discard(guard)
                elif self.status[node] is not HELD:
                    return
            elif self.status[guard].is_terminal and not self._is_excused(guard):
                self._block(node, guard)  # it was not to be asked again
                return
        if not self.gates_left[node] and node not in self.wishes:
            del self.gates_left[node]
            self._finish(node, OK)

    def restate_end(self) -> None:
        """Writes the end of a run that a new owner took over and that can't go on."""
        assert self.ending is not None and self.running == 0, "only an ended run has an end"
        self._record(
            RecordType.RUN_ENDED,
            data={"status": self.ending.status, "reason": self.ending.reason},
        )

    def restate_intent(self, node: int) -> None:
        """Writes the intent of a handed-out attempt that the journal does not know yet.

        Under a token of its own: the journal may hold the one from replay for another node.
        """
        self.tokens += 1
        self.token[node] = self.tokens
        asks = {"asks": True} if node in self.asking else None
        self._record(RecordType.INTENT, node, asks or self._whose(node))

    def restate_question(self, node: int) -> Ask:
        """Writes the question of a PARKED node that the journal does not know yet."""
        stage = self.nodes[node].stage
        assert stage is not None and stage.wait is not None
        self.tokens += 1
        self.token[node] = self.tokens
        self._record(RecordType.ASKED, node, data={"expires_s": stage.wait.expires_s})
        return Ask(node, self.token[node], stage.wait.expires_s)

    def stands(self, node: int) -> bool:
        """True when the node's latest attempt takes its fallback's value."""
        return self.nodes[node].fallback is not None and node in self.standing

    def chosen(self, join: int) -> list[int]:
        """The branches whose values a RUNNING join takes, in the order they were given: as many as
        it needs, or all when it merges them."""
        spec = self.nodes[join].join
        assert spec is not None
        have = self.arrived.get(join, [])
        listed = [parent for parent, role in self.plan.parents[join] if role & Role.OPTIONAL]
        among = set(have if spec.waits_for_all else have[: spec.need])
        given = [parent for parent in listed if parent in among]
        return given if spec.merge is not None else given[: spec.need]

    # -- transitions -------------------------------------------------------------------------

    def _hand_out(self, node: int, actions: list[Action]) -> None:
        """Gives the node's next attempt to the driver, or asks a person."""
        if self.produced[node]:
            self.revision[node] += 1
            self.attempt[node] = self.produced[node] = 0
            self.abandoned_count.pop(node, None)
            self.asking.pop(node, None)
            self.cut.pop(node, None)
        self.attempt[node] += 1
        self.tokens = token = self.tokens + 1
        self.token[node] = token
        placed = self.nodes[node]
        if placed.shows is not None and not self.stands(node):
            self._park(node, actions)
            return
        self.status[node] = RUNNING
        self.running += 1
        if self.writes:
            whose = None if placed.fallback is None else self._whose(node)
            self._record(RecordType.INTENT, node, whose)
        actions.append(self.run_actions[node])

    def _whose(self, node: int) -> dict[str, Any] | None:
        """What an intent says of an attempt that takes another node's value."""
        fallback = self.nodes[node].fallback
        if fallback is None or not self.stands(node):
            return None
        return {"fallback": self.nodes[fallback].name}

    def _park(self, node: int, actions: list[Action]) -> None:
        """Asks a person; the node waits and costs nothing."""
        stage = self.nodes[node].stage
        assert stage is not None and stage.wait is not None
        self.status[node] = PARKED
        self.parked += 1
        self._record(RecordType.ASKED, node, data={"expires_s": stage.wait.expires_s})
        actions.append(Ask(node, self.token[node], stage.wait.expires_s))

    def _finish(self, node: int, status: NodeState, cause: tuple[Cause, int] | None = None) -> None:
        """The node is terminal; what that means for others is worked off by `_propagate`."""
        self.status[node] = status
        if cause is not None:
            self.cause[node] = cause
        self.unfinished -= 1
        self.ended.append(node)

    def _raw_value(self, node: int, actions: list[Action]) -> None:
        """The node has a value; with guards it is HELD until they have decided."""
        guards = self.plan.raw_children[node]
        if not guards:
            self._finish(node, OK)
            return
        self.status[node] = HELD
        self.shown[node] = 1
        self.gates_left[node] = set(guards)
        if self.ending is not None:
            return
        for guard in guards:
            if self.status[guard].is_terminal:
                if self.status[node] is HELD:
                    self._undecided(guard, node)
            else:
                self._count_down(guard, actions)

    def _count_down(self, child: int, actions: list[Action]) -> None:
        left = self.waiting[child] - 1
        self.waiting[child] = left
        if left == 0 and self.ending is None:
            if self.flawed[child]:
                self._decide(child, actions)
            else:
                self._hand_out(child, actions)

    def _propagate(self, actions: list[Action]) -> None:
        """Works off what ended, in order. A work list, so that depth costs no stack."""
        while self.ended:
            batch, self.ended = self.ended, []
            last = len(batch) - 1
            for place, node in enumerate(batch):
                self._told(node, actions)
                if place == last:
                    if not self.ended:
                        self._revise_if_wished(actions)
                    if not self.ended:
                        self._stop_if_blocked(actions)

    def _told(self, node: int, actions: list[Action]) -> None:
        """Everybody whom the end of `node` concerns hears of it."""
        for child in self.children[node]:
            self._tell(child, node, actions)
        if not self.shown[node]:
            for guard in self.plan.raw_children[node]:
                self._tell(guard, node, actions)
        if self.nodes[node].gates and self.status[node] is not OK and self.ending is None:
            for gated in self.nodes[node].gates:
                if self.status[gated] is HELD:
                    self._undecided(node, gated)
        if self.shown[node]:
            if self.status[node] is not OK and self.ending is None:
                self._give_up_on(node)
            for guard in self.plan.raw_children[node]:
                self._release_guard(guard)
        placed = self.nodes[node]
        if placed.fallback is not None and node not in self.fallen:
            self._tell(placed.fallback, node, actions)
        if placed.stands_for is not None and self.status[placed.stands_for] is FALLING_BACK:
            self._fallback_ended(placed.stands_for, actions)

    def _tell(self, child: int, parent: int, actions: list[Action]) -> None:
        """`parent` has ended; `child` runs, skips, dies, or waits for others."""
        self.waiting[child] -= 1
        if self.ending is not None or self.status[child] is not WAITING:
            return
        if self.nodes[child].join is not None:
            if self.status[parent] is OK and self._role(child, parent) & Role.OPTIONAL:
                self.arrived.setdefault(child, []).append(parent)
            self._settle_join(child, actions)
            return
        role = self._role(child, parent)
        if self._is_bad(child, parent, role):
            self.flawed[child] = 1
            # A block needs no other parent to be known, once the stage is part of the run: nothing
            # is graver. A skip or a failure waits for all, so that no verdict depends on the order.
            if self.status[parent] is BLOCKED and self._is_on_its_branch(child):
                self._finish(child, *self._verdict(parent, role))
                return
        if self.waiting[child] == 0:
            self._decide(child, actions)

    def _decide(self, node: int, actions: list[Action]) -> None:
        """Every parent has ended: run, skip, or die."""
        if self.status[node] is not WAITING:
            return
        bad = self._bad_parent(node) if self.flawed[node] else None
        if bad is None:
            self._hand_out(node, actions)
        else:
            self._finish(node, *bad)

    def _settle_join(self, join: int, actions: list[Action]) -> None:
        """Fires the join, or ends it, when that is decided."""
        spec = self.nodes[join].join
        assert spec is not None
        have = self.arrived.get(join, [])
        if self.waiting[join]:
            early = not spec.waits_for_all and len(have) >= spec.need
            if not early or not self._only_branches_wait(join):
                return
        bad = self._bad_parent(join)
        if bad is None and len(have) < spec.need:
            bad = self._too_few(join)
        if bad is None:
            self._hand_out(join, actions)
        else:
            self._finish(join, *bad)

    def _too_few(self, join: int) -> tuple[NodeState, tuple[Cause, int]]:
        worst: tuple[NodeState, tuple[Cause, int]] = (SKIPPED, (Cause.TOO_FEW, join))
        for parent, role in self.plan.parents[join]:
            if role & Role.OPTIONAL and self.status[parent] is not OK:
                found = self._verdict(parent, role)
                if _gravity(found) > _gravity(worst):
                    worst = found
        return worst

    def _only_branches_wait(self, join: int) -> bool:
        """True when `after` and `when` parents have ended; they must have before a join fires."""
        return all(
            role == Role.OPTIONAL
            or self.status[parent].is_terminal
            or (role & Role.FALLBACK and parent in self.fallen)
            for parent, role in self.plan.parents[join]
        )

    # -- what a parent's end means -----------------------------------------------------------

    def _bad_parent(self, node: int) -> tuple[NodeState, tuple[Cause, int]] | None:
        """The gravest of the parents' ends that keep this node from running; then the first."""
        worst: tuple[NodeState, tuple[Cause, int]] | None = None
        for parent, role in self.plan.parents[node]:
            if self._is_bad(node, parent, role):
                found = self._verdict(parent, role)
                if worst is None or _gravity(found) > _gravity(worst):
                    worst = found
        return worst

    def _is_bad(self, node: int, parent: int, role: Role) -> bool:
        """True when this parent's end keeps the node from running."""
        status = self.status[parent]
        if not status.is_terminal:
            return False
        if role & Role.FALLBACK:
            return parent not in self.fallen
        if status is OK:
            when = self.nodes[node].when
            return bool(
                role & Role.WHEN
                and when is not None
                and when[0] == parent
                and self.branch.get(parent) != when[1]
            )
        if role & (Role.VALUE | Role.WHEN):
            return True
        if role & Role.RAW:
            return not self.shown[parent]
        if role & Role.OPTIONAL and self.nodes[node].join is not None:
            return False
        return status is not SKIPPED or self.cause[parent][0] is Cause.PARENT_FAILED

    def _is_on_its_branch(self, node: int) -> bool:
        when, primary = self.nodes[node].when, self.nodes[node].stands_for
        if primary is not None and primary not in self.fallen:
            return False  # nobody knows yet whether it is wanted
        return when is None or self.branch.get(when[0]) == when[1]

    def _verdict(self, parent: int, role: Role) -> tuple[NodeState, tuple[Cause, int]]:
        """State and cause of a child that can't run because of this parent."""
        status = self.status[parent]
        cause, blame = self.cause.get(parent, (Cause.NONE, parent))
        if role & Role.FALLBACK and status is not CANCELLED:
            return SKIPPED, (Cause.NOT_NEEDED, parent)
        if status is OK:
            return SKIPPED, (Cause.BRANCH, parent)
        if status is BLOCKED:
            return BLOCKED, (Cause.BLOCKED, blame)
        if status is FAILED:
            return SKIPPED, (Cause.PARENT_FAILED, parent)
        if status is CANCELLED:
            return CANCELLED, (Cause.RUN_ENDED, parent)
        if cause is Cause.PARENT_FAILED:
            return SKIPPED, (Cause.PARENT_FAILED, blame)
        return SKIPPED, (Cause.PARENT_SKIPPED, parent)

    def _role(self, child: int, parent: int) -> Role:
        for other, role in self.plan.parents[child]:
            if other == parent:
                return role
        raise AssertionError("an edge has two ends")

    # -- routes and guards -------------------------------------------------------------------

    def _note_stall(self, gated: int, is_stalled: bool) -> None:
        """What the guard that spoke last says of the loop. A node that was given up and fell back
        stays given up: its fallback has been asked, and there is no other."""
        if is_stalled:
            self.stalled.add(gated)
        elif gated not in self.fallen:
            self.stalled.discard(gated)

    def _controlled(self, node: int, control: tuple[str, Any], actions: list[Action]) -> None:
        """A route or a guard has decided."""
        kind, detail = control
        if kind == "branch":
            self.branch[node] = detail
            self._raw_value(node, actions)
            return
        # Its decision reaches its own consumers once no value it gates can be revised any more.
        self.decisions[node] = control
        self.status[node] = JUDGED
        if self.ending is None:  # else heeded when the run is reopened
            for gated in self.nodes[node].gates:
                if self.status[gated] is HELD and self._heed(gated, node):
                    self._pass_gate(gated, node)
        self._release_guard(node)
        self._revise_if_wished(actions)

    def _heed(self, gated: int, guard: int) -> bool:
        """False when the guard does not let this value pass: it blocks (any Block, or a second
        redaction), or wants another value revised first and will judge this one again."""
        kind, detail = self.decisions[guard]
        about: bool = detail == gated
        hopeless = kind == "revise" and not self._can_revise(detail)
        if kind == "block" or hopeless or (kind == "redact" and about and gated in self.redactor):
            self._block(gated, guard)
            return False
        if kind == "revise":
            if about:
                self.wishes.setdefault(gated, []).append(guard)
            return about
        if kind == "redact" and about:
            self.redactor[gated] = guard
        return True

    def _can_revise(self, node: int) -> bool:
        """False for an input, which nobody makes again, and for a value that is decided."""
        return self.nodes[node].stage is not None and self.status[node] is HELD

    def _give_up_on(self, node: int) -> None:
        """A value that a guard wanted revised is lost: what the guard did not judge for its sake
        is lost too."""
        for guard in self.plan.raw_children[node]:
            if self.status[guard] is JUDGED and self.decisions[guard] == ("revise", node):
                for gated in self.nodes[guard].gates:
                    if self.status[gated] is HELD and guard in self.gates_left[gated]:
                        self._block(gated, guard)

    def _release_guard(self, guard: int) -> None:
        """A JUDGED guard is done when everything it gates is."""
        if self.status[guard] is JUDGED and all(
            self.status[gated].is_terminal for gated in self.nodes[guard].gates
        ):
            self._finish(guard, OK)

    def _revise_if_wished(self, actions: list[Action]) -> None:
        """Begins another revision of each value about which all guards have decided and some
        want one; or gives up: after `revisions`, or when the loop gets nowhere."""
        if not self.wishes or self.ending is not None:
            return
        for node in sorted(self.wishes):
            if self.status[node] is not HELD:
                del self.wishes[node]
                continue
            if self.gates_left[node] and node != self._first_in_round(node):
                continue
            del self.wishes[node], self.gates_left[node]
            self.redactor.pop(node, None)
            stage = self.nodes[node].stage
            if stage is None or self.revision[node] >= stage.revisions or node in self.stalled:
                if self._can_fall_back(node):
                    self._await_another(node)
                self._fail(node, "exhausted", actions)
                if self.ending is not None:
                    return
                continue
            self._await_another(node)
            if self.stands(node):
                self.standing.discard(node)
            self._hand_out(node, actions)

    def _first_in_round(self, node: int) -> int | None:
        """Guards may each want another value revised before they judge this one, in a round: then
        the first of these values begins. None while some guard of them has yet to decide."""
        walked: list[int] = []
        at = node
        while at not in walked:
            left = self.gates_left.get(at)
            if not left or any(self.status[guard] is not JUDGED for guard in left):
                return None
            walked.append(at)
            at = self.decisions[min(left)][1]
        return min(walked[walked.index(at) :])

    def _await_another(self, node: int) -> None:
        """The guards of a value that was sent back wait for the next one."""
        for guard in self.plan.raw_children[node]:
            self._ask_again(guard)
        self.shown[node] = 0

    def _ask_again(self, guard: int) -> None:
        """The guard waits for a new raw value. What it let pass and is not yet released waits for
        it again."""
        if self.status[guard] is WAITING:
            self.waiting[guard] += 1
        if self.status[guard] is not JUDGED:
            return
        self.status[guard] = WAITING
        self.waiting[guard] = 1
        del self.decisions[guard]
        for gated in self.nodes[guard].gates:
            if self.status[gated] is HELD and gated in self.gates_left:
                self.gates_left[gated].add(guard)
                if self.redactor.get(gated) == guard:
                    del self.redactor[gated]
                if guard in self.wishes.get(gated, ()):
                    self.wishes[gated].remove(guard)

    def _is_excused(self, guard: int) -> bool:
        """True for a guard that was not to judge: its branch was not taken."""
        return self.status[guard] is SKIPPED and self.cause[guard][0] is Cause.BRANCH

    def _undecided(self, guard: int, gated: int) -> None:
        """A guard ended without deciding. It passes when its branch was not taken, else it blocks:
        what can't be judged must not pass."""
        if self._is_excused(guard):
            self._pass_gate(gated, guard)
        else:
            self._block(gated, guard)

    def _pass_gate(self, node: int, guard: int) -> None:
        self.gates_left[node].discard(guard)
        if not self.gates_left[node] and not self.wishes.get(node):
            del self.gates_left[node]
            self._finish(node, OK)

    def _block(self, node: int, guard: int) -> None:
        """The guarded value reaches nobody."""
        self.gates_left.pop(node, None)
        self.redactor.pop(node, None)
        self.wishes.pop(node, None)
        self._finish(node, BLOCKED, (Cause.BLOCKED, guard))

    def _stop_if_blocked(self, actions: list[Action]) -> None:
        """Ends the run as soon as an output can't be reached because of a block."""
        if self.ending is not None or not self.blocks():
            return
        guard = self._blocking_guard()
        if guard is not None:
            self._stop("blocked", f"guard:{self.nodes[guard].name}", actions)

    def blocks(self) -> bool:
        """True when some guard has blocked something in this run."""
        return any(state is BLOCKED for state in self.status) if self.plan.guarded else False

    def _blocking_guard(self) -> int | None:
        """The guard that keeps an ended output from being reached, looking through what is
        missing behind it; None when no output is lost to a block."""
        seen: set[int] = set()
        stack = [
            output
            for output in self.plan.outputs
            if self.status[output].is_terminal and self.status[output] is not OK
        ]
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            if self.status[node] is BLOCKED:
                return self.cause[node][1]
            stack.extend(
                parent
                for parent, role in self.plan.parents[node]
                if role & (Role.VALUE | Role.RAW | Role.WHEN | Role.OPTIONAL)
                and self.status[parent].is_terminal
                and self.status[parent] is not OK
            )
        return None

    # -- ends --------------------------------------------------------------------------------

    def _fail(self, node: int, reason: str, actions: list[Action]) -> None:
        if self._can_fall_back(node):
            self.failures[node] = reason
            self.status[node] = FALLING_BACK
            self.fallen.add(node)
            self._call_fallback(node, actions)
            return
        # What a fallback's value did wrong is not why the node has none of its own.
        self.failures.setdefault(node, reason)
        self._finish(node, FAILED, (Cause.OWN, node))
        placed = self.nodes[node]
        if not placed.gates and not placed.isolates and placed.stands_for is None:
            self._stop("failed", self.failures[node], actions)

    # -- fallbacks ---------------------------------------------------------------------------

    def _can_fall_back(self, node: int) -> bool:
        return (
            self.nodes[node].fallback is not None
            and node not in self.fallen
            and self.ending is None
            # What it has done, or may have, is to be taken back, which needs its own result.
            and not (self.is_saga and (node in self.effects or node in self.doubt))
        )

    def _call_fallback(self, node: int, actions: list[Action]) -> None:
        """The node has failed; its fallback runs as soon as its other parents have ended."""
        fallback = self.nodes[node].fallback
        assert fallback is not None
        if self.status[fallback].is_terminal:  # kept in a reopened run
            self._fallback_ended(node, actions)
            return
        self.waiting[fallback] -= 1
        if self.nodes[fallback].join is not None:
            self._settle_join(fallback, actions)
        elif self.waiting[fallback] == 0:
            self._decide(fallback, actions)

    def _fallback_ended(self, node: int, actions: list[Action]) -> None:
        """A FALLING_BACK node takes its fallback's value, or ends as it must without one."""
        fallback = self.nodes[node].fallback
        assert fallback is not None
        match self.status[fallback]:
            case NodeState.OK:
                if self.ending is None:  # else taken when the run is reopened
                    self.abandoned_count.pop(node, None)
                    self.standing.add(node)
                    self._hand_out(node, actions)
            case NodeState.BLOCKED:
                self._finish(node, BLOCKED, (Cause.BLOCKED, self.cause[fallback][1]))
            case NodeState.CANCELLED:
                self._finish(node, CANCELLED, (Cause.RUN_ENDED, node))
            case state if state.is_terminal:
                self._finish(node, FAILED, (Cause.OWN, node))
                placed = self.nodes[node]
                if not placed.isolates and placed.stands_for is None:
                    self._stop("failed", self.failures[node], actions)
            case _:
                pass

    def _stop(self, status: str, reason: str, actions: list[Action]) -> None:
        """Decides the end: nothing starts any more, what runs is asked to stop.

        HELD nodes stay HELD: their values are done and may be judged when the run is reopened.
        What waits for a person waits no more.
        """
        if self.ending is not None:
            return
        self.ending = End(status, reason)
        for node, state in enumerate(self.status):
            if state is RUNNING:
                # May have been handed out in this very step: the driver stops it unstarted.
                actions.append(Stop(node, self.token[node]))
            elif state is RETRYING:
                self.running -= 1
                self._finish(node, CANCELLED, (Cause.RUN_ENDED, node))
            elif state is PARKED:
                self.parked -= 1
                self._finish(node, CANCELLED, (Cause.RUN_ENDED, node))
            elif state is WAITING:
                self._finish(node, CANCELLED, (Cause.RUN_ENDED, node))

    def _close(self, actions: list[Action]) -> list[Action]:
        """Last step of every event: works off what ended, and ends the run when it can't go on."""
        if self.undoing is not None:
            self.ended.clear()  # the end is decided: it concerns nobody
        elif self.ended:
            self._propagate(actions)
        if self.running and self.undoing is None:
            return actions
        if self.ending is None:
            if self.unfinished == 0:
                self.ending = self._verdict_of_run()
            elif self.unknown:
                # Without a journal nobody can take the run up again and say what happened.
                self.ending = End("suspended" if self.parks else "failed", "effect_unknown")
            elif self.parked:
                if not self.parks:
                    return actions
                self.ending = End("suspended", "waiting")
            else:
                raise AssertionError(self._story("nothing runs and nothing can start"))
        if self.is_saga and not self.defers and not self._is_taken_back(actions):
            return actions
        self.restate_end()
        actions.append(self.ending)
        return actions

    # -- taking back -------------------------------------------------------------------------

    def _is_taken_back(self, actions: list[Action]) -> bool:
        """Begins the undos that are due; True once there is nothing more to do."""
        assert self.ending is not None
        if self.undoing is None:
            self.undoing = begun(self)
        if self.undoing is None:
            return True
        end = go_on(self, self.undoing, actions)
        if end is None:
            return False
        if self.undoing.is_forward:
            self.undoing = None
        self.ending = end
        return True

    def undo(self, reason: str, *, rerun: Collection[int] = ()) -> list[Action]:
        """Has the run taken back, however it ended or stands. Nothing that runs is stopped twice.

        Of one that is being taken back, or was: what is stuck is tried again. `rerun` are nodes
        of which a person says that nothing happened.
        """
        actions: list[Action] = []
        self.defers = False
        if self.undoing is not None:
            self.ending = self.undoing.end
            taken_up(self, self.undoing, rerun, actions)
        elif self.ending is None or self.running == 0:
            self.ending = None
            self._stop("cancelled", reason, actions)
        return self._close(actions)

    def settled(self, node: int, found: str, data: dict[str, Any]) -> list[Action]:
        """A person says how a stuck step stands: "happened" (its value is given), "not_happened",
        or "left" (of an undo: the effect stays). `can_settle` is True."""
        assert self.can_settle(node, found), "asked before"
        actions: list[Action] = []
        status = {"happened": "ok", "not_happened": "not_happened", "left": "skip"}[found]
        self._outcome(node, status, accepted=status == "ok", extra={**data, "settled": True})
        is_undo = self.nodes[node].undoes is not None
        if self.undoing is not None:
            self.ending = self.undoing.end
            self.undoing.sent_again.clear()
        else:
            self.ending = None
        if found == "not_happened":
            if is_undo:
                try_again(self, node, (node,), actions)
            else:
                did_not_happen(self, node)
            return self._close(actions)
        if self.status[node] is UNKNOWN:
            self.unknown -= 1
        else:
            self.unfinished += 1
        self.asking.pop(node, None)
        self.cut.pop(node, None)
        self.cause.pop(node, None)
        self.failures.pop(node, None)
        self.doubt.discard(node)
        if found == "left":
            self._finish(node, SKIPPED, (Cause.OWN, node))
        else:
            self.produced[node] = 1
            self._note_effect(node)
            self._raw_value(node, actions)
        return self._close(actions)

    def can_settle(self, node: int, found: str) -> bool:
        """True when a person may say `found` of the node: a step whose effect is in doubt, or an
        undo that is stuck."""
        if self.running or self.nodes[node].stage is None:
            return False
        if self.nodes[node].undoes is not None:
            return self.status[node] in (FAILED, CANCELLED, UNKNOWN)
        if found == "left" or not (self.status[node] is UNKNOWN or node in self.doubt):
            return False
        # A run that goes forward has `rerun` for this, and would have to begin it anew.
        return found == "happened" or self.undoing is not None

    def goes_on(self, node: int) -> bool:
        """True while the node's attempts may begin and go on: the run's end is not decided, or the
        node takes part in taking back."""
        return self.ending is None or (
            self.undoing is not None and self.undoing.is_active(self.nodes[node])
        )

    def _note_effect(self, node: int) -> None:
        """An attempt gave a value: of a step that can be undone, or a pivot, its effect is done."""
        if (node in self.undos or node in self.plan.pivots) and not self.stands(node):
            self.effects.add(node)
            self.doubt.discard(node)

    def _note_doubt(self, node: int, *, cut_off: bool) -> None:
        """An attempt ended without a value: by its own word, which says that nothing happened, or
        from outside, which says nothing."""
        stage = self.nodes[node].stage
        if node not in self.undos and node not in self.plan.pivots:
            return
        if cut_off and stage is not None and stage.keyed and not self.stands(node):
            self.doubt.add(node)
        else:
            self.doubt.discard(node)

    def _verdict_of_run(self) -> End:
        if self.blocks():
            guard = self._blocking_guard()
            if guard is not None:
                return End("blocked", f"guard:{self.nodes[guard].name}")
        failed = [
            node
            for node in self.failures
            if self.status[node] is FAILED and not self.nodes[node].gates
        ]
        if failed:
            return End("partial", self.failures[failed[0]])
        if any(self.status[node] is not OK for node in self.plan.outputs):
            return End("partial", "output_skipped")
        return End("ok", "")

    # -- records -----------------------------------------------------------------------------

    def _record(
        self, type_: RecordType, node: int | None = None, data: dict[str, Any] | None = None
    ) -> None:
        self.seq += 1
        if not self.writes:
            return
        if node is None:
            self.records.append(Record(type_, self.seq, data=data or {}))
        else:
            self.records.append(
                Record(
                    type_,
                    self.seq,
                    node=self.nodes[node].name,
                    revision=self.revision[node],
                    attempt=self.attempt[node],
                    token=self.token[node],
                    data=data or {},
                )
            )

    def _outcome(
        self,
        node: int,
        status: str,
        *,
        reason: str = "",
        control: tuple[str, Any] | None = None,
        accepted: bool = False,
        by_stage: bool = False,
        unstarted: bool = False,
        cut_off: bool = False,
        unknown: bool = False,
        retries: bool = False,
        extra: dict[str, Any] | None = None,
    ) -> None:
        data: dict[str, Any] = {"status": status, **(extra or {})}
        if retries:
            data["retries"] = True
        if by_stage:
            data["by_stage"] = True
        if unstarted:
            data["unstarted"] = True
        if cut_off:
            data["cut_off"] = True
        if unknown:
            data["unknown"] = True
        if reason:
            data["reason"] = reason
        if accepted:
            data["accepted"] = True
        if control is not None:
            kind, detail = control
            data["control"] = kind
            if kind in ("redact", "revise"):
                data["of"] = self.nodes[detail].name
            elif kind == "branch":
                data["branch"] = detail
        self._record(RecordType.OUTCOME, node, data)

    def _late(self, node: int, token: int, status: str) -> list[Action] | None:
        """A zombie's write: refused, and told. None, for its caller to return.

        The record names the attempt that the node has now; the late one is named by its token.
        """
        self.seq += 1
        if self.writes:
            self.records.append(
                Record(
                    RecordType.LATE,
                    self.seq,
                    node=self.nodes[node].name,
                    revision=self.revision[node],
                    token=token,
                    data={
                        "status": status,
                        "current": self.attempt[node],
                        "current_token": self.token[node],
                    },
                )
            )
        return None

    # -- invariants --------------------------------------------------------------------------

    def check(self) -> None:
        """Raises AssertionError with the story when an invariant is broken; for tests and sim."""
        running = sum(1 for state in self.status if state in (RUNNING, RETRYING))
        assert running == self.running, self._story("running is miscounted")
        left = sum(1 for state in self.status if not state.is_terminal)
        assert left == self.unfinished, self._story("unfinished is miscounted")
        assert all(count >= 0 for count in self.waiting), self._story("waited for too much")
        held = {node for node, state in enumerate(self.status) if state is HELD}
        assert held == set(self.gates_left), self._story("held without guards")
        parked = sum(1 for state in self.status if state is PARKED)
        assert parked == self.parked, self._story("parked is miscounted")
        unknown = sum(1 for state in self.status if state is UNKNOWN)
        assert unknown == self.unknown, self._story("unknown is miscounted")
        for node, state in enumerate(self.status):
            if state is JUDGED:
                assert node in self.decisions, self._story("judged without a decision")
                assert any(not self.status[g].is_terminal for g in self.nodes[node].gates), (
                    self._story("a guard's decision is kept back for nothing")
                )
            if state is FALLING_BACK:
                fallback = self.nodes[node].fallback
                assert node in self.fallen and fallback is not None, self._story("fell to nothing")
                assert not self.status[fallback].is_terminal or self.ending is not None, (
                    self._story("a fallback has ended, and its node does not know")
                )
        assert self.standing <= self.fallen, self._story("a value of a fallback nobody called")
        assert not self.ended, self._story("an end was not worked off")
        for node, state in enumerate(self.status):
            if state in (RUNNING, OK) and self.nodes[node].stage is not None:
                assert 1 <= self.token[node] <= self.tokens, self._story("ran without a token")
                for parent, role in self.plan.parents[node]:
                    self._check_parent(node, parent, role)
        assert len({t for t in self.token if t}) == sum(1 for t in self.token if t), self._story(
            "two attempts share a token"
        )

    def _check_parent(self, node: int, parent: int, role: Role) -> None:
        status = self.status[parent]
        if role & Role.RAW:
            fine = bool(self.shown[parent])
        elif role & Role.FALLBACK:
            # A kept value in a reopened run: its node tries again.
            fine = parent in self.fallen or self.status[node] is OK
        elif role & (Role.VALUE | Role.WHEN):
            fine = status is OK
        elif self.nodes[node].join is not None:
            fine = True
        else:
            # A kept value in a reopened run: what it came after may be asked again.
            fine = status.is_terminal or self.status[node] is OK
        assert fine, self._story(f"{self.nodes[node].name} ran before {self.nodes[parent].name}")

    def _story(self, what: str) -> str:
        counts = {
            state.name.lower(): self.status.count(state)
            for state in NodeState
            if self.status.count(state)
        }
        return f"{self.plan.name}: {what}; states {counts}, seq {self.seq}, ending {self.ending}"


def _gravity(verdict: tuple[NodeState, tuple[Cause, int]]) -> int:
    """Which of several parents' ends counts: whatever their order, the gravest.

    A stage whose branch was not taken is no part of the run, nor is a fallback that nobody called:
    what its other parents could not give it does not matter, and must not pass through it.
    """
    status, (cause, _) = verdict
    if status is CANCELLED:
        return 4
    if cause in (Cause.BRANCH, Cause.NOT_NEEDED):
        return 3
    if status is BLOCKED:
        return 2
    return 1 if cause is Cause.PARENT_FAILED else 0
