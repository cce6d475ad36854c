"""Nodes that wait for a person: their time, and the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stageflow.model.errors import RunError, StageflowError
from stageflow.model.labels import NONE
from stageflow.model.values import content_hash
from stageflow.runtime.arguments import check_by
from stageflow.runtime.failure import Failure
from stageflow.scheduler import Action, Ask, End, NodeState

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver


def going_on(actions: list[Action], follows: list[Action]) -> list[Action]:
    """What a run that was not opened yet does after one more event: its old end is undone."""
    return [action for action in actions if type(action) is not End] + follows


def ask(driver: Driver, action: Ask) -> None:
    """The question is on record; nothing is awaited but its expiry."""
    number, scheduler = action.node, driver.scheduler
    if scheduler.status[number] is not NodeState.PARKED or scheduler.token[number] != action.token:
        return  # answered before the run was opened again
    expires_s = action.expires_s
    if expires_s is None:
        due = driver.due_wall_s.get(action.node)
        if due is None:
            return
        expires_s = max(0.0, due - driver.runtime.clock.wall_s())
    driver.questions[action.node] = driver.loop.call_later(
        expires_s, _expire, driver, action.node, action.token
    )


def expire_overdue(driver: Driver, actions: list[Action]) -> list[Action]:
    """What a recovered run does when questions whose time is over stand no more: `actions`
    and what follows from that."""
    now_s = driver.runtime.clock.wall_s()
    for number, due in driver.due_wall_s.items():
        if driver.scheduler.status[number] is NodeState.PARKED and due <= now_s:
            name = driver.nodes[number].name
            driver.failures[number] = Failure((name,), "expired", "", "nobody answered in time")
            token = driver.scheduler.token[number]
            actions = going_on(actions, driver.scheduler.expired(number, token))
    return actions


def _expire(driver: Driver, number: int, token: int) -> None:
    driver.questions.pop(number, None)
    node = driver.nodes[number]
    driver.failures[number] = Failure((node.name,), "expired", "", "nobody answered in time")
    driver.step_aside(driver.scheduler.expired(number, token))


def answer(driver: Driver, name: str, value: Any, *, by: str, shown: str | None) -> list[Action]:
    """Admits a person's answer and tells the scheduler. RunError when there is no such
    question, it was about other content, or it is answered already."""
    check_by(by)
    number = driver.plan.find(name)
    node, scheduler = driver.nodes[number], driver.scheduler
    if node.shows is None or scheduler.status[number] is not NodeState.PARKED:
        raise RunError(
            "run.not_waiting",
            f"node {name!r} of run {driver.identity.run} waits for nobody",
            pipeline=driver.plan.name,
            node=name,
            expected="a node that waits for an answer",
            got=scheduler.status[number].name.lower(),
            fix="an answer is given once; look at runtime.waiting(run)",
        )
    now = content_hash(driver.bag.values[node.shows])
    if shown is not None and shown != now:
        raise RunError(
            "run.answer_stale",
            f"the answer to {name!r} is about other content than what is waiting",
            pipeline=driver.plan.name,
            node=name,
            expected=now,
            got=shown[:80],
            fix="look again: runtime.waiting(run) gives what is shown and its hash",
        )
    try:
        frozen = node.contract.admit(value, driver.runtime.freezer)
        payload = None if driver.history is None else driver.history.encode(driver, node, frozen)
    except StageflowError as error:
        raise error.at(pipeline=driver.plan.name, node=name) from None
    token = scheduler.token[number]
    actions = scheduler.answered(number, token, {"by": by, "shown": now})
    assert actions is not None, "a PARKED node takes an answer"
    driver.see_labels()  # the run may not be open yet
    labels = driver.flow.note(driver, number) if driver.flows else NONE
    if driver.history is not None:
        driver.history.attach(scheduler, token, payload, node.contract.hash, labels)
    timer = driver.questions.pop(number, None)
    if timer is not None:
        timer.cancel()
    driver.bag.put(number, frozen, scheduler.attempt[number], token, held=bool(node.guards))
    if node.guards:
        driver.held.add(number)
    return actions
