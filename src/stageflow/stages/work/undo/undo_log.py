"""The undo log as stages and people use it: resources, a store, and a timeline for each thing."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from stageflow.journal.keys import Keys, check_installed
from stageflow.model.errors import BuildError, EffectError, nearest
from stageflow.model.forms import form_of, is_address, is_number, scheme_of
from stageflow.runtime.context import Context
from stageflow.stages.work.holders import Holders, ProcessHolders
from stageflow.stages.work.undo.log import Restored
from stageflow.stages.work.undo.resource import Resource
from stageflow.stages.work.undo.sqlite import SQLiteUndo
from stageflow.stages.work.undo.store import TimelineHead, UndoStore
from stageflow.stages.work.undo.timeline import Timeline

IDLE_S = 30 * 86_400.0
UNDO_SUFFIX = ".undo"
"""Of the node that takes a step back, as the scheduler names it."""


@dataclass(frozen=True, slots=True)
class UndoRules:
    """How long things take and are waited for.

    `lease_s`: who has the turn in a timeline and has not been heard of for so long is gone, unless
    it is known sooner. `act_s`: how long one read or write of a resource may take; less than half
    the lease. `wait_s`: how long a turn is waited for. `skew_s`: how far the clocks of processes
    that share a store may be apart.

    Raises BuildError `undo.rules` for times that don't fit together.
    """

    lease_s: float = 60.0
    act_s: float = 20.0
    wait_s: float = 30.0
    skew_s: float = 10.0

    def __post_init__(self) -> None:
        times = (self.lease_s, self.act_s, self.wait_s, self.skew_s)
        is_right = all(is_number(each) and each >= 0 for each in times)
        if not (is_right and 0 < self.act_s < self.lease_s / 2):
            raise BuildError(
                "undo.rules",
                "the times of an undo log do not fit together",
                field="rules",
                expected="seconds, none below 0, and 0 < act_s < lease_s / 2",
                got=", ".join(str(each)[:20] for each in times),
                fix="UndoRules(lease_s=60.0, act_s=20.0, wait_s=30.0, skew_s=10.0)",
            )


class UndoLog:
    """Shared by any number of stages, runs and pipelines; by processes, where its store is.

    `store` is the path of a SQLite file (which may be your own database), a `postgresql://`
    address, or an UndoStore; `resources` are what it can put back, each under its own name. Give it
    to the runtime as a dep named `undo`, which closes it in the end. With `keys`, a `KeyFile` or
    whatever speaks to a key service, what it appends is sealed. Raises BuildError `undo.resources`
    for two resources of one name, `undo.address`, `seal.missing_package`; EffectError
    `undo.missing_extra`.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | UndoStore,
        *resources: Resource,
        rules: UndoRules | None = None,
        holders: Holders | None = None,
        keys: Keys | None = None,
    ) -> None:
        _check_names(resources)
        self.store = _opened(store)
        self.resources = {resource.name: resource for resource in resources}
        self.rules = _checked(rules)
        self.holders: Holders = ProcessHolders() if holders is None else holders
        self.keys = keys
        if keys is not None:
            check_installed()

    async def __aenter__(self) -> UndoLog:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the store; resources are whose they are."""
        await self.store.close()

    def timeline(self, name: str, *, by: str, tenant: str = "default") -> Timeline:
        """What is changed together, and taken back together: a document, a conversation, a run.

        `by` says in the log who changes. Timelines of different tenants are different ones.
        """
        return Timeline(self, json.dumps([tenant, name]), by=by)

    def of(self, ctx: Context) -> Timeline:
        """The timeline of a run, as one of its stages uses it.

        When the stage is executed again, after a crash or by a retry, what it does here is known
        again by its order and not done twice, so it may be `@work(keyed=True)`. A guard loop's next
        revision makes changes of its own.
        """
        identity = ctx.identity
        prefix = f"{ctx.node}#{ctx.revision}"
        return Timeline(
            self,
            _run_name(identity.tenant, identity.run),
            by=ctx.node,
            next_op=lambda: f"{prefix}/{ctx.number('undo')}",
        )

    def of_run(self, run: str, *, by: str, tenant: str = "default") -> Timeline:
        """The timeline of a run, as a person or another program uses it."""
        return Timeline(self, _run_name(tenant, run), by=by)

    async def timelines(self, count: int = 100) -> tuple[TimelineSummary, ...]:
        """Those that hold something, the one used last first."""
        return tuple(_summary(name, head) for name, head in await self.store.latest(count))

    async def recover(self) -> tuple[Restored, ...]:
        """Finishes what dead processes left half done, in all timelines; undos that it ended.

        A timeline that is used again is recovered by itself; this is for a program's start. One
        that can't be recovered keeps none of the others waiting: what it raised, the first of them,
        is raised when all were tried.
        """
        found, errors = [], []
        for name in await self.store.unfinished():
            try:
                restored = await Timeline(self, name, by="recovery").recover()
            except Exception as error:  # a resource's own, too
                errors.append(error)
            else:
                found += [] if restored is None else [restored]
        if len(errors) > 1:
            errors[0].add_note(f"{len(errors) - 1} more timelines could not be recovered")
        if errors:
            raise errors[0]
        return tuple(found)

    async def sweep(self, idle_s: float = IDLE_S) -> int:
        """Erases timelines in which nothing was done for so many seconds; how many.

        By the store's clock; 30 days unless said otherwise. One that somebody is using, or that
        was cut off and not recovered, is left.
        """
        erased = 0
        for name in await self.store.idle(idle_s):
            try:
                erased += await Timeline(self, name, by="sweep").erase_if_idle(idle_s)
            except EffectError as error:
                if error.code != "undo.busy":
                    raise
        return erased

    def resource(self, name: str) -> Resource:
        """EffectError `undo.unknown_resource` when the log has none of that name."""
        try:
            return self.resources[name]
        except KeyError:
            close = nearest(name, self.resources)
            raise EffectError(
                "undo.unknown_resource",
                f"this undo log has no resource {name!r}",
                expected=f"one of {', '.join(map(repr, self.resources))}"[:200],
                fix=f"did you mean {close!r}?"
                if close
                else "UndoLog('undo.db', Rows(...), Files(...)): all that its timelines change",
            ) from None


@dataclass(frozen=True, slots=True)
class TimelineSummary:
    """What the log tells of a timeline without reading it."""

    tenant: str
    name: str
    """"" of a run's timeline."""
    run: str
    """"" of one that has a name."""
    used_s: float
    """When a record was last added, by the store's clock, since the epoch."""
    is_unfinished: bool
    """Whether a step or an undo is open: being made, or cut off."""


