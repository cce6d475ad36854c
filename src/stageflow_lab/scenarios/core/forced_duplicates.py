"""Runs that are given an id which another run has: before it, beside it, and in another runtime.

Each collision is two runs, of two pipelines and two sessions, with a canary each. One of them must
be refused by an error that names both; the other's result and records stay what they were; and the
refused one, begun again under an id of its own, gives its own canary.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stageflow import Pipeline, Runtime, StageflowError, transform
from stageflow.journal.journal import GroupCommit
from stageflow.journal.memory import MemoryStore
from stageflow.journal.sqlite import SQLiteStore
from stageflow.journal.store import LoadedRun, Store

WAYS: Final = ("after its end", "while it runs", "at once", "in another runtime", "of a tenant")
STORES: Final = ("memory", "sqlite")
AT_ONCE: Final = 20


@transform
async def echo(canary: str) -> str:
    """Gives its input back, after a moment in which others can run."""
    await asyncio.sleep(0)
    return f"echo {canary}"


@transform
async def answer(echo: str) -> str:
    """What the run ends with."""
    return f"answer to {echo}"


FIRST: Final = Pipeline("first", [echo, answer], inputs={"canary": str}, outputs=answer)
SECOND: Final = Pipeline("second", [echo, answer], inputs={"canary": str}, outputs=answer)


@dataclass(frozen=True, slots=True)
class Collision:
    """What came of one forced duplicate."""

    store: str
    way: str
    refused: bool
    """Exactly one of the two was refused, with journal.run_exists."""
    named: bool
    """The refusal names the id and both runs; of another tenant's run it says nothing."""
    intact: bool
    """The run that has the id gave its own result, and its records are as they were."""
    reused: int
    """Results that hold the other run's canary."""
    said: str


async def collide(folder: Path, *, count: int, seed: int) -> list[Collision]:
    """`count` collisions, the stores and the ways taking turns."""
    found: list[Collision] = []
    for turn, kind in enumerate(STORES):
        numbers = range(turn, count, len(STORES))
        async with AsyncExitStack() as stack:
            stores: list[Store] = [MemoryStore()] * 2
            if kind == "sqlite":
                stores = [SQLiteStore(folder / "runs.db") for _ in range(2)]
            one, two = [
                await stack.enter_async_context(Runtime(journal=GroupCommit(store)))
                for store in stores
            ]
            for at in range(0, len(numbers), AT_ONCE):
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(
                            _Pair(kind, one, two, f"{seed:x}-{kind}-{n}").collide(
                                WAYS[n // len(STORES) % len(WAYS)]
                            )
                        )
                        for n in numbers[at : at + AT_ONCE]
                    ]
                found += [task.result() for task in tasks]
    return found


class _Pair:
    """Two runs that want one id."""

    def __init__(self, store: str, one: Runtime, two: Runtime, run: str) -> None:
        self._store = store
        self._one = one
        self._two = two
        self._run = run

    async def collide(self, way: str) -> Collision:
        other = self._two if way == "in another runtime" else self._one
        tenant = "elsewhere" if way == "of a tenant" else "here"
        first = FIRST.using(
            runtime=self._one, tenant="here", session=f"{self._run}-a", run_id=self._run
        )
        second = SECOND.using(
            runtime=other, tenant=tenant, session=f"{self._run}-b", run_id=self._run
        )
        mine, theirs = f"<{self._run} a>", f"<{self._run} b>"
        before: LoadedRun | None = None
        tried: list[Any]
        if way in ("while it runs", "at once"):
            handle = first.start(canary=mine)
            if way == "while it runs":
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            both = asyncio.gather(handle, second.run(canary=theirs), return_exceptions=True)
            tried = list(await both)
        else:
            tried = [await first.run(canary=mine)]
            before = await self._one.load(self._run)
            tried.extend(await asyncio.gather(second.run(canary=theirs), return_exceptions=True))
        again = await SECOND.using(runtime=other, tenant=tenant).run(canary=theirs)
        return await self._judged(way, tried, again, before, (mine, theirs), tenant)

    async def _judged(
        self,
        way: str,
        tried: Sequence[Any],
        again: Any,
        before: LoadedRun | None,
        canaries: tuple[str, str],
        tenant: str,
    ) -> Collision:
        """Told from what came back; at once, either of the two may have the id."""
        errors = [each for each in tried if isinstance(each, BaseException)]
        coded = [
            each
            for each in errors
            if isinstance(each, StageflowError) and each.code == "journal.run_exists"
        ]
        said = str(errors[0]) if errors else ""
        names = [each in said for each in ("'first'", "'second'")]
        reused = sum(
            canaries[1 - number] in str(run.output)
            for number, run in enumerate(tried)
            if not isinstance(run, BaseException)
        )
        reused += canaries[0] in str(again.output)
        owner = next((n for n, each in enumerate(tried) if not isinstance(each, BaseException)), 0)
        loaded = await self._one.load(self._run)
        intact = (
            not isinstance(tried[owner], BaseException)
            and canaries[owner] in str(tried[owner].output)
            and loaded.status == "ok"
            and loaded.header.pipeline == ("first", "second")[owner]
            and (before is None or before == loaded)
            and canaries[1] in str(again.output)
        )
        return Collision(
            self._store,
            way,
            refused=len(errors) == 1 and len(coded) == 1,
            named=self._run in said and names == [tenant == "here", True],
            intact=intact,
            reused=reused,
            said=said[:400],
        )
