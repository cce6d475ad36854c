"""Processes that are killed and started again, over one ledger in each store: the real part.

`python -m stageflow_lab.scenarios.work.effect_rounds PLAN` runs beside the simulations, in a
process without threads, from which the workers are forked. It prints a line of JSON for each key.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from ...servers import POSTGRES, REDIS, drop_schema, make_schema, postgres_in
from .effect_defects import applied
from .effect_worker import TABLE, Job, Key, Worker, work_off
from .orders import KINDS, duplicates, points

COMBINATIONS: Final = tuple(
    (store, kind)
    for store, kind in product(("sqlite", "postgres", "redis"), KINDS)
    if (store, kind) != ("redis", "transactional")
)
SKEW_MAX_S: Final = 10.0
LOOK_EVERY_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done; JSON on the command line."""

    seed: int
    keys: int
    kills: int
    processes: int
    least: int
    most: int
    folder: str
    sabotage: str | None


def planned(plan: Plan) -> list[Key]:
    """Keys of every store and receiver in turn; the first of each die at each point in turn."""
    rng = random.Random(plan.seed)
    keys, kills = [], 0
    for number in range(plan.keys):
        store, kind = COMBINATIONS[number % len(COMBINATIONS)]
        places = points(kind)
        point = places[number // len(COMBINATIONS) % len(places)] if kills < plan.kills else None
        kills += point is not None
        calls = [0] * plan.processes
        for _ in range(duplicates(rng, plan.least, plan.most)):
            calls[rng.randrange(plan.processes)] += 1
        keys.append(Key(f"o{number}", store, kind, tuple(calls), point))
    return keys


class Rounds:
    """One plan carried out."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.folder = Path(plan.folder)
        self.tenant = f"lab-{plan.seed:x}-{os.getpid()}"
        self.schema = f"lab_{os.getpid()}_{plan.seed % 1_000_000}"
        self.keys = planned(plan)
        self.stores = {
            "sqlite": str(self.folder / "shop.db"),
            "postgres": postgres_in(self.schema),
            "redis": REDIS,
        }
        self.told = [self.folder / f"told{number}" for number in range(plan.processes + 1)]
        self.counts: dict[str, int] = {}
        self.processes: list[BaseProcess] = []
        """Every process that was started; all are gone in the end."""

    def run(self) -> Iterator[dict[str, Any]]:
        """What was seen of each key."""
        (self.folder / "flags").mkdir()
        server = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.effect_server"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            self._make_tables()
            self._work(port)
            asyncio.run(self._afterwards(port))
        finally:
            for process in self.processes:
                process.kill()
                process.join()
            server.kill()
            server.wait()
            if server.stdout is not None:
                server.stdout.close()
            drop_schema(self.schema)
        yield from self._facts()

    def job(self, number: int, port: int) -> Job:
        return Job(
            number=number,
            keys=tuple(self.keys),
            stores=self.stores,
            port=port,
            tenant=self.tenant,
            told=str(self.told[number]),
            flags=str(self.folder / "flags"),
            skew_s=random.Random(f"{self.plan.seed}:{number}").uniform(-SKEW_MAX_S, SKEW_MAX_S),
        )

    def _work(self, port: int) -> None:
        """Starts every process, and again when it was killed, with what it has not done."""
        processes = [self._forked(self.job(n, port)) for n in range(self.plan.processes)]
        left = len(processes)
        while left:
            left = 0
            for number, process in enumerate(processes):
                if process.exitcode is None:
                    left += 1
                elif process.exitcode < 0:
                    process.join()
                    done = {line["done"] for line in lines(self.told[number]) if "done" in line}
                    job = self.job(number, port)
                    keys = tuple(key for key in job.keys if key.order not in done)
                    processes[number] = self._forked(replace(job, keys=keys))
                    left += 1
            time.sleep(LOOK_EVERY_S)
        if any(process.exitcode for process in processes):
            raise SystemExit("a worker failed")

    def _forked(self, job: Job) -> BaseProcess:
        process = multiprocessing.get_context("fork").Process(
            target=work_off, args=(job,), daemon=True
        )
        process.start()
        self.processes.append(process)
        return process

    async def _afterwards(self, port: int) -> None:
        """Replays, other parameters, and the receivers' counts; then nothing is left behind."""
        keys = tuple(replace(key, point=None) for key in self.keys)
        worker = Worker(replace(self.job(self.plan.processes, port), keys=keys))
        await worker.afterwards()
        self.counts = await worker.client.asked("GET", "/counts")
        for name in ("sqlite", "postgres"):
            store = worker.ledgers[name].store
            rows = await store.change_within(
                "the counting itself",
                lambda entry, _, tx: (
                    entry,
                    tx.execute(f"SELECT name, count(*) FROM {TABLE} GROUP BY name").fetchall(),
                ),
            )
            self.counts.update(dict(rows))
        for key in worker.stores["redis"].keys:
            await worker.stores["redis"].change(key, lambda *_: (None, None))
        await self._forget(worker)
        await worker.close()

    async def _forget(self, worker: Worker) -> None:
        import redis  # only where the server is

        client = redis.Redis.from_url(REDIS)
        for key in worker.stores["redis"].keys:
            client.delete(f"stageflow:effect:{key}")
        client.close()

    def _make_tables(self) -> None:
        import psycopg  # only where the server is

        with sqlite3.connect(self.stores["sqlite"]) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"CREATE TABLE {TABLE} (name text)")
        connection.close()
        make_schema(self.schema)
        with psycopg.connect(POSTGRES) as database:
            database.execute(f"CREATE TABLE {self.schema}.{TABLE} (name text)".encode())

    def _facts(self) -> Iterator[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {
            key.order: {
                "order": key.order,
                "kind": key.kind,
                "store": key.store,
                "died": None,
                "replies": [],
                "last": None,
                "refusals": [],
                "effects": self.counts.get(key.order, 0),
            }
            for key in self.keys
        }
        for path in self.told:
            for line in lines(path):
                if "died" in line:
                    found[line["order"]]["died"] = line["died"]
                elif "refusal" in line:
                    found[line["order"]]["refusals"].append(line["refusal"])
                elif "status" in line:
                    of = found[line.pop("order")]
                    is_last = line.pop("last", False)
                    of["replies"].append(line)
                    if is_last:
                        of["last"] = line
        yield from found.values()


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """What a worker told; a line that its death cut short is left out."""
    if path.exists():
        for line in path.read_text("utf-8").split("\n")[:-1]:
            yield json.loads(line)


def command(plan: Plan) -> list[str]:
    """The command that carries it out."""
    return [sys.executable, "-m", __spec__.name, json.dumps(asdict(plan))]


def main(arguments: list[str]) -> int:
    """Carry the plan out and print what was seen."""
    plan = Plan(**json.loads(arguments[0]))
    # Ended early, it still ends its workers and leaves nothing in the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with applied(plan.sabotage):
        for facts in Rounds(plan).run():
            sys.stdout.write(json.dumps(facts) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