async def put_back(ctx: Context, undo: UndoLog) -> None:
    """The undo of a step that changes things by `undo.of(ctx)`: `@work(undo=put_back)`.

    Takes back all that the step has changed. EffectError `undo.conflict` when somebody else has
    changed some of it since; that is left as it is, and the rest is taken back. EffectError
    `undo.kept` when the step did what nobody can take back: a person says that it stands.
    """
    restored = await undo.of(ctx).put_back(ctx.node.removesuffix(UNDO_SUFFIX))
    if restored.kept and not restored.conflicts:
        raise EffectError(
            "undo.kept",
            f"step {restored.kept[0]} of the timeline is an act that nobody can take back",
            expected="a step of the run that only changes what can be put back",
            fix="settle the undo with LetStand(...), or make such a step the pivot of its run",
        )
    if not restored.conflicts:
        return
    first = restored.conflicts[0]
    raise EffectError(
        "undo.conflict",
        f"{len(restored.conflicts)} of the changes can't be taken back: step {first.step}, "
        f"{first.key!r} of {first.resource!r}, {first.why}",
        expected="what the step left there",
        fix="look at what is there now; then settle the undo: Happened(None) or LetStand(...)",
    )


def _opened(store: str | os.PathLike[str] | UndoStore) -> UndoStore:
    if not isinstance(store, (str, os.PathLike)):
        if not hasattr(store, "unfinished"):
            raise _unknown(form_of(store))
        return store
    if isinstance(store, os.PathLike) or (store and not is_address(store)):
        return SQLiteUndo(Path(store))
    if store.startswith(("postgresql://", "postgres://")):
        from stageflow.stages.work.undo.postgres import PostgresUndo  # needs an extra

        return PostgresUndo(store)
    raise _unknown(f"{scheme_of(store)}..." if store else form_of(store))


def _unknown(got: str) -> BuildError:
    return BuildError(
        "undo.address",
        "this address of an undo log is not known",
        field="store",
        expected="the path of a SQLite file, postgresql://..., or an UndoStore",
        got=got,
        fix="UndoLog('undo.db', ...)",
    )


def _checked(rules: UndoRules | None) -> UndoRules:
    if rules is None:
        return UndoRules()
    if not isinstance(rules, UndoRules):
        raise BuildError(
            "undo.rules",
            "the rules of an undo log are UndoRules",
            field="rules",
            expected="UndoRules",
            got=type(rules).__name__,
            fix="UndoLog('undo.db', rules=UndoRules(lease_s=60.0))",
        )
    return rules


def _run_name(tenant: str, run: str) -> str:
    return json.dumps([tenant, "run", run])


def _summary(name: str, head: TimelineHead) -> TimelineSummary:
    tenant, *rest = json.loads(name)
    names, run = (rest[0], "") if len(rest) == 1 else ("", rest[1])
    return TimelineSummary(tenant, names, run, head.used_s, head.is_unfinished)


def _check_names(resources: Sequence[Resource]) -> None:
    for each in resources:
        if not all(hasattr(each, part) for part in ("name", "read", "write")):
            raise BuildError(
                "undo.resources",
                "an undo log was given something that is no resource",
                field="resources",
                expected="Rows, PostgresRows, Files, WebResources, or a Resource of your own",
                got=form_of(each),
                fix="UndoLog('undo.db', Files('notes'), Rows('shop.db', 'orders'))",
            )
    names = [resource.name for resource in resources]
    twice = sorted({name for name in names if names.count(name) > 1 or not name})
    if twice:
        raise BuildError(
            "undo.resources",
            f"an undo log can't tell resources named {twice[0]!r} apart",
            field="resources",
            expected="one name for each, and none empty",
            fix="Rows('shop.db', 'orders', name='orders of the shop')",
        )
