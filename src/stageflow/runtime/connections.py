"""Connections that runs share, one holder at a time; one whose use was cut off is never used again.

A request that was cancelled after it was sent leaves its answer on the wire, and who uses the
connection next is given it: so one customer was shown another's data (OpenAI, "March 20 ChatGPT
outage: Here's what happened"; redis-py 4.5.2 and 4.5.3). Cancellation can't be seen from the end of
the block alone: `asyncio.wait_for` and `asyncio.timeout` turn it into an error that the block may
catch. So every call through a taken connection is watched from its first step to its last.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import copy_context
from types import TracebackType
from typing import Any, Final, Generic, TypeVar, cast

from stageflow.model.errors import BuildError, RunError
from stageflow.model.forms import form_of, is_count, is_number
from stageflow.model.marks import reached
from stageflow.runtime.lingering import RUN

T = TypeVar("T")

SIZE: Final = 10
WAITERS: Final = 1_000
CLOSE_S: Final = 5.0
PLAIN: Final = (type(None), str, bytes, bool, int, float, list, tuple, dict, set, frozenset)
BROKEN: Final = (OSError, EOFError)
"""What a client raises when it does not know where its connection stands; TimeoutError is one."""


class Connections(Generic[T]):
    """At most `size` open connections, handed to one holder at a time. Give it as a dep.

    A connection goes back only when its block ended without an exception, every call through it
    was answered, and `check` did not object. Every other one is closed, and not used again.
    Waiting is in order of asking. For one event loop at a time.
    """

    def __init__(
        self,
        open: Callable[[], Awaitable[T] | T],
        *,
        size: int = SIZE,
        waiters: int = WAITERS,
        bind: Callable[[T, str], Awaitable[Any] | Any] | None = None,
        check: Callable[[T], Awaitable[bool] | bool] | None = None,
        close: Callable[[T], Awaitable[Any] | Any] | None = None,
        close_s: float = CLOSE_S,
    ) -> None:
        """`open` makes one. `bind(connection, tenant)` is called whenever another tenant takes it
        than had it last: to set a role, or the setting that row security looks at. `check` says
        after use whether it may be used again. `close` ends one; by default its own `aclose` or
        `close`. At most `waiters` may wait. BuildError `connection.bounds`.
        """
        is_right = is_count(size, least=1) and is_count(waiters, least=0) and callable(open)
        if not is_right or not is_number(close_s) or not close_s > 0:
            got = f"{form_of(open)}, size={size!r}, waiters={waiters!r}, close_s={close_s!r}"
            raise BuildError(
                "connection.bounds",
                "connections need room for one, and time to close",
                expected="a function that opens one, size >= 1, waiters >= 0, close_s > 0",
                got=got[:120],
                fix="Connections(connect, size=8, waiters=100, close_s=5.0)",
            )
        self.size = size
        self.opened = 0
        self.reused = 0
        """How often one was taken that somebody had before."""
        self.discarded = 0
        """Closed because nobody knows what is left on them, or `check` or `bind` failed."""
        self._open, self._bind, self._check = open, bind, check
        self._close, self._close_s = close, close_s
        self._waiters_max = waiters
        self._idle: list[OpenConnection] = []
        """Latest last; the latest is taken first, so that the rest can be let go by the server."""
        self._used = 0
        """Places that are taken: connections in use, being opened, or being closed."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def idle(self) -> int:
        """Open connections that nobody has."""
        return len(self._idle)

    @property
    def used(self) -> int:
        """Connections in use, being opened or being closed; with the idle ones at most `size`."""
        return self._used

    def take(self, *, tenant: str | None = None) -> AbstractAsyncContextManager[T]:
        """A connection for the length of an `async with`; waits until one is free.

        What the block is given stands for the connection: its methods are watched, and it can't be
        used after the block. `tenant` is that of the run when it is not given. RunError
        `connection.full`, `connection.closed`, `connection.no_tenant`; `connection.over` when it
        is used after its block.
        """
        return cast("AbstractAsyncContextManager[T]", ConnectionLease(self, tenant))

    async def __aenter__(self) -> Connections[T]:
        self._is_closed = False
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes those that nobody has; one in use is closed when it comes back."""
        self._is_closed = True
        idle, self._idle = self._idle, []
        loop = asyncio.get_running_loop()
        for link in idle:
            if link.loop is loop:
                self._used += 1
                self._discard(link)
        while self._closing:
            await asyncio.wait(self._closing)

    # -- taking and giving back ------------------------------------------------------------------

    async def _taken(self, tenant: str | None) -> OpenConnection:
        if tenant is None and self._bind is not None:
            raise RunError(
                "connection.no_tenant",
                "a connection that is bound to tenants was taken for nobody",
                expected="a stage of a run, or take(tenant=...)",
                fix="take it inside a stage, or say for which tenant: take(tenant='acme')",
            )
        await self._place()
        link: OpenConnection | None = None
        try:
            link = self._reusable()
            if link is None:
                made = self._open()
                link = OpenConnection(await made if inspect.isawaitable(made) else made)
                self.opened += 1
            else:
                self.reused += 1
            if self._bind is not None and link.tenant != tenant:
                link.tenant = None
                bound = self._bind(link.connection, cast(str, tenant))
                if inspect.isawaitable(bound):
                    await bound
            link.tenant = tenant
            return link
        except BaseException:
            # Cut off while it was opened or bound: nobody knows what it would say next.
            if link is None:
                self._leave()
            else:
                self._discard(link)
            raise

    async def _place(self) -> None:
        """Takes one of the places, in order of asking."""
        self._check_open()
        if not self._waiting and self._used < self.size:
            self._used += 1
            return
        if len(self._waiting) >= self._waiters_max:
            raise RunError(
                "connection.full",
                "too many wait for a connection",
                expected=f"at most {self._waiters_max} waiting for {self.size} connections",
                fix="start fewer runs at a time, or Connections(..., size=..., waiters=...)",
            )
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
            self._check_open()
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self._leave()  # served and cancelled at once, or closed meanwhile
            else:
                waiter.cancel()
                with suppress(ValueError):  # it was passed over already
                    self._waiting.remove(waiter)
            raise

    def _leave(self) -> None:
        """A place is free: the first who waits has it."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done() and not waiter.get_loop().is_closed():
                waiter.set_result(None)
                return
        self._used -= 1

    def _reusable(self) -> OpenConnection | None:
        loop = asyncio.get_running_loop()
        while self._idle:
            link = self._idle.pop()
            if link.loop is loop:
                return link
            self.discarded += 1  # of a loop that is over: it can't even be closed
        return None

    async def _given_back(self, link: OpenConnection) -> None:
        """The block ended well and every call was answered."""
        is_good = False
        try:
            is_good = not self._is_closed and await self._is_good(link)
        finally:
            if is_good:
                self._idle.append(link)
                self._leave()
            else:
                self._discard(link)

    async def _is_good(self, link: OpenConnection) -> bool:
        if self._check is None:
            return True
        try:
            said = self._check(link.connection)
            return bool(await said if inspect.isawaitable(said) else said)
        except Exception:  # a check that fails is a connection that does; the stage has its answer
            return False

    def _discard(self, link: OpenConnection) -> None:
        """Closes it, in a task that no run owns; its place is free when that is done. At once:
        a holder that is closed by force has no time to wait."""
        reached("connection_discarded")
        self.discarded += 1
        context = copy_context()
        context.run(RUN.set, None)
        if asyncio._get_running_loop() is not link.loop:  # what is left of a loop that is over
            self._leave()
            return
        task = link.loop.create_task(self._ended(link), context=context)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _ended(self, link: OpenConnection) -> None:
        try:
            with suppress(Exception):  # it is not used again, whatever its end says
                async with asyncio.timeout(self._close_s):
                    ended = _closer(link.connection, self._close)()
                    if inspect.isawaitable(ended):
                        await ended
        finally:
            self._leave()

    def _check_open(self) -> None:
        if self._is_closed:
            raise RunError(
                "connection.closed",
                "these connections were closed",
                expected="connections of a runtime that is open",
                fix="end every run before its runtime is closed",
            )


