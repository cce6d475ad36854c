"""Clients, models and settings that stages take by name: opened once a scope, closed in reverse."""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from stageflow.model.errors import BuildError, InputError, RunError, StageflowError, nearest
from stageflow.model.labels import Labels, checked_labels

Scope: TypeAlias = Literal["runtime", "tenant", "run"]


@dataclass(frozen=True, slots=True)
class Dep:
    """How a dep is made. `factory` returns the dep, an awaitable of it, or a context manager
    (async or not) that is entered and, in the end, left; or it yields the dep once, and goes on
    when it is to be closed. It is called without arguments, or with the name of the tenant for
    whom it is made when it has a parameter `tenant`.

    `scope` says how long one lives: as long as the Runtime, the same for one tenant, or one run.
    """

    factory: Any
    scope: Scope = "runtime"
    labels: str | Collection[str] = ()
    """What everything is labelled with that a stage makes which takes the dep."""


@dataclass(frozen=True, slots=True)
class Fakes:
    """Deps that stand for the runtime's in one run and in the runs that it starts.

    A factory's dep is opened once for `run` and closed when that run is over.
    """

    own: DepScopes
    run: str
    outer: Fakes | None = None

    def of(self, name: str) -> Fakes | None:
        """Those that have this dep: a run's own before its parent's; None when nobody has."""
        fakes: Fakes | None = self
        while fakes is not None and name not in fakes.own.given:
            fakes = fakes.outer
        return fakes


def lacking(fake: Any, declared: Any) -> list[str]:
    """What a fake has not, of what the declared type has in public; factories can't be asked.

    A fake need not be of the declared class. Types other than classes ask for nothing.
    """
    asked = declared if inspect.isclass(declared) else typing.get_origin(declared)
    if not inspect.isclass(asked) or isinstance(fake, Dep) or inspect.isroutine(fake):
        return []
    if asked in (fake if inspect.isclass(fake) else type(fake)).__mro__:
        return []
    wanted = [name for name in dir(asked) if not name.startswith("_")]
    if getattr(asked, "_is_protocol", False):
        wanted += [name for name in getattr(asked, "__annotations__", ()) if name not in wanted]
    if "__call__" in vars(asked):
        wanted.append("__call__")
    return [name for name in wanted if not hasattr(fake, name)]


class _Scope:
    """What is open for one run, one tenant or the runtime."""

    __slots__ = ("exits", "locks", "open")

    def __init__(self) -> None:
        self.open: dict[str, Any] = {}
        self.locks: dict[str, asyncio.Lock] = {}
        self.exits: list[tuple[str, AsyncExitStack]] = []
        """What closes each dep, by name, in the order of opening. Each of its own: that one can't
        be closed is nothing that happened to the others."""


