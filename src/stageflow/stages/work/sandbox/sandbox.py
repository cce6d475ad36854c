"""A sandbox for programs that nobody vouches for: started by the dozen, each of them alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from stageflow.model.errors import SandboxError
from stageflow.model.forms import form_of, is_count
from stageflow.stages.work.sandbox.machine import Machine, machine_from
from stageflow.stages.work.sandbox.needs import BACK_ENDS, BackEnd, needs
from stageflow.stages.work.sandbox.policy import SandboxPolicy
from stageflow.stages.work.sandbox.program import (
    OUT_OF_MEMORY,
    START,
    START_NAME,
    python_program,
    value_in,
)
from stageflow.stages.work.sandbox.recipe import (
    PROGRAM,
    Errand,
    granted,
    interpreter,
    made_of,
)
from stageflow.stages.work.sandbox.result import ExitReason, SandboxResult, Usage
from stageflow.stages.work.sandbox.running import LENGTH_BYTES, Ran, Running

AT_ONCE: Final = 8
OPEN_S: Final = 300.0
"""For a first start, in which Python for WebAssembly is compiled."""
CLOSE_S: Final = 5.0
STDIN_BYTES_MAX: Final = 64 * 1024 * 1024
_KEPT: Final = ("PATH", "PYTHONPATH", "HOME", "XDG_CACHE_HOME", "PYTHONDONTWRITEBYTECODE")
"""What the warden is given of the environment. Programs are given none of it."""


class Sandbox:
    """Runs programs under one policy, `at_once` of them side by side; further ones wait.

    `back_end` "process" runs any command behind Linux's own walls: namespaces, Landlock, seccomp
    and control groups. "wasm" runs Python alone, compiled to WebAssembly, behind those walls where
    they are here. What the policy asks and this machine can't hold is refused by `open`, and by the
    first run: SandboxError `sandbox.not_enforced`. Nothing is ever weakened instead.

    Use it as an async context manager, or call `aclose`. One event loop; any number of tasks.
    `cache` is where the compiled Python is kept, by default in the user's cache folder.
    """

    def __init__(
        self,
        policy: SandboxPolicy | None = None,
        *,
        back_end: BackEnd = "process",
        at_once: int = AT_ONCE,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        if back_end not in BACK_ENDS:
            raise _policy("back_end", " or ".join(BACK_ENDS), repr(back_end)[:40])
        if not is_count(at_once, least=1):
            raise _policy("at_once", "a number of runs from 1 on", repr(at_once)[:40])
        if policy is not None and not isinstance(policy, SandboxPolicy):
            raise _policy("policy", "a SandboxPolicy", form_of(policy))
        self.policy = SandboxPolicy() if policy is None else policy
        self.back_end = back_end
        self._binds = granted(self.policy, wasm=back_end == "wasm")
        if back_end == "wasm":
            for bind in self._binds:
                if not Path(bind.source).is_dir():
                    raise _policy("read", "folders: WASI opens no single file", bind.inside[:80])
        self._cache = "" if cache is None else os.fspath(cache)
        self._places = asyncio.Semaphore(at_once)
        self._opening = asyncio.Lock()
        self._warden: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._machine: Machine | None = None
        self._closed = False
        self._ready: Running | None = None
        self._runs: set[Running] = set()

    async def __aenter__(self) -> Sandbox:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def open(self) -> Machine:
        """Starts what starts programs, and checks that the policy can be held here. Any number of
        times. Raises SandboxError `sandbox.not_enforced`, `sandbox.missing_extra`,
        `sandbox.component`, `sandbox.start`, `sandbox.closed`."""
        # The lock keeps two first runs from starting two wardens.
        async with self._opening:
            if self._closed:
                raise SandboxError(
                    "sandbox.closed", "this sandbox was closed", fix="make another Sandbox"
                )
            if self._machine is None:
                self._machine = await self._started()
        return self._machine

    @property
    def is_running(self) -> bool:
        """Whether a program is being run now."""
        return bool(self._runs)

    async def aclose(self) -> None:
        """Ends what still runs, and the warden. Any number of times."""
        self._closed = True
        # One who is opening it holds the lock, and is let finish.
        async with self._opening:
            await self._release()

    async def _release(self) -> None:
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.close()
        for running in self._runs:
            running.end()
        channel, self._channel = self._channel, None
        warden, self._warden = self._warden, None
        if channel is not None:
            channel.close()
        if warden is not None:
            await asyncio.shield(asyncio.to_thread(_ended, warden))

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
    ) -> SandboxResult:
        """Runs a command: a program by its path inside, or by its name in /usr/bin and the like.

        There is no shell unless argv names one. Raises SandboxError `sandbox.command`,
        `sandbox.start`, and what `open` raises. Cancelling ends the program and all it started.
        """
        given = _checked(argv)
        _check_input(stdin)
        if self.back_end != "process":
            raise SandboxError(
                "sandbox.command",
                "the wasm back end runs Python and nothing else",
                field="argv",
                expected="run_python(...)",
                got=given[0][:80],
                fix='Sandbox(policy, back_end="process")',
            )
        errand = Errand((_found(given[0]), *given[1:]))
        ran = await self._ran(errand, stdin)
        return _result(ran, ran.stdout)

    async def run_python(
        self, code: str, inputs: Mapping[str, Any] | None = None, *, stdin: bytes = b""
    ) -> SandboxResult:
        """Runs Python text, with the standard library and nothing else installed.

        `inputs` is a global of the program; what it leaves in a global `output` comes back as
        `value`. Both are JSON. Raises SandboxError `sandbox.inputs`, `sandbox.start`, and what
        `open` raises. Cancelling ends the program and all it started.
        """
        given = {} if inputs is None else inputs
        _check_input(stdin)
        made = python_program(code, given, nonce=secrets.token_hex(16))
        python = "python" if self.back_end == "wasm" else interpreter()[0]
        argv = (python, "-I", "-S", "-B", f"{PROGRAM}/{START_NAME}")
        ran = await self._ran(
            Errand(argv, {START_NAME: START.encode()}), made.told + stdin, keep_ready=True
        )
        printed, value = value_in(ran.stdout, made.mark)
        return _result(ran, printed, value, out_of_memory=OUT_OF_MEMORY)

    async def _ran(self, errand: Errand, stdin: bytes, *, keep_ready: bool = False) -> Ran:
        """One run. With `keep_ready` it is one that was made ready before, if there is one, and
        the next is made ready after it: an interpreter that has not been given any program."""
        if len(stdin) > STDIN_BYTES_MAX:
            raise _policy("stdin", f"at most {STDIN_BYTES_MAX} bytes", f"{len(stdin)} bytes")
        # One with an allow-list speaks up with its sockets, which are relayed for one program each.
        keep_ready = keep_ready and not self.policy.network
        async with self._places:
            machine = await self.open()
            running = self._taken() if keep_ready else None
            if running is None:
                running = self._asked(errand, machine)
            self._runs.add(running)
            try:
                return await running.over(stdin)
            finally:
                self._runs.discard(running)
                running.close()
                if keep_ready and self._ready is None and self._channel is not None:
                    with contextlib.suppress(SandboxError):  # the next run will meet it, and say so
                        self._ready = self._asked(errand, machine)

    def _taken(self) -> Running | None:
        """The run that was made ready; None when there is none, or it has failed meanwhile."""
        running, self._ready = self._ready, None
        if running is not None and not running.is_waiting():
            running.close()
            return None
        return running

    def _asked(self, errand: Errand, machine: Machine) -> Running:
        """A new run that waits to be told what to do."""
        if self._channel is None:
            raise SandboxError(
                "sandbox.closed", "this sandbox was closed", fix="make another Sandbox"
            )
        recipe = made_of(self.policy, machine, self.back_end, errand, self._binds)
        request = json.dumps(recipe).encode()
        running = Running(self.policy)
        try:
            running.ask(self._channel, len(request).to_bytes(LENGTH_BYTES) + request)
        except BaseException:
            running.close()
            raise
        return running

    async def _started(self) -> Machine:
        ours, theirs = socket.socketpair()
        arguments = [str(theirs.fileno())]
        if self.back_end == "wasm":
            arguments.append(self._cache)
        with theirs:
            self._warden = _spawned(arguments, theirs.fileno())
        self._channel = ours
        try:
            hello = await _heard(ours)
            if hello["problem"] is not None:
                code, message, *rest = hello["problem"]
                field, expected, got, fix = rest
                raise SandboxError(code, message, field=field, expected=expected, got=got, fix=fix)
            machine = machine_from(hello["machine"])
            _check(self.policy, machine, self.back_end)
        except BaseException:
            await self._release()
            raise
        ours.setblocking(True)
        return machine


def _check(policy: SandboxPolicy, machine: Machine, back_end: BackEnd) -> None:
    """Raises SandboxError `sandbox.not_enforced` for what can't be held, all of it together."""
    unmet = [each for each in needs(policy, machine, back_end) if not each.met]
    if unmet:
        raise SandboxError(
            "sandbox.not_enforced",
            "this machine can't hold a program to this policy, so none is run",
            field=", ".join(each.feature for each in unmet),
            expected="everything that the policy asks; `stageflow doctor` tells what is here",
            got=f"{len(unmet)} without anything to enforce them",
            fix="; ".join(dict.fromkeys(each.mend for each in unmet)),
        )


