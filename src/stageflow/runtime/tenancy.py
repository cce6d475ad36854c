"""A runtime as one tenant sees it: the runs of others are not there.

Whether a run is the tenant's is asked first, before anything waits or is read that depends on the
run: another tenant's run and one that does not exist take the same steps to the same error. Which
of the two it was is nothing that an answer tells, or the time it took; who runs the system looks
the id up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from stageflow.journal.admission import unknown_run
from stageflow.journal.store import LoadedRun, RefusedWrite, RunSummary
from stageflow.model.errors import BuildError
from stageflow.model.marks import reached
from stageflow.model.outputs import Happened, LetStand, NotHappened
from stageflow.model.session import Turn
from stageflow.runtime.events import EventType, Subscription
from stageflow.runtime.handle import Handle
from stageflow.runtime.locks import WAIT_S
from stageflow.runtime.outcome import Run
from stageflow.runtime.waiting import Waiting

if TYPE_CHECKING:  # a runtime makes handles; a pipeline is bound to one
    from stageflow.runtime.pipeline import Pipeline
    from stageflow.runtime.runtime import Runtime

T = TypeVar("T")
NAME_MAX: Final = 200
"""Characters of a tenant's name."""
REFUSALS_KEPT: Final = 1_000
ID_SHOWN: Final = 100
"""Characters of an id that is told; a run's has 26."""


class AccessRefused(NamedTuple):
    """A tenant asked for a run that it has not: another's, or none at all."""

    tenant: str
    """Who asked."""
    endpoint: str
    """The method of the handle."""
    run: str
    """What was asked for, as it was given; its first 100 characters."""
    wall_s: float


class Refusals:
    """What was refused to tenants: the last 1,000, and how many there were."""

    __slots__ = ("count", "last")

    def __init__(self) -> None:
        self.count = 0
        self.last: deque[AccessRefused] = deque(maxlen=REFUSALS_KEPT)
        """The latest last."""

    def add(self, refused: AccessRefused) -> None:
        """Counts one and keeps it."""
        self.count += 1
        self.last.append(refused)


