"""From a policy, a machine and a program to everything a supervisor does: pure, plain JSON.

Whoever performs it decides nothing; so what a sandbox is made of can be read and tested here.
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from stageflow.stages.work.sandbox import kernel, landlock
from stageflow.stages.work.sandbox.machine import Machine
from stageflow.stages.work.sandbox.needs import BackEnd, is_walled
from stageflow.stages.work.sandbox.policy import SandboxPolicy
from stageflow.stages.work.sandbox.seccomp import Allowance, filter_program
from stageflow.stages.work.sandbox.syscalls import ARCHITECTURES

SYSTEM: Final = (
    "/usr",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/ssl/certs",
)
"""What programs need of a system, read only."""
LINKED: Final = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")
"""Links into /usr on most systems, folders on some."""
DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
HOME: Final = "/tmp"
PROGRAM: Final = "/program"
"""The folder of the files that a program is given."""
PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_ADDRESSES: Final = "127.83.0."
"""Inside, each listed host has an address of its own on this loopback network."""


@dataclass(frozen=True, slots=True)
class Errand:
    """What is to be run: `argv`, and files by the name that they have in PROGRAM."""

    argv: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or folder of the host at `inside`."""

    source: str
    inside: str
    writable: bool
    device: bool = False


def made_of(
    policy: SandboxPolicy,
    machine: Machine,
    back_end: BackEnd,
    program: Errand,
    binds: Sequence[Bind],
) -> dict[str, Any]:
    """The recipe. `binds` is what `granted` found when the sandbox was made."""
    walled = is_walled(machine)
    wasm = back_end == "wasm"
    tcp = bool(policy.network)
    hosts = {
        endpoint.host: f"{_ADDRESSES}{at}"
        for at, endpoint in enumerate(dict.fromkeys(policy.endpoints()), start=1)
    }
    return {
        "back_end": back_end,
        "argv": list(program.argv),
        "environment": environment(policy),
        "walled": walled,
        "namespaces": kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID,
        "files": {name: _text(body) for name, body in program.files.items()},
        "binds": [asdict(each) for each in binds],
        "links": [] if wasm else _links(),
        "etc": _etc(hosts),
        "proc": not machine.no_proc and not wasm,
        "scratch_bytes": policy.scratch_bytes,
        "cwd": HOME if policy.scratch_bytes else "/",
        "landlock": _landlock(policy, machine, binds, tcp=tcp) if walled else None,
        "seccomp": _seccomp(policy, machine, wasm=wasm) if walled else None,
        "rlimits": rlimits(policy, machine, wasm=wasm),
        # What groups hold of a process, wasmtime holds of its guest, and sooner.
        "cgroups": [] if wasm else [asdict(each) for each in machine.cgroups],
        "group_limits": group_limits(policy),
        "cpu_s": policy.cpu_s,
        "wall_s": policy.wall_s,
        "listen": [[hosts[each.host], each.port] for each in policy.endpoints()],
        "memory_bytes": policy.memory_bytes,
    }


def environment(policy: SandboxPolicy) -> dict[str, str]:
    """The whole environment of the program."""
    given = {"PATH": PATH, "HOME": HOME, "TMPDIR": HOME, "LANG": "C.UTF-8", "USER": "sandbox"}
    return {**given, **policy.environment}


def granted(policy: SandboxPolicy, *, wasm: bool) -> list[Bind]:
    """The files of the host that exist inside, parents before what lies in them. Follows links."""
    found = []
    for each in policy.read:
        found.append(Bind(os.path.realpath(each), each, writable=False))
    for each in policy.write:
        found.append(Bind(os.path.realpath(each), each, writable=True))
    if not wasm:
        system = [*SYSTEM, *(each for each in LINKED if not Path(each).is_symlink())]
        for each in (*system, *interpreter()[1]):
            if Path(each).exists():  # what this system lacks, its programs don't need
                found.append(Bind(os.path.realpath(each), each, writable=False))
        found += [Bind(each, each, writable=True, device=True) for each in DEVICES]
    return sorted(found, key=lambda each: (each.inside.count("/"), each.inside))


def group_limits(policy: SandboxPolicy) -> dict[str, int]:
    """Of the run's control groups; one task is the init process inside."""
    return {"memory_bytes": policy.memory_bytes, "tasks_max": policy.tasks_max + 1}


def rlimits(policy: SandboxPolicy, machine: Machine, *, wasm: bool) -> dict[str, int]:
    """By the names of the resource module. What a group holds needs none, but they cost nothing."""
    found = {
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": policy.open_files_max,
        "RLIMIT_FSIZE": policy.file_bytes_max,
        "RLIMIT_CPU": int(policy.cpu_s) + 2,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_MEMLOCK": 64 * 1024,
    }
    if not wasm and machine.cgroup("memory") is None:
        found["RLIMIT_AS"] = policy.memory_bytes
    if not wasm and machine.cgroup("pids") is None and not machine.root:
        found["RLIMIT_NPROC"] = policy.tasks_max + 2
    return found


def interpreter() -> tuple[str, tuple[str, ...]]:
    """The Python that programs are run with, and what of the host it has to read: this one's, as
    it was installed, without the packages of a virtual environment."""
    path = os.path.realpath(sys.executable)
    prefix = os.path.realpath(sys.base_prefix)
    return path, () if prefix == "/usr" else (prefix,)


def _landlock(
    policy: SandboxPolicy, machine: Machine, binds: Sequence[Bind], *, tcp: bool
) -> dict[str, Any]:
    abi = machine.landlock_abi
    rules = [["/", landlock.LIST], [PROGRAM, landlock.READ], ["/etc", landlock.READ]]
    if policy.scratch_bytes:
        rules.append([HOME, landlock.writing(abi)])
    if not machine.no_proc:
        rules.append(["/proc", landlock.READ])
    for bind in binds:
        rights = landlock.writing(abi) if bind.writable else landlock.READ
        rules.append([bind.inside, landlock.DEVICE if bind.device else rights])
    return {"abi": abi, "rules": rules, "tcp": tcp}


def _seccomp(policy: SandboxPolicy, machine: Machine, *, wasm: bool) -> str:
    allowance = Allowance(tcp=bool(policy.network), tasks=wasm or policy.tasks_max > 1)
    return _text(filter_program(ARCHITECTURES[machine.architecture], allowance))


def _links() -> list[list[str]]:
    """(where, to) of links at the root."""
    return [[each, str(Path(each).readlink())] for each in LINKED if Path(each).is_symlink()]


def _etc(hosts: Mapping[str, str]) -> dict[str, str]:
    """Files of /etc that a program finds instead of the host's."""
    names = "".join(f"{address} {host}\n" for host, address in hosts.items())
    return {
        "passwd": f"sandbox:x:1000:1000:sandbox:{HOME}:/bin/sh\n",
        "group": "sandbox:x:1000:\n",
        "hosts": f"127.0.0.1 localhost sandbox\n::1 localhost\n{names}",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    }


def _text(body: bytes) -> str:
    return base64.b64encode(body).decode("ascii")
