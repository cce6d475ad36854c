"""One run from outside: its pipes, its line to the supervisor, and what is read from them.

A run is asked for first and told what to do later, so that it can be made ready beforehand.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import select
import socket
from dataclasses import dataclass
from typing import Any, Final

from stageflow.model.errors import SandboxError
from stageflow.stages.work.sandbox.confinement import EXECUTING
from stageflow.stages.work.sandbox.policy import ENDPOINTS_MAX, SandboxPolicy
from stageflow.stages.work.sandbox.relay import relay

LATE_S: Final = 10.0
"""How long past its wall time a supervisor may take to report before it is given up."""
LENGTH_BYTES: Final = 8
"""Of a request: its length, before it."""
_CHUNK: Final = 65_536
OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Ran:
    """What was read. `ended` names the cap that ended it; None when it ended by itself."""

    exit_code: int | None
    ended: str | None
    stdout: bytes
    stderr: bytes
    wall_s: float
    cpu_s: float | None
    memory_bytes: int | None


class Running:
    """Owned by one call of `Sandbox.run`, and before that by the sandbox that keeps it ready.

    `ask` once, await `over` once, `close` always.
    """

    def __init__(self, policy: SandboxPolicy) -> None:
        self._policy = policy
        self._control, self._theirs = socket.socketpair()
        self._read: dict[int, bytearray] = {}
        self._pipes: list[tuple[int, int]] = [os.pipe() for _ in range(2)]
        self._their_stdin, self._stdin = os.pipe()
        self._left = policy.output_bytes
        self._ended: str | None = None
        self._listeners: list[socket.socket] = []

    def ask(self, channel: socket.socket, request: bytes) -> None:
        """Hands the far ends to the warden. Raises SandboxError `sandbox.start` if it has gone."""
        far = [self._their_stdin, *(write for _, write in self._pipes), self._theirs.fileno()]
        try:
            socket.send_fds(channel, [b"r"], far)
            self._control.sendall(request)
        except OSError as error:
            raise SandboxError(
                "sandbox.start",
                "what starts programs has ended",
                got=errno.errorcode.get(error.errno or 0, "an error"),
                fix="make another Sandbox",
            ) from error
        self._theirs.close()
        for write in (self._their_stdin, *(write for _, write in self._pipes)):
            os.close(write)
        self._their_stdin = -1
        self._pipes = [(read, -1) for read, _ in self._pipes]

    def is_waiting(self) -> bool:
        """Whether nothing has been heard of it: it is being made ready, or is."""
        ready, _, _ = select.select([self._control], [], [], 0)
        return not ready

    async def over(self, stdin: bytes) -> Ran:
        """Gives it `stdin`, from when its time counts, and reads until the program and all it
        started are gone. When cancelled, ends them first."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # it has ended; its report says why
            self._control.send(b"g")
        self._feed(memoryview(stdin))
        closed = [loop.create_future() for _ in self._pipes]
        for (read, _), done in zip(self._pipes, closed, strict=True):
            os.set_blocking(read, False)
            self._read[read] = bytearray()
            loop.add_reader(read, self._take, read, done)
        self._control.setblocking(False)
        try:
            async with asyncio.timeout(self._policy.wall_s + LATE_S):
                report = await self._reported()
                for done in closed:
                    await done
        except TimeoutError:
            raise _broken("the supervisor of a run did not report in time") from None
        except asyncio.CancelledError:
            self._end()
            await asyncio.shield(self._gone())
            raise
        finally:
            self._fed()
            for read, _ in self._pipes:
                loop.remove_reader(read)
        return self._ran(report)

    def close(self) -> None:
        """Lets go of everything; a program that still runs is ended by it. Any number of times."""
        self._fed()
        self._control.close()
        self._theirs.close()
        for listener in self._listeners:
            listener.close()
        for descriptor in (self._their_stdin, *(each for pair in self._pipes for each in pair)):
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._their_stdin, self._pipes = -1, []

    def _feed(self, left: memoryview) -> None:
        """Writes what the pipe takes now, and the rest when it takes more; then closes it."""
        os.set_blocking(self._stdin, False)
        try:
            left = left[os.write(self._stdin, left) :] if left else left
        except BlockingIOError:
            pass
        except OSError:  # it reads no more
            left = left[:0]
        if not left:
            self._fed()
            return
        loop = asyncio.get_running_loop()
        loop.remove_writer(self._stdin)
        loop.add_writer(self._stdin, self._feed, left)

    def _fed(self) -> None:
        """Closes standard input. Any number of times."""
        if self._stdin >= 0:
            with contextlib.suppress(RuntimeError):  # no loop any more: nothing waits to write
                asyncio.get_running_loop().remove_writer(self._stdin)
            os.close(self._stdin)
            self._stdin = -1

    def _take(self, read: int, done: asyncio.Future[None]) -> None:
        """One part of an output. Past the cap the run is ended, and nothing more is kept."""
        try:
            part = os.read(read, _CHUNK)
        except BlockingIOError:
            return
        if not part:
            asyncio.get_running_loop().remove_reader(read)
            if not done.done():
                done.set_result(None)
            return
        self._read[read] += part[: self._left]
        if len(part) > self._left and self._ended is None:
            self._ended = OUTPUT
            self._end()
        self._left -= min(self._left, len(part))

    def _end(self) -> None:
        """Tells the supervisor to end the run."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)

    async def _reported(self) -> dict[str, Any]:
        """The supervisor's report; the allow-list is relayed until it comes."""
        said = await self._line()
        if "listening" not in said:
            return said
        async with asyncio.TaskGroup() as group:
            relaying = group.create_task(relay(self._listeners, self._policy.endpoints()))
            try:
                return await self._line()
            finally:
                relaying.cancel()

    async def _gone(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LATE_S):
                while "listening" in await self._line():
                    pass

    async def _line(self) -> dict[str, Any]:
        """One message of the supervisor; sockets that come with it are kept."""
        loop, parts = asyncio.get_running_loop(), b""
        while not parts.endswith(b"\n"):
            await _readable(loop, self._control)
            try:
                part, sockets, _, _ = socket.recv_fds(self._control, _CHUNK, ENDPOINTS_MAX)
            except BlockingIOError:
                continue
            except OSError:
                part, sockets = b"", []
            for each in sockets:
                os.set_inheritable(each, False)
            self._listeners += [socket.socket(fileno=each) for each in sockets]
            if not part:
                return {"failed": "its supervisor ended without a report"}
            parts += part
        said: dict[str, Any] = json.loads(parts.splitlines()[-1])
        return said

    def _ran(self, report: dict[str, Any]) -> Ran:
        if report.get("step") == EXECUTING:
            raise SandboxError(
                "sandbox.command",
                "a command could not be executed inside",
                field="argv",
                expected="a program that exists inside, may be executed and is not a folder",
                got=report["failed"],
                fix="list its folder in the policy's read",
            )
        if "failed" in report:
            raise _broken(f"a program could not be started: {report['failed']}")
        status = report.get("status")
        ended = report["ended"]
        if self._ended is not None and ended in (None, "asked"):
            ended = self._ended
        if ended is None and status is None:
            raise _broken("the first process of a sandbox ended without a word")
        stdout, stderr = (bytes(self._read[read]) for read, _ in self._pipes)
        return Ran(
            exit_code=None if status is None else os.waitstatus_to_exitcode(status),
            ended=ended,
            stdout=stdout,
            stderr=stderr,
            wall_s=report["wall_s"],
            cpu_s=report["cpu_s"],
            memory_bytes=report["memory_bytes"],
        )


async def _readable(loop: asyncio.AbstractEventLoop, line: socket.socket) -> None:
    ready = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(line, tell)
    try:
        await ready
    finally:
        loop.remove_reader(line)


def _broken(message: str) -> SandboxError:
    return SandboxError(
        "sandbox.start", message, fix="run `stageflow doctor`, which tries every primitive alone"
    )
