"""A request with a key of its own: asked again, it is answered by the run it began.

With a journal a keyed run's id follows from its tenant and key, so that the journal itself lets
only one begin. Without one this runtime remembers the key.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from stageflow.journal.store import QUEUED, RUNNING, LoadedRun, Owner
from stageflow.model.errors import JournalError, RunError
from stageflow.model.identity import Identity
from stageflow.model.labels import Labels
from stageflow.model.marks import reached
from stageflow.runtime.driver import Driver
from stageflow.runtime.history import changed_inputs, decode_inputs
from stageflow.runtime.outcome import Run
from stageflow.runtime.recovery import account_of, recovered
from stageflow.runtime.sealing import shredded_inputs
from stageflow.scheduler import Action

if TYPE_CHECKING:
    from stageflow.runtime.pipeline import Pipeline
    from stageflow.runtime.runtime import Runtime

LOOK_AFTER_S = 0.01
"""After this it is looked again whether another process has ended the run: twice as long each time,
up to `LOOK_EVERY_S`."""
LOOK_EVERY_S = 0.5


def request_run_id(tenant: str, key: str) -> str:
    """26 characters, as of every run id; equal for equal arguments."""
    # Lengths first: ("a", "bc") and ("ab", "c") are two requests.
    text = f"request {len(tenant)} {tenant}{key}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).digest()
    return base64.b32hexencode(digest)[:26].decode().lower()


class Requests:
    """The keyed runs that one runtime knows by itself, by run id."""

    def __init__(self, remembered_max: int) -> None:
        self.live: dict[str, Request] = {}
        """Whoever drives the run here, or waits for another process that does."""
        self.ended: OrderedDict[str, tuple[Request, Run[Any]]] = OrderedDict()
        """Without a journal: the latest, at most `remembered_max`."""
        self._remembered_max = remembered_max

    def remember(self, request: Request, run: Run[Any]) -> None:
        """Keeps the account of a run that no journal has."""
        self.ended[request.identity.run] = request, run
        while len(self.ended) > self._remembered_max:
            self.ended.popitem(last=False)


class Request:
    """One call of a keyed run. Stands where a driver stands: executed, cancelled, answered."""

    def __init__(self, runtime: Runtime, pipeline: Pipeline[Any], driver: Driver) -> None:
        self._runtime = runtime
        self._pipeline = pipeline
        self._inputs = driver.inputs
        self._labels = driver.input_labels
        self._deadline_in_s = driver.deadline_in_s
        self._driver = driver
        """Of the run as it was asked for here; then of the one that was taken up."""
        self._first: Request | None = None
        """The live request that this one repeats."""
        self._end: asyncio.Future[Run[Any]] | None = None
        """What those wait for that repeat this one."""
        self._watched: asyncio.Future[Run[Any]] | None = None
        """The account of the run that is driven here, also when this call is cancelled."""
        self._asked: str | None = None
        """Why somebody cancelled it."""
        self._pause: asyncio.Future[None] | None = None
        self.identity: Identity = driver.identity
        self.turn = driver.turn

    async def execute(self, first: list[Action] | None = None) -> Run[Any]:
        """The run that answers the request, whoever runs it. RunError `run.request_changed` when
        the key came with other inputs before; JournalError `journal.run_is_live` when its run does
        not end within this call's deadline."""
        requests, run_id = self._runtime.requests, self.identity.run
        live, ended = requests.live.get(run_id), requests.ended.get(run_id)
        before = live if ended is None else ended[0]
        if before is not None:
            self._step_back()
            self._check_same(
                before.identity.session, before._pipeline.name, before._inputs, before._labels
            )
            reached("request_repeated")
            return await self._followed(before) if ended is None else ended[1]
        self._end = asyncio.get_running_loop().create_future()
        requests.live[run_id] = self
        try:
            run = await self._made()
            self._end.set_result(run)
            if self._runtime.journal is None:
                requests.remember(self, run)
            return run
        except BaseException as error:  # those that repeat the request get it as well
            self._fail(error)
            raise
        finally:
            del requests.live[run_id]

    def cancel(self, reason: str) -> None:
        """Ends the run, when it is driven here; else this request waits no longer."""
        self._asked = reason
        if self._first is not None:
            self._first.cancel(reason)
        elif self._pause is not None:
            self._pause.cancel()
        else:
            self._driver.cancel(reason)

    async def answer_live(self, name: str, value: Any, *, by: str, shown: str | None) -> None:
        """As `Driver.answer_live`."""
        target = self._driver if self._first is None else self._first._driver
        await target.answer_live(name, value, by=by, shown=shown)

    def _step_back(self) -> None:
        """The run that was made for this request will not be driven."""
        if self.turn is not None:
            self.turn.leave()
        if self._driver.stream is not None:
            self._driver.stream.close()

    async def _followed(self, first: Request) -> Run[Any]:
        self._first = first
        if self._asked is not None:
            first.cancel(self._asked)
        assert first._end is not None, "a live request has an end"
        try:
            async with asyncio.timeout(self._deadline_in_s):
                return await asyncio.shield(first._end)
        except TimeoutError:
            raise self._still_live() from None

    def _fail(self, error: BaseException) -> None:
        assert self._end is not None
        ended = self._watched
        if ended is not None and ended.done() and not ended.cancelled():
            self._end.set_result(ended.result())  # only the caller was cancelled
        elif isinstance(error, asyncio.CancelledError):
            self._end.cancel()
        else:
            self._end.set_exception(error)
            self._end.exception()  # it is no fault that nobody waits

    async def _made(self) -> Run[Any]:
        """Runs it as asked for, or takes up the run that the journal has."""
        driver = self._driver
        driver.loop = asyncio.get_running_loop()
        self._watched = driver.watch()
        try:
            return await driver.execute()
        except JournalError as error:
            if error.code != "journal.run_exists":
                raise
        self._watched = None
        reached("request_repeated")
        return await self._taken_up()

    async def _taken_up(self) -> Run[Any]:
        runtime, run_id = self._runtime, self.identity.run
        wait_s = LOOK_AFTER_S
        until_s = None
        loop = asyncio.get_running_loop()
        if self._deadline_in_s is not None:
            until_s = loop.time() + self._deadline_in_s
        while True:
            seen = await runtime.load(run_id)
            self.check_recorded(seen)
            active = runtime.active.get(run_id)
            if active is not None:
                self._driver = active
                return await active.watch()
            if seen.status not in (RUNNING, QUEUED):
                return await account_of(runtime, seen, self._pipeline)
            if seen.owner == Owner.this_process():
                raise self._still_live("another runtime of this process, unless it was cut off")
            try:
                return await self._resumed()
            except JournalError as error:
                if error.code != "journal.run_is_live":
                    raise
            if until_s is not None:
                wait_s = min(wait_s, until_s - loop.time())
            if wait_s <= 0:
                raise self._still_live()
            await self._wait(wait_s)
            wait_s = min(2 * wait_s, LOOK_EVERY_S)

    async def _resumed(self) -> Run[Any]:
        runtime, run_id = self._runtime, self.identity.run
        async with runtime.taking_up(run_id):
            active = runtime.active.get(run_id)
            if active is None:
                events = self._pipeline.options.events
                driver, actions = await recovered(
                    runtime, run_id, pipeline=self._pipeline, rerun=None, events=events
                )
                runtime.active[run_id] = self._driver = driver
                driver.loop = asyncio.get_running_loop()
                self._watched = driver.watch()
                if self._asked is not None:
                    driver.cancel(self._asked)
        if active is not None:
            return await active.watch()
        return await driver.execute(actions)

    async def _wait(self, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._pause = loop.create_future()
        timer = loop.call_later(wait_s, _wake, self._pause)
        try:
            await self._pause
        except asyncio.CancelledError:
            if self._asked is not None and self._pause.cancelled():
                raise self._still_live() from None
            raise
        finally:
            timer.cancel()
            self._pause = None

    # -- checks ------------------------------------------------------------------------------

    def check_recorded(self, seen: LoadedRun) -> None:
        """Raises when the run that the journal has answers another request."""
        header = seen.header
        if header.tenant != self.identity.tenant or header.parent is not None:
            raise JournalError(
                "journal.run_exists",
                "a run has the id that belongs to this request's key; it was left as it is",
                pipeline=self._pipeline.name,
                expected="an id that no run has",
                fix="another request_key; or find who chose that run's id",
            )
        plan = self._pipeline.plan
        known = header.pipeline == plan.name
        inputs = decode_inputs(plan, seen.records[0]) if known else {}
        gone = shredded_inputs(seen.records[0])
        labels = frozenset(seen.records[0].labels)
        self._check_same(header.session, header.pipeline, inputs, labels, gone=gone)

    def _check_same(
        self,
        session: str | None,
        pipeline: str,
        inputs: Mapping[str, Any],
        labels: Labels,
        *,
        gone: Collection[str] = (),
    ) -> None:
        """Raises when the key was used for another request; tells which part, never its value."""
        changed = []
        if pipeline != self._pipeline.name:
            changed = ["pipeline"]
        elif changed_inputs(self._inputs, inputs, gone):
            changed = changed_inputs(self._inputs, inputs, gone)
        elif session != self.identity.session:
            changed = ["session"]
        elif not self._labels <= labels:  # its values do not have the labels asked for
            changed = ["labels"]
        if changed:
            raise RunError(
                "run.request_changed",
                "this request key was used before, for another request",
                pipeline=self._pipeline.name,
                field=changed[0],
                expected="what the key came with first",
                got=f"another value of {', '.join(changed[:8])}",
                fix="a key of its own for each request; the same key only to repeat one",
            )

    def _still_live(self, who: str = "another process") -> JournalError:
        return JournalError(
            "journal.run_is_live",
            f"run {self.identity.run!r}, which answers this request, is being worked on",
            pipeline=self._pipeline.name,
            expected="a run that has ended, or whose owner has",
            got=who,
            fix="ask again later; runtime.resume(run) takes up a run that was cut off here",
        )


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
