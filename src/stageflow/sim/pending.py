"""What a task that is not done waits for, in words: for stuck runs and leftover tasks."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from pathlib import PurePath
from types import CodeType, FrameType
from typing import Any

from stageflow.model.errors import SimulationError

_SHOWN_MAX = 15
"""Tasks listed in one error: messages stay below 25 lines."""
_CREATED = inspect.CORO_CREATED
_DEPTH_MAX = 1_000
_ASYNCIO = str(PurePath(asyncio.__file__).parent)
_SUSPENDED = (
    ("cr_frame", "cr_await"),
    ("gi_frame", "gi_yieldfrom"),
    ("ag_frame", "ag_await"),
)
"""Where coroutines, generators and async generators keep their frame and what they await."""


def describe(task: asyncio.Task[Any]) -> str:
    """`task 'writer' (app.write) awaits Lock.acquire at app.py:41`, from suspended frames."""
    coro = task.get_coro()
    line = f"task {task.get_name()!r} ({getattr(coro, '__qualname__', type(coro).__name__)})"
    frames = _frames(coro)
    if not frames or (inspect.iscoroutine(coro) and inspect.getcoroutinestate(coro) == _CREATED):
        return f"{line} has not started"
    waiter = getattr(task, "_fut_waiter", None)
    if waiter is None:
        awaited = "nothing: it was about to step"
    elif isinstance(waiter, asyncio.Task):
        awaited = f"task {waiter.get_name()!r}"
    elif _inside_asyncio(frames[-1][1]):
        awaited = frames[-1][1].co_qualname
    else:
        awaited = f"a {type(waiter).__name__.removeprefix('Sim').lower().lstrip('_')}"
    # The deepest place outside asyncio is where the reader's own code waits.
    own = [(frame, code) for frame, code in frames if not _inside_asyncio(code)]
    frame, code = own[-1] if own else frames[-1]
    place = f"{PurePath(code.co_filename).name}:{frame.f_lineno}"
    return f"{line} awaits {awaited} at {place} in {code.co_qualname}"


def stuck(tasks: Sequence[asyncio.Task[Any]]) -> SimulationError:
    """`sim.stuck`, naming each of `tasks` and what it awaits."""
    lines = [describe(task) for task in tasks[:_SHOWN_MAX]]
    if len(tasks) > _SHOWN_MAX:
        lines.append(f"and {len(tasks) - _SHOWN_MAX} more")
    return SimulationError(
        "sim.stuck",
        f"nothing is ready, no timer is set, and {len(tasks)} tasks wait for ever:\n    "
        + "\n    ".join(lines),
        fix="look for a cycle among these waits, or for the future that nobody completes",
    )


def _frames(coro: Any) -> list[tuple[FrameType, CodeType]]:
    """Frames of a suspended coroutine and of what it awaits, outermost first."""
    frames: list[tuple[FrameType, CodeType]] = []
    while len(frames) < _DEPTH_MAX:
        for frame_name, inner_name in _SUSPENDED:
            frame = getattr(coro, frame_name, None)
            if frame is not None:
                frames.append((frame, frame.f_code))
                coro = getattr(coro, inner_name)
                break
        else:
            break
    return frames


def _inside_asyncio(code: CodeType) -> bool:
    return code.co_filename.startswith(_ASYNCIO)
