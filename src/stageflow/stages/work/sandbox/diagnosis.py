"""What `stageflow doctor` says: each primitive, whether it is here, and what rests on it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stageflow.stages.work.sandbox.machine import Machine
from stageflow.stages.work.sandbox.needs import BackEnd, needs
from stageflow.stages.work.sandbox.policy import SandboxPolicy


@dataclass(frozen=True, slots=True)
class Primitive:
    """One thing that a machine has or lacks. `said` is its version, or why it is not here."""

    name: str
    here: bool
    said: str
    backs: tuple[str, ...]
    """Fields of a policy, and what else rests on it."""


def primitives(machine: Machine) -> list[Primitive]:
    """Every primitive of both back ends, in the order in which they wall a program in."""
    groups = [
        ("memory", ("memory_bytes",)),
        ("cpu", ("cpu_s",)),
        ("pids", ("tasks_max",)),
    ]
    walls = ("read", "write", "network", "scratch_bytes", "no survivors")
    return [
        Primitive(
            "system calls",
            machine.known_architecture,
            f"{machine.platform} {machine.kernel} on {machine.architecture}",
            ("the process back end",),
        ),
        Primitive(
            "namespaces",
            not machine.no_namespaces,
            machine.no_namespaces or "user, mnt, pid, net, ipc, uts, cgroup",
            walls,
        ),
        Primitive(
            "/proc",
            not machine.no_proc,
            machine.no_proc or "of a process namespace",
            ("programs that read /proc",),
        ),
        Primitive(
            "Landlock",
            machine.landlock_abi > 0,
            f"ABI {machine.landlock_abi}" if machine.landlock_abi else "not in this kernel",
            ("read", "write", "network"),
        ),
        Primitive(
            "seccomp",
            machine.seccomp,
            "filters" if machine.seccomp else "no filters",
            ("system calls", "tasks_max=1"),
        ),
        *(_group(machine, name, backs) for name, backs in groups),
        Primitive(
            "WebAssembly",
            not machine.no_wasm,
            machine.no_wasm or "wasmtime, CPython 3.12",
            ("the wasm back end",),
        ),
    ]


def problems(machine: Machine, back_end: BackEnd) -> list[str]:
    """Why this back end can't hold the default policy here; empty when it can."""
    return [
        f"{each.feature}: {each.mend}"
        for each in needs(SandboxPolicy(), machine, back_end)
        if not each.met
    ]


def as_json(machine: Machine, back_ends: Sequence[BackEnd]) -> dict[str, Any]:
    """The whole diagnosis as plain data."""
    return {
        "primitives": [
            {"name": each.name, "here": each.here, "said": each.said, "backs": list(each.backs)}
            for each in primitives(machine)
        ],
        "back_ends": {
            name: {
                "ready": not problems(machine, name),
                "problems": problems(machine, name),
                "enforced_by": {
                    each.feature: each.by for each in needs(SandboxPolicy(), machine, name)
                },
            }
            for name in back_ends
        },
    }


def as_text(machine: Machine, back_ends: Sequence[BackEnd]) -> str:
    """The whole diagnosis as a table and a line a back end."""
    rows = [("primitive", "here", "what was found", "rests on it")]
    rows += [
        (each.name, "yes" if each.here else "no", each.said, ", ".join(each.backs))
        for each in primitives(machine)
    ]
    widths = [max(len(row[at]) for row in rows) for at in range(3)]
    lines = [
        "  ".join([*(row[at].ljust(widths[at]) for at in range(3)), row[3]]).rstrip()
        for row in rows
    ]
    for name in back_ends:
        found = problems(machine, name)
        lines.append("")
        lines.append(f"{name} back end: {'can not hold the default policy' if found else 'ready'}")
        lines += [f"  {each}" for each in found]
    return "\n".join(lines) + "\n"


def _group(machine: Machine, controller: str, backs: tuple[str, ...]) -> Primitive:
    place = machine.cgroup(controller)
    said = f"version {place.version}, {place.folder}" if place else "no group can be made here"
    return Primitive(f"cgroup {controller}", place is not None, said, backs)
