"""What sandboxes get wrong, as sabotages of WORK-001."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from stageflow.stages.work.sandbox import (
    ExitReason,
    Sandbox,
    SandboxPolicy,
    SandboxResult,
    Usage,
    kernel,
    recipe,
    seccomp,
)
from stageflow.stages.work.sandbox import sandbox as face
from stageflow.stages.work.sandbox.syscalls import ALLOWED

from ...sabotage import Sabotage, patched, sabotage

_MARK: Final = "\x1eoutput\x1e"
_RESTRICTED: Final = """
import builtins, json, sys
code, inputs = json.load(sys.stdin)
names = ("print len range str int float list dict tuple set sum sorted isinstance object type "
    "Exception ValueError ZeroDivisionError __build_class__").split()
kept = {n: getattr(builtins, n) for n in names}
scope = {"__name__": "m", "inputs": inputs, "__builtins__": kept}
exec(code, scope)
if "output" in scope: print("MARK" + json.dumps(scope["output"]))
""".replace("MARK", _MARK)


@sabotage(metric="escapes")
def restricted_builtins_exec() -> Iterator[None]:
    """Programs are handed to `exec` with a dozen harmless builtins, in a process without walls."""

    async def run_python(
        self: Sandbox, code: str, inputs: Mapping[str, Any] | None = None, *, stdin: bytes = b""
    ) -> SandboxResult:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", _RESTRICTED),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        given = json.dumps([code, dict(inputs or {})]).encode()
        out, err = await process.communicate(given)
        printed, mark, value = out.partition(_MARK.encode())
        ended = ExitReason.OK if process.returncode == 0 else ExitReason.ERROR
        usage = Usage(0.0, None, None)
        return SandboxResult(
            ended, process.returncode, printed, err, usage, json.loads(value) if mark else None
        )

    with patched(Sandbox, "run_python", run_python):
        yield


@sabotage(metric="escapes")
def seccomp_without_connect() -> Iterator[None]:
    """The filter leaves sockets and `connect` to whoever asks: the namespace is thought to do."""

    def socket_rules(allowance: seccomp.Allowance) -> dict[str, seccomp.Rule]:
        names = ("socket", "connect", "bind", "listen", "accept", "accept4")
        return dict.fromkeys(names, seccomp.Rule((), seccomp.ALLOW, seccomp.ALLOW))

    with patched(seccomp, "socket_rules", socket_rules):
        yield


@sabotage(metric="canaries_unchanged")
def granted_to_write() -> Iterator[None]:
    """What may be read may be written as well."""
    original = recipe.granted

    def granted(policy: SandboxPolicy, *, wasm: bool) -> list[recipe.Bind]:
        return [
            replace(bind, writable=bind.writable or bind.inside in policy.read)
            for bind in original(policy, wasm=wasm)
        ]

    with patched(face, "granted", granted):
        yield


@sabotage(metric="caps_overshoot")
def caps_counted_double() -> Iterator[None]:
    """Every cap is held to twice its value."""
    original = Sandbox.__init__
    names = "memory_bytes cpu_s wall_s tasks_max output_bytes scratch_bytes open_files_max".split()

    def made(self: Sandbox, policy: SandboxPolicy | None = None, **options: Any) -> None:
        given = SandboxPolicy() if policy is None else policy
        doubled = {name: 2 * getattr(given, name) for name in (*names, "file_bytes_max")}
        original(self, replace(given, **doubled), **options)

    with patched(Sandbox, "__init__", made):
        yield


@sabotage(metric="survivors")
def only_the_program_is_ended() -> Iterator[None]:
    """There is no process namespace, so that the end of a program ends none that it started."""
    original = recipe.made_of

    def made_of(*given: Any) -> dict[str, Any]:
        changed = {"namespaces": kernel.CLONE_NEWUSER, "proc": False, "cgroups": []}
        return {**original(*given), **changed}

    with patched(face, "made_of", made_of):
        yield


@sabotage(metric="benign_success")
def filter_forgets_rename() -> Iterator[None]:
    """The list of allowed calls lacks those that rename a file."""
    lacking = ALLOWED - {"rename", "renameat", "renameat2"}
    with patched(seccomp, "ALLOWED", lacking):
        yield


@sabotage(metric="start_process")
def started_anew_each_time() -> Iterator[None]:
    """What starts programs is started for each program."""
    original = Sandbox.run_python

    async def run_python(self: Sandbox, *given: Any, **options: Any) -> SandboxResult:
        async with Sandbox(self.policy, back_end=self.back_end) as fresh:
            return await original(fresh, *given, **options)

    with patched(Sandbox, "run_python", run_python):
        yield


DEFECTS: Final[tuple[Sabotage, ...]] = (
    restricted_builtins_exec,
    seccomp_without_connect,
    granted_to_write,
    caps_counted_double,
    only_the_program_is_ended,
    filter_forgets_rename,
    started_anew_each_time,
)
