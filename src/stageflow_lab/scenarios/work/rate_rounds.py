"""Real processes whose clients share the pace of services over PostgreSQL and Redis.

`python -m stageflow_lab.scenarios.work.rate_rounds PLAN` runs beside the simulations: it starts the
server and the workers, and prints a line of JSON for each service.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Final

from stageflow.stages.work.rate import RateLimiter

from ...servers import POSTGRES, REDIS
from .quotas import KINDS, Kind
from .rate_defects import applied
from .rated_clients import Reply, Seen, clients_of, work_all
from .simulated_rates import together

START_S: Final = 8.0
"""Within which all processes are there."""
GRACE_S: Final = 0.1
"""By which a refusal may be late, of a process that is not let run by others on its machine."""
STORES: Final = {kind.name: (REDIS, POSTGRES)[place % 2] for place, kind in enumerate(KINDS)}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done; JSON on the command line."""

    seed: int
    seconds: float
    clients: int
    processes: int
    sabotage: str | None
    process: int | None = None
    """Which worker this is; None for the whole."""
    begin_s: float = 0.0
    """On the clock that all processes of a machine share, time.monotonic."""
    port: int = 0
    name: str = ""
    """First part of the meters' keys."""


class Http:
    """A connection for each client that asks, kept and used again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(self, kind: Kind, identity: str) -> Reply:
        """One request, and its answer."""
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        request = f"GET /{kind.name}/{identity} HTTP/1.1\r\nHost: api\r\n\r\n"
        writer.write(request.encode("ascii"))
        status = int((await reader.readline()).split()[1])
        headers = {}
        while line := (await reader.readline()).decode("ascii").strip():
            name, _, value = line.partition(":")
            headers[name] = value.strip()
        self._idle.append((reader, writer))
        return Reply(status, headers)

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()


async def _work(plan: Plan) -> None:
    http, seen = Http(plan.port), Seen(grace_s=GRACE_S)
    limiters = {
        kind.name: RateLimiter(kind.rate, key=f"{plan.name}-{kind.name}", store=STORES[kind.name])
        for kind in KINDS
    }
    loop = asyncio.get_running_loop()
    mine = [
        each for each in clients_of(plan.clients, plan.processes) if each.process == plan.process
    ]
    ahead_s = plan.begin_s - time.monotonic()
    await asyncio.sleep(max(0.0, ahead_s))
    until_s = loop.time() + min(0.0, ahead_s) + plan.seconds
    await work_all(mine, limiters, http.send, seen, seed=plan.seed, until_s=until_s)
    http.close()
    for each in limiters.values():
        await each.aclose()
    sys.stdout.write(json.dumps(seen.plain()) + "\n")


def rounds_command(plan: Plan) -> list[str]:
    """The command that carries it out."""
    return [sys.executable, "-m", __spec__.name, json.dumps(asdict(plan))]


def run(plan: Plan) -> list[dict[str, Any]]:
    """Server and workers to their end; what they saw, by service."""
    begin_s = time.monotonic() + START_S
    given = {"seed": plan.seed, "begin_s": begin_s, "seconds": plan.seconds}
    name = f"lab-{os.getpid()}-{plan.seed:x}"
    with ExitStack() as stack:
        server = _started(
            stack, [sys.executable, "-m", f"{__package__}.rate_server", json.dumps(given)]
        )
        assert server.stdout is not None
        port = int(server.stdout.readline())
        changes = {"begin_s": begin_s, "port": port, "name": name}
        stack.callback(_forget, name)
        workers = [
            _started(stack, rounds_command(Plan(**{**asdict(plan), **changes, "process": number})))
            for number in range(plan.processes)
        ]
        seen = [json.loads(_ended(each)) for each in workers]
        services = json.loads(_ended(server))
    return together(services, seen)


def _started(stack: ExitStack, command: Sequence[str]) -> subprocess.Popen[str]:
    process = stack.enter_context(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )
    stack.callback(process.kill)
    return process


def _ended(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a process ended with {process.returncode}")
    return out


def _forget(name: str) -> None:
    """Nothing is left in the servers."""
    import psycopg  # only where the server is
    import redis

    client = redis.Redis.from_url(REDIS)
    keys = [f"stageflow:rate:{{{name}-{kind.name}}}" for kind in KINDS]
    client.delete(*keys, *(f"{key}:taken" for key in keys))
    client.close()
    with psycopg.connect(POSTGRES, autocommit=True) as database:
        table = database.execute("SELECT to_regclass('stageflow_rates')").fetchone()
        if table is not None and table[0] is not None:
            database.execute(
                "DELETE FROM stageflow_rates WHERE key = ANY(%s)",
                ([f"{name}-{kind.name}" for kind in KINDS],),
            )


def main(arguments: list[str]) -> int:
    """Carry the plan out, or be one of its workers."""
    # Ended early, it still ends its processes and leaves nothing in the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    plan = Plan(**json.loads(arguments[0]))
    with applied(plan.sabotage):
        if plan.process is not None:
            asyncio.run(_work(plan))
            return 0
        for row in run(plan):
            sys.stdout.write(json.dumps(row) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
