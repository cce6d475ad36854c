"""Which primitives a policy rests on, and which of them a machine lacks. Pure.

The rule: what can't be enforced is refused. Nothing here chooses a weaker way in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from stageflow.stages.work.sandbox.cgroup import CPU, MEMORY, TASKS
from stageflow.stages.work.sandbox.machine import Machine
from stageflow.stages.work.sandbox.policy import SandboxPolicy

BackEnd = Literal["process", "wasm"]
BACK_ENDS: Final[tuple[BackEnd, ...]] = ("process", "wasm")
_GROUPS: Final = (
    "a control group that may be made here (run in a delegated one: systemd-run --user --scope "
    "-p Delegate=yes)"
)


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that a policy asks for: its words, what holds it, and the mend where that lacks.

    `by` is what enforces it on this machine; empty when nothing does.
    """

    feature: str
    by: str
    mend: str

    @property
    def met(self) -> bool:
        """Whether this machine can hold it."""
        return bool(self.by)


def needs(policy: SandboxPolicy, machine: Machine, back_end: BackEnd) -> list[Need]:
    """Everything that `policy` asks of this back end, met or not, in the policy's order."""
    return _wasm(policy, machine) if back_end == "wasm" else _process(policy, machine)


def is_walled(machine: Machine) -> bool:
    """Whether namespaces, Landlock and seccomp are all here: the walls of a process."""
    return (
        machine.known_architecture
        and not machine.no_namespaces
        and machine.landlock_abi > 0
        and machine.seccomp
    )


def _process(policy: SandboxPolicy, machine: Machine) -> list[Need]:
    linux = "Linux on x86_64 or aarch64"
    single = policy.tasks_max == 1
    found = [
        _when(machine.known_architecture, "platform", linux, f"run on {linux}"),
        _when(
            not machine.no_namespaces,
            "filesystem, network, processes",
            "user, mount, pid, net, ipc, uts and cgroup namespaces",
            f"allow user namespaces ({machine.no_namespaces})",
        ),
        _when(
            machine.landlock_abi > 0,
            "filesystem, second wall",
            f"Landlock ABI {machine.landlock_abi}",
            "Linux 5.13 or later, started with landlock among its security modules",
        ),
        _when(
            machine.seccomp,
            "system calls",
            "a seccomp filter",
            "a kernel with CONFIG_SECCOMP_FILTER",
        ),
        _capped(machine, "memory_bytes", MEMORY, "RLIMIT_AS of the one process" if single else ""),
        _capped(machine, "cpu_s", CPU, "the processor clock of the one process" if single else ""),
        _capped(machine, "tasks_max", TASKS, _tasks_otherwise(machine, single)),
    ]
    return [*found, *_others(policy)]


def _wasm(policy: SandboxPolicy, machine: Machine) -> list[Need]:
    walls = " behind the walls of a process" if is_walled(machine) else ""
    return [
        _when(
            not machine.no_wasm, "platform", f"wasmtime and CPython on WASI{walls}", machine.no_wasm
        ),
        _when(
            not policy.network,
            "network",
            "none: WASI has no call that connects",
            'network=(), or back_end="process"',
        ),
        _when(
            policy.scratch_bytes == 0 or is_walled(machine),
            "scratch_bytes",
            "a tmpfs of that size" if policy.scratch_bytes else "none is given",
            "scratch_bytes=0, or allow user namespaces",
        ),
        Need("filesystem", "folders opened for WASI, nothing else has a name", ""),
        Need("memory_bytes", "the limit of the guest's memory", ""),
        Need("cpu_s", "the processor clock of the one process", ""),
        Need("tasks_max", "WASI has no call that starts a process or a thread", ""),
        *_others(policy),
    ]


def _others(policy: SandboxPolicy) -> list[Need]:
    return [
        Need("wall_s", "a supervisor that ends the run", ""),
        Need("output_bytes", "a reader that ends the run", ""),
        Need("open_files_max, file_bytes_max", "rlimits", ""),
        Need("environment", "an environment of its own", ""),
    ]


def _tasks_otherwise(machine: Machine, single: bool) -> str:
    if single:
        return "seccomp: no call that starts a task"
    return "" if machine.root else "RLIMIT_NPROC in a user namespace of its own"


def _capped(machine: Machine, feature: str, controller: str, otherwise: str) -> Need:
    place = machine.cgroup(controller)
    if place is not None:
        return Need(feature, f"cgroup v{place.version} {controller}", "")
    return Need(feature, otherwise, f"{_GROUPS}, or tasks_max=1")


def _when(here: bool, feature: str, by: str, mend: str) -> Need:
    return Need(feature, by if here else "", mend)
