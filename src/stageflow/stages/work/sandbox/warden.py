"""The program that starts sandboxes: `python -m stageflow.stages.work.sandbox.warden FD [CACHE]`.

One process a `Sandbox`, without threads and with a clean environment, so that forking it is cheap
and gives away nothing. It forks a supervisor for each run and never reads a request itself: what
one program was given is in no memory that another one's process is copied from. With CACHE it has
the Python for WebAssembly ready. It ends when its channel closes.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from stageflow.model.errors import SandboxError
from stageflow.stages.work.sandbox import kernel, wasm
from stageflow.stages.work.sandbox.machine import probe
from stageflow.stages.work.sandbox.running import LENGTH_BYTES
from stageflow.stages.work.sandbox.supervision import Supervisor

DESCRIPTORS: Final = 4
"""Standard input, output, error, and the line to whoever asked."""


def main(arguments: Sequence[str]) -> int:
    """Answers what this machine can do, then serves until the channel closes."""
    channel = socket.socket(fileno=int(arguments[0]))
    loaded, problem = None, None
    if len(arguments) > 1:
        try:
            loaded = wasm.loaded(Path(arguments[1]) if arguments[1] else None)
        except SandboxError as error:
            told = (error.code, error.message, error.field, error.expected, error.got, error.fix)
            problem = list(told)
    hello = {"machine": probe().to_json(), "problem": problem}
    channel.sendall(json.dumps(hello).encode() + b"\n")
    tempfile.gettempdir()  # looked for once, here, and not in a namespace
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors are reaped by the kernel
    gc.collect()
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, 1, DESCRIPTORS)
        for each in descriptors:
            os.set_inheritable(each, False)  # what comes over a socket is not closed on exec
        if not message:
            return 0
        if os.fork() == 0:
            _serve(channel, descriptors, loaded)
        for each in descriptors:
            os.close(each)


def _serve(
    channel: socket.socket, descriptors: list[int], loaded: tuple[Any, Any] | None
) -> NoReturn:
    """One run, in a process of its own."""
    try:
        channel.close()
        kernel.die_with_parent()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        *standard, line = descriptors
        with socket.socket(fileno=line) as control:
            recipe = json.loads(_read(control, int.from_bytes(_read(control, LENGTH_BYTES))))
            first, second, third = standard
            supervisor = Supervisor(
                recipe, control=control, standard=(first, second, third), loaded=loaded
            )
            try:
                report = supervisor.run()
            except Exception as error:  # the one who asked is told, whatever it is
                report = {"failed": f"{type(error).__name__}: {error}"[:1_000]}
            with contextlib.suppress(OSError):  # nobody waits any more
                control.sendall(json.dumps(report).encode() + b"\n")
    finally:
        os._exit(0)


def _read(control: socket.socket, length: int) -> bytes:
    parts = []
    while length:
        part = control.recv(min(length, 1 << 20))
        if not part:
            os._exit(0)  # whoever asked has gone
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
