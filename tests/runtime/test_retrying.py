"""Which failures are tried again: by what they mean, whose they are, and what is left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stageflow import (
    BuildError,
    CircuitBreaker,
    Context,
    Dependency,
    Pipeline,
    Retry,
    RetryBudget,
    Runtime,
    StageFailed,
    agent,
    enrich,
    work,
)
from stageflow.runtime.dependencies import BreakerState, BudgetState, Dependencies
from stageflow.sim import Sim, simulate

QUICK = Retry(attempts=3, base_s=0.01)


class Answered(Exception):
    def __init__(self, status: int) -> None:
        super().__init__("failed")
        self.status_code = status


def once(stage: Any, *, deadline: float | None = None, **options: Any) -> Any:
    """One simulated run of one stage."""

    async def main(sim: Sim) -> Any:
        async with Runtime(clock=sim.clock, **options) as runtime:
            pipeline = Pipeline("desk", [stage], inputs={"x": int}, outputs=stage)
            return await pipeline.using(runtime=runtime, deadline=deadline).run(x=1)

    return simulate(main, seed=1).value


def raising(error: Exception, retry: Retry = QUICK, *, of: Any = enrich, **options: Any) -> Any:
    """A stage that always raises `error`."""

    async def calls(x: int) -> int:
        raise error

    return of(calls, name="calls", retry=retry, **options)


@pytest.mark.parametrize(
    ("error", "attempts", "final"),
    [
        (Answered(503), 3, ""),
        (Answered(429), 3, ""),
        (Answered(401), 1, "permanent"),
        (ValueError("x"), 1, "permanent"),
        (TimeoutError(), 3, ""),
        (RuntimeError("boom"), 3, ""),
    ],
)
def test_a_read_is_tried_again_unless_the_error_is_permanent(
    error: Exception, attempts: int, final: str
) -> None:
    run = once(raising(error))
    assert run.nodes["calls"].attempts == attempts
    assert run.failures["calls"].final == final


def test_a_named_type_is_tried_again_and_a_status_outweighs_it() -> None:
    named = Retry(attempts=3, base_s=0.01, on=(ValueError, Answered))
    assert once(raising(ValueError("x"), named)).nodes["calls"].attempts == 3
    assert once(raising(Answered(401), named)).nodes["calls"].attempts == 1
    every = Retry(attempts=3, base_s=0.01, on=(Exception,))
    assert once(raising(ValueError("x"), every)).nodes["calls"].attempts == 1


@pytest.mark.parametrize(
    ("error", "state", "attempts"),
    [
        (TimeoutError(), "unknown", 1),
        (ConnectionResetError("x"), "unknown", 1),
        (ConnectionRefusedError("x"), "failed", 3),
        (Answered(503), "failed", 3),
        (RuntimeError("boom"), "failed", 1),
    ],
)
def test_an_effect_without_a_key_is_repeated_only_when_it_surely_did_not_happen(
    error: Exception, state: str, attempts: int
) -> None:
    run = once(raising(error, of=work))
    assert (run.nodes["calls"].state, run.nodes["calls"].attempts) == (state, attempts)
    keyed = once(raising(error, of=work, keyed=True))
    assert keyed.nodes["calls"].attempts == 3


async def nested(inner_retry: Retry | None, *, wraps: bool) -> tuple[int, str]:
    """Attempts of the innermost of three pipelines, and why there was no further one."""
    made = 0

    @enrich(retry=inner_retry)
    async def call(x: int) -> int:
        nonlocal made
        made += 1
        raise ConnectionRefusedError("away")

    inner = Pipeline("inner", [call], inputs={"x": int}, outputs=call)

    @agent(retry=QUICK)
    async def asks(x: int, ctx: Context) -> int:
        try:
            return await ctx.run(inner, key=f"inner{ctx.attempt}", x=x)
        except StageFailed as failed:
            if not wraps:
                raise
            raise ConnectionError("below") from failed

    middle = Pipeline("middle", [asks], inputs={"x": int}, outputs=asks)

    @agent(retry=QUICK)
    async def serves(x: int, ctx: Context) -> int:
        try:
            return await ctx.run(middle, key=f"middle{ctx.attempt}", x=x)
        except StageFailed as failed:
            raise ConnectionError("below") from failed

    run = await Pipeline("outer", [serves], inputs={"x": int}, outputs=serves).run(x=1)
    return made, run.failures["serves"].final


@pytest.mark.parametrize("wraps", [False, True])
async def test_attempts_of_nested_layers_do_not_multiply(wraps: bool) -> None:
    assert await nested(QUICK, wraps=wraps) == (3, "nested")


async def test_the_layer_above_tries_again_when_the_one_below_does_not() -> None:
    made, final = await nested(None, wraps=True)
    assert (made, final) == (3, "nested")


def test_no_attempt_is_planned_that_could_not_end_before_the_deadline() -> None:
    patient = Retry(attempts=9, base_s=1.0, factor=1.0, jitter="none", least_s=0.7)
    run = once(raising(ConnectionRefusedError("x"), patient), deadline=2.5)
    assert run.nodes["calls"].attempts == 2, "a third would begin at 2.0 and need until 2.7"
    assert run.failures["calls"].final == "deadline"


def many(count: int, stage: Any, **options: Any) -> tuple[list[Any], float]:
    """Runs side by side in one runtime; and when the last ended."""

    async def main(sim: Sim) -> tuple[list[Any], float]:
        async with Runtime(clock=sim.clock, **options) as runtime:
            pipeline = Pipeline("desk", [stage], inputs={"x": int}, outputs=stage)
            here = pipeline.using(runtime=runtime)
            runs = await asyncio.gather(*(here.run(x=number) for number in range(count)))
            return runs, sim.now()

    return simulate(main, seed=3).value


def test_all_runs_together_stay_within_the_budget_of_their_dependency() -> None:
    stage = raising(
        ConnectionRefusedError("x"), Retry(attempts=5, base_s=0.01, dependency="service")
    )
    budget = RetryBudget(ratio=0.1, window_s=10.0, reserve=0)
    runs, _ = many(200, stage, dependencies={"service": Dependency(budget=budget)})
    attempts = sum(run.nodes["calls"].attempts for run in runs)
    assert 200 < attempts <= 220
    assert {run.failures["calls"].final for run in runs} == {"budget"}
    free, _ = many(200, stage, dependencies={"service": Dependency(budget=None)})
    assert sum(run.nodes["calls"].attempts for run in free) == 1_000


def test_runs_that_fail_together_do_not_come_back_together() -> None:
    seen: list[float] = []

    @enrich(retry=Retry(attempts=2, base_s=10.0))
    async def calls(x: int, ctx: Context) -> int:
        if ctx.attempt == 1:
            raise ConnectionRefusedError("x")
        seen.append(asyncio.get_running_loop().time())
        return x

    many(50, calls)
    assert len(set(seen)) == 50 and max(seen) - min(seen) > 5.0


def test_children_of_one_stage_wait_differently_and_a_seed_repeats_all_waits() -> None:
    seen: list[float] = []

    @enrich(retry=Retry(attempts=2, base_s=10.0))
    async def calls(x: int, ctx: Context) -> int:
        if ctx.attempt == 1:
            raise ConnectionRefusedError("x")
        seen.append(asyncio.get_running_loop().time())
        return x

    inner = Pipeline("inner", [calls], inputs={"x": int}, outputs=calls)

    @agent
    async def maps(ctx: Context) -> list[int]:
        return await ctx.map(inner, [{"x": number} for number in range(20)])

    async def main(sim: Sim) -> list[float]:
        seen.clear()
        await Pipeline("outer", [maps], outputs=maps).using(seed=5).run()
        return sorted(seen)

    first = simulate(main, seed=1).value
    assert len(set(first)) == 20
    assert simulate(main, seed=2).value == first


def test_an_open_circuit_fails_and_closes_again_after_a_probe() -> None:
    away = [True]
    made: list[int] = []

    @enrich(retry=Retry(attempts=1, dependency="service"))
    async def calls(x: int) -> int:
        made.append(x)
        if away[0]:
            raise ConnectionRefusedError("x")
        return x

    breaker = CircuitBreaker(calls_min=3, open_s=5.0, window_s=10.0)

    async def main(sim: Sim) -> list[str]:
        pipeline = Pipeline("desk", [calls], inputs={"x": int}, outputs=calls)
        dependencies = {"service": Dependency(breaker=breaker)}
        async with Runtime(clock=sim.clock, dependencies=dependencies) as runtime:
            here = pipeline.using(runtime=runtime)
            reasons = [(await here.run(x=n)).reason for n in range(5)]
            await asyncio.sleep(6.0)
            reasons.append((await here.run(x=5)).reason)  # a probe, in vain
            reasons.append((await here.run(x=6)).reason)
            away[0] = False
            await asyncio.sleep(6.0)
            reasons += [(await here.run(x=n)).status for n in (7, 8)]
            return reasons

    gone, opened = "error:ConnectionRefusedError", "circuit.open"
    assert simulate(main, seed=1).value == [
        *(gone, gone, gone, opened, opened),
        *(gone, opened, "ok", "ok"),
    ]
    assert made == [0, 1, 2, 5, 7, 8]


def test_permanent_errors_do_not_open_a_circuit() -> None:
    stage = raising(Answered(404), Retry(attempts=1, dependency="service"))
    breaker = CircuitBreaker(calls_min=3)
    runs, _ = many(20, stage, dependencies={"service": Dependency(breaker=breaker)})
    assert {run.reason for run in runs} == {"error:Answered"}


def test_a_cancelled_probe_does_not_keep_the_circuit_open_for_ever() -> None:
    state = BreakerState(CircuitBreaker(calls_min=1, open_s=1.0, probes=1))
    state.ended(0.0, failed=True)
    assert not state.admits(0.5)
    assert state.admits(1.5) and not state.admits(1.5)
    state.ended(1.6, failed=True, counts=False)
    assert state.admits(1.7)
    assert not state.admits(2.6) and state.admits(2.7), "nor one whose end nobody told"


def test_a_budget_keeps_its_ratio_in_every_window_and_its_reserve() -> None:
    state = BudgetState(RetryBudget(ratio=0.5, window_s=10.0, reserve=0))
    for _ in range(4):
        state.asked(0.0)
    assert [state.take(0.1) for _ in range(3)] == [True, True, False]
    assert not state.take(5.0), "what was earned in one moment is not saved for another"
    for _ in range(2):
        state.asked(20.0)
    assert [state.take(20.1) for _ in range(2)] == [True, False]
    small = BudgetState(RetryBudget(ratio=0.0, window_s=10.0, reserve=2))
    assert [small.take(0.0) for _ in range(3)] == [True, True, False]
    assert small.take(11.0) and small.refused == 1


def test_bounds_out_of_range_are_build_errors() -> None:
    makers: list[Any] = [
        lambda: RetryBudget(ratio=-1),
        lambda: RetryBudget(window_s=0),
        lambda: CircuitBreaker(failure_ratio=0),
        lambda: CircuitBreaker(probes=0),
        lambda: Dependencies({"x": 3}),  # type: ignore[dict-item]
    ]
    for make in makers:
        with pytest.raises(BuildError) as caught:
            make()
        assert caught.value.code == "policy.dependency"


def test_decorrelated_waits_grow_from_the_wait_before_and_stay_in_bounds() -> None:
    retry = Retry(attempts=50, base_s=1.0, max_s=20.0, jitter="decorrelated")
    for seed in range(50):
        before = 1.0
        for attempt in range(1, 12):
            wait = retry.wait_s(attempt=attempt, seed=seed, node="n", after_s=None)
            assert 1.0 <= wait <= min(20.0, max(1.0, 3 * before)) + 1e-9
            before = wait
