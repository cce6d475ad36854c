"""What users import in their own tests: one stage alone, scripted models, crashes at every record.

Nothing here fakes the framework. Stages and pipelines run in the real runtime, under a real loop
or, where time or crashes matter, in `stageflow.sim`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

from stageflow.graph import Stage
from stageflow.journal.journal import GroupCommit, Journal
from stageflow.journal.keys import BringsKeys, Keys
from stageflow.journal.memory import MemoryStore
from stageflow.journal.store import LoadedRun, RunHeader, RunSummary, SessionTurns
from stageflow.model.record import Record, RecordType
from stageflow.runtime.context import Context
from stageflow.runtime.handle import Handle
from stageflow.runtime.outcome import Run
from stageflow.runtime.pipeline import Pipeline
from stageflow.runtime.runtime import Runtime
from stageflow.scheduler import Scheduler, replay
from stageflow.sim import Sim, simulate
from stageflow.sim.journal import SimJournal

__all__ = [
    "Call",
    "Crash",
    "Script",
    "assert_replays",
    "crash_at_every_record",
    "in_virtual_time",
    "memory_journal",
    "run_stage",
]

P = ParamSpec("P")
T = TypeVar("T")


async def run_stage(
    stage: Stage[P, T],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Runs one stage alone, with its contract, timeout and retries, and returns its value.

    Arguments are what the stage's function takes, but for `ctx`, which is the engine's. Raises
    StageFailed as a run would, with the stage's own exception as its cause. The decision of a
    guard is returned whatever it is.
    """
    names = [p.name for p in stage.parameters if p.annotation is not Context and p.name != "ctx"]
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    # A parameter that is not given keeps its default; one without a default is a build error.
    parameters = tuple(p for p in stage.parameters if p.name in given or not p.has_default)
    alone = replace(
        stage,
        parameters=parameters,
        after=(),
        when=None,
        fallback=None,
        bindings={},
        origin=None,
        of=None,
    )
    pipeline = Pipeline(
        f"{stage.name}_alone",
        [alone],
        inputs=dict.fromkeys(given, Any),
        outputs=[alone],
    )
    run = await pipeline.run(**given)
    value: T = run[alone]
    return value


