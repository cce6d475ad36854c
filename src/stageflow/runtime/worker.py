"""A process that takes runs from the queue: new ones, and those whose owner has ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stageflow.journal.queue import Wanted
from stageflow.journal.store import LoadedRun
from stageflow.model.errors import BuildError, JournalError, StageflowError
from stageflow.model.forms import form_of, is_count, is_number
from stageflow.runtime.driver import Driver
from stageflow.runtime.events import Subscription
from stageflow.runtime.pipeline import Pipeline
from stageflow.runtime.run_options import subscriptions
from stageflow.runtime.runtime import Runtime
from stageflow.runtime.submission import queue_of

AT_ONCE = 8
POLL_S = 0.5
DRAIN_S = 30.0
PAUSE_S, PAUSE_MAX_S = 0.5, 30.0
"""Between two tries to open a dep: doubled each time, up to the most."""
PASSED_OVER_MAX = 10_000
"""Runs that this worker could not go on with and does not take again."""


class Worker:
    """Runs what is queued for `pipelines`, at most `at_once` side by side, until `stop`.

    A pipeline is known by its `module:attr`, as the runs of it are. A mapping of `module:attr` to
    pipelines gives them other names. Several workers, on several machines, share one queue; each
    run is taken by one. A run whose owner has ended is taken up where it stood, unless it had more
    than `Limits.owners` owners.
    """

    def __init__(
        self,
        runtime: Runtime,
        pipelines: Iterable[Pipeline[Any]] | Mapping[str, Pipeline[Any]],
        *,
        at_once: int = AT_ONCE,
        poll_s: float = POLL_S,
        drain_s: float = DRAIN_S,
        events: Sequence[Subscription] = (),
    ) -> None:
        """`poll_s`: how often an idle worker looks. `drain_s`: how long `stop` lets runs go on.
        `events` are told what happens in the runs. BuildError `worker.bounds`,
        `worker.pipelines`, InputError `run.missing_dep`."""
        is_right = is_count(at_once, least=1) and is_number(poll_s) and is_number(drain_s)
        if not is_right or not poll_s > 0 or not drain_s >= 0:
            raise BuildError(
                "worker.bounds",
                "a worker needs room for a run, and times that are not negative",
                expected="at_once >= 1, poll_s > 0, drain_s >= 0",
                got=f"at_once={at_once!r}, poll_s={poll_s!r}, drain_s={drain_s!r}"[:120],
                fix="Worker(runtime, [pipeline], at_once=8, poll_s=0.5, drain_s=30.0)",
            )
        self.runtime = runtime
        self.pipelines = _checked(pipelines)
        for pipeline in self.pipelines.values():
            runtime.needed_deps(pipeline)
        self.done = 0
        """Runs that ended here, however."""
        self._queue = queue_of(runtime)
        self._at_once = at_once
        self._poll_s = poll_s
        self._drain_s = drain_s
        self._events = subscriptions(None, events) or ()
        self._tasks: dict[asyncio.Task[None], Driver] = {}
        self._to_release: dict[str, int] = {}
        """Runs that ended without an end, and their epochs: the database was away, perhaps."""
        self._passed_over: dict[str, None] = {}
        self._ready: set[str] = set()
        """Targets whose shared deps are open; runs of others are not taken."""
        self._openings: set[asyncio.Task[None]] = set()
        self._paused: dict[str, tuple[float, float]] = {}
        """Runs that could not have a dep of their own or their tenant's: when they are taken again,
        on the loop's clock, and how long that was."""
        self._stopping: asyncio.Event | None = None
        self._is_stopped = False

    @property
    def running(self) -> int:
        """Runs that are driven here now."""
        return len(self._tasks)

    def stop(self) -> None:
        """Takes no further run; `run` returns once those here have ended or were let go."""
        self._is_stopped = True
        if self._stopping is not None:
            self._stopping.set()

    async def run(self) -> None:
        """Works until `stop`. A journal that is away is waited for; other errors of it raise."""
        self._stopping = asyncio.Event()
        if self._is_stopped:
            self._stopping.set()
        stopping = asyncio.ensure_future(self._stopping.wait())
        for target in self.pipelines:
            opening = asyncio.create_task(self._open(target))
            self._openings.add(opening)
            opening.add_done_callback(self._openings.discard)
        try:
            while not self._stopping.is_set():
                taken = await self._take()
                if not taken:
                    await asyncio.wait(
                        [stopping, *self._tasks, *self._openings],
                        timeout=self._poll_s,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
        finally:
            stopping.cancel()
            for opening in self._openings:
                opening.cancel()
            await self._drain()

    async def _open(self, target: str) -> None:
        """Makes ready what runs of `target` share: a run is taken when it can be driven. While a
        dep can't be opened, its runs wait in the queue, and nobody's claim is used up."""
        pause_s = PAUSE_S
        while True:
            try:
                await self.runtime.open_shared_deps(self.pipelines[target])
            except Exception as error:
                _tell(f"runs of {target} wait: this worker lacks a dep", error)
            else:
                self._ready.add(target)
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    async def _take(self) -> bool:
        """Takes one run, when there is room and one is there."""
        if len(self._tasks) >= self._at_once or not self._ready:
            return False
        now_s = asyncio.get_running_loop().time()
        paused = [run for run, (until_s, _) in self._paused.items() if until_s > now_s]
        wanted = Wanted(
            tuple(self._ready), self.runtime.limits.owners, (*self._passed_over, *paused)
        )
        try:
            await self._release()
            loaded = await self._queue.take(wanted)
        except JournalError as error:
            if error.code != "journal.unreachable":
                raise
            return False
        if loaded is None:
            return False
        await self._begin(loaded)
        return True

    async def _begin(self, loaded: LoadedRun) -> None:
        run = loaded.header.run
        assert loaded.header.target is not None, "only runs with a target are wanted"
        try:
            driver, actions = await self.runtime.taken_up(
                loaded, self.pipelines[loaded.header.target], events=self._events
            )
        except StageflowError as error:
            # Another worker, with another version of the pipeline, may go on with it.
            self._pass_over(run, loaded.epoch, error)
            return
        task = asyncio.create_task(self._drive(driver, actions))
        self._tasks[task] = driver
        task.add_done_callback(self._tasks.pop)

    async def _drive(self, driver: Driver, actions: list[Any]) -> None:
        try:
            await driver.execute(actions)
        except Exception as error:
            if isinstance(error, JournalError) and error.code == "journal.stale_owner":
                pass  # it is another's
            elif driver.plan.deps and not driver.deps:
                self._pause(driver.identity.run, driver.bag.epoch, error)
            elif isinstance(error, JournalError):
                self._to_release[driver.identity.run] = driver.bag.epoch
            else:  # a fault of the engine: the worker's other runs go on
                self._pass_over(driver.identity.run, driver.bag.epoch, error)
        else:
            self._paused.pop(driver.identity.run, None)
        self.done += 1

    def _pause(self, run: str, epoch: int, error: Exception) -> None:
        """It could not have a dep, and is nobody's again; also when its driver could not say so."""
        self._to_release[run] = epoch
        _, pause_s = self._paused.pop(run, (0.0, PAUSE_S / 2))
        pause_s = min(2 * pause_s, PAUSE_MAX_S)
        while len(self._paused) >= PASSED_OVER_MAX:
            self._paused.pop(next(iter(self._paused)))
        self._paused[run] = asyncio.get_running_loop().time() + pause_s, pause_s
        _tell(f"run {run} waits: it can't have a dep", error)

    def _pass_over(self, run: str, epoch: int, error: Exception) -> None:
        if len(self._passed_over) < PASSED_OVER_MAX:
            self._passed_over[run] = None
        self._to_release[run] = epoch
        _tell(f"this worker can't go on with run {run}", error)

    async def _release(self) -> None:
        while self._to_release:
            run, epoch = next(iter(self._to_release.items()))
            await self._queue.release(run, epoch)
            self._to_release.pop(run, None)

    async def _drain(self) -> None:
        """Lets runs end for a while, and lets go of those that have not: others go on with them."""
        tasks = list(self._tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=self._drain_s)
        for driver in self._tasks.values():
            driver.let_go()
        if left := list(self._tasks):
            await asyncio.wait(left)
        with contextlib.suppress(JournalError):  # then their lease expires
            await self._release()


def _tell(message: str, error: Exception) -> None:
    told = {"message": message, "exception": error}
    asyncio.get_running_loop().call_exception_handler(told)


def _checked(
    pipelines: Iterable[Pipeline[Any]] | Mapping[str, Pipeline[Any]],
) -> dict[str, Pipeline[Any]]:
    """By their names. BuildError `worker.pipelines` for what is none, or for none at all."""
    given: list[Any] = [pipelines]
    if isinstance(pipelines, Mapping):
        given = list(pipelines.values())
    elif isinstance(pipelines, Iterable):
        given = list(pipelines)
    wrong = [each for each in given if not isinstance(each, Pipeline)]
    if wrong or not given or isinstance(pipelines, Pipeline):
        raise BuildError(
            "worker.pipelines",
            "a worker has no list of pipelines to run",
            field="pipelines",
            expected="pipelines, at least one, or a dict of 'module:attr' to pipelines",
            got=form_of(wrong[0]) if wrong else form_of(pipelines),
            fix="Worker(runtime, [pipeline])",
        )
    return dict(pipelines) if isinstance(pipelines, Mapping) else _named(given)


def _named(pipelines: Iterable[Pipeline[Any]]) -> dict[str, Pipeline[Any]]:
    named = {}
    for pipeline in pipelines:
        target = pipeline.target()
        if target is None:
            raise JournalError(
                "queue.no_target",
                "a worker's pipeline has no name by which runs know it",
                pipeline=pipeline.name,
                expected="a pipeline at the top of a module, or using(target='module:attr')",
                fix="Worker(runtime, {'module:attr': pipeline})",
            )
        named[target] = pipeline
    return named
