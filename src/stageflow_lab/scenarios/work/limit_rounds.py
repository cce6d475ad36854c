"""Real processes under shared limits, in one store after another, and holders that are killed.

`python -m stageflow_lab.scenarios.work.limit_rounds PLAN` runs beside the simulations and prints a
line of JSON for each store.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from stageflow import Runtime, SharedPool

from ...servers import POSTGRES, REDIS, drop_schema
from .limit_facts import Call, Step, judged, plain
from .limit_process import LIMITS, Job, command
from .limited_tools import bounds_of, pools_of

STORES: Final = ("postgres", "redis")
UPDATES: Final = 20
STATE_EVERY_S: Final = 7.0
"""Twenty updates of a state, of which each waits for the others, take about so long."""
LEASE_S: Final = 3.0
NEVER_S: Final = 5 * LEASE_S
"""What a dead process held for so long is not given back any more."""
START_S: Final = 2.0
LOAD_LEAST_S: Final = 12.0
"""So that some grants come after one another in every line."""
LINE_BYTES_MAX: Final = 64 * 1024 * 1024
END_S: Final = 60.0
"""After the load, before the processes are given up."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done; JSON on the command line."""

    seed: int
    seconds: float
    """For all stores together."""
    kills: int
    """Of each store."""
    processes: int
    folder: str
    sabotage: str | None


class Round:
    """One store."""

    def __init__(self, plan: Plan, store: str) -> None:
        self.plan = plan
        self.store = store
        self.name = f"lab_limits_{os.getpid()}_{plan.seed % 1_000_000}_{store}"
        self.rng = random.Random(f"{plan.seed}:{store}")
        self.folder = Path(plan.folder) / store
        self.folder.mkdir()

    def address(self, lease_s: float) -> str:
        """Of a place of one's own, for each length of lease."""
        place = f"{self.name}_{round(lease_s)}"
        if self.store == "redis":
            return f"{REDIS}?prefix={place}&lease_s={lease_s:g}"
        return f"{POSTGRES}?schema={place}&lease_s={lease_s:g}"

    async def run(self) -> dict[str, Any]:
        """What was seen."""
        with self._forgotten():
            async with asyncio.TaskGroup() as group:
                works = group.create_task(self._work())
                crashes = group.create_task(self._crashes())
            return {"store": self.store, **works.result(), "crashes": crashes.result()}

    # -- agents at work --------------------------------------------------------------------------

    async def _work(self) -> dict[str, Any]:
        plan, address = self.plan, self.address(20.0)
        load_s = max(LOAD_LEAST_S, plan.seconds / len(STORES) - START_S)
        until_s = time.monotonic() + START_S + load_s
        states = [self.folder / f"state{n}" for n in range(max(1, int(load_s / STATE_EVERY_S)))]
        for state in states:
            state.write_text("0", "ascii")
        jobs = [
            Job(
                "works",
                number,
                address,
                plan.seed,
                until_s=until_s,
                updates=UPDATES // plan.processes,
                states=tuple(map(str, states)),
                sabotage=plan.sabotage,
            )
            for number in range(plan.processes)
        ]
        async with asyncio.timeout(START_S + load_s + END_S), asyncio.TaskGroup() as group:
            tasks = [group.create_task(_lines(job)) for job in jobs]
        seen = [json.loads(line)["seen"] for task in tasks for line in task.result()]
        held = await self._held(address, pools_of(bounds_of(*LIMITS), is_shared=True))
        return {**_put_together(seen, until_s), "states": _states(states, seen), "held": held}

    async def _held(self, address: str, pools: Any) -> int:
        """Units that are out when all processes have ended by themselves."""
        async with Runtime(pools=pools, shared_pools=address) as runtime:
            usage = await runtime.pools.usage()
        return sum(
            each.held + each.waiting + sum(each.by_tenant.values()) for each in usage.values()
        )

    # -- holders that are killed -----------------------------------------------------------------

    async def _crashes(self) -> list[dict[str, float]]:
        """Of each: how long after its death the next one had the unit, in terms of the lease."""
        address = self.address(LEASE_S)
        pools = tuple(f"unit{number}" for number in range(self.plan.kills))
        died_s: dict[str, float] = {}
        back_s: dict[str, float] = {}

        async def hold(number: int, held: asyncio.Event, dies: asyncio.Event) -> None:
            pool = pools[number]
            async with _started(self._job("holds", number, address, (pool,))) as process:
                await _until(process, "has", 1)
                held.set()
                await dies.wait()
                await asyncio.sleep(self.rng.uniform(0.0, LEASE_S / 3))
                process.kill()
                died_s[pool] = time.monotonic()
                await process.wait()

        holds, dies = [asyncio.Event() for _ in pools], asyncio.Event()
        async with asyncio.timeout(END_S), asyncio.TaskGroup() as group:
            for number in range(len(pools)):
                group.create_task(hold(number, holds[number], dies))
            for each in holds:
                await each.wait()
            async with _started(self._job("waits", 0, address, pools)) as process:
                await _until(process, "asks", len(pools))
                dies.set()
                with contextlib.suppress(TimeoutError):  # some may never come back
                    async with asyncio.timeout(NEVER_S):
                        for _ in pools:
                            (said,) = await _until(process, "has", 1)
                            back_s[said["has"]] = said["at_s"]
                        await process.wait()
        held = await self._held(address, {pool: SharedPool(1) for pool in pools})
        return [
            {
                "back_s": back_s.get(pool, died_s[pool] + NEVER_S) - died_s[pool],
                "lease_s": LEASE_S,
                "held": held,
            }
            for pool in pools
        ]

    def _job(self, kind: str, number: int, address: str, pools: tuple[str, ...]) -> Job:
        sabotage = self.plan.sabotage
        return Job(kind, number, address, self.plan.seed, pools=pools, sabotage=sabotage)

    @contextmanager
    def _forgotten(self) -> Iterator[None]:
        """Nothing is left in the servers."""
        try:
            yield
        finally:
            for lease_s in (20.0, LEASE_S):
                self._forget(round(lease_s))

    def _forget(self, lease_s: int) -> None:
        if self.store == "redis":
            import redis  # only where the server is

            client = redis.Redis.from_url(REDIS)
            client.delete(*(f"{self.name}_{lease_s}:{part}" for part in ("book", "pictures")))
            client.close()
            return
        drop_schema(f"{self.name}_{lease_s}")


