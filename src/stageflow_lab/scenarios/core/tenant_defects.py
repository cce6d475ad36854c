"""What systems of many tenants get wrong, as sabotages of CORE-010."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from stageflow import JournalError, TenantRuntime
from stageflow.model.labels import NONE
from stageflow.runtime import cache, tenancy
from stageflow.runtime.connections import ConnectionLease, Connections, OpenConnection
from stageflow.runtime.deps import DepScopes
from stageflow.runtime.labels import LabelFlow

from ...sabotage import Sabotage, patched, sabotage


@sabotage(metric="foreign_canaries")
def memo_key_without_tenant() -> Iterator[None]:
    """A stage's value is kept under what was asked, whoever asked it."""
    original = cache.key_of

    def key_of(*given: Any) -> Any:
        return original(*given)._replace(tenant="")

    with patched(cache, "key_of", key_of):
        yield


@sabotage(metric="tainted_reused")
def connection_returned_after_cancellation() -> Iterator[None]:
    """A connection whose block was cancelled goes back to the others."""

    def discard(self: Connections[Any], link: OpenConnection) -> None:
        self._idle.append(link)
        self._leave()

    with patched(Connections, "_discard", discard):
        yield


@sabotage(metric="tainted_reused")
def hidden_timeout_unnoticed() -> Iterator[None]:
    """Only a block that ends by an exception gives its connection up: a timeout that the block
    catches leaves no trace."""

    def end(self: ConnectionLease, error: BaseException | None) -> None:
        self._in_flight -= 1

    with patched(ConnectionLease, "end", end):
        yield


@sabotage(metric="foreign_canaries")
def folder_shared_by_tenants() -> Iterator[None]:
    """A dep that each tenant has for itself is opened once, for everybody."""
    original = DepScopes._opened

    async def opened(self: DepScopes, name: str, tenant: str, run: str) -> Any:
        return await original(self, name, "everybody", run)

    with patched(DepScopes, "_opened", opened):
        yield


@sabotage(metric="forged_refused")
def endpoint_without_its_check() -> Iterator[None]:
    """An id is enough: nobody asks whose the run is."""

    async def check(self: TenantRuntime, run: str, endpoint: str) -> None:
        return None

    with patched(TenantRuntime, "_check", check):
        yield


@sabotage(metric="forged_alike")
def foreign_is_forbidden() -> Iterator[None]:
    """A foreign run is refused as forbidden, and so known to exist."""
    original = TenantRuntime._check

    async def check(self: TenantRuntime, run: str, endpoint: str) -> None:
        try:
            await original(self, run, endpoint)
        except JournalError as error:
            try:
                await self._runtime.load(run)
            except JournalError:
                raise error from None
            raise JournalError("journal.other_tenant", "this run is another tenant's") from None

    with patched(TenantRuntime, "_check", check):
        yield


@sabotage(metric="forged_told")
def refusals_untold() -> Iterator[None]:
    """A refused id is answered, and nobody hears of it."""
    with patched(tenancy.Refusals, "add", lambda self, refused: None):
        yield


@sabotage(metric="endpoints_tried")
def endpoint_that_nobody_knows() -> Iterator[None]:
    """A new endpoint that takes an id comes with an argument of its own."""

    async def replay(self: TenantRuntime, run: str, until: int) -> None:
        """Reads without asking whose the run is."""

    setattr(TenantRuntime, "replay", replay)  # noqa: B010  (there is none to patch)
    try:
        yield
    finally:
        delattr(TenantRuntime, "replay")


@sabotage(metric="own_shown")
def nobody_has_anything() -> Iterator[None]:
    """Every run is foreign: tenants are kept apart from their own as well."""

    async def check(self: TenantRuntime, run: str, endpoint: str) -> None:
        raise JournalError("journal.unknown_run", f"no run {run!r} in this journal")

    with patched(TenantRuntime, "_check", check):
        yield


@sabotage(metric="labelled")
def labels_end_at_the_next_stage() -> Iterator[None]:
    """A value has the labels of the inputs and deps of its stage, and none of other stages'."""
    with patched(LabelFlow, "released", lambda self, number: NONE):
        yield


DEFECTS: Final[tuple[Sabotage, ...]] = (
    memo_key_without_tenant,
    connection_returned_after_cancellation,
    hidden_timeout_unnoticed,
    folder_shared_by_tenants,
    endpoint_without_its_check,
    foreign_is_forbidden,
    refusals_untold,
    endpoint_that_nobody_knows,
    nobody_has_anything,
    labels_end_at_the_next_stage,
)


def applied(name: str | None) -> AbstractContextManager[None]:
    """The defect `name` while entered, in a process of the load; nothing for None."""
    by_name = {each.name: each for each in DEFECTS}
    return nullcontext() if name is None else by_name[name].apply()
