"""Inside: the first process of a sandbox, which builds its root and starts the program.

It runs in a child of a supervisor and performs a recipe. The order matters: mounts before Landlock,
which forbids mounting; rights given up before the filter that would forbid giving them up; the
filter last. It ends with the program, and the kernel then ends all that are in its namespace.
"""

from __future__ import annotations

import base64
import contextlib
import os
import resource
import signal
import socket
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from stageflow.stages.work.sandbox import kernel
from stageflow.stages.work.sandbox.guest import run_guest
from stageflow.stages.work.sandbox.landlock import restrict
from stageflow.stages.work.sandbox.machine import OTHER_NAMESPACES
from stageflow.stages.work.sandbox.recipe import HOME, PROGRAM

_OLD: Final = "/.old"
BACKLOG: Final = 16
EXECUTING: Final = "executing"
"""The step at which a command turns out to be no program."""
FAILED: Final = 125
"""Exit status of a step that could not be performed; the report says which."""


class Inside:
    """One run, from the first process's view.

    `status` is where it reports, a JSON line; `standard` are the descriptors that become 0, 1 and
    2; `listening` takes the sockets of the allow-list. `loaded` is wasmtime's engine and module.
    `step` is where it stands, for the report of a failure.
    """

    def __init__(
        self,
        recipe: Mapping[str, Any],
        *,
        standard: tuple[int, int, int],
        listening: socket.socket,
        loaded: tuple[Any, Any] | None,
        files: str | None,
    ) -> None:
        self.recipe = recipe
        self.standard = standard
        self.listening = listening
        self.loaded = loaded
        self.files = files
        self.step = "building"

    def build(self) -> None:
        """Leaves the host's namespaces and makes a root of what the recipe grants."""
        if not self.recipe["walled"]:
            return
        kernel.unshare(OTHER_NAMESPACES)
        socket.sethostname("sandbox")
        kernel.set_loopback_up()
        _build_root(self.recipe)
        self._listen()

    def start(self) -> int:
        """The program's process, confined; its id here. This process then waits for it."""
        kernel.hide_memory()
        child = os.fork()
        if child == 0:
            self._become()
        for descriptor in self.standard:
            os.close(descriptor)
        self.listening.close()
        return child

    def _listen(self) -> None:
        """A socket per listed endpoint, on this namespace's loopback, handed out to be relayed."""
        made = []
        for address, port in self.recipe["listen"]:
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.bind((address, port))
            listener.listen(BACKLOG)
            made.append(listener)
        if made:
            socket.send_fds(self.listening, [b"l"], [each.fileno() for each in made])
        for each in made:
            each.close()

    def _become(self) -> NoReturn:
        """Turns this process into the program. Steps that fail are raised."""
        recipe = self.recipe
        kernel.die_with_parent()
        for at, descriptor in enumerate(self.standard):
            os.dup2(descriptor, at)
        wasm = recipe["back_end"] == "wasm"
        if not wasm:
            os.setsid()
            # Ignored signals stay ignored in a program; a guest's traps are signals of wasmtime's.
            for number in range(1, signal.NSIG):
                with contextlib.suppress(OSError, ValueError):  # those that can't be changed
                    signal.signal(number, signal.SIG_DFL)
        for name, value in recipe["rlimits"].items():
            resource.setrlimit(getattr(resource, name), (value, value))
        if recipe["walled"]:
            os.chdir(recipe["cwd"])
            kernel.drop_capabilities()
        kernel.no_new_privileges()
        if recipe["landlock"] is not None:
            given = recipe["landlock"]
            rules = [(path, rights) for path, rights in given["rules"] if Path(path).exists()]
            restrict(rules, abi=given["abi"], tcp=given["tcp"])
        if recipe["seccomp"] is not None:
            kernel.install_filter(base64.b64decode(recipe["seccomp"]))
        if not wasm:
            self.step = EXECUTING
            os.execve(recipe["argv"][0], recipe["argv"], recipe["environment"])
        assert self.loaded is not None
        run_guest(
            self.loaded,
            argv=recipe["argv"],
            environment=recipe["environment"],
            folders=_opened(recipe, self.files),
            memory_bytes=recipe["memory_bytes"],
        )


