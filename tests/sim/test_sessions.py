"""Turns of sessions under every schedule: never two at once, never out of order, never lost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from stageflow import Context, Pipeline, Runtime, Window, enrich
from stageflow.sim import Sim, SimJournal, simulate
from stageflow.testing import crash_at_every_record
from tests.sim.killable import Killable

SEEDS = range(150)


@dataclass
class Seen:
    """What the stages of one simulation met."""

    active: str = ""
    order: list[str] = field(default_factory=list)
    views: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    """Text of each turn to what its attempts saw."""


def chat(seen: Seen, *, pause_s: float = 0.01) -> Pipeline[str]:
    @enrich
    async def answer(text: str, ctx: Context) -> str:
        assert not seen.active, f"{text} runs beside {seen.active}"
        assert ctx.session is not None
        seen.active = text
        try:
            earlier = tuple(turn.inputs["text"] for turn in ctx.session)
            seen.views.setdefault(text, []).append(earlier)
            await asyncio.sleep(pause_s)
            seen.order.append(text)
            return text
        finally:
            seen.active = ""

    return Pipeline("chat", [answer], inputs={"text": str}, outputs=answer)


async def shared(sim: Sim) -> tuple[str, ...]:
    """Two processes start turns of one session at their own pace, some of them together."""
    seen = Seen()
    pipeline = chat(seen)
    journal = SimJournal(sim)

    async def process(name: str) -> list[str]:
        handles = []
        async with Runtime(journal=journal.as_owner(name), clock=sim.clock) as runtime:
            bound = pipeline.using(runtime=runtime, session="s", window=Window(turns=50))
            for number in range(5):
                handles.append(bound.start(text=f"{name}{number}"))
                await asyncio.sleep(sim.rng.choice((0, 0.005, 0.05)))
            assert [(await handle).status for handle in handles] == ["ok"] * 5
        return [f"{name}{number}" for number in range(5)]

    mine, theirs = await asyncio.gather(process("a"), process("b"))
    for text, views in seen.views.items():
        assert views == [tuple(seen.order[: seen.order.index(text)])]
    assert [text for text in seen.order if text in mine] == mine
    assert [text for text in seen.order if text in theirs] == theirs
    return tuple(seen.order)


def test_turns_of_two_processes_run_one_after_another() -> None:
    results = [simulate(shared, seed=seed) for seed in SEEDS]
    assert all(result.leftover == () and result.unhandled == () for result in results)
    assert len({result.value for result in results}) > 10, "the order is that of arrival"


async def killed(sim: Sim) -> int:
    """
    1. two processes have turns of one session; one is killed at some moment
    2. the other's turns go on without those of the dead
    3. it resumes them: each sees what it saw at first, if it had begun
    """
    seen = Seen()
    pipeline = chat(seen)
    journal = SimJournal(sim)
    dying = Killable(journal.as_owner("a"))
    doomed = Runtime(journal=dying, clock=sim.clock)
    bound = pipeline.using(runtime=doomed, session="s")
    handles = [bound.start(text=f"a{number}") for number in range(4)]
    async with Runtime(journal=journal.as_owner("b"), clock=sim.clock) as runtime:
        here = pipeline.using(runtime=runtime, session="s")
        await asyncio.sleep(0.001)
        ours = [here.start(text=f"b{number}") for number in range(3)]
        await asyncio.sleep(sim.rng.random() * 0.06)
        dying.dead = True
        journal.kill("a")
        if seen.active.startswith("a"):
            seen.active = ""
        assert [(await handle).status for handle in ours] == ["ok"] * 3
        left = [one.header.run for one in await runtime.runs() if one.status == "running"]
        assert {one.live for one in await runtime.runs() if one.header.run in left} <= {False}
        for run in sorted(left):
            assert (await runtime.resume(run, pipeline=pipeline)).status == "ok"
        for views in seen.views.values():
            assert len(set(views)) == 1, f"a resumed turn saw {views}"
        after = await here.run(text="last")
        assert after.status == "ok"
        known = [one.header.run for one in await runtime.runs() if one.status == "ok"]
        assert len(known) == len(await runtime.session("s", pipeline=pipeline))
        numbers = [turn.number for turn in await runtime.session("s", pipeline=pipeline)]
        assert numbers == sorted(set(numbers), reverse=True)
    del handles
    return len(left)


def test_a_killed_process_holds_no_session_up() -> None:
    found = [simulate(killed, seed=seed).value for seed in SEEDS]
    assert min(found) == 0 or len(set(found)) >= 3, "the kill falls at many moments"


async def cut_at(sim: Sim, *, step: int) -> bool:
    """The second of four turns is cancelled after `step` steps, wherever it is then."""
    seen = Seen()
    pipeline = chat(seen)
    async with Runtime(journal=SimJournal(sim), clock=sim.clock) as runtime:
        bound = pipeline.using(runtime=runtime, session="s")
        first = bound.start(text="1")
        second = asyncio.ensure_future(bound.run(text="2"))
        third = bound.start(text="3")
        fourth = asyncio.ensure_future(bound.run(text="4"))
        sim.at_step(step, second.cancel)
        outcomes = await asyncio.gather(first, second, third, fourth, return_exceptions=True)
        assert all(outcomes[place].status == "ok" for place in (0, 2, 3)), outcomes  # type: ignore[union-attr]
        assert {one.status for one in await runtime.runs()} <= {"ok", "cancelled"}
        before = list(seen.order)
        after = await bound.run(text="5")
        assert after.snapshot.session is not None
        found = [turn.inputs["text"] for turn in after.snapshot.session]
        cut = isinstance(outcomes[1], asyncio.CancelledError)
        # One that was cancelled when its end was on its way to the disk has ended all the same.
        assert found in (before, [text for text in before if text != "2"])
        assert cut or found == before
        assert not runtime.active
    return cut


def test_a_turn_is_cancelled_at_any_step() -> None:
    cut = []
    for step in range(0, 400, 3):

        async def main(sim: Sim, step: int = step) -> bool:
            return await cut_at(sim, step=step)

        result = simulate(main, seed=step)
        assert result.leftover == () and result.unhandled == ()
        cut.append(result.value)
    assert any(cut)


@pytest.mark.parametrize("seed", range(5))
def test_a_turn_is_resumed_after_a_crash_at_each_of_its_records(seed: int) -> None:
    seen = Seen()

    def anew() -> None:
        seen.active = ""

    crashes = crash_at_every_record(
        chat(seen).using(session="s"), {"text": "a"}, seed=seed, before_each=anew
    )
    assert len(crashes) >= 4
    for crash in crashes:
        assert (crash.run.status, crash.run.output) == ("ok", "a")
        assert crash.run.snapshot.session is not None and len(crash.run.snapshot.session) == 0


def test_equal_seeds_give_equal_runs() -> None:
    for main in (shared, killed):
        hashes: list[Any] = [simulate(main, seed=3).trace_hash for _ in range(2)]
        assert hashes[0] == hashes[1]
