"""Fallbacks told event by event: when they run, what their value is worth, and what is kept."""

from __future__ import annotations

import pytest

from stageflow import Allow, Branch, Decision, Retry, approval, guard, route, transform, work
from stageflow.model.record import Record, RecordType
from stageflow.scheduler import (
    ABANDONED_MAX,
    Ask,
    Cause,
    End,
    Launch,
    NodeState,
    Program,
    Scheduler,
    Stop,
    replay,
    take_over,
)
from tests.scheduler.told import Told

OK, SKIPPED, FAILED, HELD = NodeState.OK, NodeState.SKIPPED, NodeState.FAILED, NodeState.HELD
BLOCKED, CANCELLED, UNKNOWN = NodeState.BLOCKED, NodeState.CANCELLED, NodeState.UNKNOWN
WAITING, RUNNING, FALLING_BACK = NodeState.WAITING, NodeState.RUNNING, NodeState.FALLING_BACK


@transform
def spare(x: str) -> str:
    return x


@transform(fallback=spare)
def main(x: str) -> str:
    return x


@transform
def taker(main: str) -> str:
    return main


@transform
def other(x: str) -> str:
    return x


@guard
def strict(main: str) -> Decision:
    return Allow()


@guard
def spare_guard(spare: str) -> Decision:
    return Allow()


def fallen(*more: object) -> Told:
    """`main` has failed; its fallback runs."""
    told = Told(main, spare, taker, *more)  # type: ignore[arg-type]
    assert told.tell("failed", "main", "error:E") == [Launch(told.number("spare"))]
    assert told.states("main", "spare", "taker") == [FALLING_BACK, RUNNING, WAITING]
    return told


def test_a_fallback_stands_for_its_node_once_that_has_failed() -> None:
    told = fallen()
    assert told.tell("completed", "spare") == [Launch(told.number("main"))]
    assert told.scheduler.standing == {told.number("main")}
    assert told.tell("completed", "main") == [Launch(told.number("taker"))]
    assert told.tell("completed", "taker")[-1] == End("ok", "")
    assert told.scheduler.failures == {told.number("main"): "error:E"}


def test_a_fallback_waits_for_the_last_attempt() -> None:
    told = Told(main.named(retry=Retry(attempts=2)), spare)
    (wait,) = told.tell("failed", "main", "error:E", retryable=True)
    assert told.states("spare") == [WAITING]
    told.scheduler.retry_due(wait.node, wait.token)
    assert told.tell("failed", "main", "error:E", retryable=True) == [Launch(told.number("spare"))]


@pytest.mark.parametrize("end", ["completed", "skipped"])
def test_a_fallback_is_not_needed_otherwise(end: str) -> None:
    told = Told(main, spare, other)
    told.tell(end, "main")
    assert told.states("spare") == [SKIPPED]
    assert told.scheduler.cause[told.number("spare")] == (Cause.NOT_NEEDED, told.number("main"))


def test_a_fallback_is_not_called_by_a_block_or_a_cancellation() -> None:
    told = Told(main, spare, taker, strict, other)
    told.tell("completed", "main")
    told.tell("completed", "strict", ("block", None))
    assert told.states("main", "spare") == [BLOCKED, SKIPPED]
    told = Told(main, spare, taker)
    told.tell("cancelled", "main", by_stage=True)
    assert told.states("main", "spare") == [CANCELLED, CANCELLED]


def test_the_guards_of_a_node_judge_its_fallbacks_value() -> None:
    told = fallen(strict)
    assert told.states("strict") == [WAITING]
    told.tell("completed", "spare")
    assert told.tell("completed", "main") == [Launch(told.number("strict"))]
    assert told.states("main", "taker") == [HELD, WAITING]
    assert told.tell("completed", "strict", ("block", None))[-1].status == "blocked"


def test_a_value_of_a_fallback_that_was_sent_back_is_made_by_the_stage_itself() -> None:
    """
    1. the stage fails, its fallback's value stands, and a guard wants another revision
    2. the stage itself makes it; it fails once more, and the fallback has had its turn
    """
    told = fallen(strict)
    told.tell("completed", "spare")
    told.tell("completed", "main")
    revise = ("revise", told.number("main"))
    assert told.tell("completed", "strict", revise) == [Launch(told.number("main"))]
    assert not told.scheduler.standing
    told.tell("failed", "main", "error:F")
    assert told.states("main", "taker") == [FAILED, CANCELLED]
    assert told.scheduler.ending == End("failed", "error:E")


