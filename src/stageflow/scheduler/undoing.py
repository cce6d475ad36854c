"""Taking back what a run has done: the part of the scheduler that works after the end is decided.

An undo is a node like any other, with attempts, retries, tokens, an intent before it acts and an
outcome after it; only who begins it differs. So journal, recovery, replay and simulation know of
nothing new. It lies SKIPPED, as not needed, until the run's end is decided and nothing runs any
more; then what is owed is WAITING, and begins in the order that `stageflow.scheduler.saga` gives.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from stageflow.graph import Node, Plan
from stageflow.model.kinds import Kind
from stageflow.model.policy import Retry
from stageflow.model.record import RecordType
from stageflow.scheduler.actions import Action, End, Wait
from stageflow.scheduler.saga import UNDOES, Stand, next_move
from stageflow.scheduler.state import Cause, NodeState

SETTLING = Retry(attempts=5, base_s=0.2, max_s=5.0)
"""How often, and how far apart, a keyed step that was cut off is sent once more, to learn whether
its effect happened."""

PAST_PIVOT = "run.past_pivot"
"""With which reason the undo of a node fails whose child is past its pivot."""

_STUCK = (NodeState.FAILED, NodeState.CANCELLED, NodeState.UNKNOWN)
_BUSY = (NodeState.RUNNING, NodeState.RETRYING)


class UndoingMachine(Protocol):
    """What taking back needs of the scheduler."""

    plan: Plan
    nodes: tuple[Node, ...]
    status: list[NodeState]
    attempt: list[int]
    token: list[int]
    running: int
    unknown: int
    unfinished: int
    seed: int
    parks: bool
    ending: End | None
    cause: dict[int, tuple[Cause, int]]
    failures: dict[int, str]
    effects: set[int]
    doubt: set[int]
    asking: dict[int, int]
    cut: dict[int, tuple[str, bool]]
    before: dict[int, int]
    abandoned_count: dict[int, int]

    def _hand_out(self, node: int, actions: list[Action]) -> None: ...
    def _inquire(self, node: int, actions: list[Action]) -> None: ...
    def _can_inquire(self, node: int) -> bool: ...
    def _record(
        self, type_: RecordType, node: int | None = None, data: dict[str, float] | None = None
    ) -> None: ...


class Undoing:
    """The state of taking back, beside what the nodes themselves say. Made when it begins."""

    __slots__ = ("end", "is_forward", "sent_again", "settling")

    def __init__(self, end: End) -> None:
        self.end = end
        """How the run ends when all is taken back."""
        self.is_forward = False
        """True when it turned out that a pivot is done: nothing is taken back."""
        self.settling: set[int] = set()
        """Steps that are asked, or sent once more, whether their effect happened."""
        self.sent_again: dict[int, int] = {}
        """How often each of them was, since somebody last took the run up."""

    def is_active(self, node: Node) -> bool:
        """True for a node whose attempts go on although the run's end is decided."""
        return node.undoes is not None or node.index in self.settling


def begun(machine: UndoingMachine) -> Undoing | None:
    """The taking back that a decided end calls for; None when there is nothing to take back."""
    end = machine.ending
    assert end is not None, "a run that goes on takes nothing back"
    if end.status not in UNDOES or not (
        machine.effects or in_doubt(machine) or _children_begun(machine)
    ):
        return None
    return Undoing(end)


def go_on(machine: UndoingMachine, undoing: Undoing, actions: list[Action]) -> End | None:
    """Begins what is due. The run's end when nothing runs and nothing is due; None until then."""
    if not _settled(machine, undoing, actions):
        return None
    pivots = [node for node in machine.plan.pivots if node in machine.effects]
    lost = [node for node in machine.plan.pivots if node in in_doubt(machine)]
    asked = _children_with_pivots(machine)
    pivots += [node for node in asked if _is_past(machine, node)]
    if pivots or lost:
        blame = (pivots or lost)[0]
        word = "past_pivot" if pivots else "undo_stuck"
        undoing.is_forward = bool(pivots)
        if pivots:
            _take_nothing_back(machine)
        return _needs_person(machine, undoing, f"{word}:{machine.nodes[blame].name}")
    stands = stands_of(machine)
    if any(stands[node] not in (Stand.UNDONE, Stand.LEFT) for node in asked):
        # Nothing stands on them, since they gave no value: they may be first in any order. One
        # that is stuck may turn out to be past its pivot, once a person has looked at it.
        stands = {node: stands[node] for node in asked}
    for node in stands:
        undo = machine.plan.undos[node]
        if machine.status[undo] is NodeState.SKIPPED and stands[node] is Stand.OWED:
            machine.status[undo] = NodeState.WAITING
            machine.unfinished += 1
            del machine.cause[undo]
    move = next_move(stands, machine.plan.later)
    for node in move.begins:
        machine._hand_out(machine.plan.undos[node], actions)
    if not move.is_over or move.begins:
        return None
    if move.stuck:
        node = move.stuck[0]
        if stands[node] is Stand.STUCK:
            node = machine.plan.undos[node]
        return _needs_person(machine, undoing, f"undo_stuck:{machine.nodes[node].name}")
    return undoing.end


def _children_with_pivots(machine: UndoingMachine) -> list[int]:
    """Nodes whose child run did not end well, and may be past a pivot of its own. Only the child
    knows: it is taken back before everything else, and says that it can't be."""
    begun_ = set(_children_begun(machine)) - machine.effects
    return [node for node in machine.plan.pivots if node in begun_]


def _is_past(machine: UndoingMachine, node: int) -> bool:
    undo = machine.plan.undos[node]
    return machine.status[undo] is NodeState.FAILED and machine.failures.get(undo) == PAST_PIVOT