class DepScopes:
    """The open deps of one Runtime. Never journalled; opened anew after a restart."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        """Values that are neither a Dep nor a function or class are deps themselves."""
        self._given = {name: _checked(name, _as_dep(name, dep)) for name, dep in given.items()}
        self.given: Mapping[str, Any] = MappingProxyType(self._given)
        """Each name with its Dep."""
        self.labels: Mapping[str, Labels] = {
            name: checked_labels(dep.labels, field="labels") for name, dep in self._given.items()
        }
        self._scopes: dict[tuple[str, str], _Scope] = {}
        """By kind of scope and whose it is, in the order in which they were first used."""

    @classmethod
    def of_run(cls, given: Mapping[str, Any]) -> DepScopes:
        """As DepScopes, but what a factory makes lives for one run, whatever its scope says."""
        made = {name: _as_dep(name, value) for name, value in given.items()}
        return cls({name: replace(dep, scope="run") for name, dep in made.items()})

    def missing(self, names: Iterable[str], pipeline: str) -> InputError | None:
        """What to raise when the runtime lacks a dep that the pipeline declares."""
        for name in names:
            if name not in self._given:
                close = nearest(name, self._given)
                return InputError(
                    "run.missing_dep",
                    f"the pipeline declares dep {name!r}, and the runtime has none",
                    pipeline=pipeline,
                    field=name,
                    expected=f"Runtime(deps={{{name!r}: factory}})",
                    fix=f"did you mean {close!r}?" if close else None,
                )
        return None

    def is_of_run(self, name: str) -> bool:
        """Whether each run has one of its own."""
        return self._given[name].scope == "run"

    async def open(self, names: Iterable[str], *, tenant: str, run: str) -> dict[str, Any]:
        """The deps of one run, opened where they are not yet open, in the declared order. RunError
        `runtime.dep_open`."""
        return {name: await self._opened(name, tenant, run) for name in names}

    async def open_shared(self, names: Iterable[str]) -> None:
        """Opens those of them that live as long as the runtime. RunError `runtime.dep_open`."""
        for name in names:
            if self._given[name].scope == "runtime":
                await self._opened(name, "", "")

    async def close_run(self, run: str, close_s: float) -> None:
        """Closes what lived for this run only. What can't be closed is told to the loop's exception
        handler, which logs it: the run's outcome stands."""
        try:
            await self._close(("run", run), close_s)
        except Exception as error:
            told = {"message": f"deps of run {run} could not be closed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(told)

    async def close(self, close_s: float) -> None:
        """Closes everything, latest first. RunError `runtime.dep_close` once all were tried."""
        await in_turn(
            partial(self._close, place, close_s) for place in list(reversed(self._scopes))
        )

    async def _opened(self, name: str, tenant: str, run: str) -> Any:
        dep = self._given[name]
        place = dep.scope, {"runtime": "", "tenant": tenant, "run": run}[dep.scope]
        scope = self._scopes.get(place)
        if scope is None:
            scope = self._scopes[place] = _Scope()
        # One opening at a time per dep: two runs must not open a shared client twice.
        async with scope.locks.setdefault(name, asyncio.Lock()):
            if name not in scope.open:
                exits = AsyncExitStack()
                scope.open[name] = await _open_one(name, dep, exits, tenant)
                scope.exits.append((name, exits))
            return scope.open[name]

    async def _close(self, place: tuple[str, str], close_s: float) -> None:
        scope = self._scopes.pop(place, None)
        if scope is not None:
            await in_turn(
                partial(_close_one, name, exits, close_s) for name, exits in reversed(scope.exits)
            )


async def _open_one(name: str, dep: Dep, exits: AsyncExitStack, tenant: str) -> Any:
    try:
        return await _enter(dep, exits, tenant)
    except StageflowError:
        raise  # it tells by itself what is wrong
    except Exception as error:
        raise RunError(
            "runtime.dep_open",
            f"dep {name!r} could not be opened",
            field=name,
            expected="a factory that gives the dep",
            got=type(error).__name__,
            fix="see to what the dep needs, and start or resume the run again",
        ) from error


async def _close_one(name: str, exits: AsyncExitStack, close_s: float) -> None:
    try:
        async with asyncio.timeout(close_s):
            await exits.aclose()
    except Exception as error:
        raise RunError(
            "runtime.dep_close",
            f"dep {name!r} could not be closed",
            field=name,
            expected=f"a dep that closes without an error, within {close_s} s",
            got=type(error).__name__,
            fix="look at what it does when it is left, or raise Limits(close_s=...)",
        ) from error


async def in_turn(closes: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Closes one after another, also when one raises; then raises what they did: the one error, or
    an ExceptionGroup of several."""
    errors: list[Exception] = []
    for close in closes:
        try:
            await close()
        except ExceptionGroup as several:
            errors += several.exceptions
        except Exception as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup("several parts of a runtime could not be closed", errors)


async def _enter(dep: Dep, stack: AsyncExitStack, tenant: str) -> Any:
    asks = dep.scope != "runtime" and _tenant_of(dep.factory) is not None
    made = dep.factory(tenant=tenant) if asks else dep.factory()
    if inspect.isawaitable(made):
        made = await made
    if inspect.isasyncgen(made):
        made = asynccontextmanager(lambda: made)()
    elif inspect.isgenerator(made):
        made = contextmanager(lambda: made)()
    if hasattr(made, "__aenter__"):
        return await stack.enter_async_context(made)
    if hasattr(made, "__enter__"):
        return stack.enter_context(made)
    return made


def _tenant_of(factory: Any) -> inspect.Parameter | None:
    """The factory's parameter `tenant`, if it has one."""
    try:
        return inspect.signature(factory).parameters.get("tenant")
    except (TypeError, ValueError):  # a class or function in C that doesn't tell
        return None


def _as_dep(name: str, value: Any) -> Dep:
    if isinstance(value, Dep):
        if value.scope not in ("runtime", "tenant", "run"):
            raise BuildError(
                "runtime.dep_scope",
                f"dep {name!r} has no such scope",
                field=name,
                expected="runtime, tenant or run",
                got=str(value.scope)[:80],
            )
        return value
    if inspect.isroutine(value) or inspect.isclass(value):
        return Dep(value)
    return Dep(lambda: value)


def _checked(name: str, dep: Dep) -> Dep:
    """Refuses a factory that needs a tenant where there is no one tenant."""
    asked = _tenant_of(dep.factory) if dep.scope == "runtime" else None
    if asked is not None and asked.default is asked.empty:
        raise BuildError(
            "runtime.dep_tenant",
            f"dep {name!r} is made for a tenant, and shared by all of them",
            field=name,
            expected="a scope in which there is one tenant",
            got="scope 'runtime'",
            fix=f"Runtime(deps={{{name!r}: Dep(factory, scope='tenant')}})",
        )
    return dep
