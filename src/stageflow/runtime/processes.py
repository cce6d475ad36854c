"""Stages with place="process": plain functions run in child processes that can be killed.

One child serves one call at a time; a call that is cancelled kills its child, so that nothing of
the stage is left. Functions travel as `module:qualname`, arguments and results as pickles between
two processes of this program (never through a journal).
"""

from __future__ import annotations

import asyncio
import struct
import sys
from typing import Any

from stageflow.graph import Stage
from stageflow.model.errors import BuildError, StageflowError
from stageflow.runtime.pools import Pools, Precedence
from stageflow.scheduler import RankedLine, Supply

_HEADER = struct.Struct("!Q")


def check_portable(stage: Stage[..., Any], pipeline: str) -> None:
    """BuildError when a child process could not find the stage's function by name."""
    function = stage.function
    module = getattr(function, "__module__", None)
    qualname = getattr(function, "__qualname__", "")
    if module is None or "<" in qualname or module == "__main__":
        raise BuildError(
            "stage.place_process",
            f"stage {stage.name!r} can't be found by a child process",
            pipeline=pipeline,
            node=stage.name,
            expected="a function defined at the top of an importable module",
            got=f"{module}.{qualname}",
            fix="move the function to a module, or use place='thread'",
        )


def address_of(stage: Stage[..., Any]) -> str:
    """`module:qualname` of the stage's function."""
    function: Any = stage.function
    return f"{function.__module__}:{function.__qualname__}"


class _Child:
    """One child process and its pipes."""

    def __init__(
        self, process: asyncio.subprocess.Process, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.process = process
        self.loop = loop

    async def call(self, message: bytes) -> tuple[bool, Any]:
        import pickle  # for stages with place="process" only

        writer, reader = self.process.stdin, self.process.stdout
        assert writer is not None and reader is not None
        writer.write(_HEADER.pack(len(message)) + message)
        await writer.drain()
        (size,) = _HEADER.unpack(await reader.readexactly(_HEADER.size))
        answer: tuple[bool, Any] = pickle.loads(await reader.readexactly(size))
        return answer

    def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()


class ProcessPool:
    """At most `processes_max` children at once; idle ones are kept for the next call. Calls wait
    in line as for a pool; `pools` say what is lent to whom."""

    def __init__(self, processes_max: int, pools: Pools) -> None:
        self._pools = pools
        self.supply = Supply[Any]("processes", processes_max, RankedLine(pools.weights))
        self._idle: list[_Child] = []

    async def call(self, address: str, arguments: dict[str, Any], precedence: Precedence) -> Any:
        """The function's result; its exception when it raised. Cancelling kills the child."""
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
            self._idle.append(child)
            child = None
        finally:
            if child is not None:
                child.kill()
                # Reaped here: a killed child must not outlive the run as a zombie.
                await asyncio.shield(child.process.wait())
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
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "stageflow.runtime.child",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return _Child(process, loop)
