"""Tools of the event loop that are not over in time, each in a way of its own.

Sources: Temporal's activity timeouts and heartbeats; trio's and anyio's notes on cleanup under
cancellation (a shielded wait, a `finally` that awaits, an `__aexit__` that raises); Python's own on
tasks left behind by `create_task`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from stageflow import Context, Pipeline, Stream, work

from .timeout_case import Case, Tool

Make = Callable[[Case], Tool]


def _tool(case: Case, body: Any, **options: Any) -> Tool:
    limit_s = min(case.timeout_s, options.get("heartbeat", case.timeout_s))
    return Tool(work(name="tool", timeout=case.timeout_s, keyed=True, **options)(body), limit_s)


def _fine(case: Case, body: Any, **options: Any) -> Tool:
    made = work(name="tool", timeout=case.timeout_s, keyed=True, **options)(body)
    return Tool(made, case.timeout_s, is_fine=True)


def waits(case: Case) -> Tool:
    """Waits, and cleans up at once when it is told to end."""

    async def body() -> str:
        try:
            await asyncio.sleep(case.hang_s)
        finally:
            case.clean()
        return "late"

    return _tool(case, body)


def ignores_cancel(case: Case) -> Tool:
    """Takes every cancellation for a hiccup."""

    async def body() -> str:
        until_s = asyncio.get_running_loop().time() + case.hang_s
        try:
            while asyncio.get_running_loop().time() < until_s:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(case.hang_s)
        finally:
            case.clean()
        return "late"

    return _tool(case, body)


def answers_late(case: Case) -> Tool:
    """Returns a value when it is told to end."""

    async def body() -> str:
        try:
            await asyncio.sleep(case.hang_s)
        except asyncio.CancelledError:
            return "late"
        finally:
            case.clean()
        return "late"

    return _tool(case, body)


def raises_instead(case: Case) -> Tool:
    """Makes an error of its own of the cancellation."""

    async def body() -> str:
        try:
            await asyncio.sleep(case.hang_s)
        except asyncio.CancelledError:
            raise ValueError("it was interrupted") from None
        finally:
            case.clean()
        return "late"

    return _tool(case, body)


def slow_cleanup(case: Case) -> Tool:
    """Needs half of the grace period, and ends in order."""

    async def body() -> str:
        try:
            await asyncio.sleep(case.hang_s)
        finally:
            await asyncio.sleep(case.grace_s / 2)
            case.clean()
        return "late"

    return _tool(case, body)


def hanging_cleanup(case: Case) -> Tool:
    """Its `finally` never ends; the one around it must run all the same."""

    async def body() -> str:
        try:
            try:
                await asyncio.sleep(case.hang_s)
            finally:
                await asyncio.sleep(case.hang_s)
        finally:
            case.clean()
        return "late"

    return _tool(case, body)


def hanging_twice(case: Case) -> Tool:
    """Two cleanups hang, one around the other; a third is around both."""

    async def body() -> str:
        try:
            try:
                try:
                    await asyncio.sleep(case.hang_s)
                finally:
                    await asyncio.sleep(case.hang_s)
            finally:
                await asyncio.sleep(case.hang_s)
        finally:
            case.clean()
        return "late"

    return _tool(case, body)


def raising_cleanup(case: Case) -> Tool:
    """Its `finally` raises; the one around it must run all the same."""

    async def body() -> str:
        try:
            try:
                await asyncio.sleep(case.hang_s)
            finally:
                raise OSError("already closed")
        finally:
            case.clean()

    return _tool(case, body)


class _Resource:
    """Closed once; closing hangs or raises as asked."""

    def __init__(self, case: Case, *, hangs: bool = False, raises: bool = False) -> None:
        self._case, self._hangs, self._raises = case, hangs, raises

    async def __aenter__(self) -> _Resource:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._case.clean()
        if self._hangs:
            await asyncio.sleep(self._case.hang_s)
        if self._raises:
            raise OSError("already closed")


def hanging_exit(case: Case) -> Tool:
    """Two resources; closing the inner one never ends."""
    case.due = 2

    async def body() -> str:
        async with _Resource(case), _Resource(case, hangs=True):
            await asyncio.sleep(case.hang_s)
        return "late"

    return _tool(case, body)


def raising_exit(case: Case) -> Tool:
    """Two resources; closing the inner one raises."""
    case.due = 2

    async def body() -> str:
        async with _Resource(case), _Resource(case, raises=True):
            await asyncio.sleep(case.hang_s)
        return "late"

    return _tool(case, body)


def exit_stack(case: Case) -> Tool:
    """Three resources of a stack; the middle one raises, the first hangs."""
    case.due = 3

    async def body() -> str:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(_Resource(case, hangs=True))
            await stack.enter_async_context(_Resource(case, raises=True))
            await stack.enter_async_context(_Resource(case))
            await asyncio.sleep(case.hang_s)
        return "late"

    return _tool(case, body)


async def _items(case: Case) -> AsyncIterator[int]:
    until_s = asyncio.get_running_loop().time() + case.hang_s
    while asyncio.get_running_loop().time() < until_s:
        case.produced.append(len(case.produced))
        yield case.produced[-1]
        await asyncio.sleep(case.step_s)


def endless_stream(case: Case) -> Tool:
    """Yields and yields."""

    async def body() -> Stream[int]:
        try:
            async for item in _items(case):
                yield item
        finally:
            case.clean()

    return _tool(case, body)


def stream_hanging_cleanup(case: Case) -> Tool:
    """Yields, and then its cleanup never ends."""

    async def body() -> Stream[int]:
        try:
            async for item in _items(case):
                yield item
        finally:
            case.clean()
            await asyncio.sleep(case.hang_s)

    return _tool(case, body)


def stream_raising_cleanup(case: Case) -> Tool:
    """Yields, and then its cleanup raises."""

    async def body() -> Stream[int]:
        try:
            async for item in _items(case):
                yield item
        finally:
            case.clean()
            raise OSError("already closed")

    return _tool(case, body)


def emits(case: Case) -> Tool:
    """Emits on the way to a value that it never has."""

    async def body(ctx: Context) -> str:
        try:
            async for item in _items(case):
                await ctx.emit(item)
        finally:
            case.clean()
        return "late"

    return _tool(case, body)


def emits_and_hangs(case: Case) -> Tool:
    """Emits, falls silent, and takes no cancellation."""

    async def body(ctx: Context) -> str:
        until_s = asyncio.get_running_loop().time() + case.hang_s
        try:
            for number in range(20):
                case.produced.append(number)
                await ctx.emit(number)
            while asyncio.get_running_loop().time() < until_s:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(case.hang_s)
        finally:
            case.clean()
        return "late"

    return _tool(case, body)


def heartbeat_kept(case: Case) -> Tool:
    """Works long, gives its signs in time, and ends before its deadline."""

    async def body(ctx: Context) -> str:
        try:
            for number in range(9):
                ctx.heartbeat(number)
                await asyncio.sleep(case.step_s)
        finally:
            case.clean()
        return "in time"

    return _fine(case, body, heartbeat=3 * case.step_s)


def heartbeat_streaming(case: Case) -> Tool:
    """Yields slowly, with a sign of life before each item, and ends before its deadline."""

    async def body(ctx: Context) -> Stream[int]:
        try:
            for number in range(9):
                ctx.heartbeat()
                await asyncio.sleep(case.step_s)
                yield number
        finally:
            case.clean()

    return _fine(case, body, heartbeat=3 * case.step_s)


def heartbeat_silent(case: Case) -> Tool:
    """Promises signs of life and gives none, and its cleanup hangs."""

    async def body() -> str:
        try:
            await asyncio.sleep(case.hang_s)
        finally:
            case.clean()
            await asyncio.sleep(case.hang_s)
        return "late"

    return _tool(case, body, heartbeat=case.timeout_s / 3)


def heartbeat_endless(case: Case) -> Tool:
    """Gives its signs in time, and never ends: its deadline holds."""

    async def body(ctx: Context) -> str:
        try:
            async for _ in _items(case):
                ctx.heartbeat()
        finally:
            case.clean()
            case.produced.clear()  # nothing of it was given to anybody
        return "late"

    made = work(name="tool", timeout=case.timeout_s, keyed=True, heartbeat=3 * case.step_s)(body)
    return Tool(made, case.timeout_s)


def task_group(case: Case) -> Tool:
    """Three tasks of a group, of which one takes no cancellation."""
    case.due = 4

    async def part(is_deaf: bool) -> None:
        until_s = asyncio.get_running_loop().time() + case.hang_s
        try:
            while asyncio.get_running_loop().time() < until_s:
                try:
                    await asyncio.sleep(case.hang_s)
                except asyncio.CancelledError:
                    if not is_deaf:
                        raise
        finally:
            case.clean()

    async def body() -> str:
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(3):
                    case.tasks.append(group.create_task(part(number == 1)))
        finally:
            case.clean()
        return "late"

    return _tool(case, body)


def stray_task(case: Case) -> Tool:
    """Leaves a task behind whose cleanup hangs, and takes no cancellation itself."""
    case.due = 2

    async def left() -> None:
        try:
            await asyncio.sleep(case.hang_s)
        finally:
            case.clean()
            await asyncio.sleep(case.hang_s)

    async def body() -> str:
        case.tasks.append(asyncio.create_task(left()))
        until_s = asyncio.get_running_loop().time() + case.hang_s
        try:
            while asyncio.get_running_loop().time() < until_s:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(case.hang_s)
        finally:
            case.clean()
        return "late"

    return _tool(case, body)


def shielded(case: Case) -> Tool:
    """Awaits a task behind a shield, which goes on when the wait is cancelled."""
    case.due = 2

    async def behind() -> None:
        try:
            await asyncio.sleep(case.hang_s)
        finally:
            case.clean()

    async def body() -> str:
        case.tasks.append(asyncio.create_task(behind()))
        try:
            await asyncio.shield(case.tasks[0])
        finally:
            case.clean()
        return "late"

    return _tool(case, body)


def nested(case: Case) -> Tool:
    """Calls a tool with ten times its own budget, which calls another one."""
    case.due = 3

    def below(inner: Pipeline[Any] | None) -> Any:
        async def body(ctx: Context) -> str:
            case.deadlines.append(ctx.deadline_s)
            try:
                if inner is None:
                    await asyncio.sleep(case.hang_s)
                else:
                    await ctx.run(inner, key="below")
            finally:
                case.clean()
            return "late"

        return body

    inner: Pipeline[Any] | None = None
    for depth in range(2):
        made = work(name=f"below{depth}", timeout=10 * case.timeout_s, keyed=True)(below(inner))
        inner = Pipeline(f"below{depth}", [made], outputs=made)
    return _tool(case, below(inner))


LOOP_TOOLS: Final[Mapping[str, Make]] = MappingProxyType(
    {
        each.__name__: each
        for each in (
            waits,
            ignores_cancel,
            answers_late,
            raises_instead,
            slow_cleanup,
            hanging_cleanup,
            hanging_twice,
            raising_cleanup,
            hanging_exit,
            raising_exit,
            exit_stack,
            endless_stream,
            stream_hanging_cleanup,
            stream_raising_cleanup,
            emits,
            emits_and_hangs,
            heartbeat_kept,
            heartbeat_streaming,
            heartbeat_silent,
            heartbeat_endless,
            task_group,
            stray_task,
            shielded,
            nested,
        )
    }
)
"""By name; they run under virtual time, too."""