def _take_nothing_back(machine: UndoingMachine) -> None:
    """It turned out that the run goes forward: undos that were begun, or were to, are as before."""
    for undo in machine.plan.undos.values():
        if machine.status[undo] is NodeState.WAITING:
            machine.unfinished -= 1
        elif machine.status[undo] is not NodeState.FAILED:
            continue
        machine.status[undo] = NodeState.SKIPPED
        machine.cause[undo] = (Cause.NOT_NEEDED, undo)
        machine.failures.pop(undo, None)
        machine.before[undo] = machine.attempt[undo]


def _needs_person(machine: UndoingMachine, undoing: Undoing, reason: str) -> End:
    # Without a journal nobody can take the run up again: it ends as it would have, and says why.
    return End("suspended" if machine.parks else undoing.end.status, reason)


def stands_of(machine: UndoingMachine) -> dict[int, Stand]:
    """Where the undo of each effect stands that was done, or may have been."""
    doubt = in_doubt(machine)
    owed = machine.effects | doubt | set(_children_begun(machine))
    return {node: _stand(machine, node, doubt) for node in machine.plan.undos if node in owed}


def _stand(machine: UndoingMachine, node: int, doubt: set[int]) -> Stand:
    undo = machine.plan.undos[node]
    match machine.status[undo]:
        case NodeState.OK:
            return Stand.UNDONE
        case NodeState.SKIPPED if machine.cause[undo][0] is Cause.OWN:
            return Stand.LEFT
        case state if state in _BUSY:
            return Stand.RUNNING
        case state if state in _STUCK:
            return Stand.STUCK
        case _:
            return Stand.DOUBT if node in doubt else Stand.OWED


def in_doubt(machine: UndoingMachine) -> set[int]:
    """Steps with an undo, and pivots, of which nobody knows whether their effect happened."""
    return {
        node
        for node in (*machine.plan.undos, *machine.plan.pivots)
        if node not in machine.effects
        and (machine.status[node] is NodeState.UNKNOWN or node in machine.doubt)
    }


def _children_begun(machine: UndoingMachine) -> list[int]:
    """Nodes whose child run may have done something, however it ended."""
    return [
        node
        for node in machine.plan.undos
        if machine.nodes[node].kind is Kind.CHILD and machine.attempt[node] > 0
    ]


# -- doubts ------------------------------------------------------------------------------------


def _settled(machine: UndoingMachine, undoing: Undoing, actions: list[Action]) -> bool:
    """False while some step is being asked whether its effect happened. Begins to ask."""
    for node in sorted(in_doubt(machine)):
        if machine.status[node] in _BUSY:
            continue
        times = undoing.sent_again.get(node, 0)
        if machine.status[node] is NodeState.UNKNOWN:
            if machine._can_inquire(node) and not times:
                machine.unknown -= 1
                machine.cut.pop(node, None)
                machine.asking[node] = 0
                undoing.settling.add(node)
                machine._inquire(node, actions)
                undoing.sent_again[node] = 1
        elif times < SETTLING.attempts:
            undoing.settling.add(node)
            undoing.sent_again[node] = times + 1
            machine.unfinished += 1
            del machine.cause[node]
            _send_again(machine, node, times, actions)
    return not any(machine.status[node] in _BUSY for node in undoing.settling)


def _send_again(machine: UndoingMachine, node: int, times: int, actions: list[Action]) -> None:
    """A keyed step is sent once more: its receiver knows what it has done already."""
    if not times:
        machine._hand_out(node, actions)
        return
    name = machine.nodes[node].name
    wait_s = SETTLING.wait_s(attempt=times, seed=machine.seed, node=name, after_s=None)
    machine.status[node] = NodeState.RETRYING
    machine.running += 1
    machine._record(RecordType.RETRY_DUE, node, {"wait_s": wait_s})
    actions.append(Wait(node, machine.token[node], wait_s))


# -- people ------------------------------------------------------------------------------------


def taken_up(
    machine: UndoingMachine, undoing: Undoing, rerun: Collection[int], actions: list[Action]
) -> None:
    """Somebody takes the run up again: what was stuck is tried anew, what was in doubt asked anew.

    `rerun` are nodes of which a person says that nothing happened.
    """
    undoing.sent_again.clear()
    for node in rerun:
        if node in in_doubt(machine):
            did_not_happen(machine, node)
    for node, stand in stands_of(machine).items():
        if stand is Stand.STUCK:
            try_again(machine, machine.plan.undos[node], rerun, actions)


def did_not_happen(machine: UndoingMachine, node: int) -> None:
    """A person says so of a step in doubt: there is nothing to take back."""
    machine.doubt.discard(node)
    if machine.status[node] is NodeState.UNKNOWN:
        machine.unknown -= 1
        machine.asking.pop(node, None)
        machine.status[node] = NodeState.CANCELLED
        machine.cause[node] = (Cause.RUN_ENDED, node)
        machine.unfinished -= 1


def try_again(
    machine: UndoingMachine, undo: int, rerun: Collection[int], actions: list[Action]
) -> None:
    """A stuck undo has another budget of attempts. One of which nobody knows what it did is asked
    first, or left alone unless a person says that it did nothing."""
    if machine.status[undo] is NodeState.UNKNOWN:
        asks = machine._can_inquire(undo) and undo not in rerun
        if not asks and undo not in rerun:
            return
        machine.unknown -= 1
        machine.cut.pop(undo, None)
        machine.asking.pop(undo, None)
        if asks:
            machine.asking[undo] = 0
            machine._inquire(undo, actions)
            return
    else:
        machine.unfinished += 1
        del machine.cause[undo]
    machine.failures.pop(undo, None)
    machine.before[undo] = machine.attempt[undo]
    machine.abandoned_count.pop(undo, None)
    machine._hand_out(undo, actions)