def _closer(connection: Any, close: Callable[[Any], Any] | None) -> Callable[[], Any]:
    if close is not None:
        return lambda: close(connection)
    for name in ("aclose", "close"):
        found = getattr(connection, name, None)
        if found is not None:
            return cast("Callable[[], Any]", found)
    return lambda: None


class OpenConnection:
    """One open connection."""

    __slots__ = ("connection", "loop", "tenant")

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.loop = asyncio.get_running_loop()
        self.tenant: str | None = None
        """Whose it was last; None when it is bound to nobody."""


class ConnectionLease:
    """One holder's use of a connection."""

    __slots__ = ("_in_flight", "_is_over", "_is_tainted", "_link", "_pool", "_tenant")

    def __init__(self, pool: Connections[Any], tenant: str | None) -> None:
        run = RUN.get()
        self._pool = pool
        self._tenant = run.tenant if tenant is None and run is not None else tenant
        self._link: OpenConnection | None = None
        self._in_flight = 0
        """Calls that have begun and are not answered."""
        self._is_tainted = False
        """True once a call was cut off: an answer may still come."""
        self._is_over = False

    async def __aenter__(self) -> Any:
        assert self._link is None and not self._is_over, "a connection is taken once"
        self._link = await self._pool._taken(self._tenant)
        return _Taken(self, self._link.connection)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over = True
        link, self._link = self._link, None
        assert link is not None, "it was entered"
        if error is not None or self.is_tainted:
            self._pool._discard(link)
        else:
            await self._pool._given_back(link)

    @property
    def is_tainted(self) -> bool:
        """Whether something may still come over the connection that was not for the next holder."""
        return self._is_tainted or self._in_flight > 0

    def check(self) -> None:
        """RunError `connection.over` after the block."""
        if self._link is None:
            raise RunError(
                "connection.over",
                "a connection was used after its block: it is another's by now",
                expected="use inside `async with connections.take()`",
                fix="take one where it is used, and await what uses it before the block ends",
            )

    def begin(self) -> None:
        self.check()
        self._in_flight += 1

    def end(self, error: BaseException | None) -> None:
        """A call is over; by `error` when it was not answered."""
        self._in_flight -= 1
        if error is not None and (not isinstance(error, Exception) or isinstance(error, BROKEN)):
            self._is_tainted = True

    def watched(self, found: Any) -> Any:
        """What a call gave: what goes on over the connection is followed to its end. Values, and
        objects that can neither be entered, awaited nor iterated, are given as they are."""
        if hasattr(found, "__aenter__") and hasattr(found, "__aexit__"):
            kind = _AwaitedScope if inspect.isawaitable(found) else _Scope
            return kind(self, found)
        if hasattr(found, "__anext__"):
            return _items(self, found)
        return _answer(self, found) if inspect.isawaitable(found) else found


