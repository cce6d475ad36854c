"""How attempts end: said, raised, late, retried; and what the run then is."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest

from stageflow import (
    BuildError,
    Context,
    ContractError,
    InputError,
    Limits,
    Pipeline,
    Retry,
    RunError,
    Runtime,
    StageFailed,
    StageOutput,
    classify,
    enrich,
    first_of,
    transform,
)
from stageflow.sim import Sim, simulate


def desk(stage: Any, *more: Any, **options: Any) -> Pipeline[Any]:
    options.setdefault("outputs", stage)
    return Pipeline("desk", [stage, *more], inputs={"x": int}, **options)


async def test_a_stage_may_say_how_it_ends() -> None:
    @transform
    async def says(x: int) -> int | StageOutput:
        return {
            0: StageOutput.ok(7),
            1: StageOutput.skip("not today"),
            2: StageOutput.cancel("enough"),
            3: StageOutput.fail("broken", data={"at": 3}),
            4: StageOutput.retry("again"),
        }[x]

    @transform
    async def after(says: int) -> int:
        return says

    pipeline = desk(says, after, outputs=after)
    runs = [await pipeline.run(x=x) for x in range(5)]
    assert [run.status for run in runs] == ["ok", "partial", "cancelled", "failed", "failed"]
    assert [run.reason for run in runs] == ["", "output_skipped", "by_stage", "failed", "retry"]
    assert runs[0].output == 7
    assert runs[1].nodes["says"].reason == "not today"
    assert runs[2].nodes["says"].reason == "enough"
    assert runs[3].failure is not None and runs[3].failure.data == {"at": 3}
    assert runs[4].failure is not None and runs[4].failure.message == "again"
    for run in runs[1:]:
        with pytest.raises((RunError, StageFailed)):
            _ = run.output


async def test_a_raised_failure_is_like_a_returned_one_and_keeps_its_cause() -> None:
    @transform
    async def breaks(x: int) -> int:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer") from inner

    run = await desk(breaks).run(x=1)
    assert (run.status, run.reason) == ("failed", "error:ValueError")
    assert run.failure is not None
    assert "caused by KeyError" in run.failure.traceback and "breaks" in run.failure.traceback
    with pytest.raises(StageFailed) as caught:
        _ = run.output
    assert isinstance(caught.value.original, ValueError)
    assert isinstance(caught.value.original.__cause__, KeyError)


@pytest.mark.parametrize(
    "error", [SystemExit(3), GeneratorExit(), StopIteration(), StopAsyncIteration(), MemoryError()]
)
@pytest.mark.parametrize("waits", [False, True])
async def test_whatever_a_stage_raises_is_its_failure(error: BaseException, waits: bool) -> None:
    @transform
    async def breaks(x: int) -> int:
        if waits:
            await asyncio.sleep(0)
        raise error

    run = await desk(breaks).run(x=1)
    assert run.status == "failed" and run.failure is not None


async def test_a_stage_that_cancels_itself_fails() -> None:
    @transform
    async def gives_up(x: int) -> int:
        raise asyncio.CancelledError("mine")

    run = await desk(gives_up).run(x=1)
    assert (run.status, run.reason) == ("failed", "stage.cancelled_itself")


async def test_a_value_of_another_type_is_refused_at_its_producer() -> None:
    @transform
    async def counts(x: int) -> int:
        return "many"  # type: ignore[return-value]

    run = await desk(counts).run(x=1)
    assert (run.status, run.reason) == ("failed", "contract.violated")
    assert run.failure is not None and run.failure.node == "counts"


async def test_inputs_are_checked_before_anything_starts() -> None:
    @transform
    async def counts(x: int) -> int:
        return x

    pipeline = desk(counts)
    with pytest.raises(InputError) as caught:
        await pipeline.run(xx=1)
    assert (caught.value.code, caught.value.fix) == ("run.unknown_input", "did you mean 'x'?")
    with pytest.raises(InputError) as caught:
        await pipeline.run()
    assert caught.value.code == "run.missing_input"
    with pytest.raises(ContractError) as refused:
        await pipeline.run(x="one")
    assert (refused.value.code, refused.value.field) == ("contract.violated", "x")


async def test_a_stage_that_waits_too_long_times_out() -> None:
    ended: list[str] = []

    @enrich(timeout=0.003)
    async def slow(x: int) -> int:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return x

    run = await desk(slow).run(x=1)
    assert (run.status, run.reason, ended) == ("failed", "timeout", ["cancelled"])
    assert run.failure is not None and "0.003 s" in run.failure.message


async def test_a_stage_that_returns_late_without_waiting_has_timed_out() -> None:
    @transform(timeout=0.002)
    async def busy(x: int) -> int:
        time.sleep(0.004)  # noqa: ASYNC251  (a stage that computes)
        return x

    run = await desk(busy).run(x=1)
    assert (run.status, run.reason) == ("failed", "timeout") and busy not in run


async def test_a_late_value_in_place_of_a_cancellation_is_not_taken() -> None:
    @enrich(timeout=0.002)
    async def stubborn(x: int) -> int:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            return 7
        return x

    run = await desk(stubborn).run(x=1)
    assert (run.status, run.reason) == ("failed", "timeout") and stubborn not in run


async def test_no_timeout_means_none() -> None:
    @enrich(timeout=math.inf)
    async def patient(x: int) -> int:
        await asyncio.sleep(0.001)
        return x

    assert (await desk(patient).run(x=1)).output == 1


async def test_a_failure_stops_the_rest_and_keeps_what_is_done() -> None:
    stopped: list[str] = []

    @transform
    async def done(x: int) -> int:
        return x

    @enrich
    async def breaks(done: int) -> int:
        await asyncio.sleep(0.001)
        raise ValueError

    @enrich
    async def long(done: int) -> int:
        try:
            await asyncio.sleep(10)
        finally:
            stopped.append("long")
        return 1

    run = await Pipeline("p", [done, breaks, long], inputs={"x": int}).run(x=1)
    states = {name: node.state for name, node in run.nodes.items()}
    assert states == {"done": "ok", "breaks": "failed", "long": "cancelled"}
    assert run[done] == 1 and stopped == ["long"]


async def test_an_isolated_failure_leaves_the_rest_running() -> None:
    @transform(on_failure="isolate")
    async def breaks(x: int) -> int:
        raise ValueError

    @transform
    async def behind(breaks: int) -> int:
        return breaks

    @transform
    async def plain(x: int) -> int:
        return x

    chosen = first_of(behind, plain, name="chosen")
    run = await desk(chosen, breaks, behind, plain, outputs=[chosen]).run(x=4)
    assert (run.status, run.reason) == ("partial", "error:ValueError")
    assert run.output == {"chosen": 4}
    node = run.nodes["behind"]
    assert (node.state, node.cause, node.blame) == ("skipped", "parent_failed", "breaks")


def failing(times: int, error: Exception, **retry: Any) -> tuple[Any, list[float]]:
    made: list[float] = []

    @enrich(retry=Retry(**retry))
    async def flaky(x: int) -> int:
        made.append(asyncio.get_running_loop().time())
        if len(made) <= times:
            raise error
        return x

    return flaky, made


def waits(made: list[float]) -> list[float]:
    return [round(after - before, 3) for before, after in itertools.pairwise(made)]


def simulated(pipeline: Pipeline[Any]) -> Any:
    async def main(sim: Sim) -> Any:
        async with Runtime(clock=sim.clock) as runtime:
            return await pipeline.using(runtime=runtime).run(x=1)

    return simulate(main, seed=1).value


def test_retries_wait_longer_each_time_and_end() -> None:
    stage, made = failing(3, OSError(), attempts=4, base_s=1.0, jitter="none")
    run = simulated(desk(stage))
    assert run.status == "ok" and waits(made) == [1.0, 2.0, 4.0]
    assert run.nodes["flaky"].attempts == 4
    stage, made = failing(
        9, OSError(), attempts=3, base_s=1.0, factor=9.0, max_s=2.0, jitter="none"
    )
    run = simulated(desk(stage))
    assert run.status == "failed" and waits(made) == [1.0, 2.0]


def test_only_the_named_exceptions_are_worth_another_attempt() -> None:
    stage, made = failing(1, ValueError(), attempts=3, on=(LookupError,))
    assert simulated(desk(stage)).status == "failed" and len(made) == 1
    stage, made = failing(1, KeyError(), attempts=3, on=(LookupError,))
    assert simulated(desk(stage)).status == "ok" and len(made) == 2


def test_a_broken_contract_is_not_tried_again() -> None:
    made: list[int] = []

    @transform(retry=Retry(attempts=3))
    async def counts(x: int) -> int:
        made.append(x)
        return "many"  # type: ignore[return-value]

    assert simulated(desk(counts)).reason == "contract.violated" and made == [1]


def test_a_timeout_and_a_wish_are_tried_again() -> None:
    made: list[int] = []

    @enrich(timeout=1.0, retry=Retry(attempts=3, base_s=0.5, jitter="none"))
    async def slow(x: int) -> int | StageOutput:
        made.append(x)
        if len(made) == 1:
            await asyncio.sleep(10)
        if len(made) == 2:
            return StageOutput.retry("busy", after_s=7.0)
        return x

    run = simulated(desk(slow))
    assert run.status == "ok" and len(made) == 3


class TooMany(Exception):
    def __init__(self, value: Any, *, header: bool = True) -> None:
        if header:
            self.response = type("R", (), {"headers": {"retry-after": value}})()
        else:
            self.retry_after = value


def test_retry_after_is_waited_for() -> None:
    stage, made = failing(1, TooMany("9"), attempts=2, base_s=0.1, jitter="none")
    assert simulated(desk(stage)).status == "ok" and waits(made) == [9.0]
    stage, made = failing(1, TooMany(9000, header=False), attempts=2, retry_after_max_s=20.0)
    assert simulated(desk(stage)).status == "ok" and waits(made) == [20.0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("3", 3.0),
        (b"3", 3.0),
        (2.5, 2.5),
        ("-1", 0.0),
        (format_datetime(datetime.fromtimestamp(1_000_060, UTC), usegmt=True), 60.0),
        (format_datetime(datetime.fromtimestamp(999_000, UTC), usegmt=True), 0.0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        (True, None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(given: Any, expected: float | None) -> None:
    for header in (True, False):
        found = classify(TooMany(given, header=header), now_s=1_000_000.0)
        assert found.retry_after_s == expected
    assert classify(ValueError(), now_s=0.0).retry_after_s is None


def test_a_deadline_ends_the_run_wherever_it_is() -> None:
    seen: list[float] = []

    @enrich
    async def slow(x: int, ctx: Context) -> int:
        seen.append(ctx.deadline_s - asyncio.get_running_loop().time())
        await asyncio.sleep(100)
        return x

    async def main(sim: Sim) -> Any:
        begun = sim.now()
        run = await desk(slow).using(deadline=5.0).run(x=1)
        return run.status, run.reason, sim.now() - begun

    assert simulate(main, seed=1).value == ("failed", "timeout", 5.0)
    assert seen == [5.0]


def test_no_wait_is_begun_that_a_deadline_would_end() -> None:
    stage, made = failing(9, OSError(), attempts=9, base_s=10.0, jitter="none")

    async def main(sim: Sim) -> Any:
        begun = sim.now()
        run = await desk(stage).using(deadline=15.0).run(x=1)
        return run.reason, run.failures["flaky"].final, sim.now() - begun

    assert simulate(main, seed=1).value == ("error:OSError", "deadline", 10.0)
    assert len(made) == 2


async def test_options_are_checked() -> None:
    @transform
    async def same(x: int) -> int:
        return x

    with pytest.raises(BuildError):
        desk(same).using(deadline=0)
    assert Limits().depth > 0


async def test_what_a_stage_said_about_its_failure_is_its_own_no_more() -> None:
    said: dict[str, list[int]] = {"at": [3]}

    @transform
    async def fails() -> int | StageOutput:
        return StageOutput.fail("broken", data=said)

    @transform
    async def holds() -> int | StageOutput:
        return StageOutput.fail("broken", data={"lock": threading.Lock()})

    run = await Pipeline("p", [fails]).run()
    said["at"].append(4)
    assert run.failure is not None and run.failure.data == {"at": [3]}
    other = await Pipeline("p", [holds]).run()
    assert other.failure is not None and other.failure.data == "<dict>"