def wait_for(program: int) -> int:
    """Waits for the program and reaps all who lose their parents; the program's wait status."""
    while True:
        pid, status = os.wait()
        if pid == program:
            return status


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """The program's files, by name, from base64."""
    for name, body in files.items():
        (folder / name).write_bytes(base64.b64decode(body))


def _opened(recipe: Mapping[str, Any], files: str | None) -> list[tuple[str, str, bool]]:
    """(here, inside, writable) of each folder that a WASI guest is given. Files can't be."""
    here = {bind["inside"]: bind for bind in recipe["binds"]}
    found = [
        (bind["inside"] if recipe["walled"] else bind["source"], inside, bool(bind["writable"]))
        for inside, bind in here.items()
    ]
    if recipe["scratch_bytes"]:
        found.append((HOME, HOME, True))
    found.append((PROGRAM if files is None else files, PROGRAM, False))
    return found


def _build_root(recipe: Mapping[str, Any]) -> None:
    """A root of its own in memory; the host's is let go of at the end."""
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    root = tempfile.gettempdir()
    kernel.mount("tmpfs", root, kind="tmpfs", data="mode=0755,size=64m")
    os.chdir(root)
    Path(f".{_OLD}").mkdir()
    kernel.pivot_root(".", f".{_OLD}")
    os.chdir("/")
    for folder in ("/proc", "/etc", PROGRAM, "/dev"):
        Path(folder).mkdir()
    write_files(Path(PROGRAM), recipe["files"])
    for name, text in recipe["etc"].items():
        Path("/etc", name).write_text(text)
    Path(HOME).mkdir()
    if recipe["scratch_bytes"]:
        _scratch(int(recipe["scratch_bytes"]))
    for bind in recipe["binds"]:
        _bind(bind)
    for where, to in recipe["links"]:
        Path(where).symlink_to(to)
    Path("/dev/shm").symlink_to(HOME)
    Path("/dev/fd").symlink_to("/proc/self/fd")
    if recipe["proc"]:
        kernel.mount("proc", "/proc", kind="proc", flags=_PLAIN)
        # User 0 of the host may write /proc/sys without any capability; a read-only mount stops it.
        kernel.set_mount_attributes("/proc", kernel.ATTR_RDONLY)
    kernel.unmount(_OLD)
    Path(_OLD).rmdir()
    kernel.mount("none", "/", flags=kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | _PLAIN)


_PLAIN: Final = kernel.MS_NOSUID | kernel.MS_NODEV


def _scratch(size: int) -> None:
    kernel.mount("tmpfs", HOME, kind="tmpfs", flags=_PLAIN, data=f"mode=0700,size={size}")


def _bind(bind: Mapping[str, Any]) -> None:
    """Mounts one granted path; what it needs above it is made, unless it is there already."""
    inside = Path(bind["inside"])
    # Its links were followed when the policy was made. One that has come since is refused, for a
    # program with a writable folder could have put it there to be given another in its next run.
    source = kernel.open_without_links(f"{_OLD}{bind['source']}")
    try:
        if not inside.exists():
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.mkdir() if stat.S_ISDIR(os.fstat(source).st_mode) else inside.touch()
        here = f"{_OLD}/proc/self/fd/{source}"
        kernel.mount(here, str(inside), flags=kernel.MS_BIND | kernel.MS_REC)
    finally:
        os.close(source)
    attributes = kernel.ATTR_NOSUID | (kernel.ATTR_NOEXEC if bind["device"] else kernel.ATTR_NODEV)
    # A read-only mount does not keep a device from being written, but its owner from chmod.
    if bind["device"] or not bind["writable"]:
        attributes |= kernel.ATTR_RDONLY
    kernel.set_mount_attributes(str(inside), attributes)