def _result(
    ran: Ran, stdout: bytes, value: Any = None, *, out_of_memory: int | None = None
) -> SandboxResult:
    """The run as its caller sees it."""
    code = ran.exit_code
    if ran.ended is not None:
        reason = ExitReason(ran.ended)
        code = None
    elif code == -signal.SIGSYS:
        reason = ExitReason.DENIED
    elif code == -signal.SIGXCPU:
        reason = ExitReason.CPU
    elif code is not None and code == out_of_memory:
        reason = ExitReason.MEMORY
    else:
        reason = ExitReason.OK if code == 0 else ExitReason.ERROR
    usage = Usage(ran.wall_s, ran.cpu_s, ran.memory_bytes)
    return SandboxResult(reason, code, stdout, ran.stderr, usage, value)


def _spawned(arguments: Sequence[str], channel: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "stageflow.stages.work.sandbox.warden", *arguments],
        pass_fds=[channel],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={name: os.environ[name] for name in _KEPT if name in os.environ},
        start_new_session=True,
        cwd="/",
    )


async def _heard(channel: socket.socket) -> dict[str, Any]:
    """The warden's first line."""
    channel.setblocking(False)
    loop, parts = asyncio.get_running_loop(), b""
    try:
        async with asyncio.timeout(OPEN_S):
            while not parts.endswith(b"\n"):
                part = await loop.sock_recv(channel, 65_536)
                if not part:
                    raise _start("what starts programs ended before it was ready")
                parts += part
    except TimeoutError:
        raise _start(f"what starts programs was not ready after {OPEN_S:g} s") from None
    answer: dict[str, Any] = json.loads(parts)
    return answer


