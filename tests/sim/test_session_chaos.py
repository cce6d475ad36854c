"""One session under everything at once: three processes, failures, questions, cancels, deadlines,
repeated requests, a kill. Whatever happens, turns never overlap, and each keeps what it saw."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from stageflow import Context, Pipeline, RunError, Runtime, approval, transform
from stageflow.sim import Sim, SimJournal, simulate
from tests.sim.killable import Killable

SEEDS = range(60)
PROCESSES = "abc"
TURNS = 4


@dataclass
class World:
    """One simulation: what its stages met, and its processes."""

    sim: Sim
    active: list[str] = field(default_factory=list)
    beside: list[tuple[str, str]] = field(default_factory=list)
    """Turns whose stages ran beside another one's."""
    views: dict[str, set[tuple[str, ...]]] = field(default_factory=dict)
    """Text of each turn to the runs that its attempts saw before it."""
    runtimes: dict[str, Runtime] = field(default_factory=dict)

    def pause(self, up_to_s: float) -> Any:
        return asyncio.sleep(self.sim.rng.random() * up_to_s)


def pipelines(world: World) -> dict[str, Pipeline[Any]]:
    @transform
    async def draft(text: str, ctx: Context) -> str:
        assert ctx.session is not None
        world.beside += [(text, other) for other in world.active]
        world.active.append(text)
        try:
            is_first = text not in world.views
            seen = tuple(turn.run for turn in ctx.session)
            world.views.setdefault(text, set()).add(seen)
            await world.pause(0.02)
            if "fails" in text and is_first:
                raise ValueError
            return text
        finally:
            if text in world.active:
                world.active.remove(text)

    signed = approval("signed", bool, of=draft)
    chat = Pipeline("chat", [draft], inputs={"text": str}, outputs=draft)
    asks = Pipeline("asks", [draft, signed], inputs={"text": str}, outputs=[draft, signed])
    return {"chat": chat, "asks": asks}


async def one_turn(world: World, name: str, number: int) -> None:
    """A turn of a kind by chance, and what its caller does about it."""
    rng, runtime = world.sim.rng, world.runtimes[name]
    kind = rng.choice(("", "", "", "fails", "asks", "cancelled", "late"))
    text = f"{name}{number}{kind}"
    pipeline = pipelines(world)["asks" if kind == "asks" else "chat"]
    bound = pipeline.using(runtime=runtime, session="s")
    if kind == "late":
        bound = bound.using(deadline=0.03)
    if rng.random() < 0.3:
        bound = bound.using(request_key=text)
    handle = bound.start(text=text)
    if kind == "cancelled":
        await world.pause(0.05)
        handle.cancel()
    try:
        run = await handle
    except RunError as error:
        assert error.code == "session.suspended"
        return
    if run.status == "suspended":
        await world.pause(0.05)
        if rng.random() < 0.6:
            answered = await runtime.signal(run.id, "signed", True, by="x", pipeline=pipeline)
            assert (await answered).status == "ok"
        else:
            ended = await runtime.cancel(run.id, pipeline=pipeline)
            assert ended.status == "cancelled"


async def taken_up(world: World, runtime: Runtime) -> None:
    """Everything that has not ended well is answered or resumed."""
    known = pipelines(world)
    for one in await runtime.runs():
        pipeline = known[one.header.pipeline]
        try:
            if one.status == "suspended":
                run = one.header.run
                await (await runtime.signal(run, "signed", True, by="y", pipeline=pipeline))
            elif one.status in ("running", "failed"):
                await runtime.resume(one.header.run, pipeline=pipeline)
        except RunError as error:
            assert error.code == "session.suspended"


async def chaos(sim: Sim) -> int:
    world = World(sim)
    journal = SimJournal(sim)
    journals = {name: Killable(journal.as_owner(name)) for name in PROCESSES}
    for name in PROCESSES:
        world.runtimes[name] = Runtime(journal=journals[name], clock=sim.clock)
    tasks: dict[str, list[asyncio.Task[None]]] = {name: [] for name in PROCESSES}
    for number in range(TURNS):
        for name in PROCESSES:
            tasks[name].append(asyncio.create_task(one_turn(world, name, number)))
            if sim.rng.random() < 0.5:
                await world.pause(0.03)
    victim = sim.rng.choice(PROCESSES)
    await world.pause(0.2)
    journals[victim].dead = True
    journal.kill(victim)
    world.active = [text for text in world.active if not text.startswith(victim)]
    survivors = [name for name in PROCESSES if name != victim]
    for name in survivors:
        for task in tasks[name]:
            await task
    runtime = world.runtimes[survivors[0]]
    for _ in range(3):  # a resumed turn may itself ask or fail
        await taken_up(world, runtime)
    assert not world.beside
    assert {len(seen) for seen in world.views.values()} <= {1}, "every attempt of a turn saw alike"
    ended = {one.header.run for one in await runtime.runs() if one.status == "ok"}
    now = await journal.turns("default", "s")
    assert now.line == () and {turn.run for turn in now.ended} == ended
    return len(ended)


def test_a_session_stays_in_order_whatever_happens() -> None:
    ended = [simulate(chaos, seed=seed, virtual_s_max=3600).value for seed in SEEDS]
    assert max(ended) >= 9 and len(set(ended)) > 4