class TenantRuntime:
    """What a runtime has for one tenant; made by `Runtime.tenant`.

    Give this, and not the runtime, to code that serves a tenant. Its methods are the runtime's. A
    run of another tenant is `journal.unknown_run`, as one that does not exist; both are told as
    ACCESS_REFUSED events and kept in `Runtime.refusals`. `pipeline.using(runtime=handle)` runs for
    this tenant, and can't be made to run for another.
    """

    __slots__ = ("_runtime", "name")

    def __init__(self, runtime: Runtime, name: str) -> None:
        self._runtime = runtime
        self.name = name

    def __repr__(self) -> str:
        return f"<runtime of tenant {self.name!r}>"

    async def runs(self, *, limit: int = 50) -> list[RunSummary]:
        """As `Runtime.runs`, of this tenant."""
        return await self._runtime.runs(tenant=self.name, limit=limit)

    async def load(self, run: str) -> LoadedRun:
        """As `Runtime.load`."""
        await self._check(run, "load")
        return await self._runtime.load(run)

    async def refused(self, run: str) -> tuple[RefusedWrite, ...]:
        """As `Runtime.refused`."""
        await self._check(run, "refused")
        return await self._runtime.refused(run)

    async def session(
        self,
        session: str,
        *,
        before: int | None = None,
        limit: int = 50,
        pipeline: Pipeline[Any] | None = None,
    ) -> list[Turn]:
        """As `Runtime.session`: sessions of one name belong to each tenant for itself."""
        return await self._runtime.session(
            session, tenant=self.name, before=before, limit=limit, pipeline=pipeline
        )

    async def resume(
        self,
        run: str,
        *,
        pipeline: Pipeline[Any] | None = None,
        rerun: Collection[str] = (),
        events: Sequence[Subscription] = (),
    ) -> Run[Any]:
        """As `Runtime.resume`."""
        await self._check(run, "resume")
        return await self._runtime.resume(run, pipeline=pipeline, rerun=rerun, events=events)

    async def result(
        self, run: str, *, wait_s: float = 0.0, pipeline: Pipeline[Any] | None = None
    ) -> Run[Any]:
        """As `Runtime.result`."""
        await self._check(run, "result")
        return await self._runtime.result(run, wait_s=wait_s, pipeline=pipeline)

    async def waiting(self, run: str, *, pipeline: Pipeline[Any] | None = None) -> list[Waiting]:
        """As `Runtime.waiting`."""
        await self._check(run, "waiting")
        return await self._runtime.waiting(run, pipeline=pipeline)

    async def signal(
        self,
        run: str,
        node: str,
        value: Any,
        *,
        by: str,
        shown: str | None = None,
        pipeline: Pipeline[Any] | None = None,
        events: Sequence[Subscription] = (),
    ) -> Handle[Any]:
        """As `Runtime.signal`."""
        await self._check(run, "signal")
        return await self._runtime.signal(
            run, node, value, by=by, shown=shown, pipeline=pipeline, events=events
        )

    async def cancel(
        self, run: str, *, reason: str = "by_user", pipeline: Pipeline[Any] | None = None
    ) -> Run[Any]:
        """As `Runtime.cancel`."""
        await self._check(run, "cancel")
        return await self._runtime.cancel(run, reason=reason, pipeline=pipeline)

    async def settle(
        self,
        run: str,
        node: str,
        found: Happened | NotHappened | LetStand,
        *,
        by: str,
        pipeline: Pipeline[Any] | None = None,
        events: Sequence[Subscription] = (),
    ) -> Handle[Any]:
        """As `Runtime.settle`."""
        await self._check(run, "settle")
        return await self._runtime.settle(run, node, found, by=by, pipeline=pipeline, events=events)

    async def undo(
        self,
        run: str,
        *,
        pipeline: Pipeline[Any] | None = None,
        events: Sequence[Subscription] = (),
    ) -> Run[Any]:
        """As `Runtime.undo`."""
        await self._check(run, "undo")
        return await self._runtime.undo(run, pipeline=pipeline, events=events)

    async def erase(self, run: str) -> int:
        """As `Runtime.erase`."""
        await self._check(run, "erase")
        return await self._runtime.erase(run)

    async def clean_read(
        self, read: Callable[[], Awaitable[T]], /, *names: str, wait_s: float = WAIT_S
    ) -> T:
        """As `Runtime.clean_read`, of this tenant's names."""
        return await self._runtime.clean_read(read, *names, tenant=self.name, wait_s=wait_s)

    async def _check(self, run: str, endpoint: str) -> None:
        """Raises `journal.unknown_run` unless the run is this tenant's."""
        runtime = self._runtime
        driver = runtime.active.get(run)
        if driver is not None and driver.tenant == self.name:
            return  # under way; it need not be in the journal yet
        if not await runtime.needs_journal().holds(run, tenant=self.name):
            reached("access_refused")
            shown = str(run)[:ID_SHOWN]  # whoever asks says how long it is
            runtime.refusals.add(AccessRefused(self.name, endpoint, shown, runtime.clock.wall_s()))
            _tell(runtime, self.name, endpoint, shown)
            raise unknown_run(run)


def runtime_of(handle: TenantRuntime) -> Runtime:
    """The runtime behind the handle: for the engine, and nothing that a tenant's code is given."""
    return handle._runtime


def checked_name(name: str) -> str:
    """`name`, when a tenant can be called so. BuildError `tenant.name`."""
    if not isinstance(name, str) or not 0 < len(name) <= NAME_MAX or not name.isprintable():
        raise BuildError(
            "tenant.name",
            "a tenant can't have this name",
            field="tenant",
            expected=f"1 to {NAME_MAX} printable characters",
            got=f"{len(name)} characters" if isinstance(name, str) else type(name).__name__,
            fix="take the tenant's id, as your directory of tenants has it",
        )
    return name


def check_bound(pipeline: str, *, within: str, tenant: str, run_id: str | None) -> None:
    """Refuses options by which a pipeline that is bound to a tenant would leave it."""
    if tenant != within:
        raise BuildError(
            "tenant.bound",
            "this pipeline runs for one tenant",
            pipeline=pipeline,
            field="tenant",
            expected="the tenant of the handle that it was bound to",
            got="another tenant",
            fix="bind the pipeline anew: pipeline.using(runtime=runtime.tenant(...))",
        )
    if run_id is not None:
        raise BuildError(
            "tenant.run_id",
            "runs of a tenant's handle are given their ids",
            pipeline=pipeline,
            field="run_id",
            expected="no run_id: whether an id is taken would tell of the runs of others",
            got="a run_id",
            fix="using(request_key=...), whose keys are each tenant's own; handle.run_id tells ids",
        )


def _tell(runtime: Runtime, tenant: str, endpoint: str, run: str) -> None:
    at_s = asyncio.get_running_loop().time()
    for subscription in runtime.events:
        subscription.push(
            (EventType.ACCESS_REFUSED.value, run, None, 0, at_s, 0.0, "", endpoint, tenant)
        )
