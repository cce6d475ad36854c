"""Each attempt without a sandbox, and with each back end: what was seen of it outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stageflow import SandboxError
from stageflow.stages.work.sandbox import Sandbox, SandboxPolicy
from stageflow.stages.work.sandbox.needs import BackEnd

from .escape_attempts import Attempt
from .escape_ground import VARIABLE, Ground
from .harmless_programs import Harmless

MIB: Final = 1024 * 1024
CAPS: Final = {
    "memory": 64 * MIB,
    "cpu": 1.0,
    "wall": 1.5,
    "tasks": 8,
    "files": 64,
    "scratch": 8 * MIB,
    "file": 4 * MIB,
    "output": 128 * 1024,
}
"""What the attempts are held to; small, so that an attempt costs little where it succeeds."""
_LONG_S: Final = 20.0
"""The wall time of an attempt that is about something else."""
_CONTROL_S: Final = 20.0
REST_S: Final = 0.25
_LOOK_S: Final = 0.12
_GOT: Final = re.compile(rb"^GOT ([\d.]+)$", re.MULTILINE)


@dataclass(slots=True)
class Seen:
    """What was seen of one attempt, outside.

    `evidence` says how it got out, or holds nothing. `taken` is what it got, as a multiple of its
    cap; None when it was not about one.
    """

    evidence: list[str] = field(default_factory=list)
    changed: bool = False
    stayed: bool = False
    taken: float | None = None
    reason: str = ""
    said: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether the attempt did what it was for."""
        over = self.taken is not None and self.taken > 1.1
        return bool(self.evidence) or self.stayed or over


@dataclass(frozen=True, slots=True)
class _Written:
    """What a program left: its output, and the reason that its end was given."""

    out: bytes
    err: bytes
    reason: str
    cpu_s: float = 0.0


class Lane:
    """One back end on its own ground. `usual` and `short` differ in their wall time."""

    def __init__(self, ground: Ground, back_end: BackEnd) -> None:
        self.ground = ground
        self.usual = Sandbox(self._policy(_LONG_S), back_end=back_end)
        self.short = Sandbox(self._policy(CAPS["wall"]), back_end=back_end)

    async def __aenter__(self) -> Lane:
        await self.usual.open()
        await self.short.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.usual.aclose()
        await self.short.aclose()

    async def tried(self, attempt: Attempt) -> Seen:
        """One attempt inside."""
        sandbox = self.short if attempt.cap == "wall" else self.usual
        inputs = self.ground.inputs(attempt, tmp="/tmp", caps=CAPS)

        async def run() -> _Written:
            try:
                ran = await sandbox.run_python(attempt.code, inputs)
            except SandboxError as error:  # a sandbox that broke has still to be looked behind
                return _Written(b"", str(error).encode(), "broken")
            return _Written(ran.stdout, ran.stderr, ran.reason.value, ran.usage.cpu_s or 0.0)

        return await _watched(self.ground, attempt, run)

    async def succeeds(self, program: Harmless) -> tuple[bool, str]:
        """Whether an ordinary program runs and computes what it should; else what it said."""
        try:
            ran = await self.usual.run_python(program.code, program.inputs)
        except SandboxError as error:
            return False, str(error)[:300]
        right = ran.ok and ran.value == program.value
        return right, "" if right else f"{ran.reason} {ran.value!r} {ran.stderr[-300:]!r}"

    def _policy(self, wall_s: float) -> SandboxPolicy:
        return SandboxPolicy(
            read=(str(self.ground.public),),
            write=(str(self.ground.drop),),
            memory_bytes=int(CAPS["memory"]),
            cpu_s=CAPS["cpu"],
            wall_s=wall_s,
            tasks_max=int(CAPS["tasks"]),
            output_bytes=int(CAPS["output"]),
            scratch_bytes=int(CAPS["scratch"]),
            open_files_max=int(CAPS["files"]),
            file_bytes_max=int(CAPS["file"]),
        )