def _put_together(seen: Sequence[dict[str, Any]], until_s: float) -> dict[str, Any]:
    """The logs of all processes as one."""
    places: Counter[str] = Counter()
    calls: dict[int, Call] = {}
    steps: list[Step] = []
    for each in seen:
        calls |= {number: Call(*rest) for number, *rest in each["calls"]}
        steps += [Step(*step) for step in each["steps"]]
        places.update(each["places"])
    firsts = [min(s[0] for s in each["steps"] if s[1] == "enters") for each in seen]
    facts = judged(bounds_of(*LIMITS), calls, steps, from_s=max(firsts), until_s=until_s)
    return {**plain(facts), "places": dict(places)}


def _states(states: Sequence[Path], seen: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Of each state: the updates that were finished, and those that it has."""
    return [
        [sum(each["done"][str(state)] for each in seen), int(state.read_text("ascii"))]
        for state in states
    ]


async def _lines(job: Job) -> list[bytes]:
    async with _started(job) as process:
        assert process.stdout is not None
        out = await process.stdout.read()
        if await process.wait():
            raise SystemExit(f"a process failed: {job.kind} {job.number}")
        return out.splitlines()


async def _until(process: asyncio.subprocess.Process, word: str, times: int) -> list[Any]:
    """What the process says of `word`, so many times."""
    assert process.stdout is not None
    found: list[Any] = []
    while len(found) < times:
        line = await process.stdout.readline()
        if not line:
            raise SystemExit(f"a process ended before it said {word!r}")
        said = json.loads(line)
        if word in said:
            found.append(said)
    return found


@asynccontextmanager
async def _started(job: Job) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command(job), stdout=asyncio.subprocess.PIPE, limit=LINE_BYTES_MAX
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def rounds_command(plan: Plan) -> list[str]:
    """The command that carries it out."""
    return [sys.executable, "-m", __spec__.name, json.dumps(asdict(plan))]


async def _main(plan: Plan) -> None:
    for store in STORES:
        seen = await Round(plan, store).run()
        sys.stdout.write(json.dumps(seen) + "\n")
        sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Carry the plan out and print what was seen."""
    # Ended early, it still ends its processes and leaves nothing in the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    asyncio.run(_main(Plan(**json.loads(arguments[0]))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
