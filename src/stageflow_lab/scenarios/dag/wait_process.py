"""Plans of waits in real processes, which share their pools in PostgreSQL.

`python -m stageflow_lab.scenarios.dag.wait_process JOB` is one process: it carries out its part of
each plan, says when its stages hold what they hold, waits for the word to begin, and prints what it
saw. `run_plans` starts the processes and puts together what they saw.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Final

from ...history import History
from ...servers import POSTGRES, drop_schema
from ...world import World
from .deadlock_defects import DEFECTS
from .wait_facts import facts_of
from .wait_graphs import Plan, plan_of
from .wait_worlds import Host, Seen

SCAN_S: Final = 1.0
AT_ONCE: Final = 5
"""Plans side by side, each with its own schema."""
SHARE_PLANTED: Final = 0.6
SOON_S: Final = 0.1
LINE_BYTES_MAX: Final = 16 * 1024 * 1024
END_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Job:
    """What one process does."""

    host: int
    processes: int
    seeds: tuple[tuple[int, bool], ...]
    """Of each plan, and whether it has a planted cycle."""
    schema: str
    sabotage: str | None

    def plan(self, place: int) -> Plan:
        """One of the plans."""
        seed, is_planted = self.seeds[place]
        return plan_of(seed, is_planted=is_planted, hosts=self.processes)


# -- the process ---------------------------------------------------------------------------------


class Process:
    """One process at work."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.begins: dict[int, asyncio.Future[float]] = {}

    async def run(self) -> None:
        """All plans, some at a time."""
        loop = asyncio.get_running_loop()
        self.begins = {place: loop.create_future() for place in range(len(self.job.seeds))}
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        listening = asyncio.create_task(self._listen(reader))
        for first in range(0, len(self.job.seeds), AT_ONCE):
            places = range(first, min(first + AT_ONCE, len(self.job.seeds)))
            await asyncio.gather(*(self._one(place) for place in places))
        listening.cancel()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            place, base_s = json.loads(line)
            self.begins[place].set_result(base_s)

    async def _one(self, place: int) -> None:
        plan = self.job.plan(place)
        if self.job.host not in plan.hosts:
            return

        async def all_hold() -> float:
            _say(held=place)
            return await self.begins[place]

        host = Host(
            plan,
            self.job.host,
            time=time.monotonic,
            all_hold=all_hold,
            shared_pools=f"{POSTGRES}?schema={self.job.schema}_{place % AT_ONCE}&lease_s=20",
            scan_s=SCAN_S,
        )
        _say(place=place, seen=asdict(await host.run()))


def _say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """One process."""
    given = json.loads(arguments[0])
    job = Job(**{**given, "seeds": tuple((seed, planted) for seed, planted in given["seeds"])})
    by_name = {each.name: each for each in DEFECTS}
    with nullcontext() if job.sabotage is None else by_name[job.sabotage].apply():
        asyncio.run(Process(job).run())
    return 0


# -- the processes together ----------------------------------------------------------------------


def run_plans(world: World, history: History) -> None:
    """One `world` event for each plan; `broken` when a process failed."""
    count = world.size["real"]
    planted = round(count * SHARE_PLANTED)
    seeds = tuple((world.seed_for("real", number), number < planted) for number in range(count))
    schema = f"lab_{os.getpid()}_{world.seed % 1_000_000}"
    jobs = [
        Job(host, world.size["processes"], seeds, schema, world.sabotage)
        for host in range(world.size["processes"])
    ]
    try:
        seen, broken = asyncio.run(_together(jobs, world))
    finally:
        _drop(schema)
    if broken:
        history.record("broken", said=broken)
    for place in range(count):
        plan = jobs[0].plan(place)
        if len(seen[place]) < len(set(plan.hosts)):
            facts = {"engine": "real", "seed": plan.seed, "planted": bool(plan.closer)}
            history.record("world", **facts, broke="a process said nothing of it")
        else:
            history.record("world", **facts_of(plan, seen[place], engine="real", scan_s=SCAN_S))


async def _together(jobs: Sequence[Job], world: World) -> tuple[list[list[Seen]], str]:
    seen: list[list[Seen]] = [[] for _ in jobs[0].seeds]
    held = [0 for _ in jobs[0].seeds]
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __spec__.name,
            json.dumps(asdict(job)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
        )
        for job in jobs
    ]

    def begin(place: int) -> None:
        held[place] += 1
        if held[place] < len(set(jobs[0].plan(place).hosts)):
            return
        line = json.dumps([place, time.monotonic() + SOON_S]) + "\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(line.encode())

    async def follow(process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None and process.stderr is not None
        while line := await process.stdout.readline():
            said = json.loads(line)
            if "held" in said:
                begin(said["held"])
            else:
                seen[said["place"]].append(Seen(**said["seen"]))
                world.progress(sum(map(bool, seen)), len(seen), "real plans")
        errors = (await process.stderr.read()).decode(errors="replace")
        return errors[-2_000:] if await process.wait() else ""

    try:
        async with asyncio.timeout(END_S + len(jobs[0].seeds) * 10.0):
            ends = await asyncio.gather(*(follow(process) for process in processes))
    except TimeoutError:
        ends = ["the processes did not end"]
    finally:
        for process in processes:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
                await process.wait()
    return seen, next((end for end in ends if end), "")


def _drop(schema: str) -> None:
    for place in range(AT_ONCE):
        drop_schema(f"{schema}_{place}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
