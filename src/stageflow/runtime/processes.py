"""Stages with place="process": plain functions run in child processes that can be killed.

One child serves one call at a time. A call that is cancelled ends its child and whatever that
started: all are told to end (SIGTERM, of which the stage's `finally` blocks hear as SystemExit),
and killed after half of the grace period, so that nothing of the stage is left. What a call that
has returned leaves running is ended as well.

Functions travel as `module:qualname`, arguments and results as pickles between two processes of
this program (never through a journal).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import struct
import sys
from types import ModuleType
from typing import Any, Final

from stageflow.graph import Stage
from stageflow.model.errors import BuildError, StageflowError
from stageflow.model.marks import reached
from stageflow.runtime.pools import Pools, Precedence
from stageflow.runtime.process_tree import MARK, ProcessTree
from stageflow.scheduler import RankedLine, Supply

_HEADER = struct.Struct("!Q")
_SWEEPS_MAX: Final = 20
"""How often processes are looked for that may have been started while others were killed."""
_SWEEP_S: Final = 0.005
_SWEEP_S_MAX: Final = 0.1


def check_portable(stage: Stage[..., Any], pipeline: str) -> None:
    """BuildError when a child process could not find the stage's function by name."""
    function = stage.function
    module = getattr(function, "__module__", None)
    qualname = getattr(function, "__qualname__", "")
    is_of_object = not isinstance(getattr(function, "__self__", type), (type, ModuleType))
    if not module or not qualname or "<" in qualname or module == "__main__" or is_of_object:
        raise BuildError(
            "stage.place_process",
            f"stage {stage.name!r} can't be found by a child process",
            pipeline=pipeline,
            node=stage.name,
            expected="a function defined at the top of an importable module",
            got=f"a method of an object, {qualname}" if is_of_object else f"{module}.{qualname}",
            fix="write a function at the top of a module, or use place='thread'",
        )


def address_of(stage: Stage[..., Any]) -> str:
    """`module:qualname` of the stage's function."""
    function: Any = stage.function
    return f"{function.__module__}:{function.__qualname__}"


class _Child:
    """One child process, its pipes, and what it started."""

    def __init__(
        self, process: asyncio.subprocess.Process, mark: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.process = process
        self.loop = loop
        self.tree = ProcessTree(process.pid, mark)

    async def call(self, message: bytes) -> tuple[bool, Any]:
        import pickle  # for stages with place="process" only

        writer, reader = self.process.stdin, self.process.stdout
        assert writer is not None and reader is not None
        writer.write(_HEADER.pack(len(message)) + message)
        await writer.drain()
        (size,) = _HEADER.unpack(await reader.readexactly(_HEADER.size))
        answer: tuple[bool, Any] = pickle.loads(await reader.readexactly(size))
        return answer

    async def end(self, grace_s: float) -> None:
        """Tells all of it to end, and kills after `grace_s` what has not."""
        try:
            if self.process.returncode is None:
                if self.tree.tell(signal.SIGTERM):
                    reached("process_tree_ended")
                self.process.terminate()
                # It goes when all that it started has gone: until then it is their reaper.
                waiting = asyncio.ensure_future(self.process.wait())
                try:
                    await asyncio.wait([waiting], timeout=grace_s)
                finally:
                    waiting.cancel()
            for sweep in range(_SWEEPS_MAX):
                if not self.tree.tell(signal.SIGKILL):
                    break
                # A look at all processes costs the loop some milliseconds.
                await asyncio.sleep(min(_SWEEP_S * 2**sweep, _SWEEP_S_MAX))
        finally:
            self.kill()

    def kill(self) -> None:
        """Kills all of it, now."""
        self.tree.tell(signal.SIGKILL)
        if self.process.returncode is None:
            self.process.kill()
            self.tree.tell(signal.SIGKILL)  # what was started meanwhile


class ProcessPool:
    """At most `processes_max` children at once; idle ones are kept for the next call. Calls wait
    in line as for a pool; `pools` say what is lent to whom. A child that is to end has half of
    `grace_s`, so that the other half is left for what follows."""

    def __init__(self, processes_max: int, pools: Pools, grace_s: float = 0.0) -> None:
        self._grace_s = grace_s / 2
        self._pools = pools
        self.supply = Supply[Any]("processes", processes_max, RankedLine(pools.weights))
        self._idle: list[_Child] = []

    async def call(self, address: str, arguments: dict[str, Any], precedence: Precedence) -> Any:
        """The function's result; its exception when it raised. Cancelling ends the child."""
        task = await self._pools.slot(self.supply, precedence)
        import pickle  # for stages with place="process" only

        child: _Child | None = None
        try:
            child = await self._child()
            try:
                worked, result = await child.call(pickle.dumps((address, sys.path, arguments)))
            except (asyncio.IncompleteReadError, ConnectionError):
                code = await child.process.wait()
                raise StageflowError(
                    "stage.process_died",
                    f"the child process of {address} died",
                    expected="a function that returns or raises",
                    got=f"exit status {code}",
                    fix="look for a crash in native code, a kill for memory, or os._exit",
                ) from None
            if not child.tree.has_children():
                self._idle.append(child)
                child = None
        finally:
            try:
                if child is not None:
                    await child.end(self._grace_s)
                    # Reaped here: a killed child must not outlive the run as a zombie.
                    await asyncio.shield(child.process.wait())
            finally:
                self._pools.give_back(self.supply, task)
        if worked:
            return result
        raise result

    async def close(self) -> None:
        """Ends the idle children."""
        while self._idle:
            child = self._idle.pop()
            if child.loop is asyncio.get_running_loop():
                child.kill()
                await child.process.wait()

    async def _child(self) -> _Child:
        loop = asyncio.get_running_loop()
        while self._idle:
            child = self._idle.pop()
            if child.loop is loop and child.process.returncode is None:
                return child
        mark = secrets.token_hex(8)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "stageflow.runtime.child",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, MARK: mark},
            start_new_session=True,
        )
        return _Child(process, mark, loop)
