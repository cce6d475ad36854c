"""The fence around a simulation: what would reach the real world is refused or made virtual.

Refused: starting threads and child processes, sockets, `time.sleep`. Made virtual: `time.time`,
`time.time_ns`, `time.monotonic`, `time.monotonic_ns`, `os.urandom` (and with it `uuid.uuid4`), and
the global `random` state. Only the thread that simulates is inside; other threads of the process
go on as before. Not seen: names imported out of their module earlier (`from time import time`),
`datetime.now`, `time.perf_counter`, file I/O, and blocking on a lock.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

from stageflow.sim.refusals import refusal

_REFUSED: tuple[tuple[Any, str, str, str], ...] = (
    (threading.Thread, "start", "sim.thread", "threading.Thread.start()"),
    (socket.socket, "__init__", "sim.socket", "socket.socket()"),
    (socket, "socketpair", "sim.socket", "socket.socketpair()"),
    (socket, "getaddrinfo", "sim.socket", "socket.getaddrinfo()"),
    (asyncio, "new_event_loop", "sim.socket", "asyncio.new_event_loop()"),
    (asyncio.events, "new_event_loop", "sim.socket", "asyncio.new_event_loop()"),
    (subprocess.Popen, "__init__", "sim.process", "subprocess.Popen()"),
    (BaseProcess, "start", "sim.process", "multiprocessing.Process.start()"),
    (os, "fork", "sim.process", "os.fork()"),
    (os, "posix_spawn", "sim.process", "os.posix_spawn()"),
    (os, "posix_spawnp", "sim.process", "os.posix_spawnp()"),
    (os, "system", "sim.process", "os.system()"),
    (time, "sleep", "sim.sleep", "time.sleep()"),
)
"""(owner, attribute, error code, how a reader calls it); missing ones are not on this platform."""


@contextmanager
def fence(*, now_ns: Callable[[], int], wall_ns: Callable[[], int], seed: int) -> Iterator[None]:
    """Put the fence up around the calling thread. Not reentrant: one at a time in a process.

    `now_ns` and `wall_ns` give virtual nanoseconds since the start and since 1970.
    """
    here = threading.get_ident()
    entropy = random.Random(f"entropy:{seed}")
    virtual: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
        (time, "time", lambda: wall_ns() / 1e9),
        (time, "time_ns", wall_ns),
        (time, "monotonic", lambda: now_ns() / 1e9),
        (time, "monotonic_ns", now_ns),
        (os, "urandom", entropy.randbytes),
    )
    refused = (
        (owner, name, _refuses(code, what))
        for owner, name, code, what in _REFUSED
        if hasattr(owner, name)
    )
    state = random.getstate()
    with ExitStack() as restore:
        restore.callback(random.setstate, state)
        random.seed(f"global:{seed}")
        for owner, name, inside in (*virtual, *refused):
            # `__dict__`, not getattr: a static or inherited attribute must go back as it was.
            outside = owner.__dict__[name]
            restore.callback(setattr, owner, name, outside)
            setattr(owner, name, _by_thread(here, inside, outside))
        yield


def _by_thread(
    here: int, inside: Callable[..., Any], outside: Callable[..., Any]
) -> Callable[..., Any]:
    """Calls `inside` on the simulating thread and `outside` on every other."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return (inside if threading.get_ident() == here else outside)(*args, **kwargs)

    return call


def _refuses(code: str, what: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise refusal(code, what)

    return refuse
