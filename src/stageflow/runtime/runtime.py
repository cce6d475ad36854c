"""What outlives one run: the journal, deps, limits, thread and process pools, subscribers."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextvars import copy_context
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from stageflow.graph import Node, Source
from stageflow.journal.journal import ErasesKeys, GroupCommit, Journal
from stageflow.journal.keys import KeyFile, Keys, Unsealed
from stageflow.journal.locks import LockStore
from stageflow.journal.opening import opened, pool_store
from stageflow.journal.pools import PoolStore
from stageflow.journal.store import (
    QUEUED,
    RUNNING,
    SUSPENDED,
    LoadedRun,
    RefusedWrite,
    RunHeader,
    RunSummary,
    TellsLosses,
)
from stageflow.model.dependency import Dependency
from stageflow.model.errors import BuildError, JournalError, RunError, StageflowError
from stageflow.model.identity import Identity
from stageflow.model.ids import RunIds, seed_of
from stageflow.model.labels import NONE, Labels
from stageflow.model.outputs import Happened, LetStand, NotHappened
from stageflow.model.record import UNDO_RUN
from stageflow.model.session import Turn
from stageflow.model.values import Adapter, Freezer
from stageflow.runtime.arguments import check_count, check_pipeline
from stageflow.runtime.cache import ResultCache
from stageflow.runtime.capacity import Pool, SharedPool
from stageflow.runtime.clock import Clock, SystemClock
from stageflow.runtime.dependencies import Dependencies
from stageflow.runtime.deps import DepScopes, in_turn
from stageflow.runtime.driver import Driver
from stageflow.runtime.events import Subscription
from stageflow.runtime.handle import Handle
from stageflow.runtime.heir import Heir
from stageflow.runtime.history import History
from stageflow.runtime.limits import Limits
from stageflow.runtime.lingering import RUN
from stageflow.runtime.locks import WAIT_S, Locks
from stageflow.runtime.locks import opened as opened_locks
from stageflow.runtime.nested import (
    child_run_id,
    fakes_for,
    latest_child,
    taken_back,
    taken_up,
    to_take_back,
)
from stageflow.runtime.outcome import Run
from stageflow.runtime.parts import check_parts
from stageflow.runtime.pools import Pools
from stageflow.runtime.processes import ProcessPool
from stageflow.runtime.questions import answer, going_on
from stageflow.runtime.recovery import recovered
from stageflow.runtime.request import Requests, request_run_id
from stageflow.runtime.sealing import Seals
from stageflow.runtime.sessions import Sessions
from stageflow.runtime.settling import settled, why_not_undoable
from stageflow.runtime.shared_pools import SharedPools
from stageflow.runtime.simulated import is_simulated
from stageflow.runtime.stream import StreamQueue
from stageflow.runtime.submission import result
from stageflow.runtime.tenancy import Refusals, TenantRuntime, checked_name
from stageflow.runtime.threads import ThreadPool
from stageflow.runtime.turn import past_turns
from stageflow.runtime.waiting import Waiting, questions, reopened_for
from stageflow.scheduler import Action

if TYPE_CHECKING:
    from stageflow.runtime.pipeline import Pipeline

T = TypeVar("T")
LOCAL_ROOT = ".stageflow"


class Runtime:
    """Shared by any number of runs and pipelines, and by event loops one after another.

    `journal` is a Journal, the path of a SQLite file, or an address: "sqlite:///runs.db",
    "postgresql://host/database" (docs/postgres.md); None keeps runs in memory only. `deps`
    maps names to factories, `Dep`s, or values; `pools` maps names to how many units `ctx.pool` has
    to give, to the runs of all tenants, to a `Pool` with a limit for each tenant or within another
    pool, or to a `SharedPool` for the runs of several processes, kept in `shared_pools`: an address
    of PostgreSQL or Redis, by default the journal's. Tenants that wait for
    one pool of this runtime, or for threads or processes, are served in the proportion of their
    `weights`, 1 for those not named. `locks` is the path of a SQLite file, an address of
    PostgreSQL, or a LockStore, where it is kept what `ctx.hold` holds; only needed beside a
    journal. `dependencies` bounds what stages with `Retry(dependency=...)` call: how much is
    retried, and when it is left alone. `keys` wraps the keys with which a journal's payloads are
    sealed: `Keys`, the path of a KeyFile, or UNSEALED; by default a file beside a SQLite journal
    (docs/sealing.md). `sealed` says which: those that guards look at, or all. Close it (`async
    with`, or `aclose`) when it holds a journal, deps or shared pools.

    Raises BuildError `runtime.option`, `runtime.journal`, `runtime.limits` and what each part
    raises that is opened.
    """

    def __init__(
        self,
        *,
        journal: Journal | str | Path | None = None,
        deps: Mapping[str, Any] | None = None,
        pools: Mapping[str, int | Pool] | None = None,
        weights: Mapping[str, float] | None = None,
        shared_pools: PoolStore | str | None = None,
        locks: LockStore | str | Path | None = None,
        dependencies: Mapping[str, Dependency] | None = None,
        keys: Keys | Unsealed | str | Path | None = None,
        sealed: Literal["guarded", "all"] = "guarded",
        limits: Limits | None = None,
        events: Iterable[Subscription] = (),
        adapters: Iterable[Adapter[Any]] = (),
        clock: Clock | None = None,
    ) -> None:
        check_parts(
            journal=journal,
            deps=deps,
            pools=pools,
            weights=weights,
            locks=locks,
            dependencies=dependencies,
            keys=keys,
            sealed=sealed,
            limits=limits,
            events=events,
            adapters=adapters,
            clock=clock,
        )
        self.limits = Limits() if limits is None else limits
        self.events = tuple(events)
        self.freezer = Freezer(adapters)
        self.clock: Clock = SystemClock() if clock is None else clock
        # Before anything is opened that a mistake here would leave open.
        self.pools = Pools({} if pools is None else pools, limits=self.limits, weights=weights)
        """What `ctx.pool` gives; `pools.deadlocks` are the last that were found."""
        self.threads = ThreadPool(self.limits.threads, self.pools, self.limits.stuck_threads)
        weakref.finalize(self, self.threads.dismiss).atexit = False
        self.processes = ProcessPool(self.limits.processes, self.pools, self.limits.grace_s)
        self.waits = self.pools.waits
        """Who waits for whom."""
        shared = [name for name, each in (pools or {}).items() if isinstance(each, SharedPool)]
        if shared:
            self.pools.shared = self.waits.shared = SharedPools(
                shared,
                pool_store(journal if shared_pools is None else shared_pools),
                graph=self.waits,
                limits=self.limits,
                new_id=self._new_id,
            )
        self.journal = opened(journal) if isinstance(journal, (str, Path)) else journal
        self.seals = Seals(
            KeyFile(keys) if isinstance(keys, (str, Path)) else keys,
            self.journal,
            everything=sealed == "all",
        )
        """What seals the payloads of runs, and opens them."""
        self.quarantined: list[tuple[str, str]] = []
        """(run, stage) of every stage that ignored its cancellation."""
        self.heirs: dict[str, Heir] = {}
        """Runs that were taken up anew while threads were at work for a driver before."""
        self.active: dict[str, Driver] = {}
        """Runs under way that have a journal or deps, by id: a store can't tell two drivers of one
        process apart, and a run's deps are found by its id."""
        self._taken_up: weakref.WeakValueDictionary[str, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )
        """Locks of runs that are being taken up, so that they are claimed by one task at a time: to
        the store, all tasks of this process are the owner that may claim again."""
        self.sessions = Sessions(self.limits)
        """Whose turn it is in each session."""
        self.locks = Locks(self, opened_locks(locks, is_durable=self.journal is not None))
        """What `ctx.hold` takes."""
        self.dependencies = Dependencies({} if dependencies is None else dependencies)
        """Budgets and circuits of what stages call."""
        self.cache = ResultCache(
            entries_max=self.limits.cache_entries, bytes_max=self.limits.cache_bytes
        )
        """Values of stages with `cache=`, each tenant's for itself."""
        self.refusals = Refusals()
        """Runs that tenants asked for through their handles and have not."""
        self.requests = Requests(self.limits.requests)
        """Keyed runs that are live here."""
        self._ids = RunIds()
        self._simulated_ids: tuple[weakref.ref[asyncio.AbstractEventLoop], RunIds] | None = None
        """Of the last simulated loop: its ids come from its seed alone, not from earlier runs."""
        self._owed: dict[asyncio.Task[None], str] = {}
        """What runs that are over still owe the journal, values that came too late; to the run."""
        self._deps = DepScopes({} if deps is None else deps)
        if isinstance(self.journal, TellsLosses):
            self.journal.when_lost(self._lost)

    @classmethod
    def local(cls, root: str | Path = LOCAL_ROOT, **options: Any) -> Runtime:
        """A runtime with a SQLite journal in `root`, by default `.stageflow/` here."""
        return cls(
            journal=Path(root) / "journal.db",
            **{"locks": Path(root) / "locks.db", **options},
        )

    async def __aenter__(self) -> Runtime:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes deps, processes and the journal. Runs must have ended.

        What can't be closed keeps nothing else open: RunError `runtime.dep_close` and the like are
        raised when all were tried, several as one ExceptionGroup.
        """
        await self.paid()
        self.threads.dismiss()
        closes: list[Callable[[], Awaitable[None]]] = [
            partial(self._deps.close, self.limits.close_s),
            self.processes.close,
        ]
        if self.pools.shared is not None:
            closes.append(self.pools.shared.close)
        closes.append(self.locks.close)
        if self.journal is not None:
            closes.append(self.journal.close)
        await in_turn(closes)

    def tenant(self, name: str) -> TenantRuntime:
        """This runtime as one tenant sees it: for code that serves that tenant. BuildError
        `tenant.name` for a name that is empty, unprintable or longer than 200 characters."""
        return TenantRuntime(self, checked_name(name))

    # -- the journal's runs ------------------------------------------------------------------

    async def runs(self, *, tenant: str | None = None, limit: int = 50) -> list[RunSummary]:
        """The latest runs in the journal, newest first."""
        check_count("limit", limit)
        return await self.needs_journal().runs(tenant=tenant, limit=limit)

    async def load(self, run: str) -> LoadedRun:
        """A run's whole history, its sealed values open as far as their keys are there.

        JournalError `journal.unknown_run`, `seal.wrong_key`, `seal.damaged`, `seal.keys_failed`.
        """
        return await self.seals.opened(await self.needs_journal().load(run))

    async def erase(self, run: str) -> int:
        """Destroys the keys of a run that is over or suspended, and so, for ever, every value of it
        that is sealed; returns how many keys there were.

        What was not sealed stays: see `sealed` of the Runtime. Values of children that guarded
        stages ran are sealed with keys of this run. RunError `run.not_over`.
        """
        async with self.taking_up(run):
            journal = self.needs_journal()
            loaded = await journal.load(run)
            if loaded.status in (RUNNING, QUEUED) or run in self.active:
                raise RunError(
                    "run.not_over",
                    f"run {run} is not over",
                    pipeline=loaded.header.pipeline,
                    expected="a run that has ended or is suspended",
                    got=loaded.status,
                    fix="await it, or cancel it first",
                )
            assert isinstance(journal, ErasesKeys), "a journal that keeps keys erases them"
            return await journal.erase(run)

    async def refused(self, run: str) -> tuple[RefusedWrite, ...]:
        """What processes that had lost the run wrote too late, oldest first.

        Kept by a journal in PostgreSQL; elsewhere only a dead process loses its runs.
        """
        journal = self.needs_journal()
        return await journal.refused(run) if isinstance(journal, GroupCommit) else ()

    async def session(
        self,
        session: str,
        *,
        tenant: str = "default",
        before: int | None = None,
        limit: int = 50,
        pipeline: Pipeline[Any] | None = None,
    ) -> list[Turn]:
        """Turns of a session that ended ok, the latest first, whatever windows they have left.

        `before` gives those with a lower number: page with the last one's. `pipeline` reads the
        turns of pipelines of its name; others are found where their runs say. Without a journal
        there are only those in the last window.
        """
        check_pipeline(pipeline)
        check_count("limit", limit)
        if before is not None:
            check_count("before", before)
        if self.journal is not None:
            plan = None if pipeline is None else pipeline.plan
            return [
                Turn(past)
                for past in await past_turns(
                    self, (tenant, session), before=before, limit=limit, plan=plan
                )
            ]
        line = self.sessions.known(tenant, session)
        kept = [] if line is None else [Turn(past) for past in reversed(line.turns)]
        return [turn for turn in kept if before is None or turn.number < before][:limit]

    async def resume(
        self,
        run: str,
        *,
        pipeline: Pipeline[Any] | None = None,
        rerun: Collection[str] = (),
        events: Sequence[Subscription] = (),
    ) -> Run[Any]:
        """Takes an interrupted or unsuccessful run over and runs it to its end.

        Nodes with a value never run again; attempts that a crash cut off are closed as abandoned
        and, without effects, run again. A WORK stage cut off in its effect suspends the run,
        unless `rerun` names it. A run that ended ok is returned as it is. `pipeline` is needed
        when the run does not know where its pipeline is defined. JournalError: `unknown_run`,
        `run_is_live`, `changed_node`, `no_target`.
        """
        async with self.taking_up(run):
            if run in self.active:
                raise JournalError(
                    "journal.run_is_live",
                    f"run {run!r} is being worked on by this runtime",
                    expected="a run whose owner has ended",
                    got="this process",
                    fix="await its handle, or cancel it first",
                )
            driver, actions = await recovered(
                self, run, pipeline=pipeline, rerun=rerun, events=events
            )
            self.active[run] = driver
        return await driver.execute(actions)

    async def result(
        self, run: str, *, wait_s: float = 0.0, pipeline: Pipeline[Any] | None = None
    ) -> Run[Any]:
        """The account of a run that has ended or is suspended, whoever ran it; changes nothing.

        Waits for it at most `wait_s`, then raises RunError `run.not_over`. `pipeline` is needed
        when the run does not know where its pipeline is defined.
        """
        return await result(self, run, pipeline=pipeline, wait_s=wait_s)

    async def waiting(self, run: str, *, pipeline: Pipeline[Any] | None = None) -> list[Waiting]:
        """The questions of a run that wait for people, with what is shown. Changes nothing."""
        return await questions(self, run, pipeline=pipeline)

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
        """Answers the question of `node` and lets the run go on; await the handle to see its end.

        The answer is durable when this returns.

        `by` says who answered and is kept in the journal. `shown` is the hash of what that person
        saw, from `waiting`: an answer about other content is refused (`run.answer_stale`), as is
        a second one (`run.not_waiting`) and a value that is not of the question's type.
        """
        async with self.taking_up(run):
            driver = self.active.get(run)
            if driver is None:
                driver, actions = await reopened_for(self, run, pipeline=pipeline, events=events)
                try:
                    answered = answer(driver, node, value, by=by, shown=shown)
                except StageflowError:
                    # The claim is on record: leave the run suspended as it was, owned by nobody.
                    await driver.execute(actions)
                    raise
                return await Handle.opened(driver, going_on(actions, answered))
        await driver.answer_live(node, value, by=by, shown=shown)
        return Handle(driver, driver.watch())

    async def clean_read(
        self,
        read: Callable[[], Awaitable[T]],
        /,
        *names: str,
        tenant: str = "default",
        wait_s: float = WAIT_S,
    ) -> T:
        """What `read` gives when no saga of the tenant held any of `names` meanwhile (`ctx.hold`).

        Calls it again until that is so: it must only read. RunError `lock.busy` after `wait_s`.
        """
        return await self.locks.clean_read(tenant, names, read, wait_s=wait_s)

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
        """A person says how a stuck node of a suspended run stands, and the run goes on.

        Of a step whose effect is unknown: Happened(value), or, in a run that is taken back,
        NotHappened(). Of an undo, "STEP.undo", that is stuck: Happened(None) when somebody undid
        it by hand, NotHappened() to have it tried again, LetStand(reason) when the effect stays.
        `by` is kept in the journal. What was said is durable when this returns. RunError
        `run.not_stuck`.
        """
        async with self.taking_up(run):
            return await settled(self, run, node, found, by=by, pipeline=pipeline, events=events)

    async def undo(
        self,
        run: str,
        *,
        pipeline: Pipeline[Any] | None = None,
        events: Sequence[Subscription] = (),
    ) -> Run[Any]:
        """Takes back what a finished or suspended run has done, in reverse order; returns its
        account, `cancelled`, with what was undone.

        A run that took itself back already stays as it is; one past its pivot is suspended. A
        turn of a session, which later turns have seen, and a child, which is its parent's, are
        refused: RunError `run.not_undoable`.
        """
        async with self.taking_up(run):
            seen = await self.load(run)
            why = why_not_undoable(seen, pipeline, is_active=run in self.active)
            if why is not None:
                raise RunError(
                    "run.not_undoable",
                    f"run {run} can't be taken back by itself",
                    pipeline=seen.header.pipeline,
                    expected="a run with undos that is over or suspended, no turn and no child",
                    got=why,
                    fix="cancel a run that goes on; take back a child's parent",
                )
            driver, actions = await recovered(
                self, run, pipeline=pipeline, rerun=(UNDO_RUN,), events=events, seen=seen
            )
            self.active[run] = driver
        return await driver.execute(actions)

    async def cancel(
        self, run: str, *, reason: str = "by_user", pipeline: Pipeline[Any] | None = None
    ) -> Run[Any]:
        """Ends a run of this runtime, or a suspended or queued one, as cancelled."""
        async with self.taking_up(run):
            driver = self.active.get(run)
            if driver is None:
                driver, actions = await reopened_for(
                    self, run, pipeline=pipeline, events=(), statuses=(SUSPENDED, QUEUED)
                )
                cancelled = driver.scheduler.cancel(reason)
                # Nothing is cancelled where the time of a question is over: the run ends for that.
                return await driver.execute(going_on(actions, cancelled) if cancelled else actions)
        driver.cancel(reason)
        return await driver.watch()

    @contextlib.asynccontextmanager
    async def taking_up(self, run: str) -> AsyncIterator[None]:
        """One task at a time takes a run up; who comes next finds it in `active`."""
        lock = self._taken_up.get(run)
        if lock is None:
            lock = self._taken_up[run] = asyncio.Lock()
        async with lock:
            yield

    def _lost(self, run: str) -> None:
        """Another owner has the run; told on a thread of the journal's."""
        driver = self.active.get(run)
        loop = getattr(driver, "loop", None)  # None before the run is opened: it holds no lease yet
        if driver is not None and loop is not None:
            with contextlib.suppress(RuntimeError):  # its loop was closed meanwhile
                loop.call_soon_threadsafe(driver.lose)

    async def taken_up(
        self, claimed: LoadedRun, pipeline: Pipeline[Any], *, events: Sequence[Subscription]
    ) -> tuple[Driver, list[Action]]:
        """A driver for a run that was claimed for this process, and the actions to go on with."""
        run = claimed.header.run
        async with self.taking_up(run):
            driver, actions = await recovered(
                self, run, pipeline=pipeline, rerun=(), events=events, claimed=claimed
            )
            self.active[run] = driver
        return driver, actions

    def expect_heir(self, run: str) -> Heir | None:
        """Who will answer for late values of `run`, which is about to be taken up; None when no
        thread is left that could bring one."""
        if not self.threads.stuck:
            self.heirs.clear()
            return None
        heir = self.heirs[run] = Heir()
        return heir

    def owe(self, run: str, work: Coroutine[Any, Any, None]) -> None:
        """Has `work` done, for a run that is over; `aclose` and its next claim wait for that."""
        context = copy_context()
        context.run(RUN.set, None)  # nothing that a stage left behind, to be ended with its run
        task = asyncio.get_running_loop().create_task(work, context=context)
        self._owed[task] = run
        task.add_done_callback(self._owed.pop)

    async def paid(self, run: str | None = None) -> None:
        """Waits until nothing is owed to the journal of `run`, by default of any run: once one is
        claimed anew, what its former driver still writes is refused there."""
        loop = asyncio.get_running_loop()
        owed = [
            task for task, of in self._owed.items() if run in (None, of) and task.get_loop() is loop
        ]
        if owed:
            await asyncio.wait(owed)

    def needs_journal(self) -> Journal:
        """The journal; BuildError "runtime.no_journal" when runs are kept in memory only."""
        if self.journal is None:
            raise BuildError(
                "runtime.no_journal",
                "this runtime keeps runs in memory only",
                expected="a runtime with a journal",
                fix="Runtime.local(), or Runtime(journal='runs.db')",
            )
        return self.journal

    # -- making drivers ----------------------------------------------------------------------

    def _new_id(self) -> str:
        loop = asyncio._get_running_loop()
        if loop is None or not is_simulated(loop):
            return self._ids()
        if self._simulated_ids is None or self._simulated_ids[0]() is not loop:
            self._simulated_ids = weakref.ref(loop), RunIds(place=b"")
        return self._simulated_ids[1]()

    def begin(
        self,
        pipeline: Pipeline[Any],
        inputs: Mapping[str, Any],
        *,
        stream: StreamQueue | None = None,
    ) -> Driver:
        """A driver for a new run of `pipeline` under its options. InputError for bad inputs."""
        options = pipeline.options
        if options.request_key is not None:
            run = request_run_id(options.tenant, options.request_key)
        else:
            run = options.run_id if options.run_id is not None else self._new_id()
        if options.session is not None or options.request_key is not None:
            self._check_not_within(pipeline, run)
        identity = Identity(
            run=run,
            tenant=options.tenant,
            session=options.session,
            parent=None,
            correlation=options.correlation if options.correlation is not None else run,
        )
        driver = self._driver(
            pipeline,
            identity,
            inputs,
            seed=seed_of(run) if options.seed is None else options.seed,
            events=options.events,
            stream=stream,
            deadline_in_s=options.deadline,
            labels=options.labels,
        )
        if options.session is not None:
            driver.turn = self.sessions.arrive(options.tenant, options.session, options.window)
            if driver.history is not None:
                driver.history.sizes = {}
        return driver

    def _check_not_within(self, pipeline: Pipeline[Any], run: str) -> None:
        """Refuses a run that would wait for the run whose stage starts it."""
        options, kin = pipeline.options, RUN.get()
        within = None if kin is None else kin.driver
        while within is not None and within.runtime is self and not within.is_over:
            whose = within.identity
            same_session = options.session is not None and whose.session == options.session
            if whose.run == run or (same_session and whose.tenant == options.tenant):
                raise RunError(
                    "run.waits_for_itself",
                    f"a stage of run {whose.run} starts a run that would wait until it is over",
                    pipeline=pipeline.name,
                    field="session" if same_session else "request_key",
                    expected="a child run, or one of another session",
                    got="a turn of the session that the stage is part of"
                    if same_session
                    else "the request that the stage works on",
                    fix="ctx.run(pipeline, key=...) starts a child, which belongs to this turn",
                )
            within = within.parent

    async def child(
        self,
        parent: Driver,
        pipeline: Pipeline[Any],
        *,
        node: str,
        key: str,
        inputs: Mapping[str, Any],
        labels: Labels,
        deadline_s: float,
        again: bool,
    ) -> tuple[Driver, list[Action] | None]:
        """A driver for a run that a stage of `parent` starts, and the actions to begin with.

        `again` says that the stage may have started it before: then a journalled one is taken up
        where it stands. JournalError `resume.diverged` when that one had other inputs.
        """
        if self.journal is None:
            run = self._new_id()
        else:
            run, seen = child_run_id(parent.identity.run, node, key), None
            if again:
                run, seen = await latest_child(parent, pipeline, node=node, key=key)
            if seen is not None:
                found = await taken_up(
                    self,
                    parent,
                    pipeline,
                    seen=seen,
                    node=node,
                    inputs=inputs,
                    deadline_s=deadline_s,
                )
                if labels:
                    found[0].flow.run |= labels
                return found
        identity = Identity(
            run=run,
            tenant=parent.identity.tenant,
            session=parent.identity.session,
            parent=parent.identity.run,
            correlation=parent.identity.correlation,
        )
        driver = self._driver(
            pipeline,
            identity,
            inputs,
            parent=parent,
            caller=node,
            seed=seed_of(str(parent.seed), node, key),
            events=parent.events[len(self.events) :],
            depth=parent.depth + 1,
            deadline_s=deadline_s,
            labels=labels,
        )
        driver.session = parent.session
        return driver, None

    async def to_take_back(
        self, parent: Driver, pipeline: Pipeline[Any], *, node: str, key: str
    ) -> tuple[Driver, list[Action]] | None:
        """The journalled child that a stage of `parent` ran, to be undone; None without one."""
        return await to_take_back(parent, pipeline, node=node, key=key)

    def taken_back(self, child: Driver) -> tuple[Driver, list[Action]]:
        """A driver that undoes a child which has ended here and is in no journal."""
        return taken_back(child)

    def _driver(
        self,
        pipeline: Pipeline[Any],
        identity: Identity,
        inputs: Mapping[str, Any],
        *,
        seed: int,
        events: Sequence[Subscription],
        parent: Driver | None = None,
        caller: str | None = None,
        depth: int = 0,
        stream: StreamQueue | None = None,
        deadline_in_s: float | None = None,
        deadline_s: float | None = None,
        labels: Labels = NONE,
    ) -> Driver:
        plan = pipeline.plan
        fakes = fakes_for(identity.run, pipeline, parent)
        if plan.deps:
            real = [name for name in plan.deps if fakes is None or fakes.of(name) is None]
            missing = self._deps.missing(real, plan.name)
            if missing is not None:
                raise missing
        admitted = pipeline.admit_inputs(inputs, self.freezer)
        history = None
        if self.journal is not None:
            pipeline.check_durable()
            header = RunHeader(
                run=identity.run,
                tenant=identity.tenant,
                pipeline=plan.name,
                target=pipeline.target(),
                session=identity.session,
                parent=identity.parent,
                correlation=identity.correlation,
                created_wall_s=self.clock.wall_s(),
                fingerprints={node.name: node.fingerprint for node in plan.nodes},
                seed=seed,
            )
            outer = None if parent is None or parent.history is None else parent.history.seal
            seal = self.seals.new(
                plan,
                header,
                outer=None if outer is None or caller is None else outer.outer_for(caller),
            )
            history = History(self.journal, header, seal=seal)
        driver = Driver(
            self,
            pipeline.program,
            identity=identity,
            inputs=admitted,
            seed=seed,
            history=history,
            depth=depth,
            events=events,
            stream=stream,
            deadline_s=deadline_s,
            deadline_in_s=deadline_in_s,
            priority=pipeline.options.priority,
            labels=labels,
        )
        driver.fakes = fakes
        return driver

    async def open_deps(self, driver: Driver) -> Mapping[str, Any]:
        """The deps that the driver's pipeline declares."""
        identity = driver.identity
        for name in driver.plan.deps:
            fakes = None if driver.fakes is None else driver.fakes.of(name)
            own = self._deps if fakes is None else fakes.own
            if own.labels[name]:
                driver.flow.deps[name] = own.labels[name]
        if driver.fakes is None:
            return await self._deps.open(driver.plan.deps, tenant=identity.tenant, run=identity.run)
        opened: dict[str, Any] = {}
        for name in driver.plan.deps:
            fakes = driver.fakes.of(name)
            deps, run = (self._deps, identity.run) if fakes is None else (fakes.own, fakes.run)
            opened |= await deps.open([name], tenant=identity.tenant, run=run)
        return opened

    async def open_shared_deps(self, pipeline: Pipeline[Any]) -> None:
        """Opens what runs of the pipeline have in common with all others. RunError
        `runtime.dep_open`."""
        await self._deps.open_shared(self.needed_deps(pipeline))

    def needed_deps(self, pipeline: Pipeline[Any]) -> list[str]:
        """What the pipeline declares and does not bring along. InputError `run.missing_dep`."""
        fakes = pipeline.options.fakes
        names = [name for name in pipeline.plan.deps if fakes is None or name not in fakes.given]
        missing = self._deps.missing(names, pipeline.name)
        if missing is not None:
            raise missing
        return names

    def shares_deps(self, driver: Driver, node: Node) -> bool:
        """Whether the deps that `node` takes are those of the tenant's other runs as well."""
        names = [a.ref for a in node.arguments if a.source is Source.DEP]
        return driver.fakes is None and not any(self._deps.is_of_run(name) for name in names)

    async def close_deps(self, driver: Driver) -> None:
        """Closes the deps that lived for this run only."""
        run = driver.identity.run
        if driver.fakes is not None and driver.fakes.run == run:
            await driver.fakes.own.close_run(run, self.limits.close_s)
        await self._deps.close_run(run, self.limits.close_s)
