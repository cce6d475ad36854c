"""The allow-list of a sandbox: carries bytes between listed endpoints and sockets inside.

The sockets were made inside, on a loopback network that leads nowhere, and handed out. So a
program can reach what is listed and nothing else, without rights to a real network, and names are
resolved out here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Final

from stageflow.stages.work.sandbox.policy import Endpoint

CONNECTIONS_MAX: Final = 64
"""At once, of one run; more wait in the listener's queue."""
CONNECT_S: Final = 10.0
_CHUNK: Final = 65_536


async def relay(sockets: Sequence[socket.socket], endpoints: Sequence[Endpoint]) -> None:
    """Serves until it is cancelled: connections to `sockets[i]` go to `endpoints[i]`."""
    allowed = asyncio.Semaphore(CONNECTIONS_MAX)
    loop = asyncio.get_running_loop()

    async def serve(listener: socket.socket, endpoint: Endpoint, group: asyncio.TaskGroup) -> None:
        listener.setblocking(False)
        while True:
            await allowed.acquire()
            try:
                inside, _ = await loop.sock_accept(listener)
            except BaseException:
                allowed.release()
                raise
            task = group.create_task(_carried(inside, endpoint))
            task.add_done_callback(lambda _: allowed.release())

    try:
        async with asyncio.TaskGroup() as group:
            for listener, endpoint in zip(sockets, endpoints, strict=True):
                group.create_task(serve(listener, endpoint, group))
    finally:
        for each in sockets:
            each.close()


async def _carried(inside: socket.socket, endpoint: Endpoint) -> None:
    """One connection. Whatever goes wrong with it ends it alone."""
    with inside, contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(CONNECT_S):
            there = await asyncio.open_connection(endpoint.host, endpoint.port)
        inside.setblocking(False)
        here = await asyncio.open_connection(sock=inside)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pumped(here[0], there[1]))
                group.create_task(_pumped(there[0], here[1]))
        finally:
            for writer in (here[1], there[1]):
                writer.close()


async def _pumped(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while part := await source.read(_CHUNK):
            sink.write(part)
            await sink.drain()
        sink.write_eof()