def test_a_node_that_no_revision_of_passes_falls_back() -> None:
    told = Told(main.named(bind={}), spare, taker, strict)
    for _ in range(5):
        told.tell("completed", "main")
        last = told.tell("completed", "strict", ("revise", told.number("main")))
    assert last == [Launch(told.number("spare"))]
    told.tell("completed", "spare")
    assert told.scheduler.revision[told.number("main")] == 6
    assert told.tell("completed", "main") == [Launch(told.number("strict"))]
    told.tell("completed", "strict", ("allow", None))
    assert told.tell("completed", "taker")[-1] == End("ok", "")


def test_a_failed_fallback_leaves_the_first_failure() -> None:
    told = fallen()
    assert told.tell("failed", "spare", "error:F")[-1] == End("failed", "error:E")
    assert told.states("main", "spare", "taker") == [FAILED, FAILED, CANCELLED]


def test_what_a_node_says_of_failures_counts_not_what_its_fallback_says() -> None:
    told = Told(main.named(on_failure="isolate"), spare, taker, other)
    told.tell("failed", "main", "error:E")
    assert told.tell("failed", "spare", "error:F") == []
    assert told.states("main", "spare", "taker", "other") == [FAILED, FAILED, SKIPPED, RUNNING]
    assert told.tell("completed", "other")[-1] == End("partial", "error:E")


def test_a_fallback_that_a_guard_blocks_blocks_its_node() -> None:
    told = fallen(spare_guard)
    told.tell("completed", "spare")
    assert told.states("main") == [FALLING_BACK]
    end = told.tell("completed", "spare_guard", ("block", None))[-1]
    assert end == End("blocked", "guard:spare_guard")
    assert told.states("main", "spare", "taker") == [BLOCKED, BLOCKED, BLOCKED]
    told.reopen()
    assert told.states("main", "spare", "taker") == [BLOCKED, BLOCKED, BLOCKED]


def test_a_guard_of_a_fallback_that_failed_is_asked_again() -> None:
    told = fallen(spare_guard)
    told.tell("completed", "spare")
    told.tell("failed", "spare_guard", "error:G")
    assert told.states("main", "spare") == [BLOCKED, BLOCKED]
    assert told.reopen() == [Launch(told.number("spare_guard"))]
    assert told.states("main", "spare") == [FALLING_BACK, HELD]
    assert told.tell("completed", "spare_guard", ("allow", None)) == [Launch(told.number("main"))]


def test_fallbacks_of_fallbacks_are_taken_in_turn() -> None:
    third = other.named("third")
    told = Told(main, spare.named(fallback=third), third, taker)
    told.tell("failed", "main", "error:E")
    assert told.tell("failed", "spare", "error:F") == [Launch(told.number("third"))]
    assert told.tell("completed", "third") == [Launch(told.number("spare"))]
    assert told.tell("completed", "spare") == [Launch(told.number("main"))]
    assert told.tell("completed", "main") == [Launch(told.number("taker"))]


def test_a_long_line_of_fallbacks_costs_no_stack() -> None:
    count = 5_000
    line = [
        spare.named(f"s{n}", fallback=f"s{n + 1}") if n < count else spare.named(f"s{n}")
        for n in range(count + 1)
    ]
    told = Told(*line, outputs="s0")
    scheduler = told.scheduler
    for n in range(count):
        (launch,) = scheduler.failed(n, scheduler.token[n], "error:E")[-1:]
        assert launch == Launch(n + 1)
    for n in range(count, -1, -1):
        last = scheduler.completed(n, scheduler.token[n])
    assert last[-1] == End("ok", "")


def test_a_fallback_of_a_stage_that_kills_its_process_runs() -> None:
    told = Told(main, spare)
    for _ in range(ABANDONED_MAX - 1):
        told.tell("abandoned", "main")
    assert told.tell("abandoned", "main") == [Launch(told.number("spare"))]


def test_a_route_falls_back_on_a_route() -> None:
    @route
    def guess(x: str) -> Branch:
        return Branch("one")

    @route(branches=("one", "two"), fallback=guess)
    def way(x: str) -> Branch:
        return Branch("one")

    first = other.named("a", when=way.branch("one"))
    second = other.named("b", when=way.branch("two"))
    told = Told(way, guess, first, second)
    told.tell("failed", "way", "error:E")
    told.tell("completed", "guess", ("branch", "two"))
    told.tell("completed", "way", ("branch", "two"))
    assert told.states("a", "b") == [SKIPPED, RUNNING]


