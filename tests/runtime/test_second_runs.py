"""A run that is given the id of another one: refused before it touches what belongs to that one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from stageflow import Dep, JournalError, Pipeline, Runtime, transform
from stageflow.journal.journal import GroupCommit
from stageflow.journal.memory import MemoryStore

EVENTS = {"begun": asyncio.Event, "gate": asyncio.Event}


class Desk:
    """A dep that knows whether it is open."""

    def __init__(self) -> None:
        self.is_open = True


@transform
async def slow(word: str, begun: asyncio.Event, gate: asyncio.Event) -> str:
    begun.set()
    await gate.wait()
    return word


@transform
async def at_desk(word: str, desk: Desk, begun: asyncio.Event, gate: asyncio.Event) -> str:
    begun.set()
    await gate.wait()
    assert desk.is_open, "another run closed this run's dep"
    return word


@pytest.mark.parametrize("tenant", ["default", "other"])
def test_a_live_run_keeps_its_place_in_the_runtime(tenant: str) -> None:
    async def main() -> None:
        begun, gate = asyncio.Event(), asyncio.Event()
        deps = {"begun": Dep(lambda: begun), "gate": Dep(lambda: gate)}
        async with Runtime(journal=GroupCommit(MemoryStore()), deps=deps) as runtime:
            first, second = (
                Pipeline(name, [slow], inputs={"word": str}, deps=EVENTS).using(
                    runtime=runtime, run_id="r", tenant=each
                )
                for name, each in (("first", "default"), ("second", tenant))
            )
            handle = first.start(word="mine")
            await begun.wait()
            with pytest.raises(JournalError) as refused:
                await second.run(word="theirs")
            assert refused.value.code == "journal.run_exists"
            assert "'second'" in str(refused.value)
            assert ("'first'" in str(refused.value)) is (tenant == "default")
            assert list(runtime.active) == ["r"], "a signal still finds the first"
            with pytest.raises(JournalError, match="run_is_live"):
                await runtime.resume("r", pipeline=first)
            gate.set()
            run = await handle
            assert run[slow] == "mine"
            assert not runtime.active
            assert (await second.using(run_id="another").run(word="theirs"))[slow] == "theirs"

    asyncio.run(main())


def test_a_second_run_neither_shares_nor_closes_the_first_ones_deps() -> None:
    opened: list[Desk] = []

    @asynccontextmanager
    async def desk() -> AsyncIterator[Desk]:
        opened.append(Desk())
        yield opened[-1]
        opened[-1].is_open = False

    async def main() -> None:
        begun, gate = asyncio.Event(), asyncio.Event()
        deps = {"begun": Dep(lambda: begun), "gate": Dep(lambda: gate)}
        async with Runtime(deps={"desk": Dep(desk, scope="run"), **deps}) as runtime:
            pipeline = Pipeline(
                "desk", [at_desk], inputs={"word": str}, deps={"desk": Desk, **EVENTS}
            )
            named = pipeline.using(runtime=runtime, run_id="r")
            handle = named.start(word="mine")
            await begun.wait()
            with pytest.raises(JournalError, match="run_exists"):
                await named.run(word="theirs")
            gate.set()
            assert (await handle)[at_desk] == "mine"
            assert len(opened) == 1 and not opened[0].is_open
            assert (await named.run(word="theirs"))[at_desk] == "theirs", "its id is free again"

    asyncio.run(main())
