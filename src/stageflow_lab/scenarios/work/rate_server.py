"""The services of WORK-004 behind HTTP, in a process of their own.

`python -m stageflow_lab.scenarios.work.rate_server JSON` prints its port and then, when its input
ends, what the services saw.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any, Final

from .quotas import KINDS, Service

GRACE_S: Final = 0.15
"""After which what one client was told is known to all."""
REASONS: Final = {200: "OK", 404: "Not Found", 429: "Too Many Requests"}


class Server:
    """All services."""

    def __init__(self, *, seed: int, begin_s: float, seconds: float) -> None:
        rng, wall_s = random.Random(seed), time.time() + begin_s - time.monotonic()
        self.services = {
            kind.name: Service(kind, begin_s, seconds, GRACE_S, random.Random(rng.random()), wall_s)
            for kind in KINDS
        }

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: `GET /service/identity` again and again."""
        try:
            while line := await reader.readline():
                while (await reader.readline()).strip():
                    pass
                _, kind, identity = line.split()[1].decode().split("/")
                writer.write(_answer(*self.services[kind].answer(time.monotonic(), identity)))
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()


def _answer(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {REASONS[status]}", "Content-Length: 0"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


async def _serve(given: dict[str, Any]) -> None:
    server = Server(**given)
    listening = await asyncio.start_server(server.connected, "127.0.0.1", 0)
    print(listening.sockets[0].getsockname()[1], flush=True)  # noqa: T201 (its output)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    facts = [each.facts() for each in server.services.values()]
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()
    listening.close()


def main(arguments: list[str]) -> int:
    """Serve until the input ends."""
    asyncio.run(_serve(json.loads(arguments[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