def test_a_question_nobody_answers_falls_back_and_a_stage_on_a_question() -> None:
    asked = approval("asked", str, of=other, expires=60.0)
    told = Told(other, spare, asked.named(fallback=spare))
    ask = told.tell("completed", "other")[0]
    assert isinstance(ask, Ask)
    assert told.tell("expired", "asked") == [Launch(told.number("spare"))]
    assert told.tell("completed", "spare") == [Launch(told.number("asked"))]
    assert told.tell("completed", "asked")[-1] == End("ok", "")
    told = Told(other, asked, main.named(fallback=asked))
    told.tell("completed", "other")
    told.tell("failed", "main", "error:E")
    assert told.scheduler.ending == End("suspended", "waiting")
    assert told.states("main") == [FALLING_BACK]
    assert told.tell("answered", "asked", {}) == [Launch(told.number("main"))]


def test_a_block_elsewhere_reaches_a_fallback_only_when_it_is_called() -> None:
    needy = other.named("needy", x=other)
    told = Told(main.named(fallback=needy), needy, other, strict.named("strict", main=other), taker)
    told.tell("completed", "other")
    told.tell("completed", "strict", ("block", None))
    assert told.states("other", "needy", "main") == [BLOCKED, WAITING, RUNNING]
    told.tell("failed", "main", "error:E")
    assert told.states("needy", "main", "taker") == [BLOCKED, BLOCKED, BLOCKED]


def test_a_value_of_a_fallback_that_comes_while_the_run_is_ending_is_taken_later() -> None:
    """
    1. the fallback runs when another stage ends the run
    2. its value arrives all the same and is kept; the node has not ended
    3. taken up again, the run goes on with that value
    """
    told = fallen(other)
    stop = Stop(told.number("spare"), told.scheduler.token[told.number("spare")])
    assert told.tell("failed", "other", "error:G") == [stop]
    assert told.tell("completed", "spare")[-1] == End("failed", "error:G")
    assert told.states("main", "spare") == [FALLING_BACK, OK]
    assert told.reopen() == [Launch(told.number("other")), Launch(told.number("main"))]


def test_a_fallback_that_is_stopped_makes_room_for_the_node_itself() -> None:
    told = fallen(other)
    told.tell("failed", "other", "error:G")
    told.tell("cancelled", "spare")
    assert told.states("main", "spare") == [CANCELLED, CANCELLED]
    told.reopen()
    assert told.states("main", "spare") == [RUNNING, WAITING]


def test_a_fallback_that_was_not_needed_may_be_when_its_node_is_judged_again() -> None:
    told = Told(main, spare, taker, strict)
    told.tell("completed", "main")
    told.tell("failed", "strict", "error:G")
    assert told.states("main", "spare") == [BLOCKED, SKIPPED]
    told.reopen()
    assert told.states("main", "spare") == [HELD, WAITING]
    told.tell("completed", "strict", ("revise", told.number("main")))
    assert told.tell("failed", "main", "error:E") == [Launch(told.number("spare"))]


def test_an_effect_of_a_fallback_that_was_cut_off_keeps_the_node_waiting() -> None:
    @work
    def send(x: str) -> str:
        return x

    told = Told(main.named(fallback=send), send, taker)
    told.tell("failed", "main", "error:E")
    history = [*told.scheduler.records, Record(RecordType.CLAIMED, told.scheduler.seq + 1)]
    fresh = Scheduler(Program(told.plan))
    replay(fresh, history)
    assert take_over(fresh, history)[-1] == End("suspended", "effect_unknown")
    assert fresh.status[told.number("main")] is FALLING_BACK
    assert fresh.reopened([told.number("send")]) == [Launch(told.number("send"))]
    fresh.check()


def test_taking_a_fallbacks_value_is_no_effect() -> None:
    """A WORK stage failed; the process dies while its fallback's value is taken."""

    @work(fallback=spare)
    def send(x: str) -> str:
        return x

    told = Told(send, spare)
    told.tell("failed", "send", "error:E")
    told.tell("completed", "spare")
    intent = told.scheduler.records[-1]
    assert intent.type is RecordType.INTENT and intent.data == {"fallback": "spare"}
    history = [*told.scheduler.records, Record(RecordType.CLAIMED, told.scheduler.seq + 1)]
    fresh = Scheduler(Program(told.plan))
    replay(fresh, history)
    assert take_over(fresh, history) == [Launch(told.number("send"))]
    assert fresh.standing == {told.number("send")} and UNKNOWN not in fresh.status