async def _answer(lease: ConnectionLease, awaited: Awaitable[Any]) -> Any:
    try:
        lease.begin()
    except RunError:
        if inspect.iscoroutine(awaited):
            awaited.close()  # refused, and not forgotten
        raise
    error: BaseException | None = None
    try:
        return lease.watched(await awaited)
    except BaseException as raised:
        error = raised
        raise
    finally:
        lease.end(error)


async def _items(lease: ConnectionLease, iterator: Any) -> AsyncIterator[Any]:
    """Until it is exhausted the call is not answered: who stops early leaves the rest behind."""
    lease.begin()
    error: BaseException | None = GeneratorExit()
    try:
        async for item in iterator:
            yield item
        error = None
    except BaseException as raised:
        error = raised
        raise
    finally:
        lease.end(error)


class _Taken:
    """Stands for a connection, or for what one of its calls gave, while the block lasts."""

    __slots__ = ("_lease_", "_target_")

    def __init__(self, lease: ConnectionLease, target: Any) -> None:
        object.__setattr__(self, "_lease_", lease)
        object.__setattr__(self, "_target_", target)

    def __getattr__(self, name: str) -> Any:
        self._lease_.check()
        found = getattr(self._target_, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._lease_.check()
            return self._lease_.watched(found(*args, **kwargs))

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        self._lease_.check()
        setattr(self._target_, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._lease_.check()
        return self._lease_.watched(self._target_(*args, **kwargs))

    def __getitem__(self, key: Any) -> Any:
        self._lease_.check()
        return self._target_[key]

    def __aiter__(self) -> Any:
        return _items(self._lease_, aiter(self._target_))

    def __repr__(self) -> str:
        return f"<taken {type(self._target_).__name__}>"


class _Scope(_Taken):
    """A context manager that a call gave: a transaction, a response, a cursor. In flight from its
    enter to its exit."""

    __slots__ = ()

    async def __aenter__(self) -> Any:
        self._lease_.begin()
        try:
            entered = await self._target_.__aenter__()
        except BaseException as error:
            self._lease_.end(error)
            raise
        if entered is self._target_:
            return self
        return entered if isinstance(entered, PLAIN) else _Taken(self._lease_, entered)

    async def __aexit__(self, *raised: Any) -> Any:
        error: BaseException | None = raised[1]
        try:
            return await self._target_.__aexit__(*raised)
        except BaseException as ended:
            error = ended
            raise
        finally:
            self._lease_.end(error)


class _AwaitedScope(_Scope):
    """One that may be awaited instead, as those of aiohttp and asyncpg."""

    __slots__ = ()

    def __await__(self) -> Any:
        return _answer(self._lease_, self._target_).__await__()