def in_virtual_time(main: Callable[[], Coroutine[Any, Any, T]], *, seed: int = 0) -> T:
    """Runs `main()` under the simulator's clock: waits of hours take no time, and equal seeds give
    equal runs. Threads and sockets inside are a named error."""

    async def in_simulation(sim: Sim) -> T:
        return await main()

    return simulate(in_simulation, seed=seed).value


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a Script."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class Script:
    """An async callable that answers from a list: a stand-in for a model or a tool.

    Each answer is returned in turn; an exception is raised, a function is called with the call's
    arguments. `calls` records what was asked. A call past the end is an AssertionError.
    """

    def __init__(self, answers: Iterable[Any]) -> None:
        self._answers = list(answers)
        self.calls: list[Call] = []

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The next answer."""
        place = len(self.calls)
        self.calls.append(Call(args, kwargs))
        if place >= len(self._answers):
            raise AssertionError(f"call {place + 1} of a script with {len(self._answers)} answers")
        answer = self._answers[place]
        if isinstance(answer, BaseException):
            raise answer
        if callable(answer):
            answer = answer(*args, **kwargs)
            if inspect.isawaitable(answer):
                answer = await answer
        return answer

    @property
    def is_done(self) -> bool:
        """True when every answer was asked for."""
        return len(self.calls) == len(self._answers)


def memory_journal() -> Journal:
    """A journal that keeps every promise of the durable ones, in memory: it passes the same
    conformance kit (stageflow.journal.conformance)."""
    return GroupCommit(MemoryStore())


async def assert_replays(runtime: Runtime, run: str, *, pipeline: Pipeline[Any]) -> None:
    """Asserts that a run's records are what the scheduler writes when it is fed them again.

    Shows that the run was deterministic and that a recovery would stand where the run stood.
    """
    loaded = await runtime.load(run)
    written = replay(Scheduler(pipeline.program, seed=loaded.header.seed), loaded.records)
    found, expected = _marks(written), _marks(loaded.records)
    assert found == expected, (
        f"run {run} is not replayed: only in the journal {sorted(expected - found)[:5]}, "
        f"only in the replay {sorted(found - expected)[:5]}"
    )


_DECIDED = (RecordType.INTENT, RecordType.OUTCOME, RecordType.ASKED, RecordType.ABANDONED)


def _marks(records: Iterable[Record]) -> set[tuple[str, str, int, int]]:
    """What must be equal: who did what, in which revision and attempt."""
    return {
        (record.type.value, record.node or "", record.revision, record.attempt)
        for record in records
        if record.type in _DECIDED
    }


@dataclass(frozen=True, slots=True)
class Crash:
    """One crash and what came of it."""

    records: int
    """Records that were durable when the process died."""
    run: Run[Any]
    """The run, after another process took it up."""
    history: LoadedRun
    """All of its records."""


def crash_at_every_record(
    pipeline: Pipeline[Any],
    inputs: Mapping[str, Any],
    *,
    seed: int = 0,
    rerun: Sequence[str] = (),
    answers: Mapping[str, Any] | None = None,
    deps: Mapping[str, Any] | None = None,
    before_each: Callable[[], None] | None = None,
) -> list[Crash]:
    """Runs the pipeline once per journal record, kills its process right after that record became
    durable, and takes the run up in another process, all in the simulator.

    `rerun` names WORK nodes whose unknown effects may be repeated. `answers` maps approvals to
    what people answer, before the crash or after it: each once, unless it was not on record yet.
    `before_each` resets what the stages count. Returns one Crash per record; assert on them what
    must hold.
    """
    crashes: list[Crash] = []
    after = 1
    while True:
        if before_each is not None:
            before_each()
        main = functools.partial(
            _crashed,
            pipeline=pipeline,
            inputs=inputs,
            after=after,
            rerun=rerun,
            answers={} if answers is None else answers,
            deps={} if deps is None else deps,
        )
        crash = simulate(main, seed=seed).value
        if crash is None:
            return crashes
        crashes.append(crash)
        after += 1


async def _crashed(
    sim: Sim,
    *,
    pipeline: Pipeline[Any],
    inputs: Mapping[str, Any],
    after: int,
    rerun: Sequence[str],
    answers: Mapping[str, Any],
    deps: Mapping[str, Any],
) -> Crash | None:
    """None when the run has fewer records than `after`."""
    journal = SimJournal(sim)
    dying = _Dying(journal.as_owner("first"), after)
    living = Runtime(journal=dying, clock=sim.clock, deps=deps)
    handle = pipeline.using(runtime=living).start(**inputs)
    dead = asyncio.ensure_future(dying.dead.wait())
    ended = asyncio.ensure_future(_ended(living, handle, pipeline, answers))
    await asyncio.wait([dead, ended], return_when="FIRST_COMPLETED")
    if not dying.dead.is_set():
        dead.cancel()
        ended.result()  # its own error, where it has one
        return None
    journal.kill("first")
    second = journal.as_owner("second")
    runtime = Runtime(journal=second, clock=sim.clock, deps=deps)
    run = await runtime.resume(handle.run_id, pipeline=pipeline)
    if run.status == "suspended" and rerun:
        run = await runtime.resume(handle.run_id, pipeline=pipeline, rerun=rerun)
    run = await _answered(runtime, run, pipeline, answers)
    return Crash(dying.written, run, await second.load(handle.run_id))


async def _ended(
    runtime: Runtime, handle: Handle[Any], pipeline: Pipeline[Any], answers: Mapping[str, Any]
) -> None:
    await _answered(runtime, await handle, pipeline, answers)


async def _answered(
    runtime: Runtime, run: Run[Any], pipeline: Pipeline[Any], answers: Mapping[str, Any]
) -> Run[Any]:
    """The run with every question answered that it puts and that `answers` knows."""
    while run.status == "suspended":
        asked = await runtime.waiting(run.id, pipeline=pipeline)
        known = [question.node for question in asked if question.node in answers]
        if not known:
            break
        handle = await runtime.signal(
            run.id, known[0], answers[known[0]], by="crash_at_every_record", pipeline=pipeline
        )
        run = await handle
    return run


class _Dying:
    """A journal whose process dies once `after` records are durable: no call returns any more."""

    def __init__(self, journal: Journal, after: int) -> None:
        self._journal = journal
        self._after = after
        self.written = 0
        self.dead = asyncio.Event()

    async def create(self, header: RunHeader, records: tuple[Record, ...]) -> int:
        """As the journal's."""
        epoch = await self._journal.create(header, records)
        await self._count(len(records))
        return epoch

    async def append(self, run: str, epoch: int, records: tuple[Record, ...]) -> None:
        """As the journal's, one record at a time, so that a crash can lie between any two."""
        if self.dead.is_set():  # what is left of the dead process must not write
            await self._nothing()
        for record in records:
            await self._journal.append(run, epoch, (record,))
            await self._count(1)

    async def _count(self, records: int) -> None:
        self.written += records
        if self.written >= self._after:
            self.dead.set()
            await self._nothing()

    async def _nothing(self) -> None:
        """Never returns."""
        await asyncio.get_running_loop().create_future()

    async def claim(self, run: str, *, rerun: Sequence[str] | None = None) -> LoadedRun:
        """As the journal's."""
        loaded = await self._journal.claim(run, rerun=rerun)
        await self._count(1)
        return loaded

    def keys(self) -> Keys | None:
        """As the journal's."""
        return self._journal.keys() if isinstance(self._journal, BringsKeys) else None

    async def load(self, run: str) -> LoadedRun:
        """As the journal's."""
        return await self._journal.load(run)

    async def holds(self, run: str, *, tenant: str) -> bool:
        """As the journal's."""
        return await self._journal.holds(run, tenant=tenant)

    async def runs(self, *, tenant: str | None = None, limit: int = 50) -> list[RunSummary]:
        """As the journal's."""
        return await self._journal.runs(tenant=tenant, limit=limit)

    async def turns(
        self, tenant: str, session: str, *, before: int | None = None, limit: int = 50
    ) -> SessionTurns:
        """As the journal's."""
        return await self._journal.turns(tenant, session, before=before, limit=limit)

    async def close(self) -> None:
        """As the journal's."""
        await self._journal.close()
