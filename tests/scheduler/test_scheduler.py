"""Histories told event by event: the smallest for each rule that a run's end hangs on."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow import (
    Allow,
    Branch,
    Decision,
    Happened,
    Retry,
    first_of,
    guard,
    n_of,
    route,
    transform,
    work,
)
from stageflow.graph import compile_plan
from stageflow.model.errors import JournalError
from stageflow.model.record import Record, RecordType
from stageflow.scheduler import (
    ABANDONED_MAX,
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
from tests.scheduler.told import Told

OK, SKIPPED, FAILED, HELD = NodeState.OK, NodeState.SKIPPED, NodeState.FAILED, NodeState.HELD
BLOCKED, CANCELLED, UNKNOWN = NodeState.BLOCKED, NodeState.CANCELLED, NodeState.UNKNOWN
WAITING, RUNNING = NodeState.WAITING, NodeState.RUNNING


@transform
def left(x: str) -> str:
    return x


@transform
def right(x: str) -> str:
    return x


@transform
def both(left: str, right: str) -> str:
    return left + right


@guard
def strict(left: str) -> Decision:
    return Allow()


@guard
def wary(left: str) -> Decision:
    return Allow()


@transform
def taker(left: str) -> str:
    return left


def launched(actions: Any) -> int:
    return sum(isinstance(action, Launch) for action in actions)


def test_a_child_starts_when_the_last_of_its_parents_has_ended() -> None:
    told = Told(left, right, both)
    assert launched(told.actions) == 2
    assert told.tell("completed", "right") == []
    assert told.tell("completed", "left") == [Launch(told.number("both"))]
    assert told.tell("completed", "both")[-1] == End("ok", "")


def test_a_second_write_of_an_attempt_is_late_and_changes_nothing() -> None:
    told = Told(left, right, both)
    told.tell("completed", "left")
    before = list(told.scheduler.status)
    for event, rest in (("completed", ()), ("failed", ("error:E",)), ("skipped", ())):
        assert told.tell(event, "left", *rest) is None
    assert told.tell("cancelled", "left") is None
    assert told.scheduler.status == before
    late = [r for r in told.scheduler.records if r.type is RecordType.LATE]
    assert [r.data["status"] for r in late] == ["ok", "failed", "skip", "cancelled"]


def test_a_token_of_an_earlier_attempt_is_refused() -> None:
    told = Told(left.named(retry=Retry(attempts=2)))
    (first,) = [told.scheduler.token[told.number("left")]]
    (wait,) = told.tell("failed", "left", "error:E", retryable=True)
    assert isinstance(wait, Wait) and wait.token == first
    assert launched(told.scheduler.retry_due(wait.node, wait.token)) == 1
    assert told.scheduler.completed(wait.node, first) is None
    assert told.tell("completed", "left")[-1] == End("ok", "")


def test_waits_between_attempts_are_a_function_of_seed_node_and_attempt() -> None:
    waits = []
    for _ in range(2):
        told = Told(left.named(retry=Retry(attempts=3)))
        waits.append(told.tell("failed", "left", "error:E", retryable=True))
    assert waits[0] == waits[1] and 0 <= waits[0][0].wait_s <= 0.1


def test_a_failure_stops_what_runs_and_keeps_what_is_done() -> None:
    told = Told(left, right, both)
    told.tell("completed", "left")
    other = Told(left, right, both)
    (stop,) = other.tell("failed", "left", "error:E")
    assert stop == Stop(other.number("right"), other.scheduler.token[other.number("right")])
    assert other.tell("cancelled", "right")[-1] == End("failed", "error:E")
    assert other.states("left", "right", "both") == [FAILED, CANCELLED, CANCELLED]


def test_a_value_that_arrives_while_the_run_is_ending_is_kept() -> None:
    told = Told(left, right, both)
    told.tell("failed", "left", "error:E")
    assert told.tell("completed", "right")[-1] == End("failed", "error:E")
    assert told.states("right") == [OK]


def test_guards_that_both_died_before_the_value_block_it_once() -> None:
    """
    1. two guards wait for a stage that fails in isolation, and for the value they gate
    2. the stage fails: neither guard will ever judge
    3. the value arrives, and is blocked
    """
    told = Told(
        left,
        right.named(on_failure="isolate"),
        strict.named("strict", after=right),
        wary.named("wary", after=right),
    )
    told.tell("failed", "right", "error:E")
    assert told.tell("completed", "left")[-1].status == "blocked"
    assert told.states("left", "strict", "wary") == [BLOCKED, SKIPPED, SKIPPED]


@pytest.mark.parametrize("order", [("blocked", "failed"), ("failed", "blocked")])
def test_a_block_outweighs_a_failure_in_either_order(order: tuple[str, str]) -> None:
    told = Told(
        left, right.named(on_failure="isolate"), strict, both, taker.named("other", left=right),
        outputs=[],
    )  # fmt: skip
    told.tell("completed", "left")
    for one in order:
        if one == "blocked":
            told.tell("completed", "strict", ("block", None))
        else:
            told.tell("failed", "right", "error:E")
    assert told.states("both", "other") == [BLOCKED, SKIPPED]


def test_a_block_decided_while_the_run_was_ending_holds_when_it_is_taken_up_again() -> None:
    """
    1. a guard is judging when another stage fails: the run is ending
    2. the guard says Block; the run ends as failed
    3. the run is taken up again: the value is blocked, not released
    """
    told = Told(left, right, strict, taker)
    told.tell("completed", "left")
    told.tell("failed", "right", "error:E")
    assert told.tell("completed", "strict", ("block", None))[-1] == End("failed", "error:E")
    assert told.states("left") == [HELD]
    told.reopen()
    assert told.states("left", "taker") == [BLOCKED, BLOCKED]


def test_a_block_beside_a_guard_that_failed_holds_when_the_run_is_taken_up_again() -> None:
    told = Told(left, strict, wary, taker, right)
    told.tell("completed", "left")
    told.tell("failed", "strict", "error:E")
    told.tell("completed", "wary", ("block", None))
    assert told.tell("cancelled", "right")[-1].status == "blocked"
    told.reopen()
    assert told.states("left", "taker") == [BLOCKED, BLOCKED]


def test_an_allow_decided_while_the_run_was_ending_counts_when_it_is_taken_up_again() -> None:
    told = Told(left, right, strict, taker)
    told.tell("completed", "left")
    told.tell("failed", "right", "error:E")
    told.tell("completed", "strict", ("allow", None))
    told.reopen()
    assert told.states("left", "taker", "right") == [OK, RUNNING, RUNNING]


def test_a_guard_that_failed_is_asked_again_and_may_allow() -> None:
    told = Told(left, strict, taker)
    told.tell("completed", "left")
    assert told.tell("failed", "strict", "error:E")[-1].status == "blocked"
    assert told.reopen() == [Launch(told.number("strict"))]
    assert told.states("left") == [HELD]
    told.tell("completed", "strict", ("allow", None))
    assert told.tell("completed", "taker")[-1] == End("ok", "")


def test_a_guard_that_skipped_is_asked_again() -> None:
    told = Told(left, strict, taker)
    told.tell("completed", "left")
    assert told.tell("skipped", "strict")[-1].status == "blocked"
    assert told.reopen() == [Launch(told.number("strict"))]


def test_a_guard_on_a_branch_that_was_not_taken_lets_pass() -> None:
    @route(branches=("check", "trust"))
    def way(x: str) -> Branch:
        return Branch("trust")

    told = Told(
        left,
        way,
        strict.named(when=way.branch("check")),
        taker,
        right.named("trusting", when=way.branch("trust")),
    )
    told.tell("completed", "left")
    assert told.states("left") == [HELD]
    told.tell("completed", "way", ("branch", "trust"))
    assert told.states("left", "taker", "strict") == [OK, RUNNING, SKIPPED]


def test_two_redactions_of_one_value_block_it() -> None:
    told = Told(left, strict, wary, taker)
    told.tell("completed", "left")
    told.tell("completed", "strict", ("redact", told.number("left")))
    assert told.states("left") == [HELD]
    told.tell("completed", "wary", ("redact", told.number("left")))
    assert told.states("left", "taker") == [BLOCKED, BLOCKED]


def test_an_effect_cut_off_is_unknown_and_suspends_the_run() -> None:
    @work
    def send(x: str) -> str:
        return x

    told = Told(send, right)
    told.tell("completed", "right")
    history = [*told.scheduler.records, Record(RecordType.CLAIMED, told.scheduler.seq + 1)]
    fresh = Scheduler(Program(told.plan))
    replay(fresh, history)
    assert take_over(fresh, history)[-1] == End("suspended", "effect_unknown")
    assert fresh.status[told.number("send")] is UNKNOWN
    assert fresh.reopened([told.number("send")]) == [Launch(told.number("send"))]


def test_an_effect_cut_off_while_the_run_was_ending_is_not_repeated() -> None:
    @work
    def send(x: str) -> str:
        return x

    told = Told(send, right)
    told.tell("failed", "right", "error:E")
    history = [*told.scheduler.records, Record(RecordType.CLAIMED, told.scheduler.seq + 1)]
    fresh = Scheduler(Program(told.plan))
    replay(fresh, history)
    assert take_over(fresh, history)[-1] == End("failed", "error:E")
    assert fresh.reopened() == [Launch(told.number("right"))]
    assert fresh.status[told.number("send")] is UNKNOWN


@work
def sent(x: str) -> str:
    return x


def test_an_effect_stopped_because_a_sibling_failed_is_unknown() -> None:
    told = Told(sent, right)
    assert Stop(told.number("sent"), 1) in told.tell("failed", "right", "error:E")
    assert told.tell("cancelled", "sent") == [End("failed", "error:E")]
    assert told.states("sent") == [UNKNOWN]
    assert told.reopen() == [Launch(told.number("right"))]
    assert told.tell("completed", "right") == [End("suspended", "effect_unknown")]


def test_an_effect_that_was_stopped_before_it_began_runs_when_taken_up_again() -> None:
    told = Told(sent, right)
    told.tell("failed", "right", "error:E")
    told.tell("cancelled", "sent", unstarted=True)
    assert told.states("sent") == [CANCELLED]
    assert told.reopen() == [Launch(told.number("sent")), Launch(told.number("right"))]


def test_an_effect_that_timed_out_is_unknown_and_not_tried_again() -> None:
    told = Told(sent.named(retry=Retry(attempts=3)))
    ended = told.tell("failed", "sent", "timeout", retryable=True, cut_off=True)
    assert ended == [End("suspended", "effect_unknown")]
    assert told.states("sent") == [UNKNOWN]


def test_a_keyed_effect_that_timed_out_is_tried_again() -> None:
    @work(keyed=True, retry=Retry(attempts=2))
    def paid(x: str) -> str:
        return x

    told = Told(paid)
    (wait,) = told.tell("failed", "paid", "timeout", retryable=True, cut_off=True)
    assert isinstance(wait, Wait)


def test_an_effect_never_ends_as_crash_loop_for_then_it_would_be_repeated_unasked() -> None:
    told = Told(sent)
    for _ in range(ABANDONED_MAX + 1):
        assert told.tell("abandoned", "sent")[-1] == End("suspended", "effect_unknown")
        told.scheduler.reopened([told.number("sent")])


async def found_out() -> Happened:
    return Happened("")


@work(reconcile=found_out, retry=Retry(attempts=2))
def booked(x: str) -> str:
    return x


def test_reconcile_is_asked_about_an_attempt_that_was_cut_off() -> None:
    told = Told(booked)
    assert launched(told.tell("failed", "booked", "timeout", retryable=True, cut_off=True)) == 1
    assert told.states("booked") == [RUNNING]
    assert told.tell("completed", "booked") == [End("ok", "")]


def test_what_did_not_happen_is_tried_again_as_its_policy_says() -> None:
    """Else a stage that always times out would be asked about, and run, for ever."""
    told = Told(booked)
    told.tell("failed", "booked", "timeout", retryable=True, cut_off=True)
    (wait,) = told.tell("not_happened", "booked")
    assert isinstance(wait, Wait)
    told.scheduler.retry_due(wait.node, wait.token)
    told.tell("failed", "booked", "timeout", retryable=True, cut_off=True)
    assert told.tell("not_happened", "booked")[-1] == End("failed", "timeout")


def test_who_can_t_tell_leaves_it_unknown_and_is_asked_again_when_the_run_goes_on() -> None:
    told = Told(booked)
    told.tell("failed", "booked", "timeout", retryable=True, cut_off=True)
    ended = told.tell("failed", "booked", "error:E", retryable=True)
    assert ended == [End("suspended", "effect_unknown")]
    assert told.states("booked") == [UNKNOWN]
    assert launched(told.reopen()) == 1
    assert launched(told.tell("not_happened", "booked")) == 1
    assert told.tell("completed", "booked") == [End("ok", "")]


def test_an_inquiry_that_dies_with_its_process_is_repeated_within_a_bound() -> None:
    told = Told(booked)
    assert launched(told.tell("abandoned", "booked")) == 1
    for _ in range(ABANDONED_MAX - 1):
        assert launched(told.tell("abandoned", "booked")) == 1
    assert told.tell("abandoned", "booked") == [End("suspended", "effect_unknown")]


def test_a_stage_that_kills_its_process_before_it_acts_is_not_asked_about_for_ever() -> None:
    told = Told(booked)
    for _ in range(ABANDONED_MAX - 1):
        told.tell("abandoned", "booked")
        assert launched(told.tell("not_happened", "booked")) == 1
    told.tell("abandoned", "booked")
    assert told.tell("not_happened", "booked")[-1] == End("failed", "crash_loop")


def test_without_a_journal_an_unknown_effect_fails_the_run() -> None:
    scheduler = Scheduler(Program(Told(sent).plan), writes=False, parks=False)
    scheduler.start()
    node = scheduler.plan.index["sent"]
    ended = scheduler.failed(node, scheduler.token[node], "timeout", cut_off=True)
    assert ended == [End("failed", "effect_unknown")]


def test_a_stage_that_kills_its_process_fails_after_a_bound() -> None:
    told = Told(left)
    for _ in range(ABANDONED_MAX - 1):
        assert launched(told.tell("abandoned", "left")) == 1
    assert told.tell("abandoned", "left")[-1] == End("failed", "crash_loop")


def test_abandoned_attempts_do_not_use_up_the_retries() -> None:
    told = Told(left.named(retry=Retry(attempts=2)))
    told.tell("abandoned", "left")
    (wait,) = told.tell("failed", "left", "error:E", retryable=True)
    assert isinstance(wait, Wait)


def test_a_restated_intent_has_a_token_that_no_record_holds() -> None:
    """
    1. a run of one stage dies after its intent was written
    2. its pipeline has got another stage since, which comes first
    """
    old = Told(left)
    records = [*old.scheduler.records, Record(RecordType.CLAIMED, 3)]
    new = compile_plan(
        "told", [right, left], inputs={"x": str}, outputs=None, deps={}, is_context=lambda _: False
    )
    scheduler = Scheduler(Program(new))
    replay(scheduler, records)
    take_over(scheduler, records)
    scheduler.check()
    intents = [r for r in (*records, *scheduler.records) if r.type is RecordType.INTENT]
    assert len({record.token for record in intents}) == len(intents) == 3


def test_an_outcome_that_could_not_have_happened_is_refused() -> None:
    told = Told(left, right, both)
    early = Record(RecordType.OUTCOME, 4, "both", 1, 1, 3, data={"status": "ok", "accepted": True})
    with pytest.raises(JournalError) as caught:
        replay(Scheduler(Program(told.plan)), [*told.scheduler.records, early])
    assert caught.value.code == "journal.diverged" and "both" in str(caught.value)


def test_first_of_takes_the_first_given_that_has_a_value() -> None:
    told = Told(left, right, first_of(left, right, name="one"))
    told.tell("completed", "right")
    assert told.states("one") == [WAITING]
    told.tell("skipped", "left")
    assert told.states("one") == [RUNNING]
    assert told.scheduler.chosen(told.number("one")) == [told.number("right")]


def test_n_of_takes_the_first_to_arrive_in_the_order_given() -> None:
    third = left.named("third")
    told = Told(left, right, third, n_of(2, left, right, third, name="two"))
    told.tell("completed", "third")
    told.tell("completed", "left")
    assert told.states("two", "right") == [RUNNING, RUNNING]
    chosen = told.scheduler.chosen(told.number("two"))
    assert chosen == [told.number("left"), told.number("third")]


def test_a_join_with_too_few_values_is_skipped_and_says_so() -> None:
    told = Told(left, right, n_of(2, left, right, name="two"))
    told.tell("completed", "left")
    assert told.tell("skipped", "right")[-1] == End("partial", "output_skipped")
    assert told.scheduler.cause[told.number("two")][0] is Cause.TOO_FEW


def test_a_wide_join_costs_linear_time() -> None:
    """5,000 branches; with a look at all of them at each end this took seconds."""
    branches = [left.named(f"b{number}") for number in range(5_000)]
    told = Told(*branches, n_of(5_000, *branches, name="all"))
    scheduler = told.scheduler
    for action in told.actions:
        scheduler.completed(action.node, scheduler.token[action.node])
    assert told.states("all") == [RUNNING]
    assert len(scheduler.chosen(told.number("all"))) == 5_000


@pytest.mark.parametrize("order", [("strict", "way"), ("way", "strict")])
def test_a_block_does_not_pass_through_a_branch_that_was_not_taken(order: tuple[str, str]) -> None:
    @route(branches=("one", "other"))
    def way(x: str) -> Branch:
        return Branch("one")

    told = Told(
        left,
        strict,
        way,
        right.named("main", when=way.branch("one")),
        taker.named("side", when=way.branch("other")),
        both.named("last", left="main", right="main"),
        outputs="last",
    )
    told.tell("completed", "left")
    for one in order:
        told.tell("completed", one, ("block", None) if one == "strict" else ("branch", "one"))
    assert told.states("left", "side", "main") == [BLOCKED, SKIPPED, RUNNING]


@pytest.mark.parametrize("order", [("one", "two"), ("two", "one")])
def test_guards_that_each_want_the_others_value_revised_first_get_one_of_them(
    order: tuple[str, str],
) -> None:
    """
    1. two guards look at the same two values
    2. each wants another one revised, and judges the other value only then
    3. the first of the two values is made again, and both judge anew
    """

    @guard
    def one(left: str, right: str) -> Decision:
        return Allow()

    told = Told(left, right, one, one.named("two"), both)
    told.tell("completed", "left")
    told.tell("completed", "right")
    wants = {"one": "left", "two": "right"}
    for name in order:
        last = told.tell("completed", name, ("revise", told.number(wants[name])))
    assert last == [Launch(told.number("left"))]
    assert told.states("left", "right", "one", "two") == [RUNNING, HELD, WAITING, WAITING]
    assert launched(told.tell("completed", "left")) == 2
    told.tell("completed", "one", ("allow", None))
    told.tell("completed", "two", ("allow", None))
    assert told.states("left", "right", "both") == [OK, OK, RUNNING]
