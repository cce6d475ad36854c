"""Threads, sockets, child processes and real sleep: refused inside, untouched outside."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from stageflow.model.errors import SimulationError
from stageflow.sim import Sim, simulate

# Each call looks its name up when it is made: a name taken earlier is not seen by the fence.
SYNC: list[tuple[str, Callable[[], Any]]] = [
    ("sim.thread", lambda: threading.Thread(target=int).start()),
    ("sim.thread", lambda: threading.Timer(1, int).start()),
    ("sim.socket", socket.socket),
    ("sim.socket", lambda: socket.socketpair()),  # noqa: PLW0108
    ("sim.socket", lambda: socket.create_connection(("localhost", 9))),
    ("sim.socket", lambda: asyncio.new_event_loop()),  # noqa: PLW0108
    ("sim.process", lambda: subprocess.run(["true"], check=False)),
    ("sim.process", lambda: os.fork()),  # noqa: PLW0108
    ("sim.process", lambda: os.system("true")),
    ("sim.process", lambda: multiprocessing.get_context("spawn").Process(target=int).start()),
    ("sim.sleep", lambda: time.sleep(1)),
    ("sim.socket", lambda: asyncio.get_running_loop().add_reader(0, int)),
    ("sim.socket", lambda: asyncio.get_running_loop().remove_writer(0)),
    ("sim.signal", lambda: asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, int)),
    ("sim.thread", lambda: asyncio.get_running_loop().run_in_executor(None, int)),
]
ASYNC: list[tuple[str, Callable[[], Any]]] = [
    ("sim.thread", lambda: asyncio.to_thread(int)),
    ("sim.socket", lambda: asyncio.open_connection("localhost", 9)),
    ("sim.socket", lambda: asyncio.start_server(print, "localhost", 0)),
    ("sim.socket", lambda: asyncio.get_running_loop().getaddrinfo("localhost", 9)),
    ("sim.process", lambda: asyncio.create_subprocess_exec("true")),
    ("sim.process", lambda: asyncio.create_subprocess_shell("true")),
]


def test_what_needs_the_real_world_is_refused_by_name() -> None:
    async def main(sim: Sim) -> None:
        for code, call in SYNC:
            with pytest.raises(SimulationError) as caught:
                call()
            assert caught.value.code == code and caught.value.fix
        for code, call in ASYNC:
            with pytest.raises(SimulationError) as caught:
                await call()
            assert caught.value.code == code and caught.value.fix

    result = simulate(main, seed=1)
    assert result.leftover == () and result.unhandled == ()


def test_a_refusal_reaches_the_caller_of_simulate() -> None:
    async def main(sim: Sim) -> None:
        await asyncio.to_thread(int)

    with pytest.raises(SimulationError, match=r"sim\.thread"):
        simulate(main, seed=1)


def test_everything_is_given_back() -> None:
    before = [vars(owner)[name] for owner, name in _PATCHED]

    async def main(sim: Sim) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        simulate(main, seed=1)
    assert [vars(owner)[name] for owner, name in _PATCHED] == before


_PATCHED: list[tuple[Any, str]] = [
    (threading.Thread, "start"),
    (socket.socket, "__init__"),
    (subprocess.Popen, "__init__"),
    (os, "fork"),
    (os, "urandom"),
    (time, "time"),
    (time, "monotonic"),
    (time, "sleep"),
]


def test_other_threads_go_on_as_before() -> None:
    inside, finish = threading.Event(), threading.Event()
    seen: dict[str, Any] = {}

    def outside() -> None:
        inside.wait()
        seen["time"] = time.time()
        with socket.socket():
            pass
        child = threading.Thread(target=seen.setdefault, args=("child", True))
        child.start()
        child.join()
        finish.set()

    async def main(sim: Sim) -> None:
        inside.set()
        finish.wait()
        sim.loop.call_soon_threadsafe(int)

    thread = threading.Thread(target=outside)
    thread.start()
    before = time.time()
    simulate(main, seed=1)
    thread.join()
    assert seen["child"] and before <= seen["time"] <= time.time()


def test_another_thread_cannot_reach_into_the_loop() -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    inside, finish = threading.Event(), threading.Event()
    refused: list[str] = []

    def outside() -> None:
        inside.wait()
        try:
            loops[0].call_soon_threadsafe(int)
        except SimulationError as error:
            refused.append(error.code)
        finish.set()

    async def main(sim: Sim) -> None:
        loops.append(sim.loop)
        inside.set()
        finish.wait()

    thread = threading.Thread(target=outside)
    thread.start()
    simulate(main, seed=1)
    thread.join()
    assert refused == ["sim.thread"]


def test_simulations_in_several_threads_take_turns() -> None:
    async def main(sim: Sim) -> float:
        for _ in range(100):
            await asyncio.sleep(0.5)
        return time.time()

    found: list[float] = []
    threads = [
        threading.Thread(target=lambda: found.append(simulate(main, seed=1).value))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1
    assert time.time() != found[0]


def test_a_simulation_inside_a_running_loop_is_refused() -> None:
    async def main(sim: Sim) -> None: ...

    async def run() -> None:
        simulate(main, seed=1)

    with pytest.raises(SimulationError) as caught:
        asyncio.run(run())
    assert caught.value.code == "sim.nested"
    with pytest.raises(SimulationError) as caught:
        simulate(lambda sim: run(), seed=1)
    assert caught.value.code == "sim.nested"
