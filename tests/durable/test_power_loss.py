"""Power is lost at every step of a simulated run; what the disk kept is enough to go on."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from stageflow import (
    Allow,
    Branch,
    Decision,
    Pipeline,
    Redact,
    Retry,
    Runtime,
    enrich,
    first_of,
    guard,
    route,
    transform,
    work,
)
from stageflow.model.record import RecordType
from stageflow.sim import Sim, SimJournal, simulate


def desk(ran: Counter[str]) -> Pipeline[Any]:
    @transform
    async def clean(text: str) -> str:
        ran["clean"] += 1
        await asyncio.sleep(0.001)
        return text.upper()

    @guard
    async def redacts(clean: str) -> Decision:
        ran["redacts"] += 1
        return Redact(clean.replace("B", "*"))

    @guard
    async def watches(clean: str) -> Decision:
        await asyncio.sleep(0.001)
        return Allow()

    @enrich(retry=Retry(attempts=2, base_s=0.002, jitter="none"))
    async def notes(clean: str) -> int:
        ran["notes"] += 1
        if ran["notes"] == 1:
            raise ConnectionError
        return len(clean)

    @route(branches=("one", "two"))
    async def way(clean: str) -> Branch:
        return Branch("two")

    @transform(when=way.branch("one"))
    async def one(clean: str) -> str:
        return clean

    @transform(when=way.branch("two"))
    async def two(clean: str) -> str:
        ran["two"] += 1
        await asyncio.sleep(0.001)
        return clean * 2

    chosen = first_of(one, two, name="chosen")

    @work
    async def sent(chosen: str, notes: int) -> str:
        ran["sent"] += 1
        await asyncio.sleep(0.001)
        return f"{chosen}{notes}"

    return Pipeline(
        "desk",
        [clean, redacts, watches, notes, way, one, two, chosen, sent],
        inputs={"text": str},
        outputs=sent,
    )


async def lives(sim: Sim) -> int:
    async with Runtime(journal=SimJournal(sim), clock=sim.clock) as runtime:
        run = await desk(Counter()).using(runtime=runtime, run_id="r").run(text="ab")
        assert (run.status, run.output) == ("ok", "A*A*2")
    return 0


def loses_power(step: int) -> Any:
    async def main(sim: Sim) -> str:
        """
        1. a run works until the machine loses power after `step` steps
        2. another process takes up what the disk kept
        3. an effect that was under way runs again only when it is allowed to
        """
        journal = SimJournal(sim)
        ran: Counter[str] = Counter()
        pipeline = desk(ran)
        over, lost = asyncio.Event(), []

        def crash() -> None:
            journal.crash()
            lost.append(sim.now())
            over.set()

        async def work_on() -> None:
            async with Runtime(journal=journal, clock=sim.clock) as runtime:
                await pipeline.using(runtime=runtime, run_id="r").run(text="ab")

        sim.at_step(step, crash)
        working = asyncio.create_task(work_on())
        working.add_done_callback(lambda _: over.set())
        await over.wait()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        if not lost:
            return "not reached"
        async with Runtime(journal=journal.as_owner("next"), clock=sim.clock) as runtime:
            if not await runtime.runs():
                return "nothing"
            before = Counter(ran)
            kept = await runtime.load("r")
            done = {record.node for record in kept.records if record.is_accepted}
            run = await runtime.resume("r", pipeline=pipeline)
            how = "resumed"
            if run.status == "suspended":
                assert ran["sent"] == before["sent"], "an unknown effect is not repeated"
                run = await runtime.resume("r", pipeline=pipeline, rerun=["sent"])
                how = "allowed"
            assert (run.status, run.output) == ("ok", "A*A*2")
            again = {name for name in ran if ran[name] > before[name]}
            assert not again & done, "a finished node ran again"
            after = await runtime.load("r")
            assert after.status == "ok"
            intents = [r.token for r in after.records if r.type is RecordType.INTENT]
            assert len(set(intents)) == len(intents)
            return how

    return main


def test_power_may_be_lost_at_every_step() -> None:
    steps = simulate(lives, seed=0).steps
    seen: Counter[str] = Counter()
    for seed in range(4):
        for step in range(1, steps + 20):
            result = simulate(loses_power(step), seed=seed)
            assert result.leftover == ()
            seen[result.value] += 1
    assert sum(seen.values()) >= 300
    assert set(seen) >= {"nothing", "resumed", "allowed"}


async def lost(sim: Sim, pipeline: Pipeline[Any], *, after_s: float) -> SimJournal:
    """The journal as the next process sees it, of a run that lost its power after `after_s`."""
    journal = SimJournal(sim)

    async def work_on() -> None:
        async with Runtime(journal=journal, clock=sim.clock) as runtime:
            await pipeline.using(runtime=runtime, run_id="r").run(text="a")

    working = asyncio.create_task(work_on())
    await asyncio.sleep(after_s)
    journal.crash()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    return journal.as_owner("next")


def test_a_wait_between_attempts_ends_when_it_was_due() -> None:
    """
    1. an attempt fails and the next is due in 100 s; after 40 s the power is lost
    2. another process takes the run up at once: 60 s are left
    """
    tries: list[float] = []

    @enrich(retry=Retry(attempts=2, base_s=100.0, max_s=100.0, jitter="none"))
    async def flaky(text: str) -> str:
        tries.append(asyncio.get_running_loop().time())
        if len(tries) == 1:
            raise ConnectionError
        return text

    pipeline = Pipeline("f", [flaky], inputs={"text": str}, outputs=flaky)

    async def main(sim: Sim) -> None:
        journal = await lost(sim, pipeline, after_s=40)
        async with Runtime(journal=journal, clock=sim.clock) as runtime:
            assert (await runtime.resume("r", pipeline=pipeline)).output == "a"

    simulate(main, seed=1)
    assert len(tries) == 2 and 100 <= tries[1] < 101


def test_a_deadline_passes_while_the_process_is_down() -> None:
    """
    1. a run with 100 s loses its power after 40 s and is taken up 30 s later: 30 s are left
    2. it times out; a person takes it up again: it has 100 s from then on
    """

    @enrich(timeout=1_000.0)
    async def slow(text: str) -> str:
        await asyncio.sleep(90)
        return text

    pipeline = Pipeline("d", [slow], inputs={"text": str}, outputs=slow).using(deadline=100.0)

    async def main(sim: Sim) -> None:
        journal = await lost(sim, pipeline, after_s=40)
        await asyncio.sleep(30)
        async with Runtime(journal=journal, clock=sim.clock) as runtime:
            run = await runtime.resume("r", pipeline=pipeline)
            assert (run.status, run.reason) == ("failed", "timeout")
            assert 100 <= sim.now() < 101
            run = await runtime.resume("r", pipeline=pipeline)
            assert (run.status, run.output) == ("ok", "a")
            assert 190 <= sim.now() < 191

    simulate(main, seed=1)