def _ended(warden: subprocess.Popen[bytes]) -> None:
    """Waits for a warden whose channel is closed; its runs die with it."""
    try:
        warden.wait(CLOSE_S)
    except subprocess.TimeoutExpired:
        warden.kill()
        warden.wait()


def _checked(argv: Sequence[str]) -> tuple[str, ...]:
    given = tuple(argv) if not isinstance(argv, str | bytes) else ()
    if not given or not all(isinstance(each, str) and "\0" not in each for each in given):
        raise SandboxError(
            "sandbox.command",
            "a command is a list of texts, its program first",
            field="argv",
            expected='such as ["sort", "-r"]; no shell reads it',
            got=type(argv).__name__,
            fix='["sh", "-c", text] where a shell is really wanted',
        )
    return given


def _check_input(stdin: Any) -> None:
    if not isinstance(stdin, bytes):
        raise _policy("stdin", "bytes", form_of(stdin))


def _found(name: str) -> str:
    """The program's path inside, which is the one here."""
    if "/" in name:
        return name
    for folder in ("/usr/local/bin", "/usr/bin", "/bin"):
        path = f"{folder}/{name}"
        if os.access(path, os.X_OK):
            return path
    raise SandboxError(
        "sandbox.command",
        "there is no such program inside",
        field="argv",
        expected="a program in /usr/local/bin, /usr/bin or /bin, or a path",
        got=name[:80],
        fix="install it there, or name its path and list its folder in the policy's read",
    )


def _start(message: str) -> SandboxError:
    return SandboxError(
        "sandbox.start", message, fix="run `stageflow doctor`, which tries every primitive alone"
    )


def _policy(name: str, expected: str, got: str) -> SandboxError:
    return SandboxError(
        "sandbox.policy",
        f"a sandbox has a value for {name} that it can't have",
        field=name,
        expected=expected,
        got=got,
        fix=f"give {expected}",
    )
