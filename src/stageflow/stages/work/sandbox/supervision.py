"""Outside: the process that starts one sandbox, watches its caps, ends it and reports.

It is forked by the warden for one run. Everything it owns ends with it: the processes inside die
with their init process, that one with its parent, and control groups are removed when empty.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from stageflow.stages.work.sandbox import kernel
from stageflow.stages.work.sandbox.cgroup import Group, GroupLimits, GroupPlace, made
from stageflow.stages.work.sandbox.confinement import FAILED, Inside, wait_for, write_files
from stageflow.stages.work.sandbox.machine import enter_user_namespace

INSIDE_USER: Final = 1000
_LOOK_S: Final = 0.01
"""Between two looks at the processor clock: an overshoot of a tenth of the smallest `cpu_s`."""


class Supervisor:
    """One run. `control` is the line to whoever asked; when it closes, the run is ended."""

    def __init__(
        self,
        recipe: Mapping[str, Any],
        *,
        control: socket.socket,
        standard: tuple[int, int, int],
        loaded: tuple[Any, Any] | None,
    ) -> None:
        self.recipe = recipe
        self.control = control
        self.standard = standard
        self.loaded = loaded
        self._told_s = 0.0

    def run(self) -> dict[str, Any]:
        """Starts, watches and ends it; the report."""
        recipe = self.recipe
        limits = GroupLimits(**recipe["group_limits"])
        where = [GroupPlace(**each) for each in recipe["cgroups"]]
        with contextlib.ExitStack() as owned:
            files = None if recipe["walled"] else owned.enter_context(_folder(recipe["files"]))
            group = owned.enter_context(made(where, f"stageflow-{os.getpid()}", limits))
            if recipe["walled"]:
                enter_user_namespace(INSIDE_USER, flags=recipe["namespaces"])
            return self._watched(group, files)

    def _watched(self, group: Group, files: str | None) -> dict[str, Any]:
        status_read, status_write = os.pipe()
        go_read, go_write = os.pipe()
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        first = os.fork()
        if first == 0:
            for each in (status_read, go_write):
                os.close(each)
            ours.close()
            self.control.close()
            inside = Inside(
                self.recipe,
                standard=self.standard,
                listening=theirs,
                loaded=self.loaded,
                files=files,
            )
            _first_process(inside, go=go_read, status=status_write, parent=parent)
        for descriptor in (status_write, go_read, *self.standard):
            os.close(descriptor)
        theirs.close()
        group.add(first)
        os.write(go_write, b"g")
        os.close(go_write)
        with ours, os.fdopen(status_read, "rb", buffering=0) as status:
            said, ended, seen_s = self._until_over(first, status, ours, group)
        wall_s = time.monotonic() - self._told_s if self._told_s else 0.0
        cpu_s = group.cpu_s()
        return {
            **said,
            "ended": "memory" if group.out_of_memory() else ended,
            "wall_s": wall_s,
            "cpu_s": max(seen_s, _children_s()) if cpu_s is None else cpu_s,
            "memory_bytes": group.memory_peak_bytes(),
        }

    def _until_over(
        self, first: int, status: Any, listening: socket.socket, group: Group
    ) -> tuple[dict[str, Any], str | None, float]:
        """Watches until the first process is gone. What it said, the cap that ended it, and the
        processor seconds that were seen last: those of a process that was killed reach nobody."""
        cpu = _cpu_clock(group, first)
        waiting = [status, self.control, listening]
        said, ended, used_s = b"", None, 0.0
        while status in waiting:
            wait_s = _LOOK_S if self._told_s else None  # nothing is used while nothing is to do
            ready, _, _ = select.select(waiting, [], [], wait_s)
            if listening in ready:
                waiting.remove(listening)
                self._hand_on(listening)
            if status in ready:
                part = status.read(65_536)
                said += part
                if not part:
                    waiting.remove(status)
            if self.control in ready and not self._hear():
                ended = "asked"
            elif self._told_s and time.monotonic() - self._told_s >= self.recipe["wall_s"]:
                ended = "wall"
            elif (used_s := max(used_s, cpu())) >= float(self.recipe["cpu_s"]):
                ended = "cpu"
            elif group.out_of_memory():
                ended = "memory"
            if ended is not None:
                break
        _kill(first, group_too=not self.recipe["walled"])
        # The end of an init process is complete when the last process of its namespace is gone.
        os.waitpid(first, 0)
        if ended is not None:
            said += status.read(65_536)
        return _told(said), ended, used_s

    def _hear(self) -> bool:
        """The program is given now, from when its time counts; False when nobody asks any more."""
        if not self.control.recv(1):
            return False
        self._told_s = time.monotonic()
        return True

    def _hand_on(self, listening: socket.socket) -> None:
        """Passes the listening sockets to whoever relays them."""
        message, sockets, _, _ = socket.recv_fds(listening, 1, 64)
        if message:
            line = json.dumps({"listening": len(sockets)}).encode() + b"\n"
            socket.send_fds(self.control, [line], sockets)
        for each in sockets:
            os.close(each)


def _first_process(inside: Inside, *, go: int, status: int, parent: int) -> NoReturn:
    """The init process of the sandbox, and by way of a fork in it the program."""
    told: dict[str, Any] = {}
    try:
        os.setsid()
        kernel.die_with_parent()
        if inside.recipe["walled"] or os.getppid() == parent:
            inside.build()
        # Moving a process into its groups takes the kernel some milliseconds, so that both go on
        # side by side; the program is started by one who is in them.
        if os.read(go, 1) == b"g":
            told = {"status": wait_for(inside.start())}
    except BaseException as error:  # whatever it is, the one outside is told
        said = f"{type(error).__name__}: {error}"[:1_000]
        told = {"failed": said, "step": inside.step}
    finally:
        with contextlib.suppress(OSError):
            os.write(status, json.dumps(told).encode() + b"\n")
        os._exit(FAILED if "failed" in told else 0)


def _told(lines: bytes) -> dict[str, Any]:
    """What the first process and the program's said: a failure goes before a status."""
    said: dict[str, Any] = {}
    for line in lines.splitlines():
        said = {**json.loads(line), **said}
    return said


@contextlib.contextmanager
def _folder(files: Mapping[str, str]) -> Any:
    """Where a guest's files lie when there is no root of its own to put them."""
    folder = tempfile.mkdtemp(prefix="stageflow-program-")
    try:
        write_files(Path(folder), files)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _cpu_clock(group: Group, first: int) -> Callable[[], float]:
    """Processor seconds so far: of the group, else of the one process inside."""
    if group.cpu_s() is not None:
        return lambda: group.cpu_s() or 0.0
    found: list[int] = []

    def one() -> float:
        if not found:
            with contextlib.suppress(OSError):
                children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
                found.extend(int(each) for each in children[:1])
        try:
            return time.clock_gettime((~found[0] << 3) | 2) if found else 0.0  # CPUCLOCK_SCHED
        except OSError:
            return 0.0

    return one


def _children_s() -> float:
    import resource  # not on every platform, and this file is imported on all of them

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _kill(first: int, *, group_too: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(first, signal.SIGKILL) if group_too else os.kill(first, signal.SIGKILL)
