"""What this machine can hold a program with: found by trying, never by a version number."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stageflow.stages.work.sandbox import kernel
from stageflow.stages.work.sandbox.cgroup import GroupPlace, places, usable
from stageflow.stages.work.sandbox.landlock import landlock_abi
from stageflow.stages.work.sandbox.syscalls import ARCHITECTURES
from stageflow.stages.work.sandbox.wasm import wasm_problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The primitives that are here. Texts `no_*` say why one is not; empty where it is."""

    platform: str
    architecture: str
    kernel: str
    root: bool
    """Whether it is the host's user 0 that asks, whom RLIMIT_NPROC does not bind."""
    landlock_abi: int
    seccomp: bool
    no_namespaces: str
    no_proc: str
    """/proc of a new process namespace; without it a sandbox has none."""
    no_wasm: str
    cgroups: tuple[GroupPlace, ...]

    def cgroup(self, controller: str) -> GroupPlace | None:
        """Where groups of a controller can be made."""
        return next((each for each in self.cgroups if each.controller == controller), None)

    @property
    def known_architecture(self) -> bool:
        """Whether the numbers of its system calls are listed."""
        return self.platform == "linux" and self.architecture in ARCHITECTURES

    def to_json(self) -> dict[str, Any]:
        """As `machine_from` reads it."""
        return asdict(self)


def machine_from(data: Mapping[str, Any]) -> Machine:
    """The Machine that `to_json` wrote."""
    groups = tuple(GroupPlace(**each) for each in data["cgroups"])
    return Machine(**{**data, "cgroups": groups})


def probe() -> Machine:
    """Tries everything, in forked children where it would stick. Call it without threads."""
    name = platform.machine()
    linux = kernel.is_linux() and name in ARCHITECTURES
    tried = _tried_namespaces() if linux else {"namespaces": "needs Linux", "proc": "needs Linux"}
    return Machine(
        platform=sys.platform,
        architecture=name,
        kernel=platform.release(),
        root=hasattr(os, "geteuid") and os.geteuid() == 0,
        landlock_abi=landlock_abi() if linux else 0,
        seccomp=linux and _in_child(_try_seccomp) == "",
        no_namespaces=tried["namespaces"],
        no_proc=tried["proc"],
        no_wasm=wasm_problem() if linux else "needs Linux",
        cgroups=tuple(_groups()) if linux else (),
    )


def enter_user_namespace(inside: int, *, flags: int) -> None:
    """A user namespace of its own with one user, `inside`, who is the caller outside; with
    CLONE_NEWPID in `flags` the next child begins a process namespace. Raises OSError."""
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(flags)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{inside} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{inside} {gid} 1")


OTHER_NAMESPACES = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWCGROUP
)
"""What the first process inside a user namespace leaves behind."""


def _tried_namespaces() -> dict[str, str]:
    said = _in_child(_try_namespaces)
    if said.startswith("{"):
        found: dict[str, str] = json.loads(said)
        return found
    return {"namespaces": said or "no answer", "proc": said or "no answer"}


def _try_namespaces() -> str:
    enter_user_namespace(1000, flags=kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID)
    return _in_child(_try_mounts)


def _try_mounts() -> str:
    kernel.unshare(OTHER_NAMESPACES)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", tempfile.gettempdir(), kind="tmpfs")
    kernel.set_mount_attributes(tempfile.gettempdir(), kernel.ATTR_NODEV)
    kernel.set_loopback_up()
    proc = ""
    try:
        kernel.mount("proc", "/proc", kind="proc")
    except OSError as error:
        proc = str(error)
    return json.dumps({"namespaces": "", "proc": proc})


def _try_seccomp() -> str:
    kernel.no_new_privileges()
    kernel.install_filter(bytes.fromhex("0600000000 00ff7f".replace(" ", "")))
    return ""


def _groups() -> list[GroupPlace]:
    try:
        here = Path("/proc/self/cgroup").read_text()
        mounts = Path("/proc/self/mountinfo").read_text()
    except OSError:
        return []
    return usable(places(here, mounts))


def _in_child(attempt: Any) -> str:
    """What `attempt` returns in a forked child, or the error it met; bounded by an alarm."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        said = "failed"
        try:
            said = attempt()
        except BaseException as error:  # a probe that fails in any way is an answer
            said = str(error) or type(error).__name__
        finally:
            with contextlib.suppress(OSError):
                os.write(write_end, said.encode()[:4000])
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answers:
        said = answers.read().decode()
    os.waitpid(child, 0)
    return said
