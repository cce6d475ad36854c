"""One real process under limits that it shares with others: agents at work, a holder that is to be
killed, or those that wait for it.

`python -m stageflow_lab.scenarios.work.limit_process JOB` says what it saw in lines of JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from stageflow import Context, Pipeline, Runtime, SharedPool, agent
from stageflow.runtime.handle import Handle

from .limit_defects import applied
from .limited_tools import (
    TENANTS,
    TIMEOUT_S,
    WRITE,
    Desk,
    Log,
    Task,
    bounds_of,
    limits,
    pools_of,
    searches,
)

LIMITS: Final = (8, 7, 4)
"""Units over all tools, of the search, and of each tenant in it."""
AGENTS: Final = 7
"""Of one process, at any time."""
LEAST_S, MOST_S = 1.5, 3.0
"""How long a search takes."""
UPDATE_S: Final = 0.15
CALLS_FIRST: Final = 1_000_000
"""Numbers of calls that a process has for itself."""
CANCEL_EVERY_S: Final = 0.2
"""On average, of one process."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a process is to do; JSON on the command line."""

    kind: str
    """`works`, `holds` or `waits`."""
    number: int
    address: str
    seed: int
    until_s: float = 0.0
    """On the clock that all processes of a machine share, time.monotonic."""
    updates: int = 0
    """Of each state."""
    states: tuple[str, ...] = ()
    """Files that are read, thought about and written."""
    pools: tuple[str, ...] = ()
    """Of one unit each: those that are held, or waited for."""
    sabotage: str | None = None


class Works:
    """Agents until the time is over."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.rng = random.Random(f"{job.seed}:{job.number}")
        self.log = Log(time.monotonic, first=job.number * CALLS_FIRST)
        bounds = bounds_of(*LIMITS)
        self.runtime = Runtime(
            pools=pools_of(bounds, is_shared=True), shared_pools=job.address, limits=limits()
        )
        self.state = ""
        self.desk = Desk(self.runtime, self.log, self._update, line=f"p{job.number}")
        self.done = dict.fromkeys(job.states, 0)
        self.started = 0

    async def run(self) -> dict[str, Any]:
        """What was seen."""
        async with asyncio.TaskGroup() as group:
            for _ in range(AGENTS):
                group.create_task(self._agents())
            group.create_task(self._writer())
        await self.runtime.aclose()
        log = self.log
        return {
            "calls": [[number, *call] for number, call in log.calls.items()],
            "steps": log.steps,
            "places": dict(log.places),
            "done": self.done,
        }

    @property
    def _goes_on(self) -> bool:
        return time.monotonic() < self.job.until_s

    async def _agents(self) -> None:
        """One after another, each cancelled somewhere, until the time is over."""
        while self._goes_on:
            self.started += 1
            handle = self.desk.start(
                self._searches(),
                tenant=self.rng.choice(TENANTS),
                run=f"class0 p{self.job.number}.{self.started}",
            )
            async with asyncio.TaskGroup() as group:
                killer = group.create_task(self._cancelled(handle))
                await handle
                killer.cancel()

    async def _cancelled(self, handle: Handle[Any]) -> None:
        await asyncio.sleep(self.rng.expovariate(1 / (CANCEL_EVERY_S * AGENTS)))
        if self._goes_on:
            self.desk.cancel(handle)

    def _searches(self) -> Iterator[Task]:
        while self._goes_on:
            yield from searches(self.rng, 1, least_s=LEAST_S, most_s=MOST_S)

    async def _writer(self) -> None:
        """Its share of the updates of one state after another."""
        for state in self.job.states:
            self.state = state
            tasks = [Task(WRITE, 1, UPDATE_S, 0.0)] * self.job.updates
            await self.desk.start(
                tasks, tenant=self.rng.choice(TENANTS), run=f"write p{self.job.number}.{state}"
            )

    async def _update(self, length_s: float) -> None:
        seen = _read(self.state)
        await asyncio.sleep(length_s)
        Path(self.state).write_text(str(seen + 1), "ascii")  # noqa: ASYNC240 (a few bytes)
        self.done[self.state] += 1


def _read(state: str) -> int:
    return int(Path(state).read_text("ascii"))


async def take(job: Job) -> None:
    """Takes a unit of each pool and says so; a holder keeps it for ever."""
    runtime = Runtime(
        pools={pool: SharedPool(1) for pool in job.pools},
        shared_pools=job.address,
        limits=limits(),
    )

    async def one(pool: str) -> None:
        async def body(ctx: Context) -> None:
            _say(asks=pool, at_s=time.monotonic())
            async with ctx.pool(pool):
                _say(has=pool, at_s=time.monotonic())
                if job.kind == "holds":
                    await asyncio.Event().wait()

        stage = agent(body, name="takes", timeout=TIMEOUT_S)
        await Pipeline("takes", [stage], outputs=stage).using(runtime=runtime).run()

    async with asyncio.TaskGroup() as group:
        for pool in job.pools:
            group.create_task(one(pool))
    await runtime.aclose()


def _say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def command(job: Job) -> list[str]:
    """The command that starts it."""
    return [sys.executable, "-m", __spec__.name, json.dumps(asdict(job))]


async def _main(job: Job) -> None:
    if job.kind == "works":
        _say(seen=await Works(job).run())
    else:
        await take(job)


def main(arguments: list[str]) -> int:
    """One process."""
    given = json.loads(arguments[0])
    job = Job(**{**given, "states": tuple(given["states"]), "pools": tuple(given["pools"])})
    with applied(job.sabotage):
        asyncio.run(_main(job))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