async def bare(ground: Ground, attempt: Attempt) -> Seen:
    """One attempt as a plain subprocess of this process: what would happen without a sandbox."""
    inputs = ground.inputs(attempt, tmp=str(ground.tmp), caps=CAPS)
    start = ground.folder / "start.py"
    start.write_text(
        f"given = {{'__name__': '__main__', 'inputs': {inputs!r}}}\n"
        f"exec(compile({attempt.code!r}, 'program.py', 'exec'), given)\n"
    )

    async def run() -> _Written:
        process = await asyncio.create_subprocess_exec(
            # Below a shell, as a tool's program is below whoever runs tools.
            *("sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-I", "-S", "-B", str(start)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", VARIABLE: ground.token},
            cwd=ground.tmp,
            pass_fds=[ground.descriptor],
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(_CONTROL_S):
                out, err = await process.communicate()
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = await process.communicate()
        return _Written(out, err, f"status {process.returncode}")

    return await _watched(ground, attempt, run)


async def _watched(ground: Ground, attempt: Attempt, run: Any) -> Seen:
    """What changes around `run`; the ground is then put in order for the next one."""
    heard = ground.heard()
    written = await run()
    seen = Seen(reason=written.reason, said=written.err[-300:].decode(errors="replace"))
    both = written.out + written.err
    if ground.token.encode() in both:
        seen.evidence.append("it read the token")
    if b"GAINED" in written.out:
        seen.evidence.append("a call beyond the policy was answered")
    if attempt.family in ("socket", "door"):
        await asyncio.sleep(0.02)  # a listener's thread may be about to count
    if ground.heard() > heard:
        seen.evidence.append("it reached a listener")
    seen.changed = not ground.is_unchanged()
    if seen.changed:
        seen.evidence.append("it changed a canary")
    if attempt.family == "daemon":
        seen.stayed = await _beats(ground.beat(attempt))
    if attempt.cap is not None:
        seen.taken = _taken(attempt, written)
    with contextlib.suppress(OSError):
        ground.restore()
    return seen


async def _beats(path: Path) -> bool:
    """Whether somebody still writes to the file."""
    sizes = []
    for _ in range(3):
        await asyncio.sleep(_LOOK_S)
        sizes.append(_size(path))
    return sizes[-1] > sizes[0]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _taken(attempt: Attempt, written: _Written) -> float:
    """What it got as a multiple of its cap: what it said last, or how much it wrote, or the
    processor time that the kernel counted for it and its children."""
    assert attempt.cap is not None
    if attempt.cap == "output":
        return (len(written.out) + len(written.err)) / CAPS["output"]
    told = [float(each) for each in _GOT.findall(written.out)]
    if attempt.cap == "cpu":
        told.append(written.cpu_s)
    return max(told, default=0.0) / CAPS[attempt.cap]


async def started(sandbox: Sandbox, rounds: int, *, rest_s: float) -> list[tuple[float, float]]:
    """Seconds of (a program in the sandbox, the same as a bare subprocess), in turns.

    `rest_s` stands before each: what a start costs one who comes now and then, and with 0 one who
    comes again at once, when the next interpreter is not ready yet.
    """

    async def inside() -> float:
        await asyncio.sleep(rest_s)
        first = time.perf_counter()
        ran = await sandbox.run_python("pass")
        assert ran.ok, ran
        return time.perf_counter() - first

    async def outside() -> float:
        await asyncio.sleep(rest_s)
        first = time.perf_counter()
        _floor()
        return time.perf_counter() - first

    await inside()
    await outside()
    pairs = []
    for turn in range(rounds):
        if turn % 2:
            least = await outside()
            pairs.append((await inside(), least))
        else:
            pairs.append((await inside(), await outside()))
    return pairs


def _floor() -> None:
    subprocess.run([sys.executable, "-I", "-c", "pass"], capture_output=True, check=True)
