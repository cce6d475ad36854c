"""How a simulated run ends: its value, its error, what it left behind, and what stopped it."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stageflow.model.errors import SimulationError
from stageflow.sim import Fifo, Pct, Sim, simulate, trial


def test_the_result_says_what_happened() -> None:
    async def main(sim: Sim) -> str:
        await asyncio.sleep(2.5)
        return "done"

    result = simulate(main, seed=7)
    assert (result.value, result.error, result.seed) == ("done", None, 7)
    assert result.virtual_s == 2.5 and result.leftover == () and result.unhandled == ()
    assert result.steps > 0 and len(result.trace_hash) == 32


def test_an_error_is_raised_with_the_line_that_reproduces_it() -> None:
    async def main(sim: Sim) -> None:
        await asyncio.sleep(1)
        raise LookupError("mine")

    with pytest.raises(LookupError) as caught:
        simulate(main, seed=7)
    (note,) = caught.value.__notes__
    assert note.startswith("reproduce: simulate(") and note.endswith("main, seed=7)")
    with pytest.raises(LookupError) as caught:
        simulate(main, seed=7, schedule=Pct(7, depth=2))
    assert "seed=7, schedule=Pct(seed=7, depth=2, steps=10000))" in caught.value.__notes__[0]
    with pytest.raises(LookupError) as caught:
        simulate(main, seed=7, reproduce="lab run CORE-001 --seed {seed}")
    assert caught.value.__notes__ == ["reproduce: lab run CORE-001 --seed 7"]
    assert "reproduce: lab run" in "".join(traceback.format_exception(caught.value))


def test_a_trial_keeps_the_error_instead_of_raising_it() -> None:
    async def main(sim: Sim) -> None:
        await asyncio.sleep(1)
        raise LookupError("mine")

    result = trial(main, seed=7)
    assert isinstance(result.error, LookupError) and result.virtual_s == 1
    with pytest.raises(LookupError):
        _ = result.value


def test_a_deadlock_names_every_task_and_its_place() -> None:
    """
    1. left takes a, right takes b
    2. left waits for b, right waits for a
    3. watcher waits for left; nothing can ever happen again
    """

    async def waits(sim: Sim) -> None:
        await sim.loop.create_future()

    async def deadlock(sim: Sim) -> None:
        a, b = asyncio.Lock(), asyncio.Lock()

        async def take(first: asyncio.Lock, second: asyncio.Lock) -> None:
            async with first:
                await asyncio.sleep(1)
                async with second:
                    pass

        async def watch(task: asyncio.Task[None]) -> None:
            await task

        async with asyncio.TaskGroup() as group:
            left = group.create_task(take(a, b), name="left")
            group.create_task(take(b, a), name="right")
            group.create_task(watch(left), name="watcher")
            group.create_task(waits(sim), name="lost")

    for seed in range(20):
        with pytest.raises(SimulationError) as caught:
            simulate(deadlock, seed=seed)
        text = str(caught.value)
        assert caught.value.code == "sim.stuck" and "5 tasks wait for ever" in text
        assert text.count("awaits Lock.acquire at test_endings.py:") == 2
        assert "task 'watcher'" in text and "awaits task 'left' at test_endings.py:" in text
        assert "task 'lost'" in text and "awaits a future at test_endings.py:" in text
        assert "task 'main'" in text and "TaskGroup.__aexit__" in text
        assert len(text.splitlines()) <= 25


def test_a_large_deadlock_is_still_a_short_message() -> None:
    async def main(sim: Sim) -> None:
        event = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(event.wait())

    with pytest.raises(SimulationError) as caught:
        simulate(main, seed=1)
    assert len(str(caught.value).splitlines()) <= 25 and "and 86 more" in str(caught.value)


def test_a_run_without_end_is_ended() -> None:
    async def spins(sim: Sim) -> None:
        while True:  # noqa: ASYNC110  (the mistake that is caught here)
            await asyncio.sleep(0)

    async def polls(sim: Sim) -> None:
        while True:  # noqa: ASYNC110  (the mistake that is caught here)
            await asyncio.sleep(60)

    async def sleeps(sim: Sim) -> None:
        await asyncio.sleep(1e8)

    for main, limits in (
        (spins, {"steps_max": 1_000}),
        (polls, {"virtual_s_max": 86_400.0}),
        (sleeps, {}),
    ):
        with pytest.raises(SimulationError) as caught:
            simulate(main, seed=1, **limits)
        assert caught.value.code == "sim.endless"
        assert ("steps_max" if main is spins else "virtual_s_max") in str(caught.value)


def test_the_last_step_and_the_last_moment_are_still_allowed() -> None:
    async def main(sim: Sim) -> None:
        await asyncio.sleep(5)

    steps = simulate(main, seed=1).steps
    assert simulate(main, seed=1, steps_max=steps, virtual_s_max=5).steps == steps
    for limits in ({"steps_max": steps - 1}, {"virtual_s_max": 4.999_999_999}):
        with pytest.raises(SimulationError):
            simulate(main, seed=1, **limits)


def test_tasks_left_over_are_cancelled_and_named() -> None:
    cleaned: list[float] = []

    async def work(sim: Sim) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1)
            cleaned.append(sim.now())

    async def main(sim: Sim) -> None:
        task = asyncio.create_task(work(sim), name="forgotten")
        await asyncio.sleep(1)
        assert not task.done()

    for seed in range(20):
        result = simulate(main, seed=seed)
        assert len(result.leftover) == 1 and result.virtual_s == 1
        assert result.leftover[0].startswith("task 'forgotten' (")
        assert "awaits sleep at test_endings.py:" in result.leftover[0]
    assert cleaned == [2.0] * 20


@pytest.mark.parametrize("stubbornly", ["waits", "spins", "sleeps"])
def test_a_task_that_ignores_cancellation_is_named(stubbornly: str) -> None:
    async def stubborn(sim: Sim) -> None:
        while True:
            try:
                if stubbornly == "waits":
                    await sim.loop.create_future()
                await asyncio.sleep(60 if stubbornly == "sleeps" else 0)
            except asyncio.CancelledError:
                continue

    async def main(sim: Sim) -> str:
        keep.append(asyncio.create_task(stubborn(sim), name="stubborn"))
        await asyncio.sleep(0)
        return "done"

    keep: list[Any] = []
    result = simulate(main, seed=1)
    assert result.value == "done"
    assert "'stubborn'" in result.leftover[0]
    assert result.leftover[0].endswith("ignored cancellation")


def test_main_may_ignore_the_cancellation_of_a_stuck_run() -> None:
    async def main(sim: Sim) -> None:
        while True:
            try:
                await sim.loop.create_future()
            except asyncio.CancelledError:
                continue

    with pytest.raises(SimulationError) as caught:
        simulate(main, seed=1)
    assert caught.value.code == "sim.stuck"


def test_a_cancelled_main_raises_cancelled_error() -> None:
    async def main(sim: Sim) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    with pytest.raises(asyncio.CancelledError):
        simulate(main, seed=1)


def test_async_generators_still_open_are_closed_in_order() -> None:
    closed: list[str] = []

    async def items(name: str) -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(1)
            closed.append(name)

    kept = []

    async def main(sim: Sim) -> None:
        for name in "abc":
            generator = items(name)
            kept.append(generator)
            await anext(generator)

    result = simulate(main, seed=1)
    assert closed == ["a", "b", "c"] and result.leftover == () and result.unhandled == ()


def test_errors_nobody_awaits_are_kept_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise LookupError("lost")

    async def main(sim: Sim) -> None:
        keep = asyncio.create_task(fails(), name="unwatched")
        sim.loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)
        del keep

    with caplog.at_level(logging.CRITICAL + 1, logger="asyncio"):
        result = simulate(main, seed=1)
    assert len(result.unhandled) == 2
    assert any("ZeroDivisionError" in line for line in result.unhandled)
    assert any("'unwatched'" in line and "LookupError: lost" in line for line in result.unhandled)


def test_a_handler_for_errors_is_honoured() -> None:
    async def main(sim: Sim) -> list[str]:
        seen: list[str] = []
        sim.loop.set_exception_handler(lambda loop, context: seen.append(context["message"]))
        assert sim.loop.get_exception_handler() is not None
        sim.loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)
        return seen

    result = simulate(main, seed=1)
    assert len(result.value) == 1 and result.unhandled == ()


def test_a_keyboard_interrupt_goes_through() -> None:
    async def main(sim: Sim) -> None:
        asyncio.create_task(asyncio.sleep(10))  # noqa: RUF006
        await asyncio.sleep(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(main, seed=1)


def test_main_must_give_a_coroutine() -> None:
    with pytest.raises(SimulationError) as caught:
        simulate(lambda sim: 5, seed=1)  # type: ignore[arg-type, return-value]
    assert caught.value.code == "sim.main"


def test_the_loop_is_an_event_loop_of_its_own_life() -> None:
    async def main(sim: Sim) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        assert loop.is_running() and not loop.is_closed() and not loop.get_debug()
        with pytest.raises(RuntimeError, match="running"):
            loop.close()
        with pytest.raises(RuntimeError, match="already running"):
            loop.run_until_complete(loop.create_future())
        factory_made: list[str] = []

        def factory(
            owner: asyncio.AbstractEventLoop, coro: Any, context: Any = None
        ) -> asyncio.Task[Any]:
            factory_made.append(coro.__qualname__)
            return asyncio.Task(coro, loop=owner, context=context)

        loop.set_task_factory(factory)
        await asyncio.create_task(asyncio.sleep(1), name="made")
        loop.set_task_factory(None)
        assert factory_made == ["sleep"] and loop.get_task_factory() is None
        await loop.shutdown_default_executor()
        return loop

    for schedule in (None, Fifo()):
        loop = simulate(main, seed=1, schedule=schedule).value
        assert loop.is_closed() and not loop.is_running()
        with pytest.raises(RuntimeError, match="closed"):
            loop.call_soon(int)
        with pytest.raises(RuntimeError, match="closed"):
            loop.call_later(1, int)
